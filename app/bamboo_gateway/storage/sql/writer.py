"""The thread of the group commit: everything that waits becomes durable in one transaction.

While one batch commits, the next one gathers. So thousands of sessions share a few syncs, and the
latency of a commit stays near that of one transaction.

Commits are compared with the database's rows there, in the order in which they were given. So one
that was built on a refused commit finds another head and is refused too. Where several processes
share a database, that is not enough: a commit of notes alone moves nothing but the version, and the
one of another process that it was refused for has moved it as well. So the thread refuses what was
given before the event loop knew of the refusal.
"""

import asyncio
from collections import deque
from collections.abc import Callable, Collection
from secrets import randbits
from threading import Condition, Thread
from typing import NamedTuple, final

from bamboo_gateway.domain.clock import Clock
from bamboo_gateway.domain.errors import BambooError, Conflict, StorageFailed
from bamboo_gateway.domain.limits import MiB
from bamboo_gateway.observability.histogram import COUNTS, DISK_SECONDS, Histogram
from bamboo_gateway.storage.base import Done
from bamboo_gateway.storage.commits import Commit
from bamboo_gateway.storage.sql.database import Database
from bamboo_gateway.storage.sql.prepared import PreparedCommit, built_on_refused, prepare

# What one transaction takes. More saves hardly any sync, and the first commit of a batch waits for
# the rows of the last one.
_BATCH_COMMITS_MAX = 1024
_BATCH_BYTES_MAX = 8 * MiB


class _Waiting(NamedTuple):
    """A commit, who is told, and how many refusals the loop knew of when it was given."""

    commit: Commit
    done: Done
    known: int


@final
class _Batch:
    """Commits that the thread has taken and the event loop has not answered yet."""

    __slots__ = ("_answered", "answers", "refusals", "session_ids", "waiting")

    def __init__(self, waiting: list[_Waiting]) -> None:
        self.waiting = waiting
        self.session_ids = {commit.session_id for commit, _, _ in waiting}
        self.answers: list[BambooError | None] = []
        self.refusals: list[int] = []
        # The loop alone reads and writes it.
        self._answered: asyncio.Future[None] | None = None

    def answered(self) -> "asyncio.Future[None]":
        """Return what is done when the commits have their answers."""
        if self._answered is None:
            self._answered = asyncio.get_running_loop().create_future()
        return self._answered

    def set_answered(self) -> None:
        """Let those who wait for the answers go on."""
        if self._answered is not None and not self._answered.done():
            self._answered.set_result(None)


