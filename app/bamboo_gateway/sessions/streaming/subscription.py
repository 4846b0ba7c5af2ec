"""Subscriptions: an open stream is a cursor in its session's log, and little else.

It takes the events between its cursor and the end of the event queue. A subscription whose cursor
is before the start of the queue reads the log in pages until it has caught up. Each subscription
reads in its own task, so a slow one delays nobody and costs one chunk (R7).
"""

from asyncio import Future, get_running_loop
from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple, Protocol

from bamboo_gateway.domain.callers import Caller
from bamboo_gateway.domain.clock import Clock, format_ms
from bamboo_gateway.domain.errors import Conflict, PositionGone
from bamboo_gateway.domain.limits import SEND_BYTES_MAX
from bamboo_gateway.domain.positions import NOWHERE, After, Position, in_epoch
from bamboo_gateway.domain.sessions import SessionHead
from bamboo_gateway.sessions.answers import Connection
from bamboo_gateway.sessions.commands import StreamRequest
from bamboo_gateway.sessions.metrics import Tally
from bamboo_gateway.sessions.streaming.event_queue import EventQueue
from bamboo_gateway.sessions.streaming.rendering import (
    CaughtUp,
    Goodbye,
    GoodbyeReason,
    Heartbeat,
    Open,
    Ping,
    Renderer,
    Reset,
    ResetReason,
    comes_back,
)
from bamboo_gateway.storage.base import SessionStore

_PAGE_EVENTS = 2000
"""Events read at once when catching up: with `SEND_BYTES_MAX` it bounds one read."""

_NUMBER_MAX = 1 << 53
"""Epochs and seqs are below it. A greater one in a client's position was never sent."""


class EndedRun(NamedTuple):
    """The last run that ended: the seq just before its input, and that of its terminal event."""

    before_seq: int
    end_seq: int


class Source(Protocol):
    """What a subscription needs of its session's channel."""

    id: str
    epoch: int
    head: SessionHead
    durable_seq: int
    queue: EventQueue
    last_run: EndedRun | None
    gone: bool

    def lost(self) -> None:
        """Report that the log is not the one that was opened."""


@dataclass(frozen=True, slots=True)
class Start:
    """Where a stream begins, decided before it is opened.

    Attributes:
        cursor: The seq that it begins after.
        reset: Why the client's own position cannot be served, or None.
        claimed: With `reset`: that position, or `NOWHERE`.
    """

    cursor: int
    reset: ResetReason | None = None
    claimed: Position = NOWHERE


def choose_start(channel: Source, request: StreamRequest) -> Start:
    """Return where a stream begins: at the latest of the positions that the request names.

    Without a position it begins before the active run, or at the end.
    """
    candidates: list[Position] = []
    if request.after is not None:
        candidates.append(in_epoch(request.after, channel.epoch))
    if request.from_start:
        candidates.append(Position(channel.epoch, 0))
    if isinstance(request.last_event_id, Position):
        candidates.append(request.last_event_id)
    active = channel.head.active
    # Events that are decided and not durable yet must not be skipped: begin before them.
    fresh = min(active.before_seq if active else channel.durable_seq, channel.durable_seq)
    has = claimed(request, channel.epoch)
    if has.epoch == channel.epoch and has.seq <= channel.durable_seq:
        has = NOWHERE  # only its other position cannot be served
    if request.last_event_id in {"malformed", NOWHERE}:
        # `NOWHERE` is what such a client was given instead, until it reads its `reset`.
        return Start(fresh, "unknown_position", has)
    if not candidates:
        return Start(fresh)
    current = [position.seq for position in candidates if position.epoch == channel.epoch]
    if not current:
        return Start(fresh, "epoch_changed", has)
    latest = max(current)
    if latest > channel.durable_seq:
        return Start(fresh, "unknown_position", has)
    return Start(latest)


def claimed(request: StreamRequest, epoch: int = 0) -> Position:
    """Return the position that a client has, although it cannot be served; `NOWHERE`: none.

    `epoch` is the one that a bare seq means; 0: none.
    """
    has = request.last_event_id
    if has == "malformed":
        return NOWHERE
    if has is None:
        has = in_epoch(request.after, epoch) if request.after is not None else NOWHERE
    # Not `after` instead: it may be one that can be served, and then nobody tells of the `reset`.
    return has if has.epoch and max(has) < _NUMBER_MAX else NOWHERE


