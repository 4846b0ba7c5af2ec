"""Branches inside a session: what clients call, what they see, and what is refused."""

import json
from typing import Any

import anyio
import pytest

from bamboo_gateway.domain.codec import encode
from bamboo_gateway.domain.errors import InvalidInput, NotFound, Refused, RunActive
from bamboo_gateway.domain.events import Complete, Failed, InputRequired, Token, ToolStart
from bamboo_gateway.domain.tool_order import SUPERSEDED
from bamboo_gateway.sessions.commands import (
    Chat,
    Idempotency,
    NewMessage,
    NewSession,
    OnBusy,
    Regenerate,
)
from bamboo_gateway.sessions.lifecycle.export import ExportOptions
from tests.sessions.lifecycle.talk import ids, say, talk, texts
from tests.support.frames import Frame
from tests.support.gateways import ME, Gateway, crash, eventually, gateway, quiet


async def turn(gate: Gateway, text: str, run_id: str, **more: Any) -> dict[str, Any]:
    answer = await gate.chat("s", text, run_id=run_id, **more)
    gate.agent.do(run_id, Token(f"to {text}"), Complete())
    await gate.ended(run_id)
    return answer


async def regenerate(
    gate: Gateway, run_id: str, message_id: str | None = None, on_busy: OnBusy = "enqueue"
) -> dict[str, Any]:
    wanted = Regenerate(message_id, run_id=run_id, on_busy=on_busy)
    return {**(await gate.manager.regenerate(ME, "s", wanted)).answer}


async def again(gate: Gateway, run_id: str, message_id: str | None = None) -> None:
    await regenerate(gate, run_id, message_id)
    gate.agent.do(run_id, Token(f"answer {run_id}"), Complete())
    await gate.ended(run_id)


async def branch_ids(gate: Gateway) -> list[str]:
    return [one["branch_id"] for one in (await gate.manager.branches(ME, "s"))["branches"]]


async def test_an_answer_is_made_again_and_the_first_one_stays(gate: Gateway) -> None:
    await turn(gate, "a", "r1")
    asked, first = await ids(gate, "s")
    answer = await regenerate(gate, "r2")
    assert answer["message_ids"] == [asked]
    gate.agent.do("r2", Token("better"), Complete())
    await gate.ended("r2")
    assert await texts(gate, "s") == ["a", "better"]
    shown = await gate.messages()
    assert shown[1]["siblings"] == [first, shown[1]["id"]]
    assert "siblings" not in shown[0]
    assert shown[1]["parent_id"] == asked
    run = await gate.manager.run(ME, "s", "r2")
    assert run["message_ids"] == [asked]
    assert (await gate.types())[-5:] == [
        "branch_started",
        "run_start",
        "token",
        "message",
        "complete",
    ]
    await gate.manager.select_branch(ME, "s", "main")
    assert await texts(gate, "s") == ["a", "to a"]
    main, other = (await gate.manager.branches(ME, "s"))["branches"]
    assert (main["branch_id"], main["current"], main["message_count"]) == ("main", True, 2)
    assert (other["from_message_id"], other["parent_branch_id"]) == (asked, "main")


async def test_the_first_message_can_be_edited(gate: Gateway) -> None:
    await turn(gate, "a", "r1")
    await turn(gate, "b", "r2")
    first = (await ids(gate, "s"))[0]
    edited = await turn(gate, "A", "r3", edit_message_id=first)
    assert await texts(gate, "s") == ["A", "to A"]
    [new_id] = edited["message_ids"]
    assert (await gate.messages())[0]["siblings"] == [first, new_id]
    started = next(event for event in await gate.log() if event["type"] == "branch_started")
    assert started["from_message_id"] is started["parent_branch_id"] is None
    statistics = await gate.manager.statistics(ME, "s")
    assert statistics["total_messages"] == 2
    assert statistics["runs"]["completed"] == 3


