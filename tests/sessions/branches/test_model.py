"""Any sequence of turns, branches, merges, summaries and restarts, against a plain tree."""

import json
import random
from contextlib import AsyncExitStack
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bamboo_gateway.domain.events import Complete, Token, ToolComplete, ToolResult, ToolStart
from bamboo_gateway.domain.positions import Position
from bamboo_gateway.domain.tool_order import SUPERSEDED
from bamboo_gateway.sessions.commands import Chat, NewMessage, NewSession, Regenerate
from bamboo_gateway.sessions.lifecycle.export import ExportOptions
from bamboo_gateway.sessions.lifecycle.fork import Fork
from bamboo_gateway.sessions.lifecycle.merge_plan import Merge
from tests.sessions.branches.tree import Said, Tree
from tests.sessions.lifecycle.talk import resumed_message, say, talk
from tests.support.clocks import FakeClock
from tests.support.gateways import ME, Gateway, crash, gateway

STEPS = st.lists(
    st.tuples(
        st.sampled_from(
            [
                "chat",
                "chat",
                "tools",
                "say",
                "call",
                "regenerate",
                "regenerate last",
                "edit",
                "select",
                "select",
                "append",
                "interleave",
                "replace",
                "summarize",
                "forget",
                "restart",
            ]
        ),
        st.integers(0, 1_000_000),
    ),
    min_size=4,
    max_size=25,
)


