"""R1 and R8: nothing is shown that is not durable, and a failed commit undoes all behind it."""

import json
from collections.abc import Awaitable, Callable
from typing import Any

import anyio
import pytest

from bamboo_gateway.api.frames import NATIVE
from bamboo_gateway.domain.errors import (
    BambooError,
    NotFound,
    Refused,
    SessionExists,
    StorageFailed,
    StorageFull,
    Unavailable,
)
from bamboo_gateway.domain.events import Complete, Token
from bamboo_gateway.sessions.commands import NewMessage, NewSession, SessionQuery
from tests.support.gateways import DEADLINE_SECONDS, ME, Gateway, eventually, gateway, quiet
from tests.support.logs import captured_logs

NEW = "NOT-DURABLE"


async def everything_shown(gate: Gateway, session_id: str = "s") -> str:
    """Look through every read path there is; return what they say as one text."""
    seen: list[Any] = []

    async def look(read: Callable[[], Awaitable[Any]]) -> None:
        try:
            seen.append(await read())
        except BambooError as error:
            seen.append(error.code)

    manager = gate.manager
    paths: list[Callable[[], Awaitable[Any]]] = [
        lambda: manager.get_session(ME, session_id, True),
        lambda: manager.list_sessions(ME, SessionQuery()),
        lambda: manager.messages(ME, session_id),
        lambda: manager.messages(ME, session_id, descending=True),
        lambda: manager.events(ME, session_id, limit=1000),
        lambda: manager.events(ME, session_id, limit=1000, descending=True),
        lambda: manager.runs(ME, session_id),
        lambda: manager.run(ME, session_id, NEW),
        lambda: manager.connections(ME, session_id),
    ]
    async with anyio.create_task_group() as tasks:
        for path in paths:
            tasks.start_soon(look, path)
        await quiet()
        # A read may wait for what is in flight; it may not answer with it.
        tasks.cancel_scope.cancel()
    return repr(seen)


CHANGES: dict[str, Callable[[Gateway], Awaitable[Any]]] = {
    "a message": lambda g: g.manager.add_messages(ME, "s", [NewMessage("user", NEW)]),
    "an event": lambda g: g.manager.append_events(
        ME, "s", [{"type": "custom", "name": NEW, "value": 1}]
    ),
    "a chat": lambda g: g.chat(text=NEW, run_id=NEW),
    "a title": lambda g: g.manager.update_session(ME, "s", {"title": NEW}),
    "metadata": lambda g: g.manager.update_session(ME, "s", {"metadata": {"a": NEW}}),
}


@pytest.mark.parametrize("change", CHANGES)
async def test_nothing_is_shown_or_answered_before_it_is_durable(change: str, gate: Gateway):
    """R1. A known failure elsewhere: a message acknowledged but in memory for a minute."""
    await gate.chat(run_id="a")
    gate.agent.do("a", Complete())
    await gate.ended("a")
    reader = await gate.reader()
    await reader.take_what_is_there()
    before = await everything_shown(gate)
    gate.store.hold_appends()
    answered: list[Any] = []

    async def make() -> None:
        answered.append(await CHANGES[change](gate))

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(make)
        await eventually(lambda: gate.store.held)
        assert NEW not in await everything_shown(gate)
        await reader.take_what_is_there()
        assert reader.events == []
        assert not answered
        gate.store.release_appends()
    assert answered
    assert NEW in await everything_shown(gate)
    assert NEW not in before
    await reader.take_what_is_there()
    assert reader.events
    reader.close()


