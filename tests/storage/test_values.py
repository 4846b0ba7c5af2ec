"""values.sqlite, the values of the store of files: killed, damaged, on a full disk, moved."""

import itertools
import shutil
from contextlib import suppress
from pathlib import Path

import apsw
import pytest

from bamboo_gateway.domain.clock import SystemClock
from bamboo_gateway.domain.errors import StorageFailed, StorageFull
from bamboo_gateway.storage.base import ChangesLost, StoreUnusable
from bamboo_gateway.storage.jsonl import doctor
from bamboo_gateway.storage.jsonl.store import JsonlStore
from bamboo_gateway.storage.reports import ValueChange
from tests.storage.backups import back_up, restore
from tests.storage.faults import abandon
from tests.storage.sqlite.vfs import faults
from tests.storage.writing import StepClock, Writer, committed, message

MANY = {f"key {number:04}": b"%d" % number * 200 for number in range(300)}


async def opened(root: Path) -> JsonlStore:
    store = JsonlStore(root, StepClock())
    await store.open()
    return store


async def write(store: JsonlStore, values: dict[str, bytes]) -> None:
    await store.write_values([ValueChange("k", key, value) for key, value in values.items()])


async def all_of(store: JsonlStore) -> dict[str, bytes]:
    return dict(await store.values("k", limit=10_000))


def tear(path: Path, page: int) -> None:
    """Overwrite a page of a database."""
    with path.open("r+b") as file:
        file.seek(4096 * page)
        file.write(b"\xa5" * 4096)


async def test_a_store_without_values_has_no_file_for_them(tmp_path: Path) -> None:
    store = await opened(tmp_path)
    assert await store.value("k", "a") is None
    assert await store.values("k") == []
    assert await store.value_kinds() == []
    await store.write_values([ValueChange("k", "a", None)])
    await store.aclose()
    assert not (tmp_path / "values.sqlite").exists()


async def test_what_was_written_is_there_after_a_kill(tmp_path: Path) -> None:
    """R1: the files as they are while the store is open are those that a kill leaves."""
    store = await opened(tmp_path / "data")
    await write(store, MANY)
    await store.write_values([ValueChange("k", "key 0003", None)])
    shutil.copytree(tmp_path / "data", tmp_path / "killed")
    await abandon(store)
    again = await opened(tmp_path / "killed")
    assert await all_of(again) == {key: MANY[key] for key in MANY if key != "key 0003"}
    await again.aclose()


@pytest.mark.parametrize("page", [0, 1, 2, 9])
async def test_a_damaged_file_is_set_aside_and_what_can_be_read_stays(
    tmp_path: Path, page: int
) -> None:
    """R10: it never stops a start; doctor says what was done."""
    store = await opened(tmp_path)
    await write(store, MANY)
    await store.aclose()
    tear(tmp_path / "values.sqlite", page)
    found = doctor.check(tmp_path, SystemClock())
    assert [one.severity for one in found if one.subject == "values.sqlite"] == ["fail"]
    store = JsonlStore(tmp_path, StepClock())
    report = await store.open()
    [kept] = report.quarantined
    assert report.damaged[0].startswith("values.sqlite: ")
    assert (tmp_path / "quarantine" / kept).stat().st_size > 0
    left = await all_of(store)
    assert left.items() <= MANY.items()
    if page == 9:
        assert len(left) > 100
    [check] = [one for one in await store.check(1, 1) if one.name == "values"]
    assert check.status == "fail"
    await write(store, {"new": b"x"})
    assert (await all_of(store))["new"] == b"x"
    await store.aclose()
    found = doctor.check(tmp_path, SystemClock())
    assert [one.severity for one in found if one.is_open] == []
    assert f"quarantine/{kept}" in [one.subject for one in found]


async def test_doctor_repairs_damaged_values(tmp_path: Path) -> None:
    store = await opened(tmp_path)
    await write(store, MANY)
    await store.aclose()
    tear(tmp_path / "values.sqlite", 9)
    found = doctor.check(tmp_path, SystemClock(), repair=True)
    assert [one.repaired for one in found if one.subject == "values.sqlite"] == [True]
    store = JsonlStore(tmp_path, StepClock())
    assert (await store.open()).quarantined == []
    assert 100 < len(await all_of(store)) < 300
    await store.aclose()


