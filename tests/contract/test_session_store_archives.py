"""Packing and unpacking: everything reads as before, nothing is appended, over every store."""

import anyio
import pytest

from bamboo_gateway.domain import codec
from bamboo_gateway.domain.errors import Conflict
from bamboo_gateway.storage.base import SessionStore
from bamboo_gateway.storage.reports import SessionQuery
from tests.contract.conftest import Reopen, both_paths
from tests.contract.test_session_store_trees import state_change
from tests.storage.writing import (
    DEADLINE_SECONDS,
    NOBODY,
    Writer,
    answer_to,
    append,
    committed,
    complete,
    everything,
    message,
    run_start,
    seqs,
    token,
)


async def chat(store: SessionStore, session_id: str = "s-1", runs: int = 40) -> Writer:
    """An archived session with messages, runs, deltas and notes."""
    writer = Writer(session_id, store.next_epoch())
    await committed(store, writer.commit(message("m")))
    for n in range(runs):
        answer = message(f"a{n}", "lorem ipsum " * (n % 7))
        await committed(store, writer.commit(message(f"m{n}"), run_start(f"run_{n}"), note=f"k{n}"))
        await committed(store, writer.commit(*(token(f"word {n} {i} ") for i in range(9))))
        await committed(store, writer.commit(answer, complete(f"run_{n}")))
    await committed(store, writer.commit(state_change("archived")))
    return writer


async def look(store: SessionStore, writer: Writer) -> list[object]:
    """All that can be seen of a session, in every way there is."""
    name, epoch = writer.head.id, writer.head.epoch
    seen: list[object] = [await store.load(name), await everything(store, name)]
    seen.append((await store.query(SessionQuery(archived="only"), NOBODY)).heads)
    seen += [
        await store.read(name, epoch, after, limit=5, max_bytes=2000)
        for after in range(0, writer.head.seq + 2, 7)
    ]
    seen.append(await store.find(name, epoch, "message"))
    seen.append(await store.find(name, epoch, "run"))
    seen.append(await store.find(name, epoch, "note"))
    seen.append(await store.find(name, epoch, "message", reverse=True, limit=3))
    seen.append(await store.find(name, epoch, "message", after=100, before=300, limit=5))
    seen.append(await store.find(name, epoch, "message", key="a17"))
    seen.append(await store.keys_in_use(name, epoch, "message", {"a17", "a18", "none"}))
    seen.append(await store.find(name, epoch, "note", key="k5"))
    seen.append(await store.find(name, epoch, "run", key="run_39"))
    return seen


async def test_a_packed_session_reads_as_before_by_every_way(
    store: SessionStore, second_path: Reopen
) -> None:
    """R2, R9."""
    writer = await chat(store)
    before = await look(store, writer)
    await store.pack("s-1", writer.head.epoch)
    await store.pack("s-1", writer.head.epoch)
    async for seen in both_paths(store, second_path):
        assert await look(seen, writer) == before
        assert (await seen.usage()).sessions == 1


async def test_an_unpacked_session_is_what_it_was_and_goes_on(
    store: SessionStore, second_path: Reopen
) -> None:
    """R2, R3, R9."""
    writer = await chat(store)
    before = await look(store, writer)
    epoch = writer.head.epoch
    await store.pack("s-1", epoch)
    fresh = await second_path(store)
    await fresh.unpack("s-1", epoch)
    await fresh.unpack("s-1", epoch)
    async for seen in both_paths(fresh, second_path):
        assert await look(seen, writer) == before
    await committed(seen, writer.commit(state_change("idle"), message("after"), token()))
    async for again in both_paths(seen, second_path):
        assert await seqs(again, "s-1") == list(range(1, writer.head.seq + 1))
        assert await again.load("s-1") == writer.head
        [found] = await again.find("s-1", epoch, "message", key="after")
        assert found.seq == writer.head.seq - 1


async def test_appending_to_a_packed_session_is_refused(
    store: SessionStore, second_path: Reopen
) -> None:
    """R8."""
    writer = await chat(store, runs=2)
    await store.pack("s-1", writer.head.epoch)
    async for seen in both_paths(store, second_path):
        late = Writer.of(writer.head)
        error = await answer_to(append(seen, late.commit(token())))
        assert isinstance(error, Conflict)
        assert error.head == writer.head.seq
        assert await seen.load("s-1") == writer.head


