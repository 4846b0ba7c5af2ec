"""Link: the two connections to Redis, from their beginning to the first sign that they are no good.

One publishes, one is subscribed. Each second the process publishes an echo to itself. The echo
proves the whole way, and measures it. A subscribed connection alone would prove nothing: nobody
says anything while nothing happens, so that one whose other end is gone is silent for good.
"""

from collections.abc import Callable, Iterable
from itertools import chain
from math import inf
from typing import Final, Protocol

import anyio

from bamboo_gateway.bus.notices import sender_of
from bamboo_gateway.bus.redis.connections import (
    Argument,
    BusSilent,
    CommandLine,
    Target,
    disconnect,
)
from bamboo_gateway.bus.redis.outbox import Outbox
from bamboo_gateway.bus.redis.subscriptions import Subscriptions
from bamboo_gateway.domain.clock import Clock

BEAT_SECONDS: Final = 1.0
LOST_BEATS_MAX: Final = 3
"""Echoes that may be missing before the bus is taken for down. Until then the store is polled as
rarely as with a bus that is up, so it must not be many."""

CHANGE_SECONDS: Final = 0.05
"""How often a process says, at most, that any session has changed."""

# One command for all that waits: one answer, however many notices. Its text goes with each, since
# a Redis that was restarted would not know it by its digest.
_PUBLISH: Final = "for i = 1, #ARGV, 2 do redis.call('PUBLISH', ARGV[i], ARGV[i + 1]) end"


class Renamed(Exception):
    """The deployment has another id now, so all channels have other names."""


class Receiver(Protocol):
    """What the link tells."""

    def arrived(self, session_id: str, data: bytes) -> None:
        """Handle a notice of another process."""

    def subscribed(self, session_id: str) -> None:
        """Handle that the notices of a session arrive from now on."""

    def changed(self) -> None:
        """Handle that another process has committed to any session."""

    def echoed(self, seconds: float) -> None:
        """Handle an echo that took this long; the first one says that the link works."""


class Link:
    """One pair of connections.

    Args:
        target: The Redis.
        clock: Measures the echoes.
        deployment: Returns what the names of the channels begin with.
        sender: This process.
        outbox: What is to be published.
        receiver: Is told what arrives.
    """

    def __init__(
        self,
        target: Target,
        clock: Clock,
        deployment: Callable[[], str],
        sender: bytes,
        outbox: Outbox,
        receiver: Receiver,
    ) -> None:
        self._target = target
        self._clock = clock
        self._deployment = deployment
        self._sender = sender
        self._outbox = outbox
        self._receiver = receiver
        self._named = deployment()
        prefix = f"bamboo:{self._named}:".encode()
        self._sessions = prefix + b"session:"
        self._changes = prefix + b"changes"
        self._echoes = prefix + b"echo:" + sender.hex().encode()
        self._subscriptions: Subscriptions | None = None
        self._beats: dict[bytes, float] = {}
        self._count = 0
        self._told_at = -inf
        self._is_change_due = False
        self._can_echo = anyio.Event()

    def want(self, session_id: str, *, wanted: bool) -> None:
        """Subscribe to a session's notices soon, or unsubscribe."""
        if self._subscriptions is not None:
            self._subscriptions.want(self._sessions + session_id.encode(), wanted=wanted)

    async def run(self, session_ids: Iterable[str]) -> None:
        """Connect, subscribe to these sessions, and work until the link is no good any more.

        Raises:
            BaseExceptionGroup: Of `RedisError`, `BusSilent` and `Renamed`.
        """
        async with anyio.create_task_group() as group:
            publishing = await self._target.connect()
            line = CommandLine(publishing)
            group.start_soon(line.run, name="bus commands")
            listening = await self._target.connect()
            try:
                # The echo comes last: the first one says that all before are subscribed, too.
                names = (self._sessions + session_id.encode() for session_id in session_ids)
                channels = chain((self._changes,), names, (self._echoes,))
                subscriptions = Subscriptions(
                    listening, channels, self._on_message, self._on_subscribed
                )
                self._subscriptions = subscriptions
                group.start_soon(subscriptions.ask, name="bus subscriptions")
                group.start_soon(self._publish, line, name="bus notices")
                group.start_soon(self._beat, line, name="bus echo")
                await subscriptions.listen()
            finally:
                self._subscriptions = None
                await disconnect(listening)

    # -- what arrives -----------------------------------------------------------------------

    def _on_message(self, channel: bytes, data: bytes) -> None:
        if channel.startswith(self._sessions):
            if sender_of(data) != self._sender:
                self._receiver.arrived(channel[len(self._sessions) :].decode(), data)
        elif channel == self._changes:
            if data != self._sender:
                self._receiver.changed()
        elif (sent_at := self._beats.get(data)) is not None:
            self._beats.clear()
            self._receiver.echoed(self._clock.monotonic() - sent_at)

    def _on_subscribed(self, channel: bytes) -> None:
        if channel.startswith(self._sessions):
            self._receiver.subscribed(channel[len(self._sessions) :].decode())
        elif channel == self._echoes:
            self._can_echo.set()

    # -- what is sent -----------------------------------------------------------------------

    async def _publish(self, line: CommandLine) -> None:
        """Publish what is in the outbox, one batch at a time."""
        while True:
            wait = self._told_at + CHANGE_SECONDS - self._clock.monotonic()
            with anyio.move_on_after(max(0, wait) if self._is_change_due else inf):
                await self._outbox.filled.wait()
            messages: list[Argument] = []
            for session_id, data in self._outbox.take():
                messages += (self._sessions + session_id.encode(), data)
            now = self._clock.monotonic()
            self._is_change_due = self._is_change_due or bool(messages)
            if self._is_change_due and now >= self._told_at + CHANGE_SECONDS:
                messages += (self._changes, self._sender)
                self._is_change_due, self._told_at = False, now
            if messages:
                await line.call("EVAL", _PUBLISH, 0, *messages)
            self._outbox.published()

    async def _beat(self, line: CommandLine) -> None:
        """Publish echoes; raise an error when they do not come back."""
        await self._until_subscribed()
        while True:
            if len(self._beats) > LOST_BEATS_MAX:
                raise BusSilent(f"no answer for {LOST_BEATS_MAX * BEAT_SECONDS:g} s")
            if self._deployment() != self._named:
                raise Renamed
            self._count += 1
            name = str(self._count).encode()
            self._beats[name] = self._clock.monotonic()
            answer = line.call("PUBLISH", self._echoes, name)
            await anyio.sleep(BEAT_SECONDS)
            if answer.done():
                answer.result()  # Redis may refuse it, and say why

    async def _until_subscribed(self) -> None:
        with anyio.move_on_after(LOST_BEATS_MAX * BEAT_SECONDS):
            await self._can_echo.wait()
            return
        raise BusSilent("no answer to a subscription")
