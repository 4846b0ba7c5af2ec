"""Messages come in an order that OpenAI-compatible servers accept, whatever agents do."""

from collections.abc import Iterator
from itertools import count
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bamboo_gateway.domain.errors import BambooError, InvalidEvent, InvalidInput, Refused, TooLarge
from bamboo_gateway.domain.events import (
    AgentEvent,
    Cancelled,
    Complete,
    Draft,
    Failed,
    MessageSaid,
    TerminalEvent,
    Thinking,
    Token,
    ToolComplete,
    ToolDelta,
    ToolError,
    ToolResult,
    ToolStart,
)
from bamboo_gateway.domain.message_assembler import MessageAssembler
from bamboo_gateway.domain.messages import Message
from bamboo_gateway.domain.projections import fold
from bamboo_gateway.domain.sessions import SessionHead
from bamboo_gateway.domain.tool_order import INTERRUPTED, OPEN_CALLS_MAX, in_order
from tests.domain.histories import accepted_by_upstreams

EVENT_BYTES_MAX = 4096
NOW = "2026-11-20T17:25:00.123Z"


def assembler(numbers: Iterator[int] | None = None) -> MessageAssembler:
    ids = numbers or count(1)
    return MessageAssembler("run", lambda: f"m{next(ids)}", lambda: NOW, EVENT_BYTES_MAX)


def done(call_id: str, text: str = "42") -> ToolComplete:
    return ToolComplete(call_id, ToolResult(True, text))


def said(drafts: list[Draft]) -> list[dict[str, Any]]:
    return [draft.fields["message"] for draft in drafts if draft.type == "message"]


def of(*events: AgentEvent) -> list[dict[str, Any]]:
    """Return the messages of a run; the last event is its end."""
    made = assembler()
    return said([draft for event in events for draft in made.feed(event)])


def brief(messages: list[dict[str, Any]]) -> list[str]:
    return [
        message.get("tool_call_id")
        or "+".join([message["role"], *(call["id"] for call in message.get("tool_calls") or ())])
        for message in messages
    ]


def test_parallel_calls_are_in_one_message_and_their_results_follow_it() -> None:
    events: list[AgentEvent] = [
        ToolStart("a", "t"),
        ToolStart("b", "t"),
        done("b"),
        Token("x"),
        done("a"),
        Complete(),
    ]
    assert brief(of(*events)) == ["assistant+a+b", "b", "a", "assistant"]


def test_calls_inside_a_tool_follow_the_result_of_the_outer_call() -> None:
    events: list[AgentEvent] = [
        ToolStart("outer", "task"),
        ToolStart("in1", "t"),
        done("in1"),
        ToolStart("in2", "t"),
        ToolStart("in3", "t"),
        done("in3"),
        Token("thinking about it"),
        ToolStart("in4", "t"),
        done("in4"),
        done("in2"),
        done("outer"),
        Token("Done."),
        Complete(),
    ]
    messages = of(*events)
    assert brief(messages) == [
        *["assistant+outer+in1", "in1", "outer"],
        *["assistant+in2+in3", "in3", "in2"],
        *["assistant+in4", "in4", "assistant"],
    ]


@pytest.mark.parametrize("end", [Complete(), Failed("x"), Cancelled()])
def test_calls_that_nobody_will_answer_are_closed_before_the_end(end: TerminalEvent) -> None:
    made = assembler()
    drafts = [
        d for e in (ToolStart("a", "t"), ToolStart("b", "t"), done("b")) for d in made.feed(e)
    ]
    drafts += made.end(end)
    assert brief(said(drafts)) == ["assistant+a+b", "b", "a"]
    assert [draft.type for draft in drafts[-3:]] == ["tool_error", "message", end.type]
    assert said(drafts)[-1]["content"] == INTERRUPTED


def test_calls_of_the_last_message_stay_open_for_the_client() -> None:
    messages = of(Token("Look"), ToolStart("a", "t"), Complete(finish_reason="tool_calls"))
    assert brief(messages) == ["assistant+a"]


