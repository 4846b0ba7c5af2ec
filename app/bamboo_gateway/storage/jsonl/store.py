"""`JsonlStore`: sessions in plain files. The package's docstring describes how its parts work.

The loop's thread has the catalog (what is durable) and gives the answers. Threads run the
committer, checkpoints, snapshots and reads, each in a bounded pool of its own.
"""

import asyncio
import random
import resource
from collections import OrderedDict
from collections.abc import AsyncIterator, Awaitable, Callable, Collection
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractAsyncContextManager, asynccontextmanager, suppress
from functools import partial
from pathlib import Path
from typing import Any, TypeVar
from weakref import WeakValueDictionary

import anyio
from typing_extensions import override

from bamboo_gateway.domain.clock import Clock
from bamboo_gateway.domain.errors import Conflict, StorageFailed, StorageFull, Unavailable
from bamboo_gateway.domain.limits import PAGE_BYTES_MAX
from bamboo_gateway.domain.sessions import SessionHead
from bamboo_gateway.storage.base import (
    Commit,
    Done,
    Examination,
    Found,
    MarkKind,
    Record,
    RecoveryReport,
    SessionCreation,
    SessionPage,
    SessionQuery,
    SessionStore,
    StateOf,
    StoredSize,
    StoreUnusable,
    StoreUsage,
)
from bamboo_gateway.storage.jsonl.bulk_append import BulkAppend
from bamboo_gateway.storage.jsonl.bulk_create import BulkCreator
from bamboo_gateway.storage.jsonl.bulk_threads import BulkThreads
from bamboo_gateway.storage.jsonl.bundle import BundleView
from bamboo_gateway.storage.jsonl.file_swap import FileSwap, FileSwapper
from bamboo_gateway.storage.jsonl.files import FileSystem, failure_of
from bamboo_gateway.storage.jsonl.index.catalog import Catalog, Entry
from bamboo_gateway.storage.jsonl.index.catalog_file import CatalogFile
from bamboo_gateway.storage.jsonl.index.catalog_lines import ErasedError
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
from bamboo_gateway.storage.jsonl.log.log import Log, LogReplacedError, LogWriter, OutdatedError
from bamboo_gateway.storage.jsonl.log.marks import StaleMarksError
from bamboo_gateway.storage.jsonl.log.reader import DamagedError, read_page
from bamboo_gateway.storage.jsonl.log.table import Deletion, LogTable
from bamboo_gateway.storage.jsonl.log.write_health import WriteHealth
from bamboo_gateway.storage.jsonl.log_copy import LogCopy
from bamboo_gateway.storage.jsonl.maintenance import Maintenance
from bamboo_gateway.storage.jsonl.mark_files import NO_END, MarkFiles, Search
from bamboo_gateway.storage.jsonl.online_repair import OnlineRepair
from bamboo_gateway.storage.jsonl.packing import prepare_pack, prepare_unpack
from bamboo_gateway.storage.jsonl.paths import Paths, file_name, root_of
from bamboo_gateway.storage.jsonl.rebuild import Rebuilder
from bamboo_gateway.storage.jsonl.verify import compare, look_through, problem_of_bundle

# Threads for readers that are behind the event queue: more would only wait for the same disk.
_READ_THREADS = 4
# The most page ends kept; a reader's next page then needs no search.
_PLACES_MAX = 4096
# The most log files kept open for writing; sockets need the rest of the process's limit.
_LOG_FILES_MAX = 1024
# Marks may become stale again meanwhile (a checkpoint that could not write them), but not forever.
_REBUILDS_MAX = 3
_READING = "Reading the session's log"
_NO_SUCH_SESSION = "There is no such session of that epoch."
_DAMAGE = (DamagedError, LogReplacedError, FileNotFoundError)
# A log that seems damaged is read through in pages of about this size.
_LOOK_EVENTS = 10_000
_LOOK_BYTES = 4 * 1024 * 1024

T = TypeVar("T")


