"""R2, R3, R9: the store crashes at every change of each step that swaps a session's files.

The steps are creating with a history, packing, unpacking, compacting, and adding many events.

After any change to the disk, and whatever part of it the disk kept, the session is whole: as it was
before the step, or as it is after it. An acknowledged step is always complete.
"""

import asyncio
import copy
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any, Self

import pytest
from typing_extensions import override

from bamboo_gateway.domain import codec
from bamboo_gateway.domain.errors import Conflict, StorageFailed, StorageFull
from bamboo_gateway.domain.events import DELTA_TYPES
from bamboo_gateway.domain.projections import fold
from bamboo_gateway.domain.sessions import SessionHead
from bamboo_gateway.storage.base import StoreUnusable
from bamboo_gateway.storage.jsonl import bulk_append
from bamboo_gateway.storage.jsonl.store import JsonlStore
from tests.contract.test_session_store_creation import CREATED, History
from tests.storage.faults import (
    FaultyFileSystem,
    Image,
    VolatileFileSystem,
    _Node,
    abandon,
    files_of,
)
from tests.storage.writing import (
    StepClock,
    Writer,
    bodies_of,
    committed,
    complete,
    everything,
    message,
    run_start,
    token,
)


@pytest.fixture(autouse=True)
def all_through_a_copy(monkeypatch: pytest.MonkeyPatch) -> None:
    """Make even small extensions copy the log aside."""
    monkeypatch.setattr(bulk_append, "COMMIT_BYTES_MAX", 100)


class RenamingFileSystem(VolatileFileSystem):
    """Rename as journaling file systems do: in one step, durable with either directory."""

    def __init__(self, root: Path, crash_at: int | None = None) -> None:
        super().__init__(root, crash_at)
        self._renamed: list[tuple[Path, Path, _Node]] = []

    @override
    def rename(self, source: Path, target: Path) -> None:
        with self._lock:
            node = self._names.get(source)
            super().rename(source, target)
            if node is not None:
                self._renamed.append((source, target, node))

    @override
    def sync_directory(self, path: Path) -> None:
        with self._lock:
            super().sync_directory(path)
            pending, self._renamed = self._renamed, []
            for source, target, node in pending:
                if path not in (source.parent, target.parent):
                    self._renamed.append((source, target, node))
                    continue
                if self._durable_names.get(source) is node:
                    del self._durable_names[source]
                if self._names.get(target) is node:
                    self._durable_names[target] = node

    @override
    def take_image(self) -> Image:
        image = super().take_image()
        # As it is now: the same file may be another segment of the journal by the end.
        renamed = [(source, target, node.durable) for source, target, node in self._renamed]
        image.renamed = renamed  # type: ignore[attr-defined]
        return image


def restore(image: Image, root: Path, *, power_lost: bool, seed: int | None = None) -> None:
    chance = random.Random(seed) if seed is not None else None
    image.restore(root, power_lost=power_lost, chance=chance)
    if power_lost:
        for source, target, durable in image.renamed:  # type: ignore[attr-defined]
            content = target.read_bytes() if target.exists() else b""
            if not source.exists() and content[:64] != durable[:64]:
                source.write_bytes(durable)


class Told:
    """The answers that the script got, in order; `frozen` are those before the crash."""

    def __init__(self) -> None:
        self.steps: list[str] = []
        self.frozen: list[str] | None = None
        self.expected: dict[str, list[bytes]] = {}
        self.given: dict[str, int] = {}
        self.at_once: list[tuple[int, int]] = []

    def at_crash(self) -> Self:
        """Return what was answered until now, beside what is requested until the end."""
        crashed = copy.copy(self)
        crashed.frozen = list(self.steps)
        return crashed


