"""StreamHub: opens, reopens and closes subscriptions."""

from collections import OrderedDict
from collections.abc import Awaitable, Callable
from functools import partial
from typing import NamedTuple, Protocol, Self, TypeVar, get_args

import structlog

from bamboo_gateway.domain.callers import Caller
from bamboo_gateway.domain.errors import BambooError, NotFound, Unavailable
from bamboo_gateway.domain.limits import ENDED_CONNECTIONS_MAX
from bamboo_gateway.domain.positions import Position
from bamboo_gateway.domain.sessions import SessionHead
from bamboo_gateway.sessions.access import Need
from bamboo_gateway.sessions.answers import Connection
from bamboo_gateway.sessions.commands import StreamRequest
from bamboo_gateway.sessions.context import Context
from bamboo_gateway.sessions.streaming.channel import Channel
from bamboo_gateway.sessions.streaming.channels import Channels
from bamboo_gateway.sessions.streaming.presences import NOWHERE_ELSE, Elsewhere, StreamPresences
from bamboo_gateway.sessions.streaming.rendering import GoodbyeReason, Renderer
from bamboo_gateway.sessions.streaming.run_stop import Stop, find_stop
from bamboo_gateway.sessions.streaming.session_writer import LookAgain, SessionWriter, Vanished
from bamboo_gateway.sessions.streaming.stream_clock import StreamClock
from bamboo_gateway.sessions.streaming.subscription import Start, Subscription, choose_start

log = structlog.get_logger(__name__)

T = TypeVar("T")


class _EndedConnection(NamedTuple):
    """What is remembered of an ended stream, for `/reconnect`."""

    ended_at: float
    at_ms: int
    epoch: int
    resume_seq: int


class Sessions(Protocol):
    """What the hub needs of the session registry (`sessions.registry.SessionRegistry`)."""

    async def within(
        self,
        caller: Caller,
        session_id: str,
        work: Callable[[SessionWriter], Awaitable[T]],
        need: Need = "own",
        *,
        place: bool = True,
    ) -> T:
        """Return what `work` returns for a session that is held in memory meanwhile."""
        raise NotImplementedError

    async def head(self, caller: Caller, session_id: str, need: Need = "own") -> SessionHead:
        """Return a durable head for reading."""
        raise NotImplementedError

    def get(self, session_id: str) -> SessionWriter | None:
        """Return the session if it is in memory."""


class StreamPlace:
    """The place of one stream among those that may be open.

    As a context manager it gives the place back at the end of the block, unless `connect` has
    opened the stream: then the place belongs to the stream.

    Args:
        caller: Whose limit the stream counts toward.
        give_back: Called once, when the place is free again.

    Attributes:
        is_used: Whether a stream was opened with it.
    """

    __slots__ = ("_give_back", "caller", "is_used")

    def __init__(self, caller: Caller, give_back: Callable[[Caller], None]) -> None:
        self.caller = caller
        self.is_used = False
        self._give_back: Callable[[Caller], None] | None = give_back

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        if not self.is_used:
            self.release()

    def release(self) -> None:
        """Give the place back. Repeats do nothing."""
        give_back, self._give_back = self._give_back, None
        if give_back is not None:
            give_back(self.caller)