def test_the_client_does_not_answer_calls_before_other_messages() -> None:
    events: list[AgentEvent] = [
        ToolStart("a", "t"),
        ToolStart("b", "t"),
        done("b"),
        ToolStart("c", "t"),
        Complete(finish_reason="tool_calls"),
    ]
    assert brief(of(*events)) == ["assistant+a+b", "b", "a", "assistant+c"]


def test_a_yielded_message_keeps_the_calls_of_its_deltas() -> None:
    events: list[AgentEvent] = [
        Token("Lo"),
        ToolStart("a", "t"),
        MessageSaid({"role": "assistant", "content": "Look"}),
        done("a"),
        Complete(),
    ]
    messages = of(*events)
    assert brief(messages) == ["assistant+a", "a"]
    assert messages[0]["content"] == "Look"


CALLING = {"role": "assistant", "content": "", "tool_calls": [{"id": "a", "name": "t"}]}


@pytest.mark.parametrize(
    "events",
    [
        [MessageSaid(CALLING), MessageSaid({"role": "user", "content": "?"})],
        [MessageSaid(CALLING), MessageSaid({"role": "assistant", "content": "?"})],
        [MessageSaid({"role": "tool", "content": "x", "tool_call_id": "a"})],
        [MessageSaid({"role": "tool", "content": "x"})],
        [MessageSaid(CALLING), done("a"), MessageSaid(CALLING)],
        [MessageSaid(CALLING), done("a"), done("a")],
        [MessageSaid(CALLING | {"tool_calls": [*CALLING["tool_calls"]] * 2})],
        [MessageSaid(CALLING | {"tool_calls": [{"id": "a"}]})],
        [MessageSaid(CALLING | {"role": "user"})],
        [MessageSaid(CALLING | {"content": [1]})],
        [MessageSaid(CALLING | {"usage": 1})],
        [ToolStart("a", "t"), done("a"), ToolStart("a", "t")],
        [*(ToolStart(str(number), "t") for number in range(OPEN_CALLS_MAX + 1))],
        [ToolStart("x" * 20_000, "t")],
    ],
)
def test_an_event_that_breaks_the_order_is_refused_and_leaves_no_trace(
    events: list[AgentEvent],
) -> None:
    made = assembler()
    drafts = [draft for event in events[:-1] for draft in made.feed(event)]
    with pytest.raises((InvalidEvent, TooLarge)):
        made.feed(events[-1])
    drafts += made.end(Complete())
    accepted_by_upstreams(said(drafts))


def test_a_message_never_outgrows_an_event() -> None:
    made = assembler()
    events: list[AgentEvent] = [Token("\x00" * 300)] * 9
    events += [ToolStart(f"c{number}", "t", {"text": "y" * 3000}) for number in range(3)]
    drafts = [draft for event in events for draft in made.feed(event)]
    drafts += [draft for number in range(3) for draft in made.feed(done(f"c{number}", "z" * 3000))]
    drafts += made.end(Failed("w" * 9000))
    messages = said(drafts)
    assert "".join(m["content"] for m in messages if m["role"] == "assistant") == "\x00" * 2700
    assert brief(messages)[-6:] == [
        "assistant+c0",
        "c0",
        "assistant+c1",
        "c1",
        "assistant+c2",
        "c2",
    ]
    assert all(len(str(draft).encode()) < 2 * EVENT_BYTES_MAX for draft in drafts)


_CALL_IDS = st.sampled_from(["a", "b", "c", "d"])
_EVENTS = st.one_of(
    st.builds(Token, st.text(max_size=900)),
    st.builds(Thinking, st.text(max_size=9)),
    st.builds(ToolStart, _CALL_IDS, st.just("t"), st.just({"x": "y" * 1500})),
    st.builds(ToolDelta, _CALL_IDS, st.just("{")),
    st.builds(done, _CALL_IDS),
    st.builds(ToolError, _CALL_IDS, st.just("no")),
    st.just(MessageSaid(CALLING)),
    st.just(MessageSaid({"role": "assistant", "content": "said"})),
    st.just(MessageSaid({"role": "tool", "content": "r", "tool_call_id": "b"})),
)
_ENDS = st.sampled_from(
    [Complete(), Complete(finish_reason="tool_calls"), Failed("x"), Cancelled()]
)


