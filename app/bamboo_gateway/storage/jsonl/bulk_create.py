"""Creates sessions with their whole history: written aside, published by one record.

The lines do not pass through the journal. The marks are made while writing, so events of the
published session are found by key at once.
"""

import os
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from itertools import count
from pathlib import Path
from typing import TYPE_CHECKING, Any

import anyio
from typing_extensions import override

from bamboo_gateway.domain.errors import Conflict, Unavailable
from bamboo_gateway.domain.sessions import SessionHead
from bamboo_gateway.storage.base import SessionCreation
from bamboo_gateway.storage.commits import Event, Note
from bamboo_gateway.storage.file_system import FileSystem, failure_of
from bamboo_gateway.storage.jsonl.bulk_threads import BulkThreads, Pacer
from bamboo_gateway.storage.jsonl.index.catalog import Catalog, Entry
from bamboo_gateway.storage.jsonl.journal.lifecycle_records import LifecycleRecords
from bamboo_gateway.storage.jsonl.log.log import make_header
from bamboo_gateway.storage.jsonl.log.marks import ENTRY_BYTES, pack_header, pack_marks
from bamboo_gateway.storage.jsonl.log.reader import seq_of
from bamboo_gateway.storage.jsonl.log.table import LogTable
from bamboo_gateway.storage.jsonl.paths import Paths, file_name
from bamboo_gateway.storage.lines import is_delta, mark_of_line, stored_lines

if TYPE_CHECKING:
    from bamboo_gateway.storage.marks import Mark


class BulkCreator:
    """Begins creations and publishes them."""

    def __init__(
        self,
        fs: FileSystem,
        paths: Paths,
        catalog: Catalog,
        table: LogTable,
        lifecycle: LifecycleRecords,
        bulk: BulkThreads,
    ) -> None:
        self._fs = fs
        self._paths = paths
        self._catalog = catalog
        self._table = table
        self._lifecycle = lifecycle
        self._bulk = bulk
        self._numbers = count()

    def begin(
        self, session_id: str, epoch: int, now_ms: int, is_open: Callable[[], bool]
    ) -> SessionCreation:
        """Return a creation; it does nothing before its first call."""
        name = f"create-{next(self._numbers)}"
        written = _Written(self._fs, self._paths.aside / name, session_id, epoch, now_ms)
        return _Creation(self, self._bulk, written, is_open)

    async def publish(self, written: "_Written", head: SessionHead) -> None:
        """Publish files that were written and synced."""
        entry = Entry(head.id, head.epoch)
        entry.set_head(head.copy())
        entry.size, entry.marks, entry.deltas = written.size, written.marks, written.deltas
        await self._lifecycle.carry_out(lambda: self._switch(written, entry), self._catalog.adopt)
        await self._bulk.run(self._sync_names)

    def _sync_names(self) -> None:
        # Until the name is durable, a replay repeats the rename.
        with suppress(OSError):
            self._fs.sync_directory(self._paths.events)

    def _switch(self, written: "_Written", entry: Entry) -> Entry:
        files = (written.path, written.marks_path)
        try:
            self._record(written, entry)
        except BaseException:
            for path in files:
                with suppress(OSError):
                    self._fs.unlink(path)
            raise
        name = file_name(entry.id)
        try:
            self._fs.rename(written.path, self._paths.log_of(name))
        except OSError:
            lifecycle, size = self._lifecycle, entry.size
            lifecycle.revoke(
                lambda: lifecycle.record("delete", entry.id, entry.epoch, entry.seq, size, {}),
                files,
            )
            raise
        try:
            self._fs.rename(written.marks_path, self._paths.marks_of(name))
        except OSError:
            entry.marks = -1
        log = self._table.log_from(entry)
        self._table.put(log)
        self._lifecycle.committer.note_changed(log)
        return entry

    def _record(self, written: "_Written", entry: Entry) -> None:
        existing = self._table.log_of(entry.id)
        if existing is not None:
            raise Conflict("The session exists.", head=existing.seq)
        about = publication(entry, written.path.name)
        record = self._lifecycle.record
        entry.changed = record("publish", entry.id, entry.epoch, entry.seq, entry.size, about)


