"""Agents over AG-UI, against a scripted server on a real socket."""

from collections.abc import AsyncIterator
from contextlib import aclosing, asynccontextmanager
from dataclasses import replace
from typing import Any, cast

import anyio
import pytest

from bamboo_gateway.agents.agui import AgUiAgent, AgUiQuery
from bamboo_gateway.agents.agui_messages import agui_messages, interrupt_id, request_id_of
from bamboo_gateway.agents.allowed import AllowedOptions
from bamboo_gateway.agents.base import Agent, AgentConfigError, AgentError, Answer
from bamboo_gateway.agents.factory import make_agent
from bamboo_gateway.api.urls import session_answer
from bamboo_gateway.domain.events import (
    AgentEvent,
    Cancelled,
    Complete,
    Custom,
    Failed,
    InputRequired,
    Thinking,
    Token,
    ToolComplete,
    ToolDelta,
    ToolResult,
    ToolStart,
    Usage,
)
from bamboo_gateway.domain.ids import is_id
from bamboo_gateway.domain.tool_order import INTERRUPTED
from bamboo_gateway.settings import Settings
from tests.agents.scripted_server import (
    CUT,
    END,
    Script,
    ScriptedServer,
    Step,
    bytewise,
    chunk,
    head,
    scripted,
    sse,
    whole,
)
from tests.agents.turns import DEADLINE_SECONDS, events_of, said, turn_of

KEY = "k-e-y"
BEGIN = {"type": "RUN_STARTED", "threadId": "s-1", "runId": "run_1"}
FINISH = {"type": "RUN_FINISHED", "threadId": "s-1", "runId": "run_1"}


def finish(**outcome: Any) -> dict[str, Any]:
    return {**FINISH, "outcome": outcome}


def stream(*events: dict[str, Any], end: Step = END) -> list[Step]:
    return [head(), chunk(sse([BEGIN, *events], done=False)), end]


@asynccontextmanager
async def playing(
    *scripts: Script, slept: list[float] | None = None, key: str | None = None, **query: Any
) -> AsyncIterator[tuple[Agent, ScriptedServer]]:
    async def sleep(seconds: float) -> None:
        if slept is not None:
            slept.append(seconds)

    async with scripted(*scripts) as server:
        agent = AgUiAgent(
            f"{server.url}/agent?tenant=1",
            AgUiQuery(**query),
            api_key=key,
            event_bytes_max=4096,
            allowed=AllowedOptions.parse("*"),
            sleep=sleep,
        )
        try:
            yield agent, server
        finally:
            await agent.aclose()


async def answer_to(*events: dict[str, Any]) -> list[AgentEvent]:
    async with playing(stream(*events)) as (agent, _):
        return await events_of(agent, turn_of())


async def failure_of(*scripts: Script, **query: Any) -> AgentError:
    async with playing(*scripts, **query) as (agent, _):
        with pytest.raises(AgentError) as caught:
            await events_of(agent, turn_of())
    return caught.value


def text(delta: str, name: str = "m1") -> dict[str, Any]:
    return {"type": "TEXT_MESSAGE_CONTENT", "messageId": name, "delta": delta}


async def test_text_reasoning_usage_and_the_model_are_given() -> None:
    usage = {"model": "big", "inputTokens": 1, "outputTokens": 2, "cachedInputTokens": 1}
    events = await answer_to(
        {"type": "REASONING_START", "messageId": "r1"},
        {"type": "REASONING_MESSAGE_START", "messageId": "r1", "role": "reasoning"},
        {"type": "REASONING_MESSAGE_CONTENT", "messageId": "r1", "delta": "Hm"},
        {"type": "REASONING_MESSAGE_CHUNK", "delta": "m"},
        {"type": "THINKING_TEXT_MESSAGE_CONTENT", "delta": "!"},
        {"type": "TEXT_MESSAGE_START", "messageId": "m1", "role": "assistant"},
        text("Grüß \u2028"),
        {"type": "TEXT_MESSAGE_CHUNK", "messageId": "m1", "delta": "dich 🎋"},
        {"type": "TEXT_MESSAGE_END", "messageId": "m1"},
        {**FINISH, "usage": [usage, {**usage, "model": "small"}]},
    )
    assert events == [
        Thinking("Hm"),
        Thinking("m"),
        Thinking("!"),
        Token("Grüß \u2028"),
        Token("dich 🎋"),
        Complete(Usage(2, 4, 6, 2, 0), "stop", "small"),
    ]


