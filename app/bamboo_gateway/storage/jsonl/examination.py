"""Examination of a running store's files: sessions without files, stray files, damaged logs."""

import random
from collections.abc import Callable
from dataclasses import dataclass

from bamboo_gateway.storage.file_system import FileSystem
from bamboo_gateway.storage.jsonl.index.catalog import Catalog, Entry
from bamboo_gateway.storage.jsonl.log.log import Log, LogReplacedError, LogWriter, OutdatedError
from bamboo_gateway.storage.jsonl.log.reader import DamagedError
from bamboo_gateway.storage.jsonl.log.table import LogTable
from bamboo_gateway.storage.jsonl.paths import Paths
from bamboo_gateway.storage.jsonl.reads import Reads
from bamboo_gateway.storage.jsonl.verify import check_lines, compare, problem_of_bundle


@dataclass(frozen=True, slots=True)
class Examination:
    """What a running store found in its own files.

    Attributes:
        missing: Sessions whose files are missing.
        strays: The names of files that belong to no session.
        looked_at: How many sessions were read completely.
        damaged: The problems of those: `(session, problem)`.
        journal_seconds: How long the oldest record has waited for a checkpoint.
    """

    missing: list[str]
    strays: list[str]
    looked_at: int
    damaged: list[tuple[str, str]]
    journal_seconds: float


class Examiner:
    """Examines the files of a running store, without changing them."""

    def __init__(
        self,
        fs: FileSystem,
        paths: Paths,
        catalog: Catalog,
        table: LogTable,
        writer: LogWriter,
        reads: Reads,
    ) -> None:
        self._fs = fs
        self._paths = paths
        self._catalog = catalog
        self._table = table
        self._writer = writer
        self._reads = reads

    async def examine(
        self, sessions_max: int, bytes_max: int, journal_seconds: Callable[[], float]
    ) -> Examination:
        """Compare files and sessions, and read some sessions completely, chosen at random.

        Args:
            sessions_max: The most sessions whose logs are read.
            bytes_max: The most bytes read; the first log is read in any case.
            journal_seconds: Returns how long the journal's oldest record has waited.
        """
        missing, strays = await self._compared()
        damaged: list[tuple[str, str]] = []
        entries = list(self._catalog.entries.values())
        looked_at = size = 0
        for entry in random.sample(entries, min(sessions_max, len(entries))):
            if looked_at and size + entry.size > bytes_max:
                continue
            size += entry.size
            try:
                problem = await self._reads.run(self._problem_of, self._table.current(entry), entry)
            except OutdatedError:
                continue  # Swapped or deleted meanwhile: the swap has checked the files.
            looked_at += 1
            if problem is not None and self._catalog.entries.get(entry.id) is entry:
                damaged.append((entry.id, problem))
        return Examination(missing, strays, looked_at, damaged, journal_seconds=journal_seconds())

    async def _compared(self) -> tuple[list[str], list[str]]:
        """Return the sessions without a file, and files without a session.

        A session that is created or deleted during the comparison may seem to be either. So the
        comparison is repeated when the loop knows of everything that the committer has done.
        """
        fs, paths, entries = self._fs, self._paths, self._catalog.entries
        missing, strays = await self._reads.run(compare, fs, paths, list(entries))
        if not missing and not strays:
            return [], []
        await self._reads.wait_for_committer()
        still_missing, still_strays = await self._reads.run(compare, fs, paths, list(entries))
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
                return check_lines(view)[0]
            finally:
                view.close()
        except OutdatedError:
            raise
        except FileNotFoundError:
            return "the log is missing"
        except LogReplacedError:
            return "the log's first line belongs to another log"
        except DamagedError as damage:
            return f"an unreadable line at byte {damage.offset}"
