"""Merge: the messages of one session into another, each once."""

import anyio
import httpx
import pytest

from bamboo_gateway.domain.errors import BambooError, InvalidInput, NotFound, Refused, RunActive
from bamboo_gateway.domain.events import Complete, Usage
from bamboo_gateway.sessions.commands import Idempotency, NewMessage
from bamboo_gateway.sessions.lifecycle.fork import Fork
from bamboo_gateway.sessions.lifecycle.merge_plan import Merge
from tests.api.serving import refused
from tests.sessions.lifecycle.talk import create, exchange, ids, said, say, talk, texts
from tests.support.gateways import DEADLINE_SECONDS, ME, Gateway, eventually


async def merge(
    gate: Gateway, target: str, source: str, strategy: str = "append", **more: str
) -> dict[str, object]:
    wanted = Merge(source, strategy, **more)  # type: ignore[arg-type]
    return {**(await gate.manager.merge(ME, target, wanted)).answer}


async def branch(gate: Gateway) -> None:
    """`s` and its fork `c`, both with more since."""
    await talk(gate, "s", "a", "b")
    await gate.manager.fork(ME, "s", Fork(new_id="c"))
    gate.clock.advance(1)
    await say(gate, "s", NewMessage("user", "s1"))
    gate.clock.advance(1)
    await say(gate, "c", NewMessage("user", "c1"))
    gate.clock.advance(1)
    await say(gate, "s", NewMessage("user", "s2"))


async def test_shared_ancestry_is_not_doubled(gate: Gateway) -> None:
    await branch(gate)
    answer = await merge(gate, "s", "c")
    assert await texts(gate, "s") == ["a", "b", "s1", "s2", "c1"]
    assert await texts(gate, "c") == ["a", "b", "c1"]
    assert answer["message_count"] == 5
    head = await gate.store.load("s")
    assert head is not None
    assert [one["session_id"] for one in head.merged_from] == ["c"]


@pytest.mark.parametrize("strategy", ["append", "interleave", "replace"])
async def test_merging_again_adds_nothing(gate: Gateway, strategy: str) -> None:
    await branch(gate)
    first = await merge(gate, "s", "c", strategy)
    before = await gate.log("s")
    assert await merge(gate, "s", "c", strategy) == first
    assert await gate.log("s") == before
    await say(gate, "c", NewMessage("user", "c2"))
    await merge(gate, "s", "c", strategy)
    assert (await texts(gate, "s")).count("c2") == 1
    assert (await texts(gate, "s")).count("a") == 1


async def test_interleaving_is_by_time_and_stable(gate: Gateway) -> None:
    await branch(gate)
    await merge(gate, "s", "c", "interleave")
    assert await texts(gate, "s") == ["a", "b", "s1", "c1", "s2"]
    stats = await gate.manager.statistics(ME, "s")
    assert stats["total_messages"] == stats["user_messages"] == 5


async def test_a_message_said_again_by_a_merge_can_be_forked_at(gate: Gateway) -> None:
    await branch(gate)
    await merge(gate, "s", "c", "interleave")
    named = await ids(gate, "s")
    await gate.manager.fork(ME, "s", Fork(message_id=named[2], new_id="d"))
    assert await ids(gate, "d") == named[:3]


async def test_exchanges_stay_whole_when_interleaved(gate: Gateway) -> None:
    await talk(gate, "t")
    await say(gate, "t", *exchange("x"))
    gate.clock.advance(1)
    await talk(gate, "u", "between")
    gate.clock.advance(1)
    await say(gate, "t", *exchange("y", "z"))
    await merge(gate, "t", "u", "interleave")
    roles = [message["role"] for message in await gate.messages("t")]
    assert roles == ["assistant", "tool", "user", "assistant", "tool", "tool"]


async def test_replace_puts_the_sources_messages_in_place(gate: Gateway) -> None:
    await branch(gate)
    await merge(gate, "s", "c", "replace")
    copies = await gate.messages("s")
    assert [one["copied_from"] for one in copies] == await ids(gate, "c")
    assert await texts(gate, "s") == await texts(gate, "c")
    assert not {one["id"] for one in copies} & set(await ids(gate, "c"))
    await talk(gate, "empty")
    await merge(gate, "s", "empty", "replace")
    assert await ids(gate, "s") == []


async def test_what_a_merge_replaces_stays_in_its_branch(gate: Gateway) -> None:
    await branch(gate)
    before = await texts(gate, "s")
    await merge(gate, "s", "c", "interleave")
    interleaved = await texts(gate, "s")
    assert (await gate.messages("s"))[0]["siblings"][1] == (await ids(gate, "s"))[0]
    branches = (await gate.manager.branches(ME, "s"))["branches"]
    assert [one["message_count"] for one in branches] == [4, 5]
    await gate.manager.select_branch(ME, "s", "main")
    assert await texts(gate, "s") == before
    # The copies are the same messages as the ones that they were copied from.
    await gate.manager.select_branch(ME, "s", branches[1]["branch_id"])
    log = await gate.log("s")
    await merge(gate, "s", "c", "append")
    assert await gate.log("s") == log
    assert await texts(gate, "s") == interleaved