class Writer:
    """The thread and its queue, from `start` to `stop`."""

    def __init__(
        self, database: Database, clock: Clock, on_interval: Callable[[], None], seconds: float
    ) -> None:
        """Make a writer.

        Args:
            database: The database.
            clock: The clock for durations.
            on_interval: Called on the thread, between batches, about every `seconds`.
            seconds: The interval.
        """
        self._database = database
        self._clock = clock
        self._on_interval = on_interval
        self._seconds = seconds
        self._loop: asyncio.AbstractEventLoop | None = None
        self._given: list[_Waiting] = []
        self._changed = Condition()
        self._waiting: deque[_Waiting] = deque()
        self._is_stopping = False
        # In the order of their transactions: the thread appends, the loop removes.
        self._batches: deque[_Batch] = deque()
        # Refusals are counted in the order in which the loop is told: how many there are, how many
        # the loop knows of, and the last one of each session.
        self._refusals = self._known = 0
        self._refused: dict[str, int] = {}
        # A daemon: a program that fails before it has closed the store must end, and Python waits
        # for every other thread before it does.
        self._thread = Thread(target=self._run, name="bamboo-sql-writer", daemon=True)
        self.batch_commits = Histogram(COUNTS)
        self.commit_seconds = Histogram(DISK_SECONDS)
        self.commits = self.events = self.batches = self.failures = 0
        self.failure: BambooError | None = None

    def start(self, loop: asyncio.AbstractEventLoop) -> None:
        """Start the thread; answers are given on this loop."""
        self._loop = loop
        self._database.when_away(self._refuse_waiting)
        self._thread.start()

    @property
    def is_alive(self) -> bool:
        """Whether commits will be answered."""
        return self._thread.is_alive()

    def append(self, commit: Commit, done: Done) -> None:
        """Take a commit; the commits of one turn of the loop wake the thread once."""
        if not self._given:
            assert self._loop is not None
            self._loop.call_soon(self._hand_over)
        self._given.append(_Waiting(commit, done, self._known))

    def _hand_over(self) -> None:
        given, self._given = self._given, []
        if given:
            with self._changed:
                self._waiting.extend(given)
                self._changed.notify()

    def _refuse_waiting(self, error: BambooError) -> None:
        """Refuse what the thread has not taken: it waits for the outcome of what it has."""
        assert self._loop is not None
        with self._changed:
            for commit, done, _ in self._waiting:
                self._loop.call_soon_threadsafe(self._tell, done, error, self._refuse(commit))
            self._waiting.clear()

    async def settled(self, session_ids: Collection[str]) -> None:
        """Return when what a read of these sessions may have seen has its answers.

        A commit is visible to other connections a moment before its `done` is called.
        """
        for batch in reversed(self._batches):
            if not batch.session_ids.isdisjoint(session_ids):
                # Many wait for one future, and one of them that is cancelled must not cancel it.
                await asyncio.shield(batch.answered())
                return

    async def drained(self) -> None:
        """Return when everything given before has its answer."""
        self._hand_over()
        answered: asyncio.Future[None] = asyncio.get_running_loop().create_future()

        def done(_error: BambooError | None) -> None:
            if not answered.done():
                answered.set_result(None)

        with self._changed:
            self._waiting.append(_Waiting(_NOTHING, done, self._known))
            self._changed.notify()
        await answered

    def stop(self) -> None:
        """End the thread when everything given has been answered; block until then."""
        self._hand_over()
        with self._changed:
            self._is_stopping = True
            self._changed.notify()
        self._thread.join()

    def _run(self) -> None:
        due = self._clock.monotonic() + self._seconds
        while True:
            with self._changed:
                if not self._waiting and not self._is_stopping:
                    self._changed.wait(self._seconds)
                taken = self._take()
                is_stopping = self._is_stopping
            if taken:
                self._commit(_Batch(taken))
            elif is_stopping:
                self._on_interval()
                return
            now = self._clock.monotonic()
            if now >= due or not taken:
                self._on_interval()
                due = now + self._seconds

    def _take(self) -> list[_Waiting]:
        waiting = self._waiting
        taken: list[_Waiting] = []
        size = 0
        while waiting and len(taken) < _BATCH_COMMITS_MAX and size < _BATCH_BYTES_MAX:
            next_one = waiting.popleft()
            size += sum(len(event.body) for event in next_one.commit.events)
            taken.append(next_one)
        return taken

    def _commit(self, batch: _Batch) -> None:
        """Commit a batch, and have it answered; whatever happens, each commit gets an answer."""
        self._batches.append(batch)
        self._forget_refusals(batch.waiting[0].known)
        prepared: list[PreparedCommit] = []
        places: list[int] = []
        answers: list[BambooError | None] = [None] * len(batch.waiting)
        for place, (commit, _, known) in enumerate(batch.waiting):
            if commit is _NOTHING:
                continue
            if commit.version is not None and known < self._refused.get(commit.session_id, 0):
                answers[place] = built_on_refused(commit)
                continue
            try:
                prepared.append(prepare(commit, randbits(63)))
                places.append(place)
            except Exception as error:  # noqa: BLE001 - the others do not depend on it (R10)
                answers[place] = StorageFailed(f"The commit cannot be stored: {error}.")
        started = self._clock.monotonic()
        try:
            found = self._database.commit(prepared) if prepared else []
        except Exception as error:  # noqa: BLE001 - without answers the gateway would wait for ever
            found = [StorageFailed(f"The commit failed: {error!r}.") for _ in prepared]
        if prepared:
            self._count(prepared, found, self._clock.monotonic() - started)
        for place, answer in zip(places, found, strict=True):
            answers[place] = answer
        batch.answers = answers
        batch.refusals = self._refuse_of(batch, set(places))
        assert self._loop is not None
        self._loop.call_soon_threadsafe(self._answer, batch)

    def _refuse_of(self, batch: _Batch, sent: Collection[int]) -> list[int]:
        """Count the refusals of what was sent; return the number of each, 0 for the others.

        Of one session the first counts: what is decided again may be given behind it.
        """
        numbers = [0] * len(batch.waiting)
        seen: set[str] = set()
        for place, answer in enumerate(batch.answers):
            session_id = batch.waiting[place].commit.session_id
            if answer is not None and session_id not in seen and place in sent:
                seen.add(session_id)
                with self._changed:
                    numbers[place] = self._refuse(batch.waiting[place].commit)
        return numbers

    def _refuse(self, commit: Commit) -> int:
        """Count a refusal, holding the lock; return its number."""
        self._refusals += 1
        self._refused[commit.session_id] = self._refusals
        return self._refusals

    def _forget_refusals(self, known: int) -> None:
        """Forget what the loop knew when the commits that come now were given."""
        if self._refused:
            with self._changed:
                self._refused = {name: no for name, no in self._refused.items() if no > known}

    def _count(
        self, prepared: list[PreparedCommit], answers: list[BambooError | None], seconds: float
    ) -> None:
        self.batches += 1
        self.batch_commits.observe(len(prepared))
        self.commit_seconds.observe(seconds)
        for commit, answer in zip(prepared, answers, strict=True):
            if answer is None:
                self.commits += 1
                self.events += len(commit.events)
                self.failure = None
            elif not isinstance(answer, Conflict):
                self.failures += 1
                self.failure = answer

    def _answer(self, batch: _Batch) -> None:
        popped = self._batches.popleft()
        assert popped is batch
        refusals = batch.refusals
        for (_, done, _), answer, number in zip(
            batch.waiting, batch.answers, refusals, strict=True
        ):
            try:
                self._tell(done, answer, number)
            except Exception as failure:  # noqa: BLE001 - the others' answers do not depend on it
                context = {"message": "taking a commit's answer failed", "exception": failure}
                asyncio.get_running_loop().call_exception_handler(context)
        batch.set_answered()

    def _tell(self, done: Done, answer: BambooError | None, refusal: int) -> None:
        self._known = max(self._known, refusal)
        done(answer)


# What `drained` waits for: it goes through the queue and through no transaction.
_NOTHING = Commit("", 0, 0, ())
