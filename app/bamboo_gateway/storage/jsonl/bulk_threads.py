"""Threads for bulk work: few, and separate, so that commits and reads never wait for it (R7)."""

import time
from collections.abc import Callable
from typing import TypeVar

import anyio
from anyio import to_thread

# Compression uses a core for a while; the second thread is for short work beside it.
_THREADS = 2

T = TypeVar("T")


# About a millisecond of processing lines.
_BYTES_PER_PAUSE = 32 * 1024
# The shortest sleep that certainly lets another thread run.
_PAUSE_SECONDS = 0.0002


class Pacer:
    """Makes a thread that processes many lines yield to the threads that sessions wait for (R7).

    The interpreter runs one thread at a time and interrupts a busy one only after 5 ms: without
    pauses each step of a commit would wait that long.
    """

    def __init__(self) -> None:
        self._left = _BYTES_PER_PAUSE

    def took(self, size: int) -> None:
        """Count bytes that were processed, and pause when their share is used up."""
        self._left -= size
        if self._left < 0:
            self._left = _BYTES_PER_PAUSE
            time.sleep(_PAUSE_SECONDS)


class BulkThreads:
    """Runs bulk work on its own small pool of threads."""

    def __init__(self) -> None:
        self._limiter = anyio.CapacityLimiter(_THREADS)

    async def run(self, function: Callable[[], T]) -> T:
        """Run a function in the pool.

        A function that has begun is waited for even when the caller is cancelled: it may hold files
        open.
        """
        return await to_thread.run_sync(function, limiter=self._limiter)
