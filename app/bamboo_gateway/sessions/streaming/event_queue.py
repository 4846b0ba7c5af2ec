"""The event queue: a session's recent events and their rendered bytes, for all subscriptions.

A subscription holds a cursor and nothing else. The events between the cursor and the end are joined
into one chunk, and the join is kept for the next subscription at the same place, so that a thousand
readers cost one join. An event is rendered when the first subscription takes it, once for each
renderer; events without readers are never rendered.
"""

from bamboo_gateway.domain.limits import EVENT_QUEUE_BYTES_MAX, SEND_BYTES_MAX
from bamboo_gateway.domain.positions import Position
from bamboo_gateway.sessions.streaming.rendering import Renderer


class EventQueue:
    """Events with consecutive seqs, bounded by bytes; the oldest leave first.

    Args:
        position: The position just before the first event.
        bytes_max: How many bytes of events and rendered events are kept; the last event always is.
    """

    __slots__ = ("_bodies", "_bytes", "_bytes_max", "_epoch", "_rendered", "head")

    def __init__(self, position: Position, bytes_max: int = EVENT_QUEUE_BYTES_MAX) -> None:
        self._epoch, self.head = position
        self._bodies: list[bytes] = []
        # Made at the first `take`: most queues of idle sessions never need it.
        self._rendered: dict[Renderer, _Rendered] | None = None
        self._bytes = 0
        self._bytes_max = bytes_max

    @property
    def start(self) -> int:
        """The cursor just before the oldest event kept."""
        return self.head - len(self._bodies)

    def between(self, after: int, before: int) -> list[bytes] | None:
        """Return the bodies of the events between two seqs, or None when the oldest have left."""
        start = self.start
        if after < start:
            return None
        return self._bodies[after - start : before - 1 - start]

    def extend(self, bodies: list[bytes]) -> None:
        """Add the bodies of the next events, in order."""
        self._bodies += bodies
        self.head += len(bodies)
        self._bytes += sum(map(len, bodies))
        if self._bytes > self._bytes_max:
            self._trim()

    def take(
        self, cursor: int, renderer: Renderer, stop: int | None = None
    ) -> tuple[bytes, int] | None:
        """Join the rendered events after `cursor`: up to `stop`, the end, or `SEND_BYTES_MAX`.

        Returns:
            The chunk and the cursor behind it (an empty chunk when nothing waits), or None when
            the cursor is before the oldest event kept: the log has to be read.
        """
        end = self.head if stop is None else min(stop, self.head)
        if cursor >= end:
            return b"", cursor
        first = len(self._bodies) - (self.head - cursor)
        if first < 0:
            return None
        if self._rendered is None:
            self._rendered = {}
        rendered = self._rendered.get(renderer)
        if rendered is None:
            rendered = self._rendered[renderer] = _Rendered()
        if end - cursor == 1:
            return self._part(renderer, rendered, first, end), end
        joined_from, joined_to, chunk = rendered.joined
        is_full = len(chunk) >= SEND_BYTES_MAX // 2
        if joined_from == cursor and (joined_to == end or (joined_to < end and is_full)):
            return chunk, joined_to
        parts = self._parts(renderer, rendered, first, first + end - cursor)
        chunk = b"".join(parts)
        rendered.joined = (cursor, cursor + len(parts), chunk)
        return chunk, cursor + len(parts)

    def frames(
        self, cursor: int, renderer: Renderer, bytes_max: int, *, at_least_one: bool
    ) -> list[bytes] | None:
        """Return the rendered events after `cursor` one by one, up to `bytes_max`.

        Args:
            cursor: The seq that they begin after.
            renderer: Renders those that it has not rendered before.
            bytes_max: The most bytes of all together.
            at_least_one: Return one event however large it is.

        Returns:
            The rendered events, none when nothing waits or fits, or None when the cursor is before
            the oldest event kept: the log has to be read.
        """
        if cursor >= self.head:
            return []
        first = len(self._bodies) - (self.head - cursor)
        if first < 0:
            return None
        if self._rendered is None:
            self._rendered = {}
        rendered = self._rendered.get(renderer)
        if rendered is None:
            rendered = self._rendered[renderer] = _Rendered()
        parts: list[bytes] = []
        # Rendering one may remove the oldest events, so places are counted from the end.
        for seq in range(cursor + 1, self.head + 1):
            place = len(self._bodies) - 1 - (self.head - seq)
            part = self._part(renderer, rendered, place, seq)
            bytes_max -= len(part)
            if bytes_max < 0 and (parts or not at_least_one):
                break
            parts.append(part)
        return parts

    def _part(self, renderer: Renderer, rendered: "_Rendered", place: int, seq: int) -> bytes:
        """Return one rendered event. Most streams take one at a time."""
        known = rendered.parts
        missing = place + 1 - len(known)
        if missing > 0:
            known += [None] * missing
        part = known[place]
        if part is None:
            part = known[place] = renderer.event(self._epoch, seq, self._bodies[place])
            self._bytes += len(part)
            if self._bytes > self._bytes_max:
                self._trim()
        return part

    def _parts(
        self, renderer: Renderer, rendered: "_Rendered", first: int, last: int
    ) -> list[bytes]:
        """Return the rendered events at these places, up to `SEND_BYTES_MAX`."""
        known, render, epoch = rendered.parts, renderer.event, self._epoch
        if len(known) < last:
            known += [None] * (last - len(known))
        parts: list[bytes] = []
        size = 0
        for place, seq in enumerate(range(self.start + first + 1, self.start + last + 1), first):
            part = known[place]
            if part is None:
                part = known[place] = render(epoch, seq, self._bodies[place])
                self._bytes += len(part)
            size += len(part)
            if size > SEND_BYTES_MAX and parts:
                break
            parts.append(part)
        if self._bytes > self._bytes_max:
            self._trim()
        return parts

    def _trim(self) -> None:
        # Down to half, so that the lists are shifted once per many events and not at every one.
        drop, freed, goal = 0, 0, self._bytes - self._bytes_max // 2
        made = [rendered.parts for rendered in (self._rendered or {}).values()]
        while freed < goal and drop < len(self._bodies) - 1:
            freed += len(self._bodies[drop])
            for parts in made:
                if drop < len(parts):
                    freed += len(parts[drop] or b"")
            drop += 1
        del self._bodies[:drop]
        for parts in made:
            del parts[:drop]
        self._bytes -= freed


class _Rendered:
    """What one renderer made: each event, None until a reader takes it, and the last join."""

    __slots__ = ("joined", "parts")

    def __init__(self) -> None:
        self.parts: list[bytes | None] = []
        self.joined: tuple[int, int, bytes] = (0, 0, b"")
