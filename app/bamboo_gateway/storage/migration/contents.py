"""Copies the contents of files, and compares both sides."""

from contextlib import aclosing
from typing import NamedTuple

from bamboo_gateway.domain.errors import StorageFailed
from bamboo_gateway.storage.base import SessionStore
from bamboo_gateway.storage.files.base import ContentLost, ContentName, ContentStore, StoredContent


class ContentsCount(NamedTuple):
    """How many contents a store has, and their bytes."""

    contents: int
    bytes: int


async def copy_contents(source: SessionStore, target: SessionStore) -> None:
    """Write the contents that the target lacks, and remove those that the source does not have.

    Each is read whole and hashed on its way: one that is not what its name says is not copied.

    Raises:
        StorageFailed: A content of the source is damaged.
    """
    for stray in await _all(target.contents):
        if await source.contents.size(stray.name) is None:
            await target.contents.delete(stray.name)
    for content in await _all(source.contents):
        if await target.contents.size(content.name) != content.size:
            await _copy(source.contents, target.contents, content)


async def count_contents(store: SessionStore) -> ContentsCount:
    """Count all contents."""
    found = await _all(store.contents)
    return ContentsCount(len(found), sum(one.size for one in found))


async def _copy(source: ContentStore, target: ContentStore, content: StoredContent) -> None:
    async with target.writer() as writer:
        try:
            async with aclosing(source.read(content.name, 0, content.size)) as pieces:
                async for piece in pieces:
                    await writer.write(piece)
        except ContentLost:
            return  # deleted since
        if await writer.finish() != content.name.digest:
            raise StorageFailed(
                f"The content {content.name.digest[:16]}… of a file is damaged. Run `bamboo doctor "
                "--repair` on the source."
            )
        await writer.publish(content.name.owner)


async def _all(contents: ContentStore) -> list[StoredContent]:
    found: list[StoredContent] = []
    after: ContentName | None = None
    while page := await contents.contents(after):
        found += page
        after = page[-1].name
    return found