async def test_a_merge_into_a_session_with_as_many_branches_as_it_may_have_is_refused(
    gate: Gateway,
) -> None:
    await branch(gate)
    gate.settings.__dict__["max_branches"] = 1
    with pytest.raises(Refused) as refusal:
        await merge(gate, "s", "c", "replace")
    assert refusal.value.code == "too-many-branches"
    assert await texts(gate, "s") == ["a", "b", "s1", "s2"]


async def run_of(gate: Gateway, session_id: str, run_id: str, tokens: int) -> None:
    await gate.chat(session_id, "hi", run_id=run_id)
    gate.agent.do(run_id, Complete(usage=Usage(tokens, tokens, 2 * tokens)))
    await gate.ended(run_id, session_id)


async def test_usage_and_metadata_follow_the_strategy(gate: Gateway) -> None:
    for name in ("t1", "t2", "t3"):
        await talk(gate, name, "a", metadata={"t": 1, "both": "t"})
        await run_of(gate, name, f"run-{name}", 10)
    await talk(gate, "src", "b", metadata={"s": 1, "both": "s"})
    await run_of(gate, "src", "run-src", 1)
    kept = await merge(gate, "t1", "src", metadata_strategy="target")
    theirs = await merge(gate, "t2", "src", metadata_strategy="source")
    both = await merge(gate, "t3", "src", metadata_strategy="merge")
    totals = [one["usage"]["total_tokens"] for one in (kept, theirs, both)]  # type: ignore[index]
    assert totals == [20, 2, 22]
    assert kept["metadata"] == {"t": 1, "both": "t"}
    assert theirs["metadata"] == {"s": 1, "both": "s"}
    assert both["metadata"] == {"t": 1, "s": 1, "both": "s"}
    await run_of(gate, "src", "run-again", 5)
    again = await merge(gate, "t3", "src", metadata_strategy="merge")
    assert again["usage"]["total_tokens"] == 32  # type: ignore[index]


async def test_calls_at_work_in_the_source_are_left_for_later(gate: Gateway) -> None:
    await talk(gate, "t", "a")
    await talk(gate, "src", "b")
    call = [{"id": "x", "name": "look", "arguments": {}}]
    await say(gate, "src", NewMessage("assistant", "", tool_calls=call))
    await merge(gate, "t", "src")
    assert await texts(gate, "t") == ["a", "b"]
    await say(gate, "src", NewMessage("tool", "found", tool_call_id="x"))
    await merge(gate, "t", "src")
    assert await texts(gate, "t") == ["a", "b", "", "found"]


async def test_nothing_comes_between_a_targets_calls_and_their_results(gate: Gateway) -> None:
    await talk(gate, "t", "a")
    call = [{"id": "x", "name": "look", "arguments": {}}]
    await say(gate, "t", NewMessage("assistant", "", tool_calls=call))
    await talk(gate, "src", "b")
    with pytest.raises(Refused) as refusal:
        await merge(gate, "t", "src")
    assert refusal.value.code == "open-tool-calls"
    assert await texts(gate, "t") == ["a", ""]


async def test_interleaving_puts_nothing_behind_calls_that_wait(gate: Gateway) -> None:
    await talk(gate, "src", "early")
    gate.clock.advance(1)
    await talk(gate, "t", "a")
    call = [{"id": "x", "name": "look", "arguments": {}}]
    await say(gate, "t", NewMessage("assistant", "", tool_calls=call))
    await merge(gate, "t", "src", "interleave")
    assert await texts(gate, "t") == ["early", "a", ""]
    gate.clock.advance(1)
    await say(gate, "src", NewMessage("user", "late"))
    with pytest.raises(Refused) as refusal:
        await merge(gate, "t", "src", "interleave")
    assert refusal.value.code == "open-tool-calls"
    assert refusal.value.extra == {"open_tool_call_ids": ["x"]}
    await say(gate, "t", NewMessage("tool", "found", tool_call_id="x"))


async def test_what_cannot_be_merged_is_said(gate: Gateway) -> None:
    await talk(gate, "s", "a")
    await talk(gate, "c", "b")
    with pytest.raises(InvalidInput) as itself:
        await merge(gate, "s", "s")
    assert itself.value.code == "self-merge"
    with pytest.raises(NotFound):
        await merge(gate, "s", "nobody")
    with pytest.raises(NotFound):
        await merge(gate, "nobody", "s")
    await gate.chat("busy", run_id="r")
    with pytest.raises(RunActive):
        await merge(gate, "busy", "s")
    await merge(gate, "s", "busy")
    await gate.manager.archive(ME, "c")
    with pytest.raises(BambooError) as archived:
        await merge(gate, "c", "s")
    assert archived.value.code == "session-archived"
    await merge(gate, "s", "c")
    assert await texts(gate, "s") == ["a", "hi", "b"]


