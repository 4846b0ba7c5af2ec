"""A request's messages inside a budget of tokens."""

from collections.abc import Iterator
from random import Random
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bamboo_gateway.agents.base import LeftOut
from bamboo_gateway.agents.openai import OpenAIAgent, OpenAIQuery
from bamboo_gateway.agents.openai_context import trim
from bamboo_gateway.agents.openai_messages import to_openai
from bamboo_gateway.domain.messages import Message
from tests.agents.turns import said

LONG = "x" * 300
"""Estimated at 100 tokens, and 4 for being a message."""


def exchange(call_id: str) -> list[Message]:
    call = {"id": call_id, "name": "look", "arguments": {}}
    return [
        said("assistant", "", tool_calls=[call]),
        said("tool", LONG, tool_call_id=call_id),
        said("assistant", LONG),
    ]


def words(messages: list[dict[str, Any]]) -> list[str]:
    return [f"{message['role']}:{(message['content'] or '')[:6]}" for message in messages]


def test_a_conversation_that_fits_is_unchanged() -> None:
    request = to_openai([said("user", LONG), said("assistant", LONG), said("user", LONG)])
    trimmed = trim(request, 312)
    assert (trimmed.messages, trimmed.turns, trimmed.tokens) == (request, 0, 312)


def test_the_oldest_turns_are_left_out_whole() -> None:
    given = [said("user", "1" * 300), *exchange("a"), said("user", "2"), said("assistant", "b")]
    trimmed = trim(to_openai([*given, said("user", "3")]), 300)
    assert words(trimmed.messages) == ["user:2", "assistant:b", "user:3"]
    assert (trimmed.turns, trimmed.dropped) == (1, 4)


def test_system_messages_stay_and_stand_first() -> None:
    given = [
        said("system", "Summary."),
        said("user", LONG),
        said("assistant", LONG),
        said("system", "In French."),
        said("user", "2"),
    ]
    trimmed = trim(to_openai(given, "Be kind."), 50)
    assert trimmed.messages == [
        {"role": "system", "content": "Be kind.\n\nSummary.\n\nIn French."},
        {"role": "user", "content": "2"},
    ]
    assert (trimmed.turns, trimmed.dropped) == (1, 2)


def test_an_answer_without_a_question_before_it_is_a_turn() -> None:
    given = [said("system", "Summary."), said("assistant", LONG), said("user", "2")]
    assert words(trim(to_openai(given), 50).messages) == ["system:Summar", "user:2"]


def test_the_last_turn_is_kept_however_long_it_is() -> None:
    given = [said("user", "1"), said("assistant", "a"), said("user", LONG), *exchange("b")]
    trimmed = trim(to_openai(given), 10)
    assert words(trimmed.messages) == [
        "user:xxxxxx",
        "assistant:",
        "tool:xxxxxx",
        "assistant:xxxxxx",
    ]
    assert trimmed.tokens > 10
    assert trim(to_openai([said("assistant", LONG)]), 10).turns == 0
    assert trim([], 10).messages == []


def test_a_result_from_the_client_keeps_its_call_and_its_question() -> None:
    given = [said("user", LONG), said("assistant", LONG), said("user", "Look"), *exchange("b")[:2]]
    trimmed = trim(to_openai(given), 150)
    assert [message["role"] for message in trimmed.messages] == ["user", "assistant", "tool"]


@pytest.mark.parametrize(
    ("content", "tokens"),
    [
        ("abc", 1),
        ("abcd", 2),
        ("竹林", 2),
        ([{"type": "image", "data": "A" * 100_000, "media_type": "image/png"}], 1500),
        (
            [{"type": "image", "url": "https://example.test/a"}, {"type": "text", "text": "ab"}],
            1501,
        ),
    ],
)
def test_the_estimate_is_a_third_of_the_bytes_and_a_fixed_sum_for_an_image(
    content: Any, tokens: int
) -> None:
    assert trim(to_openai([said("user", content)]), 1).tokens == tokens + 4


def test_tools_count_toward_the_budget() -> None:
    request = to_openai([said("user", "1"), said("assistant", "a"), said("user", "2")])
    assert trim(request, 100, [{"type": "function", "function": {"name": "x" * 300}}]).turns == 1


_MESSAGES = st.lists(
    st.one_of(
        st.builds(lambda n: [said("user", "u" * n)], st.integers(1, 400)),
        st.builds(lambda n: [said("assistant", "a" * n)], st.integers(1, 400)),
        st.builds(lambda n: exchange(f"c{n}"), st.integers(1, 9)),
        st.just([said("system", "s")]),
    ),
    max_size=12,
)


@given(_MESSAGES, st.integers(1, 1500))
def test_no_call_is_ever_parted_from_its_result(given: list[list[Message]], budget: int) -> None:
    request = to_openai([message for group in given for message in group])
    trimmed = trim(request, budget)
    open_calls: list[str] = []
    for message in trimmed.messages:
        if message["role"] == "tool":
            open_calls.remove(message["tool_call_id"])
        else:
            assert not open_calls
        open_calls += [call["id"] for call in message.get("tool_calls", ())]
    assert not open_calls
    assert trim(trimmed.messages, budget).turns == 0
    assert trimmed.tokens <= budget or sum(m["role"] == "user" for m in trimmed.messages) <= 1


@pytest.mark.parametrize("tokens_max", [50, 200, 1000, 5000])
async def test_the_request_is_the_same_whether_a_conversation_was_read_whole_or_in_part(
    tokens_max: int,
) -> None:
    """Whatever suffix the agent accepts as enough."""
    chance = Random(tokens_max)
    agent = OpenAIAgent("m", OpenAIQuery(base_url="http://127.0.0.1:9/v1"), api_key=None,
                        event_bytes_max=1 << 20)  # fmt: skip
    options = {"context_tokens": tokens_max}
    for _ in range(20):
        everything = list(_talk(chance))
        whole = trim(to_openai(everything), tokens_max)
        for begin in range(len(everything) - 1, -1, -1):
            read = everything[begin:]
            if agent.is_enough(read, options):
                part = trim(to_openai(read), tokens_max)
                assert part.messages == whole.messages
                users = sum(message.role == "user" for message in everything[:begin])
                said = part.event(tokens_max, LeftOut(users, begin)).value
                assert said["dropped_turns"] == whole.turns
        assert not agent.is_enough(everything, {})
        assert agent.is_enough(everything, options) == (whole.turns > 0)
    await agent.aclose()


def _talk(chance: Random) -> Iterator[Message]:
    """Turns of a user's message, perhaps a tool exchange, and an answer."""
    for turn in range(chance.randrange(1, 40)):
        yield said("user", "u" * chance.randrange(1, 300))
        if chance.random() < 0.4:
            call = f"call_{turn}"
            yield said("assistant", "", tool_calls=[{"id": call, "name": "f", "arguments": {}}])
            yield said("tool", "r" * chance.randrange(1, 300), tool_call_id=call)
        yield said("assistant", "a" * chance.randrange(1, 300))
    yield said("user", "And now?")
