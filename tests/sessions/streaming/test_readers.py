"""R2 and R7: any number of readers, at any pace, each sees everything once, in order."""

from typing import Any

import anyio
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from bamboo_gateway.api.frames import NATIVE
from bamboo_gateway.domain.events import Complete, Token
from bamboo_gateway.domain.limits import EVENT_QUEUE_BYTES_MAX, SEND_BYTES_MAX
from bamboo_gateway.domain.positions import Position
from bamboo_gateway.sessions.commands import NewSession, StreamRequest
from bamboo_gateway.sessions.streaming.event_queue import EventQueue
from bamboo_gateway.sessions.streaming.rendering import Control, Renderer
from bamboo_gateway.sessions.streaming.subscription import Subscription
from tests.support.gateways import DEADLINE_SECONDS, ME, Gateway, Reader, eventually, gateway, quiet


def custom(number: int, size: int = 0) -> dict[str, Any]:
    return {"type": "custom", "name": "n", "value": str(number) + "x" * size}


STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("publish"), st.integers(1, 9)),
        st.tuples(st.just("big"), st.integers(1, 3)),
        st.tuples(st.just("connect"), st.integers(0, 2)),
        st.tuples(st.just("take"), st.integers(0, 2)),
        st.tuples(st.just("drain"), st.integers(0, 2)),
        st.tuples(st.just("drop"), st.integers(0, 2)),
        st.tuples(st.just("evict"), st.just(0)),
    ),
    min_size=5,
    max_size=40,
)


class Client:
    """One that always comes back with its last id."""

    def __init__(self) -> None:
        self.reader: Reader | None = None
        self.seen: list[int] = []
        self.last_id: str | None = None

    def leave(self) -> None:
        if self.reader is not None:
            self.seen += [frame.seq for frame in self.reader.events]
            if self.reader.frames:
                self.last_id = self.reader.last_id
            self.reader.close()
            self.reader = None


async def play(steps: list[tuple[str, int]]) -> None:
    async with gateway() as gate:
        await gate.manager.create_session(ME, NewSession(id="s"))
        clients = [Client() for _ in range(3)]
        number = 0
        for step, amount in steps:
            client = clients[amount % 3]
            if step in ("publish", "big"):
                events = [custom(number + i, 900 if step == "big" else 0) for i in range(amount)]
                number += amount
                await gate.manager.append_events(ME, "s", events)
                # A tiny queue: what is older is read from the log.
                gate.live().channel.queue._bytes_max = 1000
            elif step == "connect" and client.reader is None:
                begin = {"last_event_id": client.last_id} if client.last_id else {"after": "0"}
                client.reader = await gate.reader(**begin)
            elif step == "take" and client.reader is not None:
                with anyio.move_on_after(0):
                    await client.reader.take()
            elif step == "drain" and client.reader is not None:
                await client.reader.take_what_is_there()
            elif step == "drop":
                client.leave()
            elif step == "evict":
                gate.clock.advance(10_000)
                gate.manager._registry.evict_idle()
        end = len(await gate.log())
        for client in clients:
            client.leave()
            begin = {"last_event_id": client.last_id} if client.last_id else {"after": "0"}
            client.reader = await gate.reader(**begin)
            await client.reader.take_what_is_there()
            client.leave()
            assert client.seen == list(range(1, end + 1))
        await quiet()
        assert gate.leftovers() == []


@settings(max_examples=60, deadline=None, suppress_health_check=list(HealthCheck))
@given(steps=STEPS)
def test_every_client_sees_every_event_once_in_order_whatever_it_does(
    steps: list[tuple[str, int]],
):
    """R2: through eviction of the event queue, of the session, and any number of reconnects."""

    async def run() -> None:
        with anyio.fail_after(DEADLINE_SECONDS):
            await play(steps)

    anyio.run(run)


@pytest.mark.parametrize("until", [True, False])
async def test_a_reader_behind_the_queue_is_served_from_the_log(until: bool, gate: Gateway):
    """R2, R7: cold reads and the queue meet without a gap, also where a stream is to stop."""
    await gate.chat(run_id="a")
    gate.live().channel.queue._bytes_max = 2000
    answer = await gate.manager.run(ME, "s", "a")
    reader = await gate.reader(after=answer["position"], run_id="a", until_complete=until)
    gate.agent.do("a", *[Token("x" * 50) for _ in range(500)], Complete())
    await gate.ended("a")
    await gate.manager.append_events(ME, "s", [custom(number) for number in range(100)])
    log = await gate.log()
    assert gate.live().channel.queue.start > 100
    frames = await (reader.take_all() if until else reader.take_what_is_there())
    seqs = [frame.seq for frame in reader.events]
    if until:
        assert frames[-1].type == "complete"
        assert seqs == list(range(1, frames[-1].seq + 1))
    else:
        assert seqs == list(range(1, len(log) + 1))
    reader.close()


