"""The frames of AG-UI from any log, cut anywhere: a client ends with the log's own messages."""

from collections.abc import Callable
from itertools import count, pairwise
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bamboo_gateway.domain.codec import encode
from bamboo_gateway.domain.events import (
    AgentEvent,
    Complete,
    Custom,
    Draft,
    Failed,
    InputRequired,
    MessageSaid,
    Thinking,
    Token,
    ToolComplete,
    ToolDelta,
    ToolError,
    ToolResult,
    ToolStart,
    Usage,
)
from bamboo_gateway.domain.message_assembler import MessageAssembler
from bamboo_gateway.wires.ag_ui.run_fold import RunFold
from bamboo_gateway.wires.ag_ui.run_state import Place, RunState
from tests.wires.ag_ui_client import Client, events_of, native

DELTAS = ("token", "thinking", "tool_delta")
FOLD = RunFold("s")


def log_of(*said: AgentEvent, run_id: str = "run_1") -> list[dict[str, Any]]:
    """Return the events that the log has of a run that says this, as the core writes them."""
    numbers = count(1)
    assembler = MessageAssembler(
        run_id, lambda: f"msg_{next(numbers)}", lambda: "2026-11-20T17:25:00.123Z", 1 << 20
    )
    drafts = [Draft("run_start", {"run_id": run_id, "agent": "a", "message_ids": ["u1"]})]
    for event in said:
        drafts += assembler.feed(event)
    return [
        {"type": kind, "seq": seq, "time": "2026-11-20T17:25:00.123Z", **fields}
        for seq, (kind, fields) in enumerate(drafts, 1)
    ]


def lines_of(events: list[dict[str, Any]]) -> list[bytes]:
    return [encode(event) + b"\n" for event in events]


def folded(*pieces: bytes, state: RunState | None = None) -> str:
    """Return the frames of a stream that gets these pieces."""
    place = Place(state or RunState("run_1"))
    frames: list[bytes] = []
    for piece in pieces:
        made = FOLD.feed(place, piece)
        frames.append(made.frames)
        place = made.state
    return b"".join(frames).decode()


def authoritative(events: list[dict[str, Any]]) -> list[tuple[Any, ...]]:
    return native([event["message"] for event in events if event["type"] == "message"])


TEXTS = st.text(max_size=6) | st.sampled_from(['"content":"', "\\", "\u2028", "🎋", "\n\n", "}"])
NAMES = st.sampled_from(["c1", "c2", "c3"])


@st.composite
def runs(draw: Any) -> list[AgentEvent]:
    """Draw what an agent says: texts, thoughts, calls in parallel, their pieces and results."""
    said: list[AgentEvent] = []
    open_calls: list[str] = []
    calls = count(1)
    for kind in draw(st.lists(st.integers(0, 6), max_size=14)):
        if kind < 3:
            said.append(Token(draw(TEXTS)))
        elif kind == 3:
            said.append(Thinking(draw(TEXTS)))
        elif kind == 4:
            call_id = f"c{next(calls)}"
            if draw(st.booleans()):
                said.append(ToolDelta(call_id, '{"x"'))
            said.append(ToolStart(call_id, "look", {"x": draw(TEXTS)}))
            open_calls.append(call_id)
        elif open_calls and kind == 5:
            said.append(ToolDelta(open_calls[0], draw(TEXTS)))
        elif open_calls:
            call_id = open_calls.pop(draw(st.integers(0, len(open_calls) - 1)))
            fails = draw(st.booleans())
            said.append(
                ToolError(call_id, "broken")
                if fails
                else ToolComplete(call_id, ToolResult(True, draw(st.sampled_from(["a", [1], {}]))))
            )
    endings: list[AgentEvent] = [Complete(Usage(1, 2, 3)), Failed("No", "x"), Complete()]
    return [*said, draw(st.sampled_from(endings))]


