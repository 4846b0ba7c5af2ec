"""Failing networks and clients (R1, R2, R7): each limit has its answer, and ends."""

import json
import random
import socket
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import httpx
import pytest

from bamboo_gateway.domain.limits import SEND_BYTES_MAX
from bamboo_gateway.server import http1
from tests.api.serving import Served, refused, serving
from tests.faults.wire import Wire, buffered, drip, hanging, metric, refusals, rest_of
from tests.support.waiting import until

HEAD = b"HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
LIVE = b"GET /api/v1/health/live HTTP/1.1\r\nHost: localhost\r\n\r\n"


def append(api: httpx.Client, session_id: str, values: list[Any]) -> None:
    events = [{"type": "custom", "name": "n", "value": value} for value in values]
    assert api.post(f"/sessions/{session_id}/events", json=events).status_code == 201


def assert_healthy(served: Served, api: httpx.Client, session_id: str = "healthy") -> None:
    """Do a whole small conversation."""
    made = api.post("/sessions", json={"id": session_id})
    assert made.status_code in {201, 409}, made.text
    body = {"message": "x", "session_id": session_id, "options": {"delay_ms": 0}}
    turn = api.post("/chat", json=body).json()
    answer = Wire(served.port, turn["stream_url"].removeprefix("/api/v1") + "&until=complete")
    with answer.sock:
        answer.take_until(b'"complete"')
    assert api.get("/health/ready").status_code == 200


@pytest.mark.parametrize("cuts", [40, pytest.param(1500, marks=pytest.mark.slow)])
def test_r1_r2_a_client_cut_anywhere_in_a_frame_reconnects_and_has_everything_once(
    cuts: int,
) -> None:
    chance = random.Random(cuts)
    with serving() as served, served.client() as api:
        api.post("/sessions", json={"id": "s"})
        total, last_id = 0, None
        seen: list[int] = []
        for _ in range(cuts):
            append(api, "s", [["é" * chance.randrange(60), total + i] for i in range(3)])
            total += 3
            wire = Wire(served.port, "/stream/s?from=start", last_id)
            wire.take_until(b"\r\n\r\n")
            for _ in range(chance.randrange(400)):
                if len(seen) + len([f for f in wire.frames if f.type == "custom"]) == total:
                    break
                wire.take(chance.randrange(1, 40))
            wire.cut()
            seen += [frame.data["value"][1] for frame in wire.frames if frame.type == "custom"]
            last_id = next((f.id for f in reversed(wire.frames) if f.id), last_id)
        api.post("/sessions/s/close")
        wire = Wire(served.port, "/stream/s?from=start", last_id)
        with wire.sock:
            wire.take_until(b"goodbye")
        seen += [frame.data["value"][1] for frame in wire.frames if frame.type == "custom"]
        assert seen == list(range(total))
        until(lambda: metric(api, "streams_open") == 0, "no stream is left")


@pytest.mark.parametrize(
    "clients", [1, pytest.param(50, marks=[pytest.mark.slow, pytest.mark.timeout(300)])]
)
def test_r7_a_half_open_client_is_closed_as_slow_and_nobody_else_notices(clients: int) -> None:
    with (
        serving(send_timeout_seconds=0.5) as served,
        served.client() as api,
        ExitStack() as stack,
    ):
        api.post("/sessions", json={"id": "s"})
        stuck = [Wire(served.port, "/stream/s", buffer_bytes=4096) for _ in range(clients)]
        healthy = Wire(served.port, "/stream/s")
        for wire in [*stuck, healthy]:
            stack.enter_context(wire.sock)
            wire.take_until(b"\n\n")
        most, sent = 0, 0
        while metric(api, "streams_slow_total") < clients:
            append(api, "s", [str(sent) + "x" * 100_000])
            sent += 1
            healthy.take_until(b'"value":"%dx' % (sent - 1))
            most = max(most, buffered(served))
            assert sent < 2000, "the slow one was never found"
        assert metric(api, "streams_slow_total") == clients
        # One chunk of the client's, and what the server lets be behind before it waits.
        assert most <= SEND_BYTES_MAX + 200_000
        until(lambda: metric(api, "streams_open") == 1, "the slow ones are gone")
        api.post("/sessions/s/close")
        healthy.take_until(b"goodbye")
        expected = [f"{number}x" for number in range(sent)]
        assert [
            f.data["value"].rstrip("x") + "x" for f in healthy.frames if f.type == "custom"
        ] == expected
        for wire in stuck[:3]:
            wire.take_all()
            last_id = [frame.id for frame in wire.frames if frame.id][-1]
            again = Wire(served.port, "/stream/s", last_id)
            with again.sock:
                again.take_until(b'"goodbye"')
            values = [f.data["value"] for f in wire.frames + again.frames if f.type == "custom"]
            assert [value.rstrip("x") + "x" for value in values] == expected
        assert_healthy(served, api)


@pytest.fixture
def served() -> Iterator[Served]:
    with serving() as running:
        yield running


HEADS, BODIES = "HEAD_SECONDS_MAX", "BODY_WINDOW_SECONDS"


