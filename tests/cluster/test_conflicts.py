"""Several gateways on one database: who was slower looks again, and decides again."""

from collections.abc import AsyncIterator
from functools import partial
from typing import Any

import anyio
import pytest

from bamboo_gateway.domain.clock import format_ms
from bamboo_gateway.domain.errors import NotFound, Refused, TooLarge, Unavailable
from bamboo_gateway.domain.events import (
    Complete,
    Draft,
    Token,
    ToolComplete,
    ToolResult,
    ToolStart,
)
from bamboo_gateway.domain.sessions import SessionHead
from bamboo_gateway.sessions.commands import Idempotency
from bamboo_gateway.sessions.streaming.session_writer import Wish
from bamboo_gateway.storage.base import Done
from bamboo_gateway.storage.commits import Commit, Event
from tests.support.gateways import DEADLINE_SECONDS, ME, Gateway, eventually, quiet
from tests.support.pairs import Pair, create, running, say, texts


@pytest.fixture
async def pair() -> AsyncIterator[Pair]:
    async with running() as two:
        yield two


async def test_each_gateway_goes_on_from_what_the_other_has_stored(pair: Pair) -> None:
    await create(pair.a)
    for number in range(6):
        await say((pair.a, pair.b)[number % 2], f"{number}")
    assert await texts(pair.a) == await texts(pair.b) == [str(n) for n in range(6)]


async def test_a_command_that_was_slower_is_decided_again_on_the_new_head(pair: Pair) -> None:
    await create(pair.a)
    await say(pair.b, "0")
    pair.a.store.hold_appends()
    async with anyio.create_task_group() as group:
        group.start_soon(say, pair.a, "2")
        await eventually(lambda: pair.a.store.held)
        await say(pair.b, "1")
        pair.a.store.release_appends()
    assert pair.memory.conflicts["s"] == 1
    assert await texts(pair.b) == ["0", "1", "2"]
    seqs = [event["seq"] for event in await pair.a.log()]
    assert seqs == list(range(1, len(seqs) + 1))


async def test_what_a_run_says_is_decided_again_in_order_and_once(pair: Pair) -> None:
    await pair.a.chat(run_id="r")
    assert pair.memory.head("s").active is not None
    assert pair.memory.head("s").active.executor == "a"  # type: ignore[union-attr]
    for number in range(10):
        pair.a.store.hold_appends()
        for part in range(3):
            pair.a.agent.do("r", Token(f"{number}.{part} "))
            await quiet()
        await say(pair.b, f"beside {number}")
        pair.a.store.release_appends()
        await quiet()
    pair.a.agent.do("r", Complete())
    run = await pair.a.ended("r")
    assert run["status"] == "completed"
    assert pair.memory.conflicts["s"] == 10
    expected = "".join(f"{number}.{part} " for number in range(10) for part in range(3))
    log = await pair.b.log()
    assert "".join(event["content"] for event in log if event["type"] == "token") == expected
    assert expected in await texts(pair.b)
    assert [event["seq"] for event in log] == list(range(1, len(log) + 1))


async def test_a_run_goes_on_when_the_store_answers_again(pair: Pair) -> None:
    """What it said meanwhile is in the log once, and nobody else has closed it."""
    await pair.a.chat(run_id="r")
    pair.a.agent.do("r", Token("before "))
    await eventually(lambda: pair.memory.head("s").seq > 3)
    pair.a.store.fail_appends(Unavailable("The database does not answer at present."))
    tries = len(pair.a.store.commits)
    for part in range(3):
        pair.a.agent.do("r", Token(f"{part} "))
        await quiet()
    await eventually(lambda: len(pair.a.store.commits) > tries + 1)
    pair.a.store.heal()
    pair.a.agent.do("r", Token("behind"), Complete())
    run = await pair.a.ended("r")
    assert run["status"] == "completed"
    log = await pair.b.log()
    expected = "before 0 1 2 behind"
    assert "".join(event["content"] for event in log if event["type"] == "token") == expected
    assert expected in await texts(pair.b)
    assert [event["seq"] for event in log] == list(range(1, len(log) + 1))


async def test_a_run_begins_when_the_store_can_be_read_again(pair: Pair) -> None:
    await create(pair.a)
    await say(pair.a, "before")
    pair.b.store.hold_appends()
    async with anyio.create_task_group() as group:
        group.start_soon(partial(pair.b.chat, run_id="r"))
        await eventually(lambda: pair.b.store.held)
        pair.b.store.fail("find", Unavailable("The database does not answer at present."))
        pair.b.store.release_appends()
        await eventually(lambda: pair.b.store.failed["find"])
    pair.b.agent.do("r", Token("here"), Complete())
    run = await pair.b.ended("r")
    assert run["status"] == "completed"


