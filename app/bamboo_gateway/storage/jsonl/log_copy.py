"""A copy of a log, written aside while the session goes on: without old deltas, or with new events.

Compaction removes the deltas of runs that ended long ago; every position keeps its meaning. It
copies the other lines aside while reads and appends go on. The lines that arrive meanwhile are
added on the committer's thread, so their number is limited by the time that copying took. Then the
files are swapped. The removed seqs leave gaps. The last event always stays, because it shows where
the log ends.

An extension (see `bulk_append`) copies all lines, and adds the events that are published with them.
"""

import os
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

from bamboo_gateway.domain.sessions import SessionHead
from bamboo_gateway.storage.file_system import FileSystem
from bamboo_gateway.storage.jsonl.bulk_threads import Pacer
from bamboo_gateway.storage.jsonl.file_swap import FileSwap, Kind
from bamboo_gateway.storage.jsonl.index.catalog import Entry
from bamboo_gateway.storage.jsonl.log.log import Log, LogView, LogWriter, make_header
from bamboo_gateway.storage.jsonl.log.marks import ENTRY_BYTES, pack_header, pack_marks
from bamboo_gateway.storage.jsonl.log.reader import lines_from, seq_of
from bamboo_gateway.storage.jsonl.repair import fold_data
from bamboo_gateway.storage.lines import is_delta, mark_of_line
from bamboo_gateway.storage.marks import Mark

# The bytes written at once.
_CHUNK_BYTES = 1024 * 1024
# The bytes left to the committer's thread: some ms of its time.
_CATCH_UP_BYTES = 64 * 1024


@dataclass(slots=True)
class LogCopy:
    """The copy of one log.

    Attributes:
        fs: The file system.
        writer: Opens logs for reading.
        log: The log at the beginning of the copy.
        upto: Deltas up to this seq are removed.
        without: The seqs of further events that are removed.
        swap: The file swap that the copy prepares.
        covered: The bytes of the old log that were copied or skipped.
    """

    fs: FileSystem
    writer: LogWriter
    log: Log
    upto: int
    swap: FileSwap
    covered: int = 0
    without: frozenset[int] = frozenset()
    _seq: int = 0
    _lines: list[bytes] = field(default_factory=list)
    _pending_bytes: int = 0
    _pending_marks: list[tuple[Mark, int]] = field(default_factory=list)
    _fds: list[int] = field(default_factory=list)

    @classmethod
    def of(
        cls,
        fs: FileSystem,
        writer: LogWriter,
        log: Log,
        entry: Entry,
        head: SessionHead,
        upto: int,
        aside: Path,
        kind: Kind = "compact",
    ) -> "LogCopy":
        """Begin a copy of a log as it is at this moment."""
        mark_file = aside.with_name(f"{aside.name}.idx")
        swap = FileSwap(kind, entry, log.generation, head, aside, mark_file)
        swap.token = f"{entry.epoch}-{head.seq}-{entry.generation}-{aside.name}"
        return cls(fs, writer, log, min(upto, head.seq - 1), swap, covered=entry.size)

    def copy(self) -> None:
        """Copy the remaining lines aside and sync them; on a thread for bulk work.

        Raises:
            OSError: They could not be written.
            DamagedError, LogReplacedError: The log is damaged, or was replaced.
        """
        swap = self.swap
        try:
            self.begin()
            # Copy the lines that arrived meanwhile, until little is left for the committer.
            while swap.entry.size - self.covered > _CATCH_UP_BYTES:
                self._copy_until(swap.entry.size, is_new=True)
            self.finish()
        except BaseException:
            self.discard()
            raise

    def begin(self) -> None:
        """Copy the lines that the log had at the beginning; then call `finish` or `discard`."""
        swap = self.swap
        self._open(os.O_RDWR | os.O_CREAT | os.O_TRUNC)
        self.fs.pwrite(self._fds[1], pack_header(swap.entry.epoch), 0)
        head = swap.head
        self._take(make_header(head.id, head.epoch, head.created_at, token=swap.token))
        self._copy_until(self.covered, is_new=False)

    def add(self, lines: bytes) -> None:
        """Add stored lines that the session does not have yet; the caller updates its head."""
        pacer = Pacer()
        for line in lines.splitlines(keepends=True):
            pacer.took(len(line))
            self._keep(line[:-1])
        self._flush()

    def finish(self) -> None:
        """Sync the files and their names."""
        self._sync_and_close()
        self.fs.sync_directory(self.swap.log.parent)

    def discard(self) -> None:
        """Remove the files."""
        self._close()
        for path in self.swap.files:
            with suppress(OSError):
                self.fs.unlink(path)

    def _copy_until(self, end: int, *, is_new: bool) -> None:
        view = self.writer.view(self.log, end)
        try:
            self._copy_lines(
                view, self.covered if is_new else view.begin, is_new=is_new, pacer=Pacer()
            )
        finally:
            view.close()
        self.covered = end

    def catch_up(self, log: Log) -> None:
        """Add the lines that arrived since; on the committer's thread.

        Raises:
            OSError: They could not be read or written.
            DamagedError: The log is damaged.
        """
        if log.size == self.covered:
            return
        view = self.writer.view(log, log.size)
        try:
            self._open(os.O_RDWR)
            self._copy_lines(view, self.covered, is_new=True)
            self._sync_and_close()
        finally:
            self._close()
            view.close()

    def _copy_lines(
        self, view: LogView, begin: int, *, is_new: bool, pacer: Pacer | None = None
    ) -> None:
        """Copy lines; fold new ones into the head, which does not have them yet."""
        swap = self.swap
        for _, part in lines_from(view, begin):
            if pacer is not None:
                pacer.took(len(part))
            if is_new:
                fold_data(swap.head, part)
            if self.without and seq_of(part) in self.without:
                swap.freed += len(part) + 1
                continue
            if is_delta(part):
                seq = seq_of(part)
                if seq is not None and seq <= self.upto:
                    swap.freed += len(part) + 1
                    continue
                swap.deltas += len(part) + 1
            self._keep(part)
        self._flush()

    def _keep(self, part: bytes) -> None:
        mark = mark_of_line(part, self._seq)
        if mark is not None:
            self._pending_marks.append((mark, self.swap.size))
        self._seq = seq_of(part) or self._seq
        self._take(part + b"\n")

    def _take(self, line: bytes) -> None:
        self._lines.append(line)
        self._pending_bytes += len(line)
        self.swap.size += len(line)
        if self._pending_bytes >= _CHUNK_BYTES:
            self._flush()

    def _flush(self) -> None:
        swap = self.swap
        data = b"".join(self._lines)
        self.fs.pwrite(self._fds[0], data, swap.size - len(data))
        place = (swap.marks + 1) * ENTRY_BYTES
        self.fs.pwrite(self._fds[1], pack_marks(self._pending_marks), place)
        swap.marks += len(self._pending_marks)
        self._lines, self._pending_bytes, self._pending_marks = [], 0, []

    def _open(self, flags: int) -> None:
        for path in self.swap.files:
            self._fds.append(self.fs.open(path, flags))

    def _sync_and_close(self) -> None:
        for fd in self._fds:
            self.fs.sync(fd)
        self._close()

    def _close(self) -> None:
        fds, self._fds = self._fds, []
        for fd in fds:
            self.fs.close(fd)
