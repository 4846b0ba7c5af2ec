"""A checkpoint: what the journal stands for is brought up where it belongs, then it is dropped.

Logs are written and synced, their marks added to the sidecars, the heads to the catalog; only when
all that is on the disk are the journal's segments removed. A log that cannot be written or synced
has its records copied, synced, into quarantine: so one bad file never pins the journal. A full disk
is no fault of a file: then nothing is dropped, and the next checkpoint tries again.
"""

import os
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

from app.storage.jsonl.catalogfile import CatalogFile, EntryState
from app.storage.jsonl.committer import Rotation
from app.storage.jsonl.files import FULL_ERRNOS, FileSystem
from app.storage.jsonl.journal import read_journal
from app.storage.jsonl.log import Log, LogReplacedError, LogWriter
from app.storage.jsonl.paths import Paths
from app.storage.jsonl.quarantine import set_aside
from app.storage.jsonl.reading import DamagedError
from app.storage.jsonl.sidecars import Sidecars, WrittenMarks

# From here on one sync of everything is cheaper than one of each (measured: 1000 files 4 against
# 53 ms); below, other programs' dirty data would be paid for with ours.
_SYNC_ALL_FILES = 16
# A log that cannot be written so often is given up, so that it does not pin the journal.
_WRITES_MAX = 2
_BLANK = bytes(1024 * 1024)


@dataclass(slots=True)
class Work:
    """What one checkpoint has to do: a moment of the loop's and the committer's state."""

    rotation: Rotation
    states: list[EntryState]
    deleted: list[str]
    failed: dict[Log, OSError] = field(default_factory=dict)
    _by_life: dict[tuple[str, int], EntryState] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self._by_life = {(state.entry.id, state.entry.epoch): state for state in self.states}

    def state_of(self, log: Log) -> EntryState | None:
        """Gives the state of the log's session, if it is still that life of it."""
        return self._by_life.get((log.session_id, log.epoch))


class Checkpointer:
    """See the module. Runs in a thread of its own, one at a time."""

    def __init__(
        self,
        fs: FileSystem,
        paths: Paths,
        catalog_file: CatalogFile,
        writer: LogWriter,
        sidecars: Sidecars,
    ) -> None:
        self._fs = fs
        self._paths = paths
        self._catalog_file = catalog_file
        self._writer = writer
        self._sidecars = sidecars
        self.quarantined: list[str] = []
        self.quarantine_bytes = 0

    def look_at_quarantine(self) -> None:
        """Adds up what was set aside; there are few such files."""
        directory = self._paths.quarantine
        names = self._fs.names(directory)
        self.quarantine_bytes = sum(self._fs.size(directory / name) or 0 for name in names)

    def run(self, work: Work) -> None:
        """Does it.

        Raises:
            OSError: It could not be done; nothing is lost, the segments are still there.
        """
        logs = [log for log in work.rotation.logs if not log.removed]
        written = [log for log in logs if self._write(work, log)]
        marked = self._write_marks(work, logs)
        self._sync(work, written, marked)
        self._note_marks(work, marked)
        if any(log.is_new_file for log in logs) or marked or work.deleted:
            for directory in self._paths.of_sessions():
                self._fs.sync_directory(directory)
            for log in logs:
                log.is_new_file = False
        if work.failed:
            self._quarantine(work)
        self._catalog_file.append(
            work.states, work.deleted, work.rotation.lsn, work.rotation.last_epoch
        )
        self.look_at_quarantine()
        self._drop(work.rotation)

    def _drop(self, rotation: Rotation) -> None:
        """Removes the segments, but for a few that the journal uses again."""
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
        # Only now: half blank, under its own name, one would look damaged to a start.
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
        # It may be the first time that anybody tries: what failed once is tried again.
        for _ in range(_WRITES_MAX):
            try:
                self._writer.write(log)
            except OSError as error:
                if error.errno in FULL_ERRNOS:
                    raise
                work.failed[log] = error
            else:
                work.failed.pop(log, None)
                return True
        return False

    def _write_marks(self, work: Work, logs: list[Log]) -> list[WrittenMarks]:
        marked: list[WrittenMarks] = []
        for log in logs:
            state = work.state_of(log)
            if state is None:
                continue
            try:
                marks = self._sidecars.write_pending(log, state.size)
            except OSError as error:
                if error.errno in FULL_ERRNOS:
                    raise
                self._forget_marks(work, log)
            except (DamagedError, LogReplacedError):
                # Whoever reads the log finds the damage and has it repaired.
                self._forget_marks(work, log)
            else:
                if marks is not None:
                    marked.append(marks)
        return marked

    def _forget_marks(self, work: Work, log: Log) -> None:
        """Has the sidecar built again: it does not hold what the entry's size would promise."""
        self._sidecars.forget(log)
        if log.is_outdated:
            return
        state = work.state_of(log)
        if state is not None:
            state.entry.marks = -1

    def _sync(self, work: Work, logs: list[Log], marked: list[WrittenMarks]) -> None:
        if len(logs) + len(marked) > _SYNC_ALL_FILES and self._sync_all():
            return
        for log in logs:
            try:
                self._sync_file(log.path)
            except OSError as error:
                if error.errno in FULL_ERRNOS:
                    raise
                if not log.removed:
                    work.failed[log] = error
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
            # On failure each file is synced by itself, which tells whose trouble it is.
            with suppress(OSError):
                return self._fs.sync_all(fd)
            return False
        finally:
            self._fs.close(fd)

    def _note_marks(self, work: Work, marked: list[WrittenMarks]) -> None:
        for marks in marked:
            state = work.state_of(marks.log)
            if state is not None:
                self._sidecars.settle(marks, state.entry)

    def _quarantine(self, work: Work) -> None:
        """Copies the records of logs that cannot be written to where nothing pins the journal."""
        failed = {(log.session_id, log.epoch): log for log in work.failed}
        data: dict[Log, list[bytes]] = {}
        for record in read_journal(self._fs, self._paths).records:
            log = failed.get((record.session, record.epoch))
            if log is not None and record.lsn <= work.rotation.lsn:
                data.setdefault(log, []).append(record.data)
        for log, lines in data.items():
            why = f"the log could not be written: {work.failed[log].strerror}"
            note = {"session": log.session_id, "epoch": log.epoch, "why": why}
            stem = f"records-{log.name}"
            name = set_aside(self._fs, self._paths, stem, b"".join(lines), note)
            self.quarantined.append(name)
