"""The hub: opens, reopens and closes subscriptions, and has the one clock that watches them all."""

from collections import OrderedDict
from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple, get_args

import anyio
import structlog
from anyio.lowlevel import checkpoint

from bamboo_gateway.domain.callers import Caller
from bamboo_gateway.domain.codec import decode
from bamboo_gateway.domain.errors import BambooError, NotFound, Unavailable
from bamboo_gateway.domain.events import TERMINAL_TYPES
from bamboo_gateway.domain.ids import IdMaker
from bamboo_gateway.domain.limits import ENDED_CONNECTIONS_MAX
from bamboo_gateway.domain.positions import Position
from bamboo_gateway.sessions.access import may_read
from bamboo_gateway.sessions.commands import StreamRequest
from bamboo_gateway.sessions.pool import SessionPool
from bamboo_gateway.sessions.queries import last_of_run
from bamboo_gateway.sessions.streaming.channel import Channel
from bamboo_gateway.sessions.streaming.rendering import GoodbyeReason, Renderer
from bamboo_gateway.sessions.streaming.session_writer import SessionWriter, Vanished
from bamboo_gateway.sessions.streaming.subscription import Start, Subscription, choose_start

log = structlog.get_logger(__name__)

_TICKS_PER_HEARTBEAT = 15
"""How finely the shared clock cuts the heartbeat interval: a heartbeat is at most 1/15 late."""


_TURN_STREAMS = 1000
"""How many streams the clock looks at in one turn of the loop: less than a ms of it."""


class _EndedConnection(NamedTuple):
    """What is remembered of a connection for `/reconnect`."""

    ended_at: float
    epoch: int
    resume_seq: int


