"""The quotas of what is stored: how many sessions there may be, and how many bytes they may take.

The store knows how much there is, and may have to ask a database. A decision cannot wait for it.
So a call that may create a session first awaits `look_up`. Its decision then calls
`check_sessions`, which waits for nothing. In between, the process goes on creating sessions. What a
look-up found therefore only counts together with the sessions decided here since it began:

- Counting too many is easy: a session that is durable before its commit is acknowledged is in the
  store's answer, and among the sessions that this process still waits for.
- Counting too few is impossible: what the answer lacks was decided here since the look-up began.

So a creation is allowed on a count that may be too high, and refused only on one that is exact.
With many creations at once, exactly as many succeed as there is room for.

Bytes need no such care. The last write may go over the limit.

Where several processes share the store, each look-up asks it too, so what the others have created
counts. Sessions that two processes create at the same moment may go over the limit together: by the
creations that the others have on their way, and by no more.
"""

from collections import Counter
from collections.abc import Iterable, Iterator
from contextlib import contextmanager

import anyio

from bamboo_gateway.domain.errors import LimitReached
from bamboo_gateway.sessions.file_shelf.records import owner_key
from bamboo_gateway.sessions.file_shelf.usage import FileUsage
from bamboo_gateway.settings import Settings
from bamboo_gateway.storage.base import SessionStore

_RETRY_SECONDS = 60
"""When to retry: only a deletion makes room."""


class DoubtfulError(Exception):
    """A refusal cannot be decided on the last look-up: `SessionRegistry.within` begins again."""


class StoredQuotas:
    """Checks `max_sessions`, `max_stored_bytes` and the same of each user.

    Attributes:
        limits_sessions: Whether the number of sessions is limited. If not, nothing has to be looked
            up before a creation.
        limits_bytes: Whether their bytes are limited.
    """

    def __init__(self, store: SessionStore, settings: Settings, files: FileUsage) -> None:
        self._store = store
        self._files = files
        self._settings = settings
        self.limits_bytes = (
            settings.max_stored_bytes is not None or settings.max_stored_bytes_per_user is not None
        )
        self.limits_sessions = (
            settings.max_sessions is not None or settings.max_sessions_per_user is not None
        )
        # Sessions whose creation is decided, and not durable yet.
        self.unborn = CountByUser()
        # Sessions that are being written aside: no answer of the store has them.
        self._aside = CountByUser()
        self._lookups: set[_Lookup] = set()
        self._last: _Lookup | None = None
        self._settled: anyio.Event | None = None

    @property
    def limits_creation(self) -> bool:
        """Whether `look_up` has anything to look up."""
        return self.limits_sessions or self.limits_bytes

    async def look_up(self, user_id: str | None) -> None:
        """Read what a decision about a new session of this user needs.

        Raises:
            LimitReached: The storage quota is used up.
            Unavailable, StorageFailed: The store cannot answer at present.
        """
        if self.limits_bytes:
            await self.check_bytes(user_id)
        while self.limits_sessions:
            limits = self._limits(user_id)
            lookup = _Lookup(limits)
            self._lookups.add(lookup)
            try:
                for whose in limits:
                    lookup.sessions[whose] = (await self._store.usage(whose)).sessions
            finally:
                self._lookups.discard(lookup)
            for whose in lookup.sessions:
                lookup.doubtful[whose] = self.unborn.of_limit(whose) + lookup.settled[whose]
            self._last = lookup
            try:
                self.check_sessions(user_id)
            except LimitReached:
                return  # the decision says so, if it comes to that
            except DoubtfulError:
                await self._one_settles()
            else:
                return

    def check_sessions(self, user_id: str | None) -> None:
        """Refuse one more session; to be called right after `look_up`.

        Raises:
            LimitReached: There are `max_sessions`, or the user has `max_sessions_per_user`.
            DoubtfulError: That may be, or not.
        """
        lookup = self._last
        for whose, (setting, limit) in self._limits(user_id).items():
            if lookup is None or whose not in lookup.sessions:
                raise DoubtfulError  # another call has looked up since
            known, settled = lookup.sessions[whose], lookup.settled[whose]
            if known + settled + self.unborn.of_limit(whose) + self._aside.of_limit(whose) < limit:
                continue
            if known < limit and (lookup.doubtful[whose] or settled):
                raise DoubtfulError
            raise LimitReached(
                f"Limit reached: {limit} ({setting}). Delete a session and retry.",
                code="too-many-sessions",
                retry_after_seconds=_RETRY_SECONDS,
            )

    async def check_bytes(self, user_id: str | None) -> None:
        """Refuse to store more.

        The last write may go over the limit, and so may a run that has begun: it is not cut off.

        Raises:
            LimitReached: `max_stored_bytes`, or the user's `max_stored_bytes_per_user`, is reached.
            Unavailable, StorageFailed: The store cannot answer at present.
        """
        settings = self._settings
        limits: list[tuple[str | None, str, int | None]] = [
            (None, "max_stored_bytes", settings.max_stored_bytes)
        ]
        if user_id is not None:
            own = settings.max_stored_bytes_per_user
            limits.insert(0, (user_id, "max_stored_bytes_per_user", own))
        for whose, setting, limit in limits:
            if limit is not None and await self.stored_bytes(whose) >= limit:
                raise LimitReached(
                    f"Limit reached: {limit} ({setting}). Delete or archive sessions and retry.",
                    code="storage-quota-reached",
                    retry_after_seconds=_RETRY_SECONDS,
                )

    async def stored_bytes(self, whose: str | None) -> int:
        """Return the bytes of a user's sessions and files; with None those of all.

        Raises:
            Unavailable, StorageFailed: The store cannot answer at present.
        """
        files = await self._files.bytes_of(None if whose is None else owner_key(whose))
        return (await self._store.usage(whose)).stored_bytes + files

    def count_unborn(self, user_id: str | None, change: int) -> None:
        """Count a session that is decided, or with -1 one whose outcome is known."""
        self.unborn.add(user_id, change)
        if change < 0:
            self._settle(user_id)

    @contextmanager
    def aside(self, user_id: str | None) -> Iterator["Aside"]:
        """Count a session that is written aside, from right after a look-up until it exists.

        Raises:
            LimitReached, DoubtfulError: As `check_sessions`.
        """
        self.check_sessions(user_id)
        counted = Aside(self, user_id, self._aside)
        try:
            yield counted
        finally:
            counted.end()

    def _limits(self, user_id: str | None) -> dict[str | None, tuple[str, int]]:
        """Return the limits that a new session has to keep, the user's first."""
        settings = self._settings
        limits: dict[str | None, tuple[str, int]] = {}
        if user_id is not None and settings.max_sessions_per_user is not None:
            limits[user_id] = ("max_sessions_per_user", settings.max_sessions_per_user)
        if settings.max_sessions is not None:
            limits[None] = ("max_sessions", settings.max_sessions)
        return limits

    def _settle(self, user_id: str | None) -> None:
        lookups = self._lookups if self._last is None else {*self._lookups, self._last}
        for lookup in lookups:
            for whose in {user_id, None} & lookup.settled.keys():
                lookup.settled[whose] += 1
        if self._settled is not None:
            self._settled.set()
            self._settled = None

    async def _one_settles(self) -> None:
        if not self.unborn.total:
            return  # those in doubt have settled during the look-up
        if self._settled is None:
            self._settled = anyio.Event()
        await self._settled.wait()


