"""One gateway's end of a bus, and all that it was told."""

from collections.abc import Callable, Collection
from typing import Self

from bamboo_gateway.bus.base import Bus, Notice
from bamboo_gateway.bus.redis.bus import RedisBus
from bamboo_gateway.domain.clock import SystemClock
from tests.support.waiting import until_true


class End:
    """A bus with lists of what it told.

    Attributes:
        bus: The bus.
        noticed: The notices, in the order they came.
        missed: The sessions that were to be looked up, in that order.
        switched: What `when_switched` was told.
        changes: How often any session had changed.
    """

    def __init__(self, bus: Bus) -> None:
        self.bus = bus
        self.noticed: list[Notice] = []
        self.missed: list[str] = []
        self.switched: list[bool] = []
        self.changes = 0
        bus.when_noticed(self.noticed.append)
        bus.when_missed(self._miss)
        bus.when_switched(self.switched.append)
        bus.when_changed(self._change)

    async def __aenter__(self) -> Self:
        await self.bus.__aenter__()
        return self

    async def __aexit__(self, *error: object) -> None:
        await self.bus.__aexit__(None, None, None)

    async def is_up(self) -> Self:
        """Wait until notices arrive."""
        await until_true(lambda: self.bus.is_up)
        return self

    async def watches(self, session_id: str) -> None:
        """Watch a session, and wait until its notices arrive."""
        before = self.missed.count(session_id)
        self.bus.watch(session_id)
        await until_true(lambda: self.missed.count(session_id) > before)

    def _miss(self, session_ids: Collection[str]) -> None:
        self.missed += session_ids

    def _change(self) -> None:
        self.changes += 1


def redis_end(url: str, deployment: Callable[[], str] = lambda: "one") -> End:
    """Return an end of a bus over Redis; it is not entered yet."""
    return End(RedisBus(url, SystemClock(), deployment))


def notice(session_id: str = "s", version: int = 2, *bodies: bytes) -> Notice:
    """Return a notice of a commit of these events."""
    return Notice(session_id, 1000, version, 7, bodies)
