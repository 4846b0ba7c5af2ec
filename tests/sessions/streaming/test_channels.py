"""Readers of sessions at rest: they need no place in memory, and miss nothing while they wait."""

import gc
import random
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

import anyio
import pytest

from bamboo_gateway.api.frames import NATIVE
from bamboo_gateway.domain.callers import Caller
from bamboo_gateway.domain.errors import NotFound, Unavailable
from bamboo_gateway.domain.events import Complete, Token
from bamboo_gateway.domain.sessions import SessionHead
from bamboo_gateway.sessions.commands import NewSession, SessionQuery, StreamRequest
from bamboo_gateway.sessions.manager import SessionManager
from bamboo_gateway.sessions.sharing import NewShare
from bamboo_gateway.sessions.streaming.session_writer import SessionWriter
from bamboo_gateway.storage.factory import make_store
from tests.support.clocks import FakeClock
from tests.support.gateways import (
    DEADLINE_SECONDS,
    ME,
    Gateway,
    Reader,
    eventually,
    gateway,
    quiet,
    settings_of,
)

ANN, BOB = Caller("ann", "ann"), Caller("bob", "bob")
FAST: dict[str, Any] = {"heartbeat_interval_seconds": 0.015}


def custom(number: int) -> dict[str, Any]:
    return {"type": "custom", "name": "n", "value": number}


def in_memory(gate: Gateway) -> set[str]:
    return {live.id for live in gate.manager._registry.sessions}


def leave_memory(gate: Gateway, *session_ids: str) -> None:
    """Evict these sessions, which nothing may need."""
    gate.clock.advance(gate.settings.idle_timeout_seconds + 1)
    gate.manager._registry.evict_idle()
    assert not in_memory(gate) & set(session_ids)


@asynccontextmanager
async def at_rest(gate: Gateway, **request: Any) -> AsyncIterator[Reader]:
    """Open a stream on a session `s` that then leaves memory."""
    await gate.manager.create_session(ANN, NewSession(id="s", title="t" * 1000, ttl_seconds=3600))
    async with await gate.reader(**request) as reader:
        await reader.take_until("open")
        leave_memory(gate, "s")
        yield reader


# -- what comes ------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["memory", "jsonl"])
async def test_readers_of_many_more_sessions_than_places_get_everything_once_in_order(
    kind: str, tmp_path: Path
):
    """R2: sessions leave and come back while their readers wait, and while events are published."""
    sessions, places = 1000 if kind == "memory" else 100, 10
    names = [f"s-{number}" for number in range(sessions)]
    chance = random.Random(6)
    clock = FakeClock()
    async with AsyncExitStack() as stack:
        store = make_store(settings_of(storage_url=f"{kind}:", data_dir=tmp_path), clock)
        await store.open()
        stack.push_async_callback(store.aclose)
        gate = await stack.enter_async_context(
            gateway(store, clock=clock, max_active_sessions=places)
        )
        readers: dict[str, Reader] = {}
        most = 0

        async def read(name: str) -> None:
            reader = readers[name]
            while not any(frame.data.get("value") == "end" for frame in reader.events):
                assert await reader.take() is not None

        async def write(mine: list[tuple[str, int | str]]) -> None:
            nonlocal most
            for name, value in mine:
                event = {"type": "custom", "name": "n", "value": value}
                await gate.manager.append_events(ME, name, [event])
                most = max(most, len(in_memory(gate)))

        for name in names:
            await gate.manager.create_session(ME, NewSession(id=name))
            readers[name] = await gate.reader(name)
        assert len(in_memory(gate)) == places
        assert (await gate.manager.stats())["streams_open"] == sessions
        rounds: list[list[tuple[str, int | str]]] = [[] for _ in range(4)]
        for name in names:
            mine = chance.choice(rounds)
            mine += [(name, 1), (name, 2), (name, "end")]
        for mine in rounds:
            # Each session's own stay in order; between them, others make it leave.
            order = sorted(range(len(mine)), key=lambda i: (i % 3, chance.random()))
            mine[:] = [mine[i] for i in order]
        with anyio.fail_after(DEADLINE_SECONDS):
            async with anyio.create_task_group() as tasks:
                for name in names:
                    tasks.start_soon(read, name)
                for mine in rounds:
                    tasks.start_soon(write, mine)
        assert most <= places
        for name in names:
            assert [frame.data["value"] for frame in readers[name].events] == [1, 2, "end"]
            assert [frame.seq for frame in readers[name].events] == [2, 3, 4]
            readers[name].close()
        assert gate.manager._channels.all() == []