async def test_any_message_of_an_answer_with_tool_rounds_means_the_whole_answer(
    gate: Gateway,
) -> None:
    await talk(gate, "s", "a")
    call = [{"id": "c", "name": "look", "arguments": {}}]
    await say(
        gate,
        "s",
        NewMessage("assistant", "", tool_calls=call),
        NewMessage("tool", "seen", tool_call_id="c"),
        NewMessage("assistant", "done"),
    )
    asked, *answered = await ids(gate, "s")
    for number, message_id in enumerate(answered):
        assert (await regenerate(gate, f"r{number}", message_id))["message_ids"] == [asked]
        gate.agent.do(f"r{number}", Token("again"), Complete())
        await gate.ended(f"r{number}")
    assert len((await gate.messages())[1]["siblings"]) == 4


async def test_what_cannot_be_branched_is_said(gate: Gateway) -> None:
    with pytest.raises(NotFound) as unknown:
        await regenerate(gate, "r")
    assert unknown.value.code == "session-not-found"
    with pytest.raises(NotFound) as unknown:
        await gate.chat("s", edit_message_id="msg_1")
    assert unknown.value.code == "session-not-found"
    assert await gate.log() == []
    await talk(gate, "s")
    with pytest.raises(InvalidInput) as nothing:
        await regenerate(gate, "r")
    assert nothing.value.code == "nothing-to-answer"
    await turn(gate, "a", "r1")
    asked, answered = await ids(gate, "s")
    with pytest.raises(InvalidInput) as not_users:
        await gate.chat("s", edit_message_id=answered)
    assert not_users.value.code == "not-a-user-message"
    for message_id in ("msg_no", "other"):
        with pytest.raises(NotFound) as missing:
            await regenerate(gate, "r", message_id)
        assert missing.value.code == "message-not-found"
        with pytest.raises(NotFound) as missing:
            await gate.chat("s", edit_message_id=message_id)
        assert missing.value.code == "message-not-found"
    with pytest.raises(NotFound) as no_branch:
        await gate.manager.select_branch(ME, "s", "branch_no")
    assert no_branch.value.code == "branch-not-found"
    with pytest.raises(NotFound) as no_branch:
        await gate.manager.messages(ME, "s", branch="branch_no")
    assert no_branch.value.code == "branch-not-found"
    log = await gate.log()
    await gate.manager.select_branch(ME, "s", "main")
    assert await gate.log() == log
    assert (await gate.messages())[0]["id"] == asked


async def test_r11_branches_are_limited() -> None:
    async with gateway(max_branches=2) as gate:
        await turn(gate, "a", "r1")
        await again(gate, "r2")
        with pytest.raises(Refused) as refusal:
            await regenerate(gate, "r3")
        assert refusal.value.code == "too-many-branches"
        with pytest.raises(Refused):
            await gate.chat("s", edit_message_id=(await ids(gate, "s"))[0])
        assert await texts(gate, "s") == ["a", "answer r2"]
        # Also when the room was taken after the request had been queued.
        await gate.manager.select_branch(ME, "s", "main")
        await turn(gate, "b", "r4")


async def test_changes_between_branches_are_limited(
    gate: Gateway, monkeypatch: pytest.MonkeyPatch
) -> None:
    await turn(gate, "a", "r1")
    await again(gate, "r2")
    monkeypatch.setattr("bamboo_gateway.sessions.branches.BRANCH_SPANS_MAX", 4)
    one, other = await branch_ids(gate)
    for _ in range(5):  # without a message in between there is nothing to keep
        await gate.manager.select_branch(ME, "s", one)
        await gate.manager.select_branch(ME, "s", other)
    await gate.manager.select_branch(ME, "s", one)
    await say(gate, "s", NewMessage("user", "more"))
    await gate.manager.select_branch(ME, "s", other)
    await say(gate, "s", NewMessage("user", "more"))
    with pytest.raises(Refused) as refusal:
        await gate.manager.select_branch(ME, "s", one)
    assert refusal.value.code == "too-many-branches"


