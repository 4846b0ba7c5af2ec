"""Reads sessions: heads, pages of events, and lines found by their marks.

Reads run in a thread pool of their own. They see all durable events, whether these are in the log
file or still in memory. A short log that is in memory alone, as that of a new session is, is read
without a thread: the hop costs more than the read. So are the last messages of a log
(`recent_messages`). A read that finds its log damaged repairs it (R4).
"""

import asyncio
from collections import OrderedDict
from collections.abc import Callable, Collection
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any, TypeVar

import anyio
from anyio import to_thread

from bamboo_gateway.domain.errors import Conflict, StorageFailed, Unavailable
from bamboo_gateway.domain.limits import KiB
from bamboo_gateway.domain.sessions import SessionHead
from bamboo_gateway.storage.commits import Found, MarkKind, Record
from bamboo_gateway.storage.file_system import FileSystem, failure_of
from bamboo_gateway.storage.jsonl.index.catalog import Catalog, Entry
from bamboo_gateway.storage.jsonl.index.catalog_file import CatalogFile
from bamboo_gateway.storage.jsonl.index.catalog_lines import ErasedError
from bamboo_gateway.storage.jsonl.journal.committer import Committer
from bamboo_gateway.storage.jsonl.journal.lifecycle_records import LifecycleRecords
from bamboo_gateway.storage.jsonl.log.log import Log, LogReplacedError, LogWriter, OutdatedError
from bamboo_gateway.storage.jsonl.log.marks import StaleMarksError
from bamboo_gateway.storage.jsonl.log.reader import DamagedError, read_page
from bamboo_gateway.storage.jsonl.log.table import LogTable
from bamboo_gateway.storage.jsonl.mark_files import MarkFiles
from bamboo_gateway.storage.jsonl.mark_search import MarkSearch, Search
from bamboo_gateway.storage.jsonl.online_repair import OnlineRepair
from bamboo_gateway.storage.jsonl.paths import Paths, file_name
from bamboo_gateway.storage.jsonl.rebuild import Rebuilder
from bamboo_gateway.storage.jsonl.recent_messages import RecentMessages

# Threads for readers that are behind the event queue: more would only wait for the same disk.
_READ_THREADS = 4
# The most page ends kept; a reader's next page then needs no search.
_PLACES_MAX = 4096
# Marks may become stale again meanwhile (a checkpoint that could not write them), but not forever.
_REBUILDS_MAX = 3
# A log in memory that is read on the event loop has at most this size: a fraction of a millisecond.
_AT_ONCE_BYTES_MAX = 32 * KiB
_READING = "Reading the session's log"
NO_SUCH_SESSION = "There is no such session of that epoch."
DAMAGE = (DamagedError, LogReplacedError, FileNotFoundError)

T = TypeVar("T")