@pytest.mark.parametrize("change", CHANGES)
async def test_what_could_not_be_stored_was_never_there(change: str, gate: Gateway):
    """R1: neither while the head is loaded again, nor after it."""
    await gate.chat(run_id="a")
    gate.agent.do("a", Complete())
    await gate.ended("a")
    await quiet()
    before = await gate.log()
    view = await gate.manager.get_session(ME, "s")
    gate.store.fail_append(1)
    gate.store.hold("load")
    with pytest.raises(StorageFailed):
        await CHANGES[change](gate)
    assert NEW not in await everything_shown(gate)
    gate.store.let_go("load")
    await quiet()
    assert NEW not in await everything_shown(gate)
    assert await gate.log() == before
    assert await gate.manager.get_session(ME, "s") == view
    await CHANGES[change](gate)
    assert NEW in await everything_shown(gate)
    log = await gate.log()
    assert [event["seq"] for event in log] == list(range(1, len(log) + 1))


CALLS: dict[str, Callable[[Gateway], Awaitable[Any]]] = {
    **CHANGES,
    "a cancel": lambda g: g.manager.cancel_run(ME, "s", "a"),
    "a wait": lambda g: g.manager.wait_run(ME, "s", "a", 60),
    "an archive": lambda g: g.manager.archive(ME, "s"),
    "a keyed chat": lambda g: g.chat(text=NEW, key="k"),
}


@pytest.mark.parametrize("call", CALLS)
async def test_while_no_head_can_be_loaded_calls_are_refused_and_the_run_goes_on(
    call: str, gate: Gateway
):
    """A database that is away: whoever calls is told so, and what the agent says is kept."""
    await gate.chat(run_id="a")
    await gate.agent.script("a").started.wait()
    away = Unavailable("The database is away.", retry_after_seconds=2)
    gate.store.fail_append(1)
    gate.store.fail("load", *[away] * 1000)
    with pytest.raises(StorageFailed):
        await CHANGES["a message"](gate)
    gate.agent.do("a", Token("x"), Complete())
    with anyio.fail_after(DEADLINE_SECONDS), pytest.raises(Unavailable, match="is away"):
        await CALLS[call](gate)
    gate.store.forgive()
    await eventually(lambda: gate.live().is_ready)
    assert (await gate.ended("a"))["status"] == "completed"
    types = [event["type"] for event in await gate.log()]
    assert types.count("token") == types.count("complete") == 1


async def test_an_outage_is_logged_once_and_its_end_with_a_count(gate: Gateway):
    """A log with two lines a second for each session hides what else happens."""
    away = Unavailable("The database is away.", retry_after_seconds=2)
    sessions = ["one", "two", "three"]
    for session_id in sessions:
        await gate.manager.create_session(ME, NewSession(id=session_id))
    with captured_logs() as lines:
        gate.store.fail_appends()
        gate.store.fail("load", *[away] * 1000)
        for session_id in sessions:
            with pytest.raises(StorageFailed):
                await gate.manager.update_session(ME, session_id, {"title": NEW})
        await eventually(lambda: gate.store.failed["load"] > 2 * len(sessions))
        assert [line["event"] for line in lines if "head" in line["event"]] == [
            "heads not loaded, trying again"
        ]
        gate.store.heal()
        gate.store.forgive()
        await eventually(lambda: all(gate.live(name).is_ready for name in sessions))
    last = lines[-1]
    assert (last["event"], last["code"], last["sessions"]) == ("heads loaded again", away.code, 3)
    assert last["tries"] == gate.store.failed["load"]


async def test_a_session_whose_creation_is_not_durable_is_not_there(gate: Gateway):
    gate.store.hold_appends()
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(gate.manager.create_session, ME, NewSession(id="s", title=NEW))
        await eventually(lambda: gate.store.held)
        assert NEW not in await everything_shown(gate)
        gate.store.release_appends()
    assert NEW in await everything_shown(gate)


async def test_a_session_whose_creation_failed_leaves_nothing(gate: Gateway):
    gate.store.fail_append(1)
    with pytest.raises(StorageFailed):
        await gate.chat(run_id="r")
    await quiet()
    with pytest.raises(NotFound):
        await gate.manager.get_session(ME, "s")
    assert (await gate.manager.stats())["sessions_in_memory"] == 0
    await gate.chat(run_id="r")
    gate.agent.do("r", Complete())
    assert (await gate.ended("r"))["status"] == "completed"