async def test_nothing_is_selected_while_a_run_is_active_or_queued(gate: Gateway) -> None:
    await turn(gate, "a", "r1")
    await again(gate, "r2")
    await gate.chat("s", "b", run_id="r3")
    for branch_id in await branch_ids(gate):
        with pytest.raises(RunActive):
            await gate.manager.select_branch(ME, "s", branch_id)
    with pytest.raises(RunActive):
        await regenerate(gate, "r4", on_busy="reject")
    gate.agent.do("r3", Complete())
    await gate.ended("r3")


async def test_a_queued_chat_attaches_to_the_tip_of_its_start_and_an_edit_keeps_its_place(
    gate: Gateway,
) -> None:
    await turn(gate, "a", "r1")
    first = (await ids(gate, "s"))[0]
    await gate.chat("s", "b", run_id="r2")
    queued = await regenerate(gate, "r3", first)
    assert (queued["status"], queued["message_ids"]) == ("queued", [first])
    await gate.chat("s", "c", run_id="r4")
    await gate.chat("s", "A", run_id="r5", edit_message_id=first)
    for number in (2, 3, 4, 5):
        gate.agent.do(f"r{number}", Token(f"answer r{number}"), Complete())
        await gate.ended(f"r{number}")
    paths = []
    for branch_id in await branch_ids(gate):
        page = await gate.manager.messages(ME, "s", branch=branch_id)
        paths.append([json.loads(one)["content"] for one in page.messages])
    assert paths == [
        ["a", "to a", "b", "answer r2"],
        ["a", "answer r3", "c", "answer r4"],
        ["A", "answer r5"],
    ]


async def test_a_queued_regeneration_of_the_answer_that_is_being_written(gate: Gateway) -> None:
    answer = await gate.chat("s", "a", run_id="r1")
    again_of = await regenerate(gate, "r2", answer["message_ids"][0])
    waiting = await gate.manager.run(ME, "s", "r2")
    assert (waiting["status"], waiting["message_ids"]) == ("queued", again_of["message_ids"])
    gate.agent.do("r1", Token("one"), Complete())
    gate.agent.do("r2", Token("two"), Complete())
    await gate.ended("r2")
    shown = await gate.messages()
    assert [one["content"] for one in shown] == ["a", "two"]
    assert len(shown[1]["siblings"]) == 2


async def test_interrupting_by_a_regeneration_keeps_what_was_said(gate: Gateway) -> None:
    await gate.chat("s", "a", run_id="r1")
    gate.agent.do("r1", Token("half"))
    await eventually(lambda: gate.agent.script("r1").taken)
    await regenerate(gate, "r2", on_busy="interrupt")
    gate.agent.do("r2", Token("whole"), Complete())
    await gate.ended("r2")
    assert await texts(gate, "s") == ["a", "whole"]
    page = await gate.manager.messages(ME, "s", branch="main")
    assert [json.loads(one)["status"] for one in page.messages] == ["complete", "incomplete"]


async def test_a_queued_edit_survives_a_crash_and_keeps_its_place() -> None:
    async with gateway() as before:
        await turn(before, "a", "r1")
        first = (await ids(before, "s"))[0]
        await before.chat("s", "b", run_id="r2")
        await before.chat("s", "A", run_id="r3", edit_message_id=first)
        async with gateway(await crash(before), clock=before.clock) as gate:
            gate.agent.do("r3", Token("edited"), Complete())
            await gate.ended("r3")
            assert await texts(gate, "s") == ["A", "edited"]
            page = await gate.manager.messages(ME, "s", branch="main")
            assert [json.loads(one)["content"] for one in page.messages] == ["a", "to a", "b"]


