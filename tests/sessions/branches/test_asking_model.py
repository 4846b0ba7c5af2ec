"""Branches and requests for input together: any sequence, against a plain tree and plain lists.

`tests.sessions.runs.test_inputs_model` says who waits, who is queued and what is active; the tree
says where each message is. Both have to hold at once, whatever leaves a tip where somebody is
asked, and whatever waits behind a request.
"""

import json
from contextlib import suppress
from typing import Any

import anyio
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from typing_extensions import override

from bamboo_gateway.domain.errors import BambooError, Refused, RunActive
from bamboo_gateway.domain.events import Complete, Token, ToolStart
from bamboo_gateway.sessions.commands import Chat, NewMessage, NewSession, OnBusy, Regenerate
from bamboo_gateway.sessions.lifecycle.export import ExportOptions
from bamboo_gateway.sessions.lifecycle.fork import Fork
from bamboo_gateway.sessions.lifecycle.merge_plan import Merge
from bamboo_gateway.storage.base import SessionStore
from tests.sessions.branches.tree import Said, Tree
from tests.sessions.lifecycle.talk import say, talk
from tests.sessions.runs.test_inputs_model import Model, World
from tests.support.clocks import FakeClock
from tests.support.gateways import DEADLINE_SECONDS, ME, crash, eventually, gateway, quiet

VERBS = [
    "chat",
    "interrupt",
    "ask",
    "ask",
    "fail",
    "end",
    "talk",
    "tools",
    "answer a",
    "answer b",
    "answer both",
    "answer both",
    "cancel",
    "tick",
    "restart",
    "regenerate",
    "regenerate one",
    "regenerate now",
    "regenerate if free",
    "edit",
    "edit now",
    "select",
    "select",
    "say",
    "append",
    "replace",
    "archive",
]
STEPS = st.lists(st.tuples(st.sampled_from(VERBS), st.integers(0, 1000)), min_size=3, max_size=16)


class Asked(Model):
    """The lists, and the tree that the log makes; it is checked event by event."""

    def __init__(self) -> None:
        super().__init__()
        self.tree = Tree()
        self.seen = 0
        self.begun: list[str | None] = []
        # Behind which message each run has to begin; no entry: at the tip.
        self.places: dict[str, str | None] = {}
        self.given_to: dict[str, list[str]] = {}
        self.edits: set[str] = set()
        self.is_merging = False
        self.sources = 0


