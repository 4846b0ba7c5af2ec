"""Streams of sessions that other processes write to: every event once, in order, and the ends."""

import json
import random
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any

import anyio
import pytest
from typing_extensions import override

from bamboo_gateway.api.frames import NATIVE
from bamboo_gateway.bus.base import Notice
from bamboo_gateway.bus.memory import Exchange, MemoryBus
from bamboo_gateway.domain.callers import Caller
from bamboo_gateway.domain.errors import NotFound, Unavailable
from bamboo_gateway.domain.events import Complete, Token
from bamboo_gateway.domain.positions import parse_after
from bamboo_gateway.sessions.changes.page import ChangeFilter, ChangesPage
from bamboo_gateway.sessions.commands import EventPage, NewSession, SessionQuery
from bamboo_gateway.sessions.sharing import NewShare
from bamboo_gateway.sessions.streaming import follower
from bamboo_gateway.sessions.streaming.subscription import Subscription
from bamboo_gateway.storage.factory import make_store
from tests.support.clocks import FakeClock
from tests.support.gateways import (
    DEADLINE_SECONDS,
    ME,
    Gateway,
    Reader,
    eventually,
    gateway,
    settings_of,
    stream_request,
)
from tests.support.joint import joint_reader
from tests.support.shared_memory import SharedMemory, SharedStore

ANN, BOB = Caller("ann", "ann"), Caller("bob", "bob")


class Replicas:
    """Gateways over one database."""

    def __init__(self, memory: SharedMemory, clock: FakeClock, exchange: Exchange) -> None:
        self.memory = memory
        self.clock = clock
        self.exchange = exchange
        self.gates: dict[str, Gateway] = {}
        self.stores: dict[str, SharedStore] = {}

    def __getitem__(self, name: str) -> Gateway:
        return self.gates[name]


@asynccontextmanager
async def replicas(
    *names: str,
    with_bus: bool = False,
    make_bus: Callable[[Exchange], MemoryBus] = MemoryBus,
    **changed: Any,
) -> AsyncIterator[Replicas]:
    """Run several gateways over one database."""
    clock = FakeClock()
    memory = SharedMemory(clock)
    exchange = Exchange()
    made = Replicas(memory, clock, exchange)
    async with AsyncExitStack() as stack:
        for name in names:
            bus = await stack.enter_async_context(make_bus(exchange)) if with_bus else None
            store = made.stores[name] = await memory.store(name)
            gate = gateway(store, clock=clock, bus=bus, **changed)
            made.gates[name] = await stack.enter_async_context(gate)
        yield made


@pytest.fixture(params=["poll", "bus", "postgresql"])
async def two(request: pytest.FixtureRequest) -> AsyncIterator[Replicas]:
    """Two gateways: over memory without and with a bus, and over a real database."""
    if request.param == "postgresql":
        url = request.getfixturevalue("postgres_url")
        async with over_postgresql(url, "a", "b") as made:
            yield made
    else:
        async with replicas("a", "b", with_bus=request.param == "bus") as made:
            yield made


@pytest.fixture(params=["poll", "bus"])
async def two_of_memory(request: pytest.FixtureRequest) -> AsyncIterator[Replicas]:
    """Two gateways of whose processes the test says whether they live."""
    async with replicas("a", "b", with_bus=request.param == "bus") as made:
        yield made


@asynccontextmanager
async def over_postgresql(url: str, *names: str) -> AsyncIterator[Replicas]:
    """Run several gateways over one PostgreSQL."""
    clock = FakeClock()
    made = Replicas(SharedMemory(clock), clock, Exchange())
    async with AsyncExitStack() as stack:
        for name in names:
            store = make_store(settings_of(storage_url=url), clock)
            await store.open()
            stack.push_async_callback(store.aclose)
            made.gates[name] = await stack.enter_async_context(gateway(store, clock=clock))
        yield made


def custom(number: int) -> dict[str, Any]:
    return {"type": "custom", "name": "n", "value": number}


