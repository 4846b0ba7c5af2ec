"""The memory of request bodies is bounded in all and per caller (R11)."""

import json
import socket
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

import anyio
import httpx
import pytest

from bamboo_gateway.api import body_memory
from bamboo_gateway.api.body_memory import BodyMemory, BodyReservation
from bamboo_gateway.api.limits import BODY_BYTES_FREE
from bamboo_gateway.domain.errors import LimitReached, Unavailable
from bamboo_gateway.server import http1
from bamboo_gateway.settings import Settings
from tests.api.serving import Served, refused
from tests.api.users import serving_users, user
from tests.faults.wire import drip, hanging, metric, rest_of
from tests.support.waiting import until

LARGE = 300_000
SHARE = 2 * LARGE
ALL = 3 * LARGE


@pytest.fixture
def served(monkeypatch: pytest.MonkeyPatch) -> Iterator[Served]:
    """A gateway with room for three large bodies, and for two of one caller.

    Bodies may stand still and wait for as long as a slow machine takes; tests of that say less.
    """
    monkeypatch.setattr(http1, "BODY_WINDOW_SECONDS", 600)
    monkeypatch.setattr(body_memory, "BODY_WAIT_SECONDS_MAX", 600)
    with serving_users(
        max_body_bytes=LARGE,
        max_body_memory_bytes_per_caller=SHARE,
        max_body_memory_bytes=ALL,
        max_event_bytes=2 * LARGE,
    ) as running:
        with user(running, "alice") as api:
            api.post("/sessions", json={"id": "s"})
        yield running


def message(size: int) -> bytes:
    """Return a message whose JSON has `size` bytes."""
    empty = json.dumps({"role": "user", "content": ""})
    return json.dumps({"role": "user", "content": "x" * (size - len(empty))}).encode()


def head(name: str, framing: str, path: str = "/sessions/s/messages", kind: str = "json") -> bytes:
    return (
        f"POST /api/v1{path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n"
        f"Content-Type: application/{kind}\r\nx-test-user: {name}\r\n{framing}\r\n\r\n"
    ).encode()


@contextmanager
def begun(served: Served, name: str, size: int = LARGE) -> Iterator[socket.socket]:
    """Make a user send a body without its last byte, `b"}"`."""
    start = head(name, f"Content-Length: {size}") + message(size)[:-1]
    with hanging(served.port, start) as sock:
        yield sock


def memory(served: Served) -> BodyMemory:
    found: BodyMemory = served.app.state.body_memory
    return found


def held(served: Served, size: int) -> None:
    until(lambda: memory(served).held == size, f"{size} bytes are held")


def waiting(served: Served, count: int) -> None:
    until(lambda: memory(served).measures()["bodies_waiting"] == count, f"{count} wait")


def say(api: httpx.Client, size: int) -> httpx.Response:
    kind = {"Content-Type": "application/json"}
    return api.post("/sessions/s/messages", content=message(size), headers=kind)


@contextmanager
def patience(seconds: float) -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(body_memory, "BODY_WAIT_SECONDS_MAX", seconds)
        yield


def test_a_caller_over_its_share_of_body_memory_waits_and_others_do_not(served: Served) -> None:
    with ExitStack() as stack:
        first, _second = (stack.enter_context(begun(served, "alice")) for _ in range(2))
        held(served, SHARE)
        third = stack.enter_context(begun(served, "alice"))
        waiting(served, 1)
        with user(served, "bob") as api:
            api.post("/sessions", json={"id": "bobs"})
            kind = {"Content-Type": "application/json"}
            path = "/sessions/bobs/messages"
            assert api.post(path, content=message(LARGE), headers=kind).status_code == 201
        with user(served, "alice") as api:
            # What people say is small, and waits for nobody.
            assert say(api, BODY_BYTES_FREE).status_code == 201
        with served.client() as api:
            assert metric(api, "body_bytes_held") == SHARE
            assert metric(api, "bodies_waiting") == 1
        first.sendall(b"}")
        assert rest_of(first).startswith(b"HTTP/1.1 201")
        waiting(served, 0)
        third.sendall(b"}")
        assert rest_of(third).startswith(b"HTTP/1.1 201")
    held(served, 0)


def test_waiting_too_long_for_the_callers_share_is_429(served: Served) -> None:
    with begun(served, "alice"), begun(served, "alice"):
        held(served, SHARE)
        with patience(0.05), user(served, "alice") as api:
            answer = say(api, LARGE)
            problem = refused(answer, 429, "limit-reached")
            assert "max_body_memory_bytes_per_caller" in problem["detail"]
            assert problem["retryable"]
        held(served, SHARE)
        waiting(served, 0)
    held(served, 0)