class Reads:
    """Reads for the store; all methods are called on the loop's thread."""

    def __init__(
        self,
        fs: FileSystem,
        paths: Paths,
        catalog: Catalog,
        catalog_file: CatalogFile,
        table: LogTable,
        writer: LogWriter,
        mark_files: MarkFiles,
        mark_search: MarkSearch,
        committer: Committer,
        lifecycle: LifecycleRecords,
        online_repair: OnlineRepair,
        recent: RecentMessages,
        next_epoch: Callable[[], int],
        is_open: Callable[[], bool],
    ) -> None:
        self._fs = fs
        self._paths = paths
        self._catalog = catalog
        self._catalog_file = catalog_file
        self._table = table
        self._writer = writer
        self._mark_files = mark_files
        self._mark_search = mark_search
        self._committer = committer
        self._lifecycle = lifecycle
        self._online_repair = online_repair
        self._recent = recent
        self._next_epoch = next_epoch
        self._is_open = is_open
        self._pool = ThreadPoolExecutor(_READ_THREADS, "bamboo-read")
        # Where pages ended, by session, epoch, generation and seq.
        self._places: OrderedDict[tuple[str, int, int, int], int] = OrderedDict()
        # One repair of a session at a time, shared by all reads that found the damage.
        self._repairs: dict[str, asyncio.Future[None]] = {}

    async def load(self, session_id: str) -> SessionHead | None:
        """Load a head as `SessionStore.load` does."""
        entry = self._catalog.entries.get(session_id)
        if entry is None:
            return None
        if entry.has_head:
            return entry.own_head()
        seq = entry.seq
        try:
            head = await self.run(self._catalog_file.head_of, entry)
        except ErasedError:
            return await self.load(session_id)
        except OSError:
            head = await self.run(self._head_from_log, entry)
        current = self._catalog.entries.get(session_id)
        if current is not entry or head is None or current.has_head or current.seq != seq:
            # The session changed, came into memory, or was deleted while this waited: the head may
            # be old.
            return await self.load(session_id)
        return entry.updated(head)

    def _head_from_log(self, entry: Entry) -> SessionHead:
        rebuilder = Rebuilder(self._fs, self._paths)
        rebuilt = rebuilder.entry_of(file_name(entry.id), may_be_torn=True)
        if rebuilt is None:
            raise StorageFailed("The session cannot be read.")
        return rebuilt.own_head()

    async def read(
        self, session_id: str, epoch: int, after: int, *, limit: int, max_bytes: int
    ) -> list[Record]:
        """Read a page as `SessionStore.read` does."""
        suspected = False
        while True:
            entry = self.entry(session_id, epoch)
            if after >= entry.seq or limit <= 0:
                return []
            log, size = self._table.current(entry), entry.size
            start = self._places.get((session_id, epoch, log.generation, after))
            try:
                page, end = await self._use(
                    log, size, partial(self._read_page, after, start, limit, max_bytes)
                )
            except OutdatedError:
                await self.wait_for_committer()
                continue
            except DAMAGE as damage:
                if not suspected:
                    # Files that are being swapped look damaged too. Only what looks damaged at a
                    # second look is repaired, since a repair ends the epoch.
                    suspected = True
                    await self.wait_for_committer()
                    continue
                await self.repair(entry)
                raise Conflict(NO_SUCH_SESSION, head=None) from damage
            except OSError as error:
                raise failure_of(error, _READING) from error
            if page:
                self._note_place((session_id, epoch, log.generation, page[-1].seq), end)
            return page

    async def wait_for_committer(self) -> None:
        """Wait until the loop knows of all swaps that the committer has made."""
        await self._committer.send(lambda: None)

    def _read_page(
        self, after: int, start: int | None, limit: int, max_bytes: int, log: Log, size: int
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

    async def find(self, session_id: str, epoch: int, search: Search) -> Found:
        """Find lines as `SessionStore.find` does."""
        entry = self.entry(session_id, epoch)
        if search.limit <= 0:
            return Found()
        recent = self._recent.find(entry, search)
        if recent is not None:
            return recent
        generation, seq = entry.generation, entry.seq
        found = await self._by_marks(
            session_id, epoch, partial(self._mark_search.find, search=search)
        )
        if self._catalog.entries.get(session_id) is entry:
            self._recent.was_read(entry, generation, seq, search, found)
        return found

    async def count_marks(self, session_id: str, epoch: int, search: Search) -> int:
        """Count marks as `SessionStore.count_marks` does."""
        look = partial(self._mark_search.count, search=search)
        return await self._by_marks(session_id, epoch, look)

    async def keys_in_use(
        self, session_id: str, epoch: int, kind: MarkKind, keys: Collection[str]
    ) -> set[str]:
        """Return keys in use as `SessionStore.keys_in_use` does."""
        look = partial(self._mark_search.keys_in_use, kind=kind, keys=keys)
        return await self._by_marks(session_id, epoch, look)

    async def _by_marks(self, session_id: str, epoch: int, look: Callable[[Log, int], T]) -> T:
        """Return what `look` finds by a log's marks; rebuild marks that do not fit the log."""
        suspected = False
        while True:
            entry = self.entry(session_id, epoch)
            try:
                return await self._look(entry, look)
            except OutdatedError:
                await self.wait_for_committer()
            except DAMAGE as damage:
                if not suspected:
                    suspected = True
                    await self.wait_for_committer()
                    continue
                await self.repair(entry)
                raise Conflict(NO_SUCH_SESSION, head=None) from damage
            except OSError as error:
                raise failure_of(error, _READING) from error

    async def _look(self, entry: Entry, look: Callable[[Log, int], T]) -> T:
        for _ in range(_REBUILDS_MAX):
            log = self._table.current(entry)
            version = log.marks_version
            try:
                return await self._use(log, entry.size, look)
            except StaleMarksError:
                await self._rebuild_marks(entry, log.generation, version)
        return await self._use(self._table.current(entry), entry.size, look)

    async def _use(self, log: Log, size: int, look: Callable[[Log, int], T]) -> T:
        """Return what `look` reads of a log up to the byte `size`."""
        if size <= _AT_ONCE_BYTES_MAX:
            copy = self._writer.copy_in_memory(log)
            if copy is not None:
                return look(copy, size)
        return await self.run(look, log, size)

    async def _rebuild_marks(self, entry: Entry, generation: int, version: int) -> None:
        log = await self.pin(entry.id, entry.epoch)
        try:
            if log.generation != generation:
                raise OutdatedError
            await self.run(self._mark_files.rebuild, log, entry, version)
        finally:
            self._table.unpin(log)

    async def pin(self, session_id: str, epoch: int) -> Log:
        """Keep a log in the log table; the caller unpins it."""
        pinning = self._committer.send(lambda: self._table.pin(session_id, epoch))
        try:
            log = await asyncio.shield(pinning)
        except asyncio.CancelledError:
            # The committer pins it even when the caller is cancelled.
            pinning.add_done_callback(self._unpin)
            raise
        if log is None:
            raise Conflict(NO_SUCH_SESSION, head=None)
        return log

    def _unpin(self, pinning: "asyncio.Future[Log | None]") -> None:
        log = pinning.result()
        if log is not None:
            self._table.unpin(log)

    def entry(self, session_id: str, epoch: int) -> Entry:
        """Return the catalog entry of a session.

        Raises:
            Conflict: There is no such session of that epoch.
            Unavailable: The store is closed.
        """
        entry = self._catalog.entries.get(session_id)
        if entry is None or entry.epoch != epoch:
            raise Conflict(NO_SUCH_SESSION, head=None)
        if not self._is_open():
            raise Unavailable("The store is closed.")
        return entry

    async def repair(self, entry: Entry) -> None:
        """Repair a damaged log once, even when several readers found the damage."""
        repairing = self._repairs.get(entry.id)
        if repairing is None:
            if self._catalog.entries.get(entry.id) is not entry:
                return
            repairing = asyncio.get_running_loop().create_future()
            self._repairs[entry.id] = repairing
            with anyio.CancelScope(shield=True):
                try:
                    await self._repair_once(entry)
                finally:
                    del self._repairs[entry.id]
                    repairing.set_result(None)
        else:
            await asyncio.shield(repairing)

    async def _repair_once(self, entry: Entry) -> None:
        head = await self.load(entry.id)
        if head is None or head.epoch != entry.epoch:
            return
        # All of one moment: the files may be swapped while the thread works. Lines that are being
        # written at this moment are not included, since the thread may see only a part of them.
        prepare = partial(
            self._online_repair.prepare,
            head,
            self._next_epoch(),
            entry.generation,
            min(entry.size, self._table.current(entry).written),
            is_packed=entry.bundle > 0,
        )
        try:
            prepared = await to_thread.run_sync(prepare)
            await self._lifecycle.carry_out(
                lambda: self._online_repair.switch(prepared), self._adopt_repaired
            )
        except OSError as error:
            raise failure_of(error, "Repairing a damaged log") from error

    def _adopt_repaired(self, fresh: Entry | None) -> None:
        if fresh is not None:
            self._catalog.adopt(fresh)

    async def run(self, function: Callable[..., T], *arguments: Any) -> T:
        """Run a function in the pool for reads."""
        loop = asyncio.get_running_loop()
        return await loop.run_in_executor(self._pool, function, *arguments)

    async def finish_repairs(self) -> None:
        """Wait until no repair is running."""
        for repairing in list(self._repairs.values()):
            await repairing

    def close(self) -> None:
        """Let the pool's threads end."""
        self._pool.shutdown(wait=False)