@given(st.lists(_EVENTS, max_size=25), _ENDS, st.integers(0, 25))
def test_whatever_an_agent_yields_and_wherever_it_is_cut_the_history_is_accepted(
    events: list[AgentEvent], end: TerminalEvent, cut: int
) -> None:
    """Each prefix of the log, replayed, goes on as if nothing had happened (R5)."""
    made = assembler(numbers := count(1))
    drafts: list[Draft] = []
    for number, event in enumerate(events):
        if number == cut:
            made = assembler(numbers)
            for place, draft in enumerate(drafts):
                made.replay({"type": draft.type, "seq": place, "time": NOW, **draft.fields})
        try:
            drafts += made.feed(event)
        except BambooError:
            continue
    drafts += made.end(end)
    messages = said(drafts)
    open_at_end = accepted_by_upstreams(messages)
    if end != Complete(finish_reason="tool_calls"):
        assert not open_at_end
    head = SessionHead("s", 1)
    for place, (kind, fields) in enumerate([Draft("run_start", RUN), *drafts]):
        fold(head, {"type": kind, "seq": place + 1, "time": NOW} | fields, 0)
    assert set(head.open_calls) == open_at_end
    shown = [d.fields["tool_call_id"] for d in drafts if d.type in {"tool_complete", "tool_error"}]
    answered = [m["tool_call_id"] for m in messages if m["role"] == "tool"]
    assert set(shown) <= set(answered), "every result that was shown is a message"
    assert len(answered) == len(set(answered))


RUN = {"run_id": "run", "agent": "default", "message_ids": [], "position": "1-0"}


# -- what clients send ----------------------------------------------------------------------------


def message(role: Any, text: str = "x", **fields: Any) -> Message:
    return Message("m", role, text, NOW, **fields)


def result(call_id: str) -> Message:
    return message("tool", tool_call_id=call_id)


def calling(*ids: str) -> Message:
    calls = [{"id": call_id, "name": "t", "arguments": {}} for call_id in ids]
    return message("assistant", tool_calls=calls)


USER = message("user")


def closing(call_id: str) -> Message:
    return message("tool", "closed", tool_call_id=call_id)


@pytest.mark.parametrize(
    ("open_calls", "given_messages", "code"),
    [
        (["a"], [USER], "open-tool-calls"),
        (["a", "b"], [result("a")], "open-tool-calls"),
        (["a", "b"], [result("a"), USER, result("b")], "open-tool-calls"),
        ([], [calling("a")], "open-tool-calls"),
        ([], [result("a")], "no-open-tool-call"),
        (["a"], [result("a"), result("a")], "no-open-tool-call"),
        (["a"], [result("b")], "no-open-tool-call"),
        ([], [calling("a", "a")], "invalid"),
        ([], [calling(*map(str, range(OPEN_CALLS_MAX + 1)))], "invalid"),
    ],
)
def test_messages_that_break_the_order_are_refused_with_a_reason(
    open_calls: list[str], given_messages: list[Message], code: str
) -> None:
    with pytest.raises((Refused, InvalidInput)) as caught:
        in_order(open_calls, given_messages, close=None, all_answered=True)
    assert caught.value.code == code


def test_open_calls_may_keep_waiting_when_no_run_follows() -> None:
    given_messages = [result("a")]
    said_messages = in_order(["a", "b"], given_messages, close=None, all_answered=False)
    assert said_messages == given_messages


def test_skipped_calls_are_closed_where_a_run_follows() -> None:
    given_messages = [result("b"), USER, calling("c", "d"), result("d")]
    said_messages = in_order(["a", "b"], given_messages, close=closing, all_answered=True)
    assert [m.tool_call_id or m.role for m in said_messages] == [
        *["b", "a", "user", "assistant", "d", "c"]
    ]