async def connected(gate: Gateway, caller: Caller, **request: Any) -> Subscription:
    """Open a stream of a caller."""
    opened = await gate.manager.connect(caller, "s", stream_request(**request), NATIVE)
    assert opened is not None
    return opened


async def shown(reader: Reader, done: Callable[[Reader], bool]) -> Reader:
    """Take what comes, until it is enough."""
    while not done(reader):
        assert await reader.take() is not None, reader.frames
    return reader


async def test_a_stream_shows_what_another_process_writes_once_and_in_order(two: Replicas):
    """R2: a run with its tokens, at the other process."""
    a, b = two["a"], two["b"]
    await a.manager.create_session(ME, NewSession(id="s"))
    async with await b.reader(after="0") as reader:
        run_id = (await a.chat())["run_id"]
        for number in range(50):
            a.agent.do(run_id, Token(f"{number} "))
        a.agent.do(run_id, Complete())
        await shown(reader, lambda reader: "complete" in reader.types)
        seqs = [frame.seq for frame in reader.events]
        assert seqs == list(range(1, len(seqs) + 1))
        assert [frame.data for frame in reader.events] == await a.log()


async def test_a_stream_until_the_end_of_a_run_ends_with_a_run_of_another_process(two: Replicas):
    a, b = two["a"], two["b"]
    run_id = (await a.chat())["run_id"]
    async with await b.reader(until_complete=True) as reader:
        a.agent.do(run_id, Token("hello"), Complete())
        frames = await reader.take_all()
        assert frames[-1].type == "complete"


async def test_a_stream_until_the_end_of_the_next_run_binds_to_one_that_another_process_begins(
    two: Replicas,
):
    a, b = two["a"], two["b"]
    first = (await a.chat())["run_id"]
    second = (await a.chat(on_busy="enqueue"))["run_id"]
    async with await b.reader(until_complete=True, run_id=second) as reader:
        a.agent.do(first, Complete())
        a.agent.do(second, Token("2"), Complete())
        frames = await reader.take_all()
        assert (frames[-1].type, frames[-1].data["run_id"]) == ("complete", second)


async def test_a_joint_stream_shows_what_several_processes_write(two: Replicas):
    """Each of its sessions is present for the others."""
    a, b = two["a"], two["b"]
    for session_id in ("s", "t"):
        await a.manager.create_session(ME, NewSession(id=session_id))
    async with await joint_reader(b, "s", "t", connection_id="both") as reader:
        await reader.take_until("open")
        for number in range(5):
            await a.manager.append_events(ME, "s", [custom(number)])
            await b.manager.append_events(ME, "t", [custom(number)])
        await shown(reader, lambda _: len(reader.of("s")) == len(reader.of("t")) == 5)
        for session_id in ("s", "t"):
            assert reader.of(session_id) == (await a.log(session_id))[1:]

        async def is_told() -> bool:
            listed = [await a.manager.connections(ME, session_id) for session_id in ("s", "t")]
            return [[one["connection_id"] for one in some] for some in listed] == [["both"]] * 2

        await eventually(is_told)
        await a.manager.disconnect(ME, "s", "both")
        await shown(reader, lambda _: "goodbye" in reader.controls("s"))
        await a.manager.append_events(ME, "t", [custom(5)])
        await shown(reader, lambda _: len(reader.of("t")) == 6)


async def test_a_session_that_another_process_closes_or_deletes_ends_its_streams(two: Replicas):
    a, b = two["a"], two["b"]
    for session_id, end, reason in (
        ("c", a.manager.close_session, "closed"),
        ("d", a.manager.delete_session, "deleted"),
    ):
        await a.manager.create_session(ME, NewSession(id=session_id))
        async with await b.reader(session_id) as reader:
            await reader.take_until("open")
            await end(ME, session_id)
            await reader.take_all()
            assert reader.goodbye is not None
            assert reader.goodbye["reason"] == reason
    with pytest.raises(NotFound):
        await b.manager.connections(ME, "d")