async def test_a_session_that_leaves_while_a_reader_reads_its_log_loses_it_nothing(gate: Gateway):
    """R2: between the reader's look at the queue and its wait everything happens that can."""
    await gate.manager.create_session(ME, NewSession(id="s"))
    await gate.manager.append_events(ME, "s", [custom(1), custom(2)])
    leave_memory(gate, "s")
    async with await gate.reader(after="0") as reader:
        await reader.take_until("open")
        # Nothing of it is in the new event queue: the log has to be read.
        gate.store.hold("read")
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(reader.take)
            await eventually(lambda: gate.store.waiting.get("read"))
            leave_memory(gate, "s")
            await gate.manager.append_events(ME, "s", [custom(3)])
            leave_memory(gate, "s")
            gate.store.let_go("read")
        await reader.take_what_is_there()
        await gate.manager.append_events(ME, "s", [custom(4)])
        leave_memory(gate, "s")
        await reader.take_what_is_there()
        assert [frame.seq for frame in reader.events] == [1, 2, 3, 4, 5]


async def test_a_reader_that_comes_while_its_session_comes_back_sees_what_follows(gate: Gateway):
    """R2: the stream and the write wait for the same head."""
    async with at_rest(gate) as first:
        gate.store.hold("load")
        readers: list[Reader] = []

        async def connect() -> None:
            readers.append(await gate.reader(connection_id="second"))

        async with anyio.create_task_group() as tasks:
            tasks.start_soon(connect)
            await eventually(lambda: gate.store.waiting.get("load"))
            tasks.start_soon(gate.manager.append_events, ME, "s", [custom(1)])
            await quiet()
            gate.store.let_go("load")
        for reader in (first, *readers):
            await reader.take_what_is_there()
            assert [frame.data["value"] for frame in reader.events] == [1]
            reader.close()


async def test_a_session_does_not_leave_with_a_commit_on_its_way(gate: Gateway):
    async with at_rest(gate) as reader:
        gate.store.hold_appends()
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(gate.manager.append_events, ME, "s", [custom(1)])
            await eventually(lambda: gate.store.held)
            gate.clock.advance(gate.settings.idle_timeout_seconds + 1)
            gate.manager._registry.evict_idle()
            assert in_memory(gate) == {"s"}
            gate.store.release_appends()
        await reader.take_what_is_there()
        assert [frame.data["value"] for frame in reader.events] == [1]


async def test_a_long_poll_needs_no_place_and_is_answered():
    async with gateway(max_active_sessions=1) as gate:
        await gate.manager.create_session(ME, NewSession(id="s"))
        pages: list[Any] = []

        async def poll() -> None:
            pages.append(await gate.manager.events(ME, "s", after=1, wait_seconds=60))

        with anyio.fail_after(DEADLINE_SECONDS):
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(poll)
                await quiet()
                await gate.manager.create_session(ME, NewSession(id="other"))
                assert in_memory(gate) == {"other"}
                assert await gate.manager.connections(ME, "s") == []
                await gate.manager.append_events(ME, "s", [custom(1)])
        assert len(pages[0].events) == 1
        await quiet()
        assert gate.leftovers() == []


async def test_reconnect_shows_a_run_again_whose_end_may_not_have_arrived_before_the_rest(
    gate: Gateway,
):
    """R2: what a dead network may have swallowed is still known when the session has left."""
    await gate.chat(run_id="d")
    reader = await gate.reader(connection_id="tab")
    await reader.take_what_is_there()
    gate.agent.do("d", Token("x"), Complete())
    await gate.ended("d")
    await reader.take_until("complete")
    await quiet()
    leave_memory(gate, "s")
    reader.close()
    async with await gate.reader(connection_id="tab", reconnect=True) as again:
        await again.take_what_is_there()
        assert again.types[-1] == "complete"