async def test_a_refusal_does_not_stand_on_what_is_undone(gate: Gateway):
    """R1: `session-exists` is an answer too."""
    gate.store.hold_appends()
    outcomes: dict[int, Any] = {}

    async def create(number: int) -> None:
        try:
            outcomes[number] = await gate.manager.create_session(ME, NewSession(id="s"))
        except BambooError as error:
            outcomes[number] = error

    with anyio.fail_after(DEADLINE_SECONDS):
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(create, 1)
            await eventually(lambda: gate.store.held)
            tasks.start_soon(create, 2)
            await quiet()
            assert not outcomes
            gate.store.release_appends(StorageFull("full"))
    assert isinstance(outcomes[1], StorageFull)
    assert not isinstance(outcomes[2], SessionExists)


async def test_a_busy_session_refuses_only_for_a_run_that_is_durable(gate: Gateway):
    await gate.manager.create_session(ME, NewSession(id="s"))
    gate.store.hold_appends()
    outcomes: dict[str, Any] = {}

    async def chat(run_id: str) -> None:
        try:
            outcomes[run_id] = await gate.chat(run_id=run_id, on_busy="reject")
        except BambooError as error:
            outcomes[run_id] = error

    with anyio.fail_after(DEADLINE_SECONDS):
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(chat, "a")
            await eventually(lambda: gate.store.held)
            tasks.start_soon(chat, "b")
            await quiet()
            gate.store.release_appends(StorageFailed("no"))
    assert isinstance(outcomes["a"], StorageFailed)
    assert outcomes["b"]["status"] == "running"


async def test_a_failed_commit_undoes_everything_behind_it_and_the_next_works(gate: Gateway):
    """R8: what was decided on top of it goes with it, each caller is told."""
    await gate.manager.create_session(ME, NewSession(id="s"))
    gate.store.hold_appends()
    outcomes: list[Any] = []

    async def add(number: int) -> None:
        try:
            outcomes.append(
                await gate.manager.add_messages(ME, "s", [NewMessage("user", str(number))])
            )
        except BambooError as error:
            outcomes.append(error)

    with anyio.fail_after(DEADLINE_SECONDS):
        async with anyio.create_task_group() as tasks:
            for number in range(20):
                tasks.start_soon(add, number)
            await eventually(lambda: gate.store.held)
            await quiet()
            gate.store.release_appends(StorageFailed("no"))
    assert len(outcomes) == 20
    assert all(isinstance(outcome, StorageFailed) for outcome in outcomes)
    assert len(await gate.log()) == 1
    await gate.manager.add_messages(ME, "s", [NewMessage("user", "next")])
    assert [event["seq"] for event in await gate.log()] == [1, 2]


async def test_fifty_appends_at_once_are_fifty_messages_in_dense_order(gate: Gateway):
    """R8. A known failure elsewhere: of 50 concurrent appends 1-3 messages stayed."""
    await gate.manager.create_session(ME, NewSession(id="s"))
    positions: list[str] = []

    async def add(number: int) -> None:
        outcome = await gate.manager.add_messages(ME, "s", [NewMessage("user", str(number))])
        positions.append(outcome.answer["position"])

    async with anyio.create_task_group() as tasks:
        for number in range(50):
            tasks.start_soon(add, number)
    assert len(set(positions)) == 50
    assert {said["content"] for said in await gate.messages()} == {str(n) for n in range(50)}
    log = await gate.log()
    assert [event["seq"] for event in log] == list(range(1, 52))
    assert (await gate.manager.get_session(ME, "s")).session["message_count"] == 50


async def test_two_creations_of_one_id_make_one_session(gate: Gateway):
    outcomes: list[Any] = []

    async def create() -> None:
        try:
            outcomes.append(await gate.manager.create_session(ME, NewSession(id="s")))
        except SessionExists as error:
            outcomes.append(error)

    async with anyio.create_task_group() as tasks:
        for _ in range(5):
            tasks.start_soon(create)
    assert sum(isinstance(outcome, SessionExists) for outcome in outcomes) == 4
    assert len(await gate.log()) == 1


