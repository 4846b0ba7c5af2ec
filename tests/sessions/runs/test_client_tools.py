"""Tools that the client runs: calls wait for their results, and nothing breaks the order."""

from typing import Any

import pytest

from bamboo_gateway.domain.errors import Refused
from bamboo_gateway.domain.events import (
    Complete,
    Failed,
    Token,
    ToolComplete,
    ToolResult,
    ToolStart,
)
from bamboo_gateway.domain.tool_order import INTERRUPTED, UNANSWERED
from bamboo_gateway.sessions.commands import Chat, NewMessage, NewSession, OnBusy, Outcome
from tests.domain.histories import accepted_by_upstreams
from tests.support.gateways import ME, Gateway, crash, eventually, gateway

FOR_CLIENT = Complete(finish_reason="tool_calls")


async def send(
    gate: Gateway, run_id: str, *messages: NewMessage, on_busy: OnBusy = "enqueue"
) -> Any:
    chat = Chat(NewSession(id="s"), list(messages), run_id=run_id, on_busy=on_busy)
    return (await gate.manager.chat(ME, chat)).answer


async def post(gate: Gateway, *messages: NewMessage) -> Outcome:
    return await gate.manager.add_messages(ME, "s", list(messages))


def result(call_id: str, text: str = "sunny") -> NewMessage:
    return NewMessage("tool", text, tool_call_id=call_id)


USER = NewMessage("user", "Never mind")


async def call_tools(gate: Gateway, *ids: str) -> None:
    """Run a turn that ends with these calls for the client to answer."""
    await gate.chat(run_id="first")
    gate.agent.do("first", *(ToolStart(call_id, "look") for call_id in ids), FOR_CLIENT)
    assert (await gate.ended("first"))["finish_reason"] == "tool_calls"


async def history(gate: Gateway) -> list[str]:
    """Who said what, after a check that an upstream takes it."""
    messages = await gate.messages()
    accepted_by_upstreams(messages)
    return [message.get("tool_call_id") or message["role"] for message in messages]


async def test_results_come_with_the_next_chat(gate: Gateway) -> None:
    await call_tools(gate, "a", "b")
    answer = await send(gate, "next", result("b"), result("a"), NewMessage("user", "Go on"))
    assert len(answer["message_ids"]) == 3
    gate.agent.do("next", Token("It is sunny."), Complete())
    await gate.ended("next")
    assert await history(gate) == ["user", "assistant", "b", "a", "user", "assistant"]
    turn = gate.agent.script("next").turn
    assert turn is not None
    assert [message.role for message in turn.messages] == [
        *["user", "assistant", "tool", "tool", "user"]
    ]


async def test_a_chat_that_passes_over_open_calls_is_refused_with_their_ids(gate: Gateway) -> None:
    await call_tools(gate, "a", "b")
    before = await gate.log()
    cases = [([USER], ["a", "b"]), ([result("a")], ["b"]), ([result("a"), USER], ["b"])]
    for messages, waiting in cases:
        with pytest.raises(Refused) as caught:
            await send(gate, "next", *messages)
        assert caught.value.code == "open-tool-calls"
        assert caught.value.extra == {"open_tool_call_ids": waiting}
    assert await gate.log() == before


async def test_a_result_that_nobody_waits_for_is_refused(gate: Gateway) -> None:
    await call_tools(gate, "a")
    for messages in ([result("z")], [result("a"), result("a")]):
        with pytest.raises(Refused) as caught:
            await send(gate, "next", *messages)
        assert caught.value.code == "no-open-tool-call"
    await send(gate, "next", result("a"))
    gate.agent.do("next", Complete())
    await gate.ended("next")
    with pytest.raises(Refused, match="waits for a result"):
        await send(gate, "third", result("a"))


async def test_the_setting_has_passed_over_calls_closed_instead() -> None:
    async with gateway(on_open_tool_calls="close") as gate:
        await call_tools(gate, "a", "b")
        answer = await send(gate, "next", result("a"), USER)
        assert len(answer["message_ids"]) == 2
        gate.agent.do("next", Complete())
        await gate.ended("next")
        assert await history(gate) == ["user", "assistant", "a", "b", "user"]
        closed = (await gate.messages())[3]
        assert (closed["content"], closed["metadata"]) == (UNANSWERED, {"closed": True})


async def test_messages_posted_without_a_run_keep_the_order_too(gate: Gateway) -> None:
    await call_tools(gate, "a", "b")
    with pytest.raises(Refused) as caught:
        await post(gate, USER)
    assert caught.value.code == "open-tool-calls"
    await post(gate, result("b"))
    with pytest.raises(Refused) as caught:
        await post(gate, result("b"))
    assert caught.value.code == "no-open-tool-call"
    await post(gate, result("a"), USER)
    calls = [{"id": "c", "name": "look", "arguments": {}}]
    await post(gate, NewMessage("assistant", "", tool_calls=calls))
    with pytest.raises(Refused, match="1 tool calls wait"):
        await post(gate, USER)
    await post(gate, result("c"))
    assert await history(gate) == ["user", "assistant", "b", "a", "user", "assistant", "c"]


