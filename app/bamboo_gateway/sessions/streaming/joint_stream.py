"""Joint streams: one response with the events of several sessions.

Each session of a joint stream is a `Strand`. The joint stream visits those that have something to
show in turns. A turn gives each of them an equal part of one send, so a burst of one session delays
the others by one send at most, and a reader costs one send, however many sessions it has (R7).

Every frame carries the positions of all sessions as they are behind that frame. A position that
cannot be served stays in them until its `reset` is shown, so a client that is cut off in between is
told at its next attempt (R4).
"""

from asyncio import Future, get_running_loop
from collections import deque
from collections.abc import Callable
from typing import NamedTuple

from bamboo_gateway.domain.callers import Caller
from bamboo_gateway.domain.clock import Clock
from bamboo_gateway.domain.limits import SEND_BYTES_MAX
from bamboo_gateway.domain.positions import Position
from bamboo_gateway.sessions.streaming.rendering import (
    Goodbye,
    GoodbyeReason,
    JointRenderer,
    comes_back,
)
from bamboo_gateway.sessions.streaming.strand import Strand
from bamboo_gateway.sessions.streaming.subscription import Subscription

_TURN_BYTES_MIN = 16 * 1024
"""The least that a session may show in its turn: a page of a log that is read for less costs more
than it brings."""


class Absent(NamedTuple):
    """A session that cannot be read: its place in the request, and what the client is told."""

    place: int
    reason: GoodbyeReason


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
