"""Quotas: how much each user, and all users together, may run, open and store.

`stored` has the quotas of what is stored (`stored_quotas`).

A session counts toward the limits of the user that it belongs to (`user_id`), no matter who caused
the work in it. Sessions without a user count only toward the global limits. A stream counts toward
the limits of the caller who opened it; the operator, who sees everything, has no limit.

Every counter is updated when something changes, so a check takes constant time. A caller that
checks a limit acts on it before the next `await`, so that two calls cannot take the last place.

Where several processes share the store, the limits of runs, queues and streams are those of each
process. It counts the runs that it executes, with what is queued behind them: what memory has of
other processes' runs may be old, and would refuse where there is room. External runs do not count
then.
"""

from collections.abc import Callable
from typing import NamedTuple, Protocol

from bamboo_gateway.domain.callers import Caller
from bamboo_gateway.domain.errors import LimitReached
from bamboo_gateway.domain.sessions import SessionHead
from bamboo_gateway.sessions.file_shelf.usage import FileUsage
from bamboo_gateway.sessions.stored_quotas import CountByUser, StoredQuotas
from bamboo_gateway.settings import Settings
from bamboo_gateway.storage.base import SessionStore

_RUN_SECONDS = 5
"""When to retry for a place that a run or a stream holds: those end by themselves."""


class CountedSession(Protocol):
    """What quotas read of a session in memory (`streaming.session_writer.SessionWriter`)."""

    head: SessionHead
    made_for: str | None
    users: int

    @property
    def is_unborn(self) -> bool:
        """Whether no event of it is durable yet."""


class _Share(NamedTuple):
    """What one session in memory adds to its user's counters.

    `runs` is 1 from the start of the first run to the end of the last queued one: the session's one
    slot passes from a run to the next, and no other session's run gets in between. `places` is 1
    while the session cannot leave memory, because a run or a call needs it.
    """

    user_id: str | None
    runs: int
    queued: int
    unborn: int
    places: int


class Quotas:
    """Counts what is in use, and refuses what would go over a limit.

    Attributes:
        stored: The quotas of sessions and their bytes.
    """

    def __init__(self, store: SessionStore, settings: Settings, files: FileUsage) -> None:
        self.stored = StoredQuotas(store, settings, files)
        self._store = store
        self._settings = settings
        self._runs = CountByUser()
        self._queued = CountByUser()
        self._streams = CountByUser()
        self._places = CountByUser()
        self._shares: dict[CountedSession, _Share] = {}

    # -- counting ---------------------------------------------------------------------------

    def note(self, writer: CountedSession) -> None:
        """Update the counters after a session's runs, calls or existence changed."""
        head = writer.head
        is_here = self._executes(head)
        waiting = len(head.queue) if is_here else 0
        has_run = is_here and (head.active is not None or waiting > 0)
        share = _Share(
            head.user_id if head.seq else writer.made_for,
            runs=int(has_run),
            queued=waiting,
            unborn=int(writer.is_unborn and head.seq > 0),
            places=int(has_run or writer.users > 0),
        )
        former = self._shares.get(writer)
        if share != former:
            was_unborn = 0
            if former is not None:
                self._count(former, -1)
                was_unborn = former.unborn
            self._count(share, 1)
            self._shares[writer] = share
            if share.unborn != was_unborn:
                self.stored.count_unborn(share.user_id, share.unborn - was_unborn)

    def forget(self, writer: CountedSession) -> None:
        """Take a session out of the counters: it has left memory, or is deleted."""
        share = self._shares.pop(writer, None)
        if share is not None:
            self._count(share, -1)
            if share.unborn:
                self.stored.count_unborn(share.user_id, -1)

    def stream_opened(self, caller: Caller) -> None:
        """Count a stream that is being opened."""
        self._streams.add(_viewer(caller), 1)

    def stream_closed(self, caller: Caller) -> None:
        """Count a stream that has ended."""
        self._streams.add(_viewer(caller), -1)

    def _executes(self, head: SessionHead) -> bool:
        """Return whether a session's runs, if there are any, are those of this process."""
        replicas = self._store.replicas
        if replicas is None:
            return True
        return head.active is not None and head.active.executor == replicas.executor

    def _count(self, share: _Share, sign: int) -> None:
        user_id, runs, queued, _, places = share
        if runs or queued:
            self._runs.add(user_id, sign * runs)
            self._queued.add(user_id, sign * queued)
        self._places.add(user_id, sign * places)

    def take_place(self, writer: CountedSession, *, within_share: bool) -> None:
        """Count a session that a call keeps in memory.

        A session that something else keeps in memory already is never refused.

        Args:
            writer: The session's writer. Its `users` include the call.
            within_share: Whether the user's limit applies to this call.

        Raises:
            LimitReached: The user has `max_active_sessions_per_user`.
        """
        share = self._shares[writer]
        if within_share and not share.places:
            self._check(
                "too-many-busy-sessions",
                "Wait for a run or a request to end",
                _RUN_SECONDS,
                max_active_sessions_per_user=lambda: self._places.of(share.user_id),
            )
        self.note(writer)

    # -- checking ---------------------------------------------------------------------------

    def check_run(self, user_id: str | None) -> None:
        """Refuse to start a run in a session that has none.

        Raises:
            LimitReached: `max_active_runs`, or the user's `max_active_runs_per_user`, is reached.
        """
        self._check(
            "too-many-runs",
            "Wait for a run to end, or cancel one,",
            _RUN_SECONDS,
            max_active_runs_per_user=lambda: self._runs.of(user_id),
            max_active_runs=lambda: self._runs.total,
        )

    def check_queue(self, user_id: str | None) -> None:
        """Refuse one more queued run.

        Raises:
            LimitReached: `max_queued_runs_in_all`, or the user's `max_queued_runs_per_user`, is
                reached.
        """
        self._check(
            "too-many-queued-runs",
            "Wait for a run to end, or cancel one,",
            _RUN_SECONDS,
            max_queued_runs_per_user=lambda: self._queued.of(user_id),
            max_queued_runs_in_all=lambda: self._queued.total,
        )

    def check_stream(self, caller: Caller) -> None:
        """Refuse one more stream.

        Raises:
            LimitReached: The caller has `max_connections_per_user`.
        """
        self._check(
            "too-many-streams",
            "Close a stream",
            _RUN_SECONDS,
            max_connections_per_user=lambda: self._streams.of(_viewer(caller)),
        )

    def _check(self, code: str, remedy: str, seconds: int, **used: Callable[[], int]) -> None:
        for setting, count in used.items():
            limit: int | None = getattr(self._settings, setting)
            if limit is not None and count() >= limit:
                raise LimitReached(
                    f"Limit reached: {limit} ({setting}). {remedy} and retry.",
                    code=code,
                    retry_after_seconds=seconds,
                )


def _viewer(caller: Caller) -> str | None:
    """Return whose limit a stream counts toward. The operator has none; links and tickets do."""
    is_operator = caller.user_id is None and caller.session_id is None
    return None if is_operator else caller.id