async def test_leaving_a_tip_closes_the_calls_that_wait_there(gate: Gateway) -> None:
    await turn(gate, "a", "r1")
    call = [{"id": "c", "name": "look", "arguments": {}}]
    await say(gate, "s", NewMessage("assistant", "", tool_calls=call))
    await again(gate, "r2")
    head = await gate.store.load("s")
    assert head is not None
    assert head.open_calls == []
    page = await gate.manager.messages(ME, "s", branch="main")
    last = json.loads(page.messages[-1])
    assert (last["role"], last["tool_call_id"], last["content"]) == ("tool", "c", SUPERSEDED)
    await gate.manager.select_branch(ME, "s", "main")
    await say(gate, "s", NewMessage("user", "goes on"))


async def test_a_failed_run_leaves_a_branch_that_can_go_on(gate: Gateway) -> None:
    await turn(gate, "a", "r1")
    await regenerate(gate, "r2")
    gate.agent.do("r2", Failed("no"))
    await gate.ended("r2")
    assert await texts(gate, "s") == ["a"]
    await gate.manager.select_branch(ME, "s", "main")
    await gate.manager.select_branch(ME, "s", (await branch_ids(gate))[1])
    await say(gate, "s", NewMessage("user", "b"))
    shown = await gate.messages()
    assert [one["content"] for one in shown] == ["a", "b"]
    assert len(shown[1]["siblings"]) == 2


async def test_a_repeat_with_the_key_is_the_same_regeneration(gate: Gateway) -> None:
    await turn(gate, "a", "r1")
    key = Idempotency("k", "POST /regenerate", "body")
    answers = []

    async def once() -> None:
        outcome = await gate.manager.regenerate(ME, "s", Regenerate(), key)
        answers.append(dict(outcome.answer))

    async with anyio.create_task_group() as tasks:
        for _ in range(3):
            tasks.start_soon(once)
    assert answers[0] == answers[1] == answers[2]
    assert (await gate.types()).count("branch_started") == 1
    await gate.finish_runs()


@pytest.mark.parametrize("first", ["select", "chat"])
async def test_a_selection_and_a_chat_at_once_are_one_after_the_other(
    gate: Gateway, first: str
) -> None:
    await turn(gate, "a", "r1")
    await again(gate, "r2")
    before = await texts(gate, "s")
    refused: list[str] = []

    async def select() -> None:
        try:
            await gate.manager.select_branch(ME, "s", "main")
        except RunActive as error:
            refused.append(error.code)

    async def chat() -> None:
        await gate.chat("s", "b", run_id="r3")

    gate.store.hold_appends()
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(select if first == "select" else chat)
        await quiet()
        tasks.start_soon(chat if first == "select" else select)
        await quiet()
        gate.store.release_appends()
    gate.agent.do("r3", Token("to b"), Complete())
    await gate.ended("r3")
    if first == "select":
        assert not refused
        assert await texts(gate, "s") == ["a", "to a", "b", "to b"]
    else:
        assert refused == ["run-active"]
        assert await texts(gate, "s") == [*before, "b", "to b"]


async def test_a_message_that_comes_while_a_branch_is_prepared_is_not_forgotten(
    gate: Gateway,
) -> None:
    await turn(gate, "a", "r1")
    gate.store.hold("find")
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(again, gate, "r2")
        await eventually(lambda: gate.store.waiting.get("find"))
        await say(gate, "s", NewMessage("user", "late"))
        gate.store.let_go("find")
    # What was last when it was decided is answered.
    assert await texts(gate, "s") == ["a", "to a", "late", "answer r2"]
    assert (await gate.manager.branches(ME, "s"))["branches"][0]["message_count"] == 3