@given(runs(), st.lists(st.integers(0, 60), max_size=4), st.integers(0, 60))
def test_every_cut_of_every_log_gives_the_authoritative_messages(
    said: list[AgentEvent], cuts: list[int], compacted_from: int
) -> None:
    """R2, and frames made of the log alone: whole, in pieces, compacted before, and meanwhile."""
    events = log_of(*said)
    lines = lines_of(events)
    bounds = [0, *sorted(min(cut, len(lines)) for cut in cuts), len(lines)]
    pieces = [b"".join(lines[a:b]) for a, b in pairwise(bounds)]
    kept = [
        line
        for at, (line, event) in enumerate(zip(lines, events, strict=True))
        if at < compacted_from or event["type"] not in DELTAS
    ]
    expected = authoritative(events)
    assert sorted(Client().read(folded(*kept)).shown()) == sorted(expected)
    for stream in (folded(b"".join(lines)), folded(*lines), folded(*pieces)):
        client = Client().read(stream)
        assert sorted(client.shown()) == sorted(expected)
        if not _has_late_thoughts(events):
            assert client.shown() == expected
    assert folded(b"".join(lines)) == folded(*lines)
    compacted = lines_of([event for event in events if event["type"] not in DELTAS])
    for stored in (lines, compacted):
        replay = folded(b"".join(stored), state=RunState("run_1", is_over=True))
        assert Client().read(replay).shown() == expected


def _has_late_thoughts(events: list[dict[str, Any]]) -> bool:
    """Return whether a call came before the thoughts of its message: a log does not say so."""
    seen: set[str] = set()
    for event in events:
        if event["type"] == "tool_start":
            seen.add(event["message_id"])
        elif event["type"] == "thinking" and event["message_id"] in seen:
            return True
    return False


def test_a_text_has_one_begin_and_one_end_although_the_agent_thinks_and_calls_in_between() -> None:
    events = log_of(
        Thinking("a"), Token("b"), Thinking("c"), ToolStart("c1", "look"), Token("d"), Complete()
    )
    client = Client().read(folded(*lines_of(events)))
    assert client.types.count("TEXT_MESSAGE_START") == client.types.count("TEXT_MESSAGE_END") == 1
    assert client.shown() == authoritative(events)


def test_a_message_that_differs_from_its_pieces_waits_for_a_snapshot_before_the_end() -> None:
    events = log_of(
        Token("secret"), MessageSaid({"role": "assistant", "content": "••••"}), Complete()
    )
    made = FOLD.feed(Place(RunState("run_1")), b"".join(lines_of(events)))
    assert FOLD.waits(made.state)
    state = made.state.state
    assert state.waits_for == "all"
    assert b"RUN_FINISHED" not in made.frames
    ready = Place(state._replace(waits_for=None, rest=b"", is_stale=False))
    assert events_of(FOLD.feed(ready, state.rest).frames.decode())[-1]["type"] == "RUN_FINISHED"


def test_what_other_runs_say_is_not_shown() -> None:
    lines = [
        *lines_of(log_of(Token("other"), Complete(), run_id="run_0")),
        *lines_of(log_of(Token("mine"), Complete())),
        *lines_of(log_of(Token("later"), Complete(), run_id="run_2")),
    ]
    assert Client().read(folded(*lines)).shown() == [("assistant", "mine", [])]
    first = Client().read(folded(*lines, state=RunState(None)))
    assert first.shown() == [("assistant", "other", [])]


@pytest.mark.parametrize(
    ("end", "kind"),
    [(Complete(), "RUN_FINISHED"), (Failed("The disk.", "x"), "RUN_ERROR")],
)
def test_a_run_that_never_began_has_both_ends(end: AgentEvent, kind: str) -> None:
    lines = lines_of([event for event in log_of(end) if event["type"] != "run_start"])
    assert [event["type"] for event in events_of(folded(*lines))] == ["RUN_STARTED", kind]


@pytest.mark.parametrize(
    ("line", "code"),
    [(b"-shutdown\n", "stream_shutdown"), (b"!\n", "stream_deleted")],
)
def test_a_stream_that_ends_before_its_run_says_so(line: bytes, code: str) -> None:
    """R4: a stream that only ended would be a whole answer to the client."""
    begin = b"".join(lines_of(log_of(Token("Hel"))))
    events = events_of(folded(begin, *([line] if line else [])))
    assert events[-1]["type"] == "RUN_ERROR"
    assert events[-1]["code"] == code


