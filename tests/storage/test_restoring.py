"""A restore is verified, whole or nothing, and gives no position a second time (R3, R4, R9)."""

import errno
import os
import shutil
import signal
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import anyio
import pytest

from bamboo_gateway.settings import Settings
from bamboo_gateway.storage.backup import unfinished
from bamboo_gateway.storage.backup.manifest import NAME, BackupDamaged, Manifest
from bamboo_gateway.storage.backup.source import BackupSource
from bamboo_gateway.storage.backup.target import BackupRefused
from bamboo_gateway.storage.base import StoreBusy, StoreUnusable
from bamboo_gateway.storage.factory import check_store, make_store
from bamboo_gateway.storage.file_system import FileSystem
from bamboo_gateway.storage.jsonl.bundle import about_bundle
from bamboo_gateway.storage.jsonl.store import JsonlStore
from tests.storage.backups import back_up, restore
from tests.storage.conftest import Opener
from tests.storage.test_backups import talk
from tests.storage.writing import T0, StepClock, Writer, committed, everything, message

# Of small files every byte is changed, of larger ones every so many.
_STEP = 41


@pytest.fixture
def backup(data_dir: Path, tmp_path: Path) -> Path:
    """A backup of three sessions, one of them archived, and a piece in quarantine."""
    anyio.run(_make_sessions, data_dir)
    (data_dir / "quarantine" / "log-x-00000000.jsonl").write_bytes(b"piece")
    back_up(data_dir, tmp_path / "backup")
    return tmp_path / "backup"


async def _make_sessions(data_dir: Path) -> None:
    store = JsonlStore(data_dir, StepClock())
    await store.open()
    for name in ("one", "two"):
        await talk(store, name, 3)
    packed = await talk(store, "packed", 3)
    change = {"type": "state_change", "from": "idle", "to": "archived"}
    await committed(store, packed.commit(change))
    await store.pack("packed", packed.head.epoch)
    await store.aclose()


def files_of(directory: Path) -> list[Path]:
    return sorted(path for path in directory.rglob("*") if path.is_file())


def test_one_changed_byte_anywhere_is_refused(backup: Path, tmp_path: Path) -> None:
    for path in files_of(backup):
        whole = path.read_bytes()
        step = 1 if path.name == NAME else _STEP
        for place in range(0, len(whole), step):
            path.write_bytes(whole[:place] + bytes([whole[place] ^ 1]) + whole[place + 1 :])
            with pytest.raises(BackupDamaged):
                BackupSource(backup).verify()
        path.write_bytes(whole)
    BackupSource(backup).verify()


@pytest.mark.parametrize("end", ["torn", "longer"])
def test_a_file_with_another_end_is_refused_and_nothing_is_restored(
    backup: Path, tmp_path: Path, end: str
) -> None:
    for path in files_of(backup):
        whole = path.read_bytes()
        path.write_bytes(whole[:-1] if end == "torn" else whole + b"\n")
        with pytest.raises(BackupDamaged):
            restore(backup, tmp_path / "again")
        assert not (tmp_path / "again").exists()
        path.write_bytes(whole)


def test_a_file_too_few_or_too_many_is_refused(backup: Path, tmp_path: Path) -> None:
    for path in files_of(backup):
        whole = path.read_bytes()
        path.unlink()
        expected = BackupRefused if path.name == NAME else BackupDamaged
        with pytest.raises(expected):
            BackupSource(backup)
        path.write_bytes(whole)
    for name in ("events/more.jsonl", "more", "quarantine/deeper/more"):
        extra = backup / name
        extra.parent.mkdir(exist_ok=True)
        extra.symlink_to("/etc/hostname")
        with pytest.raises(BackupDamaged, match="does not belong"):
            BackupSource(backup)
        extra.unlink()


@pytest.mark.parametrize("path", ["../outside", "/outside", "events/../../x", "a/b/c", NAME, ".x"])
def test_a_manifest_that_names_other_places_is_refused(backup: Path, path: str) -> None:
    manifest = Manifest.parse((backup / NAME).read_bytes())
    files = (replace(manifest.files[0], path=path), *manifest.files[1:])
    with pytest.raises(BackupDamaged, match="names a file"):
        Manifest.parse(replace(manifest, files=files).encoded())


async def test_every_session_gets_an_epoch_above_all_that_were_ever_given(
    backup: Path, tmp_path: Path
) -> None:
    manifest = BackupSource(backup).manifest
    # The clock of this machine is behind: the epochs are above those in the backup anyway.
    for now_ms in (T0 - 10_000_000, T0 + 10_000_000):
        again = tmp_path / f"again-{now_ms}"
        restore(backup, again, now_ms)
        store = JsonlStore(again, StepClock(now_ms))
        await store.open()
        try:
            epochs = {}
            for file in manifest.files:
                if file.session_id is not None:
                    head = await store.load(file.session_id)
                    assert head is not None
                    assert file.position is not None
                    assert head.seq == int(file.position.split("-")[1])
                    epochs[file.session_id] = head.epoch
            assert epochs.keys() == {"one", "two", "packed"}
            assert len(set(epochs.values())) == 3
            assert min(epochs.values()) > max(manifest.last_epoch, now_ms)
            about = about_bundle(FileSystem(), again / "archive" / "packed.zst")
            assert about["epoch"] == about["head"]["epoch"] == epochs["packed"]
            # What comes now gets positions that nobody has seen.
            await store.unpack("packed", epochs["packed"])
            assert store.next_epoch() > max(epochs.values())
            head = await store.load("one")
            assert head is not None
            await committed(store, Writer.of(head).commit(message("new")))
            assert (await everything(store, "one"))[-1].seq == head.seq + 1
        finally:
            await store.aclose()


