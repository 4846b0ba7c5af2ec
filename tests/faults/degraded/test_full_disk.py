"""R1, R3, R5: with a full disk reads work and nothing acknowledged is lost."""

import asyncio
import errno
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import pytest
from typing_extensions import override

from bamboo_gateway.domain.errors import StorageFailed, StorageFull
from bamboo_gateway.storage.base import StoreUnusable
from bamboo_gateway.storage.jsonl.index.catalog import Entry
from bamboo_gateway.storage.jsonl.index.catalog_file import CatalogFile
from bamboo_gateway.storage.jsonl.index.catalog_lines import EntryState
from bamboo_gateway.storage.jsonl.paths import Paths
from bamboo_gateway.storage.jsonl.store import JsonlStore
from bamboo_gateway.storage.reports import SessionQuery
from tests.faults.degraded.disks import FullDisk, findings, ids, turn
from tests.storage.conftest import Opener
from tests.storage.faults import FaultyFileSystem, abandon, write_out
from tests.storage.writing import (
    NOBODY,
    StepClock,
    Writer,
    answer_to,
    append,
    committed,
    complete,
    message,
    run_start,
    seqs,
)
from tests.support.logs import captured_logs

# What the sessions of a script have said in the end, as far as it was acknowledged.
Said = dict[str, list[str]]


async def talk(store: JsonlStore, said: Said) -> None:
    """Some sessions, with and without a checkpoint behind them, one with a run that goes on."""
    for name in ("old", "New", "gone"):
        writer = Writer(name, store.next_epoch())
        said[name] = []
        for number in range(3):
            await committed(store, writer.commit(message(f"m{number}", "x" * 300), note="k"))
            said[name].append(f"m{number}")
        if name == "old":
            await store.checkpoint()
    for name, last in (("gone", run_start("r")), ("old", message("m3"))):
        head = await store.load(name)
        assert head is not None
        await committed(store, Writer.of(head).commit(last))
    said["old"].append("m3")


async def check_said(store: JsonlStore, said: Said) -> None:
    for name, expected in said.items():
        assert await ids(store, name) == expected
    page = await store.query(SessionQuery(), NOBODY)
    assert sorted(head.id for head in page.heads) == sorted(said)


@pytest.mark.parametrize("end", ["stopped", "crashed"])
@pytest.mark.parametrize("when", ["from the end on", "from the start on"])
@pytest.mark.parametrize("index_enabled", [True, False])
async def test_a_gateway_starts_on_a_full_disk_and_goes_on_by_itself_when_there_is_room(
    opener: Opener, data_dir: Path, clock: StepClock, end: str, when: str, index_enabled: bool
) -> None:
    disk, said = FullDisk(), Said()
    store = await opener(disk, index_enabled=index_enabled)
    await talk(store, said)
    disk.is_full = when == "from the end on"
    await (store.aclose() if end == "stopped" else abandon(store))
    disk.is_full = True
    for _ in range(2):
        again = await opener(disk, index_enabled=index_enabled)
        await check_said(again, said)
        await abandon(again)
    with captured_logs() as logs:
        again = await opener(disk, index_enabled=index_enabled)
        epochs = {name: head.epoch for name in said if (head := await again.load(name))}
        for name in said:
            head = await again.load(name)
            assert head is not None
            refused = await answer_to(append(again, Writer.of(head).commit(message("no"))))
            if refused is None:
                said[name].append("no")  # there was room in the journal
            else:
                assert isinstance(refused, StorageFull)
        new = await answer_to(append(again, Writer("fresh", again.next_epoch()).commit()))
        if new is not None:
            assert isinstance(again.refusal, StorageFull)
            assert [line["event"] for line in logs].count("the disk is full") == 1
        else:
            said["fresh"] = []
        # R5: what the last process left open is closed from the reserve; deletions are taken.
        assert await again.unfinished() == ["gone"]
        head = await again.load("gone")
        assert head is not None
        await committed(again, Writer.of(head).commit(complete("r"), reserve=True))
        assert await again.delete("New", epochs["New"]) > 0
        del said["New"]
        await check_said(again, said)
        disk.is_full = False
        clock.ms += 60_000
        await turn(again)
        assert again.refusal is None
    for name in said:
        head = await again.load(name)
        assert head is not None
        await committed(again, Writer.of(head).commit(message("last")))
        said[name].append("last")
        assert head.epoch == epochs.get(name, head.epoch)
    assert await again.checkpoint()
    await check_said(again, said)
    await again.aclose()
    fresh = await opener(index_enabled=index_enabled)
    await check_said(fresh, said)
    assert await fresh.unfinished() == []
    await fresh.aclose()
    assert findings(data_dir) == []


async def test_epochs_given_on_a_full_disk_are_never_given_again(
    opener: Opener, clock: StepClock
) -> None:
    """R3."""
    disk = FullDisk()
    store = await opener(disk)
    await talk(store, Said())
    clock.ms += 1000
    late = Writer("late", store.next_epoch())
    await committed(store, late.commit(message("m")))
    await abandon(store)
    disk.is_full = True
    again = await opener(disk)
    clock.ms -= 5000  # as clocks do
    assert again.next_epoch() > late.head.epoch
    await abandon(again)


