"""States, expiry, places in memory, and what PATCH changes (docs/reference/sessions.md)."""

from collections import Counter
from typing import Any, cast

import anyio
import anyio.lowlevel
import pytest

from bamboo_gateway.api.frames import NATIVE
from bamboo_gateway.domain.errors import (
    BambooError,
    InvalidInput,
    LimitReached,
    NotFound,
    PreconditionFailed,
    RunActive,
    SessionClosed,
    SessionExists,
    SessionExpired,
    StorageFailed,
    TooLarge,
    Unavailable,
)
from bamboo_gateway.domain.events import Complete, Token
from bamboo_gateway.domain.sessions import SessionState
from bamboo_gateway.sessions.commands import NewMessage, NewSession, SessionQuery, StreamRequest
from bamboo_gateway.sessions.registry import _PAGE_HEADS
from tests.support.gateways import DEADLINE_SECONDS, ME, Gateway, eventually, gateway, quiet


async def state(gate: Gateway, session_id: str = "s") -> str:
    return str((await gate.manager.get_session(ME, session_id)).session["state"])


async def test_r12_going_through_all_sessions_lets_others_on(gate: Gateway):
    for n in range(3 * _PAGE_HEADS):
        await gate.manager.create_session(ME, NewSession(id=f"s-{n}"))
    turns = 0

    async def count_turns() -> None:
        nonlocal turns
        while True:
            await anyio.lowlevel.checkpoint()
            turns += 1

    # The first pass brings the list up to date; from then on nothing in it waits by itself.
    for _ in range(2):
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(count_turns)
            await anyio.lowlevel.checkpoint()
            every = gate.manager._registry.each(ME, SessionQuery())
            seen = [(turns, head.id) async for head in every]
            tasks.cancel_scope.cancel()
        assert len({name for _, name in seen}) == 3 * _PAGE_HEADS
        assert max(Counter(turn for turn, _ in seen).values()) <= _PAGE_HEADS


# -- states ---------------------------------------------------------------------------------------


async def test_states_are_computed_from_runs_and_streams(gate: Gateway):
    await gate.manager.create_session(ME, NewSession(id="s"))
    assert await state(gate) == "idle"
    reader = await gate.reader()
    assert await state(gate) == "active"
    other = await gate.reader()
    reader.close()
    assert await state(gate) == "active"
    other.close()
    assert await state(gate) == "disconnected"
    await gate.chat(run_id="a")
    assert await state(gate) == "active"
    gate.agent.do("a", Complete())
    await gate.ended("a")
    assert await state(gate) == "disconnected"
    gate.clock.advance(gate.settings.disconnect_retention_seconds)
    assert await state(gate) == "idle"
    assert "state_change" not in await gate.types()


async def test_a_session_is_found_by_its_state(gate: Gateway):
    for session_id in ("idle", "watched", "closed"):
        await gate.manager.create_session(ME, NewSession(id=session_id))
    reader = await gate.reader("watched")
    await gate.manager.close_session(ME, "closed")
    for name, wanted in [("idle", "idle"), ("active", "watched"), ("closed", "closed")]:
        page = await gate.manager.list_sessions(ME, SessionQuery(state=cast("SessionState", name)))
        assert [session["id"] for session in page.sessions] == [wanted]
    reader.close()


async def test_a_closed_session_is_read_and_not_written_until_it_is_reopened(gate: Gateway):
    await gate.chat(run_id="a")
    with pytest.raises(RunActive):
        await gate.manager.close_session(ME, "s")
    gate.agent.do("a", Token("x"), Complete())
    await gate.ended("a")
    await quiet()
    closed = (await gate.manager.close_session(ME, "s")).answer
    assert closed["state"] == "closed"
    for write in (
        lambda: gate.chat(),
        lambda: gate.manager.add_messages(ME, "s", [NewMessage("user", "x")]),
        lambda: gate.manager.append_events(ME, "s", [{"type": "custom", "name": "x"}]),
        lambda: gate.manager.update_session(ME, "s", {"title": "x"}),
    ):
        with pytest.raises(SessionClosed):
            await write()
    assert len(await gate.messages()) == 2
    again = (await gate.manager.close_session(ME, "s")).answer
    assert again["position"] == closed["position"]
    assert (await gate.manager.reopen_session(ME, "s")).answer["state"] == "idle"
    await gate.chat()


