"""The notices that wait for Redis."""

from asyncio import Event, Future, get_running_loop
from collections import deque
from typing import Final

QUEUE_BYTES_MAX: Final = 16 * 1024 * 1024
"""More than this waits only when Redis is slower than the commits. Late notices are worth nothing:
the poll of the store was sooner."""

_BATCH_BYTES_MAX: Final = 1024 * 1024
"""What goes to Redis at once. It serves nobody else meanwhile."""

_NOTICE_BYTES: Final = 200
"""What a notice takes in memory beside its own bytes."""


class Outbox:
    """A bounded queue of packed notices.

    Attributes:
        taken: How many were taken out to be published.
        refused: How many were dropped because the queue was full.
        filled: Set while something is in it.
    """

    def __init__(self) -> None:
        self.taken = self.refused = 0
        self.filled = Event()
        self._queue: deque[tuple[str, bytes]] = deque()
        self._bytes = 0
        self._when_empty: Future[None] | None = None

    def put(self, session_id: str, data: bytes) -> None:
        """Add a notice, or drop it when the queue is full."""
        size = len(data) + _NOTICE_BYTES
        if self._bytes + size > QUEUE_BYTES_MAX:
            self.refused += 1
            return
        self._queue.append((session_id, data))
        self._bytes += size
        self.filled.set()

    def take(self) -> list[tuple[str, bytes]]:
        """Take the oldest notices out, as many as go to Redis at once."""
        some: list[tuple[str, bytes]] = []
        size = 0
        while self._queue and size < _BATCH_BYTES_MAX:
            notice = self._queue.popleft()
            size += len(notice[1]) + _NOTICE_BYTES
            some.append(notice)
        self._bytes -= size
        self.taken += len(some)
        if not self._queue:
            self.filled.clear()
        return some

    def clear(self) -> int:
        """Drop all; return how many."""
        count = len(self._queue)
        self._queue.clear()
        self._bytes = 0
        self.filled.clear()
        self.published()
        return count

    def published(self) -> None:
        """Let `emptied` return, when nothing waits: what was taken out is published."""
        if self._when_empty is not None and not self._queue:
            if not self._when_empty.done():
                self._when_empty.set_result(None)
            self._when_empty = None

    async def emptied(self) -> None:
        """Wait until everything is published or dropped."""
        if self._queue:
            if self._when_empty is None:
                self._when_empty = get_running_loop().create_future()
            await self._when_empty
