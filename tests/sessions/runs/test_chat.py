"""A chat becomes a run, waits, is refused, or goes first (docs/reference/chat-and-runs.md)."""

import json
from typing import Any

import anyio
import pytest

from bamboo_gateway.domain.errors import (
    BambooError,
    Draining,
    InvalidInput,
    LimitReached,
    Refused,
    RunActive,
    SessionClosed,
    TooLarge,
)
from bamboo_gateway.domain.events import Complete, Token, ToolStart
from bamboo_gateway.sessions.commands import Chat, NewMessage, NewSession
from tests.support.gateways import DEADLINE_SECONDS, ME, Gateway, eventually, gateway, quiet


async def test_position_stands_just_before_the_first_event_of_the_request(gate: Gateway):
    for run_id in ("a", "b", "c"):
        before = len(await gate.log())
        answer = await gate.chat(run_id=run_id)
        assert answer["position"] == f"{gate.live().epoch}-{before}"
        assert answer["status"] == ("running" if run_id == "a" else "queued")
        run = await gate.manager.run(ME, "s", run_id)
        assert run["position"] == answer["position"]
        assert run["message_ids"] == answer["message_ids"]


async def test_the_first_chat_begins_with_one_commit(gate: Gateway):
    await gate.chat(run_id="a")
    assert await gate.types() == ["session_created", "message", "run_start"]
    assert len(gate.store.commits) == 1


async def test_a_queued_run_starts_with_one_commit(gate: Gateway):
    await gate.chat(run_id="a")
    await gate.chat(text="later", run_id="b")
    assert (await gate.types())[-1] == "run_queued"
    assert len(await gate.messages()) == 1
    before = len(gate.store.commits)
    gate.agent.do("a", Complete())
    await eventually(lambda: "b" in gate.agent.asked)
    assert len(gate.store.commits) == before + 2
    assert (await gate.types())[-3:] == ["complete", "message", "run_start"]


async def test_the_agent_is_given_the_conversation_its_input_last(gate: Gateway):
    await gate.chat(text="one", run_id="a")
    gate.agent.do("a", Token("answer"), Complete())
    await gate.ended("a")
    await gate.chat(text="two", run_id="b", options={"x": 1})
    await gate.agent.script("b").started.wait()
    turn = gate.agent.script("b").turn
    assert turn is not None
    assert [(m.role, m.text) for m in turn.messages] == [
        ("user", "one"),
        ("assistant", "answer"),
        ("user", "two"),
    ]
    assert turn.options == {"x": 1}
    assert turn.session["id"] == "s"


async def test_runs_execute_one_at_a_time_in_the_order_they_came(gate: Gateway):
    for run_id in "abcde":
        await gate.chat(run_id=run_id)
        gate.agent.do(run_id, Token(run_id), Complete())
    await gate.ended("e")
    assert gate.agent.asked == list("abcde")
    running: str | None = None
    for event in await gate.log():
        if event["type"] == "run_start":
            assert running is None
            running = event["run_id"]
        elif event["type"] == "complete":
            assert running == event["run_id"]
            running = None


async def test_a_busy_session_can_reject(gate: Gateway):
    await gate.chat(run_id="a")
    with pytest.raises(RunActive) as caught:
        await gate.chat(on_busy="reject")
    assert caught.value.extra["active_run_id"] == "a"
    gate.agent.do("a", Complete())
    await gate.ended("a")
    await quiet()
    assert (await gate.chat(on_busy="reject"))["status"] == "running"


async def test_an_interrupt_cancels_the_active_run_and_goes_first(gate: Gateway):
    await gate.chat(run_id="a")
    await gate.chat(run_id="b")
    await gate.agent.script("a").started.wait()
    await gate.chat(run_id="c", on_busy="interrupt")
    await eventually(lambda: gate.agent.asked == ["a", "c"])
    assert (await gate.manager.run(ME, "s", "a"))["status"] == "cancelled"
    gate.agent.do("c", Complete())
    gate.agent.do("b", Complete())
    await gate.ended("b")
    assert gate.agent.asked == ["a", "c", "b"]


