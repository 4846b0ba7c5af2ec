"""Threads for work in bulk: it has few, of its own, so that commits and reads never wait for it."""

import time
from collections.abc import Callable
from typing import TypeVar

import anyio
from anyio import to_thread

# Compression takes a core for a while; the second is for the short work beside it.
_THREADS = 2

T = TypeVar("T")


# About a millisecond of going through lines.
_TURN_BYTES = 32 * 1024
# The shortest sleep that certainly lets another thread run.
_PAUSE_SECONDS = 0.0002


class Pacer:
    """Has a thread that goes through many lines give way to those that sessions wait for (R7).

    The interpreter runs one thread at a time, and takes a busy one's turn away after 5 ms only:
    each step of a commit would wait so long.
    """

    def __init__(self) -> None:
        self._left = _TURN_BYTES

    def took(self, size: int) -> None:
        """Count bytes that were processed, and pause when their share is used up."""
        self._left -= size
        if self._left < 0:
            self._left = _TURN_BYTES
            time.sleep(_PAUSE_SECONDS)


class BulkThreads:
    """See the module."""

    def __init__(self) -> None:
        self._limiter = anyio.CapacityLimiter(_THREADS)

    async def run(self, function: Callable[[], T]) -> T:
        """Run a function; once begun it is waited for, cancelled or not: it may hold files."""
        return await to_thread.run_sync(function, limiter=self._limiter)
