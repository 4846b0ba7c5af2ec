"""TokenBudget: how many tokens each user's runs have used today, durable across restarts.

A day is one of UTC. Tokens count on the day on which their run ends, for the user of the session;
sessions without a user count together. When the clock is set back over midnight, the day that has
begun goes on. One value of the store for each user keeps the count; it is written once for each run
that ends, before the run's end is, and of an external run after it.

Where several processes share the store, each look-up reads the value, and each run is added to what
the store has then. So a limit is passed by the runs that execute when it is reached, wherever they
do, as it is in one process.
"""

from collections import OrderedDict
from dataclasses import dataclass
from hashlib import sha256
from typing import Final

import structlog

from bamboo_gateway.domain.clock import Clock, format_ms
from bamboo_gateway.domain.codec import decode, encode
from bamboo_gateway.domain.errors import BambooError, LimitReached
from bamboo_gateway.domain.events import COUNT_MAX, Usage
from bamboo_gateway.settings import Settings
from bamboo_gateway.storage.base import SessionStore
from bamboo_gateway.storage.reports import ValueChange

log = structlog.get_logger(__name__)

_KIND: Final = "tokens"
_DAY_MS: Final = 24 * 3600 * 1000

USERS_MAX: Final = 10_000
"""The users whose counts are in memory, about 3 MB; others are read again when they chat."""


@dataclass(slots=True)
class _Used:
    """The tokens of one user on one day."""

    day: str
    tokens: int = 0

    def add(self, tokens: int, today: str) -> None:
        """Count tokens of today."""
        if self.day < today:
            self.day, self.tokens = today, 0
        self.tokens = min(self.tokens + tokens, COUNT_MAX)

    def stored(self) -> bytes:
        """Return the stored form."""
        return encode({"day": self.day, "tokens": self.tokens})


class TokenBudget:
    """Counts tokens by user and day, and refuses runs beyond `max_tokens_per_user_day`.

    Attributes:
        refusals: How many runs were refused or ended for it.
    """

    def __init__(self, store: SessionStore, settings: Settings, clock: Clock) -> None:
        self.refusals = 0
        self._store = store
        self._clock = clock
        self._limit = settings.max_tokens_per_user_day
        self._used = OrderedDict[str, _Used]()
        # Others count too: what memory has is what the last look-up found.
        self._is_shared = store.replicas is not None

    @property
    def is_limited(self) -> bool:
        """Whether there is a limit; without one nothing is counted."""
        return self._limit is not None

    async def look_up(self, user_id: str | None) -> None:
        """Read a user's count, so that `check` can decide without waiting.

        Raises:
            StorageFailed: It cannot be read.
        """
        if self._limit is None:
            return
        key = _key_of(user_id)
        if key in self._used and not self._is_shared:
            self._used.move_to_end(key)
            return
        found = _read(await self._store.value(_KIND, key)) or _Used(self._today)
        if self._is_shared:
            self._used[key] = found
            self._used.move_to_end(key)
        else:
            # Another call may have read and counted meanwhile.
            self._used.setdefault(key, found)
        while len(self._used) > USERS_MAX:
            self._used.popitem(last=False)

    def check(self, user_id: str | None) -> None:
        """Refuse to start a run. `look_up` comes before.

        Raises:
            LimitReached: The user's runs have used `max_tokens_per_user_day`; until the day ends.
        """
        if self._limit is None:
            return
        used = self._used.get(_key_of(user_id))
        if used is None or used.day < self._today or used.tokens < self._limit:
            return
        self.refusals += 1
        left_ms = _DAY_MS - self._clock.now_ms() % _DAY_MS
        raise LimitReached(
            f"Limit reached: {self._limit} tokens a day (max_tokens_per_user_day). "
            "Retry when the next day begins, in UTC.",
            code="budget-reached",
            retry_after_seconds=-(-left_ms // 1000),
        )

    async def spend(self, user_id: str | None, usage: Usage | None) -> None:
        """Count what a run has used, durably. A failure is logged: the run has to end."""
        if self._limit is None or usage is None:
            return
        tokens = usage.total_tokens or usage.prompt_tokens + usage.completion_tokens
        if not tokens:
            return
        if self._is_shared:
            await self._spend_shared(_key_of(user_id), tokens)
            return
        try:
            await self.look_up(user_id)
        except BambooError as error:
            log.warning("tokens are counted in memory alone", code=error.code)
        key, today = _key_of(user_id), self._today
        used = self._used.setdefault(key, _Used(today))
        used.add(tokens, today)
        try:
            # Values of one key are written in the order of the calls, and each has the whole count.
            await self._store.write_values([ValueChange(_KIND, key, used.stored())])
        except BambooError as error:
            log.warning("tokens are counted in memory alone", code=error.code)

    async def _spend_shared(self, key: str, tokens: int) -> None:
        today = self._today

        def add(stored: bytes | None) -> bytes:
            used = _read(stored) or _Used(today)
            used.add(tokens, today)
            return used.stored()

        try:
            after = _read(await self._store.change_value(_KIND, key, add))
        except BambooError as error:
            log.warning("tokens of a run are not counted", code=error.code)
            return
        if after is not None:
            self._used[key] = after

    async def forget(self, user_id: str) -> None:
        """Remove the count of a user who is erased."""
        key = _key_of(user_id)
        if self._used.pop(key, None) is not None or await self._store.value(_KIND, key) is not None:
            await self._store.write_values([ValueChange(_KIND, key, None)])

    @property
    def _today(self) -> str:
        return format_ms(self._clock.now_ms())[:10]


def _key_of(user_id: str | None) -> str:
    """Return the key of a user's count: user ids may be longer than a key, and not ASCII."""
    return "nobody" if user_id is None else sha256(user_id.encode()).hexdigest()


def _read(stored: bytes | None) -> _Used | None:
    if stored is None:
        return None
    value = decode(stored)
    return _Used(value["day"], value["tokens"])
