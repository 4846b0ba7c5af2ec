"""The fold: frames and messages of any run say the same, whenever a reader comes.

R2 and R4 for this protocol: a reader that comes late, reads twice, or reads a compacted log gets
the same message; one that cannot is told.
"""

import itertools
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from bamboo_gateway.domain.codec import decode, encode
from bamboo_gateway.domain.errors import InvalidEvent
from bamboo_gateway.domain.events import (
    DELTA_TYPES,
    AgentEvent,
    Cancelled,
    Complete,
    Custom,
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
)
from bamboo_gateway.domain.message_assembler import MessageAssembler
from bamboo_gateway.sessions.streaming.rendering import Goodbye, GoodbyeReason, Ping
from bamboo_gateway.wires.ai_sdk.run_fold import RunFold
from bamboo_gateway.wires.ai_sdk.run_state import Begin, Run, RunState
from bamboo_gateway.wires.ai_sdk.ui_messages import UiMessages
from bamboo_gateway.wires.ai_sdk.versions import V5, V6, V7, VERSIONS, Version
from bamboo_gateway.wires.folded_streams import EVENT_LINES, Folded, FoldMemo
from bamboo_gateway.wires.places import Place
from tests.wires.ai_sdk.client import plain
from tests.wires.ai_sdk.reader import Reader

RUN = 'run_"1"'
TIME = "2026-11-20T17:25:00.123Z"
TEXTS = st.text(alphabet=st.characters(exclude_categories=["Cs"]), max_size=6) | st.sampled_from(
    ['"', "\\", "\n\n", "data: x", "\u2028", "👩‍👩‍👧", 'seq":1,"run_id":"']
)
CALLS = st.sampled_from(["c1", "c2", "c3"])
EVENTS: st.SearchStrategy[AgentEvent] = st.one_of(
    st.builds(Token, TEXTS.filter(bool)),
    st.builds(Token, TEXTS.filter(bool)),
    st.builds(Thinking, TEXTS.filter(bool)),
    st.builds(ToolStart, CALLS, st.sampled_from(["a", "b-c"]), st.just({"x": [1, None]})),
    st.builds(ToolDelta, CALLS, TEXTS),
    st.builds(lambda call, ok: ToolComplete(call, ToolResult(ok, {"v": 1})), CALLS, st.booleans()),
    st.builds(ToolError, CALLS, st.just("no")),
    st.builds(Custom, st.just("note"), st.sampled_from([1, {"id": "p", "n": 1}, {"id": "p"}])),
    st.builds(lambda text: MessageSaid({"role": "assistant", "content": text}), TEXTS.filter(bool)),
)
ENDS: st.SearchStrategy[AgentEvent] = st.sampled_from(
    [Complete(), Complete(finish_reason="tool_calls"), Failed("broke"), Cancelled()]
)
VERSION = st.sampled_from(VERSIONS)


def logged(events: list[AgentEvent], *, run_id: str = RUN, first: int = 7) -> list[bytes]:
    """The bodies of a run's events, as the log has them; what is refused is left out."""
    ids = itertools.count(1)
    assembler = MessageAssembler(run_id, lambda: f"msg_{next(ids)}", lambda: TIME, 1 << 20)
    seq = itertools.count(first)
    user = {"id": "u", "role": "user", "content": "hi"}
    drafts: list[Any] = [
        ("message", {"run_id": run_id, "message_id": "u", "message": user}),
        ("run_start", {"run_id": run_id, "agent": "default", "message_ids": ["u"]}),
    ]
    for event in events:
        try:
            drafts += assembler.feed(event)
        except InvalidEvent:
            continue
    return [
        encode({"type": kind, "seq": next(seq), "time": TIME, **fields}) for kind, fields in drafts
    ]


def stream(bodies: list[bytes], version: Version, size: int = 1) -> str:
    return folded(bodies, version, size).frames.decode()


def folded(bodies: list[bytes], version: Version, size: int) -> Folded[Place[RunState]]:
    """What the fold makes of events that come in pieces."""
    fold, place, found = RunFold(Run(RUN, version, {}, "")), RunState.of(Begin()), b""
    for at in range(0, len(bodies), size):
        piece = b"".join(b"%b\n" % body for body in bodies[at : at + size])
        frames, place = fold.feed(place, piece)
        found += frames
    return Folded(found, place)


def loaded(bodies: list[bytes], version: Version) -> list[dict[str, Any]]:
    ui = UiMessages(version, "")
    ui.take_all(decode(body) for body in bodies if decode(body)["type"] not in DELTA_TYPES)
    return sorted_steps([one for one in ui.messages if one["role"] == "assistant"])


def read(text: str, version: Version) -> list[dict[str, Any]]:
    reader = Reader(version.number).read(text)
    assert reader.is_done
    assert reader.ended_with is not None
    assert reader.texts == {}, "a text is left open"
    return sorted_steps([reader.message] if reader.message["parts"] else [])