async def test_bytes_may_arrive_one_by_one() -> None:
    pieces = bytewise(sse([BEGIN, text("a"), FINISH], done=False))
    async with playing([head(), *pieces, END]) as (agent, _):
        assert await events_of(agent, turn_of()) == [Token("a"), Complete()]


async def test_two_messages_are_one_with_a_blank_line_between_them() -> None:
    events = await answer_to(text("a"), text("b", "m2"), text("c", "m2"), FINISH)
    assert events == [Token("a"), Token("\n\n"), Token("b"), Token("c"), Complete()]


async def test_calls_are_put_together_and_those_without_a_result_are_the_clients() -> None:
    events = await answer_to(
        {"type": "TOOL_CALL_START", "toolCallId": "a", "toolCallName": "look"},
        {"type": "TOOL_CALL_ARGS", "toolCallId": "a", "delta": '{"x"'},
        {"type": "TOOL_CALL_ARGS", "toolCallId": "a", "delta": ":1}"},
        {"type": "TOOL_CALL_END", "toolCallId": "a"},
        {"type": "TOOL_CALL_RESULT", "messageId": "t", "toolCallId": "a", "content": "sunny"},
        {"type": "TOOL_CALL_RESULT", "messageId": "t", "toolCallId": "old", "content": "x"},
        {"type": "TOOL_CALL_CHUNK", "toolCallId": "b", "toolCallName": "wait", "delta": ""},
        {"type": "TOOL_CALL_CHUNK", "delta": "no json"},
        FINISH,
    )
    assert events == [
        ToolDelta("a", '{"x"'),
        ToolDelta("a", ":1}"),
        ToolStart("a", "look", {"x": 1}),
        ToolComplete("a", ToolResult(True, "sunny")),
        ToolDelta("b", "no json"),
        ToolStart("b", "wait", "no json"),
        Complete(finish_reason="tool_calls"),
    ]


STATE = {"type": "STATE_SNAPSHOT", "snapshot": {"a": 1}}
STEP = {"type": "STEP_STARTED", "stepName": "think"}


async def test_what_the_gateway_has_no_word_for_is_a_custom_event() -> None:
    events = await answer_to(
        {**STATE, "timestamp": 5, "rawEvent": {"big": True}},
        STEP,
        {"type": "CUSTOM", "name": "progress", "value": 0.5},
        {"type": "MESSAGES_SNAPSHOT", "messages": []},
        {"type": "SOMETHING_NEW"},
        FINISH,
    )
    assert events == [
        Custom("ag_ui", STATE),
        Custom("ag_ui", STEP),
        Custom("progress", 0.5),
        Complete(),
    ]


async def test_the_request_is_what_the_protocol_says() -> None:
    tools: Any = ({"name": "look", "parameters": {"type": "object"}},)
    options = {"state": {"a": 1}, "context": [{"description": "d", "value": "v"}]}
    async with playing(stream(FINISH), key=KEY) as (agent, server):
        turn = replace(turn_of(**options, forwarded_props={"p": 1}), client_tools=tools)
        await events_of(agent, turn)
    request = server.requests[0]
    assert (request.method, request.path) == ("POST", "/agent?tenant=1")
    assert request.headers["authorization"] == f"Bearer {KEY}"
    assert request.headers["accept"] == "text/event-stream"
    assert request.headers["idempotency-key"] == "run_1"
    assert request.json == {
        "threadId": "s-1",
        "runId": "run_1",
        "protocolVersion": "1.0",
        "state": {"a": 1},
        "messages": [{"id": "msg_1", "role": "user", "content": "Hello there"}],
        "tools": [{"name": "look", "description": "", "parameters": {"type": "object"}}],
        "context": [{"description": "d", "value": "v"}],
        "forwardedProps": {"p": 1},
    }


