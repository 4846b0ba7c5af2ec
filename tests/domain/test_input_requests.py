"""Requests for input: what a run that asks leaves behind, what the head shows, how a round ends."""

from typing import Any

import pytest

from bamboo_gateway.domain.answer_schema import check_schema, problems_of
from bamboo_gateway.domain.codec import decode, encode
from bamboo_gateway.domain.errors import InvalidEvent
from bamboo_gateway.domain.events import (
    AgentEvent,
    Cancelled,
    Complete,
    Draft,
    Failed,
    InputRequired,
    TerminalEvent,
    Token,
    ToolComplete,
    ToolResult,
    ToolStart,
    parse_agent_event,
)
from bamboo_gateway.domain.input_requests import calls_of_round, close_draft, end_round
from bamboo_gateway.domain.message_assembler import REQUESTS_MAX, MessageAssembler
from bamboo_gateway.domain.messages import Message
from bamboo_gateway.domain.projections import fold
from bamboo_gateway.domain.sessions import Presence, SessionHead, is_stored_unfinished, state_of
from bamboo_gateway.storage.marks import mark_of

NOW = "2026-11-20T17:25:00.123Z"
LATER = "2026-11-21T17:25:00.000Z"
APPROVAL = InputRequired("Pay 9 EUR?", "approval", "a", request_id="q1")
CALLED = [ToolStart("a", "pay"), ToolStart("b", "look")]


class Log:
    """A log of one session, its head, and an assembler for its runs."""

    def __init__(self) -> None:
        self.head = SessionHead("s", 1)
        self.events: list[dict[str, Any]] = []
        self.add(Draft("session_created", {}))

    def add(self, *drafts: Draft) -> None:
        for kind, fields in drafts:
            event = {"type": kind, "seq": self.head.seq + 1, "time": NOW, **fields}
            self.events.append(decode(encode(event)))
            fold(self.head, self.events[-1])

    def run(self, run_id: str, *events: AgentEvent, end: TerminalEvent | None = None) -> None:
        calls = list(self.head.open_calls)
        names = (f"{run_id}.{number}" for number in range(100))
        assembler = MessageAssembler(run_id, names.__next__, lambda: NOW, 1 << 20)
        self.add(
            Draft(
                "run_start",
                {"run_id": run_id, "agent": "x", "message_ids": [], "tool_call_ids": calls},
            )
        )
        assembler.carry(calls)
        for event in events:
            self.add(*assembler.feed(event))
        # Whatever was made of the run's own memory can be made of the log.
        again = MessageAssembler(run_id, names.__next__, lambda: NOW, 1 << 20)
        for logged in self.events:
            if logged.get("run_id") == run_id:
                again.replay(logged)
        drafts = assembler.end(end or Complete())
        kinds = [draft.type for draft in again.end(end or Complete())]
        assert kinds == [draft.type for draft in drafts]
        self.add(*drafts)

    def since(self, kind: str) -> list[dict[str, Any]]:
        return [event for event in self.events if event["type"] == kind]

    @property
    def state(self) -> str:
        return state_of(self.head, Presence(0))


def result(call_id: str, words: str) -> Message:
    return Message(f"m-{call_id}", "tool", words, NOW, tool_call_id=call_id)


def test_a_run_that_asks_leaves_the_calls_it_asks_about_open_and_closes_others() -> None:
    log = Log()
    log.run("r1", Token("I pay. "), *CALLED, APPROVAL)
    assert log.since("complete")[0]["finish_reason"] == "input_required"
    assert log.head.open_calls == ["a"] == calls_of_round(log.head)
    assert [event["tool_call_id"] for event in log.since("tool_error")] == ["b"]
    [asked] = log.head.open_requests
    assert (asked.request_id, asked.kind, asked.run_id, asked.agent) == (
        "q1",
        "approval",
        "r1",
        "x",
    )
    assert asked.seq == log.since("input_required")[0]["seq"]
    assert log.state == "needs_input"
    assert SessionHead.of(decode(encode(log.head.to_json()))) == log.head == log.head.copy()


def test_the_next_run_goes_on_with_the_open_call() -> None:
    log = Log()
    log.run("r1", *CALLED, ToolComplete("b", ToolResult(True, "seen")), APPROVAL)
    log.add(Draft("input_given", {"request_id": "q1", "answer": {"approved": True}}))
    assert not log.head.open_requests
    assert len(log.head.settled_requests) == 1
    log.run("r2", Token("Paid"), ToolComplete("a", ToolResult(True, "done")), Token("."))
    assert not log.head.open_calls
    assert not log.head.settled_requests
    said = [event["message"] for event in log.since("message")]
    assert [one["role"] for one in said] == ["assistant", "tool", "tool", "assistant"]
    assert said[-1]["content"] == "Paid."
    assert log.state == "idle"