class StreamHub:
    """See the module."""

    def __init__(self, pool: SessionPool, ids: IdMaker, may_stay: Callable[[Caller], bool]) -> None:
        self._runs_are_over = False
        self.open = 0
        self.opened = 0
        self.slow = 0
        self._pool = pool
        self._ids = ids
        reasons = (*get_args(GoodbyeReason), "complete", "left")
        pool.tally.streams_ended.update({(reason,): 0 for reason in reasons})
        self._may_stay = may_stay
        self._ended: OrderedDict[tuple[str, str], _EndedConnection] = OrderedDict()

    async def connect(
        self, caller: Caller, session_id: str, request: StreamRequest, renderer: Renderer
    ) -> Subscription | None:
        """Opens a stream at the position the request means (API section 4).

        Returns:
            The connection, or None when nothing will ever come: the run meant has ended at or
            before the position, or the session is closed and read to its end.

        Raises:
            NotFound, SessionExpired: No such session, or not any more.
            Unavailable, LimitReached: See `check_room`.
        """
        if request.connection_id is None:
            self.check_room(caller)
        while True:
            try:
                # Without a place: the stream waits in the session's channel.
                async with self._pool.use(caller, session_id, "read", place=False) as live:
                    self._pool.check_not_expired(live.head)
                    try:
                        # What is decided and not durable may be undone: streams stand on what is.
                        await live.settled()
                    except BambooError:
                        continue
                    return await self._open(caller, live, request, renderer)
            except Vanished:
                continue

    def check_room(self, caller: Caller) -> None:
        """Refuses one more stream.

        Raises:
            Unavailable: `max_connections` are open.
            LimitReached: The caller has `max_connections_per_user`.
        """
        if self.open >= self._pool.settings.max_connections:
            raise Unavailable(
                f"{self.open} streams are open already (max_connections).",
                code="too-many-connections",
                retry_after_seconds=5,
            )
        self._pool.quotas.check_stream(caller)

    async def _open(
        self, caller: Caller, live: SessionWriter, request: StreamRequest, renderer: Renderer
    ) -> Subscription | None:
        channel = live.channel
        start = self._start_of(channel, request)
        stop, until_run, until_next = None, None, False
        if request.until_complete:
            stop, until_run, until_next = await self._until(live, start.cursor, request.run_id)
            if live.gone:
                raise Vanished
            nothing = stop is None and until_run is None and not until_next
            if nothing or (stop is not None and stop <= start.cursor):
                if start.reset is None:
                    return None
                stop = start.cursor  # the reset is said, and nothing will follow it
        ended = live.head.logged_state is not None and start.cursor >= channel.durable_seq
        if ended and start.reset is None:
            return None
        connection_id = self._name_of(caller, live, request)
        older = channel.connections.get(connection_id)
        if older is None:
            # Whoever comes back takes the place of his old stream; that may be half open still.
            self.check_room(caller)
        connection = Subscription(
            connection_id,
            channel,
            self._pool.store,
            self._pool.clock,
            self._pool.tally,
            start,
            request,
            caller,
            renderer,
            partial(self._closed, channel),
        )
        connection.stop_seq = stop
        connection.until_run = until_run
        connection.until_next = until_next
        if older is not None:
            older.end("superseded")
        channel.add(connection)
        self._ended.pop((live.id, connection_id), None)
        if live.head.logged_state is not None:
            connection.end("closed", after_rest=True)
        elif self._pool.draining:
            _dismiss(live, connection, at_once=self._runs_are_over)
        self.open += 1
        self.opened += 1
        self._pool.quotas.stream_opened(caller)
        return connection

    def _name_of(self, caller: Caller, live: SessionWriter, request: StreamRequest) -> str:
        name = request.connection_id
        older = live.channel.connections.get(name) if name is not None else None
        is_anothers = older is not None and older.caller.id != caller.id
        if name is None or (is_anothers and not caller.is_owner(live.head.user_id)):
            # Whoever may only read ends no stream but its own.
            return self._ids.make("c_", self._pool.clock.now_ms())
        return name

    def _start_of(self, channel: Channel, request: StreamRequest) -> Start:
        has_position = (
            request.after is not None or request.from_start or request.last_event_id is not None
        )
        if request.reconnect and request.connection_id and not has_position:
            ended = self._ended.get((channel.id, request.connection_id))
            current = channel.connections.get(request.connection_id)
            if current is not None:
                # Half open: the client is gone from it, though nobody has told us yet.
                return Start(min(_resume_seq(current), channel.durable_seq))
            if ended is not None:
                if ended.epoch != channel.epoch:
                    return choose_start(channel, StreamRequest(after=Position(ended.epoch, 0)))
                return Start(min(ended.resume_seq, channel.durable_seq))
        return choose_start(channel, request)

    async def _until(
        self, live: SessionWriter, cursor: int, run_id: str | None
    ) -> tuple[int | None, str | None, bool]:
        """Finds where a stream until a run's end stops: its seq, or the run, or the next run.

        What it gives holds until the next await.
        """
        while run_id is None:
            seen = live.durable_seq
            run_id = await self._run_at(live, cursor)
            if run_id is None and live.durable_seq == seen:
                return None, None, live.head.active is not None or bool(live.head.queue)
        while True:
            ended = anyio.Event()
            # Asked for before looking: an end that comes in between is not missed.
            forget = live.on_run_end(run_id, ended.set)
            try:
                last = await last_of_run(self._pool.store, live.id, live.epoch, run_id)
            finally:
                forget()
            if last is None:
                return None, None, False
            if last.type in TERMINAL_TYPES:
                return last.seq, None, False
            if not ended.is_set():
                return None, run_id, False

    async def _run_at(self, live: SessionWriter, cursor: int) -> str | None:
        """Finds the run that was executing at a position, else the next that started after it."""
        active = live.head.active
        if active is not None and active.before_seq <= cursor:
            # One that is decided and not durable yet is announced when it is.
            return active.run_id if active.start_seq <= live.durable_seq else None
        store = self._pool.store
        before, searching = cursor + 1, True
        ended: set[str] = set()
        while searching and before > 1:
            page = await store.find(
                live.id, live.epoch, "run", before=before, limit=100, reverse=True
            )
            for record in page:
                event = decode(record.body)
                if event["type"] in TERMINAL_TYPES:
                    ended.add(event["run_id"])
                elif event["type"] == "run_start":
                    if event["run_id"] not in ended:
                        return str(event["run_id"])
                    searching = False
                    break
            searching = searching and bool(page)
            before = page[-1].seq if page else 0
        after = cursor
        while page := await store.find(live.id, live.epoch, "run", after=after, limit=100):
            for record in page:
                event = decode(record.body)
                if event["type"] == "run_start":
                    return str(event["run_id"])
            after = page[-1].seq
        return None

    def _closed(self, channel: Channel, connection: Subscription) -> None:
        self.open -= 1
        self._pool.tally.streams_ended[connection.ended_by,] += 1
        self._pool.quotas.stream_closed(connection.caller)
        if self._pool.settings.access_log:
            log.info(
                "stream ended",
                session_id=channel.id,
                connection_id=connection.id,
                reason=connection.ended_by,
                seconds=round(self._pool.clock.monotonic() - connection.opened_at, 1),
            )
        if channel.remove(connection):
            self._ended[channel.id, connection.id] = _EndedConnection(
                self._pool.clock.monotonic(), channel.epoch, _resume_seq(connection)
            )
            while len(self._ended) > ENDED_CONNECTIONS_MAX:
                self._ended.popitem(last=False)
        if not channel.connections and not channel.gone:
            self._pool.note_disconnect(channel)

    async def connections(self, caller: Caller, session_id: str) -> list[dict[str, Any]]:
        """Lists the open streams of a session."""
        await self._pool.head(caller, session_id)
        channel = self._pool.channel(session_id)
        return [each.view() for each in channel.connections.values()] if channel else []

    async def disconnect(self, caller: Caller, session_id: str, connection_id: str) -> None:
        """Ends one stream; the others and the run go on (R6).

        Raises:
            NotFound: No such session or connection.
        """
        await self._pool.head(caller, session_id)
        channel = self._pool.channel(session_id)
        connection = channel.connections.get(connection_id) if channel else None
        if connection is None:
            raise NotFound(f"No connection {connection_id!r}.", code="connection-not-found")
        connection.end("superseded")

    def farewell(self, *, runs_are_over: bool = False) -> None:
        """Begins the end: idle streams now, others after their run's terminal event.

        Args:
            runs_are_over: What has not ended by now is not waited for.
        """
        self._pool.draining = True
        self._runs_are_over = runs_are_over
        for channel in self._pool.channels:
            live = self._pool.get(channel.id)
            for connection in list(channel.connections.values()):
                _dismiss(live, connection, at_once=runs_are_over)

    async def watch(self) -> None:
        """Runs the shared clock: heartbeats, stuck sends, lifetimes, rights, memory of ended ones.

        It ticks at least once a second: so soon ends a stream whose right has ended.
        """
        settings = self._pool.settings
        interval = min(
            settings.heartbeat_interval_seconds / _TICKS_PER_HEARTBEAT,
            settings.send_timeout_seconds / 4,
            1.0,
        )
        ticks_per_beat = max(1, round(settings.heartbeat_interval_seconds / interval))
        while True:
            began = self._pool.clock.monotonic()
            await anyio.sleep(interval)
            now = self._pool.clock.monotonic()
            self._note_lag(now - began - interval)
            await self._watch_all(now, ticks_per_beat)
            self._forget_ended(now)

    async def _watch_all(self, now: float, ticks_per_beat: int) -> None:
        seen = 0
        for channel in self._pool.channels:
            for connection in list(channel.connections.values()):
                seen += 1
                if seen % _TURN_STREAMS == 0:
                    await checkpoint()
                if channel.connections.get(connection.id) is connection:  # not ended meanwhile
                    self._watch_one(channel, connection, now, ticks_per_beat)

    def _note_lag(self, seconds: float) -> None:
        """Counts how late the clock's tick was: what the loop's other work made everybody wait."""
        self._pool.tally.loop_lag_seconds.observe(max(0, seconds))
        if seconds > self._pool.settings.loop_lag_warning_seconds:
            log.warning("the event loop was held up", seconds=round(seconds, 3))

    def _watch_one(
        self, channel: Channel, connection: Subscription, now: float, ticks_per_beat: int
    ) -> None:
        settings = self._pool.settings
        sending_since = connection.sending_since
        if sending_since is not None:
            if now - sending_since > settings.send_timeout_seconds and not connection.is_slow:
                connection.is_slow = True
                self.slow += 1
                connection.end("slow")
                if connection.cancel_slow is not None:
                    connection.cancel_slow()
            return
        caller = connection.caller
        may_read_on = may_read(caller, channel.head, self._pool.clock.now_ms())
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
            self._pool.touch(channel)

    def _forget_ended(self, now: float) -> None:
        retention = self._pool.settings.disconnect_retention_seconds
        while self._ended:
            key, ended = next(iter(self._ended.items()))
            if now - ended.ended_at < retention:
                return
            del self._ended[key]


def _dismiss(live: SessionWriter | None, connection: Subscription, *, at_once: bool) -> None:
    """Ends a stream because the gateway ends: now, or after its run's terminal event.

    A stream that is opened meanwhile is opened and dismissed as well, never refused: EventSource
    comes back after the end of a stream, but gives up for good at a 503.
    """
    end = partial(connection.end, "shutdown", after_rest=True)
    active = live.head.active if live is not None else None
    if live is not None and live.run is not None and active is not None and not at_once:
        live.on_run_end(active.run_id, end)
    else:
        end()


def _resume_seq(connection: Subscription) -> int:
    """Gives from where nothing can be missing: what was written last may never have arrived."""
    channel = connection.channel
    active, last_run = channel.head.active, channel.last_run
    seqs = [connection.cursor]
    if active is not None:
        seqs.append(active.before_seq)
    if last_run is not None and last_run.end_seq > connection.written_from:
        # The end of this run was in what was written last.
        seqs.append(last_run.before_seq)
    return min(seqs)
