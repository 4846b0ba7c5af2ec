"""R1, R3, R8, R10: every file system call fails once, or from then on."""

import asyncio
import errno
from collections.abc import Callable
from pathlib import Path

import pytest

from bamboo_gateway.domain.errors import BambooError, Conflict, StorageFailed, StorageFull
from bamboo_gateway.storage.base import StoreUnusable
from bamboo_gateway.storage.jsonl.store import JsonlStore
from tests.storage.conftest import Opener
from tests.storage.faults import FaultyFileSystem, abandon
from tests.storage.test_crashes import History, check
from tests.storage.writing import (
    StepClock,
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


async def persistent_script(store: JsonlStore, history: History) -> None:
    """Work despite failures: go back to the durable head and try again."""
    one = await created(store, history, "one")
    for number in range(3):
        said = message(f"m{number}")
        one = await insist(store, history, one, lambda w, said=said: w.commit(said))  # type: ignore[misc]
        one = await insist(store, history, one, lambda w: w.commit(token(), note="k"))
        if number != 1:
            await store.checkpoint()
    two = await created(store, history, "Two")
    two = await insist(store, history, two, lambda w: w.commit(message("m9")))
    while True:
        try:
            await history.delete(store, two)
        except (StorageFailed, StorageFull):
            if await store.load("Two") is None:
                history.deleted.add(("Two", two.head.epoch))
                break
        else:
            break
    await store.release("one")
    await insist(store, history, one, lambda w: w.commit(run_start("r"), complete("r")))


async def created(store: JsonlStore, history: History, session_id: str) -> Writer:
    while True:
        writer = Writer(session_id, store.next_epoch())
        try:
            await history.commit(store, writer.commit())
        except (StorageFailed, StorageFull):
            history.given[session_id, writer.head.epoch].pop()
            continue
        return writer


async def insist(
    store: JsonlStore, history: History, writer: Writer, make: Callable[[Writer], object]
) -> Writer:
    while True:
        head = await store.load(writer.head.id)
        assert head is not None
        writer = Writer.of(head)
        try:
            await history.commit(store, make(writer))  # type: ignore[arg-type]
        except (StorageFailed, StorageFull):
            history.given[head.id, head.epoch].pop()
            continue
        return writer


async def run(root: Path, fs: FaultyFileSystem) -> History | None:
    history = History()
    store = JsonlStore(root, StepClock(), fs=fs)
    try:
        await store.open()
    except StoreUnusable:
        return None
    await persistent_script(store, history)
    await store.aclose()
    history.freeze()
    return history


@pytest.mark.parametrize("number", [errno.EIO, errno.ENOSPC, errno.EMFILE], ids=errno.errorcode.get)
def test_each_file_system_call_may_fail_once_and_the_store_goes_on(
    tmp_path: Path, number: int
) -> None:
    whole = FaultyFileSystem()
    assert asyncio.run(run(tmp_path / "whole", whole)) is not None
    assert whole.calls > 60
    for failing in range(1, whole.calls + 1):
        root = tmp_path / f"{failing}" / "data"
        fs = FaultyFileSystem(lambda n, *_, failing=failing: number if n == failing else None)
        history = asyncio.run(run(root, fs))
        try:
            if history is not None:
                asyncio.run(check(root, history))
        except BaseException as error:
            error.add_note(f"call {failing} failed")
            raise


async def test_a_failed_sync_refuses_the_batch_and_the_commits_built_on_it(opener: Opener) -> None:
    """R1, R3: nobody ever sees a refused commit; its seqs go to other content."""
    failing = False

    def should_fail(_: int, operation: str, path: str) -> int | None:
        return errno.EIO if failing and operation == "sync" and "journal" in path else None

    store = await opener(FaultyFileSystem(should_fail))
    writer = Writer("s-1", store.next_epoch())
    await committed(store, writer.commit(message("m1")))
    durable = writer.head.copy()
    failing = True
    answers = [append(store, writer.commit(token(f"lost{n}"))) for n in range(5)]
    errors = [await answer_to(answer) for answer in answers]
    assert isinstance(errors[0], StorageFailed)
    assert all(isinstance(error, StorageFailed | Conflict) for error in errors)
    failing = False
    assert await store.load("s-1") == durable
    again = Writer.of(durable)
    await committed(store, again.commit(token("kept")))
    await abandon(store)
    fresh = await opener()
    bodies = [record.body for record in await everything(fresh, "s-1")]
    assert len(bodies) == 3
    assert b"kept" in bodies[2]
    assert not any(b"lost" in body for body in bodies)


async def test_a_segment_whose_sync_failed_gets_no_more_records(opener: Opener) -> None:
    written: list[str] = []
    failed: list[str] = []

    def should_fail(_: int, operation: str, path: str) -> int | None:
        if "journal-" in path and operation == "sync" and not failed:
            failed.append(path)
            return errno.EIO
        if operation == "write" and failed:
            written.append(path)
        return None

    fs = FaultyFileSystem()
    store = await opener(fs)
    writer = Writer("s", store.next_epoch())
    await committed(store, writer.commit())
    fs.should_fail = should_fail
    with pytest.raises(StorageFailed):
        await committed(store, writer.commit(message("lost")))
    head = await store.load("s")
    assert head is not None
    await committed(store, Writer.of(head).commit(message("kept")))
    # Its pages may never have reached the disk, and a later sync would not say so.
    assert failed
    assert failed[0] not in written
    assert any("journal-" in path for path in written)


class SmallDisk(FaultyFileSystem):
    """A disk that, while full, fails preallocations and writes that extend a file."""

    is_full = False

    def __init__(self) -> None:
        super().__init__(self._refuse)

    def _refuse(self, _: int, operation: str, path: str) -> int | None:
        if not self.is_full or operation not in ("allocate", "write"):
            return None
        if operation == "write" and ("journal-" in path or path.endswith("LOCK")):
            return None
        return errno.ENOSPC


async def test_a_full_disk_refuses_writes_but_not_endings_deletions_and_reads(
    opener: Opener, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("bamboo_gateway.storage.jsonl.journal.segments.SEGMENT_BYTES", 20_000)
    disk = SmallDisk()
    store = await opener(disk)
    writer = Writer("s-1", store.next_epoch())
    other = Writer("s-2", store.next_epoch())
    await committed(store, other.commit(message("m1")))
    await committed(store, writer.commit(run_start("run_1")))
    assert await store.checkpoint()
    disk.is_full = True
    error: BambooError | None = None
    head = writer.head
    for _ in range(200):
        head = writer.head.copy()
        error = await answer_to(append(store, writer.commit(token("x" * 200))))
        if error is not None:
            break
    assert isinstance(error, StorageFull)
    writer = Writer.of(head)
    assert len(await seqs(store, "s-1")) == head.seq
    ending = writer.commit(complete("run_1"), reserve=True)
    await committed(store, ending)
    assert await store.delete("s-2", other.head.epoch) > 0
    assert not await store.checkpoint()
    assert await store.load("s-2") is None
    disk.is_full = False
    await committed(store, writer.commit(message("again")))
    assert await store.checkpoint()
    await store.aclose()
    fresh = await opener()
    assert await seqs(fresh, "s-1") == list(range(1, head.seq + 3))
    assert await fresh.unfinished() == []
    assert await fresh.load("s-2") is None


async def test_the_reserve_lasts_when_no_segment_can_be_made_at_all(opener: Opener) -> None:
    disk = SmallDisk()
    store = await opener(disk)
    writer = Writer("s-1", store.next_epoch())
    await committed(store, writer.commit(run_start("run_1")))
    assert await store.checkpoint()
    await committed(store, writer.commit(token()))
    disk.is_full = True

    def give_up_the_segment() -> None:
        # With one to use again there would be room.
        store._journal.spares.clear()
        store._journal.abandon()

    await store._committer.send(give_up_the_segment)
    error = await answer_to(append(store, writer.commit(token())))
    assert isinstance(error, StorageFull)
    head = await store.load("s-1")
    assert head is not None
    await committed(store, Writer.of(head).commit(complete("run_1"), reserve=True))
    await abandon(store)
    disk.is_full = False
    fresh = await opener()
    assert await seqs(fresh, "s-1") == list(range(1, head.seq + 2))


async def test_an_unusable_directory_is_reported_in_one_line(
    tmp_path: Path, clock: StepClock
) -> None:
    (tmp_path / "file").write_text("", encoding="utf-8")
    store = JsonlStore(tmp_path / "file" / "data", clock)
    with pytest.raises(StoreUnusable) as caught:
        await store.open()
    assert "\n" not in caught.value.detail
