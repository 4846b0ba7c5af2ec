"""`RedisBus`: notices through Redis' channels.

Redis keeps nothing of this, so one that was emptied, or replaced by another one, is as good. When
the link to it breaks, the bus is down until the next one works; then everything that is watched is
looked up in the store.
"""

from asyncio import get_running_loop
from collections.abc import Callable, Mapping
from contextlib import AsyncExitStack
from random import uniform
from secrets import token_bytes
from types import TracebackType
from typing import Any, Final, Self

import anyio
import structlog
from redis.exceptions import RedisError
from typing_extensions import override

from bamboo_gateway.bus.base import (
    NOTICE_BYTES_MAX,
    Bus,
    Notice,
    OnMissed,
    OnNotice,
    OnSwitch,
)
from bamboo_gateway.bus.notices import SENDER_BYTES, pack, unpack
from bamboo_gateway.bus.redis.connections import BusSilent, Target, first_of
from bamboo_gateway.bus.redis.counts import RedisCounts
from bamboo_gateway.bus.redis.link import Link, Renamed
from bamboo_gateway.bus.redis.outbox import Outbox
from bamboo_gateway.domain.bus_url import shown_bus_url
from bamboo_gateway.domain.clock import Clock
from bamboo_gateway.domain.rates import SharedCounts
from bamboo_gateway.observability.histogram import REQUEST_SECONDS, Histogram

log = structlog.get_logger(__name__)

_RETRY_SECONDS_MIN: Final = 0.1
_RETRY_SECONDS_MAX: Final = 2.0
"""A Redis that is back is used again after this long at most."""

_CLOSE_SECONDS: Final = 1.0


