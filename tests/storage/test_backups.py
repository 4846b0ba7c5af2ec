"""A backup beside a running store has a prefix of each log, with all that was acknowledged (R1)."""

import errno
import os
import shutil
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any

import anyio
import pytest

from bamboo_gateway.storage.backup import target
from bamboo_gateway.storage.backup.source import BackupSource
from bamboo_gateway.storage.backup.target import BackupRefused
from bamboo_gateway.storage.base import StoreUnusable
from bamboo_gateway.storage.file_system import FileSystem
from bamboo_gateway.storage.jsonl import backup as live_backup
from bamboo_gateway.storage.jsonl import pending_lines
from bamboo_gateway.storage.jsonl.log.log import read_header
from bamboo_gateway.storage.jsonl.paths import Paths
from bamboo_gateway.storage.jsonl.pending_lines import PendingLines, read_pending
from bamboo_gateway.storage.jsonl.store import JsonlStore
from tests.storage.backups import back_up, restored
from tests.storage.conftest import Opener
from tests.storage.faults import FaultyFileSystem, abandon
from tests.storage.writing import (
    DEADLINE_SECONDS,
    Writer,
    committed,
    complete,
    everything,
    message,
    run_start,
    token,
)


@pytest.fixture
def never_at_rest(monkeypatch: pytest.MonkeyPatch) -> None:
    """Keep the committer from writing logs in idle time, as load does."""
    monkeypatch.setattr(
        "bamboo_gateway.storage.jsonl.journal.committer._REST_SECONDS", DEADLINE_SECONDS
    )


async def talk(store: JsonlStore, session_id: str, messages: int = 5) -> Writer:
    """Make a session with some messages, one of them with a note."""
    writer = Writer(session_id, store.next_epoch())
    for number in range(messages):
        await committed(store, writer.commit(message(f"m{number}"), note=f"key-{number}"))
    return writer


async def more(store: JsonlStore, writer: Writer, count: int = 3) -> None:
    for _ in range(count):
        await committed(store, writer.commit(message(f"more-{writer.head.seq}")))


@pytest.mark.usefixtures("never_at_rest")
async def test_lines_that_only_the_journal_has_are_in_the_backup(
    opener: Opener, data_dir: Path, tmp_path: Path
) -> None:
    store = await opener()
    writer = await talk(store, "new")
    assert not (data_dir / "events" / "new.jsonl").exists()
    back_up(data_dir, tmp_path / "backup")
    log = await everything(store, "new")
    assert (await restored(tmp_path / "backup", tmp_path / "again"))["new"] == log
    # And when the file has the first lines: the rest is joined to them.
    assert await store.checkpoint()
    await more(store, writer)
    back_up(data_dir, tmp_path / "backup-2")
    log = await everything(store, "new")
    assert (await restored(tmp_path / "backup-2", tmp_path / "again-2"))["new"] == log