class Screen:
    """What a page shows that streams: the messages of the current branch."""

    def __init__(self, said: list[dict[str, Any]]) -> None:
        self.shown = [one["id"] for one in said]

    async def take(self, gate: Gateway, frame: Frame, *, now: bool) -> None:
        event = frame.data
        if event["type"] == "branch_started":
            behind = event["from_message_id"]
            if behind is None or behind in self.shown:
                at = self.shown.index(behind) + 1 if behind is not None else 0
                self.shown = self.shown[:at]
            else:  # it begins on a branch that the page does not show
                self.shown = await ids(gate, "s")
        elif event["type"] == "branch_selected" and now:
            self.shown = await ids(gate, "s")
        elif event["type"] == "message" and event["message_id"] not in self.shown:
            self.shown.append(event["message_id"])


async def test_r2_a_page_that_streams_shows_what_a_page_that_loads_shows(gate: Gateway) -> None:
    """Whenever it has begun, also in the middle of a run, and at every later moment."""
    pages: list[tuple[Screen, Any]] = []

    async def look() -> None:
        page = await gate.manager.messages(ME, "s", limit=1000)
        reader = await gate.reader("s", after=str(page.stream_after))
        pages.append((Screen([json.loads(one) for one in page.messages]), reader))
        loaded = await ids(gate, "s")
        for screen, one in pages:
            seen = len(one.events)
            events = (await one.take_what_is_there())[0:]
            new = [frame for frame in events if frame.id is not None and frame.type != "open"]
            for frame in new[seen:]:
                await screen.take(gate, frame, now=True)
            assert screen.shown == loaded

    await talk(gate, "s", "x")
    await look()
    for number in range(3):
        await gate.chat("s", f"asked {number}", run_id=f"c{number}")
        gate.agent.do(f"c{number}", Token("some "))
        await quiet()
        await look()
        gate.agent.do(f"c{number}", Token("more"), Complete())
        await gate.ended(f"c{number}")
        await look()
        await regenerate(gate, f"g{number}")
        await look()
        gate.agent.do(f"g{number}", Token("again"), Complete())
        await gate.ended(f"g{number}")
        await look()
        edited = (await ids(gate, "s"))[number]
        if (await gate.messages())[number]["role"] == "user":
            await gate.chat("s", "E", run_id=f"e{number}", edit_message_id=edited)
            await look()
            gate.agent.do(f"e{number}", Token("to E"), Complete())
            await gate.ended(f"e{number}")
        await gate.manager.select_branch(ME, "s", (await branch_ids(gate))[number])
        await look()
    for _, reader in pages:
        reader.close()


async def test_r11_a_page_costs_the_same_however_many_branches_there_are() -> None:
    async with gateway() as gate:
        await turn(gate, "a", "r1")
        asked = (await ids(gate, "s"))[0]
        costs = []
        for number in range(199):
            await again(gate, f"g{number}", asked)
            if number in (0, 99, 198):
                costs.append(await page_cost(gate, limit=50))
        assert len(await branch_ids(gate)) == 200
        assert max(costs) <= 4
        head = await gate.store.load("s")
        assert head is not None
        assert len(encode(head)) < 120_000


async def test_r11_a_path_with_many_short_spans_is_read_across_the_gaps() -> None:
    async with gateway() as gate:
        await turn(gate, "a", "r1")
        for number in range(60):
            await again(gate, f"g{number}")
            await turn(gate, f"b{number}", f"c{number}")
        assert len(await gate.messages()) == 122
        assert await page_cost(gate, limit=100) <= 8
        page = await gate.manager.messages(ME, "s", limit=100, descending=True)
        shown = [json.loads(one)["id"] for one in page.messages]
        assert shown == (await ids(gate, "s"))[::-1][:100]


async def page_cost(gate: Gateway, limit: int) -> int:
    """Return how many searches of the store the last page takes."""
    calls = 0
    inner = gate.store.inner.find

    async def counted(*args: Any, **more: Any) -> Any:
        nonlocal calls
        calls += 1
        return await inner(*args, **more)

    gate.store.inner.find = counted  # type: ignore[method-assign]
    try:
        await gate.manager.messages(ME, "s", limit=limit, descending=True)
    finally:
        gate.store.inner.find = inner  # type: ignore[method-assign]
    return calls


