"""One batch of the committer: checked, written as one, then settled or rolled back as one."""

from typing import TYPE_CHECKING
from zlib import crc32

from bamboo_gateway.domain.errors import BambooError, Conflict, StorageFull
from bamboo_gateway.storage.commits import Commit
from bamboo_gateway.storage.jsonl.journal.segments import (
    RECORD_OVERHEAD_BYTES,
    Description,
    Journal,
    describe,
)
from bamboo_gateway.storage.jsonl.line_commit import LineCommit
from bamboo_gateway.storage.jsonl.log.log import Log, make_header
from bamboo_gateway.storage.jsonl.log.table import Deletion, LogTable
from bamboo_gateway.storage.jsonl.log.write_health import WriteHealth
from bamboo_gateway.storage.jsonl.paths import file_name

if TYPE_CHECKING:
    from collections.abc import Sequence

    from bamboo_gateway.storage.marks import Mark

# A commit, the error or None; without an error the end of its log, and its record's number.
Answer = tuple[LineCommit, BambooError | None, int, int]
Request = LineCommit | Deletion


class Batch:
    """The requests that are committed together. Used on the committer's thread alone.

    Attributes:
        before: The logs that the batch changes, with the (seq, size) that they had.
        gone: The logs that it deletes.
        answers: The outcome of each commit.
    """

    def __init__(
        self, table: LogTable, write_health: WriteHealth, requests: list[Request], data_bytes: int
    ) -> None:
        self._table = table
        self._write_health = write_health
        self._requests = requests
        self._data_bytes = data_bytes
        self._replaced: list[tuple[str, Log | None]] = []
        # The accepted requests: the log of each, and the bytes of its record, in two lists of the
        # same order. A deletion has no log here, since nothing is written to it any more.
        self._logs: list[Log | None] = []
        self._lines: list[bytes] = []
        self._marks: list[tuple[Log, int, Sequence[tuple[Mark, int]]]] = []
        self.before: dict[Log, tuple[int, int]] = {}
        self.gone: dict[Log, Deletion] = {}
        self.answers: list[Answer] = []

    @property
    def size(self) -> int:
        """The most bytes that the records can take."""
        return self._data_bytes + RECORD_OVERHEAD_BYTES * len(self._requests)

    @property
    def reserve_size(self) -> int:
        """The most bytes of the records that may use the reserve."""
        return sum(
            RECORD_OVERHEAD_BYTES + len(request.data)
            for request in self._requests
            if isinstance(request, Deletion) or request.commit.reserve
        )

    @property
    def deletions(self) -> list[Deletion]:
        """The deletions among the requests."""
        return [request for request in self._requests if isinstance(request, Deletion)]

    def admit(self, journal: Journal, *, is_full: bool) -> list[bytes]:
        """Check each request against the head of its log.

        Every commit pays for the code in the loop, so it is inlined, and calls functions only in
        rare cases.

        Args:
            journal: Where the numbers of the records come from.
            is_full: Whether to accept only what may use the reserve.

        Returns:
            The bytes to write for the accepted requests.
        """
        records: list[Description] = []
        logs, before, answers = self._table.logs, self.before, self.answers
        takers, lines = self._logs, self._lines
        for request in self._requests:
            if type(request) is Deletion:
                self._admit_deletion(request, journal.lsn + len(records) + 1, records)
                continue
            commit, _, data, marks, _ = request
            session_id, epoch, first, events, _, _, time_ms, create, *_ = commit
            log = logs.get(session_id)
            if (
                log is None
                or log.seq != first - 1
                or log.epoch != epoch
                or create
                or is_full
                or log.deleted
                or log.packed
                or log.failure is not None
            ):
                log_or_error = self._log_for(commit, is_full)
                if isinstance(log_or_error, BambooError):
                    answers.append((request, log_or_error, 0, 0))
                    continue
                log = log_or_error
            at, size = log.size, len(data)
            if log not in before:
                before[log] = (log.seq, at)
            log.size = end = at + size
            count = len(events)
            log.seq = first + count - 1
            kind = "create" if create else "append"
            records.append((session_id, epoch, first, count, kind, time_ms, at, size, crc32(data)))
            takers.append(log)
            lines.append(data)
            answers.append((request, None, end, journal.lsn + len(records)))
            if marks:
                self._marks.append((log, at, marks))
            if create and epoch > journal.last_epoch:
                journal.last_epoch = epoch
        if not records:
            return []
        line = describe(journal.lsn + 1, journal.acked, records)
        # These numbers are never used again, also when the write fails.
        journal.lsn += len(records)
        return [line, *lines]

    def _log_for(self, commit: Commit, is_full: bool) -> Log | BambooError:
        log = self._table.log_of(commit.session_id)
        if is_full and not commit.reserve:
            return StorageFull("The disk is full: nothing can be written until there is space.")
        if commit.create:
            if log is not None:
                return Conflict("The session exists.", head=log.seq)
            return self._new_log(commit)
        if log is None or log.epoch != commit.epoch:
            return Conflict("There is no such session of that epoch.", head=None)
        if log.packed:
            return Conflict("The session is packed, so nothing is appended.", head=log.seq)
        if log.seq != commit.first_seq - 1:
            return Conflict("The head has moved.", head=log.seq)
        return log if commit.reserve else self._refusal_of(log) or log

    def _refusal_of(self, log: Log) -> BambooError | None:
        """Return why a log accepts only endings: other lines would pile up in memory (R11)."""
        if log.failure is None:
            return None
        write_health = self._write_health
        if write_health.is_due(log) and write_health.retry(log):
            return None
        return write_health.problem_of(log)

    def _new_log(self, commit: Commit) -> Log:
        name = file_name(commit.session_id)
        log = Log(commit.session_id, name, self._table.paths.log_of(name), commit.epoch)
        header = make_header(commit.session_id, commit.epoch, commit.time_ms)
        log.tail.append(header)
        log.size = len(header)
        self._replace(commit.session_id, log)
        return log

    def _replace(self, session_id: str, log: Log) -> None:
        logs = self._table.logs
        self._replaced.append((session_id, logs.get(session_id)))
        logs[session_id] = log

    def _admit_deletion(self, deletion: Deletion, lsn: int, records: list[Description]) -> None:
        log = self._table.log_of(deletion.session_id)
        if log is None or log.epoch != deletion.epoch:
            deletion.error = Conflict("There is no such session of that epoch.", head=None)
            return
        # The tombstone stays until the loop knows of the deletion; a new log replaces it.
        log.deleted = True
        self.gone[log] = deletion
        deletion.lsn = lsn
        data, at, count = deletion.data, log.size, len(deletion.data)
        record = (log.session_id, log.epoch, log.seq + 1, 0, "delete", 0, at, count, crc32(data))
        records.append(record)
        self._logs.append(None)
        self._lines.append(data)

    def settle(self) -> None:
        """Hand the lines to their logs: they are durable."""
        with self._table.writer.lock:
            for taker, lines in zip(self._logs, self._lines, strict=True):
                if taker is not None:
                    taker.tail.append(lines)
            for log, at, marks in self._marks:
                log.marks += [(mark, at + offset) for mark, offset in marks]
        for log, (_, size) in self.before.items():
            log.journal_bytes += log.size - size
        for log, deletion in self.gone.items():
            self._table.remove_files(log, deletion)

    def roll_back(self, error: BambooError) -> None:
        """Undo the batch: no part of it is or will become visible."""
        for log, (seq, size) in self.before.items():
            log.seq, log.size = seq, size
        for log in self.gone:
            log.deleted = False
        logs = self._table.logs
        for session_id, previous in reversed(self._replaced):
            if previous is None:
                del logs[session_id]
            else:
                logs[session_id] = previous
        self.gone = {}
        self.before = {}
        self.answers = [
            (request, error, 0, 0) for request in self._requests if isinstance(request, LineCommit)
        ]
        for deletion in self.deletions:
            deletion.error = error