async def script(store: JsonlStore, told: Told) -> None:
    """Each step changes the files of a session; only events are added."""
    chat = Writer("Chat", store.next_epoch())
    lines: list[bytes] = []

    async def say(*events: dict[str, Any], note: str | None = None) -> None:
        commit = chat.commit(*events, note=note)
        lines.extend(bodies_of(commit))
        told.expected["Chat"] = list(lines)
        await committed(store, commit)
        told.steps.append(f"said {len(lines)}")

    async def add(*events: dict[str, Any], note: str) -> None:
        """Publish the events at once, through a copy of the log: see `bulk_append`."""
        commit = chat.commit(*events, note=note)
        lines.extend(bodies_of(commit))
        told.expected["Chat"] = list(lines)
        told.at_once.append((commit.first_seq - 1, chat.head.seq))
        async with store.extension("Chat", chat.head.epoch, commit.first_seq - 1) as extension:
            for event in commit.events:
                await extension.write([event])
            await extension.write((), commit.notes)
            await extension.publish(chat.head)
        told.steps.append(f"said {len(lines)}")

    await say(run_start("run_1"), token("a"), token("b"), note="k1")
    await say(token("c"), message("m1", "x" * 300), complete("run_1"))
    fork = History("Fork", store.next_epoch())
    async with store.creation("Fork", fork.head.epoch) as creation:
        await creation.write(*fork.page(CREATED, message("f1")))
        await creation.write(*fork.page(message("f2"), note="k2"))
        told.expected["Fork"] = list(fork.bodies)
        await creation.publish(fork.head)
    told.steps.append("forked")
    epoch = chat.head.epoch
    await store.compact("Chat", epoch, 4)
    told.steps.append("compacted 4")
    await say(token("d"), message("m2"))
    await add(message("a1", "y" * 300), message("a2", "y" * 300), note="k3")
    await store.pack("Fork", fork.head.epoch)
    await store.checkpoint()
    await say(token("e"), message("m3"))
    await store.compact("Chat", epoch, chat.head.seq)
    told.steps.append(f"compacted {chat.head.seq}")
    await store.release("Chat")
    await store.pack("Chat", epoch)
    await store.unpack("Fork", fork.head.epoch)
    await store.checkpoint()
    await store.unpack("Chat", epoch)
    await add(message("a3", "y" * 300), message("a4"), note="k4")
    await say(message("m4"), token("f"))
    await store.pack("Fork", fork.head.epoch)
    told.steps.append("deleting Fork")
    await store.delete("Fork", fork.head.epoch)
    told.steps.append("deleted Fork")
    await say(message("m5"))


async def crashes(root: Path) -> list[tuple[Image, Told]]:
    """Run the script; return what each crash leaves, from the first change to the last."""
    fs, told = RenamingFileSystem(root), Told()
    found: list[tuple[Image, Told]] = []
    fs.before_change = lambda: found.append((fs.take_image(), told.at_crash()))
    store = JsonlStore(root, StepClock(), fs=fs)
    await store.open()
    await script(store, told)
    await store.aclose()
    return found


async def check(root: Path, told: Told) -> None:
    steps = told.frozen or []
    store = JsonlStore(root, StepClock(), fs=RenamingFileSystem(root))
    report = await store.open()
    try:
        assert report.damaged == []
        said = max([int(s.split()[1]) for s in steps if s.startswith("said")], default=0)
        compacted = max([int(s.split()[1]) for s in steps if s.startswith("compacted")], default=0)
        await check_chat(store, told.expected.get("Chat", []), said, compacted)
        head = await store.load("Chat")
        assert head is None or not any(a < head.seq < b for a, b in told.at_once)
        await check_fork(store, told.expected.get("Fork", []), steps)
        for session_id in list(store._catalog.entries):
            await check_going_on(store, session_id)
    finally:
        await abandon(store)


