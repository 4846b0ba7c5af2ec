"""The search index of files: whatever happens to it, searches find what the logs have."""

import asyncio
import random
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from bamboo_gateway.domain.errors import StorageFailed
from bamboo_gateway.domain.search import fold
from bamboo_gateway.storage.base import SessionStore
from bamboo_gateway.storage.jsonl.store import JsonlStore
from bamboo_gateway.storage.memory import MemoryStore
from bamboo_gateway.storage.reports import SearchQuery, SessionQuery
from tests.storage.conftest import Opener
from tests.storage.faults import abandon
from tests.storage.test_erasing import files_with
from tests.storage.writing import NOBODY, StepClock, Writer, committed, complete, message, token

TERMS = ["apple", "a", "Straße", "京都", "no such", "%", "pear tree"]
TEXTS = ["an apple", "STRASSE nach 京都", "pear tree", "100 %", "", "banana", "zebra"]


def asking(*terms: str, **filters: Any) -> SearchQuery:
    return SearchQuery(tuple(fold(term) for term in terms), **filters)


async def found(store: SessionStore, query: SearchQuery) -> list[tuple[str, int, int, bytes]]:
    """Return what all pages of a search have."""
    hits: list[tuple[str, int, int, bytes]] = []
    while True:
        page = await store.search(query)
        hits += [(hit.session_id, hit.epoch, hit.seq, hit.body) for hit in page.hits]
        if not page.has_more:
            return hits
        query = replace(query, cursor=page.next_cursor)


async def whole(store: JsonlStore) -> None:
    """Wait until no session is left that the start found behind."""
    for _ in range(1000):
        await store._search_index.caught_up()
        if not store._search_index.backlog and not store._search_index._waiting:
            return
        await asyncio.sleep(0)
    raise AssertionError("the index never got whole")


async def check_same(store: SessionStore, reference: SessionStore) -> None:
    for term in TERMS:
        for filters in ({}, {"user_id": "ann"}, {"archived": "include"}, {"session_id": "s-1"}):
            query = asking(term, limit=3, **filters)
            assert await found(store, query) == await found(reference, query), (term, filters)
        listed = SessionQuery(terms=(fold(term),), archived="include", sort_by="title")
        page, expected = await store.query(listed, NOBODY), await reference.query(listed, NOBODY)
        assert [head.id for head in page.heads] == [head.id for head in expected.heads]
        assert page.total == expected.total


def created(number: int) -> dict[str, Any]:
    user_id = ["ann", "bob", None][number % 3]
    return {"type": "session_created", "user_id": user_id, "title": f"t{number}"}


async def filled(store: SessionStore, count: int = 6) -> dict[str, Writer]:
    epoch = store.next_epoch()
    writers = {f"s-{number}": Writer(f"s-{number}", epoch) for number in range(count)}
    for number, writer in enumerate(writers.values()):
        await committed(store, writer.commit(created(number), message("m0", TEXTS[number])))
    return writers


async def test_a_message_is_found_as_soon_as_it_is_acknowledged(opener: Opener) -> None:
    store = await opener()
    writer = Writer("one", store.next_epoch())
    await committed(store, writer.commit(message("m1", "an apple")))
    assert [hit[2] for hit in await found(store, asking("apple"))] == [2]
    await committed(store, writer.commit(token("not searched: apple")))
    await committed(store, writer.commit(message("m2", "apple pie"), complete("r")))
    assert [hit[2] for hit in await found(store, asking("APPLE"))] == [4, 2]


async def test_a_deleted_session_is_not_found_and_its_successor_is(opener: Opener) -> None:
    store = await opener()
    writers = await filled(store)
    gone = writers["s-0"]
    assert await found(store, asking("apple"))
    await store.delete("s-0", gone.head.epoch)
    assert await found(store, asking("apple")) == []
    again = Writer("s-0", store.next_epoch())
    await committed(store, again.commit(message("m1", "apple again")))
    assert [hit[1] for hit in await found(store, asking("apple"))] == [again.head.epoch]


