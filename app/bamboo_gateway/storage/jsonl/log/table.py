"""The log table: the logs in use, whose state goes beyond their catalog entries.

The committer's thread alone changes it; other threads look up a log and open a view of it.
"""

from collections.abc import Callable, Container
from dataclasses import dataclass, field
from pathlib import Path
from typing import final

from bamboo_gateway.domain.errors import BambooError
from bamboo_gateway.storage.file_system import FileSystem
from bamboo_gateway.storage.jsonl.index.catalog import Catalog, Entry
from bamboo_gateway.storage.jsonl.log.log import Log, LogWriter
from bamboo_gateway.storage.jsonl.paths import Paths, file_name
from bamboo_gateway.storage.jsonl.quarantine import pieces_of


@final
@dataclass(slots=True)
class Deletion:
    """A request to delete a session.

    Attributes:
        session_id: The session.
        epoch: Its epoch.
        answer: Called on the loop when the deletion is durable, or refused.
        data: What the record says of the session that is gone (`change_log`).
        lsn: The number of the record.
        error: Why it was refused.
        bytes: The bytes that the session's files took.
        leftovers: The new names of its files, which are removed later.
        stuck: Files that could not be renamed.
    """

    session_id: str
    epoch: int
    answer: Callable[["Deletion"], None]
    data: bytes = b""
    lsn: int = 0
    error: BambooError | None = None
    bytes: int = 0
    leftovers: list[Path] = field(default_factory=list)
    stuck: list[Path] = field(default_factory=list)


class LogTable:
    """The logs in use, by session id."""

    def __init__(self, fs: FileSystem, paths: Paths, catalog: Catalog, writer: LogWriter) -> None:
        self._fs = fs
        self._catalog = catalog
        self._removed = 0
        self.paths = paths
        self.writer = writer
        self.logs: dict[str, Log] = {}

    def evict(self, touched: Container[Log]) -> None:
        """Forget logs whose catalog entries have their whole state."""
        for session_id, log in list(self.logs.items()):
            if log in touched or log.tail or log.marks or log.pins or log.held_end:
                continue
            entry = self._catalog.entries.get(session_id)
            if log.deleted:
                is_settled = entry is None or entry.epoch != log.epoch
            else:
                is_settled = entry is not None and entry.epoch == log.epoch and entry.seq == log.seq
            if is_settled:
                del self.logs[session_id]
                self.writer.forget(log)

    def remove_files(self, log: Log, deletion: Deletion) -> None:
        """Rename a deleted session's files away; removing large files would take time here.

        This runs on the committer's thread, so that nobody takes a successor's files for those of
        the deleted session.
        """
        self.retire(log)
        with self.writer.lock:
            log.tail.clear()
            log.marks.clear()
        name = log.name
        paths = self.paths
        deletion.bytes = log.journal_bytes + (0 if log.packed else log.size)
        beside = [paths.snapshot_of(name), paths.marks_of(name), paths.archive_of(name)]
        if log.held_end:
            beside.append(paths.held_of(name))
            log.held_end = 0
        beside += pieces_of(self._fs, paths, name)
        deletion.bytes += sum(self._fs.size(path) or 0 for path in beside)
        for path in (paths.log_of(name), *beside):
            aside = self.paths.aside / f"gone-{log.epoch}-{self._removed}"
            self._removed += 1
            try:
                self._fs.rename(path, aside)
            except FileNotFoundError:
                continue
            except OSError:
                deletion.stuck.append(path)
            else:
                deletion.leftovers.append(aside)

    def log_of(self, session_id: str) -> Log | None:
        """Return the log as the committer sees it, made from its entry at first use."""
        log = self.logs.get(session_id)
        if log is None:
            entry = self._catalog.entries.get(session_id)
            if entry is None:
                return None
            log = self.logs[session_id] = self.log_from(entry)
        return None if log.deleted else log

    def log_from(self, entry: Entry) -> Log:
        """Make a log from an entry; while it is not in the table, it is for reading only."""
        name = file_name(entry.id)
        log = Log(
            entry.id,
            name,
            self.paths.archive_of(name) if entry.bundle else self.paths.log_of(name),
            entry.epoch,
            seq=entry.seq,
            size=entry.size,
            marks_saved=entry.marks,
        )
        log.packed = entry.bundle > 0
        log.entry, log.generation = entry, entry.generation
        return log

    def current(self, entry: Entry) -> Log:
        """Return the log that an entry describes, for reading; on the loop's thread."""
        log = self.logs.get(entry.id)
        if log is not None and log.epoch == entry.epoch and log.generation == entry.generation:
            return log
        return self.log_from(entry)

    def pin(self, session_id: str, epoch: int) -> Log | None:
        """Keep the session's log in the table until `unpin`; return None when there is none."""
        log = self.log_of(session_id)
        if log is None or log.epoch != epoch:
            return None
        with self.writer.lock:
            log.pins += 1
        return log

    def unpin(self, log: Log) -> None:
        """Undo one `pin`, from any thread."""
        with self.writer.lock:
            log.pins -= 1

    def put(self, log: Log) -> None:
        """Put a log into the table, replacing the session's former one."""
        former = self.logs.get(log.session_id)
        if former is not None:
            self.retire(former)
            with self.writer.lock:
                former.tail.clear()
                former.marks.clear()
        self.logs[log.session_id] = log

    def retire(self, log: Log) -> None:
        """Stop all writing to a log's files, because another log is about to take their names."""
        log.deleted = log.removed = True
        self.writer.forget(log)
