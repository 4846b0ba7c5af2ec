"""`JsonlStore`: sessions in plain files. The package's docstring describes how its parts work.

The loop's thread has the catalog (what is durable) and gives the answers. Threads run the
committer, checkpoints, snapshots and reads, each in a bounded pool of its own.
"""

import asyncio
import resource
from collections.abc import Callable, Collection, Sequence
from contextlib import AbstractAsyncContextManager, suppress
from pathlib import Path
from typing import Any, TypeVar

import anyio
import anyio.lowlevel
from typing_extensions import override

from bamboo_gateway.domain import codec
from bamboo_gateway.domain.clock import Clock
from bamboo_gateway.domain.errors import BambooError, Conflict, StorageFull, Unavailable
from bamboo_gateway.domain.limits import PAGE_BYTES_MAX
from bamboo_gateway.domain.sessions import Presence, SessionHead
from bamboo_gateway.storage.base import Done, SessionCreation, SessionStore, StoreUnusable
from bamboo_gateway.storage.commits import Commit, Found, MarkKind, Record
from bamboo_gateway.storage.file_system import FileSystem, failure_of
from bamboo_gateway.storage.files.base import ContentStore
from bamboo_gateway.storage.files.disk import DiskContents
from bamboo_gateway.storage.jsonl.bulk_append import BulkAppend
from bamboo_gateway.storage.jsonl.bulk_create import BulkCreator
from bamboo_gateway.storage.jsonl.bulk_threads import BulkThreads
from bamboo_gateway.storage.jsonl.bundle import BundleView
from bamboo_gateway.storage.jsonl.checks import store_checks, values_check
from bamboo_gateway.storage.jsonl.examination import Examiner
from bamboo_gateway.storage.jsonl.file_swap import FileSwapper
from bamboo_gateway.storage.jsonl.index.catalog import Catalog, Entry
from bamboo_gateway.storage.jsonl.index.catalog_file import CatalogFile
from bamboo_gateway.storage.jsonl.index.change_log import Gone, gone_to_json, in_order
from bamboo_gateway.storage.jsonl.index.cold_list import list_cold
from bamboo_gateway.storage.jsonl.index.views import SessionViews
from bamboo_gateway.storage.jsonl.journal.batch import Answer
from bamboo_gateway.storage.jsonl.journal.checkpoint import Checkpointer
from bamboo_gateway.storage.jsonl.journal.committer import Committer
from bamboo_gateway.storage.jsonl.journal.lifecycle_records import LifecycleRecords
from bamboo_gateway.storage.jsonl.journal.recovery import Recovered, Recovery
from bamboo_gateway.storage.jsonl.journal.segments import RECORD_OVERHEAD_BYTES, Journal
from bamboo_gateway.storage.jsonl.line_commit import line_commit
from bamboo_gateway.storage.jsonl.lock import DirectoryLock, boot_id
from bamboo_gateway.storage.jsonl.log.log import LogWriter
from bamboo_gateway.storage.jsonl.log.table import Deletion, LogTable
from bamboo_gateway.storage.jsonl.log.write_health import WriteHealth
from bamboo_gateway.storage.jsonl.log_copy import LogCopy
from bamboo_gateway.storage.jsonl.maintenance import Maintenance
from bamboo_gateway.storage.jsonl.mark_files import MarkFiles
from bamboo_gateway.storage.jsonl.mark_search import NO_END, MarkSearch, Search
from bamboo_gateway.storage.jsonl.migration_mark import MigrationMark
from bamboo_gateway.storage.jsonl.online_repair import OnlineRepair
from bamboo_gateway.storage.jsonl.paths import Paths, root_of
from bamboo_gateway.storage.jsonl.reads import Reads
from bamboo_gateway.storage.jsonl.recent_messages import RecentMessages
from bamboo_gateway.storage.jsonl.search_index import SearchIndex
from bamboo_gateway.storage.jsonl.searches import Searches
from bamboo_gateway.storage.jsonl.swaps import Swaps
from bamboo_gateway.storage.jsonl.values_file import ValuesFile
from bamboo_gateway.storage.listing import gone_of
from bamboo_gateway.storage.reports import (
    Change,
    ChangePage,
    Erased,
    Expiry,
    GoneSession,
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
from bamboo_gateway.storage.threads import Threads
from bamboo_gateway.storage.values import ValueWriter

# The most log files kept open for writing; sockets need the rest of the process's limit.
_LOG_FILES_MAX = 1024
# The heads that are decoded, and the entries that are looked at, before yielding to the loop.
_HEADS_AT_ONCE = 200
_ENTRIES_AT_ONCE = 10_000

T = TypeVar("T")


class JsonlStore(SessionStore):
    """The store of `jsonl:`, a `SessionStore` that also supports checks."""

    def __init__(
        self,
        data_dir: Path,
        clock: Clock,
        *,
        durability: str = "fsync",
        checkpoint_interval_seconds: float = 5,
        index_enabled: bool = True,
        fs: FileSystem | None = None,
    ) -> None:
        self._fs = fs = fs or FileSystem()
        self._paths = paths = Paths(root_of(data_dir))
        self._clock = clock
        self._durability = durability
        self._checkpoint_interval_seconds = checkpoint_interval_seconds
        self._lock = DirectoryLock(fs, paths)
        self._catalog = Catalog()
        self._catalog_file = CatalogFile(fs, paths, keeps_heads=index_enabled)
        self._journal = Journal(fs, paths, self._lock.check)
        self._writer = LogWriter(fs, _raise_files_limit(), BundleView)
        self._table = LogTable(fs, paths, self._catalog, self._writer)
        mark_files = MarkFiles(fs, paths, self._writer)
        mark_search = MarkSearch(fs, paths, self._writer)
        self._write_health = WriteHealth(self._writer, clock, self._lock.check)
        self._committer = Committer(
            self._journal,
            self._table,
            self._write_health,
            clock,
            syncs_commits=durability == "fsync",
            checkpoint_interval_seconds=checkpoint_interval_seconds,
        )
        checkpointer = Checkpointer(
            fs, paths, self._catalog_file, self._writer, mark_files, self._write_health
        )
        self._checkpointer = checkpointer
        self._maintenance = Maintenance(
            fs,
            paths,
            self._catalog,
            self._catalog_file,
            self._table,
            self._committer,
            checkpointer,
            mark_search,
            clock,
        )
        self._online_repair = OnlineRepair(fs, paths, self._journal, self._table)
        lifecycle = LifecycleRecords(fs, self._journal, self._committer)
        self._recent = RecentMessages()
        self._reads = Reads(
            fs,
            paths,
            self._catalog,
            self._catalog_file,
            self._table,
            self._writer,
            mark_files,
            mark_search,
            self._committer,
            lifecycle,
            self._online_repair,
            self._recent,
            self.next_epoch,
            lambda: self._is_open,
        )
        self._bulk = BulkThreads()
        self._creator = BulkCreator(fs, paths, self._catalog, self._table, lifecycle, self._bulk)
        self._swapper = FileSwapper(fs, paths, self._catalog, self._table, lifecycle, self._bulk)
        self._swaps = Swaps(
            fs,
            self._catalog,
            self._table,
            self._writer,
            self._committer,
            self._swapper,
            self._bulk,
            self._reads,
        )
        self._examiner = Examiner(fs, paths, self._catalog, self._table, self._writer, self._reads)
        self._views = SessionViews(self._catalog)
        self._search_index = SearchIndex(
            paths,
            self._catalog,
            self._catalog_file,
            self._table,
            self._writer,
            mark_search,
            self._lock.check,
        )
        self._searches = Searches(
            self._catalog, self._catalog_file, self._reads, self._search_index
        )
        self._index_enabled = index_enabled
        self._last_epoch = 0
        self._events = 0
        self._is_open = False
        self._contents = DiskContents(paths.files, fs)
        self._values = ValuesFile(fs, paths, clock, self._lock.check)
        # One thread for each keeps the order of the calls, and has a connection to itself.
        self._value_writes = Threads(1)
        self._value_reads = Threads(1)
        self._value_writer = ValueWriter(self._value_writes.run, self._values.write)
        self._mark = MigrationMark(fs, paths)
        # What is being copied into this store, if anything is.
        self._origin: str | None = None

    @override
    async def open(self) -> RecoveryReport:
        started = self._clock.monotonic()
        try:
            recovered = await self._in_thread(self._open_files)
        except BaseException:
            await self._in_thread(self._close_files)
            raise
        self._catalog.begin(recovered.entries, recovered.unfinished)
        changes = self._catalog.changes
        changes.begin(recovered.feed, recovered.lsn, recovered.changed_ids, recovered.gone)
        if recovered.full is not None:
            changes.put_back(recovered.gone)
        self._catalog.dirty |= recovered.changed
        self._catalog.deleted |= recovered.deleted
        self._last_epoch = recovered.last_epoch
        self._journal.begin(
            recovered.next_segment, recovered.lsn, recovered.last_epoch, recovered.kept
        )
        self._take_over_unwritten(recovered)
        loop = asyncio.get_running_loop()
        self._committer.start(loop, self._take_answers, self._due)
        self._is_open = True
        recovered.report.seconds = self._clock.monotonic() - started
        return recovered.report

    def _open_files(self) -> Recovered:
        fs, paths = self._fs, self._paths
        try:
            if self._origin is not None:
                self._mark.check_vacant(self._origin)
            for directory in paths.directories():
                fs.make_directory(directory)
            self._lock.take()
            if self._origin is None:
                self._mark.check_absent()
            recovered = Recovery(
                fs, paths, self._catalog_file, self._clock, previous=self._lock.previous
            ).run()
            if (kept := self._values.open(durability=self._durability)) is not None:
                recovered.report.damaged.append(f"values.sqlite: {self._values.damage}")
                recovered.report.quarantined.append(kept)
            if self._origin is not None:
                self._mark.set(self._origin, len(recovered.entries))
            lsn = recovered.covered_lsn
            self._lock.write(self._lock_content(recovered.last_epoch, lsn, clean=False))
            numbers = ((entry.changed, entry.id) for entry in recovered.entries.values())
            recovered.changed_ids = in_order(numbers, recovered.gone)
            self._journal.keep_reserve()
            self._checkpointer.measure_quarantine()
            self._contents.open()
        except OSError as error:
            raise self._unusable(error) from error
        return recovered

    async def check_vacant(self, origin: str) -> None:
        """Refuse a directory with sessions, as `SupportsMigration` describes."""
        try:
            await self._in_thread(lambda: self._mark.check_vacant(origin))
        except OSError as error:
            raise self._unusable(error) from error

    async def begin_migration(self, origin: str) -> RecoveryReport:
        """Open the directory to be filled, as `SupportsMigration` describes."""
        self._origin = origin
        return await self.open()

    async def end_migration(self, last_epoch: int) -> None:
        """Make the directory one like others, as `SupportsMigration` describes."""
        self._last_epoch = max(self._last_epoch, last_epoch)
        content = self._lock_content(
            self._last_epoch, self._lock.previous.get("lsn", 0), clean=False
        )
        try:
            await self._in_thread(lambda: self._lock.write(content))
            await self._in_thread(self._mark.remove)
        except OSError as error:
            raise failure_of(error, "Ending the migration") from error

    def _unusable(self, error: OSError) -> StoreUnusable:
        where = f" ({error.filename})" if error.filename else ""
        return StoreUnusable(
            f"The data directory {self._paths.root} cannot be used: {error.strerror}{where}."
        )

    def _take_over_unwritten(self, recovered: Recovered) -> None:
        """Keep lines that logs lack in memory, as if writing them had failed just now."""
        for unwritten in recovered.unwritten.values():
            log = self._table.log_from(unwritten.entry)
            log.written, log.tail = unwritten.lines.at, [unwritten.lines.data]
            log.held_end = recovered.held.get(log.name, 0)
            self._table.logs[log.session_id] = log
            self._write_health.log_failed(log, unwritten.error)
        if recovered.full is not None:
            full = failure_of(recovered.full, "Opening the store")
            self._write_health.journal_failed(full, RECORD_OVERHEAD_BYTES)

    def _lock_content(self, last_epoch: int, lsn: int, *, clean: bool) -> dict[str, Any]:
        return {
            **self._lock.owner(),
            "boot": boot_id(),
            "durability": self._durability,
            "epoch": last_epoch,
            "lsn": lsn,
            "clean": clean,
        }

    @override
    async def aclose(self) -> None:
        if not self._is_open:
            return
        self._is_open = False
        with anyio.CancelScope(shield=True):
            # After this, everything accepted before has its answer.
            await self._committer.send(lambda: None)
            await self._reads.finish_repairs()
            in_use = [self._catalog.entries.get(name) for name in list(self._table.logs)]
            await self._maintenance.snapshot([entry for entry in in_use if entry is not None])
            await self._search_index.aclose()
            await self._value_writes.aclose()
            await self._value_reads.aclose()
            is_clean = await self._maintenance.checkpoint(final=True)
            self._committer.stop()
            await self._in_thread(lambda: self._finish(is_clean=is_clean))

    def _finish(self, *, is_clean: bool) -> None:
        self._committer.join()
        self._maintenance.close()
        with suppress(OSError):
            last_epoch = max(self._last_epoch, self._journal.last_epoch)
            # After an unclean end only what is certain: the journal's records count from there.
            lsn = self._journal.lsn if is_clean else self._lock.previous.get("lsn", 0)
            self._lock.write(self._lock_content(last_epoch, lsn, clean=is_clean))
        self._close_files()

    def _close_files(self) -> None:
        self._reads.close()
        self._search_index.stop()
        self._values.close()
        self._journal.close_current()
        self._writer.close()
        self._catalog_file.close()
        self._lock.release()

    @override
    def next_epoch(self) -> int:
        self._last_epoch = max(self._clock.now_ms(), self._last_epoch + 1)
        return self._last_epoch

    @override
    def append(self, commit: Commit, done: Done) -> None:
        if self._is_open:
            self._committer.append(line_commit(commit, done))
        else:
            closed = Unavailable("The store is closed.")
            asyncio.get_running_loop().call_soon(done, closed)

    @override
    def creation(self, session_id: str, epoch: int) -> SessionCreation:
        return self._creator.begin(session_id, epoch, self._clock.now_ms(), lambda: self._is_open)

    @override
    def extension(self, session_id: str, epoch: int, after: int) -> SessionCreation:
        commit = Commit(session_id, epoch, after + 1, ())

        def copying() -> AbstractAsyncContextManager[LogCopy]:
            return self._swaps.copying(session_id, epoch)

        def failing(entry: Entry) -> AbstractAsyncContextManager[None]:
            return self._swaps.failing_as(entry, "Adding to a session")

        return BulkAppend(commit, self.append, copying, failing, self._swapper, self._bulk)

    def _take_answers(self, answers: list[Answer]) -> None:
        apply = self._catalog.apply
        for (commit, done, _, marks, delta_bytes), error, size, lsn in answers:
            if error is None:
                apply(commit, delta_bytes, size, lsn)
                if commit.head is not None:
                    self._search_index.committed(commit)
                self._events += len(commit.events)
                if marks:
                    entry = self._catalog.entries[commit.session_id]
                    self._recent.committed(entry, commit.first_seq, commit.events)
            try:
                done(error)
            except Exception as failure:  # noqa: BLE001 - the others' answers do not depend on it
                context = {"message": "taking a commit's answer failed", "exception": failure}
                asyncio.get_running_loop().call_exception_handler(context)

    @property
    @override
    def contents(self) -> ContentStore:
        return self._contents

    @override
    async def load(self, session_id: str) -> SessionHead | None:
        return await self._reads.load(session_id)

    @override
    async def read(
        self, session_id: str, epoch: int, after: int, *, limit: int, max_bytes: int
    ) -> list[Record]:
        return await self._reads.read(session_id, epoch, after, limit=limit, max_bytes=max_bytes)

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
        return await self._reads.find(session_id, epoch, search)

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
        end = NO_END if before is None else before
        search = Search(kind, None, after, end, limit=0, max_bytes=0, reverse=False)
        return await self._reads.count_marks(session_id, epoch, search)

    @override
    async def keys_in_use(
        self, session_id: str, epoch: int, kind: MarkKind, keys: Collection[str]
    ) -> set[str]:
        return await self._reads.keys_in_use(session_id, epoch, kind, keys)

    @override
    async def pack(self, session_id: str, epoch: int) -> None:
        await self._swaps.pack(session_id, epoch)

    @override
    async def unpack(self, session_id: str, epoch: int) -> None:
        await self._swaps.unpack(session_id, epoch)

    @override
    async def compact(self, session_id: str, epoch: int, upto: int) -> int:
        return await self._swaps.compact(session_id, epoch, upto)

    async def remove_events(self, session_id: str, epoch: int, seqs: Collection[int]) -> None:
        """Remove events as `SupportsErasure` describes."""
        await self._swaps.remove_events(session_id, epoch, seqs)
        self._recent.forget(session_id)

    async def vacuum(self) -> list[Erased]:
        """Make a checkpoint, as `SupportsErasure` describes."""
        self._catalog.changes.forget_all()
        self._catalog_file.is_rewrite_wanted = True
        is_done = await self._maintenance.checkpoint()
        is_search_done = await self._search_index.erase()
        is_values_done = await self._value_writes.run(self._values.vacuum)
        later = f"within {self._checkpoint_interval_seconds:g} s, when a checkpoint succeeds"
        return [
            Erased("jsonl", "logs, archives, snapshots and what was in quarantine", "now"),
            Erased("jsonl", "the journal and the index", "now" if is_done else later),
            Erased(
                "jsonl",
                "the search index",
                "now" if is_search_done else "when the next call succeeds",
            ),
            Erased("jsonl", "values", "now" if is_values_done else "when the next call succeeds"),
        ]

    @property
    def directory(self) -> Path:
        """The data directory."""
        return self._paths.root

    async def check(self, sessions_max: int, bytes_max: int) -> list[StoreCheck]:
        """Check journal and files, as `SupportsChecks` describes."""
        maintenance = self._maintenance
        found = await self._examiner.examine(
            sessions_max, bytes_max, lambda: maintenance.journal_seconds
        )
        interval = self._checkpoint_interval_seconds
        checks = store_checks(await self.stats(), found, checkpoint_interval_seconds=interval)
        return [*checks, values_check(self._values.damage, self._values.disk_bytes)]

    @override
    async def delete(self, session_id: str, epoch: int, version: int | None = None) -> int:
        if not self._is_open:
            raise Unavailable("The store is closed.")
        gone = await self._gone_of(session_id)
        answered: asyncio.Future[None] = asyncio.get_running_loop().create_future()

        def answer(deletion: Deletion) -> None:
            if deletion.error is None:
                self._catalog.remove(
                    session_id, Gone(deletion.lsn, self._gone_now(session_id, gone))
                )
                self._recent.forget(session_id)
            if not answered.done():
                answered.set_result(None)

        data = codec.encode(gone_to_json(gone)) + b"\n"
        deletion = Deletion(session_id, epoch, answer, data)
        self._committer.delete(deletion)
        await answered
        if deletion.error is not None:
            raise deletion.error
        try:
            await self._maintenance.remove([*deletion.leftovers, *deletion.stuck])
        except OSError as error:
            raise failure_of(error, "Removing the files of a deleted session") from error
        return deletion.bytes

    async def _gone_of(self, session_id: str) -> GoneSession:
        """Return what is kept of a session that is about to be deleted."""
        entry = self._catalog.entries.get(session_id)
        if entry is not None and not entry.has_head:
            # A session whose head cannot be read can be deleted too.
            with suppress(BambooError):
                head = await self._reads.load(session_id)
                if head is not None:
                    return gone_of(head)
        return self._gone_now(session_id, GoneSession(None, "user", None))

    def _gone_now(self, session_id: str, before: GoneSession) -> GoneSession:
        entry = self._catalog.entries.get(session_id)
        if entry is None:
            return before
        if entry.has_head:
            return gone_of(entry.own_head())
        relations = entry.relations
        return before._replace(
            user_id=relations.user_id,
            parent_id=relations.parent_id,
            shared_with=dict.fromkeys(relations.shared_with),
        )

    @override
    async def delta_bytes(self, session_id: str) -> int:
        entry = self._catalog.entries.get(session_id)
        return entry.deltas if entry is not None else 0

    @override
    async def holding_deltas(self, bytes_min: int) -> dict[str, int]:
        entries = self._catalog.entries.values()
        return {e.id: e.activity for e in entries if e.deltas >= bytes_min}

    @override
    async def unpacked_archives(self) -> list[str]:
        entries = self._catalog.entries.values()
        return sorted(e.id for e in entries if e.relations.is_archived and not e.bundle)

    @override
    async def size(self, session_id: str) -> StoredSize:
        entry = self._catalog.entries.get(session_id)
        if entry is None:
            raise Conflict("There is no such session.", head=None)
        return StoredSize(entry.bundle or entry.size, entry.size)

    @override
    async def query(self, query: SessionQuery, presence: Presence) -> SessionPage:
        if query.terms:
            return await self._searches.query(query, presence)
        if self._index_enabled:
            return await self._views.query(query, presence)
        return await list_cold(self._catalog, self._catalog_file, query, presence, self._reads.run)

    @override
    async def search(self, query: SearchQuery) -> SearchPage:
        return await self._searches.search(query)

    @override
    async def changes(self, feed: str, after: int, limit: int) -> ChangePage:
        found = self._catalog.changes.page(feed, after, limit)
        last, has_more = self._catalog.changes.last, len(found) > limit
        changes: list[Change] = []
        for place, (number, session_id, gone) in enumerate(found[:limit], 1):
            if gone is not None:
                changes.append(Change(number, session_id, None, gone.session))
            elif (head := await self._head_now(session_id)) is not None:
                changes.append(Change(number, session_id, head))
            # Otherwise it was deleted meanwhile, which is a later change.
            if place % _HEADS_AT_ONCE == 0:
                await anyio.lowlevel.checkpoint()
        return ChangePage(changes, found[limit - 1][0] if has_more else last, has_more)

    async def _head_now(self, session_id: str) -> SessionHead | None:
        entry = self._catalog.entries.get(session_id)
        if entry is not None and entry.has_head:
            return entry.own_head()
        return await self._reads.load(session_id)

    @override
    async def last_change(self) -> tuple[str, int]:
        return self._catalog.changes.feed.name, self._catalog.changes.last

    @override
    async def expiries(self, after: tuple[int, str], until: int, limit: int) -> list[Expiry]:
        found: set[tuple[int, str]] = set()
        first, ending = after[0], list(self._catalog.ending.values())
        for start in range(0, len(ending), _ENTRIES_AT_ONCE):
            some = ending[start : start + _ENTRIES_AT_ONCE]
            found.update(
                (at, entry.id)
                for entry in some
                if entry.ttl is not None
                and first <= (at := entry.activity + entry.ttl * 1000) <= until
            )
            found.update(
                (at, entry.id)
                for entry in some
                if entry.share_ends
                for at in entry.share_ends
                if first <= at <= until
            )
            await anyio.lowlevel.checkpoint()
        page = sorted(key for key in found if key > after)[:limit]
        heads = [(at, name, await self._head_now(name)) for at, name in page]
        return [Expiry(at, name, head) for at, name, head in heads if head is not None]

    @override
    async def write_values(self, changes: Sequence[ValueChange]) -> None:
        if not self._is_open:
            raise Unavailable("The store is closed.")
        await self._value_writer.write(changes)

    @override
    async def value(self, kind: str, key: str) -> bytes | None:
        return await self._value_reads.run(lambda: self._values.value(kind, key))

    @override
    async def values(
        self, kind: str, *, prefix: str = "", after: str = "", limit: int = 1000
    ) -> list[tuple[str, bytes]]:
        return await self._value_reads.run(
            lambda: self._values.values(kind, prefix=prefix, after=after, limit=limit)
        )

    @override
    async def value_kinds(self) -> list[str]:
        return await self._value_reads.run(self._values.kinds)

    @override
    async def usage(self, user_id: str | None = None) -> StoreUsage:
        use = self._catalog.use
        if user_id is not None:
            return use.of_user(user_id)
        return StoreUsage(len(self._catalog.entries), use.logs + use.archive)

    @override
    def touch(self, session_id: str, epoch: int, activity_ms: int) -> None:
        self._catalog.touch(session_id, epoch, activity_ms)

    @override
    async def unfinished(self) -> list[str]:
        return sorted(self._catalog.unfinished)

    @override
    async def release(self, session_id: str) -> None:
        entry = self._catalog.entries.get(session_id)
        if entry is None or not self._is_open:
            return
        await self._maintenance.snapshot([entry])
        # Its file is closed with the checkpoint after the next, when nothing of it is pending.
        if self._index_enabled:
            entry.pack_head()

    async def checkpoint(self) -> bool:
        """Make a checkpoint now; return whether it succeeded."""
        succeeded = await self._maintenance.checkpoint()
        await self._search_index.caught_up()
        return succeeded

    def _due(self) -> None:
        self._maintenance.due()
        self._search_index.write()

    @property
    @override
    def is_writing(self) -> bool:
        return self._is_open and self._committer.is_alive

    @property
    @override
    def refusal(self) -> Unavailable | None:
        health = self._write_health
        if health.refusal is None and health.is_full:
            return StorageFull("The disk is full: nothing can be written until there is space.")
        return health.refusal

    def unwritable(self) -> dict[str, str]:
        """Return the sessions whose logs cannot be written, as `SupportsChecks` describes."""
        return self._write_health.problems()

    @override
    async def stats(self) -> dict[str, Any]:
        committer, done, use = self._committer, self._maintenance.counters, self._catalog.use
        return {
            "sessions": len(self._catalog.entries),
            "commits_total": committer.commits,
            "events_total": self._events,
            "batches_total": committer.batches,
            "batch_failures_total": committer.failures,
            "batch_commits": committer.batch_commits,
            "sync_seconds": committer.sync_seconds,
            "journal_bytes_total": committer.bytes,
            "checkpoints_total": done.checkpoints,
            "checkpoint_failures_total": done.checkpoint_failures,
            "snapshots_total": done.snapshots,
            "quarantined": len(self._online_repair.quarantined),
            "log_failures_total": self._write_health.log_failures,
            "failed_logs": self._write_health.failed_logs,
            "open_logs": self._writer.open_files,
            "disk_bytes_logs": use.logs,
            "disk_bytes_archive": use.archive,
            "disk_bytes_snapshots": use.snapshots,
            "disk_bytes_journal": self._journal.disk_bytes,
            "disk_bytes_quarantine": self._checkpointer.quarantine_bytes,
            "disk_bytes_search": self._search_index.disk_bytes,
            "disk_bytes_values": self._values.disk_bytes,
            "search_backlog": self._search_index.backlog,
            "search_working": int(self._search_index.is_working),
            "search_failures_total": self._search_index.failures,
            "search_skipped_total": self._search_index.skipped,
        }

    async def _in_thread(self, function: Callable[[], T]) -> T:
        return await anyio.to_thread.run_sync(function)


def _raise_files_limit() -> int:
    """Raise the process's limit of open files as far as allowed; return the share for logs."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != hard:
        with suppress(OSError, ValueError):
            resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
            soft = hard
    if soft == resource.RLIM_INFINITY:
        return _LOG_FILES_MAX
    return max(16, min(_LOG_FILES_MAX, soft // 4))