async def test_a_deleted_session_is_erased_with_the_next_checkpoint(
    opener: Opener, data_dir: Path
) -> None:
    store = await opener()
    await filled(store)
    writer = Writer("gone", store.next_epoch())
    # As it is stored: one word, since the spaces are written otherwise.
    await committed(store, writer.commit(message("m1", "zzsecret" * 9), message("m2", "zzsecret")))
    assert len(await found(store, asking("zzsecret"))) == 2
    assert "index/search.sqlite-wal" in files_with(data_dir, b"zzsecret")
    await store.delete("gone", writer.head.epoch)
    assert await store.checkpoint()
    assert files_with(data_dir, b"zzsecret") == []


async def test_an_erased_user_leaves_no_trigram(opener: Opener, data_dir: Path) -> None:
    store = await opener()
    writers = await filled(store)
    gone = Writer("gone", store.next_epoch())
    await committed(store, gone.commit(message("m1", "apple qxj")))
    assert len(await found(store, asking("qxj"))) == 1
    assert files_with(data_dir, b"qxj")
    await store.delete("gone", gone.head.epoch)
    assert all(part.gone == "now" for part in await store.vacuum())
    assert files_with(data_dir, b"qxj") == []
    hits = await found(store, asking("apple"))
    assert [hit[:2] for hit in hits] == [("s-0", writers["s-0"].head.epoch)]


async def test_a_session_that_cannot_be_read_holds_up_no_other(
    opener: Opener, monkeypatch: pytest.MonkeyPatch
) -> None:
    """R10."""
    from bamboo_gateway.storage.jsonl.index.search_database import Job, SearchDatabase

    write = SearchDatabase._write

    def writing(self: SearchDatabase, job: Job, *rest: Any) -> tuple[int, bool]:
        if job.session_id == "s-0":
            raise KeyError("unforeseen")
        return write(self, job, *rest)

    monkeypatch.setattr(SearchDatabase, "_write", writing)
    store = await opener()
    await filled(store)
    assert await found(store, asking("apple")) == []
    assert [hit[0] for hit in await found(store, asking("pear"))] == ["s-2"]
    stats = await store.stats()
    assert (stats["search_skipped_total"], stats["search_working"]) == (1, 1)


async def test_an_error_of_the_database_is_shown_and_tried_again(
    opener: Opener, monkeypatch: pytest.MonkeyPatch
) -> None:
    import apsw

    from bamboo_gateway.storage.jsonl.index.search_database import SearchDatabase

    def failing(*_: Any) -> list[str]:
        raise apsw.FullError("as told")

    store = await opener()
    with monkeypatch.context() as patch:
        patch.setattr(SearchDatabase, "write", failing)
        await filled(store)
        assert await found(store, asking("apple")) == []
        stats = await store.stats()
        assert stats["search_working"] == 0
        assert stats["search_failures_total"] > 0
    assert await found(store, asking("apple"))
    assert (await store.stats())["search_working"] == 1


def remove(path: Path) -> None:
    path.unlink()