APPROVAL = {"type": "object", "properties": {"approved": {"type": "boolean"}}}
CALL = [
    {"type": "TOOL_CALL_START", "toolCallId": "c1", "toolCallName": "pay"},
    {"type": "TOOL_CALL_END", "toolCallId": "c1"},
]


async def test_interrupts_are_requests_for_input_and_answers_go_back_in_resume() -> None:
    interrupts = [
        {"id": "int-c1", "reason": "tool_call", "toolCallId": "c1", "message": "Pay?",
         "responseSchema": APPROVAL},
        {"id": "a:b/ä", "reason": "input_required", "responseSchema": {"type": "string"}},
        {"id": "f", "reason": "x", "message": "Fill", "responseSchema": {"type": "object"},
         "expiresAt": "2026-11-20T18:00:00Z"},
    ]  # fmt: skip
    events = await answer_to(*CALL, finish(type="interrupt", interrupts=interrupts))
    start, pay, ask, form, _ = events
    assert start == ToolStart("c1", "pay", {})
    assert pay == InputRequired("Pay?", "approval", "c1", request_id="int-c1")
    assert isinstance(ask, InputRequired)
    assert isinstance(form, InputRequired)
    assert ask.request_id is not None
    assert is_id(ask.request_id)
    assert (ask.prompt, ask.kind, ask.schema) == ("input_required", "question", {"type": "string"})
    assert (form.kind, form.expires_at) == ("form", "2026-11-20T18:00:00.000Z")
    given = {
        "int-c1": Answer(pay, "answered", {"approved": True}),
        ask.request_id: Answer(ask, "expired"),
    }
    calls = [{"id": "c1", "name": "pay", "arguments": {}}]
    turn = turn_of(said("user", "Pay"), said("assistant", "", tool_calls=calls))
    result = {"type": "TOOL_CALL_RESULT", "messageId": "t", "toolCallId": "c1", "content": "paid"}
    async with playing(stream(result, FINISH)) as (agent, server):
        events = await events_of(agent, replace(turn, answers=given))
    assert events == [ToolComplete("c1", ToolResult(True, "paid")), Complete()]
    assert server.requests[0].json["resume"] == [
        {"interruptId": "int-c1", "status": "resolved", "payload": {"approved": True}},
        {"interruptId": "a:b/ä", "status": "cancelled"},
    ]
    assert [message["role"] for message in server.requests[0].json["messages"]] == [
        "user",
        "assistant",
    ]


@pytest.mark.parametrize("name", ["a b", "ä", "", "x" * 40])
def test_the_id_of_an_interrupt_comes_back_as_it_was(name: str) -> None:
    assert interrupt_id(request_id_of(name)) == name
    assert is_id(request_id_of(name))


def test_every_call_of_the_conversation_has_one_result() -> None:
    calls = [{"id": "a", "name": "x", "arguments": {}}, {"id": "b", "name": "y", "arguments": "z"}]
    image = {"type": "image", "url": "https://x.example/a.png", "media_type": "image/png"}
    thought = [{"type": "thinking", "text": "Hm"}, {"type": "text", "text": "Ok"}]
    messages = [
        said("user", [{"type": "text", "text": "Hi"}, image]),
        said("assistant", thought, tool_calls=calls),
        said("tool", "late", tool_call_id="b"),
        said("tool", "stray", tool_call_id="q"),
        said("assistant", ""),
        said("system", "Be kind."),
    ]
    shapes = agui_messages(messages, {})
    assert [shape["role"] for shape in shapes] == ["user", "assistant", "tool", "tool", "system"]
    assert shapes[0]["content"][1]["source"]["value"] == "https://x.example/a.png"
    assert shapes[1]["content"] == "Ok"
    assert [call["function"]["arguments"] for call in shapes[1]["toolCalls"]] == ["{}", "z"]
    assert [(one["toolCallId"], one["content"]) for one in shapes[2:4]] == [
        ("a", INTERRUPTED),
        ("b", "late"),
    ]