async def test_the_end_of_a_run_that_was_slower_is_stored_once(pair: Pair) -> None:
    await pair.a.chat(run_id="r")
    pair.a.store.hold_appends()
    pair.a.agent.do("r", Token("all"), Complete())
    await eventually(lambda: pair.a.store.held)
    await quiet()
    await say(pair.b, "beside")
    pair.a.store.release_appends()
    await pair.a.ended("r")
    assert (await pair.b.types()).count("complete") == 1
    assert (await texts(pair.b)) == ["hi", "beside", "all"]


async def test_a_run_that_others_have_ended_says_nothing_more(pair: Pair) -> None:
    await pair.a.chat(run_id="r")
    pair.a.agent.do("r", Token("before "))
    await quiet()
    pair.a.store.hold_appends()
    pair.a.agent.do("r", Token("after"))
    await eventually(lambda: pair.a.store.held)
    pair.memory.take_for_dead("a")
    writer = await loaded(pair.b)
    end = Draft("error", {"run_id": "r", "message": "gone", "code": "interrupted"})
    await writer.commit([end], closes="a")
    pair.a.store.release_appends()
    await eventually(lambda: pair.a.agent.script("r").finished.is_set())
    await quiet()
    assert pair.a.live().run is None
    log = await pair.b.log()
    assert log[-1]["type"] == "error"
    assert [event["content"] for event in log if event["type"] == "token"] == ["before "]


async def test_a_run_ends_as_another_gateway_wishes_with_all_that_it_has_said(pair: Pair) -> None:
    await pair.a.chat(run_id="r")
    pair.a.store.hold_appends()
    pair.a.agent.do("r", Token("said"))
    await eventually(lambda: pair.a.store.held)
    writer = await loaded(pair.b)
    wish = Wish("r", {"type": "cancelled", "reason": "cancelled by the client"})
    await writer.commit([], wish=wish)
    active = pair.memory.head("s").active
    assert active is not None
    assert active.wish == wish.terminal
    pair.a.store.release_appends()
    run = await pair.a.ended("r")
    assert run["status"] == "cancelled"
    assert "said" in await texts(pair.b)


async def loaded(gate: Gateway) -> Any:
    """Return the session's writer with the head as it is now."""
    registry = gate.manager._registry
    async with registry.use(ME, "s") as writer:
        return writer


async def test_readers_of_one_gateway_get_what_the_other_has_stored(pair: Pair) -> None:
    await create(pair.a)
    async with await pair.a.reader(after="0") as reader:
        await say(pair.a, "0")
        await pair.b.chat(run_id="r")
        pair.b.agent.do("r", Token("x"), Complete())
        await pair.b.ended("r")
        await say(pair.a, "1")
        frames = await reader.take_what_is_there()
    assert [frame.data["seq"] for frame in reader.events] == [
        event["seq"] for event in await pair.a.log()
    ]
    assert "goodbye" not in [frame.type for frame in frames]


async def test_who_waits_for_a_run_of_the_other_gateway_learns_of_its_end(pair: Pair) -> None:
    await pair.b.chat(run_id="r")
    async with anyio.create_task_group() as group:
        done: list[dict[str, Any]] = []

        async def wait() -> None:
            done.append(await pair.a.ended("r"))

        group.start_soon(wait)
        await eventually(lambda: pair.a.manager._registry.get("s"))
        await eventually(lambda: pair.a.live().awaited_runs)
        pair.b.agent.do("r", Complete())
        await pair.b.ended("r")
        await say(pair.a, "beside")
    assert done[0]["status"] == "completed"


async def test_after_two_conflicts_a_row_is_locked_so_that_a_busy_writer_keeps_nobody_out(
    pair: Pair,
) -> None:
    await create(pair.a)
    store, database = pair.store(pair.a), pair.memory.database
    append = store.append
    added = 0

    def contended(commit: Commit, done: Done) -> None:
        nonlocal added
        head = pair.memory.head("s")
        added += 1
        body = b'{"type":"custom","seq":%d,"name":"n","value":0}' % (head.seq + 1)
        event = Event(head.seq + 1, "custom", body)
        database.append(
            Commit("s", head.epoch, event.seq, [event], [], None, version=head.version), ignore
        )
        append(commit, done)

    store.append = contended  # type: ignore[method-assign]
    await say(pair.a, "through")
    assert pair.memory.conflicts["s"] == 2
    assert store.shared.locks == 1
    assert "through" in await texts(pair.b)


def ignore(error: Exception | None) -> None:
    assert error is None


async def test_a_deleted_session_is_unknown_to_the_other_gateway_at_once(pair: Pair) -> None:
    await create(pair.a)
    await say(pair.a, "0")
    await pair.b.manager.delete_session(ME, "s")
    with pytest.raises(NotFound):
        await say(pair.a, "1")
    with pytest.raises(NotFound):
        await pair.a.manager.get_session(ME, "s")
    await create(pair.b)
    await say(pair.a, "new")
    assert await texts(pair.a) == ["new"]