async def test_an_interrupt_of_an_interrupt_goes_first(gate: Gateway):
    await gate.chat(run_id="a")
    await gate.chat(run_id="b", on_busy="interrupt")
    await gate.chat(run_id="c", on_busy="interrupt")
    for run_id in "abc":
        gate.agent.do(run_id, Complete())
    await gate.ended("b")
    await gate.ended("c")
    statuses = {run["run_id"]: run["status"] for run in (await gate.manager.runs(ME, "s")).runs}
    assert statuses["a"] == "cancelled"
    assert statuses["c"] == "completed"
    await quiet()
    assert gate.leftovers() == []


async def test_an_interrupt_whose_run_starts_before_it_is_durable_is_not_cancelled(gate: Gateway):
    """A late wake-up of the interrupt must not meet its own run."""
    await gate.chat(run_id="a")
    await gate.chat(run_id="b")
    await gate.agent.script("a").started.wait()
    await quiet()
    gate.store.hold_appends()
    gate.agent.do("a", Complete())
    await eventually(lambda: gate.store.held)
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(gate.chat, "s", "x", "c", "interrupt")
        await quiet()
        gate.store.release_appends()
        await quiet()
    gate.agent.do("b", Complete())
    gate.agent.do("c", Token("kept"), Complete())
    assert (await gate.ended("c"))["status"] == "completed"
    assert (await gate.ended("a"))["status"] == "completed"
    assert (await gate.ended("b"))["status"] in ("completed", "cancelled")


async def test_an_interrupt_decided_while_the_next_run_starts_leaves_itself_alone(gate: Gateway):
    await gate.chat(run_id="a")
    await gate.chat(run_id="b")
    await gate.agent.script("a").started.wait()
    gate.agent.do("a", Complete())
    for _ in range(200):
        if gate.live().head.active is None:
            break
        await anyio.lowlevel.checkpoint()
    await gate.chat(run_id="c", on_busy="interrupt")
    for run_id in "bc":
        gate.agent.do(run_id, Complete())
    assert (await gate.ended("c"))["status"] == "completed"
    await gate.ended("b")


async def test_no_more_runs_wait_than_allowed():
    async with gateway(max_queued_runs=2) as gate:
        for _ in range(3):
            await gate.chat()
        for on_busy in ("enqueue", "interrupt"):
            with pytest.raises(LimitReached):
                await gate.chat(on_busy=on_busy)


@pytest.mark.parametrize("key", [None, "fresh key"])
@pytest.mark.parametrize("where", ["active", "queued", "ended"])
async def test_a_client_names_no_run_twice(where: str, key: str | None, gate: Gateway):
    """R5: a run of one name ends once, so there is one run of a name."""
    await gate.chat(run_id="x")
    if where == "queued":
        await gate.chat(run_id="r")
    elif where == "ended":
        gate.agent.do("x", Complete())
        await gate.ended("x")
    name = "r" if where == "queued" else "x"
    with pytest.raises(Refused) as caught:
        await gate.chat(run_id=name, key=key)
    assert caught.value.code == "run-exists"


async def test_a_run_that_begins_and_ends_while_its_name_is_looked_up_is_noticed(gate: Gateway):
    await gate.manager.create_session(ME, NewSession(id="s"))
    gate.store.hold("find")
    outcomes: list[Any] = []

    async def chat() -> None:
        try:
            outcomes.append(await gate.chat(run_id="r"))
        except Refused as error:
            outcomes.append(error)

    with anyio.fail_after(DEADLINE_SECONDS):
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(chat)
            tasks.start_soon(chat)
            await quiet()
            gate.agent.do("r", Complete())
            gate.store.let_go("find")
            await quiet()
    assert sum(isinstance(outcome, Refused) for outcome in outcomes) == 1
    assert (await gate.types()).count("run_start") == 1


async def test_an_unknown_agent_is_refused_and_creates_nothing(gate: Gateway):
    with pytest.raises(InvalidInput) as caught:
        await gate.chat(agent="nobody")
    assert caught.value.code == "unknown-agent"
    assert (await gate.store.usage()).sessions == 0