async def test_two_first_chats_at_once_share_one_session(gate: Gateway):
    answers: list[dict[str, Any]] = []

    async def chat() -> None:
        answers.append(await gate.chat())

    async with anyio.create_task_group() as tasks:
        for _ in range(3):
            tasks.start_soon(chat)
    assert sorted(answer["status"] for answer in answers) == ["queued", "queued", "running"]
    assert (await gate.types()).count("session_created") == 1
    assert (await gate.types()).count("run_start") == 1


@pytest.mark.parametrize("held", ["append", "delete", "load", "find", "read", "nothing"])
async def test_a_delete_that_races_with_everything_leaves_no_half_session(held: str, gate: Gateway):
    """R9: whatever was first, the session is gone or is a new one, and nobody hangs."""
    await gate.chat(run_id="a")
    gate.agent.do("a", Token("x"))
    await gate.agent.script("a").started.wait()
    await quiet()
    old = gate.live().epoch
    reader = await gate.reader(from_start=True)
    await reader.take()
    if held != "nothing":
        gate.store.hold(held)
    manager = gate.manager
    outcomes: list[Any] = []

    async def one(call: Callable[[], Awaitable[Any]]) -> None:
        try:
            outcomes.append(await call())
        except (NotFound, Refused) as error:
            outcomes.append(error)

    calls: list[Callable[[], Awaitable[Any]]] = [
        lambda: manager.add_messages(ME, "s", [NewMessage("user", "x")]),
        lambda: manager.delete_session(ME, "s"),
        lambda: manager.append_events(ME, "s", [{"type": "custom", "name": "x"}]),
        lambda: manager.messages(ME, "s"),
        lambda: manager.run(ME, "s", "a"),
        lambda: manager.runs(ME, "s"),
        lambda: manager.events(ME, "s"),
        lambda: manager.events(ME, "s", descending=True),
        lambda: manager.get_session(ME, "s", True),
        lambda: manager.wait_run(ME, "s", "a", 60),
        lambda: manager.cancel_run(ME, "s", "a"),
        lambda: manager.cancel_session(ME, "s"),
        lambda: manager.close_session(ME, "s"),
        lambda: manager.delete_session(ME, "s"),
    ]
    with anyio.fail_after(DEADLINE_SECONDS):
        async with anyio.create_task_group() as tasks:
            for call in calls:
                tasks.start_soon(one, call)
            await quiet()
            if held != "nothing":
                gate.store.let_go(held)
        assert len(outcomes) == len(calls)
        await reader.take_all()
    assert reader.goodbye is not None
    assert reader.goodbye["reason"] == "deleted"
    reader.close()
    await quiet()
    with pytest.raises(NotFound):
        await manager.get_session(ME, "s")
    assert gate.leftovers() == []
    await gate.chat(run_id="a")
    assert gate.live().epoch > old


async def test_a_delete_that_fails_leaves_the_session_whole(gate: Gateway):
    """R9."""
    await gate.chat(run_id="a")
    await gate.agent.script("a").started.wait()
    gate.store.fail("delete", StorageFailed("no"))
    with pytest.raises(StorageFailed):
        await gate.manager.delete_session(ME, "s")
    gate.agent.do("a", Token("x"), Complete())
    assert (await gate.ended("a"))["status"] == "completed"


