"""A checkpoint: writes what the journal holds to logs, mark files and catalog, then drops segments.

It writes and syncs the logs, adds their marks to the mark files, and adds the heads to the catalog.
It removes the journal's segments only when all of that is on the disk. The lines of a log that
cannot be written or synced go to a held file (see `held`). So one bad file never keeps the
segments, and a start finds everything that was acknowledged. A full disk is not the fault of one
file: then the checkpoint drops nothing, and the next one tries again.
"""

import os
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

from bamboo_gateway.storage.file_system import FULL_ERRNOS, FileSystem
from bamboo_gateway.storage.jsonl.index.catalog_file import CatalogFile
from bamboo_gateway.storage.jsonl.index.catalog_lines import EntryState
from bamboo_gateway.storage.jsonl.index.change_log import Feed, Gone
from bamboo_gateway.storage.jsonl.journal.committer import Rotation
from bamboo_gateway.storage.jsonl.journal.reader import JournalRecord, read_journal
from bamboo_gateway.storage.jsonl.journal.redo import effective_records
from bamboo_gateway.storage.jsonl.log.held import Held, write_held
from bamboo_gateway.storage.jsonl.log.log import Log, LogReplacedError, LogWriter, make_header
from bamboo_gateway.storage.jsonl.log.reader import DamagedError
from bamboo_gateway.storage.jsonl.log.write_health import WriteHealth
from bamboo_gateway.storage.jsonl.mark_files import MarkFiles, WrittenMarks
from bamboo_gateway.storage.jsonl.paths import Paths

# From this number on, one sync of the whole file system is faster (measured: 1000 files 4 against
# 53 ms). Below it, this would also wait for the unwritten data of other programs.
_SYNC_ALL_FILES = 16
_BLANK = bytes(1024 * 1024)


@dataclass(slots=True)
class Work:
    """The work of one checkpoint: the state of the loop and the committer at one moment."""

    rotation: Rotation
    states: list[EntryState]
    deleted: list[str]
    feed: Feed
    gone: dict[str, Gone]
    failed: set[Log] = field(default_factory=set)
    _by_epoch: dict[tuple[str, int], EntryState] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self._by_epoch = {(state.entry.id, state.entry.epoch): state for state in self.states}

    def state_of(self, log: Log) -> EntryState | None:
        """Return the state of the log's session, if it still has that epoch."""
        return self._by_epoch.get((log.session_id, log.epoch))