async def test_an_agent_that_is_not_configured_any_more_fails_its_queued_run():
    async with gateway() as gate:
        other = type(gate.agent)()
        left = gate.store.inner
        agents = gate.manager._agents
        agents._agents = {**agents._agents, "other": other}
        await gate.chat(run_id="a")
        await gate.chat(run_id="b", agent="other")
        await gate.chat(run_id="c")
    async with gateway(left, clock=gate.clock) as again:
        run = await again.ended("b")
        assert run["error"]["code"] == "unknown_agent"
        again.agent.do("c", Complete())
        assert (await again.ended("c"))["status"] == "completed"


async def test_several_messages_are_one_turn_all_or_nothing(gate: Gateway):
    """R9; tool results come back with the next turn."""
    await gate.chat(run_id="a")
    gate.agent.do("a", ToolStart("c1", "look"), Complete(finish_reason="tool_calls"))
    await gate.ended("a")
    outcome = await gate.manager.chat(
        ME,
        Chat(
            NewSession(id="s"),
            [NewMessage("tool", "42", tool_call_id="c1"), NewMessage("user", "go on")],
        ),
    )
    assert len(outcome.answer["message_ids"]) == 2
    said = await gate.messages()
    assert [m["role"] for m in said] == ["user", "assistant", "tool", "user"]


async def test_a_message_that_is_too_large_stores_nothing():
    async with gateway(max_event_bytes=2048) as gate:
        with pytest.raises(TooLarge):
            await gate.manager.chat(
                ME,
                Chat(
                    NewSession(id="s"), [NewMessage("user", "ok"), NewMessage("user", "x" * 3000)]
                ),
            )
        assert await gate.log() == []
        assert gate.leftovers() == []
        await gate.chat(run_id="a")
        gate.agent.do("a", Complete())
        await gate.ended("a")


async def test_a_message_that_is_no_unicode_stores_nothing(gate: Gateway):
    with pytest.raises(BambooError):
        await gate.chat(text="\ud800")
    await quiet()
    assert await gate.log() == []
    assert gate.leftovers() == []


async def test_a_closed_session_accepts_no_chat(gate: Gateway):
    await gate.manager.create_session(ME, NewSession(id="s"))
    await gate.manager.close_session(ME, "s")
    with pytest.raises(SessionClosed):
        await gate.chat()


async def test_a_draining_gateway_accepts_no_chat(gate: Gateway):
    gate.manager.begin_drain()
    with pytest.raises(Draining):
        await gate.chat()


async def test_waiting_for_a_run_returns_its_final_message(gate: Gateway):
    await gate.chat(run_id="a")
    gate.agent.do("a", Token("final"), Complete())
    waited = await gate.manager.wait_run(ME, "s", "a", 60)
    assert waited.ended
    assert waited.message is not None
    assert waited.message["content"] == "final"
    await gate.chat(run_id="b")
    short = await gate.manager.wait_run(ME, "s", "b", 0)
    assert not short.ended
    assert short.message is None


async def test_waiting_for_a_run_does_not_end_with_its_sessions_trouble(gate: Gateway):
    """Another call's failed commit wakes waiters; the run still executes."""
    await gate.chat(run_id="a")
    await gate.agent.script("a").started.wait()
    results: list[Any] = []

    async def wait() -> None:
        results.append(await gate.manager.wait_run(ME, "s", "a", 60))

    with anyio.fail_after(DEADLINE_SECONDS):
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(wait)
            await quiet()
            gate.store.fail_append(1)
            with pytest.raises(BambooError):
                await gate.manager.add_messages(ME, "s", [NewMessage("user", "x")])
            await quiet()
            assert not results
            gate.agent.do("a", Complete())
    assert results[0].ended


async def test_runs_are_listed_in_the_order_they_were_asked_for(gate: Gateway):
    for run_id in "abcde":
        await gate.chat(run_id=run_id)
    pages: list[str] = []
    cursor: str | None = None
    while True:
        page = await gate.manager.runs(ME, "s", limit=2, cursor=cursor)
        pages += [run["run_id"] for run in page.runs]
        cursor = page.next_cursor
        if not page.has_more:
            break
    assert pages == list("abcde")
    latest = await gate.manager.runs(ME, "s", limit=2, descending=True)
    assert [run["run_id"] for run in latest.runs] == ["e", "d"]


async def test_an_answer_is_json(gate: Gateway):
    json.dumps(await gate.chat())
