"""Joint streams: one response with the events of several sessions.

Each session of a joint stream is a `Strand`: a subscription like that of a stream of its own, in
the session's channel, with a cursor and no queue. So presence, access, deletion and shutdown reach
it as they reach any stream. The joint stream visits the strands that have something to show in
turns. A turn gives each of them an equal part of one send, so a burst of one session delays the
others by one send at most, and a reader costs one send, however many sessions it has (R7).

Every frame carries the positions of all sessions as they are behind that frame. A position that
cannot be served stays in them until its `reset` is shown, so a client that is cut off in between is
told at its next attempt (R4).
"""

from asyncio import Future, get_running_loop
from collections import deque
from collections.abc import Callable
from typing import NamedTuple

from typing_extensions import override

from bamboo_gateway.domain.callers import Caller
from bamboo_gateway.domain.clock import Clock
from bamboo_gateway.domain.errors import Conflict
from bamboo_gateway.domain.limits import SEND_BYTES_MAX
from bamboo_gateway.domain.positions import NOWHERE, Position
from bamboo_gateway.sessions.commands import StreamRequest
from bamboo_gateway.sessions.metrics import Tally
from bamboo_gateway.sessions.streaming.rendering import (
    Goodbye,
    GoodbyeReason,
    JointRenderer,
    Open,
    Renderer,
    Reset,
    comes_back,
)
from bamboo_gateway.sessions.streaming.subscription import Source, Start, Subscription
from bamboo_gateway.storage.base import SessionStore

_TURN_BYTES_MIN = 16 * 1024
"""The least that a session may show in its turn: a page of a log that is read for less costs more
than it brings."""

_PAGE_EVENTS = 500
"""Events read from a log in one turn: a page of the smallest events fits a turn."""

_NUMBER_MAX = 1 << 53
"""Epochs and seqs are below it. A greater one in a client's position was never sent."""


class Absent(NamedTuple):
    """A session that cannot be read: its place in the request, and what the client is told."""

    place: int
    reason: GoodbyeReason


class Strand(Subscription):
    """One session of a joint stream.

    Attributes:
        joint: The stream that it is a part of.
        place: Its place in the request.
        is_waiting: Whether it is in the line of those that have something to show.
        told: The position that the client has before the first frame.
    """

    __slots__ = ("is_waiting", "joint", "place", "told")

    def __init__(
        self,
        joint: "JointStream",
        place: int,
        connection_id: str,
        channel: Source,
        store: SessionStore,
        clock: Clock,
        tally: Tally,
        start: Start,
        request: StreamRequest,
        caller: Caller,
        renderer: Renderer,
        on_close: Callable[[Subscription], None],
    ) -> None:
        self.joint = joint
        self.place = place
        self.is_waiting = False
        super().__init__(
            connection_id, channel, store, clock, tally, start, request, caller, renderer, on_close
        )
        self.told = self._position if start.reset is None else claimed(request, channel.epoch)

    @override
    def wake(self) -> None:
        if not self._ended:
            self.joint.wake(self)

    @override
    def beat(self) -> None:
        # The joint stream has the one heartbeat of the response.
        self.quiet_ticks = 0

    @property
    def has_more(self) -> bool:
        """Whether it has something to show."""
        return not self._ended and (self._goodbye is not None or self.cursor < self._source_end)

    @property
    def is_closed(self) -> bool:
        """Whether its part of the stream has ended."""
        return self._ended

    @property
    def is_leaving(self) -> bool:
        """Whether it says `goodbye` next, or after the events that the log has."""
        return self._goodbye is not None

    @property
    def _source_end(self) -> int:
        return self.channel.queue.head

    def opening(self, shown: JointRenderer) -> bytes:
        """Return its first frames: `open`, and `reset` when the position cannot be served."""
        active = self.channel.head.active
        visible = active is not None and active.start_seq <= self.channel.durable_seq
        run_id = active.run_id if active and visible else None
        chunk = shown.control(self.place, Open(self._position, self.session_id, self.id, run_id))
        if self.reset is not None:
            chunk += shown.control(self.place, Reset(self._position, self.reset))
        return chunk

    def take(self, shown: JointRenderer, room: int, *, at_least_one: bool) -> bytes | None:
        """Return what it has to show, at most `room` bytes; None: its log has to be read."""
        if self._ended:
            return b""
        if self._goodbye is not None and not self._goodbye_after_rest:
            return self._leave(shown)
        begin = self.cursor
        frames = self.channel.queue.frames(begin, self._renderer, room, at_least_one=at_least_one)
        if frames is None:
            return None
        if frames:
            self.quiet_ticks = 0
            self.written_from, self.cursor = begin, begin + len(frames)
            seqs = range(begin + 1, self.cursor + 1)
            return shown.events(self.place, self.channel.epoch, seqs, frames)
        if self._goodbye is not None and begin >= self._source_end:
            return self._leave(shown)
        return b""

    async def read(self, shown: JointRenderer, room: int) -> bytes:
        """Return the next events from the log: at most about `room` bytes."""
        self._tally.log_reads += 1
        begin, epoch = self.cursor, self.channel.epoch
        try:
            records = await self._store.read(
                self.session_id, epoch, begin, limit=_PAGE_EVENTS, max_bytes=room
            )
        except Conflict:
            # The log has another epoch, or is gone: the client comes back, and gets `reset`.
            self.channel.lost()
            self.end("deleted" if self.channel.gone else "shutdown")
            return b""
        stop = self.channel.durable_seq
        found = [record for record in records if record.seq <= stop]
        if not found:
            # Compaction removed everything between the cursor and the queue: skip it.
            self.cursor = max(self.cursor, min(stop, self.channel.queue.start))
            return b""
        self.quiet_ticks = 0
        self.written_from, self.cursor = begin, found[-1].seq
        render = self._renderer.event
        frames = [render(epoch, seq, body) for seq, body in found]
        return shown.events(self.place, epoch, [record.seq for record in found], frames)

    def _leave(self, shown: JointRenderer) -> bytes:
        reason = self._goodbye or "shutdown"
        self.ended_by = reason
        self.aclose()
        return shown.control(self.place, Goodbye(reason, retry=comes_back(reason)))