class Play:
    """Does the steps with a gateway and with the tree."""

    def __init__(self, stack: AsyncExitStack, gate: Gateway) -> None:
        self.stack = stack
        self.gate = gate
        self.tree = Tree()
        self.source: list[tuple[str, str]] = []
        self.runs = 0
        self.seen = 0

    async def step(self, name: str, number: int) -> None:  # noqa: C901
        tree = self.tree
        self.gate.clock.advance(1)
        any_said = tree.said[number % len(tree.said)] if tree.said else None
        match name:
            case "chat" | "tools":
                await self.turn(tools=name == "tools")
            case "say" if not tree.waiting():
                [message_id] = await say(self.gate, "s", NewMessage("user", f"said {number}"))
                await self.take_new([message_id])
            case "call" if not tree.waiting():
                call = [{"id": f"call{self.runs}-{number}", "name": "look", "arguments": {}}]
                await say(self.gate, "s", NewMessage("assistant", "", tool_calls=call))
                await self.take_new()
            case "regenerate" if any_said is not None:
                await self.regenerate(any_said)
            case "regenerate last" if tree.tip is not None:
                await self.regenerate(None)
            case "edit" if users := [one for one in tree.said if one.role == "user"]:
                await self.turn(edits=users[number % len(users)])
            case "select":
                chosen = list(tree.lines)[number % len(tree.lines)]
                if chosen != tree.current:
                    await self.gate.manager.select_branch(ME, "s", chosen)
                    await self.take_new()
            case "append" | "interleave" | "replace":
                await self.merge(name, number)
            case "summarize" if tree.said:
                await self.summarize(number)
            case "forget" if tree.summary() is not None:
                await self.gate.manager.delete_summary(ME, "s")
                tree.remove_summary()
                await self.take_new()
            case "restart":
                store = await crash(self.gate)
                more = gateway(store, clock=self.gate.clock, on_open_tool_calls="close")
                self.gate = await self.stack.enter_async_context(more)
            case _:
                pass

    async def turn(self, *, edits: Said | None = None, tools: bool = False) -> None:
        run_id = self.new_run()
        chat = Chat(
            NewSession("s"),
            [NewMessage("user", f"asked {run_id}")],
            run_id=run_id,
            edit_message_id=edits.id if edits is not None else None,
        )
        await self.gate.manager.chat(ME, chat)
        await self.answer(run_id, tools=tools)

    async def regenerate(self, said: Said | None) -> None:
        tree = self.tree
        asked = [
            one
            for one in (said or tree.tip).path()  # type: ignore[union-attr]
            if one.role not in ("assistant", "tool")
        ]
        wanted = Regenerate(said.id if said is not None else None, run_id=f"run{self.runs}")
        if not asked:
            with pytest.raises(Exception, match="no user's message"):
                await self.gate.manager.regenerate(ME, "s", wanted)
            return
        outcome = await self.gate.manager.regenerate(ME, "s", wanted)
        assert outcome.answer["message_ids"] == [asked[-1].id]
        await self.answer(self.new_run(), tools=False)

    def new_run(self) -> str:
        self.runs += 1
        return f"run{self.runs - 1}"

    async def answer(self, run_id: str, *, tools: bool) -> None:
        steps: list[Any] = [Token(f"answer of {run_id}")]
        if tools:
            steps += [ToolStart(f"c{run_id}", "look", {})]
            steps += [ToolComplete(f"c{run_id}", ToolResult(True, f"found by {run_id}"))]
            steps += [Token(f"after {run_id}")]
        self.gate.agent.do(run_id, *steps, Complete())
        await self.gate.ended(run_id)
        log = await self.gate.log()
        start = next(e for e in log if e["type"] == "run_start" and e["run_id"] == run_id)
        await self.take_new(upto=start["seq"])
        turn = self.gate.agent.script(run_id).turn
        assert turn is not None
        given = [(one.id, one.text) for one in turn.messages]
        path = self.tree.path()
        if (summary := self.tree.summary()) is not None:
            covered = [one.id for one in path].index(summary[1]) + 1 if summary[1] else 0
            while covered and covered < len(path) and path[covered].role == "tool":
                covered -= 1
            assert summary[0] in given[0][1]
            assert given[1:] == [(one.id, one.text) for one in path[covered:]]
        else:
            assert given == [(one.id, one.text) for one in path]
        await self.take_new()

    async def merge(self, strategy: str, number: int) -> None:
        tree = self.tree
        if not tree.said or tree.waiting():
            return
        if number % 2 or not self.source:
            text = f"source {number} {len(self.source)}"
            if not self.source:
                await talk(self.gate, "src")
            [message_id] = await say(self.gate, "src", NewMessage("user", text))
            self.source.append((message_id, text))
        has = {(one.origin, one.text) for one in tree.path()}
        new = [one for one in self.source if one not in has]
        before = [(one.origin, one.text) for one in tree.path()]
        before_times = await self.times()
        await self.gate.manager.merge(ME, "s", Merge("src", strategy))  # type: ignore[arg-type]
        await self.take_new()
        after = [(one.origin, one.text) for one in tree.path()]
        if strategy == "append":
            assert after == before + new
        elif strategy == "replace":
            assert after == self.source
        else:
            assert sorted(after) == sorted(before + new)
            times = await self.times()
            # The order within one session stays, and an earlier merge may have appended older ones.
            assert times == sorted(times) or not new or before_times != sorted(before_times)

    async def times(self) -> list[str]:
        return [one["created_at"] for one in await self.pages(None, 1000) if one["role"] == "user"]

    async def summarize(self, number: int) -> None:
        tree, log = self.tree, await self.gate.log()
        head = await self.gate.store.load("s")
        assert head is not None
        seq = log[number % len(log)]["seq"] if number % 3 else head.seq
        text = f"summary {number}"
        position = Position(head.epoch, seq)
        saved = await self.gate.manager.save_summary(ME, "s", text, None, position)
        seqs = {e["message_id"]: e["seq"] for e in log if e["type"] == "message"}
        covered = [one for one in tree.path() if seqs[one.id] <= seq]
        assert saved.answer["message_id"] == (covered[-1].id if covered else None)
        tree.summarize(text, covered[-1] if covered else None)
        await self.take_new()

    async def take_new(self, ids: list[str] | None = None, upto: int | None = None) -> None:
        """Bring the tree up to date with the events of the log, each checked against the tree."""
        added = []
        tree = self.tree
        for event in await self.gate.log():
            if event["seq"] <= self.seen or (upto is not None and event["seq"] > upto):
                continue
            self.seen = event["seq"]
            if event["type"] == "branch_started":
                assert not tree.waiting()
                start = event["from_message_id"]
                begun = tree.named(start) if start is not None else None
                assert event["parent_branch_id"] == (begun.branch if begun is not None else None)
                tree.begin(event["branch_id"], begun)
            elif event["type"] == "branch_selected":
                assert not tree.waiting()
                tree.select(event["branch_id"])
            elif event["type"] == "message":
                message = event["message"]
                assert message["parent_id"] == (tree.tip.id if tree.tip is not None else None)
                assert message["branch_id"] == tree.current
                if message["content"] == SUPERSEDED:
                    assert message["tool_call_id"] in tree.waiting()
                origin = message.get("copied_from", "")
                added.append(tree.add(message, origin).id)
        assert ids is None or [one for one in added if one in ids] == ids

    # -- what is seen -------------------------------------------------------------------------

    async def check(self) -> None:
        """Compare everything that people see with the tree."""
        manager, tree = self.gate.manager, self.tree
        for line in (None, *tree.lines):
            said = await self.pages(line, 3)
            self.compare(said, tree.path(line))
            assert await self.pages(line, 1000, descending=True) == said[::-1]
        self.compare(await self.pages("all", 4), tree.said)
        listed = (await manager.branches(ME, "s"))["branches"]
        assert [
            (
                one["branch_id"],
                one["from_message_id"],
                one["tip_message_id"],
                one["message_count"],
                one["current"],
            )
            for one in listed
        ] == [
            (
                line.id,
                line.start.id if line.start else None,
                line.tip.id if line.tip else None,
                len(tree.path(line.id)),
                line.id == tree.current,
            )
            for line in tree.lines.values()
        ]
        statistics = await manager.statistics(ME, "s")
        roles = tree.roles()
        assert statistics["total_messages"] == roles.total()
        for role in ("user", "assistant", "tool"):
            assert statistics[f"{role}_messages"] == roles[role]  # type: ignore[literal-required]
        assert statistics["tool_calls"] == sum(len(one.calls) for one in tree.path())
        times = [message["created_at"] for message in await self.pages(None, 1000)]
        if times:
            assert statistics["first_message_at"] == min(times)
            assert statistics["last_message_at"] == max(times)
        head = await self.gate.store.load("s")
        assert head is not None
        assert head.message_count == len(tree.path())
        assert head.open_calls == tree.waiting()
        summary = tree.summary()
        assert (head.summary is None) == (summary is None)
        if summary is not None:
            shown = await manager.summary(ME, "s")
            assert (shown["summary"], shown["message_id"]) == summary
        resumed = await resumed_message(self.gate, "s", interactive=True)
        told = [one.text for one in tree.path() if one.text and one.text in resumed["content"]]
        if summary is None:
            assert told == [one.text for one in tree.path() if one.text]
        await self.check_copies()

    async def check_copies(self) -> None:
        manager, tree = self.gate.manager, self.tree
        document = await self.export("s")
        imported = await manager.import_document(ME, document)
        copy = imported.answer["id"]
        assert imported.answer["notes"] == []
        same = document.replace(b'"id":"s"', b'"id":"%b"' % copy.encode())
        assert json.loads(await self.export(copy)) == json.loads(same)
        assert await self.pages("all", 1000, session_id=copy) == await self.pages("all", 1000)
        assert await manager.branches(ME, copy) == await manager.branches(ME, "s")
        await manager.delete_session(ME, copy)
        if tree.said and not tree.waiting():
            one = random.Random(len(tree.said)).choice(tree.said)
            forked = await manager.fork(ME, "s", Fork(message_id=one.id, new_id="f"))
            said = await self.pages(None, 1000, session_id="f")
            if "cut_moved" not in forked.answer:
                assert [m["id"] for m in said] == [m.id for m in one.path()]
            await manager.delete_session(ME, "f")

    async def export(self, session_id: str) -> bytes:
        exported = await self.gate.manager.export(ME, session_id, ExportOptions("json"))
        chunks = b"".join([chunk async for chunk in exported.chunks])
        document = json.loads(chunks)
        for name in ("position", "last_activity_at", "updated_at"):
            document["session"].pop(name, None)
        (document["summary"] or {}).pop("position", None)
        (document["summary"] or {}).pop("session_id", None)
        return json.dumps(document, separators=(",", ":")).encode()

    async def pages(
        self,
        branch: str | None,
        limit: int,
        *,
        descending: bool = False,
        session_id: str = "s",
    ) -> list[dict[str, Any]]:
        shown: list[dict[str, Any]] = []
        cursor: str | None = None
        while True:
            place = {"before" if descending else "after": cursor}
            page = await self.gate.manager.messages(
                ME,
                session_id,
                limit=limit,
                descending=descending,
                branch=branch,
                **place,
            )
            shown += [json.loads(message) for message in page.messages]
            if not page.has_more:
                return shown
            cursor = page.next_cursor

    def compare(self, shown: list[dict[str, Any]], path: list[Said]) -> None:
        assert [one["id"] for one in shown] == [one.id for one in path]
        for message, said in zip(shown, path, strict=True):
            assert message["parent_id"] == (said.parent.id if said.parent else None)
            assert message["branch_id"] == said.branch
            siblings = self.tree.siblings(said)
            assert message.get("siblings", [said.id]) == siblings


async def play(steps: list[tuple[str, int]]) -> None:
    async with AsyncExitStack() as stack:
        gate = await stack.enter_async_context(
            gateway(clock=FakeClock(), on_open_tool_calls="close")
        )
        played = Play(stack, gate)
        await talk(gate, "s")
        await played.take_new()
        for place, (name, number) in enumerate(steps):
            await played.step(name, number)
            if place % 4 == 3:
                await played.check()
        await played.check()


@settings(max_examples=40, deadline=None)
@given(steps=STEPS)
async def test_r2_r9_branches_are_what_a_plain_tree_says(steps: list[tuple[str, int]]) -> None:
    await play(steps)


@pytest.mark.slow
@pytest.mark.timeout(1200)
@settings(max_examples=1000, deadline=None)
@given(steps=STEPS)
async def test_r2_r9_branches_are_what_a_plain_tree_says_over_many_histories(
    steps: list[tuple[str, int]],
) -> None:
    await play(steps)