# -- expiry ---------------------------------------------------------------------------------------


async def test_an_expired_session_is_gone_for_all_but_delete_and_reopen(gate: Gateway):
    manager = gate.manager
    await manager.create_session(ME, NewSession(id="s", ttl_seconds=60))
    await gate.chat(run_id="a")
    gate.agent.do("a", Complete())
    await gate.ended("a")
    await quiet()
    gate.clock.advance(61)
    calls: list[Any] = [
        lambda: manager.get_session(ME, "s"),
        lambda: manager.messages(ME, "s"),
        lambda: manager.events(ME, "s"),
        lambda: manager.runs(ME, "s"),
        lambda: manager.run(ME, "s", "a"),
        lambda: manager.wait_run(ME, "s", "a", 0),
        lambda: manager.cancel_run(ME, "s", "a"),
        lambda: manager.cancel_session(ME, "s"),
        lambda: manager.connect(ME, "s", StreamRequest(), NATIVE),
        lambda: manager.connections(ME, "s"),
        lambda: gate.chat(),
        lambda: manager.add_messages(ME, "s", [NewMessage("user", "x")]),
        lambda: manager.append_events(ME, "s", []),
        lambda: manager.update_session(ME, "s", {"title": "x"}),
        lambda: manager.close_session(ME, "s"),
    ]
    for call in calls:
        with pytest.raises(SessionExpired):
            await call()
    await manager.delete_session(ME, "s")
    with pytest.raises(NotFound):
        await manager.get_session(ME, "s")
    await gate.chat()


async def test_activity_postpones_the_expiry(gate: Gateway):
    """A known failure elsewhere: TTL absolute."""
    await gate.manager.create_session(ME, NewSession(id="s", ttl_seconds=60))
    for _ in range(3):
        gate.clock.advance(50)
        await gate.manager.add_messages(ME, "s", [NewMessage("user", "x")])
    gate.clock.advance(59)
    await gate.manager.get_session(ME, "s")
    gate.clock.advance(2)
    with pytest.raises(SessionExpired):
        await gate.manager.get_session(ME, "s")


async def test_an_open_stream_and_a_run_keep_a_session_from_expiring(gate: Gateway):
    await gate.manager.create_session(ME, NewSession(id="s", ttl_seconds=60))
    reader = await gate.reader()
    gate.clock.advance(600)
    assert await state(gate) == "active"
    reader.close()
    gate.clock.advance(59)
    await gate.chat(run_id="a")
    gate.clock.advance(600)
    assert await state(gate) == "active"
    gate.agent.do("a", Complete())
    await gate.ended("a")
    gate.clock.advance(59)
    await gate.manager.get_session(ME, "s")


async def test_a_clock_that_steps_back_makes_nothing_older(gate: Gateway):
    await gate.manager.create_session(ME, NewSession(id="s", ttl_seconds=60))
    before = (await gate.manager.get_session(ME, "s")).session["last_activity_at"]
    gate.clock.step_back(3600)
    await gate.manager.add_messages(ME, "s", [NewMessage("user", "x")])
    assert (await gate.manager.get_session(ME, "s")).session["last_activity_at"] == before


# -- PATCH ----------------------------------------------------------------------------------------


async def test_patch_merges_and_changes_the_etag(gate: Gateway):
    await gate.manager.create_session(ME, NewSession(id="s", metadata={"a": {"x": 1, "y": 2}}))
    first = await gate.manager.get_session(ME, "s")
    patched = await gate.manager.update_session(
        ME, "s", {"title": "T", "metadata": {"a": {"x": None, "z": 3}, "b": 1}}
    )
    assert patched.session["title"] == "T"
    assert patched.session["metadata"] == {"a": {"y": 2, "z": 3}, "b": 1}
    assert patched.etag != first.etag
    same = await gate.manager.update_session(ME, "s", {"title": "T"}, patched.etag)
    assert same.etag == patched.etag
    with pytest.raises(PreconditionFailed):
        await gate.manager.update_session(ME, "s", {"title": "U"}, first.etag)
    await gate.manager.update_session(ME, "s", {"title": "U"}, f"{first.etag}, {patched.etag}")
    await gate.manager.update_session(ME, "s", {"title": "V"}, "*")
    with pytest.raises(InvalidInput):
        await gate.manager.update_session(ME, "s", {"id": "x"})
    with pytest.raises(TooLarge):
        await gate.manager.update_session(ME, "s", {"metadata": {"a": "x" * 70_000}})


