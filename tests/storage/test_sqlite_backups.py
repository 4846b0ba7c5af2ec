"""A backup of a SQLite database is one moment of it, and a restore is whole or nothing (R3, R9)."""

import os
import shutil
from pathlib import Path

import anyio
import apsw
import pytest

from bamboo_gateway.settings import Settings
from bamboo_gateway.storage.backup import unfinished
from bamboo_gateway.storage.backup.manifest import NAME, BackupDamaged
from bamboo_gateway.storage.backup.source import BackupSource
from bamboo_gateway.storage.backup.target import BackupRefused
from bamboo_gateway.storage.base import SessionStore, StoreBusy, StoreUnusable
from bamboo_gateway.storage.factory import back_up, make_store, restore_backup
from bamboo_gateway.storage.sql.sqlite import backup as sqlite_backup
from tests.storage.test_restoring import killed_at
from tests.storage.writing import T0, StepClock, Writer, committed, everything, message


def settings_of(data_dir: Path) -> Settings:
    return Settings(data_dir=data_dir, storage_url="sqlite:")


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    made = settings_of(tmp_path / "data")
    anyio.run(_fill, made)
    assert made.keys_path is not None
    made.keys_path.write_text("digests")
    return made


@pytest.fixture
def backup(settings: Settings, tmp_path: Path) -> Path:
    back_up(settings, tmp_path / "backup", StepClock())
    return tmp_path / "backup"


async def _fill(settings: Settings) -> None:
    store = make_store(settings, StepClock())
    await store.open()
    for name in ("one", "two"):
        writer = Writer(name, store.next_epoch())
        await committed(store, writer.commit(message("m1", "x" * 5000), note="k"))
    await store.aclose()


def restore(backup: Path, data_dir: Path, now_ms: int = T0) -> None:
    restore_backup(settings_of(data_dir), BackupSource(backup), StepClock(now_ms))


def files_of(directory: Path) -> set[str]:
    return {path.name for path in directory.iterdir()}


async def _heads(settings: Settings) -> dict[str, tuple[int, int]]:
    store = make_store(settings, StepClock())
    await store.open()
    try:
        heads = [await store.load(name) for name in ("one", "two")]
        return {head.id: (head.epoch, head.seq) for head in heads if head is not None}
    finally:
        await store.aclose()


async def _append(store: SessionStore, count: int) -> None:
    writer = Writer("new", store.next_epoch())
    for number in range(count):
        await committed(store, writer.commit(message(f"m{number}", "y" * 1000)))


async def test_a_backup_is_one_moment_while_commits_go_on(
    settings: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sqlite_backup, "_PAGES", 1)
    store = make_store(settings, StepClock())
    await store.open()
    await _append(store, 5)
    steps = 0

    def go_on(*_: int) -> None:
        nonlocal steps
        steps += 1
        if steps == 3:
            anyio.from_thread.run(_more, store)

    await anyio.to_thread.run_sync(back_up, settings, tmp_path / "backup", StepClock(), go_on)
    assert steps > 10
    before = await everything(store, "new")
    assert len(before) == 8
    await store.aclose()
    restore(tmp_path / "backup", tmp_path / "again")
    again = make_store(settings_of(tmp_path / "again"), StepClock())
    await again.open()
    assert await everything(again, "new") == before[:6]
    await again.aclose()


async def _more(store: SessionStore) -> None:
    head = await store.load("new")
    assert head is not None
    writer = Writer.of(head)
    for number in range(2):
        await committed(store, writer.commit(message(f"later-{number}")))


def test_every_session_gets_an_epoch_above_all_that_were_ever_given(
    settings: Settings, backup: Path, tmp_path: Path
) -> None:
    before = anyio.run(_heads, settings)
    for now_ms in (T0 - 10_000_000, T0 + 10_000_000):
        again = tmp_path / f"again-{now_ms}"
        restore(backup, again, now_ms)
        after = anyio.run(_heads, settings_of(again))
        assert {name: seq for name, (_, seq) in after.items()} == {"one": 2, "two": 2}
        least = max(epoch for epoch, _ in before.values())
        assert all(epoch > least and epoch >= now_ms for epoch, _ in after.values())
        assert (again / "keys.json").read_text() == "digests"


def test_changed_bytes_are_refused_and_nothing_is_left(backup: Path, tmp_path: Path) -> None:
    for path in sorted(backup.iterdir()):
        whole = path.read_bytes()
        step = 1 if path.name in {NAME, "keys.json"} else 997
        for place in range(0, len(whole), step):
            path.write_bytes(whole[:place] + bytes([whole[place] ^ 1]) + whole[place + 1 :])
            with pytest.raises(BackupDamaged):
                BackupSource(backup).verify()
        for other in (whole[:-1], whole + b"x"):
            path.write_bytes(other)
            with pytest.raises(BackupDamaged):
                restore(backup, tmp_path / "again")
            assert not (tmp_path / "again").exists()
        path.write_bytes(whole)


@pytest.mark.parametrize("name", ["sessions.db", "sessions.db-wal", "keys.json"])
def test_a_target_that_has_something_is_left_alone(backup: Path, tmp_path: Path, name: str) -> None:
    again = tmp_path / "again"
    again.mkdir()
    (again / name).write_text("mine")
    with pytest.raises(BackupRefused, match="exists already"):
        restore(backup, again)
    assert files_of(again) == {name}
    assert (again / name).read_text() == "mine"


def test_two_restores_do_not_meet(backup: Path, tmp_path: Path) -> None:
    again = tmp_path / "again"
    again.mkdir()
    fd, is_begun = sqlite_backup._take_mark(again)
    assert not is_begun
    with pytest.raises(StoreBusy):
        restore(backup, again)
    os.close(fd)
    restore(backup, again)  # begins anew: the other one was killed
    assert files_of(again) == {"sessions.db", "keys.json"}


def test_a_restore_that_is_killed_at_any_call_leaves_nothing_to_open(
    backup: Path, tmp_path: Path
) -> None:
    again = tmp_path / "again"
    nth = refused = 0
    while killed_at(nth := nth + 1, lambda: restore(backup, again)):
        if unfinished.is_marked(again):
            refused += 1
            with pytest.raises(StoreUnusable, match="not finished"):
                make_store(settings_of(again), StepClock())
        elif (again / "sessions.db").exists():
            break
        if nth % 3 == 0:
            restore(backup, again)
            assert files_of(again) == {"sessions.db", "keys.json"}
            shutil.rmtree(again)
    assert refused > 5
    assert files_of(again) == {"sessions.db", "keys.json"}
    assert anyio.run(_heads, settings_of(again)).keys() == {"one", "two"}


def test_a_damaged_database_is_named_and_there_is_no_backup(
    settings: Settings, tmp_path: Path
) -> None:
    path = settings.sqlite_file
    assert path is not None
    with apsw.Connection(str(path)) as connection:
        size = connection.pragma("page_size")
        page = connection.execute("SELECT rootpage FROM sqlite_schema WHERE name = 'events'").get
    data = bytearray(path.read_bytes())
    data[(page - 1) * size] ^= 0xFF
    path.write_bytes(data)
    with pytest.raises(StoreUnusable, match=r"damaged|cannot be copied"):
        back_up(settings, tmp_path / "backup", StepClock())
    assert files_of(tmp_path) == {"data"}
