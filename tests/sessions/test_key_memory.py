"""Keys that have an answer: the log keeps it, and memory what a repeat is known by (R11)."""

from collections.abc import AsyncIterator
from pathlib import Path

import anyio
import pytest

from bamboo_gateway.domain.errors import StorageFailed
from bamboo_gateway.domain.limits import EVENT_QUEUE_BYTES_MAX
from bamboo_gateway.sessions import registry
from bamboo_gateway.sessions.commands import Idempotency, NewMessage, NewSession, Outcome
from bamboo_gateway.sessions.idempotency import request_key
from bamboo_gateway.storage.factory import make_store
from bamboo_gateway.storage.marks import Mark, mark_of
from tests.support.clocks import FakeClock
from tests.support.gateways import (
    DEADLINE_SECONDS,
    ME,
    Gateway,
    crash,
    eventually,
    gateway,
    settings_of,
)
from tests.support.held import held_bytes

LARGE = 200_000


async def add(gate: Gateway, name: str, session_id: str = "s", size: int = LARGE) -> Outcome:
    """Add a message whose answer is as large, under a key."""
    message = NewMessage("user", f"{name} " + "x" * size)
    idem = Idempotency(name, "POST /messages", name)
    return await gate.manager.add_messages(ME, session_id, [message], idem)


async def made(gate: Gateway, *names: str) -> None:
    for name in names:
        await gate.manager.create_session(ME, NewSession(id=name))


async def test_kept_answers_take_no_memory_and_a_repeat_gets_the_first_one(gate: Gateway):
    await made(gate, "s")
    first = [await add(gate, f"k{number}") for number in range(20)]
    # The ring of recent frames is bounded by itself.
    assert held_bytes(gate.live()) < EVENT_QUEUE_BYTES_MAX + LARGE
    for forgotten in (False, True):
        if forgotten:
            gate.live().keys.forget()
        for number in range(20):
            repeat = await add(gate, f"k{number}")
            assert repeat.replayed
            assert repeat.answer == first[number].answer
    assert held_bytes(gate.live()) < EVENT_QUEUE_BYTES_MAX + LARGE
    async with gateway(await crash(gate), clock=gate.clock) as again:
        assert (await add(again, "k7")).answer == first[7].answer
        assert len(await again.messages()) == 20
    gate.store.release_appends()


async def test_an_answer_that_cannot_be_read_is_said_and_nothing_is_done_twice(gate: Gateway):
    await made(gate, "s")
    first = await add(gate, "k")
    gate.store.fail("find", StorageFailed("The disk is broken."))
    with pytest.raises(StorageFailed):
        await add(gate, "k")
    repeat = await add(gate, "k")
    assert (repeat.replayed, repeat.answer) == (True, first.answer)
    assert len(await gate.messages()) == 1


def counted(gate: Gateway) -> int:
    """Return how many keys are counted, which has to be as many as there are."""
    sessions = gate.manager._registry
    assert sessions._key_count.keys == sum(len(live.keys._kept or ()) for live in sessions.sessions)
    return sessions._key_count.keys


async def test_keys_in_memory_are_bounded_in_all_and_those_that_leave_are_still_known(
    gate: Gateway, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(registry, "KEYS_IN_MEMORY_MAX", 10)
    names = ["a", "b", "c", "d"]
    await made(gate, *names)
    for name in names:
        for number in range(6):
            await add(gate, str(number), name, 10)
        assert counted(gate) <= 10
    assert not gate.live("a").keys.is_loaded
    assert gate.live("d").keys.is_loaded
    for name in names:
        for number in range(6):
            assert (await add(gate, str(number), name, 10)).replayed
            assert counted(gate) <= 10
        assert len((await gate.manager.messages(ME, name, limit=1000)).messages) == 6
    for name in names:
        await gate.manager.delete_session(ME, name)
    assert counted(gate) == 0


async def test_keys_of_a_session_at_work_stay(gate: Gateway, monkeypatch: pytest.MonkeyPatch):
    """What is in flight is not in the log yet: read from there, it would be done twice."""
    monkeypatch.setattr(registry, "KEYS_IN_MEMORY_MAX", 1)
    await made(gate, "a", "b")
    gate.store.hold_appends()
    outcomes: list[Outcome] = []

    async def one(name: str, session_id: str) -> None:
        outcomes.append(await add(gate, name, session_id, 10))

    left = anyio.CancelScope()

    async def leave() -> None:
        with left:
            await one("k", "a")

    with anyio.fail_after(DEADLINE_SECONDS):
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(leave)
            await eventually(lambda: gate.store.held == 1)
            left.cancel()  # the client has left, and the commit is on its way
            await eventually(lambda: not gate.live("a").users)
            tasks.start_soon(one, "other", "b")
            await eventually(lambda: gate.store.held == 2)
            assert gate.live("a").keys.is_loaded
            tasks.start_soon(one, "k", "a")
            gate.store.release_appends()
    assert sorted(outcome.replayed for outcome in outcomes) == [False, True]
    assert len((await gate.manager.messages(ME, "a", limit=10)).messages) == 1


async def test_lines_go_on_under_their_key_though_the_keys_were_read_again(gate: Gateway):
    await made(gate, "s")

    def line(number: int) -> bytes:
        return b'{"type":"custom","name":"x","value":%d}' % number

    async def lines(count: int) -> AsyncIterator[list[bytes]]:
        for number in range(count):
            yield [line(number)]
            gate.live().keys.forget()

    async def post(count: int) -> Outcome:
        idem = Idempotency("k", "POST /events", "")
        return await gate.manager.append_event_lines(ME, "s", lines(count), idem)

    await post(3)
    assert (await post(5)).answer["count"] == 5
    assert (await post(5)).replayed
    values = [event["value"] for event in await gate.log() if event["type"] == "custom"]
    assert values == [0, 1, 2, 3, 4]


@pytest.mark.parametrize("storage_url", ["memory:", "jsonl:"])
async def test_the_store_finds_a_kept_answer_by_the_digest_of_its_key(
    storage_url: str, tmp_path: Path
):
    """`Mark` promises this key for the mark of a commit, and for a mark made of a stored line."""
    settings = settings_of(storage_url=storage_url, data_dir=tmp_path)
    idem = Idempotency("k", "POST /messages", "body")
    key = request_key(ME, idem)
    assert key is not None
    digest = key.digest
    store = make_store(settings, FakeClock())
    await store.open()
    async with gateway(store) as gate:
        await made(gate, "s")
        await gate.manager.add_messages(ME, "s", [NewMessage("user", "hi")], idem)
        epoch = gate.live("s").epoch
    [note] = await store.find("s", epoch, "note", key=digest)
    assert mark_of(note.body, note.seq) == Mark("note", digest, note.seq)
    await store.aclose()
    if storage_url == "jsonl:":
        # Without an index, the store makes all marks of the stored lines.
        store = make_store(settings.model_copy(update={"index_enabled": False}), FakeClock())
        await store.open()
        assert await store.find("s", epoch, "note", key=digest) == [note]
        assert await store.find("s", epoch, "note", key="idempotency") == []
        await store.aclose()


@pytest.mark.parametrize(
    "body",
    [
        b'{"note":"idempotency","key":"k1","time":1,"body":"b","answer":{"key":"other"}}',
        b'{"note":"idempotency","key":"k\\u0031","time":1,"body":"b","answer":{}}',
        b'{"note":"idempotency","time":1,"key":"k1"}',
    ],
)
def test_a_note_is_named_by_its_key_however_it_is_written(body: bytes) -> None:
    assert mark_of(body, 7) == Mark("note", "k1", 7)