def test_a_target_that_has_anything_is_refused_and_left_alone(backup: Path, tmp_path: Path) -> None:
    again = tmp_path / "again"
    again.mkdir()
    (again / "keys.json").write_text("mine")
    with pytest.raises(BackupRefused, match=r"not empty: it has keys\.json"):
        restore(backup, again)
    assert files_of(again) == [again / "keys.json"]


async def test_a_directory_in_use_is_refused(backup: Path, opener: Opener, tmp_path: Path) -> None:
    again = tmp_path / "again"
    await opener(root=again)
    with pytest.raises(BackupRefused, match="not empty"):
        restore(backup, again)
    # And one in which another restore is at work.
    unfinished.mark(again)
    with pytest.raises(StoreBusy):
        restore(backup, again)
    assert unfinished.is_marked(again)


def test_an_empty_directory_that_cannot_be_renamed_is_filled(backup: Path, tmp_path: Path) -> None:
    again = tmp_path / "again"
    (again / "lost+found").mkdir(parents=True)  # as at the top of a volume
    restore(backup, again)
    assert (again / "events" / "one.jsonl").exists()
    assert not unfinished.is_marked(again)


class Killed:
    """In a forked child: ends it as `kill -9` does, at the nth call that changes a file."""

    NAMES = (
        "open",
        "write",
        "pwrite",
        "fsync",
        "fdatasync",
        "replace",
        "rename",
        "unlink",
        "mkdir",
    )

    def __init__(self, nth: int) -> None:
        self.left = nth
        for name in self.NAMES:
            setattr(os, name, self._counting(getattr(os, name)))

    def _counting(self, call: Callable[..., object]) -> Callable[..., object]:
        def counted(*arguments: object, **options: object) -> object:
            self.left -= 1
            if self.left == 0:
                os.kill(os.getpid(), signal.SIGKILL)
            return call(*arguments, **options)

        return counted


def killed_at(nth: int, act: Callable[[], object]) -> bool:
    """Run `act` in a child that is killed at its nth call; return whether it was."""
    child = os.fork()
    if child == 0:
        try:
            Killed(nth)
            act()
        finally:
            os._exit(0)
    _, status = os.waitpid(child, 0)
    return os.WIFSIGNALED(status)


def test_a_restore_that_is_killed_at_any_call_leaves_nothing_to_open(
    backup: Path, tmp_path: Path
) -> None:
    again = tmp_path / "again"
    settings = Settings(data_dir=again)
    nth = refused = 0
    while killed_at(nth := nth + 1, lambda: restore(backup, again)):
        has_files = again.exists() and any(again.rglob("*.jsonl"))
        if has_files and unfinished.is_marked(again):
            refused += 1
            with pytest.raises(StoreUnusable, match="not finished"):
                make_store(settings, StepClock())
            with pytest.raises(StoreUnusable, match="not finished"):
                check_store(settings, StepClock())
        elif has_files:
            # Killed after the mark was removed: it is whole.
            assert names_in(again) >= {"one.jsonl", "two.jsonl", "packed.zst"}
            break
        if nth % 7 == 0:
            restore(backup, again)  # begins anew
            assert names_in(again) >= {"one.jsonl", "two.jsonl", "packed.zst"}
            shutil.rmtree(again)
    assert refused > 20
    assert names_in(again) >= {"one.jsonl", "two.jsonl", "packed.zst"}
    assert not unfinished.is_marked(again)


def test_a_backup_that_is_killed_at_any_call_leaves_none_that_can_be_restored(
    backup: Path, data_dir: Path, tmp_path: Path
) -> None:
    to = tmp_path / "next"
    nth = 0
    while killed_at(nth := nth + 1, lambda: back_up(data_dir, to)):
        left = tmp_path / ".next.unfinished"
        if to.exists():
            BackupSource(to).verify()  # killed after the rename
            break
        if left.exists() and not (left / NAME).exists():
            with pytest.raises(BackupRefused, match="no whole backup"):
                BackupSource(left)
    assert nth > 20
    shutil.rmtree(to)
    # What was left does not harm the next one.
    back_up(data_dir, to)
    BackupSource(to).verify()
    assert not (tmp_path / ".next.unfinished").exists()


def names_in(directory: Path) -> set[str]:
    return {path.name for path in directory.rglob("*")}


def test_a_full_disk_leaves_nothing(
    backup: Path, data_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> int:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr("bamboo_gateway.storage.backup.target.write_all", full)
    with pytest.raises(OSError, match="No space"):
        back_up(data_dir, tmp_path / "next")
    monkeypatch.setattr(FileSystem, "pwrite", full)
    with pytest.raises(OSError, match="No space"):
        restore(backup, tmp_path / "again")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["backup", "data"]
