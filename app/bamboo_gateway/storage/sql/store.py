"""`SqlStore`: sessions in a SQL database. The package's docstring describes how its parts work."""

import asyncio
from collections.abc import Callable, Collection, Sequence
from contextlib import suppress
from typing import Any, TypeVar

import anyio
from typing_extensions import override

from bamboo_gateway.domain.clock import Clock
from bamboo_gateway.domain.errors import BambooError, Unavailable
from bamboo_gateway.domain.limits import PAGE_BYTES_MAX
from bamboo_gateway.domain.sessions import Presence, SessionHead
from bamboo_gateway.storage.base import Done, SessionCreation, SessionStore
from bamboo_gateway.storage.commits import Commit, Found, MarkKind, Record
from bamboo_gateway.storage.files.base import ContentStore
from bamboo_gateway.storage.migration.unfinished import check_target
from bamboo_gateway.storage.reports import (
    ChangePage,
    Erased,
    Expiry,
    RecoveryReport,
    SearchPage,
    SearchQuery,
    SessionPage,
    SessionQuery,
    StoreCheck,
    StoredSize,
    StoreUsage,
    ValueChange,
)
from bamboo_gateway.storage.searching import with_bodies
from bamboo_gateway.storage.sql.bulk import BulkWrite
from bamboo_gateway.storage.sql.change_feed import ChangeFeed
from bamboo_gateway.storage.sql.changes import Changes
from bamboo_gateway.storage.sql.checks import store_checks
from bamboo_gateway.storage.sql.database import Database
from bamboo_gateway.storage.sql.expiries import expiries
from bamboo_gateway.storage.sql.migration_mark import MigrationMark
from bamboo_gateway.storage.sql.reads import NO_END, Reads, Search
from bamboo_gateway.storage.sql.search_index import SearchIndex
from bamboo_gateway.storage.sql.touches import Touches
from bamboo_gateway.storage.sql.values import Values
from bamboo_gateway.storage.sql.writer import Writer
from bamboo_gateway.storage.threads import Threads
from bamboo_gateway.storage.values import ValueWriter

# Reads are short, and each may hold a page of some MiB in memory.
_READ_THREADS = 8
# Compression uses a core for a while; the second thread is for short work beside it (R7).
_BULK_THREADS = 2

# How long a store that closes waits for a database that does not answer.
_CLOSING_SECONDS = 10

T = TypeVar("T")


