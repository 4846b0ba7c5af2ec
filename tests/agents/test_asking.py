"""Agents that ask people: Python, HTTP, the demo, and approvals of a model's calls."""

from dataclasses import replace
from typing import Any

import pytest

from bamboo_gateway.agents.base import Answer
from bamboo_gateway.agents.factory import make_agent
from bamboo_gateway.agents.python import PythonAgent
from bamboo_gateway.api.urls import session_answer
from bamboo_gateway.domain.events import (
    AgentEvent,
    Complete,
    InputRequired,
    Token,
    ToolComplete,
    ToolError,
    ToolResult,
    ToolStart,
)
from bamboo_gateway.settings import Settings
from tests.agents import test_http, test_openai
from tests.agents.scripted_server import stream, whole
from tests.agents.turns import events_of, said, turn_of

APPROVAL = InputRequired("Pay?", "approval", "c1", request_id="q1")
YES = Answer(APPROVAL, "answered", {"approved": True}, "ann", "2026-11-20T17:25:00.123Z")
NO = replace(YES, value={"approved": False, "reason": "too dear"})
LATE = replace(YES, status="expired", value=None)
NOT_DONE = ToolError("b", "The agent ended before this call's result.")


def with_answers(*answers: Answer, **options: Any) -> Any:
    named = {str(one.request.request_id): one for one in answers}
    return replace(turn_of(said("user", "two words"), **options), answers=named)


async def test_a_python_agent_asks_and_the_call_it_asks_about_stays_open() -> None:
    async def run(turn: Any) -> Any:
        yield ToolStart("c1", "pay")
        yield ToolStart("b", "look")
        yield {"type": "input_required", "prompt": "Pay?", "kind": "approval",
               "tool_call_id": "c1", "request_id": "q1"}  # fmt: skip

    events = await events_of(PythonAgent(run), turn_of())
    assert events[2:] == [APPROVAL, NOT_DONE, Complete(finish_reason="input_required")]


async def test_a_python_agent_gets_the_answers_with_its_next_turn() -> None:
    async def run(turn: Any) -> Any:
        answer = turn.answers["q1"]
        if answer.approved:
            yield ToolComplete(answer.request.tool_call_id, ToolResult(True, "paid"))
        else:
            yield f"{answer.status}: {answer.value}"

    paid = await events_of(PythonAgent(run), with_answers(YES))
    assert paid[0] == ToolComplete("c1", ToolResult(True, "paid"))
    assert (await events_of(PythonAgent(run), with_answers(LATE)))[0] == Token("expired: None")


async def test_a_service_gets_the_answers_and_may_ask() -> None:
    body = [{"type": "input_required", "prompt": "Colour?", "schema": {"enum": ["a", "b"]}}]
    async with test_http.playing(whole(200, body)) as (agent, server):
        events = await events_of(agent, with_answers(NO))
        assert events == [
            InputRequired("Colour?", schema={"enum": ["a", "b"]}),
            Complete(finish_reason="input_required"),
        ]
        assert server.requests[0].json["answers"] == {
            "q1": {
                "request": {
                    "request_id": "q1",
                    "kind": "approval",
                    "prompt": "Pay?",
                    "tool_call_id": "c1",
                },
                "status": "answered",
                "answer": {"approved": False, "reason": "too dear"},
                "user_id": "ann",
                "given_at": "2026-11-20T17:25:00.123Z",
            }
        }


@pytest.mark.parametrize(
    ("answer", "result"),
    [
        (YES, ToolComplete("c1", ToolResult(True, {"words": 2, "characters": 9}))),
        (NO, ToolError("c1", "Not approved: too dear.")),
        (LATE, ToolError("c1", "Not approved: no answer in time.")),
    ],
)
async def test_the_demo_asks_and_goes_on_with_the_answer(
    answer: Answer, result: AgentEvent
) -> None:
    demo = make_agent("default", "demo:?delay_ms=0", Settings(), session_answer)
    asked = await events_of(demo, turn_of(said("user", "two words"), ask=True))
    assert isinstance(asked[-1], InputRequired)
    assert asked[-1].tool_call_id == "call_run_1"
    went_on = await events_of(demo, with_answers(answer))
    assert went_on[0] == result
    assert isinstance(went_on[-1], Complete)
    assert not any(isinstance(event, ToolStart) for event in went_on)


CALLS = [
    test_openai.delta(tool_calls=[test_openai.call(0, "pay", '{"eur":9}', id="c1")]),
    test_openai.delta(tool_calls=[test_openai.call(1, "look", "{}", id="b")]),
    test_openai.delta("tool_calls"),
]


async def test_a_models_call_of_a_named_tool_is_asked_about_first() -> None:
    async with test_openai.playing(stream(CALLS), ask_before="pay, erase") as (agent, _):
        events = await events_of(agent, turn_of())
    [other, question, end] = events[-3:]
    assert isinstance(other, ToolError)
    assert other.tool_call_id == "b"
    assert question == InputRequired('Run pay with {"eur":9}?', "approval", "c1")
    assert end == Complete(finish_reason="input_required")


async def test_calls_of_other_tools_are_the_clients_at_once() -> None:
    async with test_openai.playing(stream(CALLS), ask_before="erase") as (agent, _):
        events = await events_of(agent, turn_of())
    assert events[-1] == Complete(finish_reason="tool_calls")
    assert not any(isinstance(event, InputRequired | ToolError) for event in events)


async def test_an_approved_call_stays_open_for_the_client_and_no_model_is_asked() -> None:
    async with test_openai.playing(ask_before="pay") as (agent, server):
        events = await events_of(agent, with_answers(YES))
        assert events == [Complete(finish_reason="tool_calls")]
        assert not server.requests


@pytest.mark.parametrize("answer", [NO, LATE])
async def test_a_denial_is_the_calls_result_and_the_model_goes_on(answer: Answer) -> None:
    called = said(
        "assistant", "", tool_calls=[{"id": "c1", "name": "pay", "arguments": {"eur": 9}}]
    )
    turn = replace(with_answers(answer), messages=[said("user", "Pay"), called])
    async with test_openai.playing(stream(test_openai.HELLO), ask_before="pay") as (
        agent,
        server,
    ):
        events = await events_of(agent, turn)
        assert isinstance(events[0], ToolError)
        assert events[1:] == test_openai.HELLO_EVENTS
        last = server.requests[0].json["messages"][-1]
        assert last["role"] == "tool"
        assert last["content"] == events[0].error
        assert "did not approve" in last["content"]