class StreamHub:
    """Opens and watches the streams of all sessions.

    Args:
        context: Has the store, the clock and the limits.
        sessions: Where the hub looks sessions up.
        channels: The channels that have readers.
        may_stay: Called every second for each open stream: whether its caller's right still holds.
        presences: The streams of the other processes that share the store; None: there are none.

    Attributes:
        open: How many streams are open, or about to be.
        clock: Watches the open streams.
    """

    def __init__(
        self,
        context: Context,
        sessions: Sessions,
        channels: Channels,
        may_stay: Callable[[Caller], bool],
        presences: StreamPresences | None = None,
    ) -> None:
        self._runs_are_over = False
        self._presences = presences
        self.open = 0
        self._context = context
        self._store = context.store
        self._settings = context.settings
        self._clock = context.clock
        self._tally = context.tally
        self._quotas = context.quotas
        self._sessions = sessions
        self._channels = channels
        reasons = (*get_args(GoodbyeReason), "complete", "left")
        self._tally.streams_ended.update({(reason,): 0 for reason in reasons})
        self.clock = StreamClock(context, channels, may_stay, self._forget_ended)
        self._ended: OrderedDict[tuple[str, str], _EndedConnection] = OrderedDict()

    def reserve(self, caller: Caller) -> StreamPlace:
        """Take the place of one more stream. This is the only check of room for it.

        Raises:
            Unavailable: `max_connections` streams are open.
            LimitReached: The caller has `max_connections_per_user`.
        """
        if self.open >= self._settings.max_connections:
            raise Unavailable(
                f"Limit reached: {self.open} open streams (max_connections). Retry in a moment.",
                code="too-many-connections",
                retry_after_seconds=5,
            )
        self._quotas.check_stream(caller)
        return self.take_place(caller)

    def take_place(self, caller: Caller) -> StreamPlace:
        """Take the place of one more stream without a check: it replaces another one."""
        self.open += 1
        self._quotas.stream_opened(caller)
        return StreamPlace(caller, self._free_place)

    def _free_place(self, caller: Caller) -> None:
        self.open -= 1
        self._quotas.stream_closed(caller)

    async def connect(
        self,
        caller: Caller,
        session_id: str,
        request: StreamRequest,
        renderer: Renderer,
        place: StreamPlace | None = None,
    ) -> Subscription | None:
        """Open a stream at the position that the request names.

        Args:
            caller: Who reads the stream.
            session_id: The session.
            request: Where the stream begins and when it ends.
            renderer: Turns what the stream shows into the bytes of the client's protocol.
            place: What `reserve` returned, when the caller has reserved a place before. It belongs
                to the stream from here on.

        Returns:
            The subscription, or None when no event can follow: the run has ended at or before the
            position, or the session is closed and read to its end.

        Raises:
            NotFound: There is no such session.
            SessionExpired: The session has expired.
            Unavailable, LimitReached: As `reserve`.
        """
        if place is None and request.connection_id is None:
            place = self.reserve(caller)
        if place is None:
            return await self._connect(caller, session_id, request, renderer, None)
        with place:
            return await self._connect(caller, session_id, request, renderer, place)

    async def _connect(
        self,
        caller: Caller,
        session_id: str,
        request: StreamRequest,
        renderer: Renderer,
        place: StreamPlace | None,
    ) -> Subscription | None:
        elsewhere = await self.look_elsewhere(caller, session_id, request)

        async def open_stream(writer: SessionWriter) -> Subscription | None:
            self._context.states.check_not_expired(writer.head)
            try:
                # Streams show what is durable: what is only decided may be undone.
                await writer.settled()
            except BambooError:
                raise LookAgain from None
            return await self._open(caller, writer, request, renderer, place, elsewhere)

        # Without a place in memory: the stream waits in the session's channel.
        return await self._sessions.within(caller, session_id, open_stream, "read", place=False)

    async def _open(
        self,
        caller: Caller,
        writer: SessionWriter,
        request: StreamRequest,
        renderer: Renderer,
        place: StreamPlace | None,
        elsewhere: Elsewhere,
    ) -> Subscription | None:
        channel = writer.channel
        start = self.start_of(channel, request, elsewhere)
        stop = Stop()
        if request.until_complete:
            stop = await find_stop(self._store, writer, start.cursor, request.run_id)
            if writer.gone:
                raise Vanished
            if stop == Stop() or (stop.seq is not None and stop.seq <= start.cursor):
                if start.reset is None:
                    return None
                stop = Stop(start.cursor)  # the stream is only the reset
        ended = writer.head.logged_state is not None and start.cursor >= channel.durable_seq
        if ended and start.reset is None:
            return None
        connection_id = self.name_of(caller, writer, request, elsewhere)
        older = channel.connections.get(connection_id)
        if place is None:
            # A client that reconnects takes the place of its old stream, which may be half open.
            place = self.reserve(caller) if older is None else self.take_place(caller)
        connection = Subscription(
            connection_id,
            channel,
            self._store,
            self._clock,
            self._tally,
            start,
            request,
            caller,
            renderer,
            partial(self._closed, channel, place),
        )
        connection.stop_seq = stop.seq
        connection.until_run = stop.run_id
        connection.until_next = stop.next_run
        place.is_used = True
        self.attach(writer, connection, is_named=request.connection_id is not None)
        self._tally.streams_opened += 1
        return connection

    async def look_elsewhere(
        self, caller: Caller, session_id: str, request: StreamRequest
    ) -> Elsewhere:
        """Return what other processes have of the connection that a request names.

        For a stream that is reconnected they end the old one, so that it is known where it was.

        Raises:
            BambooError: As `SessionRegistry.within`.
            Unavailable: The store does not answer now.
        """
        name, presences = request.connection_id, self._presences
        if name is None or presences is None:
            return NOWHERE_ELSE

        async def look(writer: SessionWriter) -> Elsewhere:
            replaces_all = caller.is_owner(writer.head.user_id)
            found = await presences.named(session_id, name, None if replaces_all else caller.id)
            if found.is_anothers or not _is_resumed(request):
                return found
            return Elsewhere(left=await presences.take_over(session_id, name))

        return await self._sessions.within(caller, session_id, look, "read", place=False)

    def attach(
        self, writer: SessionWriter, connection: Subscription, *, is_named: bool = False
    ) -> None:
        """Let a new stream read from its session's channel, in the place of one of its name."""
        channel = writer.channel
        if (older := channel.connections.get(connection.id)) is not None:
            older.end("superseded")
        channel.add(connection)
        self._ended.pop((writer.id, connection.id), None)
        if self._presences is not None:
            self._presences.opened(connection, is_named=is_named)
        if writer.head.logged_state is not None:
            connection.end("closed", after_rest=True)
        elif self._context.drain.has_begun:
            _dismiss(writer, connection, at_once=self._runs_are_over)

    def name_of(
        self,
        caller: Caller,
        writer: SessionWriter,
        request: StreamRequest,
        elsewhere: Elsewhere = NOWHERE_ELSE,
    ) -> str:
        """Return the id of a new connection: the one that the request names, or a new one."""
        name = request.connection_id
        older = writer.channel.connections.get(name) if name is not None else None
        is_anothers = older is not None and older.caller.id != caller.id
        is_anothers = is_anothers or elsewhere.is_anothers
        if name is None or (is_anothers and not caller.is_owner(writer.head.user_id)):
            # A caller who may only read ends no stream of others.
            return self._context.ids.make("c_", self._clock.now_ms())
        return name

    def start_of(
        self, channel: Channel, request: StreamRequest, elsewhere: Elsewhere = NOWHERE_ELSE
    ) -> Start:
        """Return where a stream begins."""
        if request.connection_id and _is_resumed(request):
            here = self._ended.get((channel.id, request.connection_id))
            current = channel.connections.get(request.connection_id)
            if current is not None:
                # The client has left it, although the gateway has not noticed yet.
                return Start(min(current.resume_seq, channel.durable_seq))
            there = elsewhere.left
            is_there = there is not None and (here is None or there.at_ms > here.at_ms)
            ended = there if is_there else here
            if ended is not None:
                if ended.epoch != channel.epoch:
                    return choose_start(channel, StreamRequest(after=Position(ended.epoch, 0)))
                return Start(min(ended.resume_seq, channel.durable_seq))
        return choose_start(channel, request)

    def _closed(self, channel: Channel, place: StreamPlace, connection: Subscription) -> None:
        place.release()
        self._tally.streams_ended[connection.ended_by,] += 1
        if self._settings.access_log:
            log.info(
                "stream ended",
                session_id=channel.id,
                connection_id=connection.id,
                reason=connection.ended_by,
                seconds=round(self._clock.monotonic() - connection.opened_at, 1),
            )
        self.detach(channel, connection)

    def detach(self, channel: Channel, connection: Subscription) -> None:
        """Unregister an ended stream, and remember where it was for `/reconnect`."""
        if channel.remove(connection):
            ended = _EndedConnection(
                self._clock.monotonic(),
                self._clock.now_ms(),
                channel.epoch,
                connection.resume_seq,
            )
            self._ended[channel.id, connection.id] = ended
            if self._presences is not None:
                self._presences.ended(connection, *ended[1:])
            while len(self._ended) > ENDED_CONNECTIONS_MAX:
                self._ended.popitem(last=False)
        if not channel.connections and not channel.gone:
            self._channels.note_disconnect(channel)

    def lags(self) -> list[int]:
        """Return how many events each open stream is behind; a negative number means none."""
        lags: list[int] = []
        for channel in self._channels.all():
            # No more than this for each stream: there may be tens of thousands, and the loop waits.
            end = channel.durable_seq
            lags += [end - connection.cursor for connection in channel.connections.values()]
        return lags

    async def connections(self, caller: Caller, session_id: str) -> list[Connection]:
        """Return the open streams of a session."""
        await self._sessions.head(caller, session_id)
        channel = self._channels.get(session_id)
        views = [each.view() for each in channel.connections.values()] if channel else []
        if self._presences is not None:
            views += await self._presences.connections(session_id)
        return views

    async def disconnect(self, caller: Caller, session_id: str, connection_id: str) -> None:
        """End one stream; the others and the run go on (R6).

        Raises:
            NotFound: There is no such session or connection.
        """
        await self._sessions.head(caller, session_id)
        channel = self._channels.get(session_id)
        connection = channel.connections.get(connection_id) if channel else None
        if connection is not None:
            connection.end("superseded")
        elif self._presences is None or not await self._presences.disconnect(
            session_id, connection_id
        ):
            raise NotFound(f"No connection {connection_id!r}.", code="connection-not-found")

    def farewell(self, *, runs_are_over: bool = False) -> None:
        """End idle streams now, and others after their run's terminal event.

        Args:
            runs_are_over: End all streams now: no run is waited for any more.
        """
        self._runs_are_over = runs_are_over
        for channel in self._channels.all():
            writer = self._sessions.get(channel.id)
            for connection in list(channel.connections.values()):
                _dismiss(writer, connection, at_once=runs_are_over)

    def _forget_ended(self, now: float) -> None:
        retention = self._settings.disconnect_retention_seconds
        while self._ended:
            key, ended = next(iter(self._ended.items()))
            if now - ended.ended_at < retention:
                return
            del self._ended[key]


def _is_resumed(request: StreamRequest) -> bool:
    """Return whether a stream goes on where the older one of its name was."""
    has_position = (
        request.after is not None or request.from_start or request.last_event_id is not None
    )
    return request.reconnect and not has_position


def _dismiss(writer: SessionWriter | None, connection: Subscription, *, at_once: bool) -> None:
    """End a stream because the gateway shuts down: now, or after its run's terminal event.

    A stream that a client opens meanwhile is opened and ended as well, and never refused:
    EventSource reconnects after the end of a stream, but gives up for good after a 503.
    """
    end = partial(connection.end, "shutdown", after_rest=True)
    if writer is None or at_once:
        end()
    elif writer.run is not None and writer.head.active is not None:
        writer.on_run_end(writer.head.active.run_id, end)
    else:
        # The terminal event may be decided and not durable yet.
        writer.when_settled(end)