async def test_a_delete_whose_caller_has_gone_ends_the_run_and_the_streams(gate: Gateway):
    await gate.chat(run_id="a")
    await gate.agent.script("a").started.wait()
    reader = await gate.reader()
    await reader.take_what_is_there()
    gate.store.hold("delete")
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(gate.manager.delete_session, ME, "s")
        await eventually(lambda: gate.store.waiting.get("delete"))
        tasks.cancel_scope.cancel()
    gate.store.let_go("delete")
    await eventually(lambda: gate.agent.script("a").finished.is_set())
    await reader.take_all()
    assert reader.goodbye is not None
    reader.close()
    with pytest.raises(NotFound):
        await gate.manager.get_session(ME, "s")
    await quiet()
    assert gate.leftovers() == []


VERBS: dict[str, Callable[[Gateway], Awaitable[Any]]] = {
    **CHANGES,
    "the first chat": lambda g: g.chat("fresh", run_id="f"),
    "a keyed chat": lambda g: g.chat(text=NEW, key="k"),
    "an interrupt": lambda g: g.chat(text=NEW, on_busy="interrupt"),
    "a stream": lambda g: g.manager.connect(ME, "s", _request(), NATIVE),
    "a wait": lambda g: g.manager.wait_run(ME, "s", "a", 60),
    "a cancel": lambda g: g.manager.cancel_run(ME, "s", "a"),
    "a close": lambda g: g.manager.close_session(ME, "s"),
    "a poll": lambda g: g.manager.events(ME, "s", after=1, wait_seconds=60),
}


def _request() -> Any:
    from bamboo_gateway.sessions.commands import StreamRequest

    return StreamRequest(until_complete=True, run_id="a")


@pytest.mark.parametrize("busy", [False, True])
@pytest.mark.parametrize("held", ["append", "ack", "find", "load", "read"])
@pytest.mark.parametrize("verb", VERBS)
async def test_a_caller_that_goes_away_at_any_wait_leaves_nothing_behind(
    verb: str, held: str, busy: bool, gate: Gateway
):
    """R6, R11: no leaked waiter, no leaked place in memory, no stuck session."""
    await gate.chat(run_id="a")
    if not busy:
        gate.agent.do("a", Complete())
        await gate.ended("a")
    await quiet()
    gate.store.hold(held)
    results: list[Any] = []

    async def call() -> None:
        try:
            results.append(await VERBS[verb](gate))
        except BambooError as error:
            results.append(error)

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(call)
        await quiet()
        tasks.cancel_scope.cancel()
    gate.store.let_go(held)
    for result in results:
        if hasattr(result, "aclose"):
            result.aclose()
    await quiet()
    for session_id in ("s", "fresh"):
        await gate.finish_runs(session_id)
    assert gate.leftovers() == []
    ends = [
        event["run_id"]
        for event in await gate.log()
        if event["type"] in ("complete", "error", "cancelled")
    ]
    begun = [event["run_id"] for event in await gate.log() if event["type"] == "run_start"]
    assert sorted(ends) == sorted(begun)
    log = await gate.log()
    assert [event["seq"] for event in log] == list(range(1, len(log) + 1))


async def test_the_same_is_read_from_the_store_as_was_streamed(gate: Gateway):
    """An event is encoded once: what a stream shows and what the log holds are the same bytes."""
    await gate.chat(run_id="a")
    gate.agent.do("a", Token('ü\u2028\x00\\"\n'), Complete())
    await gate.ended("a")
    reader = await gate.reader(from_start=True)
    await reader.take_what_is_there()
    page = await gate.manager.events(ME, "s", limit=1000)
    assert [json.loads(body) for body in page.events] == [f.data for f in reader.events]
    for body in page.events:
        assert b"data: " + body + b"\n\n" in reader.bytes
    reader.close()


async def test_a_late_commit_after_the_end_of_the_gateway_disturbs_nobody():
    with anyio.fail_after(DEADLINE_SECONDS):
        async with gateway(cancel_timeout_seconds=0.05) as gate:
            gate.store.hold_appends()
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(gate.chat)
                await eventually(lambda: gate.store.held)
                tasks.cancel_scope.cancel()
        gate.store.release_appends()
        await quiet()
    assert (await gate.types())[-1] == "run_start"
    assert gate.agent.asked == []