async def check_chat(store: JsonlStore, given: list[bytes], said: int, compacted: int) -> None:
    head = await store.load("Chat")
    if head is None:
        assert said == 0
        return
    bodies = [record.body for record in await everything(store, "Chat")]
    assert head.seq >= said
    whole = given[: head.seq]
    missing = [codec.decode(body) for body in whole if body not in set(bodies)]
    # In order, nothing twice, nothing else: deltas may have gone, and those that were said to.
    assert bodies == [body for body in whole if body in set(bodies)]
    assert all(event["type"] in DELTA_TYPES for event in missing)
    for body in bodies[:-1]:
        event = codec.decode(body)
        assert event["type"] not in DELTA_TYPES or event["seq"] > min(compacted, head.seq - 1)
    folded = SessionHead("Chat", head.epoch)
    for body in whole:
        fold(folded, codec.decode(body))
    assert head == folded
    messages = [b for b in whole if b.startswith(b'{"type":"message"')]
    found = await store.find("Chat", head.epoch, "message")
    assert [record.body for record in found] == messages
    assert len(await store.find("Chat", head.epoch, "note", key="k1")) == 1


async def check_fork(store: JsonlStore, given: list[bytes], steps: list[str]) -> None:
    head = await store.load("Fork")
    if head is None:
        assert "forked" not in steps or "deleting Fork" in steps
        return
    assert "deleted Fork" not in steps
    assert [record.body for record in await everything(store, "Fork")] == given
    assert len(await store.find("Fork", head.epoch, "message")) == 2
    assert len(await store.find("Fork", head.epoch, "note", key="k2")) == 1


async def check_going_on(store: JsonlStore, session_id: str) -> None:
    head = await store.load(session_id)
    assert head is not None
    await store.unpack(session_id, head.epoch)
    writer = Writer.of(head)
    await committed(store, writer.commit(token("after"), message("after")))
    await store.compact(session_id, head.epoch, head.seq + 2)
    await store.pack(session_id, head.epoch)
    [found] = await store.find(session_id, head.epoch, "message", key="after")
    assert found.seq == head.seq + 2
    assert await store.load(session_id) == writer.head


WAYS: list[dict[str, Any]] = [
    {"power_lost": False},
    {"power_lost": True},
    {"power_lost": True, "seed": 1},
]