def tear(path: Path) -> None:
    data = path.read_bytes()
    path.write_bytes(data[: len(data) // 2 + 7])


def overwrite(path: Path) -> None:
    data = path.read_bytes()
    path.write_bytes(data[:4096] + b"\xff" * (len(data) - 4096))


def empty(path: Path) -> None:
    path.write_bytes(b"")


def no_database(path: Path) -> None:
    path.write_bytes(b"{}\n" * 4000)


def of_another_version(path: Path) -> None:
    import apsw

    connection = apsw.Connection(str(path))
    connection.pragma("user_version", 999)
    connection.close()


def without_a_table(path: Path) -> None:
    import apsw

    connection = apsw.Connection(str(path))
    connection.execute("DROP TABLE sessions")
    connection.close()


@pytest.mark.parametrize(
    "damage",
    [remove, tear, overwrite, empty, no_database, of_another_version, without_a_table],
)
async def test_an_index_that_cannot_be_used_is_made_again(
    opener: Opener, data_dir: Path, damage: Callable[[Path], None]
) -> None:
    reference = MemoryStore(StepClock())
    await reference.open()
    store = await opener()
    await filled(store)
    await filled(reference)
    await check_same(store, reference)
    await store.aclose()
    damage(data_dir / "index" / "search.sqlite")
    fresh = await opener()
    with suppress(StorageFailed):  # the first who meets the damage is told
        await fresh.search(asking("apple"))
    await whole(fresh)
    await check_same(fresh, reference)


async def test_an_index_older_than_the_logs_is_brought_up_to_date(
    opener: Opener, data_dir: Path
) -> None:
    reference = MemoryStore(StepClock())
    await reference.open()
    store = await opener()
    database = data_dir / "index" / "search.sqlite"
    both = [await filled(store), await filled(reference)]
    await check_same(store, reference)
    await store.aclose()
    old = database.read_bytes()
    store = await opener()
    for target, writers in zip((store, reference), both, strict=True):
        await committed(target, writers["s-2"].commit(message("m9", "one more apple")))
        await target.delete("s-0", writers["s-0"].head.epoch)
        moved = {"type": "session_updated", "user_id": "bob"}
        await committed(target, writers["s-3"].commit(moved))
        await committed(target, Writer("s-9", writers["s-1"].head.epoch).commit(message("m", "a")))
    await store.aclose()
    database.write_bytes(old)
    fresh = await opener()
    await whole(fresh)
    await check_same(fresh, reference)


class Beside:
    """A store of files, and one in memory that gets the same."""

    def __init__(self, opener: Opener, choice: random.Random, *, index_enabled: bool) -> None:
        self._open = lambda: opener(index_enabled=index_enabled)
        self._choice = choice
        self.reference = MemoryStore(StepClock())
        self.writers: dict[str, tuple[Writer, Writer]] = {}

    async def open(self) -> None:
        await self.reference.open()
        self.store = await self._open()

    async def step(self) -> None:
        """Do something to one session, or to the store."""
        name = f"s-{self._choice.randrange(6)}"
        if name not in self.writers:
            await self._create(name)
        match self._choice.randrange(12):
            case 0:
                await self._archive(name)
            case 1:
                await self._delete(name)
            case 2:
                await self.store.aclose()
                self.store = await self._open()
            case 3:
                await abandon(self.store)
                self.store = await self._open()
            case 4:
                assert await self.store.checkpoint()
            case _:
                await self._say(name)

    async def _commit(self, name: str, *drafts: dict[str, Any]) -> None:
        for store, writer in zip((self.store, self.reference), self.writers[name], strict=True):
            await committed(store, writer.commit(*drafts))

    async def _create(self, name: str) -> None:
        epoch = self.store.next_epoch()
        self.writers[name] = Writer(name, epoch), Writer(name, epoch)
        await self._commit(name, created(self._choice.randrange(3)))

    async def _say(self, name: str) -> None:
        head = self.writers[name][0].head
        if head.logged_state == "archived":
            return
        said = message(f"m{head.seq}", self._choice.choice(TEXTS))
        await self._commit(name, *self._choice.choice([[said], [token(), said]]))

    async def _archive(self, name: str) -> None:
        head = self.writers[name][0].head
        if head.logged_state != "archived":
            await self._commit(name, {"type": "state_change", "from": "idle", "to": "archived"})
            for store in (self.store, self.reference):
                await store.pack(name, head.epoch)

    async def _delete(self, name: str) -> None:
        head = self.writers.pop(name)[0].head
        for store in (self.store, self.reference):
            await store.delete(name, head.epoch)


@pytest.mark.parametrize("index_enabled", [True, False])
@pytest.mark.parametrize("seed", range(6))
async def test_searches_over_files_find_what_a_search_of_all_messages_does(
    opener: Opener, seed: int, index_enabled: bool
) -> None:
    beside = Beside(opener, random.Random(seed), index_enabled=index_enabled)
    await beside.open()
    for _ in range(10):
        for _ in range(6):
            await beside.step()
        await whole(beside.store)
        await check_same(beside.store, beside.reference)