def publication(entry: Entry, aside: str) -> dict[str, Any]:
    """Return the content of a publish record: the file's name, and the session's entry."""
    assert entry.head is not None
    return {
        "aside": aside,
        "marks": entry.marks,
        "deltas": entry.deltas,
        "head": entry.head.to_json(),
    }


@dataclass(slots=True)
class _Written:
    """The files of one creation; used by one thread at a time."""

    fs: FileSystem
    path: Path
    session_id: str
    epoch: int
    now_ms: int
    size: int = 0
    seq: int = 0
    marks: int = 0
    deltas: int = 0
    pacer: Pacer = field(default_factory=Pacer)
    log_fd: int | None = None
    marks_fd: int | None = None

    @property
    def marks_path(self) -> Path:
        return self.path.with_name(f"{self.path.name}.idx")

    def begin(self) -> None:
        flags = os.O_RDWR | os.O_CREAT | os.O_TRUNC
        self.log_fd = self.fs.open(self.path, flags)
        self.marks_fd = self.fs.open(self.marks_path, flags)
        header = make_header(self.session_id, self.epoch, self.now_ms)
        self.fs.pwrite(self.log_fd, header, 0)
        self.fs.pwrite(self.marks_fd, pack_header(self.epoch), 0)
        self.size = len(header)

    def add(self, lines: bytes) -> None:
        if self.log_fd is None or self.marks_fd is None:
            self.begin()
        assert self.log_fd is not None
        assert self.marks_fd is not None
        marks: list[tuple[Mark, int]] = []
        offset = self.size
        for line in lines.splitlines(keepends=True):
            mark = mark_of_line(line, self.seq)
            if mark is not None:
                marks.append((mark, offset))
            elif is_delta(line):
                self.deltas += len(line)
            self.pacer.took(len(line))
            self.seq = seq_of(line) or self.seq
            offset += len(line)
        self.fs.pwrite(self.log_fd, lines, self.size)
        if marks:
            place = (self.marks + 1) * ENTRY_BYTES
            self.fs.pwrite(self.marks_fd, pack_marks(marks), place)
        self.size = offset
        self.marks += len(marks)

    def sync(self) -> None:
        for fd in (self.log_fd, self.marks_fd):
            assert fd is not None
            self.fs.sync(fd)
        self.close()
        # The names are durable too, before the record that relies on them.
        self.fs.sync_directory(self.path.parent)

    def close(self) -> None:
        fds, self.log_fd, self.marks_fd = (self.log_fd, self.marks_fd), None, None
        for fd in fds:
            if fd is not None:
                self.fs.close(fd)

    def remove(self) -> None:
        with suppress(OSError):
            self.close()
        for path in (self.path, self.marks_path):
            # The next start removes what cannot be removed now.
            with suppress(OSError):
                self.fs.unlink(path)


class _Creation(SessionCreation):
    def __init__(
        self,
        creator: BulkCreator,
        bulk: BulkThreads,
        written: _Written,
        is_open: Callable[[], bool],
    ) -> None:
        self._creator = creator
        self._bulk = bulk
        self._written = written
        self._is_open = is_open
        self._is_over = False

    @override
    async def write(self, events: Sequence[Event], notes: Sequence[Note] = ()) -> None:
        self._check()
        try:
            await self._bulk.run(lambda: self._written.add(stored_lines(events, notes)))
        except OSError as error:
            raise failure_of(error, "Writing a new session") from error

    @override
    async def publish(self, head: SessionHead) -> None:
        self._check()
        written = self._written
        assert (head.id, head.epoch, head.seq) == (written.session_id, written.epoch, written.seq)
        try:
            await self._bulk.run(written.sync)
            self._check()
            # From here on the files belong to the committer, whatever happens to this call.
            self._is_over = True
            await self._creator.publish(written, head)
        except OSError as error:
            raise failure_of(error, "Publishing a new session") from error

    def _check(self) -> None:
        assert not self._is_over, "it has been published or discarded"
        if not self._is_open():
            raise Unavailable("The store is closed.")

    @override
    async def discard(self) -> None:
        if not self._is_over:
            self._is_over = True
            with anyio.CancelScope(shield=True):
                await self._bulk.run(self._written.remove)
