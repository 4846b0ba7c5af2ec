"""Many events that a session gets at once: all of them or none (R9), few or many MB of them."""

from typing import Any

import anyio
import pytest

from bamboo_gateway.domain.errors import Conflict, Unavailable
from bamboo_gateway.storage.base import SessionCreation, SessionStore
from bamboo_gateway.storage.commits import Commit
from tests.contract.conftest import Reopen, both_paths
from tests.storage.writing import (
    Writer,
    bodies_of,
    committed,
    entries_of,
    everything,
    message,
    seqs,
    token,
)

SIZES = pytest.mark.parametrize("chars", [10, 150_000], ids=["small", "large"])
"""What goes through the journal like any other commit, and what is too much for that."""


async def begun(store: SessionStore) -> Writer:
    writer = Writer("s-1", store.next_epoch())
    await committed(store, writer.commit(message("m-before"), token(), note="k-before"))
    return writer


async def write_each(extension: SessionCreation, commit: Commit) -> None:
    for event in commit.events:
        await extension.write([event])
    await extension.write((), commit.notes)


async def extend(store: SessionStore, writer: Writer, chars: int, count: int = 12) -> Commit:
    events = [message(f"m{number}", "x" * chars) for number in range(count)]
    commit = writer.commit(*events, note="k")
    before = commit.first_seq - 1
    async with store.extension("s-1", writer.head.epoch, before) as extension:
        await write_each(extension, commit)
        seen = await store.load("s-1")
        assert seen is not None
        assert seen.seq == before
        await extension.publish(writer.head)
    return commit


@SIZES
async def test_what_is_published_is_whole_and_the_session_goes_on(
    store: SessionStore, second_path: Reopen, chars: int
) -> None:
    """R1, R2, R9."""
    writer = await begun(store)
    epoch = writer.head.epoch
    commit = await extend(store, writer, chars)
    async for seen in both_paths(store, second_path):
        assert await seen.load("s-1") == writer.head
        assert await seqs(seen, "s-1") == list(range(1, 16))
        bodies = [record.body for record in await everything(seen, "s-1")]
        assert bodies[3:] == bodies_of(commit)
        [found] = await seen.find("s-1", epoch, "message", key="m7")
        assert found.seq == 11
        assert len(await seen.find("s-1", epoch, "message", limit=100)) in range(1, 14)
        for key, seq in (("k-before", 3), ("k", 15)):
            [note] = await seen.find("s-1", epoch, "note", key=key)
            assert note.seq == seq
        assert (await seen.size("s-1")).stored_bytes > 12 * chars
        assert (await seen.usage("u")).stored_bytes == (await seen.size("s-1")).stored_bytes
    await committed(seen, writer.commit(message("after")))
    await extend(seen, writer, chars, 3)
    await committed(seen, writer.commit(token()))
    async for again in both_paths(seen, second_path):
        assert await again.load("s-1") == writer.head
        assert await seqs(again, "s-1") == list(range(1, 21))
    assert await again.delete("s-1", epoch) > 0
    assert await again.load("s-1") is None


@SIZES
async def test_nothing_is_seen_of_an_extension_that_is_left_or_cancelled(
    store: SessionStore, second_path: Reopen, chars: int
) -> None:
    """R9."""
    writer = await begun(store)
    before = writer.head.copy()
    commit = writer.commit(*(message(f"m{n}", "x" * chars) for n in range(12)))

    async def leave() -> None:
        async with store.extension("s-1", before.epoch, before.seq) as extension:
            await write_each(extension, commit)
            raise RuntimeError

    with pytest.raises(RuntimeError):
        await leave()
    with anyio.CancelScope() as scope:
        async with store.extension("s-1", before.epoch, before.seq) as extension:
            await write_each(extension, commit)
            scope.cancel()
            await extension.publish(writer.head)
    async with store.extension("s-1", before.epoch, before.seq):
        pass
    async for seen in both_paths(store, second_path):
        assert await seen.load("s-1") in (before, writer.head)
        assert len(await seqs(seen, "s-1")) in (before.seq, writer.head.seq)


@SIZES
async def test_what_was_built_on_another_head_is_refused(
    store: SessionStore, second_path: Reopen, chars: int
) -> None:
    """R8."""
    writer = await begun(store)
    late = Writer.of(writer.head)
    commit = late.commit(*(message(f"m{n}", "x" * chars) for n in range(12)))

    async def publish(after: int, meanwhile: Any = None, epochs_on: int = 0) -> None:
        head = late.head.copy()
        head.epoch += epochs_on
        async with store.extension("s-1", head.epoch, after) as extension:
            await write_each(extension, commit)
            if meanwhile is not None:
                await meanwhile()
            await extension.publish(head)

    async def say() -> None:
        await committed(store, writer.commit(token()))

    with pytest.raises(Conflict) as caught:
        await publish(3, say)
    assert caught.value.head == 4
    with pytest.raises(Conflict):
        await publish(3)
    with pytest.raises(Conflict):
        await publish(3, epochs_on=1)
    async for seen in both_paths(store, second_path):
        assert await seen.load("s-1") == writer.head
        assert await seqs(seen, "s-1") == [1, 2, 3, 4]


async def test_an_extension_of_nothing_but_a_note_moves_no_position(
    store: SessionStore, second_path: Reopen
) -> None:
    writer = await begun(store)
    commit = writer.commit(note="k2")
    async with store.extension("s-1", writer.head.epoch, writer.head.seq) as extension:
        await extension.write(*entries_of(commit))
        await extension.publish(writer.head)
    async for seen in both_paths(store, second_path):
        assert await seen.load("s-1") == writer.head
        [note] = await seen.find("s-1", writer.head.epoch, "note", key="k2")
        assert note.seq == 3


@SIZES
async def test_a_packed_session_is_not_extended(store: SessionStore, chars: int) -> None:
    writer = await begun(store)
    await store.pack("s-1", writer.head.epoch)
    with pytest.raises(Conflict):
        await extend(store, writer, chars)
    await store.unpack("s-1", writer.head.epoch)
    assert await seqs(store, "s-1") == [1, 2, 3]


async def test_compaction_and_packing_go_on_behind_an_extension(
    store: SessionStore, second_path: Reopen
) -> None:
    writer = await begun(store)
    await extend(store, writer, 150_000)
    epoch = writer.head.epoch
    assert await store.compact("s-1", epoch, 10) > 0
    await store.pack("s-1", epoch)
    async for seen in both_paths(store, second_path):
        assert await seqs(seen, "s-1") == [1, 2, *range(4, 16)]
        [found] = await seen.find("s-1", epoch, "message", key="m7")
        assert found.seq == 11


async def test_a_closed_store_publishes_no_extension(store: SessionStore) -> None:
    writer = await begun(store)
    commit = writer.commit(message("m"))
    async with store.extension("s-1", writer.head.epoch, commit.first_seq - 1) as extension:
        await extension.write(*entries_of(commit))
        await store.aclose()
        with pytest.raises(Unavailable):
            await extension.publish(writer.head)