def test_requests_for_input_are_interrupts() -> None:
    events = log_of(
        ToolStart("c1", "pay"),
        InputRequired("Pay?", "approval", "c1", request_id="q1"),
        InputRequired("Which?", request_id="q2"),
        Complete(),
    )
    outcome = Client().read(folded(*lines_of(events))).last["outcome"]
    assert outcome["type"] == "interrupt"
    first, second = outcome["interrupts"]
    assert (first["id"], first["reason"], first["toolCallId"]) == ("q1", "tool_call", "c1")
    assert first["responseSchema"]["required"] == ["approved"]
    assert (second["id"], second["reason"], second["message"]) == ("q2", "input_required", "Which?")


GOOD: list[dict[str, Any]] = [
    {"type": "STATE_SNAPSHOT", "snapshot": {"a": None}},
    {"type": "STATE_DELTA", "delta": [{"op": "add", "path": "/a", "value": None}]},
    {"type": "ACTIVITY_SNAPSHOT", "messageId": "m", "activityType": "PLAN", "content": {}},
    {"type": "ACTIVITY_DELTA", "messageId": "m", "activityType": "PLAN", "patch": []},
    {"type": "RAW", "event": {"x": 1}, "source": "langgraph"},
]
BAD: list[Any] = [
    None,
    5,
    {"type": "STATE_SNAPSHOT"},
    {"type": "STATE_DELTA", "delta": [{"op": "add", "path": "a", "value": 1}]},
    {"type": "STATE_DELTA", "delta": [{"op": "move", "path": "/a"}]},
    {"type": "STEP_STARTED", "stepName": 5},
    {"type": "RUN_FINISHED", "threadId": "s", "runId": "x"},
    {"type": ["x"]},
    {"type": "ACTIVITY_SNAPSHOT", "messageId": "m", "activityType": "P", "content": []},
]


@pytest.mark.parametrize("value", GOOD)
def test_an_agent_writes_events_of_the_protocol_as_custom_events(value: dict[str, Any]) -> None:
    events = events_of(folded(*lines_of(log_of(Custom("ag_ui", value), Complete()))))
    assert events[1] == value


@pytest.mark.parametrize("value", BAD)
def test_what_is_no_event_of_the_protocol_stays_a_custom_event(value: Any) -> None:
    events = events_of(folded(*lines_of(log_of(Custom("ag_ui", value), Complete()))))
    assert events[1] == {"type": "CUSTOM", "name": "ag_ui", "value": value}


def test_steps_are_closed_at_the_end_and_never_opened_twice() -> None:
    def step(kind: str, name: str) -> Custom:
        return Custom("ag_ui", {"type": f"STEP_{kind}", "stepName": name})

    said = [step("STARTED", "a"), step("STARTED", "b"), step("STARTED", "a")]
    events = log_of(*said, step("FINISHED", "c"), Complete())
    names = [
        (event["type"], event["stepName"])
        for event in events_of(folded(*lines_of(events)))
        if "stepName" in event
    ]
    assert names == [
        ("STEP_STARTED", "a"),
        ("STEP_STARTED", "b"),
        ("STEP_FINISHED", "b"),
        ("STEP_FINISHED", "a"),
    ]


def test_readers_at_one_place_share_what_was_made(monkeypatch: pytest.MonkeyPatch) -> None:
    from bamboo_gateway.wires.folded_streams import FoldMemo

    memo, calls = FoldMemo(FOLD), list[bytes]()
    feed: Callable[..., Any] = RunFold.feed

    def counted(fold: RunFold, state: Place, lines: bytes) -> Any:
        calls.append(lines)
        return feed(fold, state, lines)

    monkeypatch.setattr(RunFold, "feed", counted)
    memo.readers = 2
    frames = b""
    lines = lines_of(log_of(Token("a"), Token("b"), Complete()))
    states = [Place(RunState("run_1")), Place(RunState("run_1"))]
    for line in lines:
        results = [memo.feed(state, line) for state in states]
        assert results[0] is results[1]
        states = [result.state for result in results]
        frames = results[0].frames
    assert calls == lines
    assert events_of(frames.decode())[-1]["type"] == "RUN_FINISHED"