async def test_a_reader_that_takes_nothing_costs_and_delays_nothing(gate: Gateway):
    """R7. A known failure elsewhere: one unbounded queue per session, one reader per session."""
    await gate.manager.create_session(ME, NewSession(id="s"))
    dead = [await gate.reader(from_start=True) for _ in range(20)]
    awake = await gate.reader(from_start=True)
    for begin in range(0, 4000, 100):
        await gate.manager.append_events(
            ME, "s", [custom(number, 500) for number in range(begin, begin + 100)]
        )
        await awake.take_what_is_there()
    queue = gate.live().channel.queue
    assert queue._bytes <= EVENT_QUEUE_BYTES_MAX
    assert len(awake.events) == 4001
    for reader in dead:
        # A connection holds no frames of its own, whatever it has missed.
        values = [getattr(reader.connection, name) for name in Subscription.__slots__]
        held = [value for value in values if isinstance(value, bytes | list | dict)]
        assert not held
    await dead[0].take_what_is_there()
    assert [frame.seq for frame in dead[0].events] == list(range(1, 4002))
    for reader in (*dead, awake):
        reader.close()


async def test_one_send_joins_a_bounded_part_of_what_waits(gate: Gateway):
    """R7."""
    await gate.manager.create_session(ME, NewSession(id="s"))
    for begin in range(0, 3000, 100):
        await gate.manager.append_events(
            ME, "s", [custom(number, 400) for number in range(begin, begin + 100)]
        )
    for after in ("0", "2500"):
        async with await gate.reader(after=after) as reader:
            while int(reader.connection.cursor) < 3001:
                chunk = await reader.take()
                assert chunk is not None
                assert len(chunk) <= SEND_BYTES_MAX


async def test_readers_at_one_place_share_one_join(gate: Gateway):
    await gate.manager.create_session(ME, NewSession(id="s"))
    readers = [await gate.reader() for _ in range(5)]
    for reader in readers:
        await reader.take()
    await gate.manager.append_events(ME, "s", [custom(number) for number in range(10)])
    chunks = [await reader.connection.next() for reader in readers]
    assert len({id(chunk) for chunk in chunks}) == 1
    for reader in readers:
        reader.close()


async def test_an_agent_does_not_run_far_ahead_of_the_disk(gate: Gateway):
    """R11: it is held back by a number of bytes, not by each commit."""
    await gate.chat(run_id="a")
    await gate.agent.script("a").started.wait()
    await quiet()
    gate.store.hold_appends()
    gate.agent.do("a", *[Token("x" * 10_000) for _ in range(2000)])
    await quiet()
    taken = gate.agent.script("a").taken
    assert 20 <= taken <= 200
    await quiet()
    assert gate.agent.script("a").taken == taken
    gate.store.release_appends()
    gate.agent.do("a", Complete())
    assert (await gate.ended("a"))["status"] == "completed"


async def test_an_agent_that_never_waits_does_not_starve_others(gate: Gateway):
    """R12: one that never waits does not starve the loop."""
    await gate.chat(run_id="a")
    gate.agent.do("a", *[Token("x") for _ in range(20_000)])
    await gate.chat("other", run_id="b")
    gate.agent.do("b", Complete())
    assert (await gate.ended("b", "other"))["status"] == "completed"
    assert gate.agent.script("a").taken < 20_000
    run = (await gate.manager.cancel_run(ME, "s", "a")).answer
    assert run["status"] == "cancelled"