def test_a_run_that_gives_no_result_closes_the_call() -> None:
    log = Log()
    log.run("r1", *CALLED, APPROVAL)
    log.add(Draft("input_given", {"request_id": "q1", "answer": {"approved": True}}))
    log.run("r2", end=Failed("no"))
    assert [event["tool_call_id"] for event in log.since("tool_error")] == ["b", "a"]
    assert not log.head.open_calls


def test_a_run_may_leave_an_approved_call_to_the_client() -> None:
    log = Log()
    log.run("r1", ToolStart("a", "pay"), APPROVAL)
    log.add(Draft("input_given", {"request_id": "q1", "answer": {"approved": True}}))
    log.run("r2", end=Complete(finish_reason="tool_calls"))
    assert log.head.open_calls == ["a"]


@pytest.mark.parametrize("end", [Failed("no"), Cancelled()])
def test_a_run_that_does_not_complete_closes_what_it_has_asked(end: TerminalEvent) -> None:
    log = Log()
    log.run("r1", *CALLED, APPROVAL, InputRequired("And?"), end=end)
    assert [event["reason"] for event in log.since("input_closed")] == ["cancelled", "cancelled"]
    assert not log.head.open_requests
    assert not log.head.open_calls


def test_a_terminal_event_alone_closes_them_too() -> None:
    log = Log()
    log.add(Draft("run_start", {"run_id": "r1", "agent": "x", "message_ids": []}))
    log.add(
        Draft("input_required", {"run_id": "r1", "request_id": "q", "kind": "form", "prompt": ""})
    )
    log.add(Draft("error", {"run_id": "r1", "message": "", "code": "storage_failed"}))
    assert not log.head.open_requests


def test_what_is_said_behind_a_call_that_waits_fails_the_run_and_is_kept() -> None:
    log = Log()
    log.run("r1", *CALLED, ToolComplete("b", ToolResult(True, 1)), Token("Wait"), APPROVAL)
    assert log.since("error")[0]["code"] == "invalid_event"
    assert log.since("message")[-1]["message"]["content"] == "Wait"
    assert not log.head.open_requests
    assert not log.head.open_calls


def test_a_chat_or_a_cancel_ends_the_whole_round() -> None:
    log = Log()
    log.run("r1", *CALLED, APPROVAL, InputRequired("b?", tool_call_id="b", request_id="q2"))
    assert log.head.open_calls == ["a", "b"]
    log.add(Draft("input_given", {"request_id": "q1", "answer": {"approved": True}}))
    assert log.state == "needs_input"
    drafts = end_round(log.head, "superseded", result)
    assert [draft.type for draft in drafts] == ["input_closed", "message", "message"]
    log.add(*drafts)
    assert not log.head.open_requests
    assert not log.head.settled_requests
    assert not log.head.open_calls
    assert end_round(log.head, "superseded", result) == []


def test_an_expired_request_stays_for_the_run_that_gets_the_others() -> None:
    log = Log()
    log.run("r1", InputRequired("x?", request_id="q1", expires_at=LATER), InputRequired("y?"))
    assert log.head.request_expires_at is not None
    assert is_stored_unfinished(decode(encode(log.head.to_json())))
    log.add(close_draft("q1", "expired"))
    assert [one.request_id for one in log.head.settled_requests] == ["q1"]
    assert log.state == "needs_input"
    assert not is_stored_unfinished(decode(encode(log.head.to_json())))


def test_the_state_names_an_active_run_before_input_and_input_before_a_stream() -> None:
    head = SessionHead("s", 1)
    fold(
        head,
        {
            "type": "run_start",
            "seq": 1,
            "time": NOW,
            "run_id": "r",
            "agent": "x",
            "message_ids": [],
        },
    )
    fold(
        head,
        {
            "type": "input_required",
            "seq": 2,
            "time": NOW,
            "run_id": "r",
            "request_id": "q",
            "kind": "question",
            "prompt": "?",
        },
    )
    watched = Presence(0, watched={"s"})
    assert state_of(head, watched) == "active"
    head.active = None
    assert state_of(head, watched) == "needs_input" == state_of(head, Presence(0, (), {"s"}))
    head.ttl_seconds = 1
    assert state_of(head, Presence(2**60)) == "expired"
    head.logged_state = "closed"
    assert state_of(head, Presence(0)) == "closed"


@pytest.mark.parametrize(
    "event",
    [
        InputRequired("?", tool_call_id="zz"),
        InputRequired("?", "approval", schema={"type": "object"}),
        InputRequired("?", schema={"type": "nope"}),
    ],
)
def test_a_request_that_cannot_be_answered_is_refused(event: InputRequired) -> None:
    with pytest.raises(InvalidEvent):
        MessageAssembler("r", iter("abc").__next__, lambda: NOW, 1 << 20).feed(event)


