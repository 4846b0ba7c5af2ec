"""The committer: the one thread that appends to logs (R8), many commits at a time.

It takes all waiting commits as one batch. It checks each commit against the head of its log, writes
all records with one write and one sync, and acknowledges the batch with one call into the event
loop. While a sync runs, the next batch gathers (group commit). The lines reach the log files later,
when there is time (see `log/write_behind`).

Heads are checked here, in the order in which commits were given, and nowhere else. So a commit that
was built on a refused one finds another head and is refused too, however many were on their way.

A failed write or sync refuses the whole batch and gives up the segment (see `journal/segments`). A
log file that cannot be written refuses nothing of the batch: acknowledged lines are durable in the
journal, and stay in memory, where reads see them. From then on the committer refuses commits of
that session alone, except for endings of runs, until a retry here or in a checkpoint succeeds (see
`log/write_health`).
"""

import asyncio
import contextlib
import errno
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path
from queue import Empty, SimpleQueue
from threading import Thread
from typing import TypeVar, final

from bamboo_gateway.domain.clock import Clock
from bamboo_gateway.domain.errors import BambooError, StorageFailed, StorageFull, Unavailable
from bamboo_gateway.observability.histogram import COUNTS, DISK_SECONDS, Histogram
from bamboo_gateway.storage.file_system import failure_of
from bamboo_gateway.storage.jsonl.journal.batch import Answer, Batch, Request
from bamboo_gateway.storage.jsonl.journal.segments import SEGMENT_BYTES, SPARES_MAX, Journal
from bamboo_gateway.storage.jsonl.line_commit import LineCommit
from bamboo_gateway.storage.jsonl.log.log import Log
from bamboo_gateway.storage.jsonl.log.table import Deletion, LogTable
from bamboo_gateway.storage.jsonl.log.write_behind import WriteBehind
from bamboo_gateway.storage.jsonl.log.write_health import WriteHealth

# One write of some MiB costs little more than its sync; larger ones only add latency.
_BATCH_BYTES = 4 * 1024 * 1024
_BATCH_COMMITS = 20_000
# After a pause of this length the thread writes to the logs. It is longer than the pauses between
# batches under load, also where other programs take most of the machine (measured: 20 ms occur).
_REST_SECONDS = 0.25
# Segments that may wait for a checkpoint. More of them, a gigabyte, mean that checkpoints fail.
_CLOSED_SEGMENTS_MAX = 64
# How often the thread checks that the journal is still in its place, and, while the journal takes
# nothing, whether it does again. The answer of /health/ready is no older than this.
_CHECK_SECONDS = 1.0


@final
@dataclass(slots=True)
class Job:
    """A call to make between batches on the committer's thread; it never raises."""

    run: Callable[[], None]


@dataclass(slots=True)
class Rotation:
    """The work of a checkpoint: write what closed segments hold, up to `lsn`, to its place.

    Attributes:
        lsn: The number of the last record.
        last_epoch: The last epoch that was used.
        segments: The closed segments, by number.
        logs: The logs that they name, with the bytes of their records.
        spares_wanted: How many segments the checkpoint should blank for reuse.
        spares: Those that it has blanked.
    """

    lsn: int
    last_epoch: int
    segments: dict[int, int | None]
    logs: dict[Log, int]
    spares_wanted: int
    spares: list[Path] = field(default_factory=list)


_WRITING = "Writing the journal"

# The commits of one turn of the loop with the bytes of their lines, or something else by itself.
_Item = tuple[list[LineCommit], int] | Deletion | Job
T = TypeVar("T")