async def test_a_session_that_is_deleted_and_created_again_elsewhere_resets_its_readers(
    two: Replicas,
):
    a, b = two["a"], two["b"]
    await a.manager.create_session(ME, NewSession(id="s"))
    async with await b.reader(after="0") as reader:
        await reader.take_until("session_created")
        two.clock.advance(1)
        await a.manager.delete_session(ME, "s")
        await a.manager.create_session(ME, NewSession(id="s"))
        await reader.take_all()
        assert reader.goodbye is not None
        position = reader.last_id
    async with await b.reader(last_event_id=position) as again:
        await again.take_until("reset")


async def test_a_share_that_another_process_revokes_ends_the_streams_it_opened():
    """A stream ends soon after its right, wherever the right was taken."""
    async with replicas("a", "b", heartbeat_interval_seconds=0.015) as two:
        a, b = two["a"], two["b"]
        await a.manager.create_session(ANN, NewSession(id="s"))
        made = await a.manager.share(ANN, "s", NewShare(user_id="bob"))
        reader = Reader(await connected(b, BOB))
        async with reader:
            await reader.take_until("open")
            await a.manager.revoke_share(ANN, "s", made.answer["id"])
            await reader.take_all()
            assert reader.goodbye is not None
            assert reader.goodbye["reason"] == "unauthorized"


async def test_a_long_poll_ends_with_an_event_of_another_process(two: Replicas):
    a, b = two["a"], two["b"]
    await a.manager.create_session(ME, NewSession(id="s"))
    end = parse_after((await b.manager.get_session(ME, "s"))[0]["position"])
    pages: list[EventPage] = []

    async def poll() -> None:
        wait = 2 * DEADLINE_SECONDS
        pages.append(await b.manager.events(ME, "s", after=end, wait_seconds=wait))

    with anyio.fail_after(DEADLINE_SECONDS):
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(poll)
            await eventually(lambda: b.manager._channels.get("s"))
            await a.manager.append_events(ME, "s", [custom(1)])
    assert [event["value"] for event in map(json.loads, pages[0].events)] == [1]


async def test_changes_of_another_process_wake_who_waits_for_changes(two: Replicas):
    a, b = two["a"], two["b"]
    pages: list[ChangesPage] = []

    async def poll() -> None:
        wait = 2 * DEADLINE_SECONDS
        pages.append(await b.manager.changes(ME, ChangeFilter(), None, 10, wait))

    with anyio.fail_after(DEADLINE_SECONDS):
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(poll)
            await eventually(lambda: b.manager._feed.followers)
            await a.manager.create_session(ME, NewSession(id="s"))
    assert [entry.view["session_id"] for entry in pages[0].entries] == ["s"]


# -- the bus -----------------------------------------------------------------------------------


async def test_the_bus_alone_brings_a_run_without_a_look_at_the_store(
    monkeypatch: pytest.MonkeyPatch,
):
    monkeypatch.setattr(follower, "_POLL_WITH_BUS_SECONDS", 3600)
    async with replicas("a", "b", with_bus=True) as two:
        a, b = two["a"], two["b"]
        await a.manager.create_session(ME, NewSession(id="s"))
        async with await b.reader() as reader:
            await reader.take_until("open")
            counted = b.manager._context.tally.follower_events
            await a.manager.append_events(ME, "s", [custom(0)])
            await reader.take_until("custom")  # the subscription is in force
            from_store = counted["store",]
            run_id = (await a.chat())["run_id"]
            a.agent.do(run_id, *[Token(str(number)) for number in range(20)], Complete())
            await reader.take_until("complete")
            assert [frame.data for frame in reader.events] == (await a.log())[1:]
            assert counted["store",] == from_store
            assert counted["bus",] >= len(reader.events) - 1


