"""What one connection is subscribed to."""

from asyncio import Event
from collections.abc import Callable, Iterable
from math import inf
from typing import Final

from anyio.lowlevel import checkpoint
from redis.asyncio.connection import Connection

from bamboo_gateway.bus.redis.connections import disconnect

_CHANNELS_PER_COMMAND: Final = 1000
"""Some ten thousand sessions may be watched; one command with all would hold Redis up."""

_MESSAGES_PER_TURN: Final = 64
"""Messages handled before the event loop may do something else: about a ms of work."""


class Subscriptions:
    """The subscriptions of one connection, which nothing else may use.

    Args:
        connection: The connection.
        channels: What to subscribe to first, in this order.
        on_message: Called with the channel and the data of each message.
        on_subscribed: Called with each channel whose messages arrive from now on.
    """

    def __init__(
        self,
        connection: Connection,
        channels: Iterable[bytes],
        on_message: Callable[[bytes, bytes], None],
        on_subscribed: Callable[[bytes], None],
    ) -> None:
        self._connection = connection
        self._wanted = dict.fromkeys(channels, True)
        self._wake = Event()
        self._wake.set()
        self._on_message = on_message
        self._on_subscribed = on_subscribed

    def want(self, channel: bytes, *, wanted: bool) -> None:
        """Subscribe to a channel soon, or unsubscribe."""
        self._wanted.pop(channel, None)  # the last wish is the last that is sent
        self._wanted[channel] = wanted
        self._wake.set()

    async def ask(self) -> None:
        """Send what is wanted, until the connection breaks.

        Raises:
            RedisError: It broke.
        """
        connection = self._connection
        while True:
            await self._wake.wait()
            self._wake.clear()
            while self._wanted:
                some = list(self._wanted.items())[:_CHANNELS_PER_COMMAND]
                for channel, _ in some:
                    del self._wanted[channel]
                for command, wanted in (("SUBSCRIBE", True), ("UNSUBSCRIBE", False)):
                    if named := [channel for channel, wish in some if wish is wanted]:
                        packed = connection.pack_command(command, *named)
                        await connection.send_packed_command(packed, check_health=False)

    async def listen(self) -> None:
        """Handle what arrives, until the connection breaks.

        Raises:
            RedisError: It broke.
        """
        connection = self._connection
        handled = 0
        try:
            while True:
                kind, channel, data = await connection.read_response(
                    disable_decoding=True, timeout=inf
                )
                if kind == b"message":
                    self._on_message(channel, data)
                elif kind == b"subscribe":
                    self._on_subscribed(channel)
                handled += 1
                if handled % _MESSAGES_PER_TURN == 0:
                    # What is in the buffer already is read without a wait.
                    await checkpoint()
        finally:
            await disconnect(connection)
