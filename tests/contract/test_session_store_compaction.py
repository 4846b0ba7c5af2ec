"""Compaction: deltas go, positions stay, and no screen looks different; over every store."""

import random

import anyio
import pytest

from bamboo_gateway.domain import codec
from bamboo_gateway.domain.errors import Conflict
from bamboo_gateway.domain.events import DELTA_TYPES
from bamboo_gateway.storage.base import SessionStore
from bamboo_gateway.storage.lines import to_line
from tests.contract.conftest import Reopen, both_paths
from tests.storage.screens import Screen, random_run
from tests.storage.writing import (
    DEADLINE_SECONDS,
    Writer,
    committed,
    complete,
    everything,
    message,
    run_start,
    seqs,
    token,
)


async def talk(store: SessionStore, runs: int = 5) -> Writer:
    writer = Writer("s-1", store.next_epoch())
    await committed(store, writer.commit())
    for n in range(runs):
        await committed(store, writer.commit(message(f"m{n}"), run_start(f"run_{n}"), note=f"k{n}"))
        for i in range(5):
            await committed(store, writer.commit(token(f"{n}.{i}"), token("x"), note=f"in{n}.{i}"))
        last = [token("last"), message(f"a{n}"), complete(f"run_{n}")]
        await committed(store, writer.commit(*last))
    return writer


def types(records) -> list[str]:
    return [codec.decode(record.body)["type"] for record in records]


async def test_deltas_leave_and_everything_else_stays_at_its_position(
    store: SessionStore, second_path: Reopen
) -> None:
    """R2, R3."""
    writer = await talk(store)
    epoch = writer.head.epoch
    before = await everything(store, "s-1")
    kept = [record for record in before if codec.decode(record.body)["type"] not in DELTA_TYPES]
    messages = await store.find("s-1", epoch, "message")
    runs = await store.find("s-1", epoch, "run")
    size = (await store.size("s-1")).original_bytes
    freed = await store.compact("s-1", epoch, writer.head.seq)
    assert freed > 0
    async for seen in both_paths(store, second_path):
        assert await everything(seen, "s-1") == kept
        assert await seen.load("s-1") == writer.head
        assert await seen.find("s-1", epoch, "message") == messages
        assert await seen.find("s-1", epoch, "run") == runs
        [note] = await seen.find("s-1", epoch, "note", key="in3.2")
        assert codec.decode(note.body)["key"] == "in3.2"
        assert len(await seen.find("s-1", epoch, "note")) == 30
        for after in range(writer.head.seq + 1):
            page = await seen.read("s-1", epoch, after, limit=4, max_bytes=1 << 20)
            assert page == [record for record in kept if record.seq > after][:4]
        assert size - freed <= (await seen.size("s-1")).original_bytes <= size
        assert await seen.delta_bytes("s-1") == 0
    assert await seen.compact("s-1", epoch, writer.head.seq) == 0


async def test_only_deltas_up_to_the_position_go(store: SessionStore, second_path: Reopen) -> None:
    writer = await talk(store)
    before = await everything(store, "s-1")
    await store.compact("s-1", writer.head.epoch, 30)
    kept = [r for r in before if r.seq > 30 or codec.decode(r.body)["type"] not in DELTA_TYPES]
    async for seen in both_paths(store, second_path):
        assert await everything(seen, "s-1") == kept


async def test_the_last_event_stays_whatever_it_is(
    store: SessionStore, second_path: Reopen
) -> None:
    """R3: so the log's end is known by the log alone."""
    writer = Writer("s-1", store.next_epoch())
    await committed(store, writer.commit(run_start("run_1"), token("a"), token("b")))
    await store.compact("s-1", writer.head.epoch, 100)
    async for seen in both_paths(store, second_path):
        assert await seqs(seen, "s-1") == [1, 2, 4]


async def test_what_is_appended_after_a_compaction_follows_it(
    store: SessionStore, second_path: Reopen
) -> None:
    writer = await talk(store)
    head = writer.head.seq
    await store.compact("s-1", writer.head.epoch, head)
    for n in range(5):
        await committed(store, writer.commit(token("new"), message(f"n{n}"), note=f"n{n}"))
    async for seen in both_paths(store, second_path):
        assert (await seqs(seen, "s-1"))[-10:] == list(range(head + 1, head + 11))
        assert await seen.load("s-1") == writer.head
        [found] = await seen.find("s-1", writer.head.epoch, "message", key="n3")
        assert found.seq == head + 8
        [found] = await seen.find("s-1", writer.head.epoch, "message", key="a1")
        assert b'"a1"' in found.body
        assert await seen.delta_bytes("s-1") > 0


