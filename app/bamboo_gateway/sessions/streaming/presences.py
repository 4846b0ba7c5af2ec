"""StreamPresences: tells the other processes which streams are open here, and knows theirs.

Only a store that several processes share has presences (`storage.replicas`). They are rows that die
with their process, written a moment after a stream was opened. A row `stream` is an open stream;
its claim ends those of the same name elsewhere. A row `place` says where a stream is, or was when
it ended: for lists, for `/reconnect` at another process, and for as long as a session without a
stream is `disconnected`.
"""

import asyncio
from collections import OrderedDict
from collections.abc import Callable
from typing import Any, NamedTuple

import anyio
import structlog

from bamboo_gateway.domain.codec import decode, encode
from bamboo_gateway.domain.errors import BambooError
from bamboo_gateway.domain.limits import ENDED_CONNECTIONS_MAX
from bamboo_gateway.sessions.answers import Connection
from bamboo_gateway.sessions.context import Context
from bamboo_gateway.sessions.streaming.channels import Channels
from bamboo_gateway.sessions.streaming.subscription import Subscription
from bamboo_gateway.storage.replicas import Presence, Replicas

log = structlog.get_logger(__name__)

_TURN_SECONDS = 0.25
"""How often what was opened and ended is written, and wishes are read: people do not see it."""

_FAILED_SECONDS = 1.0
"""How long to wait before the store is asked again that did not answer."""

_WRITES_AT_ONCE = 4
"""How many streams are written at once."""

_WRITES_PER_TURN = 256
"""How many streams are written in one turn: wishes of others must not wait longer for theirs."""

_LOOK_SECONDS = 1.0
"""How often the streams of the others are read, for lists and states that may be that old."""

_ROWS_PER_SECOND = 2000
"""With more rows they are read less often: reading that many takes some 10 ms."""

_REFRESHED_PER_TURN = 5
"""Positions of open streams that are written again in each turn. They are for people who list
connections: with a hundred streams they are five seconds old at most."""

_HANDOVER_SECONDS = 2.0
"""How long a stream that is reconnected waits until another process has ended the old one."""

_HANDOVER_LOOK_SECONDS = 0.05


class Left(NamedTuple):
    """Where a stream is, or was when it ended.

    Attributes:
        at_ms: When it ended; 0 while it is open.
        epoch: The epoch of its session.
        resume_seq: The seq after which its client misses nothing.
    """

    at_ms: int
    epoch: int
    resume_seq: int


class Elsewhere(NamedTuple):
    """What other processes have of a connection's name.

    Attributes:
        is_anothers: Another caller has an open stream of that name.
        left: Where the stream of that name was, when it is asked for.
    """

    is_anothers: bool = False
    left: Left | None = None


NOWHERE_ELSE = Elsewhere()

_Key = tuple[str, str]