async def test_a_run_error_fails_the_run_with_its_words_and_code() -> None:
    error = {"type": "RUN_ERROR", "message": f"No credit. {KEY}", "code": "billing"}
    async with playing(stream(text("a"), error), key=KEY) as (agent, _):
        events = await events_of(agent, turn_of())
    assert events == [Token("a"), Failed("No credit. …", "billing")]
    assert (await answer_to({"type": "RUN_ERROR"}))[-1] == Failed(
        "The agent service failed.", "upstream_error"
    )


async def test_a_run_that_the_service_cancelled_is_cancelled() -> None:
    assert isinstance((await answer_to(finish(type="cancelled")))[-1], Cancelled)


@pytest.mark.parametrize("end", [END, CUT])
async def test_an_answer_without_its_end_is_incomplete(end: Step) -> None:
    assert (await failure_of(stream(text("a"), end=end))).code == "upstream_incomplete"


@pytest.mark.parametrize(
    "event",
    [
        {"type": 5},
        {"type": "TOOL_CALL_ARGS", "toolCallId": "never", "delta": "x"},
        {"type": "TEXT_MESSAGE_CONTENT", "messageId": "m", "delta": 5},
        {"type": "CUSTOM"},
        {**FINISH, "outcome": {"type": "interrupt", "interrupts": [{"reason": "x"}]}},
        {**FINISH, "usage": ["x"]},
        {**text("a"), "x": "y" * 5000},
    ],
)
async def test_what_is_not_the_protocol_is_named_and_ends_the_run(event: dict[str, Any]) -> None:
    assert (await failure_of(stream(event, FINISH))).code == "upstream_invalid"


async def test_a_web_page_is_no_answer() -> None:
    page = [head(media_type="text/html"), chunk(b"<html>"), END]
    assert (await failure_of(page)).code == "upstream_invalid"


@pytest.mark.parametrize(("status", "tries"), [(503, 2), (500, 1)])
async def test_a_request_is_repeated_only_when_the_agent_cannot_have_begun(
    status: int, tries: int
) -> None:
    scripts: list[Script] = [whole(status, {}), stream(FINISH)]
    slept: list[float] = []
    async with playing(*scripts, slept=slept) as (agent, server):
        if tries == 1:
            with pytest.raises(AgentError, match="HTTP 500"):
                await events_of(agent, turn_of())
        else:
            assert await events_of(agent, turn_of()) == [Complete()]
    assert len(server.requests) == tries


async def test_closing_the_generator_closes_the_request() -> None:
    script: Script = [head(), chunk(sse([BEGIN, text("a")], done=False)), anyio.Event()]
    async with playing(script) as (agent, server):
        with anyio.fail_after(DEADLINE_SECONDS):
            async with aclosing(cast("Any", agent.run(turn_of()))) as events:
                assert await anext(events) == Token("a")
            await server.left.wait()


def refusal_of(url: str) -> str:
    with pytest.raises(AgentConfigError) as caught:
        make_agent("helper", url, Settings(), session_answer)
    return caught.value.detail


def test_the_url_is_the_services_own_behind_the_prefix(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AGENT_KEY", KEY)
    url = "agui+https://agents.example/run?tenant=1&api_key_env=AGENT_KEY&allow=state"
    agent = make_agent("helper", url, Settings(), session_answer)
    assert agent.kind == "agui+https"
    assert "state" in agent.allowed
    assert "context" not in agent.allowed
    assert set(agent.options_schema()["properties"]) == {"state"}
    assert "is not set" in refusal_of("agui+http://x.example/?api_key_env=NO_SUCH")
    assert "no option of this agent" in refusal_of("agui+http://x.example/?allow=temperature")
    assert KEY not in repr(vars(agent)).replace(f"Bearer {KEY}", "").replace(f"('{KEY}',)", "")
