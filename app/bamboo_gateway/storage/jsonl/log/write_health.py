"""Write health: which writes fail at present, and when the store tries them again.

Two things may fail for longer than a moment. When a log fails, the store refuses writes of its
session while all others go on; it keeps the last lines of the log in memory and in a held file (see
`held`). When the journal fails, the store refuses everything except what the reserve has room for.
The store tries each again by itself, logs when the failure begins and ends, and counts it.

The committer and the checkpoint change this state; any thread may read it.
"""

from collections.abc import Callable
from dataclasses import dataclass
from threading import Lock

import structlog

from bamboo_gateway.domain.clock import Clock
from bamboo_gateway.domain.errors import StorageFull, Unavailable
from bamboo_gateway.storage.file_system import FULL_ERRNOS, failure_of
from bamboo_gateway.storage.jsonl.log.log import Log, LogWriter

logger = structlog.get_logger(__name__)

# A failure that lasts a moment only (a signal, one descriptor too many) is not reported.
_WRITES = 2
# The delay before a failed log is tried again; it doubles with each failure. A bad disk may take
# seconds for each attempt, and commits of all other sessions wait for it.
_RETRY_SECONDS = 1.0
_RETRY_SECONDS_MAX = 30.0
# The most failed logs that are tried again between two batches.
_RETRIES_MAX = 8


@dataclass(slots=True)
class _Failure:
    error: OSError
    since: float
    next_try: float
    delay: float = _RETRY_SECONDS

    @property
    def is_full(self) -> bool:
        return self.error.errno in FULL_ERRNOS


class WriteHealth:
    """The write failures of the journal and of single logs.

    Attributes:
        refusal: The error for commits while the journal accepts none, or None.
        refused_bytes: The bytes that must fit before the refusal ends.
        log_failures: How often a log failed since the store was opened.
    """

    def __init__(self, writer: LogWriter, clock: Clock, check_owner: Callable[[], None]) -> None:
        """Create it; `check_owner` raises OSError when another owns the directory."""
        self._writer = writer
        self._check_owner = check_owner
        self._clock = clock
        self._lock = Lock()
        self._failures: dict[Log, _Failure] = {}
        # The failed logs whose reason is a full disk.
        self._without_room: set[Log] = set()
        self._is_full = False
        self.refusal: Unavailable | None = None
        self.refused_bytes = 0
        self.log_failures = 0

    @property
    def failed_logs(self) -> int:
        """The number of logs that cannot be written."""
        return len(self._failures)

    def problems(self) -> dict[str, str]:
        """Return the sessions whose logs cannot be written, and why."""
        with self._lock:
            failures = list(self._failures.items())
        return {log.session_id: _describe(failure.error) for log, failure in failures}

    def problem_of(self, log: Log) -> Unavailable | None:
        """Return the error that the commits of a log are refused with, or None."""
        with self._lock:
            failure = self._failures.get(log)
            if failure is None:
                return None
            refusal = failure_of(failure.error, "Writing the session's log")
            seconds = failure.next_try - self._clock.monotonic()
        refusal.retry_after_seconds = max(1, round(seconds))
        return refusal

    def write(self, log: Log) -> OSError | None:
        """Write the pending lines of a log into its file; return the error if that fails."""
        error: OSError | None = None
        for _ in range(_WRITES):
            try:
                self._writer.write(log)
            except OSError as caught:
                error = caught
            else:
                return None
        assert error is not None
        try:
            self._check_owner()
        except OSError as elsewhere:
            # Not the fault of the log: the whole directory is elsewhere, and the journal reports
            # that.
            return elsewhere
        self.log_failed(log, error)
        return error

    def log_failed(self, log: Log, error: OSError) -> None:
        """Note that a log cannot be written."""
        now = self._clock.monotonic()
        with self._lock:
            known = self._failures.get(log)
            if known is None:
                self.log_failures += 1
                self._failures[log] = _Failure(error, now, now + _RETRY_SECONDS)
            else:
                known.error = error
                known.delay = min(2 * known.delay, _RETRY_SECONDS_MAX)
                known.next_try = now + known.delay
            log.failure = error
            if error.errno in FULL_ERRNOS:
                self._without_room.add(log)
            else:
                self._without_room.discard(log)
        # A full disk is logged once, not for each session that it affects.
        if known is None and error.errno not in FULL_ERRNOS:
            why = _describe(error)
            logger.error("log cannot be written", session_id=log.session_id, why=why)
        self._log_full()

    def log_written(self, log: Log) -> None:
        """Note that the file of a log has all its lines, and is synced."""
        with self._lock:
            log.failure = None
            failure = self._failures.pop(log, None)
            self._without_room.discard(log)
        if failure is None:
            return
        if not failure.is_full and not log.removed:
            seconds = round(self._clock.monotonic() - failure.since, 1)
            logger.info("log is written again", session_id=log.session_id, after_seconds=seconds)
        self._log_full()

    def retry(self, log: Log) -> bool:
        """Try to write a failed log, on the committer's thread; return whether that succeeded.

        Raise nothing: note the new error instead.
        """
        try:
            self._writer.write(log, sync=True)
        except OSError as error:
            self.log_failed(log, error)
            return False
        self.log_written(log)
        return True

    def is_due(self, log: Log) -> bool:
        """Return whether to try a failed log now; a try on a full disk costs nothing."""
        with self._lock:
            failure = self._failures.get(log)
        return failure is None or failure.is_full or failure.next_try <= self._clock.monotonic()

    def due(self) -> list[Log]:
        """Return failed logs whose next try is due; not all of them when there are many."""
        if not self._failures:
            return []
        now = self._clock.monotonic()
        with self._lock:
            due = [log for log, failure in self._failures.items() if failure.next_try <= now]
        return due[:_RETRIES_MAX]

    def without_room(self) -> list[Log]:
        """Return the logs that failed because the disk was full."""
        with self._lock:
            return list(self._without_room)

    def seconds_until_due(self) -> float | None:
        """Return the seconds until the next failed log is due; None when no log has failed."""
        if not self._failures:
            return None
        with self._lock:
            first = min(failure.next_try for failure in self._failures.values())
        return max(0.0, first - self._clock.monotonic())

    def journal_failed(self, refusal: Unavailable, size: int) -> None:
        """Note that the journal accepts no record, or none of that size."""
        known, self.refusal = self.refusal, refusal
        self.refused_bytes = size
        if not isinstance(refusal, StorageFull) and type(known) is not type(refusal):
            logger.error("the journal cannot be written", why=refusal.detail)
        self._log_full()

    def journal_works(self) -> None:
        """Note that the journal accepts commits."""
        known, self.refusal = self.refusal, None
        if known is None:
            return
        if not isinstance(known, StorageFull):
            logger.info("the journal is written again")
        self._log_full()

    @property
    def is_full(self) -> bool:
        """Whether the store refuses writes because the disk is full."""
        return self._is_full

    def _log_full(self) -> None:
        with self._lock:
            is_full = isinstance(self.refusal, StorageFull) or bool(self._without_room)
            was_full, self._is_full = self._is_full, is_full
        if is_full and not was_full:
            logger.error(
                "the disk is full", note="reads continue; writes resume when there is space"
            )
        elif was_full and not is_full:
            logger.info("the disk has room again")


def _describe(error: OSError) -> str:
    return f"{error.strerror or 'input/output error'} (errno {error.errno})"