@contextmanager
def hurried(what: str, seconds: float = 0.4) -> Iterator[None]:
    """Make the gateway wait for heads, or for more of a body, a moment only.

    Not longer than it takes to test that: on a busy machine it comes too soon for every request.
    """
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(http1, what, seconds)
        yield


@contextmanager
def connected(served: Served) -> Iterator[httpx.Client]:
    """Return a client whose connection is open already, before the head deadline is shortened."""
    with served.client() as api:
        assert api.get("/health/live").is_success
        yield api


def test_a_connection_without_a_request_is_closed(served: Served) -> None:
    with hurried(HEADS):
        socks = [hanging(served.port) for _ in range(50)]
        for sock in socks:
            with sock:
                assert rest_of(sock) == b""
    until(lambda: not served.server.server_state.connections, "no connection is left")
    with served.client() as api:
        assert_healthy(served, api)


@pytest.mark.parametrize(
    "data", [b"G", b"GET / HTTP/1.1\r\nHost: localh", b"GET / HTTP/1.1\r\nX: y"]
)
def test_a_head_that_is_never_complete_is_refused(served: Served, data: bytes) -> None:
    def is_refused() -> bool:
        with hanging(served.port, data) as sock:
            return rest_of(sock).startswith(b"HTTP/1.1 400" if data != b"G" else b"")

    with hurried(HEADS):
        # Whoever stands still between connecting and sending has said nothing, and is let go.
        until(is_refused, "it is refused")
    with served.client() as api:
        assert_healthy(served, api)


def test_a_head_that_drips_is_refused_however_long_it_goes_on(served: Served) -> None:
    with connected(served) as api:

        def is_refused() -> bool:
            with hanging(served.port, b"GET / HTTP/1.1\r\n") as sock:
                answer = drip(sock, b"X: y\r\n")
            assert answer.startswith(b"HTTP/1.1 400") or not answer
            return refusals(api, "malformed") == 1

        with hurried(HEADS):
            until(is_refused, "it is refused")
        assert_healthy(served, api)


def test_empty_lines_after_an_answer_do_not_keep_a_connection(served: Served) -> None:
    with hanging(served.port, LIVE) as sock:
        assert b"200 OK" in sock.recv(4096)
        with hurried(HEADS):
            sock.sendall(b"\r\n")
            assert b"HTTP/1.1" not in rest_of(sock)


def test_the_head_deadline_does_not_end_streams_or_idle_connections(
    served: Served,
) -> None:
    with connected(served) as api, hurried(HEADS, 2):
        api.post("/sessions", json={"id": "s"})
        stream = Wire(served.port, "/stream/s")
        idle = hanging(served.port, LIVE)
        with stream.sock, idle:
            stream.take_until(b"\n\n")
            assert b"200 OK" in idle.recv(4096)
            with hanging(served.port) as later:  # begun after both, and ended before
                assert rest_of(later) == b""
            append(api, "s", ["still there"])
            stream.take_until(b"still there")
            idle.sendall(LIVE)
            until(lambda: b"200 OK" in idle.recv(4096), "it is answered")


@pytest.mark.parametrize("path", [b"/api/v1/chat", b"/api/v1/sessions"])
@pytest.mark.parametrize(
    "start", [b"Content-Length: 100\r\n\r\n", b'Transfer-Encoding: chunked\r\n\r\n4\r\n{"a"\r\n']
)
def test_a_body_that_stalls_is_refused(served: Served, path: bytes, start: bytes) -> None:
    with hurried(BODIES), hanging(served.port, b"POST " + path + b" " + HEAD + start) as sock:
        answer = rest_of(sock)
        assert answer.startswith(b"HTTP/1.1 400")
        assert b'"code":"malformed"' in answer
    until(lambda: not served.server.server_state.tasks, "no request is left")
    with served.client() as api:
        assert api.get("/sessions").json()["sessions"] == []
        assert_healthy(served, api)


def test_an_ndjson_producer_may_pause_longer_than_a_body_window(served: Served) -> None:
    def chunk(value: str) -> bytes:
        line = json.dumps({"type": "custom", "name": "n", "value": value}).encode() + b"\n"
        return b"%x\r\n%b\r\n" % (len(line), line)

    with served.client() as api:
        api.post("/sessions", json={"id": "s"})
        head = HEAD.replace(b"application/json", b"application/x-ndjson")
        start = b"POST /api/v1/sessions/s/events " + head + b"Transfer-Encoding: chunked\r\n\r\n"
        other = b"POST /api/v1/chat " + HEAD + b"Content-Length: 9\r\n\r\n"
        with hurried(BODIES), hanging(served.port, start + chunk("first")) as sock:
            until(lambda: "first" in api.get("/sessions/s/events").text, "the first line is in")
            with hanging(served.port, other) as late:
                assert rest_of(late).startswith(b"HTTP/1.1 400")  # begun later, and already late
            sock.sendall(chunk("second") + b"0\r\n\r\n")
            assert sock.recv(4096).startswith(b"HTTP/1.1 201")
        assert "second" in api.get("/sessions/s/events").text