class Committer:
    """The thread and its queue.

    The event loop calls `append`, `delete`, `send` and `change`; the rest runs on the thread.
    """

    def __init__(
        self,
        journal: Journal,
        table: LogTable,
        write_health: WriteHealth,
        clock: Clock,
        *,
        syncs_commits: bool,
        checkpoint_interval_seconds: float,
    ) -> None:
        self._journal = journal
        self._table = table
        self._write_health = write_health
        self._clock = clock
        self._syncs_commits = syncs_commits
        self._interval = checkpoint_interval_seconds
        self._queue: SimpleQueue[_Item | None] = SimpleQueue()
        # A daemon: a program that fails before it has closed the store must end, and Python waits
        # for every other thread before it does. The thread is then stopped as by `kill -9`, which
        # costs nothing that was acknowledged.
        self._thread = Thread(target=self._run, name="bamboo-committer", daemon=True)
        self._loop: asyncio.AbstractEventLoop | None = None
        # The commits of this turn of the loop.
        self._given: list[LineCommit] = []
        self._given_bytes = 0
        self._on_answers: Callable[[list[Answer]], None] = _ignore
        self._on_due: Callable[[], None] = _ignore_due
        self._closing = False
        self._last_asked = clock.monotonic()
        self._asked = False
        # Closed segments that a checkpoint is processing.
        self._handed_over = 0
        self._touched: dict[Log, None] = {}
        self.batch_commits = Histogram(COUNTS)
        self.sync_seconds = Histogram(DISK_SECONDS)
        self._write_behind = WriteBehind(write_health, clock)
        self._checked_at = clock.monotonic()
        self._is_in_place = True
        self._is_at_rest = False
        self.batches = self.commits = self.bytes = self.failures = 0

    def start(
        self,
        loop: asyncio.AbstractEventLoop,
        on_answers: Callable[[list[Answer]], None],
        on_due: Callable[[], None],
    ) -> None:
        """Start the thread.

        Args:
            loop: The event loop on which answers are given.
            on_answers: Called with the answers of a batch, in order.
            on_due: Called when a checkpoint is due, also on the loop.
        """
        self._loop = loop
        self._on_answers = on_answers
        self._on_due = on_due
        self._thread.start()

    @property
    def is_alive(self) -> bool:
        """Whether the thread runs."""
        return self._thread.is_alive()

    @property
    def has_work(self) -> bool:
        """Whether the journal holds anything for a checkpoint."""
        return self._journal.has_records or bool(self._journal.closed)

    def append(self, commit: LineCommit) -> None:
        """Queue a commit.

        The commits of one turn of the loop are queued together at its end. So a busy loop wakes the
        thread once a turn, and neither of them interrupts the other for each commit.
        """
        if not self._given:
            loop = self._loop
            assert loop is not None
            loop.call_soon(self._hand_over)
        self._given.append(commit)
        self._given_bytes += len(commit.data)
        if self._given_bytes >= _BATCH_BYTES:
            self._hand_over()

    def _hand_over(self) -> None:
        if self._given:
            self._queue.put((self._given, self._given_bytes))
            self._given, self._given_bytes = [], 0

    def _put(self, item: Deletion | Job | None) -> None:
        """Queue an item behind all commits."""
        self._hand_over()
        self._queue.put(item)

    def delete(self, deletion: Deletion) -> None:
        """Queue a deletion, in order with the commits."""
        self._put(deletion)

    def send(self, function: Callable[[], T]) -> "asyncio.Future[T]":
        """Run a function on the thread, in order with the commits; the future is the loop's.

        All earlier answers are given before the future is done.
        """
        loop = self._loop
        assert loop is not None
        future: asyncio.Future[T] = loop.create_future()

        def run() -> None:
            try:
                result = function()
            except Exception as error:  # noqa: BLE001 - the caller handles it
                self._call_loop(_set_exception, future, error)
            else:
                self._call_loop(_set_result, future, result)

        self._put(Job(run))
        return future

    def change(self, function: Callable[[], T], answer: Callable[[T | Exception], None]) -> None:
        """Run a function on the thread that changes what commits' answers are applied to.

        As `send`, but `answer` is called on the loop with the result, or with the exception,
        before any later commit is answered.
        """

        def run() -> None:
            try:
                result = function()
            except Exception as error:  # noqa: BLE001 - the caller handles it
                self._call_loop(answer, error)
            else:
                self._call_loop(answer, result)

        self._put(Job(run))

    def note_changed(self, log: Log) -> None:
        """Have the next checkpoint sync the log and its file name. Call it in a change only."""
        log.is_new_file = True
        self._touched[log] = None

    def _call_loop(self, function: Callable[..., None], *arguments: object) -> None:
        loop = self._loop
        assert loop is not None
        # After the loop was closed nobody waits for an answer.
        with contextlib.suppress(RuntimeError):
            loop.call_soon_threadsafe(function, *arguments)

    def stop(self) -> None:
        """Let the thread end after everything queued before."""
        self._put(None)

    def join(self) -> None:
        """Wait for the end of the thread. Do not call it on the loop's thread."""
        if self._thread.is_alive():
            self._thread.join()

    def _run(self) -> None:
        while not self._closing:
            self._run_once()
        # Requests that came after the closing are answered too.
        with contextlib.suppress(Empty):
            while True:
                self._refuse_closed(self._queue.get_nowait())

    def _run_once(self) -> None:
        batch, data_bytes, job = self._gather()
        if batch:
            self._commit(Batch(self._table, self._write_health, batch, data_bytes))
        if job is not None:
            job.run()
        self._is_at_rest = not batch and job is None and not self._closing
        self._check_place()
        if self._is_in_place:
            if self._is_at_rest:
                self._write_behind.write_oldest()
            else:
                self._write_behind.write_due()
            self._retry_failed()
        self._request_checkpoint()

    def _retry_failed(self) -> None:
        if self._write_health.is_full and self._journal.spares:
            self._journal.remove_spares()
            failed = self._write_health.without_room()
        else:
            failed = self._write_health.due()
        for log in failed:
            if log.removed:
                # The session was deleted or its files were swapped: nobody needs these lines.
                self._write_health.log_written(log)
            elif self._write_health.retry(log):
                self._touched[log] = None

    def _check_place(self) -> None:
        """Check that the journal is in its place, and whether it takes commits again."""
        now = self._clock.monotonic()
        if now - self._checked_at < _CHECK_SECONDS:
            return
        self._checked_at = now
        self._is_in_place = self._journal.is_in_place()
        if not self._is_in_place or self._write_health.refusal is not None:
            with contextlib.suppress(OSError, Unavailable):
                self._make_room(self._write_health.refused_bytes)

    def _gather(self) -> tuple[list[Request], int, Job | None]:
        """Take what waits: requests, the bytes of their lines, and the job behind them."""
        take, data_bytes = self._queue.get_nowait, 0
        batch: list[Request] = []
        with contextlib.suppress(Empty):
            item = self._queue.get(timeout=self._timeout())
            while True:
                if isinstance(item, tuple):
                    commits, size = item
                    batch += commits
                    data_bytes += size
                elif item is None:
                    self._closing = True
                    break
                elif isinstance(item, Job):
                    return batch, data_bytes, item
                else:
                    batch.append(item)
                    data_bytes += len(item.data)
                if data_bytes >= _BATCH_BYTES or len(batch) >= _BATCH_COMMITS:
                    break
                item = take()
        return batch, data_bytes, None

    def _timeout(self) -> float:
        """Return for how many seconds to wait for the next request."""
        if self._write_behind and self._is_in_place:
            return 0 if self._is_at_rest else _REST_SECONDS
        until_retry = self._write_health.seconds_until_due()
        timeout = min(self._interval, _CHECK_SECONDS)
        return timeout if until_retry is None else min(timeout, max(until_retry, _REST_SECONDS))

    def _commit(self, batch: Batch) -> None:
        try:
            self._take(batch)
        except Exception as error:  # noqa: BLE001 - each commit gets an answer, whatever fails
            batch.roll_back(_failure(error))
            self.failures += 1
        else:
            batch.settle()
            self._touched.update(dict.fromkeys(batch.before))
            for log in batch.gone:
                self._touched.pop(log, None)
            self.batches += 1
            self.commits += len(batch.answers)
            self.batch_commits.observe(len(batch.answers))
        self._call_loop(self._answer, batch.answers, batch.deletions)
        self._write_behind.add(batch.before)

    def _take(self, batch: Batch) -> None:
        journal = self._journal
        is_full = not self._make_room(batch.size)
        if is_full:
            journal.make_reserve_room(batch.reserve_size)
        parts = batch.admit(journal, is_full=is_full)
        if not parts:
            return
        data = b"".join(parts)
        must_sync = self._must_sync(batch.before)
        began = self._clock.monotonic()
        try:
            journal.write(data, sync=must_sync)
        except BaseException as error:
            journal.abandon()
            if journal.number == 0 and isinstance(error, OSError):
                # No other segment could be made either.
                self._write_health.journal_failed(failure_of(error, _WRITING), batch.size)
            raise
        if must_sync:
            self.sync_seconds.observe(self._clock.monotonic() - began)
        self.bytes += len(data)

    def _make_room(self, size: int) -> bool:
        """Make room for this many bytes in the journal, and note it when there is none.

        Returns:
            False when only the reserve is left.

        Raises:
            OSError, StorageFailed: The journal takes nothing.
        """
        write_health = self._write_health
        try:
            self._check_journal()
            has_room = self._journal.make_room(size)
        except StorageFailed as failed:
            write_health.journal_failed(failed, size)
            raise
        except OSError as error:
            self._is_in_place = error.errno != errno.ESTALE
            write_health.journal_failed(failure_of(error, _WRITING), size)
            raise
        self._is_in_place = True
        if not has_room:
            full = StorageFull("The disk is full: nothing can be written until there is space.")
            write_health.journal_failed(full, size)
        elif size >= write_health.refused_bytes or not write_health.is_full:
            write_health.journal_works()
        return has_room

    def _check_journal(self) -> None:
        if len(self._journal.closed) > _CLOSED_SEGMENTS_MAX:
            raise StorageFailed("Checkpoints fail, so the journal takes no more.")

    def _must_sync(self, logs: Iterable[Log]) -> bool:
        """Return whether the batch has to be synced.

        With `durability = "os"` only a batch that names a log for the first time in its segment
        is synced. So the synced part of the journal names each log that has unsynced lines.
        """
        if self._syncs_commits:
            return True
        number = self._journal.number
        unnamed = [log for log in logs if log.segment != number]
        for log in unnamed:
            log.segment = number
        return bool(unnamed)

    def _answer(self, answers: list[Answer], deletions: list[Deletion]) -> None:
        self._on_answers(answers)
        for deletion in deletions:
            deletion.answer(deletion)

    def _refuse_closed(self, item: _Item | None) -> None:
        closed = Unavailable("The store is closed.")
        match item:
            case (commits, _):
                self._call_loop(self._answer, [(commit, closed, 0, 0) for commit in commits], [])
            case Deletion():
                item.error = closed
                self._call_loop(self._answer, [], [item])
            case Job():
                item.run()
            case None:
                pass

    def _request_checkpoint(self) -> None:
        now = self._clock.monotonic()
        if now - self._last_asked >= self._interval:
            self._asked = False
        elif self._journal.size < SEGMENT_BYTES and len(self._journal.closed) <= self._handed_over:
            return
        if not self._asked:
            self._asked = True
            self._last_asked = now
            self._call_loop(self._on_due)

    def rotate(self, *, final: bool = False) -> Rotation:
        """Close the segment and return the work of a checkpoint; as a job only.

        Raises:
            OSError: The next segment cannot be made, and this one stays in use; or the directory
                does not belong to this process any more.
        """
        journal = self._journal
        if not final and not journal.is_in_place():
            raise OSError(errno.ESTALE, "the data directory was moved, removed or replaced")
        if final:
            journal.finish()
        elif journal.has_records:
            journal.rotate()
            journal.keep_reserve()
        self._asked = False
        self._table.evict(self._touched)
        # A log that could not be written last time is tried again. The held file of a log that
        # was written since is removed.
        self._touched.update(
            (log, None) for log in self._table.logs.values() if log.tail or log.held_end
        )
        logs = {log: log.journal_bytes for log in self._touched}
        wanted = 0 if self._write_health.is_full else SPARES_MAX - len(journal.spares)
        self._touched = {}
        self._handed_over = len(journal.closed)
        return Rotation(journal.lsn, journal.last_epoch, dict(journal.closed), logs, wanted)

    def forget_segments(self, rotation: Rotation) -> None:
        """Forget the segments that a checkpoint has dropped; as a job only."""
        for number in rotation.segments:
            del self._journal.closed[number]
        self._journal.spares += rotation.spares
        self._handed_over = 0
        for log, size in rotation.logs.items():
            log.journal_bytes -= size

    def take_back(self, rotation: Rotation) -> None:
        """Take back the work of a checkpoint that failed; as a job only."""
        self._touched = {**dict.fromkeys(rotation.logs), **self._touched}


def _set_result(future: "asyncio.Future[T]", result: T) -> None:
    if not future.cancelled():
        future.set_result(result)


def _set_exception(future: "asyncio.Future[T]", error: Exception) -> None:
    if not future.cancelled():
        future.set_exception(error)


def _ignore(_: list[Answer]) -> None:
    return None


def _ignore_due() -> None:
    return None


def _failure(error: Exception) -> BambooError:
    match error:
        case BambooError():
            return error
        case OSError():
            return failure_of(error, _WRITING)
        case _:
            return StorageFailed(f"{_WRITING} failed: {type(error).__name__}.")
