"""How many bytes the files of each user, and of all, take: for quotas and metrics."""

from bamboo_gateway.storage.base import SessionStore
from bamboo_gateway.storage.files.base import ContentName

_OWNERS_MAX = 10_000
"""Users whose count memory holds; the count of another one is made again."""


class FileUsage:
    """Counts contents: once from the store, and from then on with each change."""

    def __init__(self, store: SessionStore) -> None:
        self._store = store
        self._bytes: dict[str | None, int] = {}
        self._files = 0
        self._changes = 0

    async def bytes_of(self, owner: str | None) -> int:
        """Return the bytes of an owner's contents; with None those of all.

        Raises:
            Unavailable: The store cannot be asked at present.
        """
        while owner not in self._bytes:
            before = self._changes
            found, count = await self._count(owner)
            if self._changes != before:
                continue  # something changed meanwhile, perhaps before it was counted
            if len(self._bytes) > _OWNERS_MAX:
                self._bytes = {who: size for who, size in self._bytes.items() if who is None}
            self._bytes[owner] = found
            if owner is None:
                self._files = count
        return self._bytes[owner]

    async def totals(self) -> tuple[int, int]:
        """Return how many contents there are, and their bytes."""
        size = await self.bytes_of(None)
        return self._files, size

    def add(self, owner: str, files: int, size: int) -> None:
        """Count contents that came, or with negative numbers went."""
        self._changes += 1
        for who in (owner, None):
            if who in self._bytes:
                self._bytes[who] += size
        if None in self._bytes:
            self._files += files

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