def claimed(request: StreamRequest, epoch: int = 0) -> Position:
    """Return the position that a client has, although it cannot be served; `NOWHERE`: none.

    `epoch` is the one that a bare seq means; 0: none.
    """
    if request.last_event_id == "malformed":
        return NOWHERE
    for has in (request.last_event_id, request.after):
        position = Position(epoch, has) if isinstance(has, int) else has
        if position is not None and position.epoch and max(position) < _NUMBER_MAX:
            return position
    return NOWHERE


class JointStream:
    """One open response with the events of several sessions; it is drained with `next`.

    Args:
        connection_id: The name of the connection.
        session_ids: The sessions, as the request has them.
        caller: Who reads.
        clock: The source of time.
        renderer: Makes the bytes of the response.
        heartbeat_events: Send heartbeats as events.
        on_close: Called once, at the end.

    Attributes:
        id: The name of the connection.
        strands: The sessions that can be read, until they end.
        ended_by: How the stream ended, as `Subscription.ended_by`.
    """

    __slots__ = (
        "_absent",
        "_ended",
        "_greeted",
        "_heartbeat_due",
        "_heartbeat_events",
        "_line",
        "_on_close",
        "_renderer",
        "_waiter",
        "caller",
        "cancel_slow",
        "ended_by",
        "id",
        "is_slow",
        "opened_at",
        "quiet_ticks",
        "send_now",
        "sending_since",
        "session_ids",
        "strands",
    )

    def __init__(
        self,
        connection_id: str,
        session_ids: list[str],
        caller: Caller,
        clock: Clock,
        renderer: JointRenderer,
        on_close: Callable[["JointStream"], None],
        *,
        heartbeat_events: bool,
    ) -> None:
        self.id = connection_id
        self.session_ids = session_ids
        self.caller = caller
        self.opened_at = clock.monotonic()
        self.sending_since: float | None = None
        self.cancel_slow: Callable[[], None] | None = None
        self.send_now: Callable[[bytes], bool] | None = None
        self.is_slow = False
        self.ended_by = "left"
        self.quiet_ticks = 0
        self.strands: list[Strand] = []
        self._absent: list[Absent] = []
        self._renderer = renderer
        self._heartbeat_events = heartbeat_events
        self._heartbeat_due = False
        self._on_close = on_close
        self._greeted = False
        self._ended = False
        self._line: deque[Strand] = deque()
        self._waiter: Future[None] | None = None

    @property
    def session_id(self) -> str:
        """The sessions whose events it shows."""
        return ",".join(self.session_ids)

    @property
    def open_ids(self) -> list[str]:
        """The sessions that have not ended."""
        return [strand.session_id for strand in self.strands if not strand.is_closed]

    # -- opening ----------------------------------------------------------------------------

    def add(self, strand: Strand) -> None:
        """Add a session that can be read."""
        self.strands.append(strand)
        self._renderer.move(strand.place, strand.told)
        self.wake(strand)

    def miss(self, absent: Absent, position: Position) -> None:
        """Add a session that cannot be read: it ends with its `goodbye` at once."""
        self._absent.append(absent)
        self._renderer.move(absent.place, position)

    # -- reading ----------------------------------------------------------------------------

    async def next(self) -> bytes | None:
        """Wait for the next rendered chunk, and return it; None at the end."""
        self.quiet_ticks = 0
        if not self._greeted:
            self._greeted = True
            return self._greeting()
        while not self._ended:
            chunk = await self._turn()
            if chunk:
                return chunk
            if not self.strands:
                break
            if self._line:
                continue
            if self._heartbeat_due:
                self._heartbeat_due = False
                return self._renderer.heartbeat(is_event=self._heartbeat_events)
            self._waiter = get_running_loop().create_future()
            try:
                await self._waiter
            finally:
                self._waiter = None
        self._ended = True
        return None

    async def _turn(self) -> bytes:
        """Let each session that waits show its part of one send."""
        chunks: list[bytes] = []
        room, line = SEND_BYTES_MAX, self._line
        part = max(room // max(1, len(line)), _TURN_BYTES_MIN)
        for _ in range(len(line)):
            strand = line.popleft()
            strand.is_waiting = False
            allowed = min(part, room)
            chunk = strand.take(self._renderer, allowed, at_least_one=not chunks)
            if chunk is None:
                if chunks:
                    # Send what there is, instead of letting it wait for a log.
                    self._wait_first(strand)
                    break
                chunk = await strand.read(self._renderer, allowed)
            if chunk:
                chunks.append(chunk)
                room -= len(chunk)
            if strand.has_more:
                if not chunk and chunks and strand.cursor >= strand.channel.queue.start:
                    # Its next event does not fit: it comes first in the next send.
                    self._wait_first(strand)
                    break
                self._wait_last(strand)
            if room <= 0:
                break
        self.strands = [strand for strand in self.strands if not strand.is_closed]
        return b"".join(chunks) if len(chunks) != 1 else chunks[0]

    def wake(self, strand: Strand) -> None:
        """Let a session show what it has; wake the reader."""
        waiter = self._waiter
        is_idle = waiter is not None and not waiter.done()
        if is_idle and not self._line and self._send_now(strand):
            return
        if not strand.is_waiting:
            self._wait_last(strand)
        self._wake()

    def _send_now(self, strand: Strand) -> bool:
        """Send what one session has without waking the reader's task, if only events wait.

        Returns:
            Whether nothing is left to send.
        """
        if self.send_now is None or self._heartbeat_due or strand.is_leaving:
            return False
        begin, written_from = strand.cursor, strand.written_from
        chunk = strand.take(self._renderer, SEND_BYTES_MAX, at_least_one=True)
        if not chunk:
            return chunk is not None and not strand.has_more
        if not self.send_now(chunk):
            strand.written_from, strand.cursor = written_from, begin
            self._renderer.move(strand.place, Position(strand.channel.epoch, begin))
            return False
        self.quiet_ticks = 0
        return not strand.has_more

    def _wait_first(self, strand: Strand) -> None:
        if strand.is_waiting:
            self._line.remove(strand)
        strand.is_waiting = True
        self._line.appendleft(strand)

    def _wait_last(self, strand: Strand) -> None:
        if not strand.is_waiting:
            strand.is_waiting = True
            self._line.append(strand)

    def _wake(self) -> None:
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)

    def _greeting(self) -> bytes:
        shown = {strand.place: strand.opening(self._renderer) for strand in self.strands}
        for place, reason in self._absent:
            self.ended_by = reason
            goodbye = Goodbye(reason, retry=comes_back(reason))
            shown[place] = self._renderer.control(place, goodbye)
        return b"".join(shown[place] for place in sorted(shown))

    # -- ending -----------------------------------------------------------------------------

    def end(self, reason: GoodbyeReason, *, after_rest: bool = False) -> None:
        """End every session's part with `goodbye`, and so the stream."""
        for strand in list(self.strands):
            strand.end(reason, after_rest=after_rest)

    def beat(self) -> None:
        """Make the stream send a heartbeat, after it was silent for too long."""
        self.quiet_ticks = 0
        self._heartbeat_due = True
        self._wake()

    def left(self, strand: Subscription) -> None:
        """Note that a session's part has ended."""
        self.ended_by = strand.ended_by

    def aclose(self) -> None:
        """Unregister everything. Idempotent."""
        self._ended = True
        for strand in self.strands:
            strand.aclose()
        if self.is_slow:
            self.ended_by = "slow"
        self._wake()
        on_close, self._on_close = self._on_close, _closed
        on_close(self)


def _closed(_: JointStream) -> None:
    """Do nothing: the callback of a stream that is closed again."""
