"""Sessions that come with their whole history: all of it or nothing (R9), over every store."""

from typing import Any

import anyio
import pytest

from bamboo_gateway.domain import codec
from bamboo_gateway.domain.clock import format_ms
from bamboo_gateway.domain.errors import Conflict, Unavailable
from bamboo_gateway.domain.projections import fold
from bamboo_gateway.domain.sessions import SessionHead
from bamboo_gateway.storage.base import SessionStore
from bamboo_gateway.storage.commits import Event, Note
from bamboo_gateway.storage.reports import SessionQuery
from tests.contract.conftest import Reopen, both_paths
from tests.storage.writing import (
    NOBODY,
    T0,
    Writer,
    committed,
    complete,
    everything,
    message,
    note_of,
    run_start,
    seqs,
    token,
)


class History:
    """A session's events with their head, made page by page."""

    def __init__(self, session_id: str, epoch: int) -> None:
        self.head = SessionHead(session_id, epoch)
        self.bodies: list[bytes] = []

    def page(
        self, *events: dict[str, Any], note: str | None = None
    ) -> tuple[list[Event], list[Note]]:
        made = []
        for draft in events:
            event = {"type": draft["type"], "seq": self.head.seq + 1, "time": format_ms(T0)} | draft
            fold(self.head, event, T0)
            self.bodies.append(codec.encode(event))
            made.append(Event(self.head.seq, draft["type"], self.bodies[-1]))
        return made, [] if note is None else [note_of(self.head.seq, note)]


CREATED = {"type": "session_created", "user_id": "u", "title": "Fork"}


async def create(store: SessionStore, session_id: str, messages: int = 30) -> History:
    history = History(session_id, store.next_epoch())
    async with store.creation(session_id, history.head.epoch) as creation:
        await creation.write(*history.page(CREATED))
        for number in range(0, messages, 10):
            said = [message(f"m{n}") for n in range(number, min(number + 10, messages))]
            await creation.write(*history.page(*said))
        await creation.write(*history.page(run_start("run_1"), token("a"), complete("run_1")))
        await creation.write(*history.page(note="key"))
        await creation.publish(history.head)
    return history


async def test_a_published_session_is_whole_and_goes_on_like_any_other(
    store: SessionStore, second_path: Reopen
) -> None:
    """R1, R2, R9."""
    history = await create(store, "s-1")
    epoch = history.head.epoch
    async for seen in both_paths(store, second_path):
        assert await seen.load("s-1") == history.head
        assert [record.body for record in await everything(seen, "s-1")] == history.bodies
        [found] = await seen.find("s-1", epoch, "message", key="m17")
        assert found.seq == 19
        last = await seen.find("s-1", epoch, "message", reverse=True, limit=2)
        assert [codec.decode(record.body)["message"]["id"] for record in last] == ["m29", "m28"]
        assert len(await seen.find("s-1", epoch, "run", key="run_1")) == 2
        [note] = await seen.find("s-1", epoch, "note", key="key")
        assert note.seq == 34
        page = await seen.query(SessionQuery(user_id="u"), NOBODY)
        assert page.heads == [history.head]
    fresh = seen
    writer = Writer.of(history.head)
    await committed(fresh, writer.commit(message("after"), token()))
    assert await seqs(fresh, "s-1") == list(range(1, 37))
    [found] = await fresh.find("s-1", epoch, "message", key="after")
    assert found.seq == 35
    assert await fresh.delete("s-1", epoch) > 0
    assert await fresh.load("s-1") is None


async def test_what_is_appended_to_a_published_session_is_there_after_a_second_look(
    store: SessionStore, second_path: Reopen
) -> None:
    history = await create(store, "s-1")
    writer = Writer.of(history.head)
    await committed(store, writer.commit(message("after"), token()))
    async for seen in both_paths(store, second_path):
        assert await seqs(seen, "s-1") == list(range(1, 37))
        assert await seen.load("s-1") == writer.head


async def test_nothing_is_seen_of_a_creation_that_is_left(
    store: SessionStore, second_path: Reopen
) -> None:
    """R9."""
    history = History("s-1", store.next_epoch())

    async def leave() -> None:
        async with store.creation("s-1", history.head.epoch) as creation:
            await creation.write(*history.page(CREATED, message("m1")))
            assert await store.load("s-1") is None
            raise RuntimeError

    with pytest.raises(RuntimeError):
        await leave()
    async with store.creation("s-2", history.head.epoch):
        pass
    async for seen in both_paths(store, second_path):
        assert (await seen.usage()).sessions == 0
        assert await seen.load("s-1") is None
    await create(seen, "s-1")
    assert (await seen.usage()).sessions == 1


async def test_a_cancelled_creation_leaves_nothing(
    store: SessionStore, second_path: Reopen
) -> None:
    """R9."""
    history = History("s-1", store.next_epoch())
    with anyio.CancelScope() as scope:
        async with store.creation("s-1", history.head.epoch) as creation:
            await creation.write(*history.page(CREATED, message("m1")))
            scope.cancel()
            await creation.write(*history.page(message("m2")))
            await creation.publish(history.head)
    fresh = await second_path(store)
    assert (await fresh.usage()).sessions == 0


async def test_publishing_what_exists_is_refused_with_its_head(
    store: SessionStore, second_path: Reopen
) -> None:
    """R8."""
    history = History("s-1", store.next_epoch())
    creation = store.creation("s-1", history.head.epoch)
    async with creation:
        await creation.write(*history.page(CREATED, message("late")))
        writer = Writer("s-1", store.next_epoch())
        await committed(store, writer.commit(message("first")))
        with pytest.raises(Conflict) as caught:
            await creation.publish(history.head)
        assert caught.value.head == 2
    async for seen in both_paths(store, second_path):
        assert await seen.load("s-1") == writer.head
        assert b"first" in (await everything(seen, "s-1"))[1].body


async def test_a_deleted_session_may_be_created_again_with_a_history(
    store: SessionStore, second_path: Reopen
) -> None:
    """R3."""
    old = await create(store, "s-1", messages=5)
    await store.delete("s-1", old.head.epoch)
    new = await create(store, "s-1", messages=12)
    assert new.head.epoch > old.head.epoch
    async for seen in both_paths(store, second_path):
        assert await seen.load("s-1") == new.head
        assert [record.body for record in await everything(seen, "s-1")] == new.bodies


async def test_creations_of_many_sessions_go_on_at_once_beside_commits(
    store: SessionStore, second_path: Reopen
) -> None:
    """R7."""
    writer = Writer("chat", store.next_epoch())
    await committed(store, writer.commit())
    async with anyio.create_task_group() as tasks:
        for number in range(8):
            tasks.start_soon(create, store, f"s-{number}")
        for _ in range(20):
            await committed(store, writer.commit(token()))
    async for seen in both_paths(store, second_path):
        assert (await seen.usage()).sessions == 9
        assert len(await seqs(seen, "chat")) == 21
        for number in range(8):
            assert len(await seqs(seen, f"s-{number}")) == 34


async def test_a_closed_store_publishes_nothing(store: SessionStore) -> None:
    history = History("s-1", store.next_epoch())
    async with store.creation("s-1", history.head.epoch) as creation:
        await creation.write(*history.page(CREATED))
        await store.aclose()
        with pytest.raises(Unavailable):
            await creation.publish(history.head)
