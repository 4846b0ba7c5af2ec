"""Files after archiving and compaction, read by other means than the store."""

import tracemalloc
from pathlib import Path

import pytest
import zstandard
from typing_extensions import override

from bamboo_gateway.domain import codec
from bamboo_gateway.domain.errors import Conflict
from bamboo_gateway.storage.file_system import FileSystem
from bamboo_gateway.storage.jsonl import doctor
from bamboo_gateway.storage.jsonl.bundle import BLOCK_BYTES, BundleView
from bamboo_gateway.storage.jsonl.store import JsonlStore
from bamboo_gateway.storage.lines import is_intact, stored_lines
from tests.contract.test_session_store_creation import CREATED, History
from tests.storage.conftest import Opener
from tests.storage.faults import FaultyFileSystem, abandon, write_out
from tests.storage.writing import (
    StepClock,
    Writer,
    committed,
    complete,
    everything,
    message,
    run_start,
    seqs,
    token,
)
from tests.support.waiting import until_true


async def snapshots_made(store: JsonlStore, count: int) -> bool:
    made: bool = (await store.stats())["snapshots_total"] == count
    return made


async def long_session(
    store: JsonlStore, session_id: str = "Long", messages: int = 3000
) -> History:
    history = History(session_id, store.next_epoch())
    async with store.creation(session_id, history.head.epoch) as creation:
        await creation.write(*history.page(CREATED))
        for start in range(0, messages, 500):
            said = [message(f"m{n}", f"{n} " * 60) for n in range(start, start + 500)]
            await creation.write(*history.page(*said, note=f"k{start}"))
        await creation.publish(history.head)
    return history


def files(data_dir: Path, *directories: str) -> dict[str, bytes]:
    return {
        f"{directory}/{path.name}": path.read_bytes()
        for directory in directories
        for path in (data_dir / directory).iterdir()
        if path.is_file()
    }


async def test_unpacking_restores_exactly_the_bytes_that_were_packed(
    opener: Opener, data_dir: Path
) -> None:
    """R9."""
    store = await opener()
    history = await long_session(store)
    assert await store.checkpoint()
    # The checkpoint has begun a snapshot, and does not wait for it.
    await until_true(lambda: snapshots_made(store, 1))
    before = files(data_dir, "events", "index/marks")
    assert len(before) == 2
    assert files(data_dir, "sessions")
    await store.pack("Long", history.head.epoch)
    assert await store.checkpoint()
    assert files(data_dir, "events", "index/marks", "sessions") == {}
    assert list(files(data_dir, "archive")) == ["archive/%4Cong.zst"]
    await store.unpack("Long", history.head.epoch)
    assert files(data_dir, "events", "index/marks") == before
    assert [
        name for name in files(data_dir, "archive", "index/aside") if "spare-" not in name
    ] == []


async def test_the_zstd_tool_reads_the_log_in_a_bundle(opener: Opener, data_dir: Path) -> None:
    store = await opener()
    history = await long_session(store)
    await write_out(store)
    log = (data_dir / "events" / "%4Cong.jsonl").read_bytes()
    await store.pack("Long", history.head.epoch)
    bundle = (data_dir / "archive" / "%4Cong.zst").read_bytes()
    assert len(bundle) < len(log) / 3
    reader = zstandard.ZstdDecompressor().stream_reader(bundle, read_across_frames=True)
    assert reader.read(len(log) + 1) == log
    assert await store.size("Long") == (len(bundle), len(log))


class CountingFileSystem(FileSystem):
    read_bytes = 0

    @override
    def pread(self, fd: int, size: int, offset: int) -> bytes:
        data = super().pread(fd, size, offset)
        self.read_bytes += len(data)
        return data


async def test_reading_by_position_costs_about_a_block_and_not_the_bundle(
    opener: Opener, data_dir: Path
) -> None:
    """R11."""
    fs = CountingFileSystem()
    store = await opener(fs)
    history = await long_session(store, messages=10_000)
    epoch = history.head.epoch
    await store.pack("Long", epoch)
    size = await store.size("Long")
    assert size.original_bytes > 20 * BLOCK_BYTES
    for after in (0, 17, 5000, 9999):
        fs.read_bytes = 0
        [record] = await store.read("Long", epoch, after, limit=1, max_bytes=1)
        assert record.seq == after + 1
        assert fs.read_bytes < 2 * BLOCK_BYTES
    fs.read_bytes = 0
    found = await store.find("Long", epoch, "message", reverse=True, limit=50)
    assert [record.seq for record in found] == list(range(10_001, 9951, -1))
    assert fs.read_bytes < 2 * BLOCK_BYTES