def test_waiting_too_long_for_the_whole_budget_is_503(served: Served) -> None:
    with begun(served, "alice"), begun(served, "alice"), begun(served, "bob"):
        held(served, ALL)
        with patience(0.05), user(served, "carol") as api:
            problem = refused(say(api, LARGE), 503, "unavailable")
            assert "(max_body_memory_bytes)" in problem["detail"]
            assert say(api, BODY_BYTES_FREE).status_code == 404  # looked at: it is not carol's
    held(served, 0)


def test_without_credentials_an_address_has_a_share(served: Served) -> None:
    start = head("x", f"Content-Length: {LARGE}").replace(b"x-test-user: x\r\n", b"")
    body = message(LARGE)[:-1]
    with hanging(served.port, start + body), hanging(served.port, start + body):
        held(served, SHARE)
        with patience(0.05), served.client() as api:
            refused(say(api, LARGE), 429, "limit-reached")
    held(served, 0)


def test_every_end_of_a_request_frees_its_reservation(served: Served) -> None:
    with user(served, "alice") as api:
        assert say(api, LARGE).status_code == 201
        assert say(api, LARGE + 1).status_code == 413
        kind = {"Content-Type": "application/json"}
        for path, body, status in [
            ("/sessions/s/messages", b"x" * LARGE, 400),
            ("/sessions/s/messages", b'"' + b"x" * (LARGE - 2) + b'"', 422),
            ("/sessions/none/messages", message(LARGE), 404),
            ("/sessions/s/none", message(LARGE), 404),
            ("/import", message(LARGE), 422),
        ]:
            assert api.post(path, content=body, headers=kind).status_code == status
        answer = api.post("/sessions/s/messages", content=message(LARGE))
        assert answer.status_code == 415
    with begun(served, "alice"):
        held(served, LARGE)
    held(served, 0)  # the client left


def test_a_body_of_unknown_size_is_refused_when_there_is_no_room_for_more_of_it(
    served: Served,
) -> None:
    framing = "Transfer-Encoding: chunked"
    piece = b"%x\r\n%b\r\n" % (100_000, b" " * 100_000)
    with hanging(served.port, head("alice", framing) + piece) as sock:
        until(lambda: memory(served).held >= 100_000, "it is counted as it comes")
        assert memory(served).held < LARGE
        with begun(served, "alice"):
            until(lambda: memory(served).held >= LARGE + 100_000, "the other has its room")
            with begun(served, "alice", LARGE - 100_000):
                until(lambda: memory(served).held == SHARE, "the share is full")
                sock.sendall(piece)
                assert b'"code":"limit-reached"' in rest_of(sock)
    held(served, 0)


