"""The contract of the store of files' contents, which belongs to a store of sessions.

A content is bytes with a name: the key of its owner, and the digest of the bytes. So an owner has
each content once, and a name never has other bytes. What a file is called, what it is, and which
sessions name it are values of the session store (`sessions.file_shelf`).

A store promises:

* **All or nothing.** A content is there as a whole, or not at all, whatever fails in between: it
  is written aside, and `publish` makes it durable under its name.
* **Durable on return.** What `publish` has published survives a crash, and what `delete` has
  deleted does not come back.
* **Bounded.** Memory holds a few pieces of a content at a time, however large it is.

All methods are called on the event loop's thread, and none blocks it (R12). A cancelled `await`
abandons the answer: the call then either happened as a whole or not at all.
"""

from abc import ABC, abstractmethod
from collections.abc import AsyncGenerator
from dataclasses import dataclass
from types import TracebackType
from typing import NamedTuple, Self

from bamboo_gateway.domain.limits import KiB

PIECE_BYTES = 256 * KiB
"""The size of a piece that is read or written at once: a thread hop is small beside it, and fifty
slow clients take some MiB."""


class ContentName(NamedTuple):
    """The name of a content. Both parts are lower-case hexadecimal digits, never a client's text.

    Attributes:
        owner: The key of its owner (`sessions.file_shelf.records.owner_key`).
        digest: The SHA-256 of the bytes.
    """

    owner: str
    digest: str


class ContentLost(Exception):
    """There is no such content, or not all of it."""


@dataclass(frozen=True, slots=True)
class StoredContent:
    """A content that is there, and its size in bytes."""

    name: ContentName
    size: int


class ContentWriter(ABC):
    """A new content, not visible yet: `async with store.writer() as writer`.

    Leaving without `publish` discards what was written.

    Attributes:
        size: How many bytes were written.
    """

    size: int = 0

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        await self.discard()

    @abstractmethod
    async def write(self, data: bytes) -> None:
        """Add bytes. Pieces of about `PIECE_BYTES` are the cheapest.

        Raises:
            StorageFull, StorageFailed, Unavailable: The content can only be left.
        """

    @abstractmethod
    async def finish(self) -> str:
        """Make what was written durable, aside, and return its digest. Nothing is written after."""

    @abstractmethod
    async def publish(self, owner: str) -> ContentName:
        """Make the content visible as one of this owner; call `finish` before.

        A content of that name is replaced: its bytes are the same, unless it was damaged.

        Raises:
            StorageFull, StorageFailed, Unavailable: It is not visible, or as a whole.
        """

    @abstractmethod
    async def discard(self) -> None:
        """Discard what was written, unless it was published. Idempotent; raises nothing."""


class ContentStore(ABC):
    """The contents of all files. The session store that it belongs to opens and closes it."""

    @abstractmethod
    def open(self) -> None:
        """Remove what was being written when the last process ended. This blocks.

        Raises:
            OSError, Unavailable: The place of the contents cannot be used.
        """

    async def aclose(self) -> None:  # noqa: B027 - most have nothing to close
        """Wait for what runs, and refuse what comes. Idempotent."""

    @abstractmethod
    def writer(self) -> ContentWriter:
        """Begin a new content."""

    @abstractmethod
    async def size(self, name: ContentName) -> int | None:
        """Return the size of a content in bytes, or None when there is none of this name."""

    @abstractmethod
    def read(self, name: ContentName, start: int, end: int) -> AsyncGenerator[bytes]:
        """Yield the bytes from `start` up to `end`, in pieces.

        A content that is deleted meanwhile may still be read to its end.

        Raises:
            ContentLost: There is no such content, or it ends before `end`.
            StorageFailed, Unavailable: It cannot be read at present.
        """

    @abstractmethod
    async def delete(self, name: ContentName) -> int:
        """Delete a content, durably. Return its size; 0 when there is none of this name.

        Raises:
            StorageFailed, Unavailable: It is still there.
        """

    @abstractmethod
    async def contents(
        self, after: ContentName | None = None, limit: int = 1000
    ) -> list[StoredContent]:
        """Return the contents that follow `after`, ordered by name."""

    async def totals(self, owner: str | None = None) -> tuple[int, int]:
        """Return how many contents an owner has, or all owners have, and their bytes together."""
        after = None if owner is None else ContentName(owner, "")
        size = count = 0
        while page := await self.contents(after):
            for one in page:
                if owner not in {None, one.name.owner}:
                    return count, size
                size += one.size
                count += 1
            after = page[-1].name
        return count, size