async def test_packing_what_is_not_there_is_a_conflict(store: SessionStore) -> None:
    writer = await chat(store, runs=1)
    for verb in (store.pack, store.unpack):
        for name, epoch in (("nobody", 1), ("s-1", writer.head.epoch - 1)):
            with pytest.raises(Conflict):
                await verb(name, epoch)
    with pytest.raises(Conflict):
        await store.size("nobody")


async def test_archives_that_wait_to_be_packed_are_listed(
    store: SessionStore, second_path: Reopen
) -> None:
    writers = [await chat(store, name, runs=1) for name in ("b", "a", "c")]
    idle = Writer("idle", store.next_epoch())
    await committed(store, idle.commit(message("m1")))
    assert await store.unpacked_archives() == ["a", "b", "c"]
    await store.pack("b", writers[0].head.epoch)
    async for seen in both_paths(store, second_path):
        assert await seen.unpacked_archives() == ["a", "c"]
    await seen.unpack("b", writers[0].head.epoch)
    assert await seen.unpacked_archives() == ["a", "b", "c"]


async def test_the_size_of_a_session_is_known_packed_or_not(
    store: SessionStore, second_path: Reopen
) -> None:
    writer = await chat(store)
    plain = await store.size("s-1")
    assert plain.stored_bytes == plain.original_bytes > 10_000
    await store.pack("s-1", writer.head.epoch)
    async for seen in both_paths(store, second_path):
        packed = await seen.size("s-1")
        assert packed.original_bytes == plain.original_bytes
        assert 0 < packed.stored_bytes <= plain.stored_bytes
    await seen.unpack("s-1", writer.head.epoch)
    assert await seen.size("s-1") == plain


async def test_the_sizes_of_a_page_of_sessions_are_found_at_once(store: SessionStore) -> None:
    names = [f"s-{number}" for number in range(60)]
    for name in names:
        await committed(store, Writer(name, store.next_epoch()).commit(message("m1", name)))
    assert await store.sizes([]) == {}
    assert await store.sizes(["nobody"]) == {}
    expected = {name: await store.size(name) for name in names}
    assert await store.sizes([*names, "nobody"]) == expected
    assert list(await store.sizes(names[:1])) == names[:1]


async def test_a_packed_session_is_deleted_for_good(
    store: SessionStore, second_path: Reopen
) -> None:
    """R9."""
    writer = await chat(store)
    await store.pack("s-1", writer.head.epoch)
    size = await store.size("s-1")
    assert await store.delete("s-1", writer.head.epoch) >= size.stored_bytes
    async for seen in both_paths(store, second_path):
        assert await seen.load("s-1") is None
        assert await seen.unpacked_archives() == []
    again = await chat(seen, runs=1)
    assert again.head.epoch > writer.head.epoch
    await seen.pack("s-1", again.head.epoch)
    assert await seen.load("s-1") == again.head


async def test_readers_inside_see_nothing_of_packing_and_unpacking(store: SessionStore) -> None:
    """R2, R7: a reader that pages through meets each event once, whatever happens beside it."""
    writer = await chat(store)
    epoch = writer.head.epoch
    expected = [record.body for record in await everything(store, "s-1")]
    done = anyio.Event()

    async def read() -> None:
        while not done.is_set():
            found: list[bytes] = []
            after = 0
            while page := await store.read("s-1", epoch, after, limit=17, max_bytes=1 << 20):
                found += [record.body for record in page]
                after = page[-1].seq
                await anyio.lowlevel.checkpoint()
            assert found == expected
            said = await store.find("s-1", epoch, "message", reverse=True, limit=5)
            assert codec.decode(said[0].body)["message"]["id"] == "a39"

    with anyio.fail_after(DEADLINE_SECONDS):
        async with anyio.create_task_group() as tasks:
            for _ in range(4):
                tasks.start_soon(read)
            for _ in range(6):
                await store.pack("s-1", epoch)
                await store.unpack("s-1", epoch)
            done.set()
