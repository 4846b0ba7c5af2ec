"""Locks by name, for work on one content or one key at a time.

Where several processes share the store, who has a lock here claims its name there as well. A claim
ends with its process. A process that is stopped for so long that the others take it for dead has no
lock any more, and does not know: what it still does may meet what another one does. The order of
all changes of files is such that nothing then is worse than a file that the sweep has to remove, or
a message that names a file that was deleted at the same moment.
"""

from collections.abc import AsyncIterator, Iterable
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Final

import anyio

from bamboo_gateway.storage.base import SessionStore
from bamboo_gateway.storage.replicas import Presence, Replicas

Name = tuple[str, ...]

_KIND: Final = "lock"

_FIRST_WAIT_SECONDS: Final = 0.02
_WAIT_SECONDS_MAX: Final = 0.5
"""How long to wait until a name is claimed again that another process has. Most work on a file
takes some milliseconds; an upload with a key takes as long as its client."""


class NamedLocks:
    """Locks that exist while somebody holds them or waits."""

    def __init__(self, store: SessionStore) -> None:
        self._store = store
        self._locks: dict[Name, tuple[anyio.Lock, int]] = {}

    @asynccontextmanager
    async def hold(self, names: Iterable[Name]) -> AsyncIterator[None]:
        """Hold the locks of all names, taken in one order so that no two calls wait in a circle.

        Raises:
            Unavailable: The store does not answer, which other processes use.
        """
        async with AsyncExitStack() as stack:
            for name in sorted(set(names)):
                await stack.enter_async_context(self._one(name))
            yield

    @asynccontextmanager
    async def _one(self, name: Name) -> AsyncIterator[None]:
        lock, users = self._locks.get(name) or (anyio.Lock(), 0)
        self._locks[name] = lock, users + 1
        try:
            async with lock:
                replicas = self._store.replicas
                if replicas is None:
                    yield
                else:
                    async with _claimed(replicas, "/".join(name)):
                        yield
        finally:
            lock, users = self._locks.pop(name)
            if users > 1:
                self._locks[name] = lock, users - 1


@asynccontextmanager
async def _claimed(replicas: Replicas, name: str) -> AsyncIterator[None]:
    """Hold a name that at most one living process has."""
    wait = _FIRST_WAIT_SECONDS
    try:
        while not await replicas.claim(Presence("", _KIND, name, replicas.executor, b"")):
            await anyio.sleep(wait)
            wait = min(2 * wait, _WAIT_SECONDS_MAX)
        yield
    finally:
        # Also when the answer of the claim was lost.
        with anyio.CancelScope(shield=True):
            await replicas.unclaim("", _KIND, name)
