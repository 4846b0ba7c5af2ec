"""What the JSONL store promises beyond the contract: ownership, names, epochs, bounds, layout."""

import asyncio
import errno
import json
import os
import stat
import threading
from collections.abc import Iterable
from pathlib import Path

import pytest
from typing_extensions import override

from bamboo_gateway.domain import codec
from bamboo_gateway.domain.errors import Conflict
from bamboo_gateway.storage.base import StoreBusy
from bamboo_gateway.storage.file_system import FileSystem
from bamboo_gateway.storage.jsonl.paths import file_name
from bamboo_gateway.storage.jsonl.store import JsonlStore
from bamboo_gateway.storage.reports import SessionQuery
from tests.storage.conftest import Opener
from tests.storage.faults import FaultyFileSystem, VolatileFileSystem, abandon, write_out
from tests.storage.test_bundles import snapshots_made
from tests.storage.writing import (
    DEADLINE_SECONDS,
    NOBODY,
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
from tests.support.waiting import until_true


async def test_a_second_owner_of_the_directory_is_refused_with_one_clear_line(
    opener: Opener, data_dir: Path, clock: StepClock
) -> None:
    """R8."""
    await opener()
    second = JsonlStore(data_dir, clock)
    with pytest.raises(StoreBusy) as caught:
        await second.open()
    assert f"pid {os.getpid()}" in caught.value.detail
    assert "\n" not in caught.value.detail


async def test_fifty_concurrent_appends_keep_fifty_messages(opener: Opener) -> None:
    """R8: each retries with the head in its answer; no message is lost or doubled."""
    store = await opener()
    await committed(store, Writer("s-1", store.next_epoch()).commit())

    async def say(number: int) -> None:
        while True:
            head = await store.load("s-1")
            assert head is not None
            error = await answer_to(append(store, Writer.of(head).commit(message(f"m{number}"))))
            if error is None:
                return
            assert isinstance(error, Conflict)

    await asyncio.gather(*(say(number) for number in range(50)))
    await abandon(store)
    fresh = await opener()
    head = await fresh.load("s-1")
    assert head is not None
    found = await fresh.find("s-1", head.epoch, "message")
    names = {codec.decode(record.body)["message"]["id"] for record in found}
    assert names == {f"m{number}" for number in range(50)}
    assert head.message_count == len(found) == 50


@pytest.mark.parametrize(
    "session_id",
    ["../../victim", "/etc/passwd", "a/b", "..", ".", ".hidden", "a\0b", "nul\n", "é", "~", "%41"],
)
def test_no_id_ever_builds_a_path(session_id: str) -> None:
    """R13: the store encodes ids although the API checks them."""
    name = file_name(session_id)
    assert not set(name) & {"/", "\\", "\0", "\n"}
    assert not name.startswith(".")
    assert name.isascii()
    assert name != file_name("A")


def test_file_names_differ_for_ids_that_differ_in_case_or_at_the_end() -> None:
    """R13."""
    ids = ["a", "A", "aB", "Ab", "AB", "ab", "Z" * 127, "Z" * 128, "z" * 128, "Z" * 127 + "Y"]
    names = [file_name(session_id) for session_id in ids]
    assert len({name.casefold() for name in names}) == len(ids)
    assert all(len(f"{name}.jsonl".encode()) <= 255 for name in names)


async def test_the_files_are_for_their_owner_only_and_read_with_common_tools(
    opener: Opener, data_dir: Path
) -> None:
    store = await opener()
    writer = Writer("My-Session", store.next_epoch())
    await committed(store, writer.commit(message("m1", "first"), note="key"))
    await committed(store, writer.commit(token()))
    await store.release("My-Session")
    await store.aclose()
    files = files_in(data_dir)
    assert {mode_of(path) for path in files} == {0o600}
    assert mode_of(data_dir) == 0o700
    log = data_dir / "events" / "%4Dy-%53ession.jsonl"
    lines = [json.loads(line) for line in log.read_text("utf-8").splitlines()]
    assert lines[0]["session"] == "My-Session"
    assert lines[0]["epoch"] == writer.head.epoch
    assert [line.get("seq") for line in lines[1:]] == [1, 2, None, 3]
    snapshot = json.loads((data_dir / "sessions" / "%4Dy-%53ession.json").read_text("utf-8"))
    assert snapshot["head"]["message_count"] == 1
    assert [event["message"]["content"] for event in snapshot["messages"]] == ["first"]
    for line in (data_dir / "index" / "catalog.jsonl").read_text("utf-8").splitlines():
        json.loads(line)
    # Nothing is left of the journal after a clean end.
    assert not list((data_dir / "index").glob("journal-*"))
    assert json.loads((data_dir / "LOCK").read_text("utf-8"))["clean"] is True


async def test_the_index_survives_a_restart_without_reading_any_log(
    opener: Opener, data_dir: Path
) -> None:
    store = await opener()
    for number in range(5):
        writer = Writer(f"s-{number}", store.next_epoch())
        await committed(store, writer.commit(message("m1")))
    await store.aclose()
    read: list[str] = []

    class Watching(FaultyFileSystem):
        @override
        def open(self, path: Path, flags: int) -> int:
            read.append(str(path))
            return super().open(path, flags)

    fresh = await opener(Watching())
    assert fresh.report.clean  # type: ignore[attr-defined]
    page = await fresh.query(SessionQuery(), NOBODY)
    assert sorted(head.id for head in page.heads) == [f"s-{number}" for number in range(5)]
    assert not any("/events/" in path or "/sessions/" in path for path in read)


async def test_without_an_index_in_memory_lists_follow_the_rewritten_catalog(
    opener: Opener, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("bamboo_gateway.storage.jsonl.index.catalog_file._SMALL_BYTES", 0)
    store = await opener(index_enabled=False)
    writers = [Writer(f"s-{number}", store.next_epoch()) for number in range(20)]
    for writer in writers:
        await committed(store, writer.commit())
    for turn in range(12):
        for writer in writers[turn::3]:
            await committed(store, writer.commit(message(f"m{turn}")))
        assert await store.checkpoint()
        for writer in writers:
            assert await store.load(writer.head.id) == writer.head
        page = await store.query(SessionQuery(sort_by="title"), NOBODY)
        assert {head.id: head.seq for head in page.heads} == {
            writer.head.id: writer.head.seq for writer in writers
        }
    await store.aclose()
    fresh = await opener(index_enabled=False)
    for writer in writers:
        assert await fresh.load(writer.head.id) == writer.head


@pytest.mark.parametrize(("boot", "is_new"), [("same", False), ("another", True)])
async def test_with_durability_os_another_boot_gives_new_epochs_to_what_was_not_synced(
    opener: Opener, data_dir: Path, boot: str, is_new: bool
) -> None:
    """R3: events that clients saw may be lost, so their positions are never used again."""
    store = await opener(durability="os")
    synced, written = Writer("synced", store.next_epoch()), Writer("written", store.next_epoch())
    await committed(store, synced.commit(message("m1")))
    await committed(store, written.commit(message("m1")))
    await store.checkpoint()
    await committed(store, written.commit(token()))
    await abandon(store)
    lock = data_dir / "LOCK"
    content = json.loads(lock.read_text("utf-8"))
    assert content["clean"] is False
    if is_new:
        lock.write_text(json.dumps({**content, "boot": "another"}), "utf-8")
    fresh = await opener(durability="os")
    one, two = await fresh.load("synced"), await fresh.load("written")
    assert one == synced.head
    assert two is not None
    assert (two.epoch > written.head.epoch) == is_new
    assert two.seq == 3
    assert await seqs(fresh, "written") == [1, 2, 3]
    found = await fresh.find("written", two.epoch, "message", key="m1")
    assert [record.seq for record in found] == [2]
    await committed(fresh, Writer.of(two).commit(token()))


async def test_with_durability_os_a_log_is_named_in_synced_bytes_before_it_is_written(
    opener: Opener,
) -> None:
    """After any power loss the journal knows which logs may have lost lines."""
    synced: list[str] = []

    class Watching(FaultyFileSystem):
        @override
        def sync(self, fd: int) -> None:
            synced.append(self._names[fd])

    store = await opener(Watching(), durability="os")
    writer = Writer("s-1", store.next_epoch())
    await committed(store, writer.commit())
    before = len(synced)
    assert any("journal-" in path for path in synced)
    for _ in range(5):
        await committed(store, writer.commit(token()))
    assert len(synced) == before
    await committed(store, Writer("s-2", store.next_epoch()).commit())
    assert len(synced) > before


async def test_with_durability_os_a_sync_includes_all_earlier_writes(
    opener: Opener, data_dir: Path
) -> None:
    """A journal with a gap would look damaged, not torn (R3)."""
    fs = VolatileFileSystem(data_dir)
    store = await opener(fs, durability="os")
    writer = Writer("s-1", store.next_epoch())
    await committed(store, writer.commit())
    for _ in range(3):
        await committed(store, writer.commit(token()))
    await committed(store, Writer("s-2", store.next_epoch()).commit())
    image = fs.take_image()
    await abandon(store)
    image.restore(data_dir, power_lost=True)
    fresh = await opener(durability="os")
    assert fresh.report.damaged == []  # type: ignore[attr-defined] # the opener's
    assert await seqs(fresh, "s-1") == [1, 2, 3, 4]
    assert await seqs(fresh, "s-2") == [1]


@pytest.mark.parametrize("error", [errno.EOPNOTSUPP, errno.EINVAL, errno.EIO])
def test_without_synced_writes_data_is_written_then_synced(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: int
) -> None:
    """An error of the disk itself is not retried: its pages cannot be trusted (R1)."""
    synced: list[int] = []

    class Watching(FileSystem):
        @override
        def sync(self, fd: int) -> None:
            synced.append(os.fstat(fd).st_size)

    def refuse(*_: object) -> int:
        raise OSError(error, os.strerror(error))

    fs = Watching()
    fd = fs.open(tmp_path / "file", os.O_RDWR | os.O_CREAT)
    monkeypatch.setattr(os, "pwritev", refuse)
    if error == errno.EIO and hasattr(os, "RWF_DSYNC"):
        with pytest.raises(OSError, match="error"):
            fs.pwrite_synced(fd, b"words", 3)
        assert synced == []
    else:
        fs.pwrite_synced(fd, b"words", 3)
        assert synced == [8]
        assert os.pread(fd, 8, 0) == b"\0\0\0words"
    fs.close(fd)


def test_a_python_without_rwf_dsync_writes_then_syncs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Not every Linux has this call: an older musl does not."""
    monkeypatch.delattr(os, "RWF_DSYNC", raising=False)
    fs = FileSystem()
    fd = fs.open(tmp_path / "file", os.O_RDWR | os.O_CREAT)
    fs.pwrite_synced(fd, b"words", 1)
    assert os.pread(fd, 9, 0) == b"\0words"
    fs.close(fd)


@pytest.mark.skipif(not hasattr(os, "RWF_DSYNC"), reason="this Python has no such call")
def test_a_short_write_is_continued_until_all_is_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    flags: list[int] = []

    def write_two(fd: int, parts: list[memoryview], offset: int, how: int) -> int:
        flags.append(how)
        return os.pwrite(fd, parts[0][:2], offset)

    fs = FileSystem()
    fd = fs.open(tmp_path / "file", os.O_RDWR | os.O_CREAT)
    monkeypatch.setattr(os, "pwritev", write_two)
    fs.pwrite_synced(fd, b"words", 1)
    assert os.pread(fd, 9, 0) == b"\0words"
    assert flags == [os.RWF_DSYNC] * 3
    fs.close(fd)


async def test_snapshots_of_many_grown_sessions_are_written_one_by_one_and_delay_nothing(
    opener: Opener,
) -> None:
    """R7: commits share the disk with snapshots, and deletions their threads."""
    began: list[str] = []
    may_go_on = threading.Event()

    class Watching(FileSystem):
        @override
        def write_pieces(self, path: Path, pieces: Iterable[bytes]) -> int:
            if path.name.startswith("snapshot-"):
                began.append(path.name)
                assert may_go_on.wait(DEADLINE_SECONDS)
            return super().write_pieces(path, pieces)

    store = await opener(Watching())
    for number in range(5):
        writer = Writer(f"s-{number}", store.next_epoch())
        await committed(store, writer.commit(message("m", "x" * 100_000)))
    other = Writer("other", store.next_epoch())
    await committed(store, other.commit())
    try:
        await store.checkpoint()
        await until_true(lambda: bool(began))
        await store.delete("other", other.head.epoch)
        assert len(began) == 1
    finally:
        may_go_on.set()
    await until_true(lambda: snapshots_made(store, 5))


async def test_epochs_rise_also_when_the_clock_steps_back_and_all_sessions_are_deleted(
    opener: Opener, clock: StepClock
) -> None:
    """R3."""
    store = await opener()
    writer = Writer("s-1", store.next_epoch())
    await committed(store, writer.commit())
    await store.delete("s-1", writer.head.epoch)
    clock.ms -= 10_000_000
    await abandon(store)
    second = await opener()
    assert second.next_epoch() > writer.head.epoch
    await second.aclose()
    third = await opener()
    assert third.next_epoch() > writer.head.epoch


async def test_deleting_removes_every_byte_of_the_session(opener: Opener, data_dir: Path) -> None:
    store = await opener()
    writer, other = Writer("gone", store.next_epoch()), Writer("stays", store.next_epoch())
    await committed(store, other.commit(message("m1")))
    await committed(store, writer.commit(message("m1", "very-secret-words")))
    await store.checkpoint()
    await store.release("gone")
    await committed(store, writer.commit(message("m2", "very-secret-words")))
    freed = await store.delete("gone", writer.head.epoch)
    names = [path.name for path in files_in(data_dir)]
    assert not any(name.startswith("gone") for name in names)
    assert freed > 1000
    assert await store.checkpoint()
    assert not [path for path in files_in(data_dir) if b"very-secret" in path.read_bytes()]
    await abandon(store)
    fresh = await opener()
    assert await fresh.load("gone") is None
    assert await seqs(fresh, "stays") == [1, 2]


async def test_logs_beyond_the_limit_of_open_files_are_closed_and_come_back(
    opener: Opener,
) -> None:
    """R11."""
    store = await opener()
    store._writer._files_max = 4
    writers = [Writer(f"s-{number}", store.next_epoch()) for number in range(20)]
    for _ in range(3):
        for writer in writers:
            await committed(store, writer.commit(token()))
        await write_out(store)
        assert (await store.stats())["open_logs"] == 4
    for writer in writers:
        assert len(await seqs(store, writer.head.id)) == 4


async def test_a_session_at_rest_leaves_memory_and_its_file_is_closed(opener: Opener) -> None:
    """R11."""
    store = await opener()
    writer = Writer("s-1", store.next_epoch())
    await committed(store, writer.commit(message("m1")))
    await store.release("s-1")
    assert await store.checkpoint()
    assert await store.checkpoint()
    assert store._table.logs == {}
    assert (await store.stats())["open_logs"] == 0
    assert await seqs(store, "s-1") == [1, 2]
    await committed(store, writer.commit(run_start("r"), complete("r")))
    assert await store.load("s-1") == writer.head


async def test_the_journal_is_checkpointed_when_a_segment_is_full(
    opener: Opener, monkeypatch: pytest.MonkeyPatch, data_dir: Path
) -> None:
    monkeypatch.setattr("bamboo_gateway.storage.jsonl.journal.segments.SEGMENT_BYTES", 10_000)
    monkeypatch.setattr("bamboo_gateway.storage.jsonl.journal.committer.SEGMENT_BYTES", 10_000)
    store = await opener()
    writer = Writer("s-1", store.next_epoch())
    for _ in range(100):
        await committed(store, writer.commit(token("x" * 500)))
    while store._maintenance._running is not None:
        await store._maintenance._running
    assert (await store.stats())["checkpoints_total"] >= 2
    assert len(list((data_dir / "index").glob("journal-*"))) <= 5
    await abandon(store)
    fresh = await opener()
    assert len(await seqs(fresh, "s-1")) == 101


async def test_a_commit_larger_than_a_segment_is_taken(
    opener: Opener, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("bamboo_gateway.storage.jsonl.journal.segments.SEGMENT_BYTES", 10_000)
    store = await opener()
    writer = Writer("s-1", store.next_epoch())
    await committed(store, writer.commit(token("x" * 100_000)))
    await committed(store, writer.commit(token("y")))
    await abandon(store)
    fresh = await opener()
    assert len((await everything(fresh, "s-1"))[1].body) > 100_000


def files_in(root: Path) -> list[Path]:
    return [path for path in root.rglob("*") if path.is_file()]


def mode_of(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)