async def test_a_session_that_both_create_at_once_is_created_by_one(pair: Pair) -> None:
    async with anyio.create_task_group() as group:
        for gate in (pair.a, pair.b):
            group.start_soon(gate.chat)
    assert (await pair.a.types()).count("session_created") == 1
    assert len(await texts(pair.b)) + len(pair.memory.head("s").queue) == 2


async def test_a_key_is_answered_by_the_other_gateway_and_not_done_again(pair: Pair) -> None:
    first = await pair.a.chat(run_id="r", key="k")
    again = await pair.b.chat(run_id="r", key="k")
    assert first == again
    assert pair.b.agent.asked == []


async def test_a_key_of_a_deleted_session_does_not_create_it_again(pair: Pair) -> None:
    await pair.a.chat(run_id="r", key="k")
    pair.a.agent.do("r", Complete())
    await pair.a.ended("r")
    await pair.b.manager.delete_session(ME, "s")
    for gate in (pair.a, pair.b):
        with pytest.raises(NotFound, match="deleted after"):
            await gate.chat(run_id="r", key="k")
    assert pair.a.agent.asked == ["r"]


async def test_a_refusal_is_of_the_head_that_the_store_has(pair: Pair) -> None:
    await create(pair.a)
    await say(pair.a, "0")
    await pair.b.chat(run_id="r")
    with pytest.raises(Refused):
        await pair.a.chat(run_id="r2", on_busy="reject")
    pair.b.agent.do("r", Complete())
    await pair.b.ended("r")
    await pair.a.chat(run_id="r3", on_busy="reject")
    await eventually(lambda: pair.a.agent.asked == ["r3"])


async def test_what_is_read_is_what_the_store_has_although_memory_has_less(pair: Pair) -> None:
    await create(pair.a)
    await say(pair.a, "0")
    pair.a.live()
    await say(pair.b, "1")
    detail = await pair.a.manager.get_session(ME, "s")
    assert detail.session["message_count"] == 2


async def test_an_idle_session_that_another_gateway_has_moved_leaves_memory(pair: Pair) -> None:
    await create(pair.a)
    await say(pair.b, "1")
    registry = pair.a.manager._registry
    look = pair.memory.database.look("s")
    assert not registry.moved("s", look)
    assert registry.get("s") is None
    assert not registry.moved("s", look)
    await say(pair.a, "2")
    look = pair.memory.database.look("s")
    assert registry.moved("s", look), "it is as the store has it"
    assert registry.get("s") is not None


async def test_a_session_that_is_used_and_moved_is_loaded_again(pair: Pair) -> None:
    await pair.a.chat(run_id="r")
    await say(pair.b, "1")
    registry = pair.a.manager._registry
    assert registry.moved("s", pair.memory.database.look("s"))
    await eventually(lambda: pair.a.live().head.seq == pair.memory.head("s").seq)
    assert pair.a.live().run is not None
    pair.a.agent.do("r", Complete())
    await pair.a.ended("r")
    assert pair.memory.conflicts["s"] == 0


async def test_a_look_during_an_own_commit_drops_nothing(pair: Pair) -> None:
    await create(pair.a)
    pair.a.store.hold_acks()
    async with anyio.create_task_group() as group:
        group.start_soon(say, pair.a, "0")
        await eventually(lambda: pair.a.store.held)
        assert pair.a.manager._registry.moved("s", pair.memory.database.look("s"))
        assert pair.a.live().is_ready
        pair.a.store.release_acks()


async def test_a_database_that_does_not_answer_confirms_nothing(
    pair: Pair, monkeypatch: pytest.MonkeyPatch
) -> None:
    await create(pair.a)

    async def fail(_ids: Any) -> Any:
        raise Unavailable("The database is away.")

    monkeypatch.setattr(pair.store(pair.a).shared, "look", fail)
    with pytest.raises(Unavailable), anyio.fail_after(DEADLINE_SECONDS):
        await say(pair.a, "0")


async def test_what_is_deleted_is_the_session_that_the_store_has_and_not_the_one_in_memory(
    pair: Pair,
) -> None:
    await create(pair.b)
    await say(pair.b, "old")
    await pair.a.manager.delete_session(ME, "s")
    await create(pair.a)
    await pair.b.manager.delete_session(ME, "s")
    assert await pair.b.log() == []