@pytest.mark.parametrize("part", range(6))
def test_a_crash_after_any_disk_change_leaves_the_old_or_the_new_files_whole(
    tmp_path: Path, part: int
) -> None:
    root = tmp_path / "data"
    found = asyncio.run(crashes(root))
    assert len(found) > 150
    seen = set()
    # Neighbours leave the same files most often; what is the same, with the same promises, is
    # checked once.
    for crash_at in range(len(found) * part // 6, len(found) * (part + 1) // 6):
        image, told = found[crash_at]
        for way in WAYS:
            restore(image, root, **way)
            left = (files_of(root), str(told.frozen))
            if left in seen:
                continue
            seen.add(left)
            try:
                asyncio.run(check(root, told))
            except BaseException as error:
                error.add_note(f"crash at change {crash_at}, {way}")
                raise


def test_a_crash_during_recovery_changes_nothing(tmp_path: Path) -> None:
    root = tmp_path / "data"
    found = asyncio.run(crashes(root))
    for crash_at in range(5, len(found), 17):
        image, told = found[crash_at]
        restore(image, root, power_lost=True, seed=crash_at)
        asyncio.run(recover_in_pieces(root))
        try:
            asyncio.run(check(root, told))
        except BaseException as error:
            error.add_note(f"crash at change {crash_at}")
            raise


async def recover_in_pieces(root: Path) -> None:
    """Recover repeatedly; each time the power is lost a little later."""
    for crash_at in range(1, 60, 3):
        fs = RenamingFileSystem(root, crash_at)
        store = JsonlStore(root, StepClock(), fs=fs)
        await store.open()
        await abandon(store)
        if fs.image is None:
            return
        restore(fs.image, root, power_lost=True, seed=crash_at)


async def failing_script(store: JsonlStore) -> None:
    """Run each step until it succeeds, and check the store after each failure."""
    chat = Writer("Chat", store.next_epoch())
    for event in (run_start("run_1"), token("a"), message("m1"), complete("run_1")):
        chat = await insist_on_saying(store, chat, event)
    epoch = chat.head.epoch
    fork = History("Fork", store.next_epoch())
    first, second = fork.page(CREATED, message("f1")), fork.page(message("f2"), note="k2")

    async def create() -> None:
        async with store.creation("Fork", fork.head.epoch) as creation:
            await creation.write(*first)
            await creation.write(*second)
            await creation.publish(fork.head)

    assert await insist(create) or await store.load("Fork") == fork.head
    more = Writer.of(chat.head)
    commit = more.commit(message("a1", "y" * 300), message("a2", "y" * 300), note="k3")

    async def add() -> None:
        async with store.extension("Chat", epoch, commit.first_seq - 1) as extension:
            for event in commit.events:
                await extension.write([event])
            await extension.write((), commit.notes)
            await extension.publish(more.head)

    await insist(add, lambda: look(store, fork))
    assert await store.load("Chat") == more.head
    chat = more
    steps: list[Callable[[], Any]] = [
        lambda: store.compact("Chat", epoch, 100),
        lambda: store.pack("Fork", fork.head.epoch),
        lambda: store.pack("Chat", epoch),
        lambda: store.checkpoint(),
        lambda: store.unpack("Chat", epoch),
    ]
    for step in steps:
        await insist(step, lambda: look(store, fork))
    chat = await insist_on_saying(store, chat, message("m2"))
    await look(store, fork)


async def look(store: JsonlStore, fork: History) -> None:
    """Every way to read works right after a step has failed."""
    assert [record.body for record in await everything(store, "Fork")] == fork.bodies
    assert len(await store.find("Fork", fork.head.epoch, "message")) == 2
    bodies = [record.body for record in await everything(store, "Chat")]
    assert b"m1" in b"".join(bodies)
    head = await store.load("Chat")
    assert head is not None
    [said] = await store.find("Chat", head.epoch, "message", key="m1")
    assert said.seq == 4


async def insist(step: Callable[[], Any], after_failure: Callable[[], Any] | None = None) -> bool:
    while True:
        try:
            await step()
        except (StorageFailed, StorageFull):
            if after_failure is not None:
                await after_failure()
        except Conflict:
            # It was done although it failed to say so.
            return False
        else:
            return True


async def insist_on_saying(store: JsonlStore, writer: Writer, event: dict[str, Any]) -> Writer:
    while True:
        again = Writer.of(writer.head) if writer.created else Writer("Chat", store.next_epoch())
        try:
            await committed(store, again.commit(event))
        except (StorageFailed, StorageFull):
            continue
        return again


@pytest.mark.parametrize("number", [5, 28], ids=["EIO", "ENOSPC"])
def test_each_file_system_call_may_fail_once_and_a_retry_succeeds(
    tmp_path: Path, number: int
) -> None:
    async def run(root: Path, fs: FaultyFileSystem) -> None:
        store = JsonlStore(root, StepClock(), fs=fs)
        try:
            await store.open()
        except StoreUnusable:
            fs.should_fail = lambda *_: None
            store = JsonlStore(root, StepClock(), fs=fs)
            await store.open()
        await failing_script(store)
        seen = await summary(store)
        await store.aclose()
        again = JsonlStore(root, StepClock())
        await again.open()
        assert await summary(again) == seen
        assert list((root / "index" / "aside").iterdir()) == []
        await again.aclose()

    whole = FaultyFileSystem()
    asyncio.run(run(tmp_path / "whole", whole))
    assert whole.calls > 100
    for failing in range(1, whole.calls + 1):
        fs = FaultyFileSystem(lambda n, *_, failing=failing: number if n == failing else None)
        try:
            asyncio.run(run(tmp_path / str(failing), fs))
        except BaseException as error:
            error.add_note(f"call {failing} failed")
            raise


async def summary(store: JsonlStore) -> list[object]:
    return [
        (
            await store.load(name),
            await everything(store, name),
            name in await store.unpacked_archives(),
        )
        for name in sorted(store._catalog.entries)
    ]
