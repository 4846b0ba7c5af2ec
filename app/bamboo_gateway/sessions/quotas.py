"""Quotas: how much each user, and all users together, may run, open and store.

A session counts toward the limits of the user that it belongs to (`user_id`), no matter who caused
the work in it. Sessions without a user count only toward the global limits. A stream counts toward
the limits of the caller who opened it; the operator, who sees everything, has no limit.

Every counter is updated when something changes, so a check takes constant time. A caller that
checks a limit acts on it before the next `await`, so that two calls cannot take the last place.
"""

from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import NamedTuple, Protocol

from bamboo_gateway.domain.callers import Caller
from bamboo_gateway.domain.errors import LimitReached
from bamboo_gateway.domain.sessions import SessionHead
from bamboo_gateway.settings import Settings
from bamboo_gateway.storage.base import SessionStore

_RUN_SECONDS = 5
"""When to retry for a place that a run or a stream holds: those end by themselves."""

_STORED_SECONDS = 60
"""When to retry for what only a deletion frees."""


class CountedSession(Protocol):
    """What quotas read of a session in memory (`streaming.session_writer.SessionWriter`)."""

    head: SessionHead
    made_for: str | None
    users: int

    @property
    def is_unborn(self) -> bool:
        """Whether no event of it is durable yet."""


class _ByUser:
    """A counter with a total and a count for each user."""

    def __init__(self) -> None:
        self.total = 0
        self._by_user: Counter[str] = Counter()

    def add(self, user_id: str | None, change: int) -> None:
        if not change:
            return
        self.total += change
        if user_id is not None:
            self._by_user[user_id] += change
            if not self._by_user[user_id]:
                del self._by_user[user_id]

    def of(self, user_id: str | None) -> int:
        return self._by_user[user_id] if user_id is not None else 0


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
    """Counts what is in use, and refuses what would go over a limit."""

    def __init__(self, store: SessionStore, settings: Settings) -> None:
        self._store = store
        self._settings = settings
        self._runs = _ByUser()
        self._queued = _ByUser()
        # Sessions whose creation is decided, and not durable yet.
        self._unborn = _ByUser()
        self._streams = _ByUser()
        self._places = _ByUser()
        self._shares: dict[CountedSession, _Share] = {}

    # -- counting ---------------------------------------------------------------------------

    def note(self, writer: CountedSession) -> None:
        """Update the counters after a session's runs, calls or existence changed."""
        head = writer.head
        waiting = len(head.queue)
        has_run = head.active is not None or waiting > 0
        share = _Share(
            head.user_id if head.seq else writer.made_for,
            runs=int(has_run),
            queued=waiting,
            unborn=int(writer.is_unborn and head.seq > 0),
            places=int(has_run or writer.users > 0),
        )
        former = self._shares.get(writer)
        if share != former:
            if former is not None:
                self._count(former, -1)
            self._count(share, 1)
            self._shares[writer] = share

    def forget(self, writer: CountedSession) -> None:
        """Take a session out of the counters: it has left memory, or is deleted."""
        share = self._shares.pop(writer, None)
        if share is not None:
            self._count(share, -1)

    @contextmanager
    def creating(self, user_id: str | None) -> Iterator[None]:
        """Count a session that is written to the store without a session writer, until it exists.

        Raises:
            LimitReached: As `check_session`.
        """
        self.check_session(user_id)
        self._unborn.add(user_id, 1)
        try:
            yield
        finally:
            self._unborn.add(user_id, -1)

    def stream_opened(self, caller: Caller) -> None:
        """Count a stream that is being opened."""
        self._streams.add(_viewer(caller), 1)

    def stream_closed(self, caller: Caller) -> None:
        """Count a stream that has ended."""
        self._streams.add(_viewer(caller), -1)

    def _count(self, share: _Share, sign: int) -> None:
        user_id, runs, queued, unborn, places = share
        if runs or queued or unborn:
            self._runs.add(user_id, sign * runs)
            self._queued.add(user_id, sign * queued)
            self._unborn.add(user_id, sign * unborn)
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

    def check_session(self, user_id: str | None) -> None:
        """Refuse one more session, also when the storage quota is used up.

        Raises:
            LimitReached: The user has `max_sessions_per_user`, or as `check_stored`.
        """
        self._check(
            "too-many-sessions",
            "Delete a session",
            _STORED_SECONDS,
            max_sessions_per_user=lambda: self._sessions_of(user_id),
        )
        self.check_stored(user_id)

    def check_stored(self, user_id: str | None) -> None:
        """Refuse to store more.

        The last write may go over the limit, and so may a run that has begun: it is not cut off.

        Raises:
            LimitReached: `max_stored_bytes`, or the user's `max_stored_bytes_per_user`, is reached.
        """
        self._check(
            "storage-quota-reached",
            "Delete or archive sessions",
            _STORED_SECONDS,
            max_stored_bytes_per_user=lambda: self._bytes_of(user_id),
            max_stored_bytes=lambda: self._store.usage().stored_bytes,
        )

    def _sessions_of(self, user_id: str | None) -> int:
        if user_id is None:
            return 0
        return self._store.usage(user_id).sessions + self._unborn.of(user_id)

    def _bytes_of(self, user_id: str | None) -> int:
        return 0 if user_id is None else self._store.usage(user_id).stored_bytes

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
