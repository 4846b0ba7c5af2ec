"""StreamClock: the one clock that watches all streams.

It sends heartbeats, and ends streams whose client does not read, whose time is up or whose caller's
right has ended.
"""

from collections.abc import Callable
from typing import Protocol

import anyio
import structlog
from anyio.lowlevel import checkpoint

from bamboo_gateway.domain.callers import Caller
from bamboo_gateway.sessions.access import may_read
from bamboo_gateway.sessions.context import Context
from bamboo_gateway.sessions.streaming.channel import Channel
from bamboo_gateway.sessions.streaming.channels import Channels
from bamboo_gateway.sessions.streaming.rendering import GoodbyeReason
from bamboo_gateway.sessions.streaming.subscription import Subscription

log = structlog.get_logger(__name__)

_TICKS_PER_HEARTBEAT = 15
"""Ticks of the shared clock in a heartbeat interval: a heartbeat is at most 1/15 of it late."""

_STREAMS_PER_YIELD = 1000
"""Streams that the clock looks at before it yields to the event loop: less than a ms of work."""


class WatchedResponse(Protocol):
    """An open response that is not the stream of one session (`JointStream`, `ChangeStream`).

    Its attributes and methods mean the same as those of `Subscription`.
    """

    caller: Caller
    opened_at: float
    sending_since: float | None
    cancel_slow: Callable[[], None] | None
    is_slow: bool
    quiet_ticks: int

    def end(self, reason: GoodbyeReason, *, after_rest: bool = False) -> None:
        """End it with `goodbye`."""

    def beat(self) -> None:
        """Make it send a heartbeat."""


class StreamClock:
    """Ticks for all streams; `run` is a background task.

    Args:
        context: Has the clock and the limits.
        channels: The channels that have readers.
        may_stay: Called every second for each open stream: whether its caller's right still holds.
        on_tick: Called with the time of each tick.

    Attributes:
        responses: The open responses that are not the stream of one session.
    """

    def __init__(
        self,
        context: Context,
        channels: Channels,
        may_stay: Callable[[Caller], bool],
        on_tick: Callable[[float], None],
    ) -> None:
        self._settings = context.settings
        self._clock = context.clock
        self._tally = context.tally
        self._channels = channels
        self._may_stay = may_stay
        self._on_tick = on_tick
        self.responses: set[WatchedResponse] = set()

    async def run(self) -> None:
        """Run the shared clock: heartbeats, stuck sends, lifetimes, rights, ended streams.

        It ticks at least once a second, so a stream ends at most that much later than its right.
        """
        settings = self._settings
        interval = min(
            settings.heartbeat_interval_seconds / _TICKS_PER_HEARTBEAT,
            settings.send_timeout_seconds / 4,
            1.0,
        )
        ticks_per_beat = max(1, round(settings.heartbeat_interval_seconds / interval))
        while True:
            began = self._clock.monotonic()
            await anyio.sleep(interval)
            now = self._clock.monotonic()
            self._note_lag(now - began - interval)
            await self._watch_all(now, ticks_per_beat)
            self._on_tick(now)

    async def _watch_all(self, now: float, ticks_per_beat: int) -> None:
        seen = 0
        for channel in self._channels.all():
            for connection in list(channel.connections.values()):
                seen += 1
                if seen % _STREAMS_PER_YIELD == 0:
                    await checkpoint()
                if channel.connections.get(connection.id) is connection:  # not ended meanwhile
                    self._watch_one(channel, connection, now, ticks_per_beat)
        for response in list(self.responses):
            seen += 1
            if seen % _STREAMS_PER_YIELD == 0:
                await checkpoint()
            if response in self.responses:
                self._watch_response(response, now, ticks_per_beat)

    def _note_lag(self, seconds: float) -> None:
        """Measure how late the clock's tick was: so long do all tasks of the loop wait."""
        self._tally.loop_lag_seconds.observe(max(0, seconds))
        if seconds > self._settings.loop_lag_warning_seconds:
            log.warning("the event loop was held up", seconds=round(seconds, 3))

    def _watch_one(
        self, channel: Channel, connection: Subscription, now: float, ticks_per_beat: int
    ) -> None:
        if self._is_sending(connection, now):
            return
        caller = connection.caller
        if not may_read(caller, channel.head, self._clock.now_ms()):
            connection.end("unauthorized")
        elif self._is_quiet(connection, now, ticks_per_beat):
            connection.beat()
            # An open stream is activity: it keeps the session from expiring.
            self._channels.touch(channel)

    def _watch_response(self, response: WatchedResponse, now: float, ticks_per_beat: int) -> None:
        if not self._is_sending(response, now) and self._is_quiet(response, now, ticks_per_beat):
            response.beat()

    def _is_sending(self, response: WatchedResponse, now: float) -> bool:
        """Return whether a send is under way. End a response whose send is stuck."""
        sending_since = response.sending_since
        if sending_since is None:
            return False
        if now - sending_since > self._settings.send_timeout_seconds and not response.is_slow:
            response.is_slow = True
            self._tally.streams_slow += 1
            response.end("slow")
            if response.cancel_slow is not None:
                response.cancel_slow()
        return True

    def _is_quiet(self, response: WatchedResponse, now: float, ticks_per_beat: int) -> bool:
        """Return whether a heartbeat is due. End a response whose right or time has ended."""
        if not self._may_stay(response.caller):
            response.end("unauthorized")
            return False
        lifetime = self._settings.stream_lifetime_seconds
        if lifetime is not None and now - response.opened_at > lifetime:
            response.end("lifetime", after_rest=True)
        response.quiet_ticks += 1
        return response.quiet_ticks >= ticks_per_beat
