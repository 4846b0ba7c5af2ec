"""Messages assembled from a run's events: R5 over every interleaving and every cut."""

from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bamboo_gateway.domain.codec import encode
from bamboo_gateway.domain.errors import InvalidEvent, TooLarge
from bamboo_gateway.domain.events import (
    DELTA_TYPES,
    AgentEvent,
    Cancelled,
    Complete,
    Custom,
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

NOW = "2026-11-20T17:25:00.123Z"
LARGE = 1 << 20


class Ids:
    def __init__(self, given: int = 0) -> None:
        self.given = given

    def __call__(self) -> str:
        self.given += 1
        return f"msg_{self.given}"


def assembler(
    ids: Callable[[], str] | None = None, event_bytes_max: int = LARGE
) -> MessageAssembler:
    return MessageAssembler("r", ids or Ids(), lambda: NOW, event_bytes_max)


def as_logged(draft: Draft) -> dict[str, Any]:
    return {"type": draft.type, "seq": 0, "time": NOW, **draft.fields}


def messages(drafts: list[Draft]) -> list[dict[str, Any]]:
    return [draft.fields["message"] for draft in drafts if draft.type == "message"]


CALLS = st.sampled_from(["c1", "c2", "c3"])
TEXT = st.sampled_from(["a", "bc", "ü\u2028", "\x00", '<&"\\'])
EVENTS: st.SearchStrategy[AgentEvent] = st.one_of(
    st.builds(Token, TEXT),
    st.builds(Thinking, TEXT),
    st.builds(lambda call: ToolStart(call, "t", {"x": 1}), CALLS),
    st.builds(ToolDelta, CALLS, TEXT),
    st.builds(lambda call: ToolComplete(call, ToolResult(True, {"y": 2})), CALLS),
    st.builds(ToolError, CALLS, TEXT),
    st.builds(Custom, st.just("n"), st.integers(0, 9)),
    st.builds(lambda text: MessageSaid({"role": "assistant", "content": text}), TEXT),
    st.builds(
        lambda call, text: MessageSaid(
            {
                "role": "assistant",
                "content": text,
                "tool_calls": [{"id": call, "name": "t", "arguments": {}}],
            }
        ),
        CALLS,
        TEXT,
    ),
    st.builds(
        lambda call: MessageSaid({"role": "tool", "content": "z", "tool_call_id": call}), CALLS
    ),
)
ENDS: st.SearchStrategy[TerminalEvent] = st.sampled_from(
    [Complete(), Complete(finish_reason="tool_calls"), Failed("no"), Cancelled()]
)
RUNS = st.lists(EVENTS, max_size=25)


def fed(making: MessageAssembler, events: list[AgentEvent]) -> tuple[list[Draft], list[AgentEvent]]:
    """Feed events; return the drafts, and the events that were accepted."""
    drafts: list[Draft] = []
    accepted: list[AgentEvent] = []
    for event in events:
        try:
            drafts += making.feed(event)
        except InvalidEvent:
            continue
        accepted.append(event)
    return drafts, accepted


@settings(max_examples=300, deadline=None)
@given(events=RUNS, end=ENDS)
def test_a_cut_at_every_event_changes_no_message(events: list[AgentEvent], end: TerminalEvent):
    """R5: a run picked up from its log says what it would have said."""
    _, accepted = fed(assembler(), events)
    for cut in range(len(accepted) + 1):
        ids = Ids()
        whole = assembler(ids)
        before = [draft for event in accepted[:cut] for draft in whole.feed(event)]
        resumed = assembler(Ids(ids.given))
        for draft in before:
            resumed.replay(as_logged(draft))
        rest = [draft for event in accepted[cut:] for draft in whole.feed(event)]
        again = [draft for event in accepted[cut:] for draft in resumed.feed(event)]
        assert [*again, *resumed.end(end)] == [*rest, *whole.end(end)]


@settings(max_examples=200, deadline=None)
@given(events=RUNS, end=ENDS)
def test_an_event_that_is_refused_leaves_no_trace(events: list[AgentEvent], end: TerminalEvent):
    one = assembler()
    drafts, accepted = fed(one, events)
    other = assembler()
    clean = [draft for event in accepted for draft in other.feed(event)]
    assert without_ids([*drafts, *one.end(end)]) == without_ids([*clean, *other.end(end)])


def without_ids(drafts: list[Draft]) -> list[Any]:
    """Return drafts with their message ids numbered as they first appear."""
    numbers: dict[str, int] = {}

    def numbered(value: Any) -> Any:
        if isinstance(value, dict):
            return {name: numbered(part) for name, part in value.items()}
        if isinstance(value, list):
            return [numbered(part) for part in value]
        if isinstance(value, str) and value.startswith("msg_"):
            return numbers.setdefault(value, len(numbers))
        return value

    return [numbered([draft.type, draft.fields]) for draft in drafts]


@settings(max_examples=300, deadline=None)
@given(events=RUNS, end=ENDS)
def test_no_result_stands_before_the_message_that_holds_its_call(
    events: list[AgentEvent], end: TerminalEvent
):
    """Otherwise every later request fails upstream."""
    making = assembler()
    drafts, _ = fed(making, events)
    drafts += making.end(end)
    waiting: list[str] = []
    for said in messages(drafts):
        if said["role"] == "tool":
            assert said["tool_call_id"] in waiting
            waiting.remove(said["tool_call_id"])
        else:
            assert not waiting, "something is said before every call has its result"
            waiting = [call["id"] for call in said.get("tool_calls") or ()]
    if not (isinstance(end, Complete) and end.finish_reason == "tool_calls"):
        assert not waiting


@settings(max_examples=300, deadline=None)
@given(events=RUNS, end=ENDS)
def test_deltas_become_one_whole_message(events: list[AgentEvent], end: TerminalEvent):
    """R5: no delta is left without the message that replaces it; ids are given once."""
    making = assembler()
    drafts, accepted = fed(making, events)
    drafts += making.end(end)
    said = messages(drafts)
    assert len({one["id"] for one in said}) == len(said)
    shown = {d.fields["message_id"] for d in drafts if d.type in ("token", "thinking")}
    assert shown <= {one["id"] for one in said}
    assert drafts[-1].type == end.type
    if not any(isinstance(event, MessageSaid) for event in accepted):
        spoken = "".join(event.content for event in accepted if isinstance(event, Token))
        assert "".join(text_of(one) for one in said if one["role"] == "assistant") == spoken


def text_of(message: dict[str, Any]) -> str:
    content = message["content"]
    if isinstance(content, str):
        return content
    return "".join(part["text"] for part in content if part["type"] == "text")


@settings(max_examples=200, deadline=None)
@given(events=st.lists(st.one_of(EVENTS, st.builds(Token, st.text("ab\x00ü", max_size=1500)))))
def test_no_message_is_too_large_to_be_stored(events: list[AgentEvent]):
    """R11: however long an agent talks, each event fits."""
    making = assembler(event_bytes_max=4096)
    drafts: list[Draft] = []
    for event in events:
        try:
            drafts += making.feed(event)
        except (InvalidEvent, TooLarge):
            continue
    drafts += making.end(Complete())
    for draft in drafts:
        body = encode({"type": draft.type, "seq": 10**15, "time": NOW, **draft.fields})
        assert len(body) <= 4096


def test_a_turn_with_tools_reads_as_the_contract_says():
    making = assembler()
    drafts, accepted = fed(
        making,
        [
            Thinking("hm"),
            Token("Let me see."),
            ToolStart("c1", "look", {"q": 1}),
            ToolStart("c2", "look", {"q": 2}),
            ToolComplete("c2", ToolResult(True, "two")),
            ToolError("c1", "none"),
            Token("Done."),
        ],
    )
    assert len(accepted) == 7
    drafts += making.end(Complete())
    said = messages(drafts)
    assert [one["role"] for one in said] == ["assistant", "tool", "tool", "assistant"]
    assert said[0]["content"] == [
        {"type": "thinking", "text": "hm"},
        {"type": "text", "text": "Let me see."},
    ]
    assert [call["id"] for call in said[0]["tool_calls"]] == ["c1", "c2"]
    assert [one["tool_call_id"] for one in said[1:3]] == ["c2", "c1"]
    assert said[3]["content"] == "Done."
    assert {draft.type for draft in drafts[:2]} <= DELTA_TYPES


@pytest.mark.parametrize(
    ("end", "status"),
    [(Complete(), "complete"), (Failed("x"), "incomplete"), (Cancelled(), "incomplete")],
)
def test_a_message_that_the_end_of_a_run_cuts_is_incomplete(end: TerminalEvent, status: str):
    making = assembler()
    making.feed(Token("half"))
    drafts = making.end(end)
    assert [draft.type for draft in drafts] == ["message", end.type]
    assert messages(drafts)[0]["status"] == status


def test_a_run_without_content_has_no_message():
    making = assembler()
    making.feed(ToolDelta("c", "{"))
    assert [draft.type for draft in making.end(Complete())] == ["complete"]
