"""One batch of the committer: admitted, written as one, then settled or rolled back as one."""

from typing import NamedTuple

from app.domain.errors import BambooError, Conflict, StorageFailed, StorageFull
from app.storage.base import Commit, Done
from app.storage.jsonl.journal import RECORD_OVERHEAD_BYTES, Journal, pack
from app.storage.jsonl.log import Log, make_header
from app.storage.jsonl.paths import file_name
from app.storage.jsonl.table import Deletion, LogTable

# What a session may keep in memory while its own file cannot be written.
_TAIL_BYTES_MAX = 16 * 1024 * 1024


class Answer(NamedTuple):
    """What became of a commit; `size` is its log's end then."""

    commit: Commit
    done: Done
    error: BambooError | None
    size: int


Request = tuple[Commit, Done] | Deletion


class Batch:
    """See the module. Used on the committer's thread alone.

    Attributes:
        size: The most that its records can take; `reserve_size`: of those that may use the reserve.
        before: The logs it changes, with the (seq, size) they had.
        gone: The logs it deletes.
    """

    def __init__(self, table: LogTable, requests: list[Request]) -> None:
        self._table = table
        self._requests = requests
        self._replaced: list[tuple[str, Log | None]] = []
        self._taken: list[tuple[Log, int]] = []
        self.before: dict[Log, tuple[int, int]] = {}
        self.gone: dict[Log, Deletion] = {}
        self.answers: list[Answer] = []
        self.deletions: list[Deletion] = []
        self.size = self.reserve_size = 0
        for request in requests:
            if isinstance(request, Deletion):
                self.deletions.append(request)
                self.size += RECORD_OVERHEAD_BYTES
                self.reserve_size += RECORD_OVERHEAD_BYTES
            else:
                size = len(request[0].data) + RECORD_OVERHEAD_BYTES
                self.size += size
                if request[0].reserve:
                    self.reserve_size += size

    def admit(self, journal: Journal, *, is_full: bool) -> list[bytes]:
        """Checks each request against its log's head; gives the records of those that fit.

        Args:
            journal: Gives the numbers of the records.
            is_full: Only what may use the reserve is taken.
        """
        parts: list[bytes] = []
        lsn, acked = journal.lsn, journal.acked
        for request in self._requests:
            if isinstance(request, Deletion):
                log = self._admit_deletion(request)
                if log is None:
                    continue
                lsn += 1
                kind, at = b"delete", log.size
                parts.append(
                    pack(lsn, acked, log.session_id, log.epoch, log.seq + 1, 0, kind, 0, at, b"")
                )
                continue
            commit, done = request
            log_or_error = self._log_for(commit, is_full)
            if isinstance(log_or_error, BambooError):
                self.answers.append(Answer(commit, done, log_or_error, 0))
                continue
            log = log_or_error
            at = log.size
            if log not in self.before:
                self.before[log] = (log.seq, at)
            data = commit.data
            log.size = at + len(data)
            log.seq += commit.count
            lsn += 1
            kind = b"create" if commit.create else b"append"
            parts.append(
                pack(
                    lsn,
                    acked,
                    commit.session_id,
                    commit.epoch,
                    commit.first_seq,
                    commit.count,
                    kind,
                    commit.time_ms,
                    at,
                    data,
                )
            )
            parts.append(data)
            self._taken.append((log, at))
            self.answers.append(Answer(commit, done, None, log.size))
            if commit.create and commit.epoch > journal.last_epoch:
                journal.last_epoch = commit.epoch
        # Never given again, whatever becomes of these.
        journal.lsn = lsn
        return parts

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
        if log.tail and sum(map(len, log.tail)) > _TAIL_BYTES_MAX:
            return StorageFailed("The session's log cannot be written.")
        return log

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

    def _admit_deletion(self, deletion: Deletion) -> Log | None:
        log = self._table.log_of(deletion.session_id)
        if log is None or log.epoch != deletion.epoch:
            deletion.error = Conflict("There is no such session of that epoch.", head=None)
            return None
        # The tombstone stays until the loop has heard of it; a successor takes its place.
        log.deleted = True
        self.gone[log] = deletion
        return log

    def settle(self) -> None:
        """Hands the lines to their logs: they are durable."""
        taken = iter(self._taken)
        with self._table.writer.lock:
            for commit, _, error, _ in self.answers:
                if error is not None:
                    continue
                log, at = next(taken)
                log.tail.append(commit.data)
                log.journal_bytes += len(commit.data)
                if commit.marks:
                    log.marks += [(mark, at + mark.offset) for mark in commit.marks]
        for log, deletion in self.gone.items():
            self._table.remove_files(log, deletion)

    def roll_back(self, error: BambooError) -> None:
        """Takes everything back: nothing of it is or will become visible."""
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
            Answer(*request, error, 0) for request in self._requests if isinstance(request, tuple)
        ]
        for deletion in self.deletions:
            deletion.error = error
