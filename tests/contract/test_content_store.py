"""The contract of the contents of files (`storage.files.base`), over every store."""

from contextlib import aclosing
from hashlib import sha256

import pytest

from bamboo_gateway.storage.base import SessionStore
from bamboo_gateway.storage.files.base import PIECE_BYTES, ContentLost, ContentName, ContentStore
from tests.contract.conftest import Reopen

OWNER = "0" * 31 + "a"
OTHER = "0" * 31 + "b"


async def stored(
    contents: ContentStore, data: bytes, owner: str = OWNER, step: int = 100_000
) -> ContentName:
    async with contents.writer() as writer:
        for start in range(0, len(data), step):
            await writer.write(data[start : start + step])
        assert writer.size == len(data)
        assert await writer.finish() == sha256(data).hexdigest()
        return await writer.publish(owner)


async def read(contents: ContentStore, name: ContentName, start: int, end: int) -> bytes:
    async with aclosing(contents.read(name, start, end)) as pieces:
        found = [piece async for piece in pieces]
    assert all(0 < len(piece) <= PIECE_BYTES for piece in found)
    return b"".join(found)


SIZES = (0, 1, PIECE_BYTES - 1, PIECE_BYTES, PIECE_BYTES + 1, 3 * PIECE_BYTES + 17)


@pytest.mark.parametrize("size", SIZES)
async def test_a_content_comes_back_byte_for_byte_by_any_range(
    store: SessionStore, second_path: Reopen, size: int
) -> None:
    data = bytes(number % 251 for number in range(size))
    name = await stored(store.contents, data)
    assert name == (OWNER, sha256(data).hexdigest())
    again = await second_path(store)
    assert await again.contents.size(name) == size
    edges = {0, 1, size // 2, PIECE_BYTES - 1, PIECE_BYTES, PIECE_BYTES + 1, size}
    places = sorted(edge for edge in edges if 0 <= edge <= size)
    for start in places:
        for end in places:
            if start <= end:
                assert await read(again.contents, name, start, end) == data[start:end]


async def test_an_owner_has_a_content_once_and_another_owner_has_its_own(
    store: SessionStore, second_path: Reopen
) -> None:
    first = await stored(store.contents, b"the same")
    assert await stored(store.contents, b"the same", step=3) == first
    other = await stored(store.contents, b"the same", OTHER)
    again = await second_path(store)
    assert [(one.name, one.size) for one in await again.contents.contents()] == [
        (first, 8),
        (other, 8),
    ]
    assert await again.contents.delete(first) == 8
    assert await again.contents.size(first) is None
    assert await read(again.contents, other, 0, 8) == b"the same"


async def test_who_reads_a_content_reads_on_while_it_is_uploaded_again(store: SessionStore) -> None:
    data = bytes(range(256)) * (PIECE_BYTES // 100)
    name = await stored(store.contents, data)
    async with aclosing(store.contents.read(name, 0, len(data))) as pieces:
        found = await anext(pieces)
        assert await stored(store.contents, data) == name
        async for piece in pieces:
            found += piece
            if len(found) < 2 * PIECE_BYTES + 1:
                assert await stored(store.contents, data, step=77_777) == name
    assert found == data


async def test_what_is_not_published_is_never_there(
    store: SessionStore, second_path: Reopen
) -> None:
    async with store.contents.writer() as writer:
        await writer.write(b"x" * (2 * PIECE_BYTES))
        await writer.finish()
        assert await store.contents.contents() == []
    await writer.discard()
    assert await (await second_path(store)).contents.contents() == []


async def test_a_deletion_is_durable_and_a_repeat_does_nothing(
    store: SessionStore, second_path: Reopen
) -> None:
    name = await stored(store.contents, b"gone soon")
    assert await store.contents.delete(name) == 9
    assert await store.contents.delete(name) == 0
    again = (await second_path(store)).contents
    assert await again.size(name) is None
    with pytest.raises(ContentLost):
        await read(again, name, 0, 1)


async def test_a_content_that_ends_early_is_said_to_be_lost(store: SessionStore) -> None:
    name = await stored(store.contents, b"short")
    with pytest.raises(ContentLost):
        await read(store.contents, name, 0, 6)


async def test_contents_are_listed_in_pages_by_name(store: SessionStore) -> None:
    names = sorted([await stored(store.contents, bytes([number])) for number in range(7)])
    found: list[ContentName] = []
    while page := await store.contents.contents(found[-1] if found else None, 3):
        assert len(page) <= 3
        found += [one.name for one in page]
    assert found == names