async def test_a_bus_that_goes_down_and_comes_up_costs_no_event(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(follower, "_POLL_WITH_BUS_SECONDS", 3600)
    async with replicas("a", "b", with_bus=True) as two:
        a, b = two["a"], two["b"]
        await a.manager.create_session(ME, NewSession(id="s"))
        async with await b.reader() as reader:
            await reader.take_until("open")
            for number in range(8):
                two.exchange.switch(up=number % 2 == 0)
                await a.manager.append_events(ME, "s", [custom(number)])
                if number % 3 == 0:
                    await shown(reader, lambda reader: len(reader.events) > number)  # noqa: B023
            await shown(reader, lambda reader: len(reader.events) == 8)
            assert [frame.data["value"] for frame in reader.events] == list(range(8))


class UnrulyBus(MemoryBus):
    """A bus that drops notices, brings them twice, late, in another order, or damaged."""

    def __init__(self, exchange: Exchange, chance: random.Random) -> None:
        super().__init__(exchange)
        self._chance = chance
        self._late: list[Notice] = []

    @override
    def publish(self, notice: Notice) -> None:
        match self._chance.randrange(6):
            case 0:
                return
            case 1:
                self._late.append(notice)
                return
            case 2:
                super().publish(notice)
            case 3 if notice.bodies:
                notice = notice._replace(bodies=None)
            case _:
                pass
        super().publish(notice)
        if self._late and self._chance.random() < 0.5:
            super().publish(self._late.pop())


@pytest.mark.parametrize("seed", range(4))
async def test_a_bus_that_cannot_be_relied_upon_costs_no_event(
    monkeypatch: pytest.MonkeyPatch, seed: int
):
    """R2: whatever comes of the notices, each event is shown once, in order."""
    monkeypatch.setattr(follower, "_POLL_WITH_BUS_SECONDS", 0.25)
    chance = random.Random(seed)

    def unruly(exchange: Exchange) -> MemoryBus:
        return UnrulyBus(exchange, chance)

    async with replicas("a", "b", with_bus=True, make_bus=unruly) as two:
        a, b = two["a"], two["b"]
        await a.manager.create_session(ME, NewSession(id="s"))
        async with await b.reader() as reader:
            await reader.take_until("open")
            for number in range(40):
                writer = chance.choice([a, a, a, b])
                await writer.manager.append_events(ME, "s", [custom(number)])
                if chance.random() < 0.3:
                    await reader.take_what_is_there()
            await shown(reader, lambda reader: len(reader.events) == 40)
            assert [frame.data["value"] for frame in reader.events] == list(range(40))


# -- presence ----------------------------------------------------------------------------------


async def test_streams_of_other_processes_are_listed_and_can_be_disconnected(two: Replicas):
    a, b = two["a"], two["b"]
    await a.manager.create_session(ME, NewSession(id="s"))
    async with await b.reader(connection_id="mine", remote_address="1.2.3.4:5") as reader:
        await reader.take_until("open")

        async def listed() -> bool:
            return bool(await a.manager.connections(ME, "s"))

        await eventually(listed)
        [shown] = await a.manager.connections(ME, "s")
        assert shown == reader.connection.view()
        await a.manager.disconnect(ME, "s", "mine")
        await reader.take_all()
        assert reader.goodbye is not None
        assert reader.goodbye["reason"] == "superseded"
    with pytest.raises(NotFound):
        await a.manager.disconnect(ME, "s", "nobody")


async def test_a_stream_takes_the_place_of_one_of_its_name_at_another_process(two: Replicas):
    a, b = two["a"], two["b"]
    await a.manager.create_session(ME, NewSession(id="s"))
    async with await a.reader(connection_id="mine") as old:
        await old.take_until("open")
        async with await b.reader(connection_id="mine") as new:
            await new.take_until("open")
            await old.take_all()
            assert old.goodbye is not None
            assert old.goodbye["reason"] == "superseded"
            # And back again: the wish was for the older stream.
            async with await a.reader(connection_id="mine") as newest:
                await new.take_all()
                await a.manager.append_events(ME, "s", [custom(1)])
                await newest.take_until("custom")


async def test_a_share_ends_no_stream_of_its_name_at_another_process():
    """Who may only read takes no name from the owner's stream, wherever that is open."""
    async with replicas("a", "b") as two:
        a, b = two["a"], two["b"]
        await a.manager.create_session(ANN, NewSession(id="s"))
        await a.manager.share(ANN, "s", NewShare(user_id="bob"))
        async with Reader(await connected(a, ANN, connection_id="mine")) as owners:
            await owners.take_until("open")

            async def is_told() -> bool:
                return bool(await b.manager.connections(ANN, "s"))

            await eventually(is_told)
            async with Reader(await connected(b, BOB, connection_id="mine")) as readers:
                assert readers.connection.id != "mine"
            await a.manager.append_events(ANN, "s", [custom(1)])
            await owners.take_until("custom")


@pytest.mark.parametrize("is_open", [True, False], ids=["half-open", "ended"])
async def test_a_stream_that_is_reconnected_at_another_process_misses_nothing(
    two: Replicas, is_open: bool
):
    """It goes on from the start of the run that was active when the old one was last written."""
    a, b = two["a"], two["b"]
    run_id = (await a.chat())["run_id"]
    async with await a.reader(connection_id="mine") as old:
        a.agent.do(run_id, Token("1"))
        await old.take_until("token")
        begin = old.events[0].seq

        async def is_told() -> bool:
            return bool(await b.manager.connections(ME, "s"))

        await eventually(is_told)
        if not is_open:
            old.close()
        a.agent.do(run_id, Token("2"), Complete())
        await a.ended(run_id)
        async with await b.reader(connection_id="mine", reconnect=True) as new:
            await new.take_until("complete")
            assert new.events[0].seq == begin
            seqs = [frame.seq for frame in new.events]
            assert seqs == list(range(begin, begin + len(seqs)))


async def test_a_session_that_is_read_elsewhere_is_active_and_then_disconnected(two: Replicas):
    a, b = two["a"], two["b"]
    await a.manager.create_session(ME, NewSession(id="s", ttl_seconds=60))

    async def state() -> str:
        return (await a.manager.get_session(ME, "s"))[0]["state"]

    async def is_active() -> bool:
        listed = await a.manager.list_sessions(ME, SessionQuery(state="active"))
        return await state() == "active" and len(listed.sessions) == 1

    async def is_disconnected() -> bool:
        listed = await a.manager.list_sessions(ME, SessionQuery(state="disconnected"))
        return await state() == "disconnected" and len(listed.sessions) == 1

    async with await b.reader() as reader:
        await reader.take_until("open")
        await eventually(is_active)
        two.clock.advance(61)
        assert await state() == "active"  # an open stream is activity
    await eventually(is_disconnected)


async def test_streams_of_a_dead_process_count_for_nobody(two_of_memory: Replicas):
    two = two_of_memory
    a, b = two["a"], two["b"]
    await a.manager.create_session(ME, NewSession(id="s"))
    async with await b.reader(connection_id="mine") as reader:
        await reader.take_until("open")

        async def listed() -> bool:
            return bool(await a.manager.connections(ME, "s"))

        await eventually(listed)
        two.memory.dead.add("b")
        assert await a.manager.connections(ME, "s") == []
        with pytest.raises(NotFound):
            await a.manager.disconnect(ME, "s", "mine")
        two.memory.dead.discard("b")


async def test_a_process_that_was_taken_for_dead_tells_its_streams_again(two_of_memory: Replicas):
    two = two_of_memory
    a, b = two["a"], two["b"]
    await a.manager.create_session(ME, NewSession(id="s"))
    async with await b.reader(connection_id="mine") as reader:
        await reader.take_until("open")

        async def listed() -> bool:
            return bool(await a.manager.connections(ME, "s"))

        await eventually(listed)
        two.memory.presences.clear()
        two.stores["b"].shared.lose("b2")
        await eventually(listed)


async def test_a_process_that_shuts_down_says_goodbye_to_streams_of_others_runs_at_once(
    two: Replicas,
):
    """Such a stream goes on at another process; that of an own run waits for its end."""
    a, b = two["a"], two["b"]
    run_id = (await a.chat())["run_id"]
    await b.manager.create_session(ME, NewSession(id="idle"))
    own = (await b.chat("own"))["run_id"]
    async with (
        await b.reader() as others,
        await b.reader("idle") as idle,
        await b.reader("own") as owns,
    ):
        for reader in (others, idle, owns):
            await reader.take_until("open")
        b.manager.begin_drain()
        for reader in (others, idle):
            await reader.take_all()
            assert reader.goodbye is not None
            assert reader.goodbye["reason"] == "shutdown"
        position = others.last_id
        b.agent.do(own, Token("mine"), Complete())
        await owns.take_until("complete")
        async with await a.reader(last_event_id=position) as again:
            a.agent.do(run_id, Token("1"), Complete())
            await again.take_until("complete")


# -- what may go wrong ---------------------------------------------------------------------------


async def test_a_store_that_does_not_answer_delays_streams_and_ends_none(two: Replicas):
    a, b = two["a"], two["b"]
    await a.manager.create_session(ME, NewSession(id="s"))
    async with await b.reader() as reader:
        await reader.take_until("open")
        b.store.fail("read", Unavailable("away"))
        await a.manager.append_events(ME, "s", [custom(1)])
        await reader.take_until("custom")
        assert [frame.data["value"] for frame in reader.events] == [1]


async def test_compaction_at_another_process_does_not_stop_a_stream(two: Replicas):
    """Deltas that are gone before they were shown are left out, and what follows is shown."""
    a, b = two["a"], two["b"]
    await a.manager.create_session(ME, NewSession(id="s"))
    async with await b.reader() as reader:
        await reader.take_until("open")
        run_id = (await a.chat())["run_id"]
        a.agent.do(run_id, *[Token(str(number)) for number in range(20)], Complete())
        await a.ended(run_id)
        head = await a.store.load("s")
        assert head is not None
        await a.store.compact("s", head.epoch, head.seq)
        await reader.take_until("complete")


async def test_readers_at_random_processes_see_every_event_once_in_order(two: Replicas):
    """R2: they change the process with their last position, while both processes write."""
    chance = random.Random(5)
    a, b = two["a"], two["b"]
    names = ["s-0", "s-1", "s-2"]
    for name in names:
        await a.manager.create_session(ME, NewSession(id=name))

    async def write(name: str) -> None:
        for number in range(40):
            gate = chance.choice([a, b])
            await gate.manager.append_events(ME, name, [custom(number)])
        await a.manager.append_events(ME, name, [custom(-1)])

    seen: dict[str, list[int]] = {name: [] for name in names}

    async def read(name: str) -> None:
        position: str | None = None
        while not seen[name] or seen[name][-1] != -1:
            gate = chance.choice([a, b])
            where = {"last_event_id": position} if position else {"after": "0"}
            async with await gate.reader(name, **where) as reader:
                enough = len(reader.events) + chance.randrange(1, 8)
                while len(reader.events) < enough:
                    await reader.take()
                    if any(frame.data.get("value") == -1 for frame in reader.events):
                        break
                seen[name] += [
                    frame.data["value"] for frame in reader.events if frame.type == "custom"
                ]
                position = reader.last_id

    with anyio.fail_after(DEADLINE_SECONDS):
        async with anyio.create_task_group() as tasks:
            for name in names:
                tasks.start_soon(write, name)
                tasks.start_soon(read, name)
    for name in names:
        logged = [event["value"] for event in await a.log(name) if event["type"] == "custom"]
        assert seen[name] == logged
        assert len(logged) == 41