class Mixed(World):
    """A gateway and its model."""

    model: Asked

    async def do(self, verb: str, number: int, run: int) -> None:  # noqa: C901
        gate, model, tree = self.gate, self.model, self.model.tree
        run_id, active = f"r{run}", self.gate.live().active_run_id or ""
        is_busy = model.active or bool(model.queue)
        on_busy: OnBusy = "enqueue"
        on_busy = "interrupt" if verb.endswith("now") else on_busy
        on_busy = "reject" if verb.endswith("if free") else on_busy
        match verb:
            case "talk" if model.active:
                gate.agent.do(active, Token(f"words {run}"))
            case "tools" if model.active:
                # The client executes this one.
                asked = [ToolStart(f"t{run}", "look"), Complete(finish_reason="tool_calls")]
                gate.agent.do(active, Token(f"look {run}"), *asked)
                model.active = False
                model.next()
            case "regenerate" | "regenerate one" | "regenerate now" | "regenerate if free":
                named = tree.said[number % len(tree.said)] if verb.endswith("one") else None
                users = [one for one in (named or tree.tip).path() if one.role == "user"]  # type: ignore[union-attr]
                wanted = Regenerate(named.id if named else None, run_id=run_id, on_busy=on_busy)
                if not users:
                    with pytest.raises(BambooError, match="no user's message"):
                        await gate.manager.regenerate(ME, "s", wanted)
                elif on_busy == "reject" and is_busy:
                    with pytest.raises(RunActive):
                        await gate.manager.regenerate(ME, "s", wanted)
                else:
                    outcome = await gate.manager.regenerate(ME, "s", wanted)
                    assert outcome.answer["message_ids"] == [users[-1].id]
                    self.begins(run_id, users[-1], on_busy, outcome.answer)
            case "edit" | "edit now":
                users = [one for one in tree.said if one.role == "user"]
                edited = users[number % len(users)]
                chat = Chat(
                    NewSession("s"),
                    [NewMessage("user", f"edited {run}")],
                    run_id=run_id,
                    edit_message_id=edited.id,
                    on_busy=on_busy,
                )
                model.edits.add(run_id)
                answer = (await gate.manager.chat(ME, chat)).answer
                self.begins(run_id, edited.parent, on_busy, answer)
            case "select":
                chosen = list(tree.lines)[number % len(tree.lines)]
                if is_busy:
                    with pytest.raises(RunActive):
                        await gate.manager.select_branch(ME, "s", chosen)
                else:
                    await gate.manager.select_branch(ME, "s", chosen)
                    if chosen != tree.current:
                        model.close("superseded")
            case "say" if not model.active:
                if model.open:
                    with pytest.raises(Refused, match="waits for an answer"):
                        await say(gate, "s", NewMessage("user", f"said {run}"))
                else:
                    await say(gate, "s", NewMessage("user", f"said {run}"))
            case "append" | "replace":
                await self.merge(verb, is_busy=is_busy)
            case "archive" if not is_busy:
                await gate.manager.archive(ME, "s")
                await gate.manager.restore(ME, "s")
            case "append" | "replace" | "archive" | "say" | "talk" | "tools":
                pass
            case _:
                await self.act(verb, run)

    def begins(self, run_id: str, at: Said | None, on_busy: OnBusy, answer: Any) -> None:
        model = self.model
        assert answer["status"] == ("queued" if model.active or model.queue else "running")
        self.model.places[run_id] = at.id if at is not None else None
        model.chat(front=on_busy == "interrupt", run_id=run_id)

    async def merge(self, strategy: str, *, is_busy: bool) -> None:
        gate, model = self.gate, self.model
        if not model.sources:
            await talk(gate, "src")
        model.sources += 1
        await say(gate, "src", NewMessage("user", f"source {model.sources}"))
        if is_busy or model.open:
            with pytest.raises(Refused):
                await gate.manager.merge(ME, "s", Merge("src", strategy))  # type: ignore[arg-type]
        else:
            with suppress(Refused):  # calls of the client wait
                await gate.manager.merge(ME, "s", Merge("src", strategy))  # type: ignore[arg-type]
            await self.take_new()
            model.is_merging = False

    async def settle(self) -> None:
        """Let everything go on that can; what a branch is made of is read in a thread."""
        live = self.gate.live()
        await quiet()
        while live.starting:
            await eventually(lambda: not live.starting)
            await quiet()

    # -- what is seen -------------------------------------------------------------------------

    async def take_new(self) -> None:
        """Bring the tree up to date with the log; check each event's place."""
        model, tree = self.model, self.model.tree
        for event in await self.gate.log():
            if event["seq"] <= model.seen:
                continue
            model.seen = event["seq"]
            match event["type"]:
                case "branch_started":
                    assert not tree.waiting()
                    name = event["from_message_id"]
                    start = tree.named(name) if name is not None else None
                    assert event["parent_branch_id"] == (start.branch if start else None)
                    tree.begin(event["branch_id"], start)
                    if not model.is_merging:
                        model.begun.append(name)
                    model.is_merging = False
                case "branch_selected":
                    assert not tree.waiting()
                    tree.select(event["branch_id"])
                case "message":
                    message = event["message"]
                    assert message["parent_id"] == (tree.tip.id if tree.tip else None)
                    assert message["branch_id"] == tree.current
                    tree.add(message, message.get("copied_from", ""))
                case "session_merged":
                    model.is_merging = True
                case "run_start":
                    self.check_start(event)
                case _:
                    pass

    def check_start(self, event: dict[str, Any]) -> None:
        model, tree = self.model, self.model.tree
        run_id = event["run_id"]
        model.is_merging = False
        begun, model.begun = model.begun[-1:], []
        model.given_to[run_id] = [one.id for one in tree.path()]
        assert tree.tip is not None
        if run_id not in model.places:
            assert begun == []
        else:
            assert begun == [model.places[run_id]]
            parent = tree.tip.parent.id if tree.tip.parent is not None else None
            assert (parent if run_id in model.edits else tree.tip.id) == begun[0]
        # Behind what closes the calls of the run before.
        assert event["message_ids"][-1:] in ([], [tree.tip.id])
        assert bool(event["message_ids"]) != ("request_ids" in event)

    @override
    async def check(self) -> None:
        await self.take_new()
        gate, model, tree = self.gate, self.model, self.model.tree
        head = gate.live().head
        assert [one.request_id for one in head.open_requests] == list(model.open)
        assert len(head.queue) == len(model.queue)
        assert (head.active is not None) == model.active
        session = (await gate.manager.get_session(ME, "s")).session
        assert session["state"] == model.state
        log = await gate.log()
        given = [event["request_id"] for event in log if event["type"] == "input_given"]
        assert sorted(given) == sorted(model.given)
        closed = {e["request_id"]: e["reason"] for e in log if e["type"] == "input_closed"}
        assert closed == model.closed
        assert not model.open or not model.active
        if head.active is None:
            assert head.open_calls == tree.waiting()
            assert not head.settled_requests or head.open_requests
        else:
            script = gate.agent.scripts.get(head.active.run_id)
            if script is not None and script.turn is not None:
                given_ids = [one.id for one in script.turn.messages]
                assert given_ids == model.given_to[head.active.run_id]
        for line in (None, *tree.lines):
            page = await gate.manager.messages(ME, "s", limit=1000, branch=line)
            shown = [json.loads(one) for one in page.messages]
            assert [one["id"] for one in shown] == [one.id for one in tree.path(line)]
            for message, said in zip(shown, tree.path(line), strict=True):
                assert message.get("siblings", [said.id]) == tree.siblings(said)
        listed = (await gate.manager.branches(ME, "s"))["branches"]
        assert [(one["branch_id"], one["message_count"], one["current"]) for one in listed] == [
            (line.id, len(tree.path(line.id)), line.id == tree.current)
            for line in tree.lines.values()
        ]
        assert session["message_count"] == len(tree.path())
        assert session["preview"] == preview(tree)
        statistics = await gate.manager.statistics(ME, "s")
        for role in ("user", "assistant", "tool"):
            assert statistics[f"{role}_messages"] == tree.roles()[role]  # type: ignore[literal-required]
        runs = (await gate.manager.runs(ME, "s", limit=1000, cursor=None, descending=False)).runs
        for run in runs:
            if run["run_id"] in model.places and run["status"] != "queued":
                assert run["started_at"] is None or len(run["message_ids"]) == 1
        if head.active is None and not head.queue:
            await self.check_copies(session)

    async def check_copies(self, session: Any) -> None:
        manager, tree = self.gate.manager, self.model.tree
        exported = await manager.export(ME, "s", ExportOptions("json"))
        document = b"".join([chunk async for chunk in exported.chunks])
        copy = (await manager.import_document(ME, document)).answer
        name = copy["id"]
        page = await manager.messages(ME, name, limit=1000)
        shown = [json.loads(one)["id"] for one in page.messages]
        path = [one.id for one in tree.path()]
        assert shown[: len(path)] == path
        # Nobody is asked in the copy.
        assert len(shown) - len(path) == (len(tree.waiting()) if self.model.open else 0)
        assert copy["preview"] == session["preview"]
        for line in tree.lines:
            if line != tree.current:
                page = await manager.messages(ME, name, limit=1000, branch=line)
                ids = [json.loads(one)["id"] for one in page.messages]
                assert ids == [one.id for one in tree.path(line)]
                selected = (await manager.select_branch(ME, name, line)).answer
                view = (await manager.get_session(ME, name)).session
                assert view["preview"] == preview(tree, line)
                assert view["message_count"] == selected["message_count"] == len(ids)
        await manager.delete_session(ME, name)
        await manager.fork(ME, "s", Fork(new_id="f"))
        head = await self.gate.store.load("f")
        assert head is not None
        assert head.open_calls == []
        await manager.delete_session(ME, "f")