async def test_two_patches_with_one_etag_are_one_change(gate: Gateway):
    """R8: a lost update is refused."""
    await gate.manager.create_session(ME, NewSession(id="s"))
    etag = (await gate.manager.get_session(ME, "s")).etag
    outcomes: list[Any] = []

    async def patch(title: str) -> None:
        try:
            outcomes.append(await gate.manager.update_session(ME, "s", {"title": title}, etag))
        except PreconditionFailed as error:
            outcomes.append(error)

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(patch, "one")
        tasks.start_soon(patch, "two")
    assert sum(isinstance(outcome, PreconditionFailed) for outcome in outcomes) == 1


async def test_a_delta_does_not_change_the_etag(gate: Gateway):
    await gate.chat(run_id="a")
    etag = (await gate.manager.get_session(ME, "s")).etag
    gate.agent.do("a", Token("x"))
    await eventually(lambda: gate.agent.script("a").taken == 1)
    await quiet()
    assert (await gate.manager.get_session(ME, "s")).etag == etag


# -- places in memory -----------------------------------------------------------------------------


async def test_idle_sessions_leave_memory_and_come_back_on_demand(gate: Gateway):
    await gate.chat("quiet", run_id="a")
    gate.agent.do("a", Complete())
    await gate.ended("a", "quiet")
    await gate.chat("running", run_id="b")
    await gate.manager.create_session(ME, NewSession(id="watched"))
    reader = await gate.reader("watched")
    await quiet()
    gate.clock.advance(gate.settings.idle_timeout_seconds + 1)
    gate.manager._registry.evict_idle()
    assert {live.id for live in gate.manager._registry.sessions} == {"running"}
    assert await state(gate, "watched") == "active"
    assert len(await gate.messages("quiet")) == 1
    again = await gate.reader("quiet", from_start=True)
    await again.take_what_is_there()
    assert [f.type for f in again.events] == await gate.types("quiet")
    again.close()
    reader.close()


async def test_a_reading_call_takes_no_place(gate: Gateway):
    await gate.manager.create_session(ME, NewSession(id="s"))
    await quiet()
    gate.clock.advance(gate.settings.idle_timeout_seconds + 1)
    gate.manager._registry.evict_idle()
    await gate.manager.get_session(ME, "s")
    await gate.manager.messages(ME, "s")
    assert (await gate.manager.stats())["sessions_in_memory"] == 0


async def test_the_least_recently_used_idle_session_makes_room():
    """A known failure elsewhere: cleanup evicts a session that just reconnected."""
    async with gateway(max_active_sessions=3) as gate:
        for session_id in "abc":
            await gate.manager.create_session(ME, NewSession(id=session_id))
        reader = await gate.reader("a")
        await gate.manager.add_messages(ME, "b", [NewMessage("user", "x")])
        await gate.manager.create_session(ME, NewSession(id="d"))
        assert {live.id for live in gate.manager._registry.sessions} == {"a", "b", "d"}
        reader.close()


async def test_when_all_places_are_busy_others_are_told_to_come_back():
    async with gateway(max_active_sessions=2) as gate:
        for name in "ab":
            await gate.chat(name, run_id=name)
        for call in (
            lambda: gate.chat("c"),
            lambda: gate.manager.create_session(ME, NewSession(id="c")),
        ):
            with pytest.raises(Unavailable) as caught:
                await call()
            assert caught.value.code == "too-many-active-sessions"
        gate.agent.do("b", Complete())
        await gate.ended("b", "b")
        await quiet()
        await gate.chat("c")
        gate.agent.do("a", Token("still"), Complete())
        assert (await gate.ended("a", "a"))["status"] == "completed"