class Checkpointer:
    """Runs checkpoints one at a time, in a thread of its own."""

    def __init__(
        self,
        fs: FileSystem,
        paths: Paths,
        catalog_file: CatalogFile,
        writer: LogWriter,
        mark_files: MarkFiles,
        write_health: WriteHealth,
    ) -> None:
        self._fs = fs
        self._paths = paths
        self._catalog_file = catalog_file
        self._writer = writer
        self._mark_files = mark_files
        self._write_health = write_health
        self.quarantine_bytes = 0

    def measure_quarantine(self) -> None:
        """Add up the sizes of the quarantined files; there are few."""
        directory = self._paths.quarantine
        names = self._fs.names(directory)
        self.quarantine_bytes = sum(self._fs.size(directory / name) or 0 for name in names)

    def run(self, work: Work) -> None:
        """Run a checkpoint.

        Raises:
            OSError: The checkpoint failed; nothing is lost, since the segments are still there.
        """
        logs = [log for log in work.rotation.logs if not log.removed]
        written = [log for log in logs if self._write(work, log)]
        marked = self._write_marks(work, logs)
        # The part that the file of a failed log has already must be durable too, since the segments
        # go.
        failed = [log for log in work.failed if log.written and self._lacks(work, log)]
        self._sync(work, [*written, *failed], marked)
        self._note_marks(work, marked)
        for log in written:
            if log.failure is not None and log not in work.failed:
                self._write_health.log_written(log)
        if any(log.is_new_file for log in logs) or marked or work.deleted:
            for directory in self._paths.of_sessions():
                self._fs.sync_directory(directory)
            for log in logs:
                log.is_new_file = False
        self._write_held(work)
        self._remove_held(log for log in logs if log not in work.failed)
        self._catalog_file.append(
            work.states,
            work.deleted,
            work.rotation.lsn,
            work.rotation.last_epoch,
            feed=work.feed,
            gone=work.gone,
        )
        self.measure_quarantine()
        self._drop(work.rotation)

    def _drop(self, rotation: Rotation) -> None:
        """Remove the segments, except for a few that the journal reuses."""
        again: list[tuple[Path, int]] = []
        for number, used in rotation.segments.items():
            path = self._paths.segment(number)
            spare = self._paths.aside / f"spare-{number}"
            if used is not None and len(again) < rotation.spares_wanted:
                with suppress(OSError):
                    self._fs.rename(path, spare)
                    again.append((spare, used))
                    continue
            self._fs.unlink(path)
        if rotation.segments:
            self._fs.sync_directory(self._paths.index)
        # Only now: a start would take a half blank segment under its own name for a damaged one.
        for spare, used in again:
            with suppress(OSError):
                self._make_blank(spare, used)
                rotation.spares.append(spare)

    def _make_blank(self, path: Path, used: int) -> None:
        fd = self._fs.open(path, os.O_RDWR)
        try:
            for offset in range(0, used, len(_BLANK)):
                self._fs.pwrite(fd, _BLANK[: used - offset], offset)
            self._fs.sync(fd)
        finally:
            self._fs.close(fd)

    def _write(self, work: Work, log: Log) -> bool:
        error = self._write_health.write(log)
        if error is None:
            return True
        if error.errno in FULL_ERRNOS:
            raise error
        work.failed.add(log)
        return False

    def _write_marks(self, work: Work, logs: list[Log]) -> list[WrittenMarks]:
        marked: list[WrittenMarks] = []
        for log in logs:
            state = work.state_of(log)
            if state is None:
                continue
            try:
                marks = self._mark_files.write_pending(log, state.size)
            except OSError as error:
                if error.errno in FULL_ERRNOS:
                    raise
                self._forget_marks(work, log)
            except (DamagedError, LogReplacedError):
                # The next reader of the log finds the damage and repairs it.
                self._forget_marks(work, log)
            else:
                if marks is not None:
                    marked.append(marks)
        return marked

    def _forget_marks(self, work: Work, log: Log) -> None:
        """Have the mark file rebuilt: it does not hold all marks up to the size in the entry."""
        self._mark_files.forget(log)
        if log.is_outdated:
            return
        state = work.state_of(log)
        if state is not None:
            state.entry.marks = -1

    def _sync(self, work: Work, logs: list[Log], marked: list[WrittenMarks]) -> None:
        if len(logs) + len(marked) > _SYNC_ALL_FILES and self._sync_all():
            return
        unsynced: list[Log] = []
        for log in logs:
            try:
                self._sync_file(log.path)
            except OSError:
                if not log.removed:
                    unsynced.append(log)
        if unsynced:
            self._write_again(work, unsynced)
        for marks in marked:
            try:
                self._sync_file(self._paths.marks_of(marks.log.name))
            except OSError:
                self._forget_marks(work, marks.log)

    def _sync_file(self, path: Path) -> None:
        fd = self._fs.open(path, os.O_RDWR)
        try:
            self._fs.sync(fd)
        finally:
            self._fs.close(fd)

    def _sync_all(self) -> bool:
        fd = self._fs.open(self._paths.root, os.O_RDONLY)
        try:
            # On failure each file is synced by itself, which shows which file is bad.
            with suppress(OSError):
                return self._fs.sync_all(fd)
            return False
        finally:
            self._fs.close(fd)

    def _note_marks(self, work: Work, marked: list[WrittenMarks]) -> None:
        for marks in marked:
            state = work.state_of(marks.log)
            if state is not None:
                self._mark_files.settle(marks, state.entry)

    def _write_again(self, work: Work, unsynced: list[Log]) -> None:
        """Write lines again after a failed sync, since the kernel does not retry these pages.

        Raises:
            OSError: The disk is full.
        """
        for log in unsynced:
            log.is_uncertain = True
        records = read_journal(self._fs, self._paths).records
        for log in unsynced:
            lines = _lines_of(log, records)
            if lines is not None and not self._writer.take_back(log, *lines):
                # The committer has written to the log in the meantime; it does not do so a second
                # time.
                records = read_journal(self._fs, self._paths).records
                if (lines := _lines_of(log, records)) is not None:
                    self._writer.take_back(log, *lines)
            try:
                self._writer.write(log, sync=True)
            except OSError as error:
                self._write_health.log_failed(log, error)
                if error.errno in FULL_ERRNOS:
                    raise
                work.failed.add(log)
            finally:
                log.is_uncertain = False

    def _lacks(self, work: Work, log: Log) -> bool:
        """Return whether only the journal has some lines of a failed log."""
        state = work.state_of(log)
        return state is not None and state.size != log.held_end

    def _write_held(self, work: Work) -> None:
        """Write the lines that failed logs lack to held files, so that segments can be dropped."""
        for log in work.failed:
            state = work.state_of(log)
            if state is None or not self._lacks(work, log):
                continue
            with self._writer.lock:
                written, tail = log.written, b"".join(log.tail)
            if written >= state.size:
                continue  # It was written and synced in the meantime.
            held = Held(log.session_id, log.epoch, written, tail[: state.size - written])
            write_held(self._fs, self._paths, log.name, held)
            log.held_end = state.size
            if log.removed:
                # Nothing of a deleted session stays. The held lines of a successor are written at
                # its next failure.
                self._fs.unlink(self._paths.held_of(log.name))

    def _remove_held(self, logs: Iterable[Log]) -> None:
        """Remove held files whose lines the logs have, before the catalog goes beyond them."""
        done = [log for log in logs if log.held_end]
        for log in done:
            self._fs.unlink(self._paths.held_of(log.name))
            log.held_end = 0
        if done:
            self._fs.sync_directory(self._paths.index)


def _lines_of(log: Log, records: list[JournalRecord]) -> tuple[int, bytes] | None:
    """Return the journal's lines of a log's current file: their offset, and the bytes."""
    key = (log.session_id, log.epoch)
    mine = [record for record in records if (record.session, record.epoch) == key]
    start, data = 0, bytearray()
    for record in effective_records(mine):
        if record.kind == "create":
            start, data = 0, bytearray(make_header(record.session, record.epoch, record.time))
        elif record.kind != "append":
            # From this record on the log is another file.
            data = bytearray()
            continue
        elif not data:
            start = record.at
        if record.is_lost or record.at - start > len(data):
            return None
        data[record.at - start :] = record.data
    return (start, bytes(data)) if data else None