def test_one_stream_too_many_is_503_and_counted_and_there_is_room_again() -> None:
    with serving(max_connections=3) as served, served.client() as api:
        api.post("/sessions", json={"id": "s"})
        wires = [Wire(served.port, "/stream/s") for _ in range(3)]
        for wire in wires:
            wire.take_until(b"\n\n")
        for _ in range(2):
            refused(api.get("/stream/s"), 503, "too-many-connections")
        assert refusals(api, "too-many-connections") == 2
        assert metric(api, "streams_open") == 3
        assert api.post("/chat", json={"message": "x", "session_id": "s"}).status_code == 202
        for wire in wires:
            wire.cut()
        until(lambda: metric(api, "streams_open") == 0, "the places are free")
        assert_healthy(served, api)


def test_a_body_too_large_is_413_with_and_without_a_content_length() -> None:
    with serving(max_body_bytes=2048, max_event_bytes=1024) as served, served.client() as api:
        large = b'{"id": "%s"}' % (b"x" * 3000)
        headers = {"Content-Type": "application/json"}
        refused(api.post("/sessions", content=large, headers=headers), 413, "too-large")
        refused(api.post("/sessions", content=iter([large]), headers=headers), 413, "too-large")
        # It is refused before it is sent.
        declared = b"POST /api/v1/sessions " + HEAD + b"Content-Length: 999999999\r\n\r\n"
        with hanging(served.port, declared) as sock:
            assert sock.recv(4096).startswith(b"HTTP/1.1 413")
        api.post("/sessions", json={"id": "s"})
        event = {"type": "custom", "name": "n", "value": "x" * 1500}
        refused(api.post("/sessions/s/events", json=event), 413, "event-too-large")
        assert refusals(api, "too-large") == 3
        assert refusals(api, "event-too-large") == 1
        assert_healthy(served, api)


def test_a_full_queue_is_429_and_counted_and_there_is_room_again() -> None:
    with serving(max_queued_runs=1) as served, served.client() as api:
        options = {"delay_ms": 0, "hold": "middle"}
        body = {"message": "x", "session_id": "s", "options": options}
        assert api.post("/chat", json=body).status_code == 202
        assert api.post("/chat", json=body).status_code == 202
        refused(api.post("/chat", json=body), 429, "too-many-queued-runs")
        assert refusals(api, "too-many-queued-runs") == 1
        assert metric(api, "runs_queued") == 1
        assert api.post("/sessions/s/cancel").is_success
        assert_healthy(served, api, "s")


def test_one_session_too_many_is_429_and_counted_and_there_is_room_again() -> None:
    with serving(max_sessions=2) as served, served.client() as api:
        for name in ("a", "b"):
            assert api.post("/sessions", json={"id": name}).status_code == 201
        refused(api.post("/sessions", json={"id": "c"}), 429, "too-many-sessions")
        refused(api.post("/chat", json={"message": "x"}), 429, "too-many-sessions")
        assert refusals(api, "too-many-sessions") == 2
        assert api.delete("/sessions/a").status_code == 204
        assert_healthy(served, api, "c")


def test_one_active_session_too_many_is_503_and_counted_and_there_is_room_again() -> None:
    with serving(max_active_sessions=1) as served, served.client() as api:
        assert api.post("/sessions", json={"id": "b"}).status_code == 201
        held = {"message": "x", "session_id": "a", "options": {"delay_ms": 0, "hold": "middle"}}
        assert api.post("/chat", json=held).status_code == 202
        event = {"type": "custom", "name": "n", "value": 1}
        refused(api.post("/sessions/b/events", json=event), 503, "too-many-active-sessions")
        assert refusals(api, "too-many-active-sessions") == 1
        with api.stream("GET", "/stream/b") as stream:
            assert stream.status_code == 200  # it needs no place
        assert api.post("/sessions/a/cancel").is_success
        until(lambda: metric(api, "streams_open") == 0, "the reader is gone")
        assert_healthy(served, api, "b")


@pytest.mark.parametrize(
    "connections", [200, pytest.param(10_000, marks=[pytest.mark.slow, pytest.mark.timeout(300)])]
)
def test_unused_connections_are_closed_at_the_head_deadline_and_leave_nothing(
    served: Served, connections: int
) -> None:
    import resource

    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if hard != resource.RLIM_INFINITY:
        # Both ends are open in this process.
        connections = min(connections, (hard - 500) // 2)
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, 2 * connections + 500), hard))
    socks: list[socket.socket] = []
    request_log, open_ones = served.app.state.request_log, served.server.server_state.connections
    try:
        with hurried(HEADS):
            socks += [hanging(served.port) for _ in range(connections)]
            until(
                lambda: request_log.connections_cut["unused"] + len(open_ones) >= connections,
                "all were let in",
            )
        with served.client() as api:
            assert_healthy(served, api)
        assert all(rest_of(sock) == b"" for sock in socks)
    finally:
        for sock in socks:
            sock.close()
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    until(lambda: not open_ones, "no connection is left")
