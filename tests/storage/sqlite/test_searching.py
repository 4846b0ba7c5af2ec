"""Messages of a SQLite store are found, as long as they are part of a conversation."""

from collections.abc import Callable
from pathlib import Path
from threading import Event

import pytest
from sqlalchemy import update

from bamboo_gateway.domain.errors import StorageFailed
from bamboo_gateway.domain.sessions import Presence
from bamboo_gateway.storage.reports import SearchQuery, SessionQuery
from bamboo_gateway.storage.sql.store import SqlStore
from bamboo_gateway.storage.sql.tables import archives
from tests.storage.sqlite.support import doctor, make, opened
from tests.storage.writing import T0, Writer, committed, entries_of, message, token
from tests.support.waiting import until_true


async def found(store: SqlStore, *terms: str, user_id: str | None = None) -> list[tuple[str, int]]:
    store._search.index()
    page = await store.search(SearchQuery(terms, user_id=user_id, archived="include"))
    return sorted((hit.session_id, hit.seq) for hit in page.hits)


def bytes_in(directory: Path) -> bytes:
    return b"".join(file.read_bytes() for file in directory.iterdir())


async def test_messages_are_found_wherever_they_came_from(tmp_path: Path) -> None:
    async with opened(tmp_path / "s.db") as store:
        one, two = Writer("one", store.next_epoch()), Writer("two", store.next_epoch())
        await committed(store, one.commit(message("m1", "The Straße"), token("strasse")))
        commit = two.commit(*(message(f"m{number}", "京都の strasse") for number in range(3)))
        async with store.creation("two", two.head.epoch) as creation:
            await creation.write(*entries_of(commit))
            assert await found(store, "strasse") == [("one", 2)]
            await creation.publish(two.head)
        late = two.commit(message("late", "STRASSE 京都"))
        async with store.extension("two", two.head.epoch, 4) as extension:
            await extension.write(*entries_of(late))
            await extension.publish(two.head)
        assert await found(store, "strasse") == [("one", 2), *(("two", n) for n in (2, 3, 4, 5))]
        assert await found(store, "京") == [("two", n) for n in (2, 3, 4, 5)]
        await store.pack("two", two.head.epoch)
        assert len(await found(store, "strasse", user_id="u")) == 5
        assert await found(store, "strasse", user_id="nobody") == []
        query = SessionQuery(terms=("京都",), archived="include")
        listed = await store.query(query, Presence(T0))
        assert [head.id for head in listed.heads] == ["two"]
    assert doctor(tmp_path / "s.db") == []


async def test_what_was_not_indexed_before_a_crash_is_indexed_after_it(tmp_path: Path) -> None:
    from tests.storage.sqlite.vfs import image_of

    async with opened(tmp_path / "one" / "s.db") as store:
        writer = Writer("a", store.next_epoch())
        await committed(store, writer.commit(message("m", "needle")))
        image = image_of(tmp_path / "one" / "s.db", tmp_path / "image")
    async with opened(image) as again:
        assert await found(again, "needle") == [("a", 2)]


async def test_a_deleted_session_is_not_found_and_its_text_is_in_no_file(tmp_path: Path) -> None:
    path = tmp_path / "s.db"
    store = make(path)
    await store.open()
    writer = Writer("a", store.next_epoch())
    await committed(store, writer.commit(message("m", "unmistakable-needle"), note="k"))
    kept = Writer("b", store.next_epoch())
    await committed(store, kept.commit(message("m", "another needle")))
    assert await found(store, "needle") == [("a", 2), ("b", 2)]
    await store.delete("a", writer.head.epoch)
    page = await store.search(SearchQuery(("needle",)))
    assert [hit.session_id for hit in page.hits] == ["b"]
    store._database.on_interval()
    files = bytes_in(tmp_path)
    assert b"unmistakable" not in files
    assert b"another needle" in files
    await store.aclose()


async def test_an_erased_user_leaves_no_trigram(tmp_path: Path) -> None:
    path = tmp_path / "s.db"
    async with opened(path) as store:
        writers = [Writer(name, store.next_epoch()) for name in ("a", "b", "c")]
        for writer, text in zip(writers, ("pear", "apple qxj", "plum"), strict=True):
            await committed(store, writer.commit(message("m", text)))
            assert await found(store, text.split()[-1])
        assert b"qxj" in bytes_in(tmp_path)
        await store.delete("b", writers[1].head.epoch)
        await store.vacuum()
        assert b"qxj" not in bytes_in(tmp_path)
        assert await found(store, "pl") == [("c", 2)]
        # There is nothing left to do.
        await store.vacuum()


@pytest.mark.parametrize("error", [StorageFailed("as told"), ValueError("unforeseen")])
async def test_indexing_goes_on_after_an_error(tmp_path: Path, error: Exception) -> None:
    store = make(tmp_path / "s.db", interval=0.01)
    index, is_broken = store._search.index, Event()
    is_broken.set()

    def breaking(is_over: Callable[[], bool]) -> None:
        if is_broken.is_set():
            raise error
        index(is_over)

    store._search.index = breaking  # type: ignore[method-assign, assignment]
    await store.open()
    try:
        writer = Writer("a", store.next_epoch())
        await committed(store, writer.commit(message("m", "needle")))

        async def has_failed() -> bool:
            stats = await store.stats()
            return stats["search_failures_total"] > 1 and not stats["search_working"]

        async def is_found() -> bool:
            page = await store.search(SearchQuery(("needle",)))
            return bool(page.hits) and (await store.stats())["search_working"] == 1

        await until_true(has_failed)
        is_broken.clear()
        await until_true(is_found)
    finally:
        await store.aclose()


async def test_a_damaged_archive_keeps_no_other_message_out_of_the_index(tmp_path: Path) -> None:
    async with opened(tmp_path / "s.db") as store:
        bad, good = Writer("bad", store.next_epoch()), Writer("good", store.next_epoch())
        await committed(store, bad.commit(message("m", "needle")))
        await store.pack("bad", bad.head.epoch)
        await committed(store, good.commit(message("m", "needle")))
        with store._database.writing() as connection:
            connection.run(update(archives).values(body=b"junk"))
        with pytest.raises(StorageFailed):
            store._search.index()
        page = await store.search(SearchQuery(("needle",)))
        assert [hit.session_id for hit in page.hits] == ["good"]