@settings(max_examples=200, deadline=None)
@given(
    sizes=st.lists(st.integers(1, 60), max_size=80),
    bytes_max=st.integers(1, 400),
    data=st.data(),
)
def test_the_event_queue_gives_exactly_what_lies_after_a_cursor(
    sizes: list[int], bytes_max: int, data: st.DataObject
):
    queue = EventQueue(Position(1, 7), bytes_max)
    renderers: list[Renderer] = [NATIVE, Bodies()]
    bodies: dict[int, bytes] = {}
    position = 0
    while position < len(sizes):
        count = data.draw(st.integers(1, 10))
        new = [b"x" * size for size in sizes[position : position + count]]
        for i, body in enumerate(new):
            bodies[8 + position + i] = body
        queue.extend(new)
        position += len(new)
        assert queue.head == 7 + position
        check_bytes(queue, bytes_max)
        for _ in range(3):
            cursor = data.draw(st.integers(7, queue.head + 2))
            stop = data.draw(st.none() | st.integers(7, queue.head + 2))
            renderer = data.draw(st.sampled_from(renderers))
            taken = queue.take(cursor, renderer, stop)
            check_bytes(queue, bytes_max)
            end = queue.head if stop is None else min(stop, queue.head)
            if taken is None:
                assert cursor < queue.start
                continue
            chunk, after = taken
            if cursor >= end:
                assert (chunk, after) == (b"", cursor)
            else:
                assert cursor < after <= end
                assert chunk == b"".join(
                    renderer.event(1, seq, bodies[seq]) for seq in range(cursor + 1, after + 1)
                )


def check_bytes(queue: EventQueue, bytes_max: int) -> None:
    """R11: what is kept is counted, and bounded, what renderers made included."""
    made = [part for rendered in (queue._rendered or {}).values() for part in rendered.parts]
    assert queue._bytes == sum(len(part) for part in (*queue._bodies, *made) if part is not None)
    assert queue._bytes <= bytes_max or len(queue._bodies) == 1


class Bodies:
    """A renderer of another protocol."""

    def event(self, epoch: int, seq: int, body: bytes, /) -> bytes:
        return b"%d %d %b\n" % (epoch, seq, body)

    def control(self, shown: Control, /) -> bytes:
        return f"{shown}\n".encode()


class Counting:
    """The native renderer, which remembers what it was asked for."""

    def __init__(self) -> None:
        self.seqs: list[int] = []

    def event(self, epoch: int, seq: int, body: bytes, /) -> bytes:
        self.seqs.append(seq)
        return NATIVE.event(epoch, seq, body)

    def control(self, shown: Control, /) -> bytes:
        return NATIVE.control(shown)


async def test_an_event_is_rendered_once_for_all_readers_and_not_before_one_takes_it(
    gate: Gateway,
):
    await gate.manager.create_session(ME, NewSession(id="s"))
    counting = Counting()
    readers: list[Reader] = []
    for _ in range(3):
        connection = await gate.manager.connect(ME, "s", StreamRequest(), counting)
        assert connection is not None
        readers.append(Reader(connection))
    for reader in readers:
        await reader.take_until("open")
    for number in range(3):
        await gate.manager.append_events(ME, "s", [custom(number), custom(number)])
    assert counting.seqs == []
    for reader in readers:
        await reader.take_what_is_there()
        assert [frame.seq for frame in reader.events] == [2, 3, 4, 5, 6, 7]
    assert counting.seqs == [2, 3, 4, 5, 6, 7]
    for reader in readers:
        reader.close()


async def test_readers_of_two_protocols_share_the_queue_and_not_what_is_made(gate: Gateway):
    await gate.manager.create_session(ME, NewSession(id="s"))
    other = await gate.manager.connect(ME, "s", StreamRequest(after=0), Bodies())
    assert other is not None
    async with await gate.reader(after="0") as reader:
        await gate.manager.append_events(ME, "s", [custom(1)])
        await reader.take_what_is_there()
        opened, shown = await other.next(), await other.next()
        assert opened is not None
        assert opened.startswith(b"Open(position=Position(epoch=")
        assert shown is not None
        assert [line.split(b" ")[1] for line in shown.splitlines()] == [b"1", b"2"]
        assert [frame.seq for frame in reader.events] == [1, 2]
    other.aclose()


async def test_frames_larger_than_a_send_go_one_by_one():
    async with gateway() as gate:
        await gate.manager.create_session(ME, NewSession(id="s"))
        await gate.manager.append_events(ME, "s", [custom(n, 300_000) for n in range(3)])
        for after in ("0", "1"):
            async with await gate.reader(after=after) as reader:
                await reader.take_what_is_there()
                assert [f.seq for f in reader.events] == list(range(int(after) + 1, 5))
        await eventually(lambda: not gate.leftovers())
