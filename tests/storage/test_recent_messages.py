"""Pages of the last messages, without a thread: the same as from the log, durable and bounded."""

import errno
from collections.abc import Awaitable, Callable
from itertools import product
from typing import Any

import pytest

from bamboo_gateway.domain.errors import BambooError, Conflict
from bamboo_gateway.storage.base import SessionStore
from bamboo_gateway.storage.commits import Found
from bamboo_gateway.storage.jsonl import recent_messages
from bamboo_gateway.storage.jsonl.reads import Reads
from bamboo_gateway.storage.jsonl.store import JsonlStore
from tests.storage.conftest import Opener
from tests.storage.faults import FaultyFileSystem
from tests.storage.writing import Writer, committed, message, token


class Hops:
    """Counts the reads that take a thread."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.count = 0
        run = Reads.run

        async def counted(reads: Reads, function: Callable[..., Any], *arguments: Any) -> Any:
            self.count += 1
            return await run(reads, function, *arguments)

        monkeypatch.setattr(Reads, "run", counted)


@pytest.fixture
def hops(monkeypatch: pytest.MonkeyPatch) -> Hops:
    return Hops(monkeypatch)


def shape_of(found: Found) -> tuple[list[tuple[int, bytes]], bool]:
    return [(record.seq, record.body) for record in found], found.has_more


async def last(store: SessionStore, writer: Writer, **options: Any) -> Found:
    where = {"limit": 10, "reverse": True, **options}
    return await store.find(writer.head.id, writer.head.epoch, "message", **where)


async def talk(store: SessionStore, session_id: str = "s-1", count: int = 12) -> Writer:
    writer = Writer(session_id, store.next_epoch())
    for number in range(count):
        text = "x" * (number * 37 % 200)
        await committed(store, writer.commit(token(), message(f"m{number}", text)))
    return writer


async def test_a_page_from_memory_is_the_page_of_the_log(
    opener: Opener, hops: Hops, monkeypatch: pytest.MonkeyPatch
) -> None:
    """R2."""
    store = await opener()
    writer = await talk(store)
    await store.checkpoint()
    places = (0, 1, 3, 4, 13, 24, 25, 99)
    answered = 0
    for kept in (100_000, 2000):
        monkeypatch.setattr(recent_messages, "_LOG_BYTES_MAX", kept)
        for after, before, limit, max_bytes, reverse in product(
            places, (*places, None), (1, 3, 100), (1, 400, 1 << 20), (False, True)
        ):
            page: dict[str, Any] = {
                "after": after, "before": before, "limit": limit, "max_bytes": max_bytes,
                "reverse": reverse,
            }  # fmt: skip
            hops.count = 0
            found = await last(store, writer, **page)
            answered += hops.count == 0
            store._recent.forget("s-1")
            hops.count = 0
            assert shape_of(found) == shape_of(await last(store, writer, **page)), page
            assert hops.count == 1
        await committed(store, writer.commit(message(f"again-{kept}", "y" * 150)))
    assert answered > 100


async def test_a_commit_and_a_read_make_the_next_read_one_of_memory(
    opener: Opener, hops: Hops
) -> None:
    store = await opener()
    writer = await talk(store)
    await store.aclose()
    store = await opener()
    hops.count = 0
    await committed(store, writer.commit(message("behind")))
    assert [record.seq for record in await last(store, writer, limit=1)] == [26]
    assert hops.count == 1, "whether there is an earlier message is not known"
    assert [record.seq for record in await last(store, writer, limit=1)] == [26]
    assert hops.count == 1
    earlier = await last(store, writer, before=26, limit=3)
    assert hops.count == 2
    assert [record.seq for record in await last(store, writer, limit=4)][1:] == [
        record.seq for record in earlier
    ]
    await committed(store, writer.commit(token(), message("last")))
    page = await last(store, writer, limit=4)
    assert [record.seq for record in page] == [28, 26, *(record.seq for record in earlier[:2])]
    assert hops.count == 2


async def test_no_page_has_a_message_that_could_not_be_stored(opener: Opener) -> None:
    """R1, R3."""
    is_full = False

    def should_fail(_: int, operation: str, __: str) -> int | None:
        return errno.EIO if is_full and operation in {"write", "sync"} else None

    store = await opener(FaultyFileSystem(should_fail))
    writer = await talk(store, count=2)
    known = shape_of(await last(store, writer))
    is_full = True
    with pytest.raises(BambooError):
        await committed(store, Writer.of(writer.head).commit(message("lost")))
    assert shape_of(await last(store, writer)) == known
    is_full = False


async def test_a_session_of_the_same_id_has_none_of_the_messages_before_it(
    opener: Opener,
) -> None:
    """R3."""
    store = await opener()
    former = await talk(store)
    await last(store, former)
    await store.delete("s-1", former.head.epoch)
    with pytest.raises(Conflict):
        await last(store, former)
    assert store._recent.bytes == 0
    writer = await talk(store, count=1)
    assert [record.seq for record in await last(store, writer)] == [3]
    with pytest.raises(Conflict):
        await last(store, former)


async def pack(store: JsonlStore, writer: Writer) -> None:
    await store.pack("s-1", writer.head.epoch)


async def compact(store: JsonlStore, writer: Writer) -> None:
    assert await store.compact("s-1", writer.head.epoch, writer.head.seq) > 0


async def extend(store: JsonlStore, writer: Writer) -> None:
    commit = writer.commit(*(message(f"added-{number}", "x" * 150_000) for number in range(12)))
    before = commit.first_seq - 1
    async with store.extension("s-1", writer.head.epoch, before) as extension:
        for event in commit.events:
            await extension.write([event])
        await extension.publish(writer.head)


@pytest.mark.parametrize("swap", [pack, compact, extend])
async def test_a_page_after_a_file_swap_is_the_page_of_the_new_files(
    opener: Opener, swap: Callable[[JsonlStore, Writer], Awaitable[None]]
) -> None:
    """R2, R9."""
    store = await opener()
    writer = await talk(store)
    await last(store, writer)
    await swap(store, writer)
    page = shape_of(await last(store, writer, limit=20))
    store._recent.forget("s-1")
    assert page == shape_of(await last(store, writer, limit=20))
    assert page[0][0][0] == writer.head.seq


async def test_what_memory_keeps_is_bounded_for_a_log_and_for_all(
    opener: Opener, monkeypatch: pytest.MonkeyPatch
) -> None:
    """R11."""
    monkeypatch.setattr(recent_messages, "_LOG_BYTES_MAX", 4000)
    monkeypatch.setattr(recent_messages, "_BYTES_MAX", 10_000)
    store = await opener()
    tails = store._recent._tails
    for number in range(12):
        writer = Writer(f"s-{number}", store.next_epoch())
        for size in (10, 1500, 1000, 300, 6000 * (number % 3 == 0)):
            await committed(store, writer.commit(message(f"m{size}", "x" * size)))
            assert store._recent.bytes == sum(tail.bytes for tail in tails.values()) <= 10_000
            assert all(tail.bytes <= 4000 for tail in tails.values())
        assert len(await last(store, writer)) == 5
    assert 2 <= len(tails) <= 10
