"""Connections to the Redis of a URL, and commands that run on one in batches.

redis-py's clients reconnect and subscribe again on their own, and say nothing of it. Whoever has to
know of every gap needs the connection itself: it breaks once, and for good.
"""

from asyncio import Event, Future, get_running_loop
from math import inf
from typing import Any, Final

import anyio
from redis.asyncio.connection import Connection, parse_url
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import RedisError, ResponseError

CALL_SECONDS: Final = 2.0
"""How long connecting, greeting or one write may take. A Redis in the same network answers in a
millisecond; one that needs longer is of no use for what has to be sooner than a poll."""

_CLOSE_SECONDS: Final = 1.0

Argument = bytes | str | int


class BusSilent(Exception):
    """Redis does not answer, although no connection has broken."""


class Target:
    """The Redis of a URL.

    Args:
        url: A URL as `domain.bus_url` checks it.

    Raises:
        TypeError, ValueError: It has options that redis-py does not take.
    """

    def __init__(self, url: str) -> None:
        options: dict[str, Any] = {
            **parse_url(url),
            "socket_timeout": CALL_SECONDS,
            "socket_connect_timeout": CALL_SECONDS,
            "socket_keepalive": True,
            "protocol": 2,  # answers and messages have one form in every version of Redis
            "driver_info": None,  # needs a command that older versions and strict rules refuse
            "retry": Retry(NoBackoff(), 0),
            "client_name": "bamboo-gateway",
        }
        self._class = options.pop("connection_class", Connection)
        self._options = options
        self._class(**options)

    async def connect(self) -> Connection:
        """Return a new connection.

        Raises:
            RedisError: There is none to be had.
        """
        connection: Connection = self._class(**self._options)
        with anyio.move_on_after(2 * CALL_SECONDS):
            await connection.connect()  # type: ignore[no-untyped-call]
            return connection
        await disconnect(connection)
        raise BusSilent("no answer")


async def disconnect(connection: Connection) -> None:
    """Close a connection, whatever has become of it."""
    with anyio.move_on_after(_CLOSE_SECONDS, shield=True):
        await connection.disconnect(nowait=True)


class CommandLine:
    """Runs commands on one connection, in order. All that wait are sent at once."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self._waiting: list[tuple[tuple[Argument, ...], Future[Any]]] = []
        self._wake = Event()
        self._is_closed = False

    def call(self, *command: Argument) -> Future[Any]:
        """Return the answer to a command, once it is there.

        The future fails with `RedisError` when the command is refused, or the line breaks first.
        """
        answer: Future[Any] = get_running_loop().create_future()
        if self._is_closed:
            answer.set_exception(RedisError("the connection is closed"))
        else:
            self._waiting.append((command, answer))
            self._wake.set()
        return answer

    def tell(self, *command: Argument) -> None:
        """Run a command whose answer nobody waits for."""
        self.call(*command).add_done_callback(_seen)

    async def run(self) -> None:
        """Run the commands, until the connection breaks.

        Raises:
            RedisError: It broke.
        """
        sent: list[tuple[tuple[Argument, ...], Future[Any]]] = []
        connection = self._connection
        try:
            while True:
                await self._wake.wait()
                self._wake.clear()
                sent, self._waiting = self._waiting, []
                packed = connection.pack_commands([command for command, _ in sent])
                await connection.send_packed_command(packed, check_health=False)
                for _, answer in sent:
                    try:
                        value = await connection.read_response(disable_decoding=True, timeout=inf)
                    except ResponseError as refused:
                        if not answer.done():
                            answer.set_exception(refused)
                    else:
                        if not answer.done():  # nobody has stopped waiting
                            answer.set_result(value)
        finally:
            self._is_closed = True
            for _, answer in (*sent, *self._waiting):
                if not answer.done():
                    answer.set_exception(RedisError("the connection broke"))
                    _seen(answer)
            await disconnect(connection)


def _seen(answer: Future[Any]) -> None:
    """Let an error pass that nobody waits for."""
    if not answer.cancelled():
        answer.exception()


def first_of(errors: BaseExceptionGroup[BaseException]) -> BaseException:
    """Return the first error of a group, which is why its tasks ended."""
    error: BaseException = errors
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    return error