# -- places ----------------------------------------------------------------------------------------


async def test_where_all_places_are_busy_streams_open_polls_wait_and_sessions_go():
    async with gateway(max_active_sessions=1) as gate:
        for name in ("s", "other"):
            await gate.manager.create_session(ME, NewSession(id=name))
        await gate.chat("busy", run_id="r")
        with pytest.raises(Unavailable):
            await gate.manager.append_events(ME, "s", [custom(1)])
        async with await gate.reader("s") as reader:
            await reader.take_until("open")
            assert in_memory(gate) == {"busy"}
            await gate.manager.delete_session(ME, "other")
            assert in_memory(gate) == {"busy"}
            gate.agent.do("r", Complete())
            await gate.ended("r", "busy")
            await quiet()
            await gate.manager.append_events(ME, "s", [custom(1)])
            await reader.take_until("custom")
            assert in_memory(gate) == {"s"}


async def test_a_session_that_is_held_beyond_the_limit_gives_no_place_to_others():
    async with gateway(max_active_sessions=1) as gate:
        await gate.manager.create_session(ME, NewSession(id="s"))
        await gate.chat("busy", run_id="r")
        gate.store.hold("find")
        outcomes: list[Any] = []

        async def connect() -> None:
            request = StreamRequest(after=1, until_complete=True, run_id="no-such-run")
            outcomes.append(await gate.manager.connect(ME, "s", request, NATIVE))

        async with anyio.create_task_group() as tasks:
            tasks.start_soon(connect)
            await eventually(lambda: gate.store.waiting.get("find"))
            assert in_memory(gate) == {"s", "busy"}
            with pytest.raises(Unavailable):
                await gate.chat("s")
            gate.store.let_go("find")
        assert outcomes == [None]
        assert in_memory(gate) == {"busy"}


async def test_a_session_without_readers_makes_room_first():
    async with gateway(max_active_sessions=2) as gate:
        await gate.manager.create_session(ME, NewSession(id="read"))
        async with await gate.reader("read"):
            await gate.manager.create_session(ME, NewSession(id="a"))
            await gate.manager.create_session(ME, NewSession(id="b"))
            assert in_memory(gate) == {"read", "b"}


def writers_of(session_id: str) -> list[SessionWriter]:
    """Return all writers of sessions of this id that the process has in memory."""
    return [
        one for one in gc.get_objects() if isinstance(one, SessionWriter) and one.id == session_id
    ]


async def test_a_stream_at_rest_keeps_neither_the_writer_nor_frames(gate: Gateway):
    """R11: neither the writer nor the frames; and nothing waits for the cycle collector."""
    # Agents that never stop hold what earlier tests of this process left behind.
    before = writers_of("s")
    async with at_rest(gate, from_start=True) as reader:
        await gate.manager.append_events(ME, "s", [custom(number) for number in range(100)])
        channel = gate.manager._channels.get("s")
        assert channel is not None
        assert channel.queue._bytes
        gc.collect()
        gc.disable()
        try:
            leave_memory(gate, "s")
            await quiet()
            left = [one for one in writers_of("s") if all(one is not other for other in before)]
        finally:
            gc.enable()
        assert left == []
        assert (channel.queue._bytes, channel.queue._bodies) == (0, [])
        kept = SessionHead("s", channel.epoch, 101, user_id="ann")
        assert channel.head == kept
        await reader.take_what_is_there()
        assert [frame.seq for frame in reader.events] == list(range(1, 102))
    assert gate.manager._channels.all() == []


# -- what is said ----------------------------------------------------------------------------------