async def test_segments_kept_for_use_make_room_before_a_write_is_refused(opener: Opener) -> None:
    class Segments(FullDisk):
        """Full but for what the segments take that are kept."""

        @override
        def unlink(self, path: Path) -> None:
            super().unlink(path)
            self.is_full = self.is_full and "spare-" not in path.name

    disk = Segments()
    store = await opener(disk)
    writer = Writer("s", store.next_epoch())
    await committed(store, writer.commit(message("m0")))
    assert await store.checkpoint()
    await committed(store, writer.commit(message("m1")))
    assert await store.checkpoint()
    await turn(store)  # the committer takes the dropped segments after the checkpoint's answer
    assert store._journal.spares
    disk.is_full = True
    await committed(store, writer.commit(message("m2")))
    await write_out(store)
    await turn(store)
    await committed(store, writer.commit(message("m3")))
    assert not disk.is_full
    assert not store._journal.spares


def fails_from(first: int, last: int | None = None) -> Callable[[int, str, str], int | None]:
    """Make calls that need room fail from the nth on: all but removing and cutting."""

    def fault(number: int, operation: str, _: str) -> int | None:
        if operation in ("unlink", "truncate") or number < first:
            return None
        return errno.ENOSPC if last is None or number <= last else None

    return fault


async def start_and_stop(root: Path, disk: FaultyFileSystem, said: Said) -> int:
    """Open and close; return how many calls came before the end. What was opened can be read."""
    store = JsonlStore(root, StepClock(), fs=disk)
    try:
        await store.open()
    except StoreUnusable:
        return disk.calls
    begun = disk.calls
    try:
        for name, expected in said.items():
            assert await ids(store, name) == expected
        head = await store.load("old")
        assert head is not None
        with suppress(StorageFull, StorageFailed):
            await committed(store, Writer.of(head).commit(message(f"m{len(said['old'])}")))
            said["old"].append(f"m{len(said['old'])}")
    finally:
        await store.aclose()
    return begun


async def prepared(root: Path, *, is_clean: bool) -> Said:
    store, said = JsonlStore(root, StepClock()), Said()
    await store.open()
    await talk(store, said)
    await (store.aclose() if is_clean else abandon(store))
    return said


async def each_step(base: Path, *, is_clean: bool, lasts: bool, step: int) -> None:
    whole = FaultyFileSystem()
    root = base / "whole" / "data"
    await start_and_stop(root, whole, await prepared(root, is_clean=is_clean))
    refused = 0
    for nth in range(1, whole.calls + 1, step):
        root = base / str(nth) / "data"
        said = await prepared(root, is_clean=is_clean)
        disk = FaultyFileSystem(fails_from(nth, None if lasts else nth))
        try:
            begun = await start_and_stop(root, disk, said)
            refused += begun == disk.calls
            fresh = JsonlStore(root, StepClock())
            report = await fresh.open()
            assert report.damaged == []
            await check_said(fresh, said)
            await fresh.aclose()
            assert findings(root) == []
        except BaseException as error:
            error.add_note(f"call {nth} was the {'first' if lasts else 'one'} without room")
            raise
    # Only where not even the owner can be named is a start refused.
    assert refused <= 3


@pytest.mark.parametrize("lasts", [False, True], ids=["once", "from then on"])
@pytest.mark.parametrize("is_clean", [False, True], ids=["after a crash", "after a stop"])
@pytest.mark.parametrize("step", [3, pytest.param(1, marks=pytest.mark.slow)])
def test_the_disk_may_be_full_at_every_step_of_a_start_and_of_a_stop(
    tmp_path: Path, is_clean: bool, lasts: bool, step: int
) -> None:
    asyncio.run(each_step(tmp_path, is_clean=is_clean, lasts=lasts, step=step))


@pytest.mark.parametrize(("operation", "lsn"), [("rename", 5), ("sync_directory", 9)])
def test_a_catalog_that_could_not_be_made_anew_does_not_say_more_than_it_has(
    data_dir: Path, operation: str, lsn: int
) -> None:
    """R1: what it says is covered is not replayed."""
    disk, paths = FaultyFileSystem(), Paths(data_dir)
    for directory in paths.directories():
        disk.make_directory(directory)
    head = Writer("s", 1).commit(message("m")).head
    assert head is not None
    entry = Entry("s", 1)
    entry.set_head(head)
    file = CatalogFile(disk, paths, keeps_heads=True)
    file.start_anew([EntryState.of(entry)], 5, 1)
    disk.should_fail = lambda _, name, __: errno.ENOSPC if name == operation else None
    with pytest.raises(OSError, match="No space"):
        file.start_anew([EntryState.of(entry)], 9, 1)
    disk.should_fail = lambda *_: None
    file._repair_end()
    file.close()
    contents = CatalogFile(disk, paths, keeps_heads=True).load()
    assert (contents.problem, contents.lsn) == (None, lsn)
    assert contents.entries["s"].own_head() == head


async def test_a_full_disk_does_not_outlive_its_session(opener: Opener, clock: StepClock) -> None:
    """A session that is deleted while its log has no room leaves nothing that waits for it."""
    disk = FullDisk()
    store = await opener(disk)
    writer = Writer("s", store.next_epoch())
    await committed(store, writer.commit(message("m0")))
    disk.is_full = True
    await committed(store, writer.commit(message("m1", "x" * 500)))
    await write_out(store)
    assert list(store.unwritable()) == ["s"]
    assert await seqs(store, "s") == [1, 2, 3]
    await store.delete("s", writer.head.epoch)
    clock.ms += 60_000
    await turn(store)
    assert store.unwritable() == {}
    assert store.refusal is None
