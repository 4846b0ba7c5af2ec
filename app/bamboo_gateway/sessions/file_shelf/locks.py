"""Locks by name, for work on one content or one key at a time."""

from collections.abc import AsyncIterator, Iterable
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any

import anyio


class NamedLocks:
    """Locks that exist while somebody holds them or waits. One process owns the store (R8)."""

    def __init__(self) -> None:
        self._locks: dict[Any, tuple[anyio.Lock, int]] = {}

    @asynccontextmanager
    async def hold(self, names: Iterable[Any]) -> AsyncIterator[None]:
        """Hold the locks of all names, taken in one order so that no two calls wait in a circle."""
        async with AsyncExitStack() as stack:
            for name in sorted(set(names)):
                await stack.enter_async_context(self._one(name))
            yield

    @asynccontextmanager
    async def _one(self, name: Any) -> AsyncIterator[None]:
        lock, users = self._locks.get(name) or (anyio.Lock(), 0)
        self._locks[name] = lock, users + 1
        try:
            async with lock:
                yield
        finally:
            lock, users = self._locks.pop(name)
            if users > 1:
                self._locks[name] = lock, users - 1
