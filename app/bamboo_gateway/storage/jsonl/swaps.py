"""Changes of a session's files as a whole: packing, unpacking, compaction, and large extensions.

Each prepares new files aside, and `file_swap` puts them in the place of the old ones.
"""

from collections.abc import AsyncIterator, Awaitable, Callable, Collection
from contextlib import asynccontextmanager
from weakref import WeakValueDictionary

import anyio

from bamboo_gateway.domain.errors import Conflict
from bamboo_gateway.domain.sessions import SessionHead
from bamboo_gateway.storage.file_system import FileSystem, failure_of
from bamboo_gateway.storage.jsonl.bulk_threads import BulkThreads
from bamboo_gateway.storage.jsonl.file_swap import FileSwap, FileSwapper
from bamboo_gateway.storage.jsonl.index.catalog import Catalog, Entry
from bamboo_gateway.storage.jsonl.journal.committer import Committer
from bamboo_gateway.storage.jsonl.log.log import Log, LogWriter, OutdatedError
from bamboo_gateway.storage.jsonl.log.table import LogTable
from bamboo_gateway.storage.jsonl.log_copy import LogCopy
from bamboo_gateway.storage.jsonl.packing import prepare_pack, prepare_unpack
from bamboo_gateway.storage.jsonl.reads import DAMAGE, NO_SUCH_SESSION, Reads

# A log that seems damaged is read through in pages of about this size.
_LOOK_EVENTS = 10_000
_LOOK_BYTES = 4 * 1024 * 1024


class Swaps:
    """Prepares and carries out the swaps of the sessions' files."""

    def __init__(
        self,
        fs: FileSystem,
        catalog: Catalog,
        table: LogTable,
        writer: LogWriter,
        committer: Committer,
        swapper: FileSwapper,
        bulk: BulkThreads,
        reads: Reads,
    ) -> None:
        self._fs = fs
        self._catalog = catalog
        self._table = table
        self._writer = writer
        self._committer = committer
        self._swapper = swapper
        self._bulk = bulk
        self._reads = reads
        # One file swap of a session at a time; a lock goes with the last task that holds it.
        self._locks: WeakValueDictionary[str, anyio.Lock] = WeakValueDictionary()

    @asynccontextmanager
    async def copying(self, session_id: str, epoch: int) -> AsyncIterator[LogCopy]:
        """Open a copy of a log; nobody else swaps its files meanwhile."""
        async with self._lock_of(session_id):
            entry = self._reads.entry(session_id, epoch)
            log = await self._committer.send(lambda: self._table.pin(session_id, epoch))
            if log is None or log.packed:
                raise Conflict(NO_SUCH_SESSION, head=log.seq if log else None)
            try:
                head = await self._head_of(entry)
                aside = self._swapper.aside("extend")
                yield LogCopy.of(self._fs, self._writer, log, entry, head, 0, aside, kind="extend")
            finally:
                self._table.unpin(log)

    async def pack(self, session_id: str, epoch: int) -> None:
        """Pack a session as `SessionStore.pack` does."""
        fs, writer = self._fs, self._writer

        async def make(entry: Entry, head: SessionHead) -> FileSwap | None:
            if entry.bundle:
                return None
            log, aside = self._table.current(entry), self._swapper.aside("pack")
            size = entry.size
            return await self._bulk.run(
                lambda: prepare_pack(fs, writer, log, size, entry, head, aside)
            )

        await self._swap(session_id, epoch, "Packing an archived session", make)

    async def unpack(self, session_id: str, epoch: int) -> None:
        """Unpack a session as `SessionStore.unpack` does."""

        async def make(entry: Entry, head: SessionHead) -> FileSwap | None:
            if not entry.bundle:
                return None
            log, aside = self._table.current(entry), self._swapper.aside("unpack")
            return await self._bulk.run(lambda: prepare_unpack(self._fs, log, entry, head, aside))

        await self._swap(session_id, epoch, "Unpacking an archived session", make)

    async def _swap(
        self,
        session_id: str,
        epoch: int,
        doing: str,
        make: Callable[[Entry, SessionHead], Awaitable[FileSwap | None]],
    ) -> None:
        """Swap the files of a session for those that `make` prepares, if it prepares any."""
        async with self._lock_of(session_id):
            entry = self._reads.entry(session_id, epoch)
            head = await self._head_of(entry)
            async with self.failing_as(entry, doing):
                swap = await make(entry, head)
                if swap is not None:
                    await self._swapper.carry_out(swap)

    def _lock_of(self, session_id: str) -> anyio.Lock:
        return self._locks.setdefault(session_id, anyio.Lock())

    async def _head_of(self, entry: Entry) -> SessionHead:
        """Load the head of an entry; the entry has not changed when this returns."""
        head = await self._reads.load(entry.id)
        if head is None or self._catalog.entries.get(entry.id) is not entry:
            raise Conflict(NO_SUCH_SESSION, head=None)
        return head

    @asynccontextmanager
    async def failing_as(self, entry: Entry, doing: str) -> AsyncIterator[None]:
        """Translate errors of files into errors of the contract; repair damage."""
        try:
            yield
        except OutdatedError as gone:
            raise Conflict(NO_SUCH_SESSION, head=None) from gone
        except DAMAGE as damage:
            await self._read_through(entry)
            raise Conflict(NO_SUCH_SESSION, head=None) from damage
        except OSError as error:
            raise failure_of(error, doing) from error

    async def _read_through(self, entry: Entry) -> None:
        """Read every line of a log that seems damaged; the read that finds damage repairs it."""
        after = 0
        while page := await self._reads.read(
            entry.id, entry.epoch, after, limit=_LOOK_EVENTS, max_bytes=_LOOK_BYTES
        ):
            after = page[-1].seq

    async def compact(self, session_id: str, epoch: int, upto: int) -> int:
        """Compact a session as `SessionStore.compact` does."""
        async with self._lock_of(session_id):
            entry = self._reads.entry(session_id, epoch)
            log = await self._reads.pin(session_id, epoch)
            try:
                head = await self._head_of(entry)
                async with self.failing_as(entry, "Compacting a session"):
                    return await self._compact(log, entry, head, upto)
            finally:
                self._table.unpin(log)

    async def remove_events(self, session_id: str, epoch: int, seqs: Collection[int]) -> None:
        """Remove events of a session as `SupportsErasure.remove_events` does."""
        async with self._lock_of(session_id):
            entry = self._reads.entry(session_id, epoch)
            log = await self._reads.pin(session_id, epoch)
            try:
                head = await self._head_of(entry)
                if log.packed:
                    raise Conflict("The session is packed.", head=head.seq)
                without = frozenset(seqs) - {head.seq}
                async with self.failing_as(entry, "Removing events"):
                    await self._compact(log, entry, head, 0, without)
                    await self._swapper.forget_snapshot(entry)
            finally:
                self._table.unpin(log)

    async def _compact(
        self,
        log: Log,
        entry: Entry,
        head: SessionHead,
        upto: int,
        without: frozenset[int] = frozenset(),
    ) -> int:
        if log.packed:
            return 0
        aside = self._swapper.aside("compact")
        compaction = LogCopy.of(self._fs, self._writer, log, entry, head, upto, aside)
        compaction.without = without
        swap = compaction.swap
        await self._bulk.run(compaction.copy)
        if swap.freed == 0:
            await self._bulk.run(lambda: self._swapper.remove(swap.files))
            return 0
        await self._swapper.carry_out(swap, compaction.catch_up)
        return swap.freed