async def test_setting_aside_goes_on_after_a_crash(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = await opened(tmp_path / "first")
    await write(store, MANY)
    await store.aclose()
    tear(tmp_path / "first" / "values.sqlite", 9)
    for nth in itertools.count(1):
        root = tmp_path / f"crash-{nth}"
        shutil.copytree(tmp_path / "first", root)
        calls = itertools.count(1)
        store = JsonlStore(root, StepClock())
        fs, rename = store._fs, store._fs.rename

        def crashing(source: Path, target: Path) -> None:
            if "values" in source.name + target.name and next(calls) == nth:  # noqa: B023
                raise OSError(5, "crashed")
            rename(source, target)  # noqa: B023

        monkeypatch.setattr(fs, "rename", crashing)
        with suppress(StoreUnusable):
            await store.open()
            await store.aclose()
            break
        store = await opened(root)
        assert 100 < len(await all_of(store)) < 300
        await store.aclose()
    assert nth > 3


async def test_the_file_of_a_newer_version_is_left_alone(tmp_path: Path) -> None:
    store = await opened(tmp_path)
    await write(store, {"a": b"x"})
    await store.aclose()
    connection = apsw.Connection(str(tmp_path / "values.sqlite"))
    connection.pragma("user_version", 99)
    connection.close()
    with pytest.raises(StoreUnusable, match="newer version"):
        await opened(tmp_path)


@pytest.mark.parametrize("on", [False, True], ids=["once", "for_good"])
@pytest.mark.parametrize("operation", ["write", "sync"])
@pytest.mark.parametrize("error", [apsw.IOError, apsw.FullError], ids=["io", "full"])
async def test_a_failed_call_changes_nothing_and_loses_nothing(
    tmp_path: Path, error: type[apsw.Error], operation: str, on: bool
) -> None:
    """R1, R3: the Nth call to the disk fails, for N = 1, 2, 3… until none is left to fail."""
    for nth in itertools.count(1):
        root = tmp_path / f"{nth}"
        expected: dict[str, bytes] = {}
        with faults() as vfs:
            store = await opened(root)
            count = itertools.count(1)

            def should_fail(_number: int, called: str, file: str) -> apsw.Error | None:
                if called != operation or not file.startswith("values.sqlite"):
                    return None
                at = next(count)  # noqa: B023
                failing = at == nth or (on and at > nth)  # noqa: B023
                return error("injected") if failing else None

            vfs.should_fail = should_fail
            for step in range(4):
                changes: dict[str, bytes | None] = {
                    f"a{step}": b"x" * 3000,
                    f"b{step}": b"y",
                    f"a{step - 1}": None,
                }
                try:
                    await store.write_values(
                        [ValueChange("k", key, value) for key, value in changes.items()]
                    )
                except (StorageFailed, StorageFull):
                    continue
                merged = {**expected, **changes}
                expected = {key: value for key, value in merged.items() if value is not None}
            vfs.should_fail = lambda *_: None
            called = next(count)
            shutil.copytree(root, tmp_path / "image", dirs_exist_ok=True)
            await abandon(store)
        again = await opened(tmp_path / "image")
        assert await all_of(again) == expected, nth
        await again.aclose()
        shutil.rmtree(tmp_path / "image")
        if called <= nth:
            break
    assert nth > 1


async def test_a_backup_of_a_running_store_has_the_values_and_begins_a_new_feed(
    tmp_path: Path,
) -> None:
    store = await opened(tmp_path / "data")
    await write(store, MANY)
    writer = Writer("s", store.next_epoch())
    await committed(store, writer.commit())
    feed, last = await store.last_change()
    manifest = await store._in_thread(lambda: back_up(tmp_path / "data", tmp_path / "backup"))
    assert "values.sqlite" in [file.path for file in manifest.files]
    await write(store, {"later": b"x"})
    await store.aclose()
    restore(tmp_path / "backup", tmp_path / "again")
    again = await opened(tmp_path / "again")
    assert await all_of(again) == MANY
    with pytest.raises(ChangesLost):
        await again.changes(feed, last, 10)
    await again.aclose()


async def test_a_lost_catalog_begins_a_new_feed(tmp_path: Path) -> None:
    store = await opened(tmp_path)
    writer = Writer("s", store.next_epoch())
    await committed(store, writer.commit())
    feed, last = await store.last_change()
    await store.aclose()
    store = await opened(tmp_path)
    assert (await store.last_change())[0] == feed
    await store.aclose()
    (tmp_path / "index" / "catalog.jsonl").unlink()
    store = await opened(tmp_path)
    with pytest.raises(ChangesLost):
        await store.changes(feed, last, 10)
    now = await store.last_change()
    await committed(store, Writer.of(writer.head).commit(message("m")))
    page = await store.changes(*now, 10)
    assert [change.session_id for change in page.changes] == ["s"]
    await store.aclose()


async def test_only_so_many_deletions_are_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("bamboo_gateway.storage.jsonl.index.change_log.GONE_SESSIONS_MAX", 3)
    store = await opened(tmp_path)
    numbers = [await store.last_change()]
    for number in range(5):
        writer = Writer(f"s{number}", store.next_epoch())
        await committed(store, writer.commit())
        await store.delete(f"s{number}", writer.head.epoch)
        numbers.append(await store.last_change())
    for _ in range(2):
        for known in numbers[:2]:
            with pytest.raises(ChangesLost):
                await store.changes(*known, 10)
        page = await store.changes(*numbers[2], 10)
        assert [change.session_id for change in page.changes] == ["s2", "s3", "s4"]
        await store.aclose()
        store = await opened(tmp_path)
    await store.aclose()