async def test_a_session_waiting_for_the_disk_is_not_evicted():
    async with gateway(max_active_sessions=1) as gate:
        await gate.manager.create_session(ME, NewSession(id="a"))
        gate.store.hold_appends()
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(gate.manager.add_messages, ME, "a", [NewMessage("user", "x")])
            await eventually(lambda: gate.store.held)
            with pytest.raises(Unavailable):
                await gate.manager.create_session(ME, NewSession(id="b"))
            gate.store.release_appends()


async def test_max_sessions_refuses_creation_and_nothing_else():
    async with gateway(max_sessions=2) as gate:
        await gate.manager.create_session(ME, NewSession(id="a"))
        await gate.chat("b")
        for call in (
            lambda: gate.manager.create_session(ME, NewSession(id="c")),
            lambda: gate.chat("c"),
        ):
            with pytest.raises(LimitReached) as caught:
                await call()
            assert caught.value.code == "too-many-sessions"
        await gate.chat("a")
        with pytest.raises(SessionExists):
            await gate.manager.create_session(ME, NewSession(id="a"))
        await gate.manager.delete_session(ME, "a")
        await gate.manager.create_session(ME, NewSession(id="c"))


async def test_max_sessions_holds_for_creations_at_once():
    async with gateway(max_sessions=3) as gate:
        outcomes: list[Any] = []

        async def create() -> None:
            try:
                outcomes.append(await gate.manager.create_session(ME, NewSession()))
            except LimitReached as error:
                outcomes.append(error)

        async with anyio.create_task_group() as tasks:
            for _ in range(10):
                tasks.start_soon(create)
        assert sum(isinstance(outcome, LimitReached) for outcome in outcomes) == 7
        assert (await gate.store.usage()).sessions == 3


async def test_a_session_that_is_opened_by_many_at_once_is_loaded_once(gate: Gateway):
    await gate.manager.create_session(ME, NewSession(id="s"))
    await quiet()
    gate.clock.advance(gate.settings.idle_timeout_seconds + 1)
    gate.manager._registry.evict_idle()
    gate.store.hold("load")
    results: list[Any] = []

    async def add(number: int) -> None:
        results.append(await gate.manager.add_messages(ME, "s", [NewMessage("user", str(number))]))

    async def add_and_leave(scope: anyio.CancelScope) -> None:
        with scope:
            await add(100)

    with anyio.fail_after(DEADLINE_SECONDS):
        async with anyio.create_task_group() as tasks:
            leaving = anyio.CancelScope()
            tasks.start_soon(add_and_leave, leaving)
            await eventually(lambda: gate.store.waiting.get("load"))
            for number in range(5):
                tasks.start_soon(add, number)
            await quiet()
            leaving.cancel()
            await quiet()
            gate.store.let_go("load")
    assert len(results) == 5
    assert len(await gate.messages()) == 5


async def test_a_session_that_could_not_be_loaded_is_tried_again(gate: Gateway):
    await gate.manager.create_session(ME, NewSession(id="s"))
    await quiet()
    gate.clock.advance(gate.settings.idle_timeout_seconds + 1)
    gate.manager._registry.evict_idle()
    gate.store.fail("load", StorageFailed("no"))
    with pytest.raises(StorageFailed):
        await gate.chat()
    await gate.chat()


async def test_get_or_create_gives_what_is_there(gate: Gateway):
    one = await gate.manager.get_or_create_session(ME, NewSession(id="s", title="one"))
    two = await gate.manager.get_or_create_session(ME, NewSession(id="s", title="two"))
    assert one["title"] == two["title"] == "one"


async def test_reading_on_after_a_failing_disk(gate: Gateway):
    """A full disk refuses writes, never reads."""
    await gate.chat(run_id="a")
    gate.agent.do("a", Token("x"), Complete())
    await gate.ended("a")
    gate.store.fail_appends()
    with pytest.raises(BambooError):
        await gate.chat()
    assert len(await gate.messages()) == 2
    reader = await gate.reader(from_start=True)
    await reader.take_what_is_there()
    assert reader.events
    reader.close()