async def test_messages_posted_while_a_runs_own_tool_is_at_work_wait_for_it(gate: Gateway) -> None:
    await gate.chat(run_id="r")
    done = ToolComplete("a", ToolResult(True, 1))
    gate.agent.do("r", ToolStart("a", "t"), ToolStart("b", "t"), done)
    await eventually(lambda: gate.live().head.open_calls == ["b"])
    for message in (USER, result("b")):
        with pytest.raises(Refused) as caught:
            await post(gate, message)
        assert caught.value.code == "open-tool-calls"
    gate.agent.do("r", ToolComplete("b", ToolResult(True, 2)), Token("x"))
    await eventually(lambda: gate.live().head.open_calls == [])
    await post(gate, USER)
    gate.agent.do("r", Complete())
    await gate.ended("r")
    assert await history(gate) == ["user", "assistant", "a", "b", "user", "assistant"]


async def test_a_chat_that_waited_closes_what_the_run_before_it_left_open(gate: Gateway) -> None:
    await gate.chat(run_id="first")
    await send(gate, "next", USER)
    gate.agent.do("first", ToolStart("a", "look"), FOR_CLIENT)
    gate.agent.do("next", Complete())
    assert (await gate.ended("next"))["status"] == "completed"
    assert await history(gate) == ["user", "assistant", "a", "user"]


async def test_results_sent_before_the_run_has_ended_wait_and_fit(gate: Gateway) -> None:
    await gate.chat(run_id="first")
    gate.agent.do("first", ToolStart("a", "look"))
    assert (await send(gate, "next", result("a")))["status"] == "queued"
    gate.agent.do("first", FOR_CLIENT)
    gate.agent.do("next", Token("Thanks"), Complete())
    assert (await gate.ended("next"))["status"] == "completed"
    assert await history(gate) == ["user", "assistant", "a", "assistant"]


async def test_results_that_waited_in_vain_end_their_run_and_not_the_session(gate: Gateway) -> None:
    await gate.chat(run_id="first")
    await send(gate, "next", result("a"))
    await send(gate, "third", USER)
    gate.agent.do("first", Complete())
    gate.agent.do("third", Complete())
    run = await gate.ended("next")
    assert (run["status"], run["error"]["code"]) == ("failed", "no_open_tool_call")
    assert (await gate.ended("third"))["status"] == "completed"
    assert await history(gate) == ["user", "user"]


async def test_an_interrupted_run_leaves_no_call_open(gate: Gateway) -> None:
    await gate.chat(run_id="first")
    gate.agent.do("first", ToolStart("a", "look"))
    await eventually(lambda: gate.agent.script("first").taken == 1)
    await send(gate, "next", USER, on_busy="interrupt")
    gate.agent.do("next", Complete())
    await gate.ended("next")
    assert await history(gate) == ["user", "assistant", "a", "user"]
    assert (await gate.messages())[2]["content"] == INTERRUPTED


async def test_a_run_that_fails_leaves_no_call_open(gate: Gateway) -> None:
    await gate.chat(run_id="first")
    gate.agent.do("first", ToolStart("a", "look"), Failed("no"))
    await gate.ended("first")
    await send(gate, "next", USER)
    assert await history(gate) == ["user", "assistant", "a", "user"]


async def test_open_calls_are_remembered_over_a_crash(gate: Gateway) -> None:
    await call_tools(gate, "a")
    left = await crash(gate)
    async with gateway(left) as again:
        with pytest.raises(Refused) as caught:
            await send(again, "next", USER)
        assert caught.value.code == "open-tool-calls"
        await send(again, "next", result("a"))
        again.agent.do("next", Complete())
        await again.ended("next")
        assert await history(again) == ["user", "assistant", "a"]
    gate.store.release_appends()


async def test_a_crash_in_a_tool_leaves_no_call_open(gate: Gateway) -> None:
    await gate.chat(run_id="r")
    done = ToolComplete("b", ToolResult(True, 1))
    # The second message is held back until the outer call has its result, which never comes.
    inner = [ToolStart("c", "t"), ToolComplete("c", ToolResult(True, 2))]
    gate.agent.do("r", ToolStart("a", "task"), ToolStart("b", "t"), done, *inner, Token("x"))
    await eventually(lambda: gate.agent.script("r").taken == 6)
    await gate.live().settled()
    left = await crash(gate)
    async with gateway(left) as again:
        assert (await again.manager.run(ME, "s", "r"))["status"] == "interrupted"
        assert await history(again) == [
            "user",
            "assistant",
            "b",
            "a",
            "assistant",
            "c",
            "assistant",
        ]
        await send(again, "next", USER)
    gate.store.release_appends()


async def test_an_idempotent_repeat_of_results_is_not_a_second_result(gate: Gateway) -> None:
    from bamboo_gateway.sessions.commands import Idempotency

    await call_tools(gate, "a")
    key = Idempotency("k", "POST /chat", "body")
    chat = Chat(NewSession(id="s"), [result("a")])
    first = await gate.manager.chat(ME, chat, key)
    again = await gate.manager.chat(ME, chat, key)
    assert again.replayed
    assert again.answer == first.answer
