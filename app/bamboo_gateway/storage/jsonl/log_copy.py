"""A log copied aside while the session goes on: without old deltas, or with many new events.

Compaction: the deltas of runs long ended leave the log; every position stays what it was. The lines
to keep are copied aside while readers and appends go on. What has come meanwhile is added on the
committer's thread, so it is as little as the copying took time; then the files are exchanged. Seqs
keep their holes, and the last event always stays: the log's end is known by it.

An extension (see `extending`) copies all lines, and adds those that are to be published with it.
"""

import os
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

from bamboo_gateway.domain.sessions import SessionHead
from bamboo_gateway.storage.jsonl.bulk_threads import Pacer
from bamboo_gateway.storage.jsonl.file_swap import FileSwap, Kind
from bamboo_gateway.storage.jsonl.files import FileSystem
from bamboo_gateway.storage.jsonl.index.catalog import Entry
from bamboo_gateway.storage.jsonl.log.log import Log, LogView, LogWriter, make_header
from bamboo_gateway.storage.jsonl.log.marks import ENTRY_BYTES, pack_header, pack_marks
from bamboo_gateway.storage.jsonl.log.reader import lines_from, seq_of
from bamboo_gateway.storage.jsonl.repair import fold_data
from bamboo_gateway.storage.lines import is_delta, mark_of_line
from bamboo_gateway.storage.marks import Mark

# What is written at once.
_CHUNK_BYTES = 1024 * 1024
# What is left to the committer's thread: some ms of its time.
_CATCH_UP_BYTES = 64 * 1024


@dataclass(slots=True)
class LogCopy:
    """One compaction.

    Attributes:
        fs: The files.
        writer: Opens logs.
        log: As it was when it began.
        upto: Deltas up to this seq go.
        exchange: What comes of it.
        covered: The bytes of the old log that were looked at.
    """

    fs: FileSystem
    writer: LogWriter
    log: Log
    upto: int
    exchange: FileSwap
    covered: int = 0
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
        """Begin one of a log as it is at this moment."""
        sidecar = aside.with_name(f"{aside.name}.idx")
        exchange = FileSwap(kind, entry, log.generation, head, aside, sidecar)
        exchange.token = f"{entry.epoch}-{head.seq}-{entry.generation}-{aside.name}"
        return cls(fs, writer, log, min(upto, head.seq - 1), exchange, covered=entry.size)

    def copy(self) -> None:
        """Copy what stays aside and sync it; on a thread for bulk work.

        Raises:
            OSError: It could not be written.
            DamagedError, LogReplacedError: The log is damaged, or another one by now.
        """
        exchange = self.exchange
        try:
            self.begin()
            # What has come meanwhile, until little is left for the committer.
            while exchange.entry.size - self.covered > _CATCH_UP_BYTES:
                self._copy_until(exchange.entry.size, is_new=True)
            self.finish()
        except BaseException:
            self.discard()
            raise

    def begin(self) -> None:
        """Copy what the log had at the beginning; `finish` or `discard` has to follow."""
        exchange = self.exchange
        self._open(os.O_RDWR | os.O_CREAT | os.O_TRUNC)
        self.fs.pwrite(self._fds[1], pack_header(exchange.entry.epoch), 0)
        head = exchange.head
        self._take(make_header(head.id, head.epoch, head.created_at, token=exchange.token))
        self._copy_until(self.covered, is_new=False)

    def add(self, lines: bytes) -> None:
        """Add stored lines that the session does not have yet; its head is the caller's affair."""
        turns = Pacer()
        for line in lines.splitlines(keepends=True):
            turns.took(len(line))
            self._keep(line[:-1])
        self._flush()

    def finish(self) -> None:
        """Make the files durable, and their names."""
        self._sync_and_close()
        self.fs.sync_directory(self.exchange.log.parent)

    def discard(self) -> None:
        """Remove the files."""
        self._close()
        for path in self.exchange.files:
            with suppress(OSError):
                self.fs.unlink(path)

    def _copy_until(self, end: int, *, is_new: bool) -> None:
        view = self.writer.view(self.log, end)
        try:
            self._copy_lines(
                view, self.covered if is_new else view.begin, is_new=is_new, turns=Pacer()
            )
        finally:
            view.close()
        self.covered = end

    def catch_up(self, log: Log) -> None:
        """Add what has come since; on the committer's thread.

        Raises:
            OSError: It could not be read or written.
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
        self, view: LogView, begin: int, *, is_new: bool, turns: Pacer | None = None
    ) -> None:
        """Copy lines; new ones are not yet in the head."""
        exchange = self.exchange
        for _, part in lines_from(view, begin):
            if turns is not None:
                turns.took(len(part))
            if is_new:
                fold_data(exchange.head, part)
            if is_delta(part):
                seq = seq_of(part)
                if seq is not None and seq <= self.upto:
                    exchange.freed += len(part) + 1
                    continue
                exchange.deltas += len(part) + 1
            self._keep(part)
        self._flush()

    def _keep(self, part: bytes) -> None:
        mark = mark_of_line(part, self._seq)
        if mark is not None:
            self._pending_marks.append((mark, self.exchange.size))
        self._seq = seq_of(part) or self._seq
        self._take(part + b"\n")

    def _take(self, line: bytes) -> None:
        self._lines.append(line)
        self._pending_bytes += len(line)
        self.exchange.size += len(line)
        if self._pending_bytes >= _CHUNK_BYTES:
            self._flush()

    def _flush(self) -> None:
        exchange = self.exchange
        data = b"".join(self._lines)
        self.fs.pwrite(self._fds[0], data, exchange.size - len(data))
        place = (exchange.marks + 1) * ENTRY_BYTES
        self.fs.pwrite(self._fds[1], pack_marks(self._pending_marks), place)
        exchange.marks += len(self._pending_marks)
        self._lines, self._pending_bytes, self._pending_marks = [], 0, []

    def _open(self, flags: int) -> None:
        for path in self.exchange.files:
            self._fds.append(self.fs.open(path, flags))

    def _sync_and_close(self) -> None:
        for fd in self._fds:
            self.fs.sync(fd)
        self._close()

    def _close(self) -> None:
        fds, self._fds = self._fds, []
        for fd in fds:
            self.fs.close(fd)