def test_a_run_asks_a_bounded_number_of_times_and_each_under_its_own_id() -> None:
    assembler = MessageAssembler("r", map(str, range(999)).__next__, lambda: NOW, 1 << 20)
    for _ in range(REQUESTS_MAX):
        assembler.feed(InputRequired("?"))
    with pytest.raises(InvalidEvent, match="at most"):
        assembler.feed(InputRequired("?"))
    again = MessageAssembler("r", iter("abc").__next__, lambda: NOW, 1 << 20)
    again.feed(InputRequired("?", request_id="a"))
    with pytest.raises(InvalidEvent, match="already"):
        again.feed(InputRequired("?", request_id="a"))


@pytest.mark.parametrize(
    "wrong",
    [
        {"prompt": ""},
        {"kind": "riddle"},
        {"expires_at": "tomorrow"},
        {"request_id": "../x"},
        {"request_id": "x\n"},
        {"schema": []},
    ],
)
def test_the_fields_of_a_request_are_checked(wrong: dict[str, Any]) -> None:
    with pytest.raises(InvalidEvent):
        parse_agent_event({"type": "input_required", "prompt": "?"} | wrong)


def test_requests_answers_and_ends_are_found_by_the_id_of_the_request() -> None:
    log = Log()
    log.run("r1", ToolStart("a", "pay"), APPROVAL)
    log.add(Draft("input_given", {"request_id": "q1", "answer": 1}))
    log.add(close_draft("q1", "expired"))
    marks = [mark_of(encode(event), 0) for event in log.events]
    seqs = [mark.seq for mark in marks if mark is not None and mark.kind == "input"]
    assert {mark.key for mark in marks if mark is not None and mark.kind == "input"} == {"q1"}
    assert seqs == [
        log.since(kind)[0]["seq"] for kind in ("input_required", "input_given", "input_closed")
    ]


def nested(levels: int) -> dict[str, Any]:
    return {"items": nested(levels - 1)} if levels else {}


def doubling(levels: int) -> dict[str, Any]:
    parts: dict[str, Any] = {
        f"p{n}": {"anyOf": [{"$ref": f"#/$defs/p{n + 1}"}] * 2} for n in range(levels)
    }
    return {"$ref": "#/$defs/p0", "$defs": {**parts, f"p{levels}": {"type": "string"}}}


@pytest.mark.parametrize(
    "schema",
    [
        {"$ref": "https://example.com/schema.json"},
        {"$ref": "other.json#/x"},
        {"$ref": "#/$defs/none"},
        {"$ref": "#/$defs/a", "$defs": {"a": {"items": {"$ref": "#/$defs/a"}}}},
        {"$id": "https://example.com/", "type": "string"},
        {"$dynamicRef": "#x"},
        {"pattern": r"(?=look)"},
        {"pattern": "(a{1000}){1000}"},
        {"enum": ["x" * 40_000]},
        {"type": 7},
        nested(40),
        doubling(20),
    ],
)
def test_a_schema_that_costs_too_much_or_leads_elsewhere_is_refused(schema: dict[str, Any]) -> None:
    with pytest.raises(InvalidEvent, match="schema cannot be used"):
        check_schema(schema)


def test_a_pattern_that_others_take_ages_for_is_matched_in_linear_time() -> None:
    schema = {"type": "string", "pattern": "^(a+)+$"}
    check_schema(schema)
    assert problems_of("question", schema, "a" * 50_000 + "b")
    assert not problems_of("question", schema, "a" * 50_000)


@pytest.mark.parametrize(
    ("kind", "schema", "answer", "places"),
    [
        ("approval", None, {"approved": True}, []),
        ("approval", None, {"approved": False, "reason": "too dear"}, []),
        ("approval", None, {"approved": "yes"}, [["approved"]]),
        ("approval", None, {"approved": True, "x": 1}, [[]]),
        ("question", None, "blue", []),
        ("question", None, 7, [[]]),
        ("question", {"enum": ["a", "b"]}, "c", [[]]),
        ("form", None, {"any": [1]}, []),
        ("form", None, "text", [[]]),
        (
            "form",
            {
                "type": "object",
                "properties": {"n": {"$ref": "#/$defs/n"}},
                "$defs": {"n": {"type": "integer"}},
            },
            {"n": "x"},
            [["n"]],
        ),
        ("form", None, nested(40), [[]]),
        ("question", None, "x" * 70_000, [[]]),
    ],
)
def test_an_answer_is_held_against_its_schema(
    kind: Any, schema: dict[str, Any] | None, answer: Any, places: list[Any]
) -> None:
    assert [problem["loc"] for problem in problems_of(kind, schema, answer)] == places
