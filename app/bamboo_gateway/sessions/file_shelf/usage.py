"""How many bytes the files of each user, and of all, take: for quotas and metrics."""

from collections import Counter
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager

import anyio

from bamboo_gateway.storage.base import SessionStore
from bamboo_gateway.storage.files.base import ContentName

_OWNERS_MAX = 10_000
"""Users whose count memory holds; the count of another one is made again."""


class FileUsage:
    """Counts contents: once from the store, and from then on with each change.

    Attributes:
        deciding: Held from looking at a quota until room is reserved: of two uploads only one may
            take the last room.
    """

    def __init__(self, store: SessionStore) -> None:
        self._store = store
        self._bytes: dict[str | None, int] = {}
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
        if owner in self._bytes:
            return self._bytes[owner]
        async with self._counting:
            if self._changes_underway:
                self._no_changes = anyio.Event()
                await self._no_changes.wait()
                self._no_changes = None
            if owner not in self._bytes:
                found, count = await self._count(owner)
                if len(self._bytes) > _OWNERS_MAX:
                    self._bytes = {who: size for who, size in self._bytes.items() if who is None}
                self._bytes[owner] = found
                if owner is None:
                    self._files = count
            return self._bytes[owner]

    async def _count(self, owner: str | None) -> tuple[int, int]:
        after = None if owner is None else ContentName(owner, "")
        size = count = 0
        while page := await self._store.contents.contents(after):
            for one in page:
                if owner not in {None, one.name.owner}:
                    return size, count
                size += one.size
                count += 1
            after = page[-1].name
        return size, count