class SqlStore(SessionStore):
    """The store of `sqlite:` and `postgresql:`: what is the same for both."""

    def __init__(
        self, database: Database, clock: Clock, *, checkpoint_interval_seconds: float = 5
    ) -> None:
        self._database = database
        self._clock = clock
        self._touches = Touches(database)
        self._reads = Reads(database)
        self._feed = ChangeFeed(database)
        self._changes = Changes(database, clock, self._feed)
        self._search = SearchIndex(
            database, self._reads, checkpoint_interval_seconds, self._does_work_of_all
        )
        self._writer = Writer(database, clock, self._on_interval, checkpoint_interval_seconds)
        self._read_threads = Threads(_READ_THREADS)
        self._bulk_threads = Threads(_BULK_THREADS)
        self._contents = database.make_contents()
        # One thread keeps the order of the calls.
        self._value_threads = Threads(1)
        self._values = Values(database)
        self._value_writer = ValueWriter(self._value_threads.run, self._values.write)
        self._last_epoch = 0
        self._when_renewed: Callable[[], None] | None = None
        self._is_open = False
        self._mark = MigrationMark(database)
        # What is being copied into this store, if anything is.
        self._origin: str | None = None

    @override
    async def open(self) -> RecoveryReport:
        started = self._clock.monotonic()
        try:
            opened = await self._bulk_threads.run(self._database.open)
            await self._bulk_threads.run(lambda: self._check_mark(opened.sessions))
            await self._bulk_threads.run(self._changes.remove_leftovers)
            await self._bulk_threads.run(self._contents.open)
        except BaseException:
            with anyio.CancelScope(shield=True):
                await anyio.to_thread.run_sync(self._database.close)
            raise
        self._last_epoch = max(self._last_epoch, opened.last_epoch)
        loop = asyncio.get_running_loop()
        self._database.when_renewed(lambda: loop.call_soon_threadsafe(self._tell_renewed))
        self._writer.start(loop)
        self._search.start()
        self._is_open = True
        seconds = self._clock.monotonic() - started
        return RecoveryReport(
            sessions=opened.sessions,
            clean=opened.is_clean,
            new_epochs=opened.new_epochs,
            seconds=seconds,
        )

    def _check_mark(self, sessions: int) -> None:
        if self._origin is None:
            self._mark.check_absent()
        else:
            self._mark.set(self._origin, sessions)

    async def check_vacant(self, origin: str) -> None:
        """Refuse a database with sessions, as `SupportsMigration` describes."""
        found = await anyio.to_thread.run_sync(self._database.look)
        if found is not None:
            check_target(f"The {self._database.name} database", origin, *found)

    async def begin_migration(self, origin: str) -> RecoveryReport:
        """Open the database to be filled, as `SupportsMigration` describes."""
        self._origin = origin
        self._database.is_filled = True
        return await self.open()

    async def end_migration(self, last_epoch: int) -> None:
        """Make the database one like others, as `SupportsMigration` describes."""
        self._last_epoch = max(self._last_epoch, last_epoch)
        await self._bulk_threads.run(lambda: self._mark.remove(last_epoch))
        self._database.is_filled = False

    @override
    async def aclose(self) -> None:
        if not self._is_open:
            return
        self._is_open = False
        with anyio.CancelScope(shield=True):
            with anyio.move_on_after(_CLOSING_SECONDS):
                await self._writer.drained()
            self._database.stop_waiting()
            await self._writer.drained()
            await anyio.to_thread.run_sync(self._search.stop)
            await self._contents.aclose()
            await self._value_threads.aclose()
            await self._bulk_threads.aclose()
            await self._read_threads.aclose()
            await anyio.to_thread.run_sync(self._writer.stop)
            await anyio.to_thread.run_sync(self._database.close)

    def _does_work_of_all(self) -> bool:
        replicas = self.replicas
        return replicas is None or replicas.is_leader

    def _on_interval(self) -> None:
        # What could not be written is kept, and tried again at the next interval.
        with suppress(BambooError):
            self._touches.write()
        self._database.on_interval()

    @override
    def next_epoch(self) -> int:
        self._last_epoch = max(self._clock.now_ms(), self._last_epoch + 1)
        return self._last_epoch

    @override
    async def take_epoch(self) -> int:
        taken = await self._read_threads.run(self._database.take_epoch)
        if taken is None:
            return self.next_epoch()
        self._last_epoch = max(self._last_epoch, taken)
        return taken

    @override
    def when_renewed(self, call: Callable[[], None]) -> None:
        self._when_renewed = call

    def _tell_renewed(self) -> None:
        if self._when_renewed is not None:
            self._when_renewed()

    @override
    def append(self, commit: Commit, done: Done) -> None:
        if self._is_open:
            self._writer.append(commit, done)
        else:
            closed = Unavailable("The store is closed.")
            asyncio.get_running_loop().call_soon(done, closed)

    @override
    def creation(self, session_id: str, epoch: int) -> SessionCreation:
        return self._bulk_write(session_id, epoch, None)

    @override
    def extension(self, session_id: str, epoch: int, after: int) -> SessionCreation:
        return self._bulk_write(session_id, epoch, after)

    def _bulk_write(self, session_id: str, epoch: int, after: int | None) -> SessionCreation:
        database, run = self._database, self._bulk_threads.run
        return BulkWrite(database, self._clock, run, self._drained, session_id, epoch, after)

    async def _drained(self) -> None:
        if not self._is_open:
            raise Unavailable("The store is closed.")
        await self._writer.drained()

    @property
    @override
    def contents(self) -> ContentStore:
        return self._contents

    @override
    async def load(self, session_id: str) -> SessionHead | None:
        head = await self._read(session_id, lambda: self._reads.load(session_id))
        return None if head is None else self._touches.apply(head)

    @override
    async def delete(self, session_id: str, epoch: int, version: int | None = None) -> int:
        return await self._change(lambda: self._changes.delete(session_id, epoch, version))

    @override
    async def is_spent(self, session_id: str, key: str) -> bool:
        if not self._database.has_replicas:
            return False
        return await self._read_threads.run(lambda: self._database.is_spent(session_id, key))

    @override
    async def read(
        self, session_id: str, epoch: int, after: int, *, limit: int, max_bytes: int
    ) -> list[Record]:
        return await self._read(
            session_id, lambda: self._reads.read(session_id, epoch, after, limit, max_bytes)
        )

    @override
    async def find(
        self,
        session_id: str,
        epoch: int,
        kind: MarkKind,
        *,
        key: str | None = None,
        after: int = 0,
        before: int | None = None,
        limit: int = 1000,
        max_bytes: int = PAGE_BYTES_MAX,
        reverse: bool = False,
    ) -> Found:
        end = NO_END if before is None else before
        search = Search(kind, key, after, end, limit, max_bytes, reverse)
        return await self._read(session_id, lambda: self._reads.find(session_id, epoch, search))

    @override
    async def count_marks(
        self,
        session_id: str,
        epoch: int,
        kind: MarkKind,
        *,
        after: int = 0,
        before: int | None = None,
    ) -> int:
        search = Search(kind, None, after, NO_END if before is None else before)
        return await self._read(
            session_id, lambda: self._reads.count_marks(session_id, epoch, search)
        )

    @override
    async def keys_in_use(
        self, session_id: str, epoch: int, kind: MarkKind, keys: Collection[str]
    ) -> set[str]:
        return await self._read(
            session_id, lambda: self._reads.keys_in_use(session_id, epoch, kind, keys)
        )

    @override
    async def pack(self, session_id: str, epoch: int) -> None:
        await self._change(lambda: self._changes.pack(session_id, epoch))

    @override
    async def unpack(self, session_id: str, epoch: int) -> None:
        await self._change(lambda: self._changes.unpack(session_id, epoch))

    @override
    async def compact(self, session_id: str, epoch: int, upto: int) -> int:
        return await self._change(lambda: self._changes.compact(session_id, epoch, upto))

    async def remove_events(self, session_id: str, epoch: int, seqs: Collection[int]) -> None:
        """Remove events as `SupportsErasure` describes."""
        await self._change(lambda: self._changes.remove_events(session_id, epoch, seqs))

    async def vacuum(self) -> list[Erased]:
        """Clean the database's files as `SupportsErasure` describes."""
        await self._change(self._feed.forget_all)
        return await self._change(self._database.vacuum)

    @override
    async def delta_bytes(self, session_id: str) -> int:
        return await self._read(session_id, lambda: self._reads.delta_bytes(session_id))

    @override
    async def holding_deltas(self, bytes_min: int) -> dict[str, int]:
        return await self._read_threads.run(lambda: self._reads.holding_deltas(bytes_min))

    @override
    async def unpacked_archives(self) -> list[str]:
        return await self._read_threads.run(self._reads.unpacked_archives)

    @override
    async def size(self, session_id: str) -> StoredSize:
        return await self._read(session_id, lambda: self._reads.size(session_id))

    @override
    async def sizes(self, session_ids: Collection[str]) -> dict[str, StoredSize]:
        found = await self._read_threads.run(lambda: self._reads.sizes(session_ids))
        await self._writer.settled(session_ids)
        return found

    @override
    async def query(self, query: SessionQuery, presence: Presence) -> SessionPage:
        def listed() -> SessionPage:
            self._touches.write()
            return self._reads.query(query, presence)

        page = await self._read_threads.run(listed)
        await self._writer.settled([head.id for head in page.heads])
        return page

    @override
    async def search(self, query: SearchQuery) -> SearchPage:
        found = await self._read_threads.run(lambda: self._search.search(query))
        return await with_bodies(found, self)

    @override
    async def changes(self, feed: str, after: int, limit: int) -> ChangePage:
        page = await self._read_threads.run(lambda: self._feed.changes(feed, after, limit))
        await self._writer.settled([change.session_id for change in page.changes])
        for change in page.changes:
            if change.head is not None:
                self._touches.apply(change.head)
        return page

    @override
    async def last_change(self) -> tuple[str, int]:
        return await self._read_threads.run(self._feed.last_change)

    @override
    async def expiries(self, after: tuple[int, str], until: int, limit: int) -> list[Expiry]:
        def found() -> list[Expiry]:
            self._touches.write()
            return expiries(self._database, after, until, limit)

        page = await self._read_threads.run(found)
        await self._writer.settled([one.session_id for one in page])
        return page

    @override
    async def write_values(self, changes: Sequence[ValueChange]) -> None:
        if not self._is_open:
            raise Unavailable("The store is closed.")
        await self._value_writer.write(changes)

    @override
    async def value(self, kind: str, key: str) -> bytes | None:
        return await self._read_threads.run(lambda: self._values.value(kind, key))

    @override
    async def values(
        self, kind: str, *, prefix: str = "", after: str = "", limit: int = 1000
    ) -> list[tuple[str, bytes]]:
        return await self._read_threads.run(
            lambda: self._values.values(kind, prefix=prefix, after=after, limit=limit)
        )

    @override
    async def value_kinds(self) -> list[str]:
        return await self._read_threads.run(self._values.kinds)

    @override
    async def usage(self, user_id: str | None = None) -> StoreUsage:
        return await self._read_threads.run(lambda: self._reads.usage(user_id))

    @override
    def touch(self, session_id: str, epoch: int, activity_ms: int) -> None:
        self._touches.add(session_id, epoch, activity_ms)

    @override
    async def unfinished(self) -> list[str]:
        return await self._read_threads.run(self._reads.unfinished)

    @override
    async def release(self, session_id: str) -> None:
        return None

    @property
    @override
    def is_writing(self) -> bool:
        return self._is_open and self._writer.is_alive

    @property
    @override
    def refusal(self) -> Unavailable | None:
        return self._database.refusal

    async def check(self, sessions_max: int, bytes_max: int) -> list[StoreCheck]:
        """Check the database and some sessions, as `SupportsChecks` describes."""
        database, clock = self._database, self._clock
        return await self._bulk_threads.run(
            lambda: store_checks(database, clock, sessions_max, bytes_max)
        )

    def unwritable(self) -> dict[str, str]:
        """Return nothing: all sessions are in one database (`SupportsChecks`)."""
        return {}

    @override
    async def stats(self) -> dict[str, Any]:
        return await self._read_threads.run(self._stats)

    def _stats(self) -> dict[str, Any]:
        writer = self._writer
        return {
            **self._levels(),
            "commits_total": writer.commits,
            "events_total": writer.events,
            "batches_total": writer.batches,
            "commit_failures_total": writer.failures,
            "batch_commits": writer.batch_commits,
            "sync_seconds": writer.commit_seconds,
            "search_working": int(self._search.is_working),
            "search_failures_total": self._search.failures,
            "search_skipped_total": self._search.skipped,
            "disk_bytes_snapshots": 0,
            "disk_bytes_quarantine": 0,
            **self._database.stats(),
        }

    def _levels(self) -> dict[str, Any]:
        """Return what is read from the database; nothing while it does not answer."""
        with suppress(BambooError):
            all_sessions = self._reads.usage(None)
            packed = self._reads.packed_bytes()
            return {
                "sessions": all_sessions.sessions,
                "search_backlog": self._search.backlog(),
                "disk_bytes_logs": all_sessions.stored_bytes - packed,
                "disk_bytes_archive": packed,
                "disk_bytes_values": self._values.stored_bytes(),
            }
        return {}

    async def _read(self, session_id: str, function: Callable[[], T]) -> T:
        """Run a read of a session; return its answer no earlier than that of what it has seen."""
        found = await self._read_threads.run(function)
        await self._writer.settled((session_id,))
        return found

    async def _change(self, function: Callable[[], T]) -> T:
        """Run a change behind all commits that were given before."""
        await self._drained()
        return await self._bulk_threads.run(function)
