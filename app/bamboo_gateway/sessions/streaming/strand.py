"""Strands: the part of a joint stream that is one session's.

A strand is a subscription like that of a stream of its own, in the session's channel, with a cursor
and no queue. So presence, access, deletion and shutdown reach it as they reach any stream. Its
joint stream takes from it what there is to show, and reads its log for it.
"""

from collections.abc import Callable
from typing import Protocol

from typing_extensions import override

from bamboo_gateway.domain.callers import Caller
from bamboo_gateway.domain.clock import Clock
from bamboo_gateway.domain.errors import Conflict
from bamboo_gateway.sessions.commands import StreamRequest
from bamboo_gateway.sessions.metrics import Tally
from bamboo_gateway.sessions.streaming.rendering import (
    Goodbye,
    JointRenderer,
    Renderer,
    Reset,
    comes_back,
)
from bamboo_gateway.sessions.streaming.subscription import Source, Start, Subscription
from bamboo_gateway.storage.base import SessionStore

_PAGE_EVENTS = 500
"""Events read from a log in one turn: a page of the smallest events fits a turn."""


class Joint(Protocol):
    """What a strand needs of its joint stream (`joint_stream.JointStream`)."""

    @property
    def open_ids(self) -> list[str]:
        """The sessions that have not ended."""
        raise NotImplementedError

    def wake(self, strand: "Strand", /) -> None:
        """Let a session show what it has; wake the reader."""


class Strand(Subscription):
    """One session of a joint stream.

    Attributes:
        joint: The stream that it is a part of.
        place: Its place in the request.
        is_waiting: Whether it is in the line of those that have something to show.
    """

    __slots__ = ("is_waiting", "joint", "place")

    def __init__(
        self,
        joint: Joint,
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
        chunk = shown.control(self.place, self._opening())
        if self.start.reset is not None:
            chunk += shown.control(self.place, Reset(self._position, self.start.reset))
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