def preview(tree: Tree, line: str | None = None) -> str | None:
    spoken = [one for one in tree.path(line) if one.role in ("user", "assistant") and one.text]
    return spoken[-1].text[:120] if spoken else None


async def play(steps: list[tuple[str, int]]) -> None:
    clock, model = FakeClock(), Asked()
    store: SessionStore | None = None
    at = 0
    while at < len(steps):
        left: SessionStore | None = None
        async with gateway(
            store,
            clock=clock,
            disconnect_retention_seconds=0.001,
            on_open_tool_calls="close",
            max_queued_runs=100,
        ) as gate:
            if store is None:
                await gate.chat(run_id="r")
                model.active = True
            world = Mixed(gate, model)
            async with gate.manager._registry.use(ME, "s"):
                await world.settle()
                await world.take_new()
                while at < len(steps) and left is None:
                    (verb, number), at = steps[at], at + 1
                    clock.advance(1)
                    if verb == "restart":
                        left = await crash(gate)
                        gate.store.release_appends()
                        model.active = False
                        model.next()
                    else:
                        with anyio.fail_after(DEADLINE_SECONDS):
                            await world.do(verb, number, at)
                            await world.settle()
                            await world.check()
        store = left


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(steps=STEPS)
async def test_r5_r9_branches_and_requests_agree_with_a_plain_model(
    steps: list[tuple[str, int]],
) -> None:
    await play(steps)


@pytest.mark.slow
@pytest.mark.timeout(1800)
@settings(max_examples=2000, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(steps=STEPS)
async def test_r5_r9_branches_and_requests_agree_with_a_plain_model_over_many_histories(
    steps: list[tuple[str, int]],
) -> None:
    await play(steps)