def test_requests_beyond_the_waiting_limit_are_refused_at_once(
    served: Served, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(body_memory, "BODIES_WAITING_MAX_PER_CALLER", 1)
    with begun(served, "alice") as first, begun(served, "alice"):
        held(served, SHARE)
        with begun(served, "alice") as patient:
            waiting(served, 1)
            with user(served, "alice") as api:
                refused(say(api, LARGE), 429, "limit-reached")
            waiting(served, 1)
            first.sendall(b"}")
            patient.sendall(b"}")
            assert rest_of(patient).startswith(b"HTTP/1.1 201")
    held(served, 0)


@contextmanager
def short_windows() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(http1, "BODY_WINDOW_SECONDS", 0.3)
        yield


def test_a_body_that_slows_down_is_cut_and_frees_its_reservation(
    served: Served,
) -> None:
    start = head("alice", f"Content-Length: {LARGE}") + message(LARGE)[: LARGE // 2]
    with short_windows(), hanging(served.port, start) as sock:
        answer = drip(sock, b"x")
        assert not answer or answer.startswith(b"HTTP/1.1 400")
    held(served, 0)
    with served.client() as api:
        assert metric(api, 'connections_cut_total{reason="body_slow"}') == 1


def test_a_slow_ndjson_body_on_a_json_route_is_cut(
    served: Served,
) -> None:
    framing = f"Content-Length: {LARGE}"
    for path in ("/sessions/s/messages", "/import"):
        start = head("alice", framing, path, "x-ndjson") + b"x" * (LARGE // 2)
        with short_windows(), hanging(served.port, start) as sock:
            answer = drip(sock, b"x")
            assert not answer or answer.startswith(b"HTTP/1.1 400")
    held(served, 0)


def test_a_body_that_waits_for_room_is_not_cut_as_slow(served: Served) -> None:
    with ExitStack() as stack:
        first, _second = (stack.enter_context(begun(served, "alice")) for _ in range(2))
        held(served, SHARE)
        with short_windows():
            third = stack.enter_context(begun(served, "alice"))
            waiting(served, 1)
            for _ in range(3):  # each begins later than the third, and is cut
                with hanging(served.port, head("bob", "Content-Length: 9")) as stalled:
                    assert rest_of(stalled).startswith(b"HTTP/1.1 400")
        waiting(served, 1)
        first.sendall(b"}")
        third.sendall(b"}")
        assert rest_of(third).startswith(b"HTTP/1.1 201")


def line(size: int) -> bytes:
    event = {"type": "custom", "name": "n", "value": ""}
    return json.dumps(event | {"value": "x" * (size - len(json.dumps(event)))}).encode()


def test_streamed_lines_reserve_memory_only_for_a_long_incomplete_line(served: Served) -> None:
    start = head("alice", "Transfer-Encoding: chunked", "/sessions/s/events", "x-ndjson")
    long = line(LARGE - 1000)

    def chunk(data: bytes) -> bytes:
        return b"%x\r\n%b\r\n" % (len(data), data)

    with hanging(served.port, start + chunk(line(100) + b"\n" + long[:-1])) as sock:
        held(served, len(long) - 1)
        sock.sendall(chunk(long[-1:] + b"\n" + line(100)))
        held(served, 0)
        with begun(served, "alice"), begun(served, "alice"), patience(0.05):
            held(served, SHARE)
            sock.sendall(chunk(b"\n" + line(200) + b"\n"))  # as short ones are, it is taken
            sock.sendall(chunk(long[:-1]))
            answer = rest_of(sock)
            assert b'"code":"limit-reached"' in answer
            assert b'"line":5' in answer
            assert b'"count":4' in answer
    held(served, 0)


# -- the order in which those who wait are let in --------------------------------------------------


class Room:
    """Room for ten, and for six of one caller, in units that are counted."""

    def __init__(self) -> None:
        unit = self.unit = 2 * BODY_BYTES_FREE
        self.memory = BodyMemory(
            Settings(
                max_body_bytes=6 * unit,
                max_body_memory_bytes=10 * unit,
                max_body_memory_bytes_per_caller=6 * unit,
            )
        )
        self.let_in: list[str] = []

    async def take(self, name: str, units: int) -> BodyReservation:
        """Wait for a place; the first letter of the name is the caller."""
        body = BodyReservation(self.memory, name[0])
        await body.hold(units * self.unit)
        self.let_in.append(name)
        return body

    @property
    def waiting(self) -> float:
        count = self.memory.measures()["bodies_waiting"]
        assert isinstance(count, int)
        return count


async def wait_for(room: Room, count: int) -> None:
    with anyio.fail_after(60):
        while room.waiting != count:
            await anyio.lowlevel.checkpoint()


async def test_waiting_bodies_are_admitted_in_order() -> None:
    room = Room()
    first = await room.take("a1", 6)
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(room.take, "b1", 6)
        await wait_for(room, 1)
        # There is room for it, but `b1` would then wait for ever.
        tasks.start_soon(room.take, "c1", 2)
        await wait_for(room, 2)
        first.release()
    assert room.let_in == ["a1", "b1", "c1"]


async def test_a_caller_that_waits_for_its_share_does_not_block_others() -> None:
    room = Room()
    first = await room.take("a1", 5)
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(room.take, "a2", 3)
        await wait_for(room, 1)
        await room.take("b1", 2)
        assert room.let_in == ["a1", "b1"]
        # Behind its own it does wait, though there is room.
        tasks.start_soon(room.take, "a3", 1)
        await wait_for(room, 2)
        first.release()
    assert room.let_in == ["a1", "b1", "a2", "a3"]


async def test_a_body_with_a_reservation_never_waits_for_more() -> None:
    room = Room()
    growing = await room.take("a1", 2)
    async with anyio.create_task_group() as tasks:
        second = await room.take("b1", 6)
        tasks.start_soon(room.take, "c1", 3)
        await wait_for(room, 1)
        await growing.hold(4 * room.unit)
        with pytest.raises(Unavailable):
            await growing.hold(5 * room.unit)
        assert growing.size == 4 * room.unit
        second.release()
    with pytest.raises(LimitReached):
        await growing.hold(7 * room.unit)


async def test_a_waiting_body_that_gives_up_lets_the_next_one_in() -> None:
    room = Room()
    first = await room.take("a1", 6)
    async with anyio.create_task_group() as tasks:
        scope = anyio.CancelScope()

        async def give_up() -> None:
            with scope:
                await room.take("b1", 6)

        tasks.start_soon(give_up)
        await wait_for(room, 1)
        tasks.start_soon(room.take, "c1", 2)
        await wait_for(room, 2)
        scope.cancel()
        await wait_for(room, 0)
    assert room.let_in == ["a1", "c1"]
    assert room.memory.held == 8 * room.unit
    first.release()
    assert room.memory.held == 2 * room.unit


def test_a_body_of_the_largest_allowed_size_always_has_room() -> None:
    settings = Settings(
        max_body_bytes=1 << 30, max_body_memory_bytes=1024, max_body_memory_bytes_per_caller=1024
    )
    body = BodyReservation(BodyMemory(settings), "a")
    anyio.run(body.hold, 1 << 30)
    assert body.size == 1 << 30
