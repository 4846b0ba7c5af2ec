"""What the TypeScript client shows of events is what the gateway makes of them, at every point."""

import itertools
from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from bamboo_gateway.domain.errors import InvalidEvent
from bamboo_gateway.domain.events import AgentEvent, Cancelled, Complete, Draft, Failed
from bamboo_gateway.domain.message_assembler import MessageAssembler
from bamboo_gateway.domain.tool_order import INTERRUPTED
from tests.clients.typescript import PACKAGE, NodeProcess
from tests.domain.test_message_assembler import EVENTS
from tests.processes import Gateway
from tests.support.seen import Tree

pytestmark = pytest.mark.external_service

NOW = "2026-11-20T17:25:00.123Z"
Event = dict[str, Any]


@pytest.fixture(scope="module")
def fold() -> Iterator[NodeProcess]:
    with NodeProcess(PACKAGE / "tests" / "fold.mjs") as process:
        yield process


class Run:
    """The log of one run, in steps: what the gateway commits for each event of the agent."""

    def __init__(self) -> None:
        self.steps: list[list[Event]] = []
        self._seq = itertools.count(1)
        self._ids = itertools.count(1)
        self.assembler = self.assembling()
        self.add([Draft("run_start", {"run_id": "r", "agent": "a", "message_ids": []})])

    def assembling(self) -> MessageAssembler:
        return MessageAssembler("r", lambda: f"msg_{next(self._ids)}", lambda: NOW, 1 << 20)

    def add(self, drafts: list[Draft]) -> None:
        made = [
            {"type": draft.type, "seq": next(self._seq), "time": NOW, **draft.fields}
            for draft in drafts
        ]
        self.steps.append(made)

    def messages_if_cut_after(self, step: int) -> dict[str, Event]:
        """Return the messages that the gateway would keep if it was killed after a step."""
        log = [event for events in self.steps[: step + 1] for event in events]
        assembler = self.assembling()
        for event in log:
            assembler.replay(event)
        kept = [event["message"] for event in log if event["type"] == "message"]
        ended = assembler.end(Failed("killed", "interrupted"))
        kept += [draft.fields["message"] for draft in ended if draft.type == "message"]
        # That a call was interrupted is said by its end alone.
        return {one["id"]: one for one in kept if one["content"] != INTERRUPTED}


def seen(message: Event) -> Event:
    return {name: message.get(name) for name in ("role", "content", "tool_calls", "tool_call_id")}


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(
    st.lists(EVENTS, max_size=12),
    st.sampled_from([Complete(), Cancelled("stopped"), Failed("broken", "agent-error")]),
)
def test_at_every_point_it_shows_what_a_crash_at_that_point_would_keep(
    fold: NodeProcess, events: list[AgentEvent], end: Complete | Cancelled | Failed
) -> None:
    run = Run()
    for event in events:
        try:
            run.add(run.assembler.feed(event))
        except InvalidEvent:
            continue
    run.add(run.assembler.end(end))

    answers = fold.ask({"steps": run.steps})

    for step, shown in enumerate(answers[:-1]):
        expected = run.messages_if_cut_after(step)
        found = {one["id"]: one for one in shown["messages"]}
        assert len(found) == len(shown["messages"])
        # A result is told once; a crash may make another id of one that was held back.
        assert sorted(map(repr, map(seen, found.values()))) == sorted(
            map(repr, map(seen, expected.values()))
        )
    log = [event for step in run.steps for event in step]
    told = [event["message"] for event in log if event["type"] == "message"]
    place = ("parent_id", "branch_id")
    shown = [
        {name: value for name, value in one.items() if name not in place}
        for one in answers[-1]["messages"]
    ]
    assert shown == told
    assert answers[-1]["activeRunId"] is None