class Aside:
    """A session that is written aside (`StoredQuotas.aside`)."""

    def __init__(self, quotas: StoredQuotas, user_id: str | None, aside: "CountByUser") -> None:
        self._quotas = quotas
        self._user_id = user_id
        self._aside = aside
        self._is_aside = True
        aside.add(user_id, 1)

    def publishing(self) -> None:
        """Count the session as one that the store's answers may have from now on."""
        self._quotas.count_unborn(self._user_id, 1)
        self._aside.add(self._user_id, -1)
        self._is_aside = False

    def end(self) -> None:
        """End the count: the session exists, or will not."""
        if self._is_aside:
            self._aside.add(self._user_id, -1)
        else:
            self._quotas.count_unborn(self._user_id, -1)


class CountByUser:
    """A counter with a total and a count for each user."""

    def __init__(self) -> None:
        self.total = 0
        self._by_user: Counter[str] = Counter()

    def add(self, user_id: str | None, change: int) -> None:
        """Add a change of a user's count, or of nobody's."""
        if not change:
            return
        self.total += change
        if user_id is not None:
            self._by_user[user_id] += change
            if not self._by_user[user_id]:
                del self._by_user[user_id]

    def of(self, user_id: str | None) -> int:
        """Return the count of a user; nobody's is 0."""
        return self._by_user[user_id] if user_id is not None else 0

    def of_limit(self, whose: str | None) -> int:
        """Return what counts toward the limit of a user, or with None of all together."""
        return self.total if whose is None else self._by_user[whose]


class _Lookup:
    """What one look-up found.

    Attributes:
        sessions: The sessions of the user, and with None of all, as the store has answered.
        settled: How many creations have ended since the look-up began, by user and (None) in all.
        doubtful: How many creations were on their way at any time of the look-up: its answer may
            have them or not.
    """

    __slots__ = ("doubtful", "sessions", "settled")

    def __init__(self, whose: Iterable[str | None]) -> None:
        self.sessions: dict[str | None, int] = {}
        self.settled: dict[str | None, int] = dict.fromkeys(whose, 0)
        self.doubtful: dict[str | None, int] = {}
