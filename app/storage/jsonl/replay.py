"""Replays what the journal has of one session onto its files.

Records say where in the log their lines begin, so replaying is writing bytes to their place; it may
be repeated after another crash, and on top of a state that has some of the records in it: the head
knows its events by their seqs, the sidecar its marks by their offsets, and neither counts one
twice. A session's records before its last lifecycle record are skipped
and that record's rename or removal is repeated: nothing comes back from the dead.
"""

import os
from collections.abc import Callable
from dataclasses import dataclass

from app.domain import codec
from app.domain.sessions import SessionHead
from app.storage.base import Mark
from app.storage.jsonl.catalog import Entry
from app.storage.jsonl.files import FileSystem
from app.storage.jsonl.journal import JournalRecord
from app.storage.jsonl.log import make_header
from app.storage.jsonl.marks import ENTRY_BYTES, last_offset, pack_marks
from app.storage.jsonl.paths import Paths, file_name
from app.storage.jsonl.quarantine import pieces_of
from app.storage.jsonl.reading import is_note
from app.storage.jsonl.rebuild import Rebuilder
from app.storage.jsonl.repair import fold_data
from app.storage.jsonl.repeating import KINDS, Repeater, standing
from app.storage.lines import delta_bytes, mark_of

LIFECYCLE = ("create", "delete", "replace", *KINDS)


@dataclass(slots=True)
class Replayer:
    """See the module.

    Attributes:
        fs: The files.
        paths: Where they are.
        rebuilder: Makes entries from files, and repairs.
        next_epoch: Gives the epoch of a log that has to be repaired.
        events: How many lines were replayed.
    """

    fs: FileSystem
    paths: Paths
    rebuilder: Rebuilder
    next_epoch: Callable[[], int]
    events: int = 0

    def replay(
        self, session_id: str, records: list[JournalRecord], entry: Entry | None
    ) -> Entry | None:
        """Brings a session up to its records.

        Args:
            session_id: Whose they are.
            records: In order; none that the catalog's checkpoint already covers.
            entry: What the catalog says of it.

        Returns:
            What is true now; None when the session is deleted.

        Raises:
            OSError: A file cannot be written.
        """
        name = file_name(session_id)
        records = standing(records)
        while places := [n for n, record in enumerate(records) if record.kind in LIFECYCLE]:
            last = records[places[-1]]
            if last.kind == "delete":
                self._remove(name)
                for path in pieces_of(self.fs, self.paths, name):
                    self.fs.unlink(path)
                return None
            if last.kind not in KINDS:
                records = records[places[-1] :]
                entry = self._begin(name, last)
                break
            repeated = Repeater(self.fs, self.paths).repeat(name, last, entry)
            if repeated is not None:
                records = records[places[-1] + 1 :]
                entry = repeated
                break
            del records[places[-1]]
        if entry is not None and entry.bundle:
            # Nothing is ever appended to a bundle.
            return entry
        records = [record for record in records if entry and record.epoch == entry.epoch]
        if entry is None:
            return None
        lines = b"".join(record.data for record in records if not record.is_lost)
        problem = self._problem_with(name, entry, records)
        if problem is not None:
            known = entry.own_head()
            epoch = self.next_epoch()
            return self.rebuilder.repair(name, epoch, known=known, more=lines, why=problem)
        if lines:
            self._write(name, entry, records)
        return entry

    def _remove(self, name: str) -> None:
        for path in (
            self.paths.log_of(name),
            self.paths.snapshot_of(name),
            self.paths.marks_of(name),
            self.paths.archive_of(name),
        ):
            self.fs.unlink(path)

    def _begin(self, name: str, record: JournalRecord) -> Entry | None:
        """Repeats the creation or replacement of a log; gives its entry before the records."""
        path = self.paths.log_of(name)
        if record.kind == "replace":
            aside = self.paths.aside / f"replace-{record.epoch}"
            if self.fs.size(aside) is not None:
                self.fs.rename(aside, path)
            for path in (self.paths.marks_of(name), self.paths.archive_of(name)):
                self.fs.unlink(path)
            entry = self.rebuilder.entry_of(name, may_be_torn=True)
            if entry is not None and entry.epoch == record.epoch and entry.seq < record.first - 1:
                # Lost seqs at the end were positions once; they are not given again.
                head = entry.own_head()
                head.seq = record.first - 1
                entry.set_head(head)
            return entry
        # What lies there under the same name belongs to a life before this one.
        self._remove(name)
        header = make_header(record.session, record.epoch, record.time)
        fd = self.fs.open(path, os.O_RDWR | os.O_CREAT | os.O_TRUNC)
        try:
            self.fs.pwrite(fd, header, 0)
        finally:
            self.fs.close(fd)
        entry = Entry(record.session, record.epoch)
        entry.set_head(SessionHead(record.session, record.epoch))
        entry.size = len(header)
        return entry

    def _problem_with(self, name: str, entry: Entry, records: list[JournalRecord]) -> str | None:
        size = self.fs.size(self.paths.log_of(name))
        if size is None:
            return "the log is missing"
        if self.rebuilder.header_of(name) != (entry.id, entry.epoch):
            return "the log's first line is another"
        if any(record.is_lost for record in records):
            return "acknowledged lines were damaged in the journal"
        # The records may give the file what it lacks, also where the entry counts that already.
        end = min(size, entry.size)
        for record in records:
            if record.at > end:
                return f"bytes {end} to {record.at} were lost with the journal"
            end = max(end, record.at + len(record.data))
        return None if end >= entry.size else f"the log has {end} bytes of {entry.size}"

    def _write(self, name: str, entry: Entry, records: list[JournalRecord]) -> None:
        path = self.paths.log_of(name)
        fd = self.fs.open(path, os.O_RDWR)
        try:
            for record in records:
                self.fs.pwrite(fd, record.data, record.at)
                entry.size = max(entry.size, record.at + len(record.data))
            self.fs.truncate(fd, entry.size)
            self.fs.sync(fd)
        finally:
            self.fs.close(fd)
        head = entry.own_head()
        entry.deltas += sum(
            delta_bytes(record.data) for record in records if record.first > head.seq
        )
        marks: list[tuple[Mark, int]] = []
        for record in records:
            seq, offset = record.first - 1, record.at
            for line in record.data.splitlines(keepends=True):
                mark = mark_of(codec.body_of(line), seq)
                if mark is not None:
                    marks.append((mark, offset))
                seq += not is_note(line)
                offset += len(line)
                self.events += 1
            fold_data(head, record.data)
        entry.activity = max(entry.activity, head.last_activity_at)
        entry.set_head(head)
        self._add_marks(name, entry, marks)

    def _add_marks(self, name: str, entry: Entry, marks: list[tuple[Mark, int]]) -> None:
        """Brings the sidecar up; one that does not fit is left to be built again.

        The sidecar itself says how far it goes, by its last mark: it may hold some of these.
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