async def test_a_session_at_rest_is_seen_with_its_streams(gate: Gateway):
    manager = gate.manager
    async with at_rest(gate, connection_id="tab") as reader:
        (view,) = await manager.connections(ME, "s")
        assert (view["connection_id"], view["lag_events"]) == ("tab", 0)
        session = (await manager.get_session(ME, "s")).session
        assert session["state"] == "active"
        page = await manager.list_sessions(ME, SessionQuery(state="active"))
        assert [each["id"] for each in page.sessions] == ["s"]
        gate.clock.advance(10 * 3600)
        stats = await manager.clean(ME, before_ms=gate.clock.now_ms() + 1)
        assert stats["session_ids"] == []
        assert (await manager.stats())["streams_open"] == 1
        await manager.disconnect(ME, "s", "tab")
        await reader.take_all()
        assert reader.goodbye == {"type": "goodbye", "reason": "superseded", "retry": False}
        reader.close()
        session = (await manager.get_session(ME, "s")).session
        assert session["state"] == "disconnected"
        gate.clock.advance(3599)
        await manager.get_session(ME, "s")


async def test_an_open_stream_is_activity_also_at_rest():
    async with gateway(**FAST) as gate, at_rest(gate, heartbeat_events=True) as reader:
        await reader.take_until("heartbeat")
        now_ms = gate.clock.now_ms()
        head = await gate.store.inner.load("s")
        assert head is not None
        assert head.last_activity_at == now_ms
        assert in_memory(gate) == set()


async def _delete(manager: SessionManager) -> None:
    await manager.delete_session(ME, "s")


async def _drain(manager: SessionManager) -> None:
    manager.begin_drain()


async def _close(manager: SessionManager) -> None:
    await manager.close_session(ME, "s")


async def _archive(manager: SessionManager) -> None:
    await manager.archive(ME, "s")


async def _supersede(manager: SessionManager) -> None:
    newer = await manager.connect(ME, "s", StreamRequest(connection_id="tab"), NATIVE)
    assert newer is not None
    newer.aclose()


@pytest.mark.parametrize(
    ("end", "reason"),
    [
        (_delete, "deleted"),
        (_drain, "shutdown"),
        (_close, "closed"),
        (_archive, "closed"),
        (_supersede, "superseded"),
    ],
)
async def test_what_ends_a_stream_ends_it_at_rest(end: Any, reason: str, gate: Gateway):
    async with at_rest(gate, connection_id="tab") as reader:
        ended: list[Any] = []

        async def read() -> None:
            ended.append(await reader.take_all())

        with anyio.fail_after(DEADLINE_SECONDS):
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(read)
                await quiet()
                await end(gate.manager)
        assert reader.goodbye is not None
        assert reader.goodbye["reason"] == reason


async def test_a_stream_at_rest_lives_as_long_as_allowed():
    async with gateway(**FAST, stream_lifetime_seconds=600) as gate, at_rest(gate) as reader:
        gate.clock.advance(601)
        await reader.take_all()
        assert reader.goodbye == {"type": "goodbye", "reason": "lifetime", "retry": True}


@pytest.mark.parametrize("how", ["revoked", "expired"])
async def test_a_right_that_ends_ends_the_streams_at_rest(how: str):
    async with gateway(**FAST) as gate, at_rest(gate):
        life = gate.manager
        shared = await life.share(ANN, "s", NewShare("bob", expires_in_seconds=60_000))
        connection = await gate.manager.connect(BOB, "s", StreamRequest(), NATIVE)
        assert connection is not None
        async with Reader(connection) as his:
            await his.take_until("open")
            leave_memory(gate, "s")
            assert his.goodbye is None
            if how == "revoked":
                await life.revoke_share(ANN, "s", shared.answer["id"])
            else:
                gate.clock.advance(60_001)
            await his.take_all()
            assert his.goodbye == {"type": "goodbye", "reason": "unauthorized", "retry": True}


async def test_readers_of_a_log_that_is_gone_or_another_are_told(gate: Gateway):
    """R3, R4: nobody waits for ever, nor goes on in a log that is not the one it read."""
    async with at_rest(gate) as reader:
        channel = gate.manager._channels.get("s")
        assert channel is not None
        await gate.store.inner.delete("s", channel.epoch)
        with pytest.raises(NotFound):
            await gate.manager.append_events(ME, "s", [custom(1)])
        await reader.take_all()
        assert reader.goodbye == {"type": "goodbye", "reason": "deleted", "retry": False}
        await gate.manager.create_session(ME, NewSession(id="s"))
        assert await gate.manager.connections(ME, "s") == []
        assert (await gate.manager.get_session(ME, "s")).session["state"] == "idle"
