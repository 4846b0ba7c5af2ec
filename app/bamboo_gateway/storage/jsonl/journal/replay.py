"""Replay of the journal's records of one session onto its files.

A record holds the offset of its lines in the log, so replaying it writes bytes to their place.
Replay may be repeated after another crash, and may begin from a state that already includes some of
the records: the head recognises its events by their seqs, the mark file its marks by their offsets,
and neither counts one twice. Replay skips the records of a session before its last lifecycle record
and repeats the rename or removal of that one, so a deleted session never comes back.
"""

import os
from collections.abc import Callable
from dataclasses import dataclass, field

from bamboo_gateway.domain.sessions import SessionHead
from bamboo_gateway.storage.file_system import FileSystem
from bamboo_gateway.storage.jsonl.index.catalog import Entry
from bamboo_gateway.storage.jsonl.journal.reader import JournalRecord
from bamboo_gateway.storage.jsonl.journal.redo import KINDS, Redo, effective_records
from bamboo_gateway.storage.jsonl.log.held import Held
from bamboo_gateway.storage.jsonl.log.log import make_header
from bamboo_gateway.storage.jsonl.log.marks import ENTRY_BYTES, last_offset, pack_marks
from bamboo_gateway.storage.jsonl.log.reader import is_note
from bamboo_gateway.storage.jsonl.paths import Paths, file_name
from bamboo_gateway.storage.jsonl.quarantine import pieces_of
from bamboo_gateway.storage.jsonl.rebuild import Rebuilder
from bamboo_gateway.storage.jsonl.repair import fold_data
from bamboo_gateway.storage.lines import body_of, delta_bytes
from bamboo_gateway.storage.marks import Mark, mark_of

LIFECYCLE = ("create", "delete", "replace", *KINDS)


@dataclass(frozen=True, slots=True)
class Unwritten:
    """Lines missing in a log that could not be written; the store continues with them in memory."""

    entry: Entry
    lines: Held
    error: OSError


@dataclass(slots=True)
class _Stage:
    """The progress of one session's replay.

    Attributes:
        entry: The entry as replayed so far.
        records: The records that are still to be applied.
        held: The held lines of its log; None once another log has replaced it.
        lacking: Lines that could not be written to the log before the records.
        error: Why these lines, or the records, could not be written.
    """

    entry: Entry | None
    records: list[JournalRecord]
    held: Held | None
    lacking: Held | None = None
    error: OSError | None = None


