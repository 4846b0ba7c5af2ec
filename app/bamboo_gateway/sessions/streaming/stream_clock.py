"""StreamClock: the one clock that watches all streams.

It sends heartbeats, and ends streams whose client does not read, whose time is up or whose caller's
right has ended.
"""

from collections.abc import Callable

import anyio
import structlog
from anyio.lowlevel import checkpoint

from bamboo_gateway.domain.callers import Caller
from bamboo_gateway.sessions.access import may_read
from bamboo_gateway.sessions.context import Context
from bamboo_gateway.sessions.streaming.channel import Channel
from bamboo_gateway.sessions.streaming.channels import Channels
from bamboo_gateway.sessions.streaming.subscription import Subscription

log = structlog.get_logger(__name__)

_TICKS_PER_HEARTBEAT = 15
"""Ticks of the shared clock in a heartbeat interval: a heartbeat is at most 1/15 of it late."""

_STREAMS_PER_YIELD = 1000
"""Streams that the clock looks at before it yields to the event loop: less than a ms of work."""


class StreamClock:
    """Ticks for all streams; `run` is a background task.

    Args:
        context: Has the clock and the limits.
        channels: The channels that have readers.
        may_stay: Called every second for each open stream: whether its caller's right still holds.
        on_tick: Called with the time of each tick.
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

    def _note_lag(self, seconds: float) -> None:
        """Measure how late the clock's tick was: so long do all tasks of the loop wait."""
        self._tally.loop_lag_seconds.observe(max(0, seconds))
        if seconds > self._settings.loop_lag_warning_seconds:
            log.warning("the event loop was held up", seconds=round(seconds, 3))

    def _watch_one(
        self, channel: Channel, connection: Subscription, now: float, ticks_per_beat: int
    ) -> None:
        settings = self._settings
        sending_since = connection.sending_since
        if sending_since is not None:
            if now - sending_since > settings.send_timeout_seconds and not connection.is_slow:
                connection.is_slow = True
                self._tally.streams_slow += 1
                connection.end("slow")
                if connection.cancel_slow is not None:
                    connection.cancel_slow()
            return
        caller = connection.caller
        may_read_on = may_read(caller, channel.head, self._clock.now_ms())
        if not may_read_on or not self._may_stay(caller):
            connection.end("unauthorized")
            return
        lifetime = settings.stream_lifetime_seconds
        if lifetime is not None and now - connection.opened_at > lifetime:
            connection.end("lifetime", after_rest=True)
        connection.quiet_ticks += 1
        if connection.quiet_ticks >= ticks_per_beat:
            connection.beat()
            # An open stream is activity: it keeps the session from expiring.
            self._channels.touch(channel)
