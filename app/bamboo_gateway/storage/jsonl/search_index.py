"""Keeps index/search.sqlite up to date, and searches it.

The messages of commits wait in memory until the next write, which a checkpoint or a search starts:
so a search finds what was acknowledged before it. Sessions whose messages are not known so, as
after a start that finds the database behind or missing, are read from their logs, behind all
others. Until they are, a search finds the messages of the rest; the log says so.

Everything here begins and ends on the loop's thread; a thread of its own does the work. No failure
of the database fails a commit: what was not written is tried again.
"""

import asyncio
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import TYPE_CHECKING, Any

import structlog

from bamboo_gateway.domain.errors import StorageFailed
from bamboo_gateway.domain.limits import MiB
from bamboo_gateway.storage.commits import Commit
from bamboo_gateway.storage.jsonl.index.catalog import Catalog
from bamboo_gateway.storage.jsonl.index.catalog_file import CatalogFile
from bamboo_gateway.storage.jsonl.index.cold_list import head_now
from bamboo_gateway.storage.jsonl.log.log import Log, LogReplacedError, LogWriter, OutdatedError
from bamboo_gateway.storage.jsonl.log.marks import StaleMarksError
from bamboo_gateway.storage.jsonl.log.reader import DamagedError, read_page
from bamboo_gateway.storage.jsonl.log.table import LogTable
from bamboo_gateway.storage.jsonl.mark_search import NO_END, MarkSearch, Search
from bamboo_gateway.storage.jsonl.paths import Paths
from bamboo_gateway.storage.reports import SearchQuery
from bamboo_gateway.storage.searching import FoundMessages

if TYPE_CHECKING:
    from bamboo_gateway.storage.jsonl.index.search_database import Job, SearchDatabase

# The messages that wait in memory; sessions beyond are read from their logs.
_WAITING_BYTES_MAX = 4 * MiB
# One transaction: some tens of milliseconds that a search may wait for.
_WRITE_SESSIONS_MAX = 200
_WRITE_BYTES_MAX = 1 * MiB
# The sessions of which is known that the database has all messages but the waiting ones.
_FOLLOWED_MAX = 20_000
# A search waits for so many writes: more begin only while commits keep coming.
_WRITES_AWAITED = 9
_PAGE_MESSAGES = 500

_Messages = list[tuple[int, bytes]]
logger = structlog.get_logger(__name__)