async def test_the_bytes_of_deltas_are_counted_as_they_come_and_go(
    store: SessionStore, second_path: Reopen
) -> None:
    writer = await talk(store)
    # Notes among deltas may be counted with them.
    deltas = sum(
        len(to_line(record.body))
        for record in await everything(store, "s-1")
        if codec.decode(record.body)["type"] in DELTA_TYPES
    )
    async for seen in both_paths(store, second_path):
        assert deltas <= await seen.delta_bytes("s-1") < 2 * deltas
        held = await seen.delta_bytes("s-1")
        assert await seen.holding_deltas(held) == {"s-1": writer.head.last_activity_at}
        assert await seen.holding_deltas(held + 1) == {}
    await seen.compact("s-1", writer.head.epoch, 30)
    assert 0 < await seen.delta_bytes("s-1") < deltas
    assert await seen.delta_bytes("nobody") == 0


async def test_a_packed_session_is_not_compacted_and_strangers_are_refused(
    store: SessionStore,
) -> None:
    writer = await talk(store, runs=1)
    with pytest.raises(Conflict):
        await store.compact("nobody", 1, 10)
    with pytest.raises(Conflict):
        await store.compact("s-1", writer.head.epoch + 1, 10)
    before = await everything(store, "s-1")
    await store.pack("s-1", writer.head.epoch)
    assert await store.compact("s-1", writer.head.epoch, 100) == 0
    assert await everything(store, "s-1") == before


async def test_a_compacted_session_is_packed_unpacked_and_deleted_like_any_other(
    store: SessionStore, second_path: Reopen
) -> None:
    """R9."""
    writer = await talk(store)
    epoch = writer.head.epoch
    await store.compact("s-1", epoch, 40)
    before = await everything(store, "s-1")
    await store.pack("s-1", epoch)
    fresh = await second_path(store)
    assert await everything(fresh, "s-1") == before
    await fresh.unpack("s-1", epoch)
    assert await everything(fresh, "s-1") == before
    await fresh.compact("s-1", epoch, writer.head.seq)
    assert await fresh.delete("s-1", epoch) > 0
    assert await fresh.load("s-1") is None


async def test_readers_and_writers_go_on_while_a_session_is_compacted(
    store: SessionStore, second_path: Reopen
) -> None:
    """R2, R7: everything that stays is met exactly once and in order, appends are not held up."""
    writer = await talk(store, runs=20)
    epoch = writer.head.epoch
    done = anyio.Event()

    async def read() -> None:
        while not done.is_set():
            found: list[int] = []
            after = 0
            messages = 0
            while page := await store.read("s-1", epoch, after, limit=23, max_bytes=1 << 20):
                found += [record.seq for record in page]
                after = page[-1].seq
                messages += types(page).count("message")
                await anyio.lowlevel.checkpoint()
            assert found == sorted(set(found))
            assert messages >= 40
            said = await store.find("s-1", epoch, "message", key="a7")
            assert len(said) == 1

    async def write() -> None:
        for n in range(40):
            await committed(store, writer.commit(token("during"), note=f"d{n}"))
            await committed(store, writer.commit(message(f"d{n}")))

    with anyio.fail_after(DEADLINE_SECONDS):
        async with anyio.create_task_group() as tasks:
            for _ in range(3):
                tasks.start_soon(read)
            tasks.start_soon(write)
            for upto in range(0, 300, 25):
                await store.compact("s-1", epoch, upto)
            done.set()
    async for seen in both_paths(store, second_path):
        assert await seen.load("s-1") == writer.head
        said = await seen.find("s-1", epoch, "message")
        assert len(said) == 80
        assert len(await seen.find("s-1", epoch, "note")) == 160
        assert types(await everything(seen, "s-1")).count("message") == 80


@pytest.mark.parametrize("seed", range(8))
async def test_a_client_at_any_position_sees_the_same_screen_with_and_without_compaction(
    store: SessionStore, seed: int
) -> None:
    """R2: whatever it has shown when it comes back, and however much has left the log since."""
    chance = random.Random(seed)
    writer = Writer("s-1", store.next_epoch())
    await committed(store, writer.commit())
    runs = chance.randint(2, 6)
    ended = 0
    for n in range(runs):
        events = random_run(chance, f"run_{n}", ends=n < runs - 1 or chance.random() < 0.5)
        while events:
            taken = chance.randint(1, 5)
            await committed(store, writer.commit(*events[:taken]))
            del events[:taken]
        if writer.head.active is None:
            ended = writer.head.seq
    whole = [codec.decode(record.body) for record in await everything(store, "s-1")]
    screens = [Screen()]
    for event in whole:
        screens.append(screens[-1].copy())
        screens[-1].show(event)
    await store.compact("s-1", writer.head.epoch, chance.randint(0, ended))
    for position, shown in enumerate(screens):
        screen = shown.copy()
        after = position
        limit = chance.randint(1, 30)
        while page := await store.read(
            "s-1", writer.head.epoch, after, limit=limit, max_bytes=1 << 20
        ):
            for record in page:
                screen.show(codec.decode(record.body))
            after = page[-1].seq
        assert screen == screens[-1]