class Subscription:
    """One open stream. The hub makes it; the HTTP response drains it with `next`.

    Attributes:
        id: The connection id, unique in the session.
        caller: Who reads.
        start: Where it began.
        cursor: The seq of the last event handed out.
        written_from: The cursor before the last chunk, which may never have arrived.
        sending_since: When the response began to send (monotonic seconds), or None. The hub finds
            stuck responses by it.
        cancel_slow: Ends the response when it is stuck; set by the response.
        ended_by: How the stream ended: `complete` (after the terminal event of its run), the
            reason of its `goodbye`, or `left` (the client went away first).
        send_now: Sends a chunk at once and returns True, or sends nothing and returns False; set
            by a response that can.
    """

    __slots__ = (
        "_ended",
        "_goodbye",
        "_goodbye_after_rest",
        "_greeted",
        "_has_caught_up",
        "_heartbeat_due",
        "_on_close",
        "_renderer",
        "_store",
        "_tally",
        "_waiter",
        "caller",
        "cancel_slow",
        "channel",
        "cursor",
        "ended_by",
        "heartbeat_events",
        "id",
        "is_slow",
        "opened_at",
        "quiet_ticks",
        "remote_address",
        "send_now",
        "sending_since",
        "since_ms",
        "start",
        "stop_seq",
        "until_next",
        "until_run",
        "written_from",
    )

    def __init__(
        self,
        connection_id: str,
        channel: Source,
        store: SessionStore,
        clock: Clock,
        tally: Tally,
        start: Start,
        request: StreamRequest,
        caller: Caller,
        renderer: Renderer,
        on_close: Callable[["Subscription"], None],
    ) -> None:
        self.id = connection_id
        self.caller = caller
        self.channel = channel
        self.cursor = self.written_from = start.cursor
        self.start = start
        self.heartbeat_events = request.heartbeat_events
        self.remote_address = request.remote_address
        self.since_ms = clock.now_ms()
        self.opened_at = clock.monotonic()
        self.sending_since: float | None = None
        self.cancel_slow: Callable[[], None] | None = None
        self.send_now: Callable[[bytes], bool] | None = None
        self.is_slow = False
        self.ended_by = "left"
        self.stop_seq: int | None = None
        self.until_run: str | None = None
        self.until_next = False
        self.quiet_ticks = 0
        self._heartbeat_due = False
        self._renderer = renderer
        self._store = store
        self._tally = tally
        self._on_close = on_close
        self._greeted = False
        self._has_caught_up = False
        self._goodbye: GoodbyeReason | None = None
        self._goodbye_after_rest = False
        self._ended = False
        self._waiter: Future[None] | None = None

    async def next(self) -> bytes | None:
        """Wait for the next rendered chunk, and return it; None at the end."""
        self.quiet_ticks = 0
        if not self._greeted:
            self._greeted = True
            if chunk := self._greeting():
                return chunk
        while not self._ended:
            if self._goodbye is not None and not self._goodbye_after_rest:
                return self._farewell()
            if self.stop_seq is not None and self.cursor >= self.stop_seq:
                self.ended_by = "complete"
                break
            taken = self.channel.queue.take(self.cursor, self._renderer, self.stop_seq)
            begin = self.cursor
            if taken is None:
                chunk = await self._read()
                if chunk:
                    self.written_from = begin
                    return chunk
                continue
            chunk, self.cursor = taken
            if chunk:
                self.written_from = begin
                return chunk
            if (shown := self._when_read_to_the_end()) is not None:
                return shown
            self._waiter = get_running_loop().create_future()
            try:
                await self._waiter
            finally:
                self._waiter = None
        self._ended = True
        return None

    def wake(self) -> None:
        """Wake the reader: there may be something to take."""
        waiter = self._waiter
        if waiter is not None and not waiter.done() and not self._send_now():
            waiter.set_result(None)

    def _send_now(self) -> bool:
        """Send what waits without waking the reader's task, if only events wait.

        The task is waiting, so everything before is sent.

        Returns:
            Whether nothing is left to take.
        """
        if self.send_now is None or self._goodbye is not None or self._heartbeat_due:
            return False
        if self.stop_seq is not None:
            return False
        queue = self.channel.queue
        taken = queue.take(self.cursor, self._renderer)
        if taken is None or not self.send_now(taken[0]):
            return False
        self.written_from, self.cursor = self.cursor, taken[1]
        self.quiet_ticks = 0
        return self.cursor == queue.head

    def end(self, reason: GoodbyeReason, *, after_rest: bool = False) -> None:
        """End the stream with `goodbye`: at once, or after the events that the log has."""
        if self._goodbye is None or (self._goodbye_after_rest and not after_rest):
            self._goodbye = reason
            self._goodbye_after_rest = after_rest
        self.wake()

    def beat(self) -> None:
        """Make the stream send a heartbeat, after it was silent for too long."""
        self.quiet_ticks = 0
        self._heartbeat_due = True
        self.wake()

    def run_started(self, run_id: str) -> None:
        """Bind a stream that waits for the next run to this run."""
        if self.until_next:
            self.until_next = False
            self.until_run = run_id

    def run_ended(self, run_id: str, seq: int) -> None:
        """Stop a stream that is open until this run's end right after the terminal event."""
        if self.until_run == run_id:
            self.until_run = None
            self.stop_seq = seq

    def aclose(self) -> None:
        """Unregister the subscription. Idempotent; leaves a newer one of the same id alone."""
        self._ended = True
        if self.is_slow:
            self.ended_by = "slow"  # its `goodbye` may never have been sent
        self.wake()
        on_close, self._on_close = self._on_close, _closed
        on_close(self)

    def view(self) -> Connection:
        """Return the contract's Connection."""
        return {
            "connection_id": self.id,
            "session_id": self.session_id,
            "since": format_ms(self.since_ms),
            "position": str(self._position),
            "lag_events": max(0, self.channel.durable_seq - self.cursor),
            "remote_address": self.remote_address,
        }

    @property
    def session_id(self) -> str:
        """The session whose events it shows."""
        return self.channel.id

    @property
    def _position(self) -> Position:
        return Position(self.channel.epoch, self.cursor)

    @property
    def resume_seq(self) -> int:
        """The seq after which the client misses nothing: the last chunk may be lost."""
        active, last_run = self.channel.head.active, self.channel.last_run
        seqs = [self.cursor]
        if active is not None:
            seqs.append(active.before_seq)
        if last_run is not None and last_run.end_seq > self.written_from:
            # The end of this run was in the last chunk.
            seqs.append(last_run.before_seq)
        return min(seqs)

    @property
    def told(self) -> Position:
        """The position that the client has before the first event."""
        return self._position if self.start.reset is None else self.start.claimed

    def _opening(self) -> Open:
        active = self.channel.head.active
        visible = active is not None and active.start_seq <= self.channel.durable_seq
        run_id = active.run_id if active and visible else None
        return Open(self._position, self.session_id, self.id, run_id, self.told)

    def _greeting(self) -> bytes:
        chunk = self._renderer.control(self._opening())
        if self.start.reset is not None:
            chunk += self._renderer.control(Reset(self._position, self.start.reset))
        return chunk

    def _when_read_to_the_end(self) -> bytes | None:
        """Return what the stream shows when no event waits; None: nothing."""
        if not self._has_caught_up:
            self._has_caught_up = True
            if chunk := self._renderer.control(CaughtUp(self._position)):
                return chunk
        if self._goodbye is not None:
            return self._farewell()
        if self._heartbeat_due:
            self._heartbeat_due = False
            return self._heartbeat()
        return None

    def _heartbeat(self) -> bytes:
        self.written_from = self.cursor
        shown = Heartbeat(self._position) if self.heartbeat_events else Ping()
        return self._renderer.control(shown)

    def _farewell(self) -> bytes:
        self._ended = True
        reason = self._goodbye or "shutdown"
        self.ended_by = reason
        return self._renderer.control(Goodbye(reason, retry=comes_back(reason)))

    async def _read(self) -> bytes:
        self._tally.log_reads += 1
        try:
            records = await self._store.read(
                self.session_id,
                self.channel.epoch,
                self.cursor,
                limit=_PAGE_EVENTS,
                max_bytes=SEND_BYTES_MAX - 64 * _PAGE_EVENTS,
            )
        except Conflict:
            # The log has another epoch, or is gone. The session is loaded again, which ends this
            # stream; the client reconnects with its old position and gets `reset` or 404.
            self.channel.lost()
            self.end("deleted" if self.channel.gone else "shutdown")
            return b""
        stop = self.stop_seq if self.stop_seq is not None else self.channel.durable_seq
        epoch, render = self.channel.epoch, self._renderer.event
        parts = [render(epoch, seq, body) for seq, body in records if seq <= stop]
        if not parts:
            # Compaction removed everything between the cursor and the queue: skip it.
            self.cursor = max(self.cursor, min(stop, self.channel.queue.start))
            return b""
        self.cursor = records[len(parts) - 1].seq
        return b"".join(parts)


def _closed(_: Subscription) -> None:
    """Do nothing: the callback of a subscription that is closed again."""


def check_within(after: After, epoch: int, head_seq: int) -> int:
    """Return the seq of a position of this epoch that is not beyond the end.

    Raises:
        PositionGone: It is of another epoch, or beyond the end.
    """
    position = in_epoch(after, epoch)
    if position.epoch != epoch or position.seq > head_seq:
        raise PositionGone(
            "The log does not have this position. Load the messages and open their `stream_url`."
        )
    return position.seq