class SearchIndex:
    """The search index of one store."""

    def __init__(
        self,
        paths: Paths,
        catalog: Catalog,
        catalog_file: CatalogFile,
        table: LogTable,
        writer: LogWriter,
        mark_search: MarkSearch,
        check_place: Callable[[], None],
    ) -> None:
        self._paths = paths
        self._catalog = catalog
        self._catalog_file = catalog_file
        self._table = table
        self._writer = writer
        self._mark_search = mark_search
        self._check_place = check_place
        self._pool = ThreadPoolExecutor(1, "bamboo-index")
        self._database: SearchDatabase | None = None
        self._is_started = self._is_closed = False
        self._working: asyncio.Future[Any] | None = None
        # The messages of commits, by session; None for a session whose log has to be read.
        self._waiting: dict[str, _Messages | None] = {}
        self._waiting_bytes = 0
        # How many of them are written now. The others wait for the next call of `write`: a
        # transaction of many messages costs less for each of them.
        self._due = 0
        # The epochs of the sessions that are followed, and whether their row exists.
        self._followed: dict[str, int] = {}
        self._new: set[str] = set()
        # The sessions that the start found, and the number that it found.
        self._backlog: dict[str, None] = {}
        self._backlog_size = 0
        self.disk_bytes = self.failures = 0
        # Whether the last write succeeded; there may have been none.
        self.is_working = True

    @property
    def backlog(self) -> int:
        """The number of sessions whose messages are not found yet."""
        return len(self._backlog)

    @property
    def skipped(self) -> int:
        """The number of messages and sessions left out, since they cannot be searched."""
        return self._database.skipped if self._database is not None else 0

    def committed(self, commit: Commit) -> None:
        """Take a commit with a head; a commit of deltas changes nothing that is searched."""
        session_id, epoch = commit.session_id, commit.epoch
        if commit.create:
            # A successor of a deleted session begins with its row, too.
            self._forget(session_id)
            self._waiting[session_id] = []
            self._follow(session_id, epoch)
            self._new.add(session_id)
        elif self._followed.get(session_id) != epoch:
            self.changed(session_id)
            return
        waiting = self._waiting.setdefault(session_id, [])
        if waiting is None:
            return
        for seq, kind, body in commit.events:
            if kind == "message":
                waiting.append((seq, body))
                self._waiting_bytes += len(body)
        if self._waiting_bytes > _WAITING_BYTES_MAX:
            self.changed(session_id)
        elif self._waiting_bytes > _WAITING_BYTES_MAX // 2 and self.is_working and self._due <= 0:
            self.write()

    def changed(self, session_id: str) -> None:
        """Note a session that was deleted, or whose log has to be read."""
        self._forget(session_id)
        self._waiting[session_id] = None

    def _forget(self, session_id: str) -> None:
        waiting = self._waiting.pop(session_id, None)
        self._waiting_bytes -= sum(len(body) for _, body in waiting or ())
        self._followed.pop(session_id, None)
        self._new.discard(session_id)

    def _follow(self, session_id: str, epoch: int) -> None:
        self._followed[session_id] = epoch
        if len(self._followed) > _FOLLOWED_MAX:
            for known in self._followed:
                if known not in self._waiting:
                    del self._followed[known]
                    break

    def write(self) -> None:
        """Start writing what waits; it goes on until that is written."""
        self._due = len(self._waiting)
        self._go_on()

    def _go_on(self) -> None:
        if self._working is not None or self._is_closed:
            return
        self._take_rewritten()
        loop = asyncio.get_running_loop()
        if not self._is_started:
            known = [
                (e.id, e.epoch, e.seq, e.relations.user_id, e.relations.is_archived)
                for e in self._catalog.entries.values()
                # Of a new one everything waits.
                if e.id not in self._new
            ]
            self._working = loop.run_in_executor(self._pool, self._start, known)
            self._working.add_done_callback(self._was_started)
            return
        jobs, taken = self._take()
        if jobs:
            self._working = loop.run_in_executor(self._pool, self._write, jobs)
            self._working.add_done_callback(partial(self._was_written, taken))

    def _take_rewritten(self) -> None:
        for name in self._catalog.rewritten:
            self.changed(name)
        self._catalog.rewritten.clear()

    def _start(self, known: list[Any]) -> list[str]:
        # Imported here, since it needs SQLite, and a start does not.
        from bamboo_gateway.storage.jsonl.index.search_database import (  # noqa: PLC0415
            SearchDatabase,
        )

        if self._database is None:
            self._database = SearchDatabase(self._paths.search_database, self._check_place)
        stale = self._database.start(known)
        self.disk_bytes = self._database.disk_bytes
        return stale

    def _was_started(self, starting: "asyncio.Future[list[str]]") -> None:
        self._working = None
        error = starting.exception()
        if error is not None:
            self._failed(error)
            return
        self._is_started = True
        self._due = len(self._waiting)
        self._backlog.update(
            (name, None) for name in starting.result() if name not in self._waiting
        )
        self._backlog_size = len(self._backlog)
        if self._backlog:
            logger.info("search_index_behind", sessions=len(self._backlog))
        self._go_on()

    def _take(self) -> "tuple[list[Job], dict[str, _Messages | None]]":
        """Take the next sessions to write: those of commits first."""
        taken = {name: self._waiting[name] for name in list(self._waiting)[:_WRITE_SESSIONS_MAX]}
        for name in list(self._backlog)[: _WRITE_SESSIONS_MAX - len(taken)]:
            del self._backlog[name]
            # A commit that waits may be of a session that is not followed, and then it is read.
            taken.setdefault(name, None)
        jobs = [self._job(name, messages) for name, messages in taken.items()]
        self._due -= len(taken)
        for name, messages in taken.items():
            if name in self._waiting:
                del self._waiting[name]
                self._waiting_bytes -= sum(len(body) for _, body in messages or ())
        return jobs, taken

    def _job(self, session_id: str, messages: _Messages | None) -> "Job":
        from bamboo_gateway.storage.jsonl.index.search_database import Job  # noqa: PLC0415

        entry = self._catalog.entries.get(session_id)
        if entry is None:
            return Job(session_id, 0, None, (), is_new=False, read=_nothing)
        is_new = session_id in self._new
        self._new.discard(session_id)
        read = partial(self._read, self._table.current(entry), entry.size)
        head = partial(head_now, self._catalog_file, entry)
        return Job(session_id, entry.seq, head, messages, is_new, read)

    def _read(self, log: Log, size: int, after: int) -> Iterator[Sequence[tuple[int, bytes]]]:
        """Read the messages of a log behind a seq, in pages."""
        try:
            while True:
                search = Search("message", None, after, NO_END, _PAGE_MESSAGES, MiB, reverse=False)
                found = self._mark_search.find(log, size, search)
                yield found
                if not found.has_more:
                    return
                after = found[-1].seq
        except StaleMarksError:
            # Whoever reads the session next makes its marks again.
            yield from self._read_all(log, size, after)

    def _read_all(self, log: Log, size: int, after: int) -> Iterator[Sequence[tuple[int, bytes]]]:
        view = self._writer.view(log, size)
        try:
            place = None
            while True:
                page, place = read_page(view, after, place, 1000, MiB)
                if not page:
                    return
                after = page[-1].seq
                yield [record for record in page if record.type == "message"]
        finally:
            view.close()

    def _write(self, jobs: "list[Job]") -> list[str]:
        assert self._database is not None, "it was started"
        left = self._database.write(jobs, _WRITE_BYTES_MAX, (OutdatedError,), _UNREADABLE)
        self.disk_bytes = self._database.disk_bytes
        return left

    def _was_written(
        self, taken: dict[str, _Messages | None], writing: "asyncio.Future[list[str]]"
    ) -> None:
        self._working = None
        error = writing.exception()
        left = list(taken) if error is not None else writing.result()
        for name in left:
            # What waited is read from the log instead.
            self._followed.pop(name, None)
            if name not in self._waiting:
                self._backlog[name] = None
            else:
                self.changed(name)
        for name in taken.keys() - left:
            entry = self._catalog.entries.get(name)
            if entry is not None and name not in self._waiting:
                self._follow(name, entry.epoch)
        if error is not None:
            self._failed(error)
            return
        self.is_working = True
        self._report()
        if self._due > 0 or self._backlog:
            self._go_on()

    def _report(self) -> None:
        if self._backlog_size and not self._backlog:
            logger.info("search_index_complete", sessions=self._backlog_size)
            self._backlog_size = 0
        elif self._backlog_size and len(self._backlog) % 5000 < _WRITE_SESSIONS_MAX:
            logger.info("search_index_progress", left=len(self._backlog), of=self._backlog_size)

    def _failed(self, error: BaseException) -> None:
        """Log a failure; the next write makes a database again that cannot be used."""
        from bamboo_gateway.storage.jsonl.index.search_database import UNUSABLE  # noqa: PLC0415

        self.failures += 1
        self.is_working = False
        logger.warning("search_index_failed", error=type(error).__name__, reason=str(error))
        if isinstance(error, UNUSABLE) and self._database is not None:
            self._is_started = False
            self._followed.clear()
            self._new.clear()
            for name in list(self._waiting):
                self.changed(name)
            self._pool.submit(self._database.remove)

    async def search(self, query: SearchQuery) -> FoundMessages:
        """Find messages: those acknowledged before, but for sessions of the backlog.

        Raises:
            InvalidCursor: The cursor was not made by this store.
            StorageFailed: The database cannot be read.
        """
        found: FoundMessages = await self._ask(lambda database: database.search(query))
        return found

    async def sessions_with(self, terms: tuple[str, ...], user_id: str | None) -> set[str]:
        """Find the sessions with a message that has the terms, and perhaps some of other users.

        Raises:
            StorageFailed: The database cannot be read.
        """
        found: set[str] = await self._ask(lambda database: database.sessions_with(terms, user_id))
        return found

    async def _ask(self, ask: "Callable[[SearchDatabase], Any]") -> Any:
        await self.caught_up()
        if self._database is None or not self._is_started:
            raise StorageFailed("The search index cannot be opened.")
        from apsw import Error  # noqa: PLC0415

        try:
            return await asyncio.get_running_loop().run_in_executor(self._pool, ask, self._database)
        except Error as error:
            self._failed(error)
            raise StorageFailed("The search index cannot be read; it is made again.") from error

    async def erase(self) -> bool:
        """Remove what deleted messages left in the database; return whether that is done.

        What was committed and deleted before is written first.
        """
        try:
            await self.caught_up()
            done: bool = await self._ask(lambda database: database.erase())
        except StorageFailed:
            return False
        return done and not self._waiting

    async def caught_up(self) -> None:
        """Wait until what waits now is written, or could not be."""
        # What waits at most is 4 writes of bytes, and these of sessions.
        for _ in range(_WRITES_AWAITED + len(self._waiting) // _WRITE_SESSIONS_MAX):
            self.write()
            if self._working is None:
                return
            await asyncio.wait([self._working])
            # The callbacks of the future run before the waiting task goes on.
            if not self._waiting and not self._catalog.rewritten and self._is_started:
                return

    async def aclose(self) -> None:
        """Stop writing, and close the database."""
        self._is_closed = True
        if self._working is not None:
            await asyncio.wait([self._working])
        if self._database is not None:
            await asyncio.get_running_loop().run_in_executor(self._pool, self._database.close)
        self.stop()

    def stop(self) -> None:
        """Let the thread end."""
        self._is_closed = True
        self._pool.shutdown(wait=False)


# The next reader of such a log finds the damage and repairs it; then it has a new epoch.
_UNREADABLE = (DamagedError, LogReplacedError, OSError)


def _nothing(_: int) -> Iterator[Any]:
    return iter(())