async def test_a_log_without_branches_costs_one_search_a_page(gate: Gateway) -> None:
    await turn(gate, "a", "r1")
    assert await page_cost(gate, limit=50) == 1
    head = await gate.store.load("s")
    assert head is not None
    assert not {"branches", "branch_id", "branch_points"} & head.to_json().keys()


async def test_a_summary_counts_on_the_paths_through_its_last_message(gate: Gateway) -> None:
    await turn(gate, "a", "r1")
    await turn(gate, "b", "r2")
    said = await ids(gate, "s")
    await gate.manager.save_summary(ME, "s", "all")
    await again(gate, "r3")
    with pytest.raises(NotFound):
        await gate.manager.summary(ME, "s")
    assert [one.text for one in gate.agent.script("r3").turn.messages] == ["a", "to a", "b"]  # type: ignore[union-attr]
    await gate.manager.select_branch(ME, "s", "main")
    summary = await gate.manager.summary(ME, "s")
    assert (summary["summary"], summary["message_id"]) == ("all", said[-1])


async def test_searches_find_every_branch_and_messages_of_another_can_be_forked_at(
    gate: Gateway,
) -> None:
    await turn(gate, "a", "r1")
    first = await ids(gate, "s")
    await again(gate, "r2")
    from bamboo_gateway.sessions.commands import SearchQuery
    from bamboo_gateway.sessions.lifecycle.fork import Fork

    found = await gate.manager.search(ME, SearchQuery(terms=("to a",)))
    assert [one["message_id"] for one in found["results"]] == [first[1]]
    await gate.manager.fork(ME, "s", Fork(message_id=first[1], new_id="f"))
    assert await ids(gate, "f") == first
    chat = Chat(NewSession("f"), [NewMessage("user", "x")], run_id="f1")
    await gate.manager.chat(ME, chat)
    gate.agent.do("f1", Complete())
    await gate.ended("f1", "f")


async def test_a_branch_behind_a_message_without_text_keeps_the_preview_of_its_path(
    gate: Gateway,
) -> None:
    await talk(gate, "s", "who is it?")
    await say(gate, "s", NewMessage("user", [{"type": "image_url", "image_url": {"url": "x:"}}]))
    await regenerate(gate, "r1")
    assert (await gate.manager.get_session(ME, "s")).session["preview"] == "who is it?"
    gate.agent.do("r1", Failed("no"))
    await gate.ended("r1")
    # A branch that says nothing of its own, in a copy too.
    exported = await gate.manager.export(ME, "s", ExportOptions("json"))
    document = b"".join([chunk async for chunk in exported.chunks])
    copy = (await gate.manager.import_document(ME, document)).answer
    assert copy["preview"] == "who is it?"


async def test_a_copy_of_a_branch_where_somebody_is_asked_asks_nobody(gate: Gateway) -> None:
    """The call that waits for people is closed on the branch that has it."""
    await turn(gate, "a", "r1")
    await regenerate(gate, "r2")
    asks = InputRequired("Pay?", "approval", "call", request_id="q")
    gate.agent.do("r2", ToolStart("call", "pay"), asks, Complete(finish_reason="input_required"))
    await gate.ended("r2")
    exported = await gate.manager.export(ME, "s", ExportOptions("json"))
    document = b"".join([chunk async for chunk in exported.chunks])
    copy = (await gate.manager.import_document(ME, document)).answer
    assert [note["place"] for note in copy["notes"]] == ["tool calls"]
    shown = await gate.messages(copy["id"])
    assert [message["role"] for message in shown] == ["user", "assistant", "tool"]
    await gate.chat(copy["id"], run_id="r3")  # nothing is in its way
    await gate.manager.select_branch(ME, "s", "main")
    assert [message["role"] for message in await gate.messages()] == ["user", "assistant"]