def sorted_steps(messages: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Messages whose calls are behind the texts of their step, as messages of the gateway are.

    A call that began before a text, or whose text has left the log, is shown before it.
    """
    shown = plain(messages)
    for message in shown:
        step = 0
        places = []
        for part in message["parts"]:
            step += part["type"] == "step-start"
            places.append((step, part["type"].startswith(("tool-", "data-"))))
        order = sorted(range(len(places)), key=places.__getitem__)
        message["parts"] = [message["parts"][at] for at in order]
    return shown


def is_said_again(bodies: list[bytes]) -> bool:
    """Whether the agent says at the end something else than it said on the way."""
    said: dict[str, str] = {}
    for event in map(decode, bodies):
        if event["type"] in {"token", "thinking"}:
            said[event["message_id"]] = said.get(event["message_id"], "") + event["content"]
        if event["type"] == "message" and event["message_id"] in said:
            content = event["message"]["content"]
            texts = content if isinstance(content, str) else "".join(p["text"] for p in content)
            if not texts.startswith(said[event["message_id"]]):
                return True
    return False


@given(st.lists(EVENTS, max_size=14), ENDS, VERSION)
def test_frames_and_messages_of_any_run_say_the_same(
    events: list[AgentEvent], end: AgentEvent, version: Version
) -> None:
    bodies = logged([*events, end])
    if version is not V7 and is_said_again(bodies):
        return  # these versions cannot take back what they have shown
    if version is V7 and is_said_again(bodies) and any(isinstance(e, Custom) for e in events):
        return  # and with the step goes the data in it
    assert read(stream(bodies, version), version) == loaded(bodies, version)


@given(st.lists(EVENTS, max_size=14), ENDS, VERSION, st.data())
def test_a_run_without_any_of_its_deltas_says_the_same(
    events: list[AgentEvent], end: AgentEvent, version: Version, data: st.DataObject
) -> None:
    """A log that was compacted, also while a reader is in the middle of it."""
    bodies = logged([*events, end])
    if is_said_again(bodies):
        return
    cut = data.draw(st.integers(0, len(bodies)))
    kept = [
        body
        for number, body in enumerate(bodies)
        if number < cut or decode(body)["type"] not in DELTA_TYPES
    ]
    assert read(stream(kept, version), version) == loaded(bodies, version)


@given(st.lists(EVENTS, max_size=14), ENDS, VERSION, st.integers(2, 30))
def test_a_reader_that_comes_later_gets_the_same_frames_from_the_same_place_on(
    events: list[AgentEvent], end: AgentEvent, version: Version, size: int
) -> None:
    bodies = logged([*events, end])
    early, late = folded(bodies, version, 1), folded(bodies, version, size)
    assert early == late
    memo = FoldMemo(RunFold(Run(RUN, version, {}, "")))
    memo.readers = 2
    line = b"%b\n" % bodies[-1]
    places = [folded(bodies[:-1], version, pieces).state for pieces in (1, size)]
    assert memo.feed(places[0], line) is memo.feed(places[1], line)


@given(st.lists(EVENTS, max_size=14), ENDS, VERSION)
def test_a_reader_of_a_compacted_log_shares_no_place_with_one_that_has_read_all(
    events: list[AgentEvent], end: AgentEvent, version: Version
) -> None:
    bodies = logged([*events, end])
    kept = [body for body in bodies if decode(body)["type"] not in DELTA_TYPES]
    if kept != bodies:
        assert folded(kept, version, 1).state != folded(bodies, version, 1).state


@given(st.lists(EVENTS, max_size=8), ENDS, VERSION)
def test_events_of_other_runs_and_of_nobody_are_not_shown(
    events: list[AgentEvent], end: AgentEvent, version: Version
) -> None:
    others = logged([*events, end], run_id="run_2")
    posted = encode(
        {"type": "custom", "seq": 3, "time": TIME, "name": RUN, "value": {"run_id": RUN}}
    )
    assert stream([*others, posted], version) == ""


def test_a_version_gets_only_the_parts_that_all_of_its_releases_know() -> None:
    events: list[AgentEvent] = [ToolStart("c", "rm"), InputRequired("May I?", "approval", "c")]
    bodies = logged([*events, Complete()])
    assert "data-input-required" in stream(bodies, V5)
    assert "tool-approval-request" not in stream(bodies, V5)
    assert "tool-approval-request" in stream(bodies, V6)
    assert '"finishReason"' not in stream(bodies, V5)
    assert '"finishReason":"tool-calls"' in stream(bodies, V6)
    cancelled = logged([Token("x"), Cancelled("why")])
    assert '{"type":"abort"}' in stream(cancelled, V5)
    assert '{"type":"abort","reason":"why"}' in stream(cancelled, V7)
    other = logged([Token("Hel"), MessageSaid({"role": "assistant", "content": "No."}), Complete()])
    assert "reset-step" not in stream(other, V6)
    assert "reset-step" in stream(other, V7)


def test_a_stream_that_the_gateway_ends_says_so() -> None:
    fold, place = RunFold(Run(RUN, V5, {}, "")), RunState.of(Begin())
    reasons: tuple[GoodbyeReason, ...] = ("shutdown", "deleted")
    said = [
        fold.feed(place, EVENT_LINES.control(Goodbye(reason, retry=True))).frames
        for reason in reasons
    ]
    assert b"Load the messages" in said[0]
    assert b"deleted or closed" in said[1]
    assert fold.feed(place, EVENT_LINES.control(Ping())) == (b": ping\n", place)