class JsonlStore(SessionStore):
    """The store of `jsonl:`, a `SessionStore` that also supports examination."""

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
        self._lock = DirectoryLock(fs, paths)
        self._catalog = Catalog()
        self._catalog_file = CatalogFile(fs, paths, keeps_heads=index_enabled)
        self._journal = Journal(fs, paths, self._lock.check)
        self._writer = LogWriter(fs, _raise_files_limit(), BundleView)
        self._table = LogTable(fs, paths, self._catalog, self._writer)
        self._sidecars = MarkFiles(fs, paths, self._writer)
        self._condition = WriteHealth(self._writer, clock, self._lock.check)
        self._committer = Committer(
            self._journal,
            self._table,
            self._condition,
            clock,
            syncs_commits=durability == "fsync",
            checkpoint_interval_seconds=checkpoint_interval_seconds,
        )
        checkpointer = Checkpointer(
            fs, paths, self._catalog_file, self._writer, self._sidecars, self._condition
        )
        self._checkpointer = checkpointer
        self._upkeep = Maintenance(
            fs,
            paths,
            self._catalog,
            self._catalog_file,
            self._table,
            self._committer,
            checkpointer,
            self._sidecars,
            clock,
        )
        self._mender = OnlineRepair(fs, paths, self._journal, self._table)
        self._lifecycle = LifecycleRecords(fs, self._journal, self._committer)
        self._bulk = BulkThreads()
        self._creator = BulkCreator(
            fs, paths, self._catalog, self._table, self._lifecycle, self._bulk
        )
        self._exchanger = FileSwapper(
            fs, paths, self._catalog, self._table, self._lifecycle, self._bulk
        )
        # One file swap of a session at a time; a lock goes with the last task that holds it.
        self._exchanging: WeakValueDictionary[str, anyio.Lock] = WeakValueDictionary()
        self._mending: dict[str, asyncio.Future[None]] = {}
        self._views = SessionViews(self._catalog)
        self._index_enabled = index_enabled
        self._read_pool = ThreadPoolExecutor(_READ_THREADS, "bamboo-read")
        self._places: OrderedDict[tuple[str, int, int, int], int] = OrderedDict()
        self._last_epoch = 0
        self._events = 0
        self._is_open = False

    @override
    async def open(self) -> RecoveryReport:
        started = self._clock.monotonic()
        try:
            recovered = await self._in_thread(self._open_files)
        except BaseException:
            await self._in_thread(self._close_files)
            raise
        self._catalog.begin(recovered.entries, recovered.unfinished)
        self._catalog.dirty |= recovered.changed
        self._catalog.deleted |= recovered.deleted
        self._last_epoch = recovered.last_epoch
        self._journal.begin(
            recovered.next_segment, recovered.lsn, recovered.last_epoch, recovered.kept
        )
        self._take_over_unwritten(recovered)
        loop = asyncio.get_running_loop()
        self._committer.start(loop, self._take_answers, self._upkeep.due)
        self._is_open = True
        recovered.report.seconds = self._clock.monotonic() - started
        return recovered.report

    def _open_files(self) -> Recovered:
        fs, paths = self._fs, self._paths
        try:
            for directory in paths.directories():
                fs.make_directory(directory)
            self._lock.take()
            recovered = Recovery(
                fs, paths, self._catalog_file, self._clock, previous=self._lock.previous
            ).run()
            lsn = recovered.covered_lsn
            self._lock.write(self._lock_content(recovered.last_epoch, lsn, clean=False))
            self._journal.keep_reserve()
            self._checkpointer.look_at_quarantine()
        except OSError as error:
            where = f" ({error.filename})" if error.filename else ""
            raise StoreUnusable(
                f"The data directory {paths.root} cannot be used: {error.strerror}{where}."
            ) from error
        return recovered

    def _take_over_unwritten(self, recovered: Recovered) -> None:
        """Keep lines that logs lack in memory, as if writing them had failed just now."""
        for unwritten in recovered.unwritten.values():
            log = self._table.made_of(unwritten.entry)
            log.written, log.tail = unwritten.lines.at, [unwritten.lines.data]
            log.held_end = recovered.held.get(log.name, 0)
            self._table.logs[log.session_id] = log
            self._condition.log_failed(log, unwritten.error)
        if recovered.full is not None:
            full = failure_of(recovered.full, "Opening the store")
            self._condition.journal_failed(full, RECORD_OVERHEAD_BYTES)

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
            for mending in list(self._mending.values()):
                await mending
            in_use = [self._catalog.entries.get(name) for name in list(self._table.logs)]
            await self._upkeep.snapshot([entry for entry in in_use if entry is not None])
            is_clean = await self._upkeep.checkpoint(final=True)
            self._committer.stop()
            await self._in_thread(lambda: self._finish(is_clean=is_clean))

    def _finish(self, *, is_clean: bool) -> None:
        self._committer.join()
        self._upkeep.close()
        with suppress(OSError):
            last_epoch = max(self._last_epoch, self._journal.last_epoch)
            # After an unclean end only what is certain: the journal's records count from there.
            lsn = self._journal.lsn if is_clean else self._lock.previous.get("lsn", 0)
            self._lock.write(self._lock_content(last_epoch, lsn, clean=is_clean))
        self._close_files()

    def _close_files(self) -> None:
        self._read_pool.shutdown(wait=False)
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
            self._committer.append(line_commit(commit), done)
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
            return self._copying(session_id, epoch)

        def failing(entry: Entry) -> AbstractAsyncContextManager[None]:
            return self._failing_as(entry, "Adding to a session")

        return BulkAppend(commit, self.append, copying, failing, self._exchanger, self._bulk)

    @asynccontextmanager
    async def _copying(self, session_id: str, epoch: int) -> AsyncIterator[LogCopy]:
        """Open a copy of a log; nobody else swaps its files meanwhile."""
        async with self._exchanges_of(session_id):
            entry = self._entry(session_id, epoch)
            log = await self._committer.send(lambda: self._table.pin(session_id, epoch))
            if log is None or log.packed:
                raise Conflict(_NO_SUCH_SESSION, head=log.seq if log else None)
            try:
                head = await self._head_of(entry)
                aside = self._exchanger.aside("extend")
                yield LogCopy.of(self._fs, self._writer, log, entry, head, 0, aside, kind="extend")
            finally:
                self._table.unpin(log)

    def _take_answers(self, answers: list[Answer]) -> None:
        apply = self._catalog.apply
        for commit, done, error, size in answers:
            if error is None:
                apply(commit, size)
                self._events += commit.count
            try:
                done(error)
            except Exception as failure:  # noqa: BLE001 - the others' answers do not depend on it
                context = {"message": "taking a commit's answer failed", "exception": failure}
                asyncio.get_running_loop().call_exception_handler(context)

    @override
    async def load(self, session_id: str) -> SessionHead | None:
        entry = self._catalog.entries.get(session_id)
        if entry is None:
            return None
        if entry.is_at_hand:
            return entry.own_head()
        seq = entry.seq
        try:
            head = await self._reading(self._catalog_file.head_of, entry)
        except ErasedError:
            return await self.load(session_id)
        except OSError:
            head = await self._reading(self._head_from_log, entry)
        current = self._catalog.entries.get(session_id)
        if current is not entry or head is None or current.is_at_hand or current.seq != seq:
            # The session changed, came into memory, or was deleted while this waited: the head may
            # be old.
            return await self.load(session_id)
        return entry.brought_up(head)

    def _head_from_log(self, entry: Entry) -> SessionHead:
        rebuilder = Rebuilder(self._fs, self._paths)
        rebuilt = rebuilder.entry_of(file_name(entry.id), may_be_torn=True)
        if rebuilt is None:
            raise StorageFailed("The session cannot be read.")
        return rebuilt.own_head()

    @override
    async def delete(self, session_id: str, epoch: int) -> int:
        if not self._is_open:
            raise Unavailable("The store is closed.")
        answered: asyncio.Future[None] = asyncio.get_running_loop().create_future()

        def answer(deletion: Deletion) -> None:
            if deletion.error is None:
                self._catalog.remove(session_id)
            if not answered.done():
                answered.set_result(None)

        deletion = Deletion(session_id, epoch, answer)
        self._committer.delete(deletion)
        await answered
        if deletion.error is not None:
            raise deletion.error
        try:
            await self._upkeep.remove([*deletion.leftovers, *deletion.stuck])
        except OSError as error:
            raise failure_of(error, "Removing the files of a deleted session") from error
        return deletion.bytes

    @override
    async def read(
        self, session_id: str, epoch: int, after: int, *, limit: int, max_bytes: int
    ) -> list[Record]:
        suspected = False
        while True:
            entry = self._entry(session_id, epoch)
            if after >= entry.seq or limit <= 0:
                return []
            log, size = self._table.current(entry), entry.size
            start = self._places.get((session_id, epoch, log.generation, after))
            try:
                page, end = await self._reading(
                    self._read_page, log, size, after, start, limit, max_bytes
                )
            except OutdatedError:
                await self._exchanged()
                continue
            except _DAMAGE as damage:
                if not suspected:
                    # Files that are being swapped look damaged too. Only what looks damaged at a
                    # second look is repaired, since a repair ends the epoch.
                    suspected = True
                    await self._exchanged()
                    continue
                await self._mend(entry)
                raise Conflict(_NO_SUCH_SESSION, head=None) from damage
            except OSError as error:
                raise failure_of(error, _READING) from error
            if page:
                self._note_place((session_id, epoch, log.generation, page[-1].seq), end)
            return page

    async def _exchanged(self) -> None:
        """Wait until the loop knows of all swaps that the committer has made."""
        await self._committer.send(lambda: None)

    def _read_page(
        self, log: Log, size: int, after: int, start: int | None, limit: int, max_bytes: int
    ) -> tuple[list[Record], int]:
        view = self._writer.view(log, size)
        try:
            return read_page(view, after, start, limit, max_bytes)
        finally:
            view.close()

    def _note_place(self, key: tuple[str, int, int, int], place: int) -> None:
        self._places[key] = place
        self._places.move_to_end(key)
        if len(self._places) > _PLACES_MAX:
            self._places.popitem(last=False)

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
        if limit <= 0:
            self._entry(session_id, epoch)
            return Found()
        return await self._by_marks(session_id, epoch, partial(self._sidecars.find, search=search))

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
        return await self._by_marks(session_id, epoch, partial(self._sidecars.count, search=search))

    @override
    async def keys_in_use(
        self, session_id: str, epoch: int, kind: MarkKind, keys: Collection[str]
    ) -> set[str]:
        look = partial(self._sidecars.keys_in_use, kind=kind, keys=keys)
        return await self._by_marks(session_id, epoch, look)

    async def _by_marks(self, session_id: str, epoch: int, look: Callable[[Log, int], T]) -> T:
        """Return what `look` finds by a log's marks; rebuild marks that do not fit the log."""
        suspected = False
        while True:
            entry = self._entry(session_id, epoch)
            try:
                return await self._look(entry, look)
            except OutdatedError:
                await self._exchanged()
            except _DAMAGE as damage:
                if not suspected:
                    suspected = True
                    await self._exchanged()
                    continue
                await self._mend(entry)
                raise Conflict(_NO_SUCH_SESSION, head=None) from damage
            except OSError as error:
                raise failure_of(error, _READING) from error

    async def _look(self, entry: Entry, look: Callable[[Log, int], T]) -> T:
        for _ in range(_REBUILDS_MAX):
            log = self._table.current(entry)
            version = log.marks_version
            try:
                return await self._reading(look, log, entry.size)
            except StaleMarksError:
                await self._rebuild_marks(entry, log.generation, version)
        return await self._reading(look, self._table.current(entry), entry.size)

    async def _rebuild_marks(self, entry: Entry, generation: int, version: int) -> None:
        log = await self._pin(entry.id, entry.epoch)
        try:
            if log.generation != generation:
                raise OutdatedError
            await self._reading(self._sidecars.rebuild, log, entry, version)
        finally:
            self._table.unpin(log)

    async def _pin(self, session_id: str, epoch: int) -> Log:
        """Keep a log in the log table; the caller unpins it."""
        pinning = self._committer.send(lambda: self._table.pin(session_id, epoch))
        try:
            log = await asyncio.shield(pinning)
        except asyncio.CancelledError:
            # The committer pins it even when the caller is cancelled.
            pinning.add_done_callback(self._unpin)
            raise
        if log is None:
            raise Conflict(_NO_SUCH_SESSION, head=None)
        return log

    def _unpin(self, pinning: "asyncio.Future[Log | None]") -> None:
        log = pinning.result()
        if log is not None:
            self._table.unpin(log)

    def _entry(self, session_id: str, epoch: int) -> Entry:
        entry = self._catalog.entries.get(session_id)
        if entry is None or entry.epoch != epoch:
            raise Conflict(_NO_SUCH_SESSION, head=None)
        if not self._is_open:
            raise Unavailable("The store is closed.")
        return entry

    async def _mend(self, entry: Entry) -> None:
        """Repair a damaged log once, even when several readers found the damage."""
        mending = self._mending.get(entry.id)
        if mending is None:
            if self._catalog.entries.get(entry.id) is not entry:
                return
            mending = asyncio.get_running_loop().create_future()
            self._mending[entry.id] = mending
            with anyio.CancelScope(shield=True):
                try:
                    await self._mend_once(entry)
                finally:
                    del self._mending[entry.id]
                    mending.set_result(None)
        else:
            await asyncio.shield(mending)

    async def _mend_once(self, entry: Entry) -> None:
        head = await self.load(entry.id)
        if head is None or head.epoch != entry.epoch:
            return
        # All of one moment: the files may be swapped while the thread works. Lines that are being
        # written at this moment are not included, since the thread may see only a part of them.
        prepare = partial(
            self._mender.prepare,
            head,
            self.next_epoch(),
            entry.generation,
            min(entry.size, self._table.current(entry).written),
            is_packed=entry.bundle > 0,
        )
        try:
            prepared = await self._in_thread(prepare)
            await self._lifecycle.carry_out(
                lambda: self._mender.switch(prepared), self._adopt_mended
            )
        except OSError as error:
            raise failure_of(error, "Repairing a damaged log") from error

    def _adopt_mended(self, fresh: Entry | None) -> None:
        if fresh is not None:
            self._catalog.adopt(fresh)

    @override
    async def pack(self, session_id: str, epoch: int) -> None:
        fs, writer = self._fs, self._writer

        async def make(entry: Entry, head: SessionHead) -> FileSwap | None:
            if entry.bundle:
                return None
            log, aside = self._table.current(entry), self._exchanger.aside("pack")
            size = entry.size
            return await self._bulk.run(
                lambda: prepare_pack(fs, writer, log, size, entry, head, aside)
            )

        await self._exchange(session_id, epoch, "Packing an archived session", make)

    @override
    async def unpack(self, session_id: str, epoch: int) -> None:
        async def make(entry: Entry, head: SessionHead) -> FileSwap | None:
            if not entry.bundle:
                return None
            log, aside = self._table.current(entry), self._exchanger.aside("unpack")
            return await self._bulk.run(lambda: prepare_unpack(self._fs, log, entry, head, aside))

        await self._exchange(session_id, epoch, "Unpacking an archived session", make)

    async def _exchange(
        self,
        session_id: str,
        epoch: int,
        doing: str,
        make: Callable[[Entry, SessionHead], Awaitable[FileSwap | None]],
    ) -> None:
        """Swap the files of a session for those that `make` prepares, if it prepares any."""
        async with self._exchanges_of(session_id):
            entry = self._entry(session_id, epoch)
            head = await self._head_of(entry)
            async with self._failing_as(entry, doing):
                exchange = await make(entry, head)
                if exchange is not None:
                    await self._exchanger.carry_out(exchange)

    def _exchanges_of(self, session_id: str) -> anyio.Lock:
        return self._exchanging.setdefault(session_id, anyio.Lock())

    async def _head_of(self, entry: Entry) -> SessionHead:
        """Load the head of an entry; the entry has not changed when this returns."""
        head = await self.load(entry.id)
        if head is None or self._catalog.entries.get(entry.id) is not entry:
            raise Conflict(_NO_SUCH_SESSION, head=None)
        return head

    @asynccontextmanager
    async def _failing_as(self, entry: Entry, doing: str) -> AsyncIterator[None]:
        """Translate errors of files into errors of the contract; repair damage."""
        try:
            yield
        except OutdatedError as gone:
            raise Conflict(_NO_SUCH_SESSION, head=None) from gone
        except _DAMAGE as damage:
            await self._read_through(entry)
            raise Conflict(_NO_SUCH_SESSION, head=None) from damage
        except OSError as error:
            raise failure_of(error, doing) from error

    async def _read_through(self, entry: Entry) -> None:
        """Read every line of a log that seems damaged; the read that finds damage repairs it."""
        after = 0
        while page := await self.read(
            entry.id, entry.epoch, after, limit=_LOOK_EVENTS, max_bytes=_LOOK_BYTES
        ):
            after = page[-1].seq

    @override
    async def compact(self, session_id: str, epoch: int, upto: int) -> int:
        async with self._exchanges_of(session_id):
            entry = self._entry(session_id, epoch)
            log = await self._pin(session_id, epoch)
            try:
                head = await self._head_of(entry)
                async with self._failing_as(entry, "Compacting a session"):
                    return await self._compact(log, entry, head, upto)
            finally:
                self._table.unpin(log)

    async def _compact(self, log: Log, entry: Entry, head: SessionHead, upto: int) -> int:
        if log.packed:
            return 0
        aside = self._exchanger.aside("compact")
        compaction = LogCopy.of(self._fs, self._writer, log, entry, head, upto, aside)
        exchange = compaction.exchange
        await self._bulk.run(compaction.copy)
        if exchange.freed == 0:
            await self._bulk.run(lambda: self._exchanger.remove(exchange.files))
            return 0
        await self._exchanger.carry_out(exchange, compaction.catch_up)
        return exchange.freed

    @override
    def delta_bytes(self, session_id: str) -> int:
        entry = self._catalog.entries.get(session_id)
        return entry.deltas if entry is not None else 0

    @override
    def holding_deltas(self, bytes_min: int) -> dict[str, int]:
        entries = self._catalog.entries.values()
        return {e.id: e.activity for e in entries if e.deltas >= bytes_min}

    @override
    def unpacked_archives(self) -> list[str]:
        entries = self._catalog.entries.values()
        return sorted(e.id for e in entries if e.origin.is_archived and not e.bundle)

    @override
    def size(self, session_id: str) -> StoredSize:
        entry = self._catalog.entries.get(session_id)
        if entry is None:
            raise Conflict("There is no such session.", head=None)
        return StoredSize(entry.bundle or entry.size, entry.size)

    @override
    async def query(self, query: SessionQuery, state_of: StateOf) -> SessionPage:
        if self._index_enabled:
            return await self._views.query(query, state_of)
        return await list_cold(self._catalog, self._catalog_file, query, state_of, self._reading)

    @override
    def count(self) -> int:
        return len(self._catalog.entries)

    @override
    def usage(self, user_id: str | None = None) -> StoreUsage:
        use = self._catalog.use
        if user_id is not None:
            return use.of_user(user_id)
        return StoreUsage(len(self._catalog.entries), use.logs + use.archive)

    @override
    def touch(self, session_id: str, epoch: int, activity_ms: int) -> None:
        self._catalog.touch(session_id, epoch, activity_ms)

    @override
    def unfinished(self) -> list[str]:
        return sorted(self._catalog.unfinished)

    @override
    async def release(self, session_id: str) -> None:
        entry = self._catalog.entries.get(session_id)
        if entry is None or not self._is_open:
            return
        await self._upkeep.snapshot([entry])
        # Its file is closed with the checkpoint after the next, when nothing of it is pending.
        if self._index_enabled:
            entry.pack_head()

    async def examine(self, sessions_max: int, bytes_max: int) -> Examination:
        """Examine files as `SupportsExamination` describes."""
        missing, strays = await self._compared()
        damaged: list[tuple[str, str]] = []
        entries = list(self._catalog.entries.values())
        looked_at = size = 0
        for entry in random.sample(entries, min(sessions_max, len(entries))):
            if looked_at and size + entry.size > bytes_max:
                continue
            size += entry.size
            try:
                problem = await self._reading(self._problem_of, self._table.current(entry), entry)
            except OutdatedError:
                continue  # Swapped or deleted meanwhile: the swap has checked the files.
            looked_at += 1
            if problem is not None and self._catalog.entries.get(entry.id) is entry:
                damaged.append((entry.id, problem))
        return Examination(
            missing, strays, looked_at, damaged, journal_seconds=self._upkeep.journal_seconds
        )

    async def _compared(self) -> tuple[list[str], list[str]]:
        """Return the sessions without a file, and files without a session.

        A session that is created or deleted during the comparison may seem to be either. So the
        comparison is repeated when the loop knows of everything that the committer has done.
        """
        fs, paths, entries = self._fs, self._paths, self._catalog.entries
        missing, strays = await self._reading(compare, fs, paths, list(entries))
        if not missing and not strays:
            return [], []
        await self._exchanged()
        still_missing, still_strays = await self._reading(compare, fs, paths, list(entries))
        missing = {
            name
            for name in missing & still_missing & entries.keys()
            # A log that could not be written yet is in memory and in the journal.
            if self._table.current(entries[name]).written
        }
        return sorted(missing), sorted(strays & still_strays)

    def _problem_of(self, log: Log, entry: Entry) -> str | None:
        if log.packed:
            problem = problem_of_bundle(self._fs, log.path, log.epoch)
            if problem is not None and log.is_outdated:
                raise OutdatedError
            return problem
        try:
            view = self._writer.view(log, entry.size)
            try:
                return look_through(view)[0]
            finally:
                view.close()
        except OutdatedError:
            raise
        except FileNotFoundError:
            return "the log is missing"
        except LogReplacedError:
            return "the log's first line is another's"
        except DamagedError as damage:
            return f"an unreadable line at byte {damage.offset}"

    async def checkpoint(self) -> bool:
        """Make a checkpoint now; return whether it succeeded."""
        return await self._upkeep.checkpoint()

    @property
    @override
    def is_writing(self) -> bool:
        return self._is_open and self._committer.is_alive

    @property
    @override
    def refusal(self) -> Unavailable | None:
        condition = self._condition
        if condition.refusal is None and condition.is_full:
            return StorageFull("The disk is full: nothing can be written until there is space.")
        return condition.refusal

    def unwritable(self) -> dict[str, str]:
        """Return the sessions whose logs cannot be written, as `SupportsExamination` describes."""
        return self._condition.problems()

    @override
    def stats(self) -> dict[str, Any]:
        committer, upkeep, use = self._committer, self._upkeep.counters, self._catalog.use
        return {
            "sessions": len(self._catalog.entries),
            "commits_total": committer.commits,
            "events_total": self._events,
            "batches_total": committer.batches,
            "batch_failures_total": committer.failures,
            "batch_commits": committer.batch_commits,
            "sync_seconds": committer.sync_seconds,
            "journal_bytes_total": committer.bytes,
            "checkpoints_total": upkeep.checkpoints,
            "checkpoint_failures_total": upkeep.checkpoint_failures,
            "snapshots_total": upkeep.snapshots,
            "quarantined": len(self._mender.quarantined),
            "log_failures_total": self._condition.log_failures,
            "failed_logs": self._condition.failed_logs,
            "open_logs": self._writer.open_files,
            "disk_bytes_logs": use.logs,
            "disk_bytes_archive": use.archive,
            "disk_bytes_snapshots": use.snapshots,
            "disk_bytes_journal": self._journal.disk_bytes,
            "disk_bytes_quarantine": self._checkpointer.quarantine_bytes,
        }

    async def _reading(self, function: Callable[..., T], *arguments: Any) -> T:
        loop = asyncio.get_running_loop()
        return await loop.run_in_executor(self._read_pool, function, *arguments)

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
