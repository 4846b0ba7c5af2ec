"""How many bytes the files of each user, and of all, take: for quotas and metrics.

Where several processes share the store, a count is made again after `FRESH_SECONDS`. So a quota may
be passed by what the other processes have taken in during that time, or take in at the moment.
"""

from collections import Counter
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from typing import Final

import anyio

from bamboo_gateway.domain.clock import Clock
from bamboo_gateway.storage.base import SessionStore

FRESH_SECONDS: Final = 1.0
"""How long a count holds that other processes may change."""

_OWNERS_MAX = 10_000
"""Users whose count memory holds; the count of another one is made again."""


class FileUsage:
    """Counts contents: once from the store, and from then on with each change.

    Attributes:
        deciding: Held from looking at a quota until room is reserved: of two uploads only one may
            take the last room.
    """

    def __init__(self, store: SessionStore, clock: Clock) -> None:
        self._store = store
        self._clock = clock
        self._bytes: dict[str | None, int] = {}
        self._counted_at: dict[str | None, float] = {}
        self._files = 0
        self._reserved = Counter[str | None]()
        self.deciding = anyio.Lock()
        # Held while contents are counted: no change begins then.
        self._counting = anyio.Lock()
        self._changes_underway = 0
        self._no_changes: anyio.Event | None = None

    async def bytes_of(self, owner: str | None) -> int:
        """Return the bytes of an owner's contents, with those reserved; with None those of all.

        Raises:
            Unavailable: The store cannot be asked at present.
        """
        return await self._counted(owner) + self._reserved[owner]

    async def totals(self) -> tuple[int, int]:
        """Return how many contents there are, and their bytes."""
        size = await self._counted(None)
        return self._files, size

    @contextmanager
    def reserved(self, owner: str, size: int) -> Iterator[None]:
        """Count bytes of a content that is about to come."""
        for who in (owner, None):
            self._reserved[who] += size
        try:
            yield
        finally:
            for who in (owner, None):
                self._reserved[who] -= size
                if not self._reserved[who]:
                    del self._reserved[who]

    @asynccontextmanager
    async def changing(self) -> AsyncIterator[None]:
        """Hold around a change of the store and the `add` that counts it; never one in another.

        A count never sees half of it. When it fails nobody knows whether it has happened, so
        everything is counted again.
        """
        async with self._counting:
            self._changes_underway += 1
        try:
            yield
        except BaseException:
            self._bytes.clear()
            raise
        finally:
            self._changes_underway -= 1
            if not self._changes_underway and self._no_changes is not None:
                self._no_changes.set()

    def add(self, owner: str, files: int, size: int) -> None:
        """Count contents that came, or with negative numbers went. `changing` is held."""
        for who in (owner, None):
            if who in self._bytes:
                self._bytes[who] += size
        if None in self._bytes:
            self._files += files

    async def _counted(self, owner: str | None) -> int:
        if self._is_known(owner):
            return self._bytes[owner]
        async with self._counting:
            if self._changes_underway:
                self._no_changes = anyio.Event()
                await self._no_changes.wait()
                self._no_changes = None
            if not self._is_known(owner):
                # Not later: what comes while it counts is not in the count.
                counted_at = self._clock.monotonic()
                count, found = await self._store.contents.totals(owner)
                if len(self._bytes) > _OWNERS_MAX:
                    self._bytes = {who: size for who, size in self._bytes.items() if who is None}
                    self._counted_at.clear()
                self._bytes[owner], self._counted_at[owner] = found, counted_at
                if owner is None:
                    self._files = count
            return self._bytes[owner]

    def _is_known(self, owner: str | None) -> bool:
        if owner not in self._bytes:
            return False
        if self._store.replicas is None:
            return True
        age = self._clock.monotonic() - self._counted_at.get(owner, 0)
        return age < FRESH_SECONDS
