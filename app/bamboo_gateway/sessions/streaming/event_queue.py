"""The event queue: a session's recent frames, encoded once, shared by all its connections.

A connection holds a cursor and nothing else. What lies between the cursor and the end is joined
into one chunk, and the join is kept for the next connection at the same place, so that a thousand
readers cost one join.
"""

from bamboo_gateway.domain.limits import EVENT_QUEUE_BYTES_MAX, SEND_BYTES_MAX


class EventQueue:
    """Frames with consecutive seqs, bounded by bytes; the oldest leave first.

    Args:
        head: The seq of the last event before the first frame that will come.
        bytes_max: How many bytes of frames are kept; the last frame always is.
    """

    __slots__ = ("_bytes", "_bytes_max", "_frames", "_joined", "head")

    def __init__(self, head: int, bytes_max: int = EVENT_QUEUE_BYTES_MAX) -> None:
        self.head = head
        self._frames: list[bytes] = []
        self._bytes = 0
        self._bytes_max = bytes_max
        self._joined: tuple[int, int, bytes] = (0, 0, b"")

    @property
    def start(self) -> int:
        """The cursor just before the oldest frame kept."""
        return self.head - len(self._frames)

    def extend(self, frames: list[bytes]) -> None:
        """Adds the next frames, in order."""
        self._frames += frames
        self.head += len(frames)
        self._bytes += sum(map(len, frames))
        if self._bytes > self._bytes_max:
            self._trim()

    def take(self, cursor: int, stop: int | None = None) -> tuple[bytes, int] | None:
        """Joins what lies after `cursor`: up to `stop`, the end, or `SEND_BYTES_MAX`.

        Returns:
            The chunk and the cursor behind it (an empty chunk when nothing waits), or None when
            the cursor lies before the oldest frame kept: the log has to be read.
        """
        end = self.head if stop is None else min(stop, self.head)
        if cursor >= end:
            return b"", cursor
        first = len(self._frames) - (self.head - cursor)
        if first < 0:
            return None
        if end - cursor == 1:
            return self._frames[first], end
        joined_from, joined_to, chunk = self._joined
        is_full = len(chunk) >= SEND_BYTES_MAX // 2
        if joined_from == cursor and (joined_to == end or (joined_to < end and is_full)):
            return chunk, joined_to
        frames = self._frames[first : first + end - cursor]
        size, count = 0, 0
        for frame in frames:
            size += len(frame)
            if size > SEND_BYTES_MAX and count:
                break
            count += 1
        chunk = b"".join(frames[:count])
        self._joined = (cursor, cursor + count, chunk)
        return chunk, cursor + count

    def _trim(self) -> None:
        # Down to half, so that the list is shifted once per many frames and not at every one.
        drop, freed, goal = 0, 0, self._bytes - self._bytes_max // 2
        while freed < goal and drop < len(self._frames) - 1:
            freed += len(self._frames[drop])
            drop += 1
        del self._frames[:drop]
        self._bytes -= freed