def test_a_log_with_branches_is_folded_as_the_gateway_does_and_at_each_page_it_may_begin_with(
    fold: NodeProcess, tmp_path: Any
) -> None:
    fast = {"delay_ms": 0, "text": "One answer."}
    with Gateway(tmp_path) as gateway:

        def post(path: str, body: Event) -> Event:
            done: Event = gateway.call("POST", path, json=body, headers={"Prefer": "wait=60"})
            return done

        post("/chat", {"session_id": "s", "message": "One", "options": fast})
        post("/chat", {"session_id": "s", "message": "Two"})
        post("/sessions/s/regenerate", {"options": fast})
        asked = gateway.call("GET", "/sessions/s/messages")["messages"][0]["id"]
        post("/chat", {"session_id": "s", "message": "Uno", "edit_message_id": asked})
        post("/chat", {"session_id": "s", "message": "Due", "options": fast})
        log = gateway.events("s")
        page = gateway.call("GET", "/sessions/s/messages")
    tree = Tree(log)
    assert page["messages"] == tree.path(tree.current)

    whole = fold.ask({"steps": [log]})[0]
    assert whole["messages"] == page["messages"]
    assert not whole["needsReload"]
    # Events that were loaded may come again; that changes nothing.
    for begin in range(0, len(log), 7):
        again = fold.ask({"page": page, "steps": [log[begin:]]})[0]
        assert again["messages"] == page["messages"]
        assert not again["needsReload"]
    newest = {**page, "messages": page["messages"][-2:]}
    assert fold.ask({"page": newest, "steps": [log]})[0]["messages"] == newest["messages"]


def test_a_branch_behind_a_message_that_is_not_shown_asks_for_a_reload(fold: NodeProcess) -> None:
    began = {"type": "branch_started", "seq": 1, "time": NOW, "branch_id": "b", "path": {}}
    selected = {"type": "branch_selected", "seq": 2, "time": NOW, "branch_id": "main"}
    unknown = {**began, "from_message_id": "nowhere", "parent_branch_id": "main"}
    root = {**began, "from_message_id": None, "parent_branch_id": None}
    shown = fold.ask({"steps": [[root], [unknown]]})
    assert [one["needsReload"] for one in shown] == [False, True]
    assert fold.ask({"steps": [[selected]]})[0]["needsReload"]
    assert not fold.ask({"page": {"position": "7-2"}, "steps": [[unknown, selected]]})[0][
        "needsReload"
    ]


def test_requests_and_queued_runs_are_shown_until_they_are_settled(fold: NodeProcess) -> None:
    at = {"time": NOW}
    asked = {**at, "type": "input_required", "run_id": "r", "kind": "question", "prompt": "Why?"}
    message = {"id": "m", "role": "user", "content": "Hi", "created_at": NOW, "metadata": {}}
    queued = {**at, "type": "run_queued", "run_id": "q", "agent": "a", "messages": [message]}
    steps = [
        [{**asked, "seq": 1, "request_id": "one"}, {**asked, "seq": 2, "request_id": "two"}],
        [{**at, "type": "input_given", "seq": 3, "request_id": "one", "answer": 1}],
        [{**at, "type": "input_closed", "seq": 4, "request_id": "two", "reason": "expired"}],
        [{**queued, "seq": 5}],
        [
            {**at, "type": "message", "seq": 6, "message_id": "m", "message": message},
            {**at, "type": "run_start", "seq": 7, "run_id": "q", "agent": "a", "message_ids": []},
        ],
        [{**queued, "seq": 8, "run_id": "q2", "messages": [{**message, "id": "m2"}]}],
        [{**at, "type": "cancelled", "seq": 9, "run_id": "q2", "reason": "stopped"}],
    ]
    shown = fold.ask({"steps": steps})
    assert [[one["request_id"] for one in step["inputs"]] for step in shown[:3]] == [
        ["one", "two"],
        ["two"],
        [],
    ]
    assert shown[3]["queuedRunIds"] == ["q"]
    assert shown[3]["messages"] == [{**message, "status": "queued"}]
    assert shown[4]["queuedRunIds"] == []
    assert shown[4]["activeRunId"] == "q"
    assert [one["id"] for one in shown[4]["messages"]] == ["m"]
    assert [one["id"] for one in shown[5]["messages"]] == ["m", "m2"]
    assert [one["id"] for one in shown[6]["messages"]] == ["m"]
