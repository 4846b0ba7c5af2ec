"""The demo agent."""

from dataclasses import replace
from typing import Any

import anyio
import pytest

from bamboo_gateway.agents.base import AgentConfigError, AgentError
from bamboo_gateway.agents.factory import make_agent
from bamboo_gateway.api.urls import session_answer
from bamboo_gateway.domain.events import (
    AgentEvent,
    Complete,
    Thinking,
    Token,
    ToolComplete,
    ToolStart,
    Usage,
)
from bamboo_gateway.settings import Settings
from tests.agents.turns import DEADLINE_SECONDS, events_of, said, turn_of


def demo(url: str = "demo:?delay_ms=0") -> Any:
    return make_agent("default", url, Settings(), session_answer)


def text_of(events: list[AgentEvent]) -> str:
    return "".join(event.content for event in events if isinstance(event, Token))


async def test_it_thinks_calls_a_tool_streams_words_and_finishes_with_usage() -> None:
    events = await events_of(demo(), turn_of(said("user", "How are you?")))
    kinds = [type(event) for event in events]
    assert list(dict.fromkeys(kinds)) == [Thinking, ToolStart, ToolComplete, Token, Complete]
    assert "“How are you?”. I counted 3 words." in text_of(events)
    calls = [e.tool_call_id for e in events if isinstance(e, ToolStart | ToolComplete)]
    assert calls == ["call_run_1"] * 2
    end = events[-1]
    assert isinstance(end, Complete)
    assert end.usage == Usage(3, kinds.count(Token), 3 + kinds.count(Token))


async def test_the_same_turn_gives_the_same_events() -> None:
    assert await events_of(demo(), turn_of()) == await events_of(demo(), turn_of())


async def test_a_chat_may_ask_for_an_exact_number_of_tokens_and_nothing_else() -> None:
    options = {"tokens": 100, "thinking": False, "tool": False, "delay_ms": 0}
    events = await events_of(demo("demo:"), turn_of(**options))
    assert [type(event) for event in events] == [Token] * 100 + [Complete]


@pytest.mark.parametrize("text", ["one  two\nthree ", " a", "", "  "])
async def test_the_text_option_is_streamed_unchanged(text: str) -> None:
    assert text_of(await events_of(demo(), turn_of(text=text))) == text


async def test_long_input_is_quoted_only_in_part() -> None:
    events = await events_of(demo(), turn_of(said("user", "x" * 100_000)))
    assert max(len(str(event)) for event in events) < 1000


@pytest.mark.parametrize("place", ["start", "tool", "middle", "end"])
async def test_it_can_be_held_at_a_place_until_it_is_cancelled(place: str) -> None:
    events: list[AgentEvent] = []
    reached = {"start": None, "tool": ToolStart, "middle": Token, "end": Token}[place]
    with anyio.fail_after(DEADLINE_SECONDS), anyio.CancelScope() as scope:
        async with anyio.create_task_group() as tasks:

            async def hear() -> None:
                turn = turn_of(hold=place, tokens=4)
                async for event in demo().run(turn):
                    events.append(event)  # noqa: PERF401  a comprehension loses them when cancelled

            tasks.start_soon(hear)
            await anyio.wait_all_tasks_blocked()
            scope.cancel()
    assert (type(events[-1]) if events else None) is reached
    tokens = sum(isinstance(event, Token) for event in events)
    assert tokens == {"middle": 2, "end": 4}.get(place, 0)


async def test_it_can_be_asked_to_fail_with_a_code() -> None:
    with pytest.raises(AgentError) as caught:
        await events_of(demo(), turn_of(fail="out_of_luck"))
    assert caught.value.code == "out_of_luck"


@pytest.mark.parametrize(
    "options",
    [
        {"delay_ms": -1},
        {"delay_ms": "20"},
        {"tokens": 10_000_000},
        {"unknown": 1},
        {"hold": "nowhere"},
        {"fail": "Not Snake"},
        {"text": "", "tokens": 5},
    ],
)
async def test_options_it_does_not_know_are_refused(options: dict[str, Any]) -> None:
    with pytest.raises(AgentError) as caught:
        await events_of(demo(), turn_of(**options))
    assert caught.value.code == "invalid_option"


async def test_it_calls_a_tool_of_the_client_and_quotes_the_result() -> None:
    agent = demo("demo:?delay_ms=0&client_tool=*&thinking=false&tool=false")
    look: Any = {"name": "look", "parameters": {}}
    brought = replace(turn_of(), client_tools=(look,))
    start, end = await events_of(agent, brought)
    assert start == ToolStart("call_run_1_look", "look", {"text": "Hello there"})
    assert end == Complete(finish_reason="tool_calls")
    result = said("tool", "sunny", tool_call_id="call_run_1_look")
    after = replace(brought, messages=[*brought.messages, result])
    assert text_of(await events_of(agent, after)) == "The tool answered: “sunny”."


@pytest.mark.parametrize("names", [(), ("other",)])
async def test_it_ignores_a_wish_for_a_tool_that_the_client_has_not_brought(names: Any) -> None:
    agent = demo("demo:?delay_ms=0&client_tool=look")
    tools: Any = tuple({"name": name, "parameters": {}} for name in names)
    assert "You said" in text_of(await events_of(agent, replace(turn_of(), client_tools=tools)))


@pytest.mark.parametrize(
    "url", ["demo:x", "demo:?delay_ms=abc", "demo:?nope=1", "demo:?tokens=1&tokens=2", "demo:?x"]
)
def test_a_wrong_url_is_refused_with_one_line(url: str) -> None:
    with pytest.raises(AgentConfigError) as caught:
        demo(url)
    assert "\n" not in caught.value.detail
    assert "'default'" in caught.value.detail


@pytest.mark.parametrize("url", ["", "nonsense", ":", "sk-secret:x", "?a=b"])
def test_an_unknown_kind_is_refused_without_being_repeated(url: str) -> None:
    with pytest.raises(AgentConfigError) as caught:
        demo(url)
    assert "sk-secret" not in caught.value.detail