class RedisBus(Bus):
    """The bus of one process. It connects, and connects again, in the background.

    Args:
        url: The Redis.
        clock: Measures how late notices are.
        deployment: Returns the id of the gateways that share the store, which may change. Several
            deployments may use one Redis: the names of their channels begin with it.

    Raises:
        TypeError, ValueError: The URL has options that redis-py does not take.
    """

    def __init__(self, url: str, clock: Clock, deployment: Callable[[], str]) -> None:
        self._target = Target(url)
        self._shown = shown_bus_url(url)
        self._clock = clock
        self._deployment = deployment
        self._sender = token_bytes(SENDER_BYTES)
        self._watched: set[str] = set()
        self._subscribed: list[str] = []
        self._outbox = Outbox()
        self._counts = RedisCounts(self._target, clock, deployment)
        self._link: Link | None = None
        self._is_up = False
        self._outage: _Outage | None = _Outage(clock.monotonic())
        self._stack = AsyncExitStack()
        self._noticed: OnNotice = _nothing
        self._missed: OnMissed = _nothing
        self._switched: OnSwitch = _nothing
        self._changed: Callable[[], None] = _nothing
        self._lag = Histogram(REQUEST_SECONDS)
        self._outages = self._received = self._dropped = 0

    @property
    @override
    def is_up(self) -> bool:
        return self._is_up

    @override
    def publish(self, notice: Notice) -> None:
        if not self._is_up:
            self._dropped += 1
            return
        bodies = notice.bodies
        if bodies and sum(map(len, bodies)) > NOTICE_BYTES_MAX:
            notice = notice._replace(bodies=None)
        self._outbox.put(notice.session_id, pack(self._sender, notice))

    @override
    def watch(self, session_id: str) -> None:
        if session_id not in self._watched:
            self._watched.add(session_id)
            if self._link is not None:
                self._link.want(session_id, wanted=True)

    @override
    def unwatch(self, session_id: str) -> None:
        if session_id in self._watched:
            self._watched.remove(session_id)
            if self._link is not None:
                self._link.want(session_id, wanted=False)

    @override
    def when_noticed(self, call: OnNotice) -> None:
        self._noticed = call

    @override
    def when_missed(self, call: OnMissed) -> None:
        self._missed = call

    @override
    def when_switched(self, call: OnSwitch) -> None:
        self._switched = call

    @override
    def when_changed(self, call: Callable[[], None]) -> None:
        self._changed = call

    @property
    @override
    def counts(self) -> SharedCounts:
        return self._counts

    @override
    def stats(self) -> Mapping[str, Any]:
        return {
            "bus_up": float(self._is_up),
            "bus_lag_seconds": self._lag,
            "bus_outages_total": self._outages,
            "bus_published_total": self._outbox.taken,
            "bus_received_total": self._received,
            "bus_dropped_total": {("down",): self._dropped, ("full",): self._outbox.refused},
            **self._counts.stats(),
        }

    @override
    async def __aenter__(self) -> Self:
        async with AsyncExitStack() as stack:
            group = await stack.enter_async_context(anyio.create_task_group())
            stack.callback(group.cancel_scope.cancel)
            group.start_soon(self._run, name="bus")
            group.start_soon(self._counts.run, name="bus counts")
            self._stack = stack.pop_all()
        return self

    @override
    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if self._is_up:
            with anyio.move_on_after(_CLOSE_SECONDS, shield=True):
                await self._outbox.emptied()
        await self._stack.__aexit__(kind, error, traceback)
        self._is_up = False

    # -- the link ---------------------------------------------------------------------------

    async def _run(self) -> None:
        """Make a link, and the next one whenever it is lost."""
        pause = _RETRY_SECONDS_MIN
        while True:
            self._link = Link(
                self._target,
                self._clock,
                self._deployment,
                self._sender,
                self._outbox,
                self,
            )
            try:
                await self._link.run(list(self._watched))
            except* (RedisError, BusSilent, Renamed, OSError) as errors:
                if self._is_up:
                    pause = _RETRY_SECONDS_MIN
                self._lost(first_of(errors))
            # Gateways that lost one Redis together should not come back together.
            await anyio.sleep(uniform(pause / 2, pause))  # noqa: S311 - no secret
            pause = min(2 * pause, _RETRY_SECONDS_MAX)

    def _lost(self, error: BaseException) -> None:
        self._link = None
        self._dropped += self._outbox.clear()
        if self._is_up:
            self._is_up = False
            self._outage = _Outage(self._clock.monotonic())
            self._switched(False)
        outage = self._outage
        if outage is not None and not outage.is_told and not isinstance(error, Renamed):
            outage.is_told = True
            self._outages += 1
            log.warning(
                "the bus does not answer; what other gateways store is found by polling, later",
                bus=self._shown,
                error=str(error) or type(error).__name__,
            )

    # -- what the link tells ----------------------------------------------------------------

    def arrived(self, session_id: str, data: bytes) -> None:
        """Pass a notice on, as `Receiver`."""
        if session_id not in self._watched:
            return
        self._received += 1
        notice = unpack(session_id, data)
        if notice is None:
            # Of a gateway of another version: what happened is in the store.
            self._missed([session_id])
        else:
            self._noticed(notice)

    def subscribed(self, session_id: str) -> None:
        """Ask for a look at the session, as `Receiver`: what was before has been missed."""
        if not self._subscribed:
            get_running_loop().call_soon(self._tell_subscribed)
        self._subscribed.append(session_id)

    def _tell_subscribed(self) -> None:
        some, self._subscribed = self._subscribed, []
        if known := [session_id for session_id in some if session_id in self._watched]:
            self._missed(known)

    def changed(self) -> None:
        """Pass it on, as `Receiver`."""
        self._changed()

    def echoed(self, seconds: float) -> None:
        """Measure an echo, as `Receiver`."""
        self._lag.observe(seconds)
        if not self._is_up and self._link is not None:
            self._is_up = True
            outage, self._outage = self._outage, None
            if outage is not None and outage.is_told:
                lasted = round(self._clock.monotonic() - outage.began, 1)
                log.info("the bus answers again", bus=self._shown, seconds=lasted)
            self._switched(True)


class _Outage:
    """A time without a link.

    Attributes:
        began: When it began, on the monotonic clock.
        is_told: Whether the log has it.
    """

    def __init__(self, began: float) -> None:
        self.began = began
        self.is_told = False


def _nothing(*_: object) -> None:
    """Do nothing: nobody has asked for it."""
