"""Quotas: what each user, and all together, may have at work, open and stored.

A user is the `user_id` of a session: whoever causes it, what happens in a session counts for whom
it belongs to. A session of nobody counts for nobody, and in all. Streams count for the caller who
has them open; the operator, who sees everything, has no share of his own.

Everything is counted as it changes, so asking costs the same however much there is; and whoever
asks decides before the next `await`, so that two cannot take the last place.
"""

from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import NamedTuple

from bamboo_gateway.domain.callers import Caller
from bamboo_gateway.domain.errors import LimitReached
from bamboo_gateway.sessions.streaming.session_writer import SessionWriter
from bamboo_gateway.settings import Settings
from bamboo_gateway.storage.base import SessionStore

_RUN_SECONDS = 5
"""When to come back for a place that a run or a stream holds: those end by themselves."""

_STORED_SECONDS = 60
"""When to come back for what only deleting frees."""


class _ByUser:
    """Counts something in all and by user."""

    def __init__(self) -> None:
        self.total = 0
        self._by_user: Counter[str] = Counter()

    def add(self, user_id: str | None, change: int) -> None:
        self.total += change
        if user_id is not None and change:
            self._by_user[user_id] += change
            if not self._by_user[user_id]:
                del self._by_user[user_id]

    def of(self, user_id: str | None) -> int:
        return self._by_user[user_id] if user_id is not None else 0


class _Share(NamedTuple):
    """What one session in memory counts for its user.

    `runs` is 1 from the first run's beginning to the last queued one's end: the session's one slot
    goes from a run to the next, and nobody else's run gets in between. `places` is 1 while the
    session cannot leave memory: it has a run, or a call is at work in it.
    """

    user_id: str | None
    runs: int
    queued: int
    unborn: int
    places: int


class Quotas:
    """See the module."""

    def __init__(self, store: SessionStore, settings: Settings) -> None:
        self._store = store
        self._settings = settings
        self._runs = _ByUser()
        self._queued = _ByUser()
        # Sessions that are decided and not stored yet.
        self._unborn = _ByUser()
        self._streams = _ByUser()
        self._places = _ByUser()
        self._shares: dict[SessionWriter, _Share] = {}

    # -- counting ---------------------------------------------------------------------------

    def note(self, live: SessionWriter) -> None:
        """Updates the counters after a session's runs, its calls or its existence changed."""
        head = live.head
        waiting = len(head.queue)
        has_run = head.active is not None or waiting > 0
        share = _Share(
            head.user_id if head.seq else live.made_for,
            runs=int(has_run),
            queued=waiting,
            unborn=int(live.is_unborn and head.seq > 0),
            places=int(has_run or live.users > 0),
        )
        if share != self._shares.get(live):
            self.forget(live)
            self._count(share, 1)
            self._shares[live] = share

    def forget(self, live: SessionWriter) -> None:
        """Hears of a session that has left memory, or is gone."""
        share = self._shares.pop(live, None)
        if share is not None:
            self._count(share, -1)

    @contextmanager
    def creating(self, user_id: str | None) -> Iterator[None]:
        """Holds a place for a session that is on its way into the store past its writer.

        Raises:
            LimitReached: See `check_session`.
        """
        self.check_session(user_id)
        self._unborn.add(user_id, 1)
        try:
            yield
        finally:
            self._unborn.add(user_id, -1)

    def stream_opened(self, caller: Caller) -> None:
        """Counts a stream that has been opened."""
        self._streams.add(_viewer(caller), 1)

    def stream_closed(self, caller: Caller) -> None:
        """Counts a stream that has ended."""
        self._streams.add(_viewer(caller), -1)

    def _count(self, share: _Share, sign: int) -> None:
        self._runs.add(share.user_id, sign * share.runs)
        self._queued.add(share.user_id, sign * share.queued)
        self._unborn.add(share.user_id, sign * share.unborn)
        self._places.add(share.user_id, sign * share.places)

    def take_place(self, live: SessionWriter, *, within_share: bool) -> None:
        """Counts a session that a call keeps in memory; refuses only one that nothing kept before.

        Args:
            live: The session. Its `users` include the call.
            within_share: Whether the user's share is a limit to this call.

        Raises:
            LimitReached: The user has `max_active_sessions_per_user`.
        """
        share = self._shares[live]
        if within_share and not share.places:
            self._check(
                "too-many-busy-sessions",
                "wait for a run or a request to end",
                _RUN_SECONDS,
                max_active_sessions_per_user=lambda: self._places.of(share.user_id),
            )
        self.note(live)

    # -- asking -----------------------------------------------------------------------------

    def check_run(self, user_id: str | None) -> None:
        """Refuses to start a run in a session that has none.

        Raises:
            LimitReached: There are `max_active_runs`, or `max_active_runs_per_user` of this user.
        """
        self._check(
            "too-many-runs",
            "wait for a run to end, or cancel one",
            _RUN_SECONDS,
            max_active_runs_per_user=lambda: self._runs.of(user_id),
            max_active_runs=lambda: self._runs.total,
        )

    def check_queue(self, user_id: str | None) -> None:
        """Refuses one more run that waits for its turn.

        Raises:
            LimitReached: `max_queued_runs_in_all` wait, or `max_queued_runs_per_user` of this user.
        """
        self._check(
            "too-many-queued-runs",
            "wait for a run to end, or cancel some",
            _RUN_SECONDS,
            max_queued_runs_per_user=lambda: self._queued.of(user_id),
            max_queued_runs_in_all=lambda: self._queued.total,
        )

    def check_stream(self, caller: Caller) -> None:
        """Refuses one more stream.

        Raises:
            LimitReached: The caller has `max_connections_per_user`.
        """
        self._check(
            "too-many-streams",
            "close one that is not needed",
            _RUN_SECONDS,
            max_connections_per_user=lambda: self._streams.of(_viewer(caller)),
        )

    def check_session(self, user_id: str | None) -> None:
        """Refuses one more session, also for what is stored.

        Raises:
            LimitReached: The user has `max_sessions_per_user`; or see `check_stored`.
        """
        self._check(
            "too-many-sessions",
            "delete some",
            _STORED_SECONDS,
            max_sessions_per_user=lambda: self._sessions_of(user_id),
        )
        self.check_stored(user_id)

    def check_stored(self, user_id: str | None) -> None:
        """Refuses to add to what is stored.

        The last write may go over the limit, and so may what was begun before: a run that is
        executing says what it has to say.

        Raises:
            LimitReached: There are `max_stored_bytes`, or `max_stored_bytes_per_user` of this user.
        """
        self._check(
            "storage-quota-reached",
            "delete or archive sessions",
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
                    f"{setting} is {limit}, and that is reached; {remedy}, or raise it.",
                    code=code,
                    retry_after_seconds=seconds,
                )


def _viewer(caller: Caller) -> str | None:
    """Names who has a share of the streams: not the operator, but a link or ticket of his."""
    is_operator = caller.user_id is None and caller.session_id is None
    return None if is_operator else caller.id