async def test_a_backup_has_a_manifest_only_when_it_is_whole(
    opener: Opener, data_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A command that is killed while it writes the manifest leaves no damaged backup."""
    await talk(await opener(), "s")
    unfinished = tmp_path / ".backup.unfinished"
    write = target.NewFile.write
    seen: list[str] = []

    def write_slowly(file: target.NewFile, data: bytes | bytearray) -> None:
        if file.path.name.startswith("backup.json"):
            for piece in (data[:0], data[: len(data) // 2]):
                write(file, piece)
                with pytest.raises(BackupRefused, match="no whole backup") as refused:
                    BackupSource(unfinished)
                seen.append(refused.value.code)
            data = data[len(data) // 2 :]
        write(file, data)

    monkeypatch.setattr(target.NewFile, "write", write_slowly)
    back_up(data_dir, tmp_path / "backup")
    assert len(seen) == 2
    assert BackupSource(tmp_path / "backup").manifest.sessions == 1


async def test_lines_of_a_log_that_cannot_be_written_are_in_the_backup(
    opener: Opener, data_dir: Path, tmp_path: Path
) -> None:
    def fails(_: int, operation: str, path: str) -> int | None:
        return errno.EIO if is_broken and operation == "write" and "events/" in path else None

    is_broken = False
    store = await opener(FaultyFileSystem(fails))
    writer = await talk(store, "held")
    assert await store.checkpoint()
    is_broken = True
    await more(store, writer, 1)
    await store._committer.send(lambda: None)
    # The segments are dropped, and the lines are in a held file alone.
    assert await store.checkpoint()
    assert list((data_dir / "index").glob("held-*"))
    log = await everything(store, "held")
    back_up(data_dir, tmp_path / "backup")
    assert (await restored(tmp_path / "backup", tmp_path / "again"))["held"] == log
    assert log[-1].seq == writer.head.seq


Change = Callable[[JsonlStore, Writer], Coroutine[Any, Any, None]]


async def _pack(store: JsonlStore, writer: Writer) -> None:
    await committed(
        store, writer.commit({"type": "state_change", "from": "idle", "to": "archived"})
    )
    await store.pack(writer.head.id, writer.head.epoch)


async def _pack_and_unpack(store: JsonlStore, writer: Writer) -> None:
    await _pack(store, writer)
    await store.unpack(writer.head.id, writer.head.epoch)
    await more(store, writer)


async def _compact(store: JsonlStore, writer: Writer) -> None:
    assert await store.compact(writer.head.id, writer.head.epoch, writer.head.seq)
    await more(store, writer)


async def _compact_twice(store: JsonlStore, writer: Writer) -> None:
    await _compact(store, writer)
    await committed(store, writer.commit(token("later"), message("m-later")))
    await _compact(store, writer)


async def _append(store: JsonlStore, writer: Writer) -> None:
    await more(store, writer, 30)


async def _checkpoint(store: JsonlStore, writer: Writer) -> None:
    await more(store, writer)
    assert await store.checkpoint()


async def _recreate(store: JsonlStore, writer: Writer) -> None:
    await store.delete(writer.head.id, writer.head.epoch)
    writer.head = Writer(writer.head.id, store.next_epoch()).head
    writer.created = False
    await committed(store, writer.commit(message("another life")))


@pytest.mark.usefixtures("never_at_rest")
@pytest.mark.parametrize("is_written", [True, False], ids=["written", "behind"])
@pytest.mark.parametrize(
    "change",
    [_append, _checkpoint, _pack, _pack_and_unpack, _compact, _compact_twice],
)
async def test_what_changes_between_the_journal_and_the_logs_is_neither_missed_nor_doubled(
    opener: Opener,
    data_dir: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    change: Change,
    is_written: bool,
) -> None:
    store = await opener()
    writer = await talk(store, "one")
    await committed(
        store, writer.commit(run_start("r"), token("a"), token("b"), message("r1"), complete("r"))
    )
    if is_written:
        assert await store.checkpoint()
        await more(store, writer, 2)
    before = writer.head.seq
    monkeypatch.setattr(live_backup, "read_pending", then(change, store, writer))
    await anyio.to_thread.run_sync(back_up, data_dir, tmp_path / "backup")
    copied = (await restored(tmp_path / "backup", tmp_path / "again"))["one"]
    log = await everything(store, "one")
    seqs = [record.seq for record in copied]
    assert seqs[-1] >= before
    # A prefix, but for deltas that were compacted since.
    kept = {record.seq for record in log}
    assert [record for record in copied if record.seq in kept] == log[: len(kept & set(seqs))]
    assert {record.type for record in copied if record.seq not in kept} <= {"token"}


def then(change: Change, store: JsonlStore, writer: Writer) -> Callable[..., object]:
    """Return a `read_pending` after whose first call the change happens."""
    is_first = True

    def read_then_change(fs: FileSystem, paths: Paths) -> dict[str, PendingLines]:
        nonlocal is_first
        found = read_pending(fs, paths)
        if is_first:
            is_first = False
            anyio.from_thread.run(change, store, writer)
        return found

    return read_then_change


@pytest.mark.usefixtures("never_at_rest")
@pytest.mark.parametrize("is_written", [True, False], ids=["written", "behind"])
async def test_of_a_session_that_is_created_anew_there_is_one_life_or_none(
    opener: Opener,
    data_dir: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    is_written: bool,
) -> None:
    store = await opener()
    writer = await talk(store, "one")
    former = await everything(store, "one")
    if is_written:
        assert await store.checkpoint()
    monkeypatch.setattr(live_backup, "read_pending", then(_recreate, store, writer))
    await anyio.to_thread.run_sync(back_up, data_dir, tmp_path / "backup")
    copied = await restored(tmp_path / "backup", tmp_path / "again")
    assert copied in ({}, {"one": former}, {"one": await everything(store, "one")})


@pytest.mark.usefixtures("never_at_rest")
@pytest.mark.parametrize("kind", ["pack", "unpack", "compact", "publish", "delete"])
async def test_a_store_that_was_killed_in_a_lifecycle_record_is_copied_whole(
    opener: Opener, data_dir: Path, tmp_path: Path, kind: str
) -> None:
    """Between the record and each of its renames, with lines that only the journal has."""
    images: list[Path] = []

    def keep_image(_: int, operation: str, path: str) -> None:
        if is_watched and operation == "rename":
            images.append(tmp_path / f"image-{len(images)}")
            shutil.copytree(data_dir, images[-1])

    is_watched = False
    store = await opener(FaultyFileSystem(keep_image))
    writer = await talk(store, "one")
    if kind == "unpack":
        await _pack(store, writer)
    else:
        await committed(store, writer.commit(run_start("r"), token("a"), message("r1")))
        await committed(store, writer.commit(complete("r"), note="last"))
    log = await everything(store, "one")
    is_watched = True
    match kind:
        case "pack":
            await store.pack("one", writer.head.epoch)
        case "unpack":
            await store.unpack("one", writer.head.epoch)
        case "compact":
            assert await store.compact("one", writer.head.epoch, writer.head.seq)
        case "publish":
            two = Writer("two", store.next_epoch())
            async with store.creation("two", two.head.epoch) as creation:
                await creation.write(two.commit(message("m")).events)
                await creation.publish(two.head)
        case _:
            await store.delete("one", writer.head.epoch)
    is_watched = False
    assert images
    for image in images:
        name = image.name
        back_up(image, tmp_path / f"backup-{name}")
        copied = await restored(tmp_path / f"backup-{name}", tmp_path / f"again-{name}")
        if kind == "delete" and "one" not in copied:
            continue
        gone = {"token"} if kind == "compact" else set()
        assert [one for one in copied["one"] if one.type not in gone] == [
            one for one in log if one.type not in gone
        ]


async def test_archived_sessions_are_copied_with_what_is_in_quarantine(
    opener: Opener, data_dir: Path, tmp_path: Path
) -> None:
    store = await opener()
    await _pack(store, await talk(store, "Old One"))
    (data_dir / "quarantine" / "log-x-00000000.jsonl").write_bytes(b"piece")
    log = await everything(store, "Old One")
    manifest = back_up(data_dir, tmp_path / "backup")
    assert [file.path for file in manifest.files] == [
        "archive/%4Fld%20%4Fne.zst",
        "quarantine/log-x-00000000.jsonl",
    ]
    again = tmp_path / "again"
    assert (await restored(tmp_path / "backup", again))["Old One"] == log
    assert (again / "quarantine" / "log-x-00000000.jsonl").read_bytes() == b"piece"


async def test_a_deleted_session_is_in_no_backup_that_begins_afterwards(
    opener: Opener, data_dir: Path, tmp_path: Path
) -> None:
    store = await opener()
    writer = await talk(store, "gone")
    await talk(store, "stays")
    await store.delete("gone", writer.head.epoch)
    manifest = back_up(data_dir, tmp_path / "backup")
    assert [file.session_id for file in manifest.files] == ["stays"]
    assert manifest.sessions == 1


async def test_a_damaged_log_is_named_and_there_is_no_backup(
    opener: Opener, data_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(live_backup, "_PAUSE_SECONDS", 0)
    store = await opener()
    await talk(store, "bad")
    await store.aclose()
    log = data_dir / "events" / "bad.jsonl"
    whole = log.read_bytes()
    for place in (10, len(whole) // 2, len(whole) - 5):
        log.write_bytes(whole[:place] + bytes([whole[place] ^ 1]) + whole[place + 1 :])
        with pytest.raises(StoreUnusable, match=r"bad\.jsonl cannot be copied"):
            back_up(data_dir, tmp_path / "backup")
        assert names_in(tmp_path) == ["data"]
    log.write_bytes(whole[:-7])  # no journal has these bytes
    with pytest.raises(StoreUnusable, match="is not whole"):
        back_up(data_dir, tmp_path / "backup")


def names_in(directory: Path) -> list[str]:
    return sorted(path.name for path in directory.iterdir())


async def test_a_damaged_journal_is_named_and_there_is_no_backup(
    opener: Opener, data_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pending_lines, "_PAUSE_SECONDS", 0)
    monkeypatch.setattr(pending_lines, "_READS_MAX", 3)
    store = await opener()
    await talk(store, "one")
    await abandon(store)
    [segment] = (data_dir / "index").glob("journal-*")
    data = bytearray(segment.read_bytes())
    data[data.index(b'"m1"')] ^= 1
    segment.write_bytes(data)
    with pytest.raises(StoreUnusable, match="journal cannot be read"):
        back_up(data_dir, tmp_path / "backup")


async def test_a_backup_has_the_positions_that_clients_know(
    opener: Opener, data_dir: Path, tmp_path: Path
) -> None:
    store = await opener()
    writer = await talk(store, "one")
    manifest = back_up(data_dir, tmp_path / "backup")
    [file] = manifest.files
    assert (file.session_id, file.position) == ("one", str(writer.head.position))
    assert manifest.last_epoch == writer.head.epoch
    header = (tmp_path / "backup" / file.path).read_bytes().partition(b"\n")[0] + b"\n"
    assert read_header(header) == ("one", writer.head.epoch)


async def test_a_backup_needs_a_new_place_outside_of_the_data(
    opener: Opener, data_dir: Path, tmp_path: Path
) -> None:
    await opener()
    (tmp_path / "there").mkdir()
    with pytest.raises(BackupRefused, match="exists already"):
        back_up(data_dir, tmp_path / "there")
    for inside in (data_dir, data_dir / "backup", data_dir / "a" / ".." / "backup"):
        with pytest.raises(StoreUnusable, match="inside of the data directory"):
            live_backup.check_place(data_dir, inside)
    with pytest.raises(StoreUnusable, match="no sessions"):
        back_up(tmp_path / "nothing", tmp_path / "backup")
    assert not (tmp_path / "backup").exists()


async def test_segments_that_go_while_they_are_read_are_in_the_logs(
    opener: Opener, data_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A dropped segment is made blank, and may become another one, under the eyes of a reader."""
    store = await opener()
    writer = await talk(store, "one")
    read = FileSystem.read

    async def drop_and_use_again() -> None:
        for _ in range(2):
            assert await store.checkpoint()
            await more(store, writer)

    def drop_then_read(fs: FileSystem, path: Path) -> bytes | None:
        monkeypatch.setattr(FileSystem, "read", read)
        assert path.name.startswith("journal-")
        fd = fs.open(path, os.O_RDONLY)
        anyio.from_thread.run(drop_and_use_again)
        try:
            return fs.pread(fd, os.fstat(fd).st_size, 0)
        finally:
            fs.close(fd)

    monkeypatch.setattr(FileSystem, "read", drop_then_read)
    before = writer.head.seq
    await anyio.to_thread.run_sync(back_up, data_dir, tmp_path / "backup")
    copied = (await restored(tmp_path / "backup", tmp_path / "again"))["one"]
    assert copied[-1].seq >= before
    assert copied == (await everything(store, "one"))[: len(copied)]