async def test_a_deletion_that_is_only_for_some_heads_looks_at_the_head_that_it_deletes(
    pair: Pair,
) -> None:
    await create(pair.a)
    seen: list[int] = []

    async def note(_session_id: str) -> None:
        if len(seen) == 1:
            await say(pair.b, "new")

    pair.a.manager._transactions.before_deletion = note

    def is_small(head: SessionHead) -> bool:
        seen.append(head.message_count)
        return head.message_count == 0

    deleted = await pair.a.manager._transactions.delete(ME, "s", is_small)
    assert deleted is None
    assert seen == [0, 1]
    assert await texts(pair.b) == ["new"]


async def test_posts_to_an_external_run_at_both_gateways_make_one_message(pair: Pair) -> None:
    await create(pair.a)
    await pair.a.manager.open_run(ME, "s", "x", None)
    expected = ""
    for number in range(6):
        text = f"{number} "
        expected += text
        event = {"type": "token", "run_id": "x", "content": text}
        await (pair.a, pair.b)[number % 2].manager.append_events(ME, "s", [event], None)
    end = {"type": "complete", "run_id": "x"}
    await pair.a.manager.append_events(ME, "s", [end], None)
    assert await texts(pair.b) == [expected]


async def test_the_log_that_a_post_has_read_is_that_of_its_head(pair: Pair) -> None:
    await create(pair.a)
    await pair.b.manager.open_run(ME, "s", "x", None)
    token = {"type": "token", "run_id": "x", "content": "b"}
    late = {"type": "token", "run_id": "x", "content": "a"}
    pair.a.store.hold("read")
    async with anyio.create_task_group() as group:
        group.start_soon(pair.a.manager.append_events, ME, "s", [late], None)
        # It has read the log to its end, and the answer is on its way.
        await eventually(lambda: pair.a.store.waiting.get("read"))
        pair.a.store.let_go("read")
        pair.a.store.hold("read")
        await eventually(lambda: pair.a.store.waiting.get("read"))
        await pair.b.manager.append_events(ME, "s", [token], None)
        pair.a.live().lost()
        pair.a.store.let_go("read")
    end = {"type": "complete", "run_id": "x"}
    await pair.a.manager.append_events(ME, "s", [end], None)
    assert await texts(pair.a) == ["ba"]


async def test_a_repeat_that_finds_the_run_ended_by_its_first_try_gets_the_first_answer(
    pair: Pair,
) -> None:
    await create(pair.a)
    await pair.a.manager.open_run(ME, "s", "x", None)
    end = {"type": "complete", "run_id": "x"}
    idem = Idempotency("k", "POST /events", "")
    answers: list[Any] = []

    async def repeat() -> None:
        answers.append(await pair.b.manager.append_events(ME, "s", [end], idem))

    pair.b.store.hold("read")
    async with anyio.create_task_group() as group:
        group.start_soon(repeat)
        await eventually(lambda: pair.b.store.waiting.get("read"))
        answers.append(await pair.a.manager.append_events(ME, "s", [end], idem))
        pair.b.live().lost()
        pair.b.store.let_go("read")
    assert answers[0].answer == answers[1].answer


async def test_activity_that_another_gateway_has_seen_counts_without_a_commit(pair: Pair) -> None:
    await create(pair.a)
    await say(pair.a, "0")
    later = pair.a.clock.now_ms() + 5000
    pair.b.store.touch("s", pair.memory.head("s").epoch, later)
    detail = await pair.a.manager.get_session(ME, "s")
    assert detail.session["last_activity_at"] == format_ms(later)


async def test_what_a_run_said_survives_a_refused_chat_behind_its_end() -> None:
    async with running(max_event_bytes=4096) as pair:
        await pair.a.chat(run_id="r")
        pair.a.store.hold_appends()
        pair.a.agent.do("r", Token("before "), ToolStart("c", "look", {}))
        pair.a.agent.do("r", ToolComplete("c", ToolResult(success=True, content="seen")))
        pair.a.agent.do("r", Token("behind"), Complete())
        await eventually(lambda: pair.a.live().head.active is None)
        with pytest.raises(TooLarge):
            await pair.a.chat(text="x" * 5000, run_id="next")
        await say(pair.b, "beside")
        pair.a.store.release_appends()
        await pair.a.ended("r")
        assert await texts(pair.b) == ["hi", "beside", "before ", "seen", "behind"]


async def test_what_is_on_its_way_when_a_run_fails_is_in_its_message(pair: Pair) -> None:
    await pair.a.chat(run_id="r")
    pair.a.store.hold_appends()
    pair.a.agent.do("r", Token("a"), Token("b"))
    await eventually(lambda: pair.a.store.held)
    pair.a.agent.do("r", Unavailable("A file cannot be read."))
    await eventually(lambda: pair.a.agent.script("r").finished.is_set())
    await quiet()
    pair.a.store.release_appends()
    await pair.a.ended("r")
    assert await texts(pair.b) == ["hi", "ab"]
