"""Writes marks into mark files, and rebuilds files that do not fit their logs.

A log's marks are in memory first (`Log.marks`); the next checkpoint writes them into the mark file.
Both change together under the writer's lock. A thread that worked without the lock compares
`Log.marks_version` to learn whether what it read is still valid.
"""

import os
from collections.abc import Iterable
from dataclasses import dataclass
from itertools import islice
from threading import Lock

from bamboo_gateway.storage.file_system import FileSystem
from bamboo_gateway.storage.jsonl.index.catalog import Entry
from bamboo_gateway.storage.jsonl.log.log import Log, LogWriter
from bamboo_gateway.storage.jsonl.log.marks import (
    ENTRY_BYTES,
    marks_of_lines,
    pack_header,
    pack_marks,
)
from bamboo_gateway.storage.jsonl.log.reader import DamagedError
from bamboo_gateway.storage.jsonl.paths import Paths
from bamboo_gateway.storage.marks import Mark

# The marks held in memory while a whole log is read: 1 MiB in the mark file.
_MARKS_AT_ONCE = 32 * 1024


@dataclass(frozen=True, slots=True)
class WrittenMarks:
    """Marks that were written into the mark file and count once it is synced."""

    log: Log
    version: int
    taken: int
    saved: int


class MarkFiles:
    """Writes and rebuilds mark files. Not for the loop's thread, since it blocks."""

    def __init__(self, fs: FileSystem, paths: Paths, writer: LogWriter) -> None:
        self._fs = fs
        self._paths = paths
        self._writer = writer
        # One mark file is written at a time: by the checkpoint, or by a reader that found it stale.
        self._writing = Lock()
        # Readers that find the same file stale wait for the first of them. Each rebuild discards
        # the present marks, so a second one would discard the result of the first.
        self._rebuilding = Lock()

    def write_pending(self, log: Log, size: int, *, sync: bool = False) -> WrittenMarks | None:
        """Write the marks before the byte `size`; return None when there are none.

        Raises:
            OSError: They could not be written.
            DamagedError, LogReplacedError: They could not be read from the log either.
        """
        with self._writing:
            if log.is_outdated or log.packed:
                return None
            with self._writer.lock:
                pending = [(mark, offset) for mark, offset in log.marks if offset < size]
                saved, version = log.marks_saved, log.marks_version
            if saved >= 0 and not pending:
                return None
            if saved < 0:
                count = self._read_out(log, size, sync=sync)
            else:
                count = saved + self._put(log, saved, pending, sync=sync)
            return WrittenMarks(log, version, len(pending), count)

    def settle(self, written: WrittenMarks, entry: Entry) -> None:
        """Let written marks count; have them rebuilt if they were outdated meanwhile.

        All of this runs under the lock under which logs become outdated. So the entry never
        describes files that were swapped in the meantime.
        """
        log = written.log
        with self._writer.lock:
            if log.is_outdated:
                return
            if log.marks_version != written.version:
                entry.marks = -1
                return
            # The entry first: a log without pending marks may be evicted at any moment.
            entry.marks = written.saved
            log.marks_saved = written.saved
            log.marks_version += 1
            del log.marks[: written.taken]

    def forget(self, log: Log) -> None:
        """Have a mark file rebuilt because it does not fit its log."""
        with self._writer.lock:
            log.marks_saved = -1
            log.marks_version += 1

    def _read_out(self, log: Log, size: int, *, sync: bool) -> int:
        view = self._writer.view(log, size)
        try:
            return self._put(log, 0, marks_of_lines(view, view.begin), sync=sync)
        finally:
            view.close()

    def _put(self, log: Log, saved: int, marks: Iterable[tuple[Mark, int]], *, sync: bool) -> int:
        """Write marks behind those in the file; return their number."""
        flags = os.O_RDWR if saved else os.O_RDWR | os.O_CREAT
        path = self._paths.marks_of(log.name)
        fd = self._fs.open(path, flags)
        try:
            if not log.is_outdated:
                # A log is marked as outdated before its files are swapped, so this file belongs to
                # it.
                return self._write_into(fd, log, saved, marks, sync=sync)
            if os.fstat(fd).st_size == 0:
                # The file was just created, and belongs to nobody. A successor that loses its file
                # by this rebuilds it.
                self._fs.unlink(path)
            return 0
        finally:
            self._fs.close(fd)

    def _write_into(
        self, fd: int, log: Log, saved: int, marks: Iterable[tuple[Mark, int]], *, sync: bool
    ) -> int:
        if not saved:
            self._fs.truncate(fd, 0)
            self._fs.pwrite(fd, pack_header(log.epoch), 0)
        count, rest = 0, iter(marks)
        while batch := list(islice(rest, _MARKS_AT_ONCE)):
            self._fs.pwrite(fd, pack_marks(batch), (saved + 1 + count) * ENTRY_BYTES)
            count += len(batch)
        if sync:
            self._fs.sync(fd)
        return count

    def rebuild(self, log: Log, entry: Entry, version: int) -> None:
        """Rebuild a mark file that did not fit its log; `log` is pinned in the table.

        Args:
            log: The log.
            entry: Its entry in the catalog.
            version: The `Log.marks_version` that did not fit; a later one means that somebody else
                has rebuilt the file.

        Raises:
            OSError: The log could not be read.
            DamagedError, LogReplacedError: The log is damaged.
        """
        if log.packed:
            # The checksums of a bundle cover its marks, so wrong marks mean damage.
            raise DamagedError(0)
        with self._rebuilding:
            if log.marks_version > version and log.marks_saved >= 0:
                return
            self.forget(log)
            # All that is acknowledged by now: marks that were removed from memory before must be in
            # the file.
            try:
                written = self.write_pending(log, entry.size, sync=True)
            except FileNotFoundError:
                raise
            except OSError:
                # Reads go on when nothing can be written (or this raises what is wrong with
                # reading).
                self._keep_in_memory(log, entry)
                return
            if written is not None:
                self.settle(written, entry)

    def _keep_in_memory(self, log: Log, entry: Entry) -> None:
        """Keep all marks of a log in memory until a checkpoint can write them."""
        view = self._writer.view(log, entry.size)
        try:
            marks = list(marks_of_lines(view, view.begin))
        finally:
            view.close()
        with self._writer.lock:
            marks += [(mark, offset) for mark, offset in log.marks if offset >= entry.size]
            log.marks[:] = marks
            entry.marks = -1
            log.marks_saved = 0
            log.marks_version += 1