async def test_a_lost_catalog_is_rebuilt_from_bundles_and_compacted_logs(
    opener: Opener, data_dir: Path
) -> None:
    """R10."""
    store = await opener()
    packed = await long_session(store, "packed", messages=1000)
    await store.pack("packed", packed.head.epoch)
    chat = Writer("chat", store.next_epoch())
    await committed(store, chat.commit(message("m1"), run_start("run_1")))
    await committed(store, chat.commit(*(token("x" * 50) for _ in range(50))))
    # A snapshot of the log as it was before: its offset means nothing in the compacted one.
    await store.release("chat")
    await committed(store, chat.commit(message("m2"), complete("run_1")))
    await store.compact("chat", chat.head.epoch, chat.head.seq)
    for n in range(60):
        await committed(store, chat.commit(message(f"later{n}", "y" * 40)))
    expected = {name: await everything(store, name) for name in ("packed", "chat")}
    await store.aclose()
    (data_dir / "index" / "catalog.jsonl").unlink()
    fresh = await opener()
    for name, records in expected.items():
        assert await everything(fresh, name) == records
    assert await fresh.load("packed") == packed.head
    assert await fresh.load("chat") == chat.head
    assert (await fresh.size("packed")).stored_bytes < (await fresh.size("packed")).original_bytes
    assert len(await fresh.find("packed", packed.head.epoch, "message")) == 1000


async def test_a_damaged_bundle_loses_only_the_damaged_lines_and_resets_readers(
    opener: Opener, data_dir: Path
) -> None:
    """R4, R10: readers of the old epoch get a reset; the intact lines go on under a new one."""
    store = await opener()
    history = await long_session(store)
    epoch = history.head.epoch
    await store.pack("Long", epoch)
    path = data_dir / "archive" / "%4Cong.zst"
    data = bytearray(path.read_bytes())
    view = BundleView(FileSystem(), path, epoch)
    at = view._places[2][0]
    view.close()
    data[at + 200] ^= 0xFF
    path.write_bytes(data)

    async def read_through() -> None:
        for after in range(0, history.head.seq, 100):
            await store.read("Long", epoch, after, limit=100, max_bytes=1 << 20)

    with pytest.raises(Conflict):
        await read_through()
    head = await store.load("Long")
    assert head is not None
    assert head.epoch > epoch
    kept = await seqs(store, "Long")
    assert 2000 < len(kept) < 3001
    assert kept == sorted(kept)
    assert head.seq == history.head.seq
    assert not path.exists()
    assert any(name.startswith("quarantine/log-%4Cong") for name in files(data_dir, "quarantine"))
    await abandon(store)
    fresh = await opener()
    assert await seqs(fresh, "Long") == kept
    again = await fresh.load("Long")
    assert again is not None
    assert again.position == head.position


async def test_deleting_returns_the_bytes_of_all_files_of_a_session(
    opener: Opener, data_dir: Path
) -> None:
    store = await opener()
    history = await long_session(store)
    assert await store.checkpoint()
    await store.release("Long")
    on_disk = sum(map(len, files(data_dir, "events", "sessions", "index/marks").values()))
    assert await store.delete("Long", history.head.epoch) == on_disk
    again = await long_session(store)
    await store.pack("Long", again.head.epoch)
    on_disk = sum(map(len, files(data_dir, "archive").values()))
    assert await store.delete("Long", again.head.epoch) == on_disk
    chat = Writer("chat", store.next_epoch())
    commits = [chat.commit(message("m1")), chat.commit(message("m2"))]
    for commit in commits:
        await committed(store, commit)
    # Not yet brought up: in the log, and in the journal.
    size = (await store.size("chat")).stored_bytes
    data = sum(len(stored_lines(commit.events, commit.notes)) for commit in commits)
    assert await store.delete("chat", chat.head.epoch) == size + data
    assert files(data_dir, "events", "archive", "sessions", "index/marks") == {}


