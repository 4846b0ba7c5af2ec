"""The threads that a store's blocking calls run on: bounded pools, for as long as it is open."""

import asyncio
from collections.abc import Callable
from typing import TypeVar

import anyio
from anyio import to_thread

from bamboo_gateway.domain.errors import Unavailable

T = TypeVar("T")


class Threads:
    """A pool of threads."""

    def __init__(self, threads_max: int) -> None:
        self._threads_max = threads_max
        self._limiter: anyio.CapacityLimiter | None = None
        self._running = 0
        self._ended: asyncio.Event | None = None
        self._is_closed = False

    async def run(self, function: Callable[[], T]) -> T:
        """Run a function in the pool.

        A function that has begun is waited for, also when the caller is cancelled: it may be in a
        transaction.

        Raises:
            Unavailable: The store is closed.
        """
        if self._is_closed:
            raise Unavailable("The store is closed.")
        if self._limiter is None:
            # Made here, in the event loop that it belongs to.
            self._limiter = anyio.CapacityLimiter(self._threads_max)
        self._running += 1
        try:
            return await to_thread.run_sync(function, limiter=self._limiter)
        finally:
            self._running -= 1
            if self._ended is not None and not self._running:
                self._ended.set()

    async def aclose(self) -> None:
        """Refuse further calls, and wait for those that run."""
        self._is_closed = True
        if self._running:
            self._ended = asyncio.Event()
            await self._ended.wait()
