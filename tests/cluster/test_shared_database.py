"""Two stores of one PostgreSQL: neither undoes in the background what the other does."""

from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from hashlib import sha256
from typing import Any

import anyio
import pytest
from anyio import to_thread

from bamboo_gateway.domain.errors import Conflict, Unavailable
from bamboo_gateway.domain.search import fold
from bamboo_gateway.storage.files.base import PIECE_BYTES, ContentName
from bamboo_gateway.storage.reports import SearchQuery
from bamboo_gateway.storage.sql.postgresql.database import make_database
from bamboo_gateway.storage.sql.postgresql.store import PostgresStore
from tests.storage.writing import T0, StepClock, Writer, committed, message, token
from tests.support.postgres import execute

OWNER = "0" * 32


@asynccontextmanager
async def stores(url: str, count: int = 2) -> AsyncIterator[list[PostgresStore]]:
    async with AsyncExitStack() as stack:
        made = []
        for _ in range(count):
            store = PostgresStore(make_database(url, None), StepClock())
            await store.open()
            stack.push_async_callback(store.aclose)
            made.append(store)
        yield made


async def test_a_start_leaves_the_uploads_of_living_processes_alone(postgres_url: str) -> None:
    data = b"x" * (2 * PIECE_BYTES + 5)
    async with stores(postgres_url, 1) as [a], a.contents.writer() as writer:
        await writer.write(data)
        async with stores(postgres_url, 1) as [b]:
            await writer.finish()
            name = await writer.publish(OWNER)
            assert name == ContentName(OWNER, sha256(data).hexdigest())
            read = [piece async for piece in b.contents.read(name, 0, len(data))]
            assert b"".join(read) == data
            assert await b.contents.totals() == await b.contents.totals(OWNER) == (1, len(data))


async def test_an_upload_of_a_process_that_the_others_took_for_dead_is_refused(
    postgres_url: str,
) -> None:
    async with stores(postgres_url, 1) as [a], a.contents.writer() as writer:
        await writer.write(b"x" * PIECE_BYTES)
        await writer.finish()
        assert a.replicas is not None
        execute(postgres_url, f"DELETE FROM executors WHERE executor = '{a.replicas.executor}'")
        async with stores(postgres_url, 1):
            with pytest.raises(Unavailable, match="again"):
                await writer.publish(OWNER)
            assert execute(postgres_url, "SELECT count(*) FROM file_pieces") == [(0,)]


def taken_first(search: Any, then: Callable[[], None]) -> None:
    """Let something happen between what the index reads and what it writes, once."""
    write = search._write

    def later(made: Any) -> int:
        search._write = write
        then()
        return int(write(made))

    search._write = later


async def test_a_message_is_indexed_once_when_two_processes_do_it_at_once(
    postgres_url: str,
) -> None:
    """The one that comes second adds nothing, also of what was replaced since it was read."""
    async with stores(postgres_url) as [a, b]:
        for store in (a, b):
            # The threads would do it at moments of their own.
            await to_thread.run_sync(store._search.stop)
        writer = Writer("s1", T0)
        await committed(a, writer.commit(message("m1", "first word")))
        await committed(a, writer.commit(message("m2", "second word")))

        def by_the_other() -> None:
            b._search.index()
            # As a merge does that replaces the messages.
            execute(postgres_url, "DELETE FROM search_messages")

        taken_first(a._search, by_the_other)
        await to_thread.run_sync(a._search.index)
        assert (await a.search(SearchQuery((fold("word"),)))).hits == []
        await committed(b, writer.commit(message("m3", "third word")))

        async def index(store: PostgresStore) -> None:
            await to_thread.run_sync(store._search.index)

        async with anyio.create_task_group() as tasks:
            for store in (a, b):
                tasks.start_soon(index, store)
        assert [hit.seq for hit in (await a.search(SearchQuery((fold("third"),)))).hits] == [4]
        assert execute(postgres_url, "SELECT count(*) FROM unsearched") == [(0,)]


async def test_one_of_all_indexes_messages(postgres_url: str) -> None:
    async with stores(postgres_url) as [a, b]:
        assert [a._does_work_of_all(), b._does_work_of_all()].count(True) == 1


async def written(store: PostgresStore) -> Writer:
    """Write a session whose runs have ended, with many deltas."""
    writer = Writer("s1", T0)
    await committed(store, writer.commit(message("m1", "a question")))
    for number in range(60):
        await committed(store, writer.commit(token(f"word {number} " * 20)))
    await committed(store, writer.commit(message("m2", "the answer")))
    return writer


async def both(stores: list[PostgresStore], call: Callable[[PostgresStore], Any]) -> list[Any]:
    """Call both at once, and return the results or conflicts."""
    outcomes: list[Any] = []

    async def one(store: PostgresStore) -> None:
        try:
            outcomes.append(await call(store))
        except Conflict as error:
            outcomes.append(error)

    async with anyio.create_task_group() as tasks:
        for store in stores:
            tasks.start_soon(one, store)
    return outcomes


async def log_of(store: PostgresStore, epoch: int) -> list[tuple[int, str]]:
    records = await store.read("s1", epoch, 0, limit=1000, max_bytes=1 << 20)
    return [(one.seq, one.type) for one in records]


async def test_two_processes_that_compact_one_session_at_once_count_its_bytes_once(
    postgres_url: str,
) -> None:
    async with stores(postgres_url) as pair:
        writer = await written(pair[0])
        before = await pair[0].size("s1")
        freed = await both(
            pair, lambda store: store.compact("s1", writer.head.epoch, writer.head.seq)
        )
        counts = [one for one in freed if isinstance(one, int)]
        after = await pair[1].size("s1")
        assert before.stored_bytes - after.stored_bytes == sum(counts) > 0
        assert (await pair[1].usage()).stored_bytes == after.stored_bytes
        assert {kind for _, kind in await log_of(pair[1], writer.head.epoch)} == {
            "session_created",
            "message",
        }
        assert await pair[1].delta_bytes("s1") == 0
        assert execute(postgres_url, "SELECT count(*) FROM leftovers") == [(0,)]
        await committed(pair[1], writer.commit(message("m3", "more")))


async def test_two_processes_pack_and_unpack_one_session_at_once(postgres_url: str) -> None:
    async with stores(postgres_url) as pair:
        writer = await written(pair[0])
        whole = await log_of(pair[0], writer.head.epoch)
        for _ in range(3):
            await both(pair, lambda store: store.pack("s1", writer.head.epoch))
            assert await log_of(pair[1], writer.head.epoch) == whole
            await both(pair, lambda store: store.unpack("s1", writer.head.epoch))
            assert await log_of(pair[0], writer.head.epoch) == whole
        size = await pair[0].size("s1")
        assert (await pair[1].usage()).stored_bytes == size.stored_bytes
        assert execute(postgres_url, "SELECT count(*) FROM leftovers") == [(0,)]


async def test_two_processes_that_remove_the_same_events_remove_them_once(
    postgres_url: str,
) -> None:
    async with stores(postgres_url) as pair:
        writer = await written(pair[0])
        before = await pair[0].size("s1")
        await both(pair, lambda store: store.remove_events("s1", writer.head.epoch, [5, 6, 7]))
        seqs = {seq for seq, _ in await log_of(pair[0], writer.head.epoch)}
        assert not seqs & {5, 6, 7}
        after = await pair[0].size("s1")
        assert (await pair[1].usage()).stored_bytes == after.stored_bytes < before.stored_bytes