class StreamPresences:
    """The streams of this process, and those of the others; `run` is a background task.

    Args:
        context: Has the clock and the limits.
        channels: Is told which sessions have streams elsewhere.
        replicas: The other processes.
        touched: Called with sessions whose streams elsewhere ended, and when (ms).
    """

    def __init__(
        self,
        context: Context,
        channels: Channels,
        replicas: Replicas,
        touched: Callable[[str, int], None],
    ) -> None:
        self._clock = context.clock
        self._retention_seconds = context.settings.disconnect_retention_seconds
        self._channels = channels
        self._replicas = replicas
        self._touched = touched
        self._open: OrderedDict[_Key, Subscription] = OrderedDict()
        self._ended: OrderedDict[_Key, Left] = OrderedDict()
        # The rows that the store has: for whom, and where they say that it is.
        self._claimed: dict[_Key, Subscription] = {}
        self._told: dict[_Key, Left] = {}
        self._dirty: OrderedDict[_Key, None] = OrderedDict()
        self._next_look = 0.0
        self._stirred = asyncio.Event()
        self._has_failed = False
        replicas.when_lost(self._tell_again)

    # -- the streams of this process ------------------------------------------------------------

    def opened(self, connection: Subscription, *, is_named: bool) -> None:
        """Report a stream that was opened; it replaces one of the same name.

        Args:
            connection: The stream.
            is_named: The client has chosen the name, so it may use it elsewhere at once.
        """
        key = (connection.session_id, connection.id)
        self._open[key] = connection
        self._ended.pop(key, None)
        self._dirty[key] = None
        if is_named:
            self._stirred.set()

    def ended(self, connection: Subscription, at_ms: int, epoch: int, resume_seq: int) -> None:
        """Report the end of a stream that was not replaced."""
        key = (connection.session_id, connection.id)
        self._open.pop(key, None)
        self._ended[key] = Left(at_ms, epoch, resume_seq)
        self._dirty[key] = None
        while len(self._ended) > ENDED_CONNECTIONS_MAX:
            self._dirty[self._ended.popitem(last=False)[0]] = None

    def forget(self, before_ms: int) -> None:
        """Forget the streams that ended before a time."""
        while self._ended:
            key, left = next(iter(self._ended.items()))
            if left.at_ms >= before_ms:
                return
            del self._ended[key]
            self._dirty[key] = None

    def _tell_again(self) -> None:
        """Write everything again: the rows of the executor that this process was are gone."""
        self._claimed.clear()
        self._told.clear()
        self._dirty = OrderedDict.fromkeys([*self._ended, *self._open])

    # -- the task -------------------------------------------------------------------------------

    async def run(self) -> None:
        """Write what was opened and ended, do what others wish, and read what they have."""
        while True:
            with anyio.move_on_after(_TURN_SECONDS):
                await self._stirred.wait()
            self._stirred.clear()
            try:
                await self.turn()
            except BambooError as error:
                # The boundary for a store that does not answer now: what is not written stays
                # noted, and lists show what was read last.
                if not self._has_failed:
                    log.warning("presence cannot be stored or read", error=error.detail)
                self._has_failed = True
                await anyio.sleep(_FAILED_SECONDS)
            else:
                self._has_failed = False

    async def turn(self) -> None:
        """Do one turn of the task.

        Raises:
            Unavailable: The store does not answer now.
        """
        self.forget(self._clock.now_ms() - round(self._retention_seconds * 1000))
        await self._write()
        await self._obey()
        loop = asyncio.get_running_loop()
        if loop.time() >= self._next_look:
            rows = await self._look()
            self._next_look = loop.time() + max(_LOOK_SECONDS, rows / _ROWS_PER_SECOND)

    async def _write(self) -> None:
        self._note_moved()
        some = [key for key, _ in zip(self._dirty, range(_WRITES_PER_TURN), strict=False)]
        for key in some:
            del self._dirty[key]
        try:
            at_once = anyio.CapacityLimiter(_WRITES_AT_ONCE)
            async with anyio.create_task_group() as tasks:
                for key in some:
                    tasks.start_soon(self._write_one, key, at_once)
        except* BambooError as group:
            self._dirty.update(dict.fromkeys(some))
            raise _first(group) from None
        if self._dirty:
            self._stirred.set()

    def _note_moved(self) -> None:
        """Let some rows be written again that tell an old place, in turns."""
        for _ in range(min(_REFRESHED_PER_TURN, len(self._open))):
            key, connection = self._open.popitem(last=False)
            self._open[key] = connection
            if self._claimed.get(key) is connection and self._told.get(key) != _place(connection):
                self._dirty[key] = None

    async def _write_one(self, key: _Key, at_once: anyio.CapacityLimiter) -> None:
        session_id, name = key
        async with at_once:
            connection, place = self._open.get(key), self._ended.get(key)
            is_claimed = self._claimed.get(key) is connection
            if connection is not None and is_claimed:
                place = _place(connection)
            # First: who sees that a stream is not open any more finds where it was.
            if place is not None and self._told.get(key) != place:
                await self._replicas.claim(self._row_of_place(key, place, connection))
                self._told[key] = place
            if connection is not None and not is_claimed:
                self._told.setdefault(key, _place(connection))
                await self._replicas.claim(self._row(connection))
                self._claimed[key] = connection
            elif connection is None and self._claimed.pop(key, None) is not None:
                await self._replicas.unclaim(session_id, "stream", name)
            if connection is None and place is None and self._told.pop(key, None) is not None:
                await self._replicas.unclaim(session_id, "place", self._name_of_place(name))

    def _row(self, connection: Subscription) -> Presence:
        body = {
            "caller": connection.caller.id,
            "view": connection.view(),
            **_place(connection)._asdict(),
        }
        session_id, executor = connection.session_id, self._replicas.executor
        return Presence(session_id, "stream", connection.id, executor, encode(body))

    def _row_of_place(self, key: _Key, place: Left, connection: Subscription | None) -> Presence:
        session_id, name = key
        view = connection.view() if connection is not None else None
        body = {"connection_id": name, "view": view, **place._asdict()}
        executor = self._replicas.executor
        return Presence(session_id, "place", self._name_of_place(name), executor, encode(body))

    def _name_of_place(self, name: str) -> str:
        # Streams of one name may have ended at several processes, and each tells so.
        return f"{name}@{self._replicas.executor}"

    async def _obey(self) -> None:
        """End the streams that others wish to end: they have replaced them, or somebody asked."""
        if not self._claimed:
            return
        for one in await self._replicas.wishes():
            key = (one.session_id, one.name)
            connection = self._open.get(key)
            # Not a stream that has replaced the one that was meant, and has no row yet.
            if one.kind == "stream" and connection and self._claimed.get(key) is connection:
                connection.end("superseded")

    async def _look(self) -> int:
        """Read which sessions have, or had, streams elsewhere; return how many rows there are."""
        mine = self._replicas.executor
        open_rows = await self._replicas.present("stream", None)
        places = await self._replicas.present("place", None)
        oldest_ms = self._clock.now_ms() - round(self._retention_seconds * 1000)
        ended: dict[str, int] = {}
        for one in places:
            if one.executor != mine and (at_ms := decode(one.body)["at_ms"]) > oldest_ms:
                ended[one.session_id] = max(at_ms, ended.get(one.session_id, 0))
        # First: a session whose stream has just ended must not be taken for expired.
        for session_id, at_ms in ended.items():
            self._touched(session_id, at_ms)
        self._channels.disconnected_elsewhere = set(ended)
        self._channels.watched_elsewhere = {
            one.session_id for one in open_rows if one.executor != mine
        }
        return len(open_rows) + len(places)

    # -- the streams of the others --------------------------------------------------------------

    async def connections(self, session_id: str) -> list[Connection]:
        """Return the open streams of a session at other processes.

        Raises:
            Unavailable: The store does not answer now.
        """
        views: dict[tuple[str, str], Connection] = {}
        for one in await self._others("stream", session_id):
            views[one.name, one.executor] = decode(one.body)["view"]
        for one in await self._others("place", session_id) if views else ():
            body = decode(one.body)
            if body["view"] is not None and (body["connection_id"], one.executor) in views:
                views[body["connection_id"], one.executor] = body["view"]
        return list(views.values())

    async def disconnect(self, session_id: str, connection_id: str) -> bool:
        """Let another process end a stream; return whether there is one.

        Raises:
            Unavailable: The store does not answer now.
        """
        return await self._replicas.wish(session_id, "stream", connection_id, "disconnect")

    async def named(self, session_id: str, name: str, caller_id: str | None) -> Elsewhere:
        """Return whether another caller has a stream of this name elsewhere.

        Args:
            session_id: The session.
            name: The name of the connection.
            caller_id: The caller; None: it may replace the streams of all callers.

        Raises:
            Unavailable: The store does not answer now.
        """
        rows = await self._named_streams(session_id, name)
        callers = {decode(one.body)["caller"] for one in rows}
        return Elsewhere(caller_id is not None and bool(callers - {caller_id}))

    async def take_over(self, session_id: str, name: str) -> Left | None:
        """Let other processes end their stream of a name, and return where the last one was.

        It waits until they have, but not long: then it is where the stream was when last told.

        Raises:
            Unavailable: The store does not answer now.
        """
        open_rows: list[Presence] = []
        with anyio.move_on_after(_HANDOVER_SECONDS):
            while open_rows := await self._named_streams(session_id, name):
                await self._replicas.wish(session_id, "stream", name, "superseded")
                await anyio.sleep(_HANDOVER_LOOK_SECONDS)
        places = {
            one.executor: _left_of(one)
            for one in await self._others("place", session_id)
            if decode(one.body)["connection_id"] == name
        }
        for one in open_rows:
            # It has not ended: where it was when last written may be too early, not too late.
            place = places.get(one.executor)
            places[one.executor] = place if place and not place.at_ms else _left_of(one)
        still_open = [place for place in places.values() if not place.at_ms]
        return min(still_open, default=None) or max(places.values(), default=None)

    async def _named_streams(self, session_id: str, name: str) -> list[Presence]:
        return [one for one in await self._others("stream", session_id) if one.name == name]

    async def _others(self, kind: str, session_id: str) -> list[Presence]:
        mine = self._replicas.executor
        rows = await self._replicas.present(kind, [session_id])
        return [one for one in rows if one.executor != mine]


def _place(connection: Subscription) -> Left:
    """Return where an open stream is."""
    return Left(0, connection.channel.epoch, connection.resume_seq)


def _left_of(one: Presence) -> Left:
    """Return where a stream is or was, as its row tells."""
    body: dict[str, Any] = decode(one.body)
    return Left(body["at_ms"], body["epoch"], body["resume_seq"])


def _first(group: BaseExceptionGroup[BambooError]) -> BambooError:
    """Return one error of several."""
    found = group.exceptions[0]
    return _first(found) if isinstance(found, BaseExceptionGroup) else found