@dataclass(slots=True)
class Replayer:
    """Replays sessions one after the other.

    Attributes:
        fs: The file system.
        paths: The layout of the data directory.
        rebuilder: Makes entries from files, and repairs logs.
        next_epoch: Returns the epoch for a log that has to be repaired.
        events: The number of lines replayed.
        unwritten: The sessions whose logs could not be written.
    """

    fs: FileSystem
    paths: Paths
    rebuilder: Rebuilder
    next_epoch: Callable[[], int]
    events: int = 0
    unwritten: dict[str, Unwritten] = field(default_factory=dict)

    def replay(
        self,
        session_id: str,
        records: list[JournalRecord],
        entry: Entry | None,
        held: Held | None = None,
    ) -> Entry | None:
        """Apply the records of a session to its files and its entry.

        Args:
            session_id: The session.
            records: Its records in order, without those that the catalog covers.
            entry: Its entry in the catalog.
            held: The held lines of its log.

        Returns:
            The new entry; None when the session is deleted.

        Raises:
            OSError: A file cannot be renamed, removed, or repaired.
        """
        name = file_name(session_id)
        stage = _Stage(entry, effective_records(records), held)
        if not self._repeat(name, stage) or stage.entry is None:
            return None
        entry = stage.entry
        if entry.bundle:
            # Nothing is appended to a bundle.
            return entry
        records = [record for record in stage.records if record.epoch == entry.epoch]
        self._write_held_lines(name, entry, stage)
        lines = b"".join(record.data for record in records if not record.is_lost)
        problem = self._check_log(name, entry, records, stage)
        if problem is not None:
            known = entry.own_head()
            epoch = self.next_epoch()
            return self.rebuilder.repair(name, epoch, known=known, more=lines, why=problem)
        if lines:
            self._write(name, entry, records, stage)
        if stage.error is not None:
            self._keep_in_memory(entry, records, stage.lacking, stage.error)
        if lines:
            self._fold(name, entry, records, has_file=stage.error is None)
        return entry

    def _repeat(self, name: str, stage: "_Stage") -> bool:
        """Repeat the last lifecycle record in force; return False when the session is deleted."""
        records = stage.records
        while places := [n for n, record in enumerate(records) if record.kind in LIFECYCLE]:
            last = records[places[-1]]
            if last.kind == "delete":
                self._remove(name)
                for path in pieces_of(self.fs, self.paths, name):
                    self.fs.unlink(path)
                return False
            if last.kind not in KINDS:
                stage.records, stage.held = records[places[-1] :], None
                if last.kind == "create":
                    self._create(name, last, stage)
                else:
                    stage.entry = self._replace(name, last)
                break
            repeated = Redo(self.fs, self.paths).repeat(name, last, stage.entry)
            if repeated is not None:
                stage.records, stage.held = records[places[-1] + 1 :], None
                stage.entry = repeated
                break
            del records[places[-1]]
        return True

    def _write_held_lines(self, name: str, entry: Entry, stage: "_Stage") -> None:
        held = stage.held
        if held and held.epoch == entry.epoch and held.at <= entry.size <= held.end:
            entry.marks = -1
            # Held lines beyond this size belong to a catalog that was never written: the records
            # have them.
            held = held.upto(entry.size)
            stage.error = self.write_to_log(name, held)
            stage.lacking = held if stage.error else None

    def _check_log(
        self, name: str, entry: Entry, records: list[JournalRecord], stage: "_Stage"
    ) -> str | None:
        """Return what is wrong with the log, if it can be read."""
        if stage.error is None:
            try:
                return self._problem_with(name, entry, records)
            except OSError as error:
                stage.error = error
        return None

    def _keep_in_memory(
        self, entry: Entry, records: list[JournalRecord], lacking: Held | None, error: OSError
    ) -> None:
        """Keep the lines that could not be written, from the first byte that the file may lack."""
        if lacking is None and not records:
            return  # There was nothing to write: the next reader of the log gets the error.
        start = lacking.at if lacking else min(entry.size, records[0].at)
        data = bytearray(lacking.data if lacking else b"")
        for record in records:
            if not start <= record.at <= start + len(data) or record.is_lost:
                raise error
            data[record.at - start :] = record.data
        held = Held(entry.id, entry.epoch, start, bytes(data))
        self.unwritten[entry.id] = Unwritten(entry, held, error)

    def write_to_log(self, name: str, held: Held) -> OSError | None:
        """Write held lines to their place in the log; return the error if that fails."""
        path = self.paths.log_of(name)
        try:
            fd = self.fs.open(path, os.O_RDWR | (0 if held.at else os.O_CREAT | os.O_TRUNC))
            try:
                self.fs.pwrite(fd, held.data, held.at)
                self.fs.truncate(fd, held.end)
                self.fs.sync(fd)
            finally:
                self.fs.close(fd)
        except OSError as error:
            return error
        return None

    def _remove(self, name: str) -> None:
        for path in (
            self.paths.log_of(name),
            self.paths.snapshot_of(name),
            self.paths.marks_of(name),
            self.paths.archive_of(name),
        ):
            self.fs.unlink(path)

    def _replace(self, name: str, record: JournalRecord) -> Entry | None:
        """Repeat the replacement of a log; return its entry before the records are applied."""
        aside = self.paths.aside / f"replace-{record.epoch}"
        if self.fs.size(aside) is not None:
            self.fs.rename(aside, self.paths.log_of(name))
        for path in (self.paths.marks_of(name), self.paths.archive_of(name)):
            self.fs.unlink(path)
        entry = self.rebuilder.entry_of(name, may_be_torn=True)
        if entry is not None and entry.epoch == record.epoch and entry.seq < record.first - 1:
            # Lost seqs at the end may have been given to clients as positions: they are not given
            # again.
            head = entry.own_head()
            head.seq = record.first - 1
            entry.set_head(head)
        return entry

    def _create(self, name: str, record: JournalRecord, stage: "_Stage") -> None:
        """Repeat the creation of a log."""
        header = make_header(record.session, record.epoch, record.time)
        stage.entry = entry = Entry(record.session, record.epoch)
        entry.set_head(SessionHead(record.session, record.epoch))
        entry.size = len(header)
        try:
            # Files of that name belong to an earlier epoch.
            self._remove(name)
            fd = self.fs.open(self.paths.log_of(name), os.O_RDWR | os.O_CREAT | os.O_TRUNC)
            try:
                self.fs.pwrite(fd, header, 0)
            finally:
                self.fs.close(fd)
        except OSError as error:
            stage.error = error
            stage.lacking = Held(record.session, record.epoch, 0, header)

    def _problem_with(self, name: str, entry: Entry, records: list[JournalRecord]) -> str | None:
        size = self.fs.size(self.paths.log_of(name))
        if size is None:
            return "the log is missing"
        if self.rebuilder.header_of(name) != (entry.id, entry.epoch):
            return "the log's first line belongs to another log"
        if any(record.is_lost for record in records):
            return "acknowledged lines are damaged in the journal"
        # The records may write what the file lacks, even where the entry already counts it.
        end = min(size, entry.size)
        for record in records:
            if record.at > end:
                return f"bytes {end} to {record.at} were lost with the journal"
            end = max(end, record.at + len(record.data))
        return None if end >= entry.size else f"the log has {end} bytes of {entry.size}"

    def _write(
        self, name: str, entry: Entry, records: list[JournalRecord], stage: "_Stage"
    ) -> None:
        """Write the records to their places, unless an earlier write failed."""
        if stage.error is not None:
            return
        size = max(entry.size, *(record.at + len(record.data) for record in records))
        try:
            fd = self.fs.open(self.paths.log_of(name), os.O_RDWR)
            try:
                for record in records:
                    self.fs.pwrite(fd, record.data, record.at)
                self.fs.truncate(fd, size)
                self.fs.sync(fd)
            finally:
                self.fs.close(fd)
        except OSError as error:
            stage.error = error

    def _fold(
        self, name: str, entry: Entry, records: list[JournalRecord], *, has_file: bool
    ) -> None:
        """Add the records to the entry, and to the mark file when the log has them."""
        entry.size = max(entry.size, *(record.at + len(record.data) for record in records))
        head = entry.own_head()
        entry.deltas += sum(
            delta_bytes(record.data) for record in records if record.first > head.seq
        )
        marks: list[tuple[Mark, int]] = []
        for record in records:
            seq, offset = record.first - 1, record.at
            for line in record.data.splitlines(keepends=True):
                mark = mark_of(body_of(line), seq)
                if mark is not None:
                    marks.append((mark, offset))
                seq += not is_note(line)
                offset += len(line)
                self.events += 1
            fold_data(head, record.data)
        entry.activity = max(entry.activity, head.last_activity_at)
        entry.set_head(head)
        if not has_file:
            entry.marks = -1
            return
        try:
            self._add_marks(name, entry, marks)
        except OSError:
            entry.marks = -1

    def _add_marks(self, name: str, entry: Entry, marks: list[tuple[Mark, int]]) -> None:
        """Add marks to the mark file; one that does not fit its log is left to be rebuilt.

        The last mark in the file shows which of these marks it already has.
        """
        path = self.paths.marks_of(name)
        last = last_offset(self.fs, path, entry.epoch, entry.marks)
        if last is None:
            entry.marks = -1
            return
        missing = [(mark, offset) for mark, offset in marks if offset > last]
        fd = self.fs.open(path, os.O_RDWR)
        try:
            self.fs.pwrite(fd, pack_marks(missing), (entry.marks + 1) * ENTRY_BYTES)
            self.fs.sync(fd)
        finally:
            self.fs.close(fd)
        entry.marks += len(missing)
