"""Contents in memory: those of `memory:`, a verified fake."""

from bisect import bisect_right
from collections.abc import AsyncGenerator
from hashlib import sha256

from anyio.lowlevel import checkpoint
from typing_extensions import override

from bamboo_gateway.storage.files.base import (
    PIECE_BYTES,
    ContentLost,
    ContentName,
    ContentStore,
    ContentWriter,
    StoredContent,
)


class MemoryContents(ContentStore):
    """Contents that live as long as the process."""

    def __init__(self) -> None:
        self._contents: dict[ContentName, bytes] = {}

    @override
    def open(self) -> None:
        return None

    @override
    def writer(self) -> ContentWriter:
        return _MemoryWriter(self._contents)

    @override
    async def size(self, name: ContentName) -> int | None:
        content = self._contents.get(name)
        return None if content is None else len(content)

    @override
    async def read(self, name: ContentName, start: int, end: int) -> AsyncGenerator[bytes]:
        content = self._contents.get(name)
        if content is None or len(content) < end:
            raise ContentLost
        for place in range(start, end, PIECE_BYTES):
            await checkpoint()
            yield content[place : min(place + PIECE_BYTES, end)]

    @override
    async def delete(self, name: ContentName) -> int:
        await checkpoint()
        return len(self._contents.pop(name, b""))

    @override
    async def contents(
        self, after: ContentName | None = None, limit: int = 1000
    ) -> list[StoredContent]:
        names = sorted(self._contents)
        begin = 0 if after is None else bisect_right(names, after)
        return [
            StoredContent(name, len(self._contents[name])) for name in names[begin : begin + limit]
        ]


class _MemoryWriter(ContentWriter):
    def __init__(self, contents: dict[ContentName, bytes]) -> None:
        self._contents = contents
        self._pieces: list[bytes] = []

    @override
    async def write(self, data: bytes) -> None:
        await checkpoint()
        self._pieces.append(bytes(data))
        self.size += len(data)

    @override
    async def finish(self) -> str:
        await checkpoint()
        return sha256(b"".join(self._pieces)).hexdigest()

    @override
    async def publish(self, owner: str) -> ContentName:
        name = ContentName(owner, await self.finish())
        self._contents[name] = b"".join(self._pieces)
        return name

    @override
    async def discard(self) -> None:
        self._pieces = []