async def test_disk_use_is_counted_by_kind(opener: Opener, data_dir: Path) -> None:
    """R11: the sum is counted as it changes, without reading the disk."""

    async def said(store: JsonlStore) -> dict[str, int]:
        stats = await store.stats()
        return {kind: stats[f"disk_bytes_{kind}"] for kind in ("logs", "archive", "snapshots")}

    def real() -> dict[str, int]:
        folders = {"logs": "events", "archive": "archive", "snapshots": "sessions"}
        return {
            kind: sum(map(len, files(data_dir, folder).values()))
            for kind, folder in folders.items()
        }

    async def agree(store: JsonlStore) -> None:
        # Lines are acknowledged by the journal; their files have them a moment later.
        async def is_right() -> bool:
            return await said(store) == real()

        await until_true(is_right)

    store = await opener()
    one, two = await long_session(store, "one"), await long_session(store, "two")
    chat = Writer("chat", store.next_epoch())
    await committed(store, chat.commit(run_start("r"), *(token() for _ in range(20))))
    await committed(store, chat.commit(message("m"), complete("r")))
    await agree(store)
    await store.release("one")
    await store.release("chat")
    await agree(store)
    assert 0 < (await said(store))["snapshots"] <= (await said(store))["logs"] + 4096
    await store.pack("one", one.head.epoch)
    await store.compact("chat", chat.head.epoch, 100)
    await agree(store)
    assert (await said(store))["archive"] == (await store.size("one")).stored_bytes
    await store.aclose()
    store = await opener()
    await agree(store)
    await store.delete("two", two.head.epoch)
    await store.unpack("one", one.head.epoch)
    await agree(store)
    assert (await store.stats())["disk_bytes_quarantine"] == 0
    assert (await store.stats())["disk_bytes_journal"] > 0


async def test_the_first_line_of_a_compacted_log_still_names_its_session(
    opener: Opener, data_dir: Path
) -> None:
    store = await opener()
    chat = Writer("chat", store.next_epoch())
    await committed(store, chat.commit(run_start("r"), token(), message("m"), complete("r")))
    await store.compact("chat", chat.head.epoch, 100)
    lines = (data_dir / "events" / "chat.jsonl").read_bytes().splitlines(keepends=True)
    assert all(is_intact(line) for line in lines)
    first = codec.decode(lines[0])
    assert (first["session"], first["epoch"]) == ("chat", chat.head.epoch)
    assert [codec.decode(line)["seq"] for line in lines[1:]] == [1, 2, 4, 5]


async def test_creating_packing_unpacking_and_compacting_take_bounded_memory(
    opener: Opener,
) -> None:
    """R11: each handles a log of 12 MB without ever having it in memory as a whole."""
    store = await opener()
    history = History("Long", store.next_epoch())
    epoch = history.head.epoch

    async def create() -> None:
        async with store.creation("Long", epoch) as creation:
            await creation.write(*history.page(CREATED))
            for start in range(40):
                events = [token("t" * 4000), token("u"), message(f"m{start}", "x y " * 1000)]
                await creation.write(*history.page(*events * 33))
                history.bodies.clear()
            await creation.publish(history.head)

    steps = {
        "create": create,
        "compact": lambda: store.compact("Long", epoch, 2000),
        "pack": lambda: store.pack("Long", epoch),
        "unpack": lambda: store.unpack("Long", epoch),
    }
    for name, step in steps.items():
        tracemalloc.start()
        try:
            await step()
            peak = tracemalloc.get_traced_memory()[1]
        finally:
            tracemalloc.stop()
        assert peak < 5 * 1024 * 1024, name
    assert (await store.size("Long")).original_bytes > 6 * 1024 * 1024


async def test_the_doctor_checks_bundles(opener: Opener, data_dir: Path, clock: StepClock) -> None:
    """R10."""
    store = await opener()
    history = await long_session(store)
    await store.pack("Long", history.head.epoch)
    await store.aclose()
    assert doctor.check(data_dir, clock) == []
    path = data_dir / "archive" / "%4Cong.zst"
    data = bytearray(path.read_bytes())
    data[5000] ^= 0xFF
    path.write_bytes(data)
    [finding] = doctor.check(data_dir, clock)
    assert (finding.severity, finding.subject, finding.repaired) == ("fail", "Long", False)
    [finding, *_] = doctor.check(data_dir, clock, repair=True)
    assert finding.repaired
    fresh = await opener()
    kept = await seqs(fresh, "Long")
    assert 2000 < len(kept) <= 3001


async def test_a_log_is_marked_as_outdated_before_its_files_are_swapped(
    opener: Opener, data_dir: Path
) -> None:
    """Otherwise a reader takes the new file for the old one, and repairs an intact log."""
    seen: list[bool] = []

    class Watching(FaultyFileSystem):
        @override
        def rename(self, source: Path, target: Path) -> None:
            if source.name.startswith("compact-") and target.suffix == ".jsonl":
                seen.append(store._table.logs["one"].is_outdated)
            super().rename(source, target)

    store = await opener(Watching())
    writer = Writer("one", store.next_epoch())
    await committed(store, writer.commit(*(token() for _ in range(5)), message("m1")))
    assert await store.compact("one", writer.head.epoch, writer.head.seq) > 0
    assert seen == [True]