async def test_nothing_is_merged_while_a_run_is_about_to_start(gate: Gateway) -> None:
    """Also when it has left the queue by now: the log may get its events at any moment."""
    await gate.chat("t", run_id="a")
    await gate.chat("t", run_id="b")
    await talk(gate, "src", "x")
    gate.store.hold("read")
    gate.agent.do("a", Complete())
    await eventually(lambda: gate.live("t").starting and gate.store.waiting.get("read"))
    await gate.manager.cancel_run(ME, "t", "b")
    with pytest.raises(RunActive) as refusal:
        await merge(gate, "t", "src")
    assert refusal.value.extra == {"active_run_id": None}
    gate.store.let_go("read")
    await eventually(lambda: not gate.live("t").starting)
    await merge(gate, "t", "src")
    assert (await texts(gate, "t"))[-1] == "x"


def test_merges_over_http(api: httpx.Client) -> None:
    create(api, "m-t", "a")
    child = api.post("/sessions/m-t/fork", json={"new_id": "m-c"}).json()["id"]
    api.post(f"/sessions/{child}/messages", json={"role": "user", "content": "more"})
    merged = api.post("/sessions/m-t/merge", json={"source_id": child})
    assert merged.status_code == 200
    assert merged.json()["message_count"] == 2
    assert [message["content"] for message in said(api, "m-t")] == ["a", "more"]
    refused(api.post("/sessions/m-t/merge", json={"source_id": "m-t"}), 422, "self-merge")
    refused(api.post("/sessions/m-t/merge", json={"source_id": "m-no"}), 404, "session-not-found")
    refused(api.post("/sessions/m-t/merge", json={}), 422, "invalid")
    wrong = {"source_id": child, "strategy": "mix"}
    refused(api.post("/sessions/m-t/merge", json=wrong), 422, "invalid")
    api.post("/sessions/m-t/archive")
    refused(api.post("/sessions/m-t/merge", json={"source_id": child}), 409, "session-archived")


async def test_r2_streams_and_waiters_of_the_target_get_every_message_of_a_merge_once(
    gate: Gateway,
) -> None:
    await talk(gate, "t", "a")
    await talk(gate, "src", *(f"b{number} " + "x" * 60_000 for number in range(30)))
    reader = await gate.connect("t")
    assert reader is not None
    async with reader:
        merged = await merge(gate, "t", "src")
        await say(gate, "t", NewMessage("user", "after"))
        while not any(frame.data["seq"] == 34 for frame in reader.events):
            assert await reader.take() is not None
        assert [frame.data["seq"] for frame in reader.events] == list(range(3, 35))
    assert merged["message_count"] == 31


async def test_a_repeat_with_the_key_is_the_same_merge_also_when_both_come_at_once(
    gate: Gateway,
) -> None:
    await talk(gate, "t", "a")
    await talk(gate, "src", "b")
    key = Idempotency("k", "POST /sessions/t/merge", "body")
    answers = []

    async def once() -> None:
        answers.append((await gate.manager.merge(ME, "t", Merge("src"), key)).answer)

    with anyio.fail_after(DEADLINE_SECONDS):
        async with anyio.create_task_group() as tasks:
            for _ in range(3):
                tasks.start_soon(once)
    assert answers[0] == answers[1] == answers[2]
    assert await texts(gate, "t") == ["a", "b"]
    assert [event["type"] for event in await gate.log("t")].count("session_merged") == 1
    await say(gate, "src", NewMessage("user", "c"))
    assert (await gate.manager.merge(ME, "t", Merge("src"), key)).replayed
    assert await texts(gate, "t") == ["a", "b"]


async def test_what_is_said_during_a_merge_comes_behind_it(gate: Gateway) -> None:
    await talk(gate, "t", "a")
    await talk(gate, "src", *(f"b{number}" for number in range(5)))
    with anyio.fail_after(DEADLINE_SECONDS):
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(merge, gate, "t", "src")
            await anyio.lowlevel.checkpoint()
            tasks.start_soon(say, gate, "t", NewMessage("user", "meanwhile"))
    assert await texts(gate, "t") in (
        ["a", "b0", "b1", "b2", "b3", "b4", "meanwhile"],
        ["a", "meanwhile", "b0", "b1", "b2", "b3", "b4"],
    )


async def test_two_sessions_may_be_merged_into_each_other_at_once(gate: Gateway) -> None:
    await talk(gate, "t", "a")
    await talk(gate, "u", "b")
    with anyio.fail_after(DEADLINE_SECONDS):
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(merge, gate, "t", "u")
            tasks.start_soon(merge, gate, "u", "t")
    assert sorted(await texts(gate, "t")) == sorted(await texts(gate, "u")) == ["a", "b"]
