"""A directory that disappears, and disks that are read-only, unreadable or slow."""

import errno
import io
import os
import shutil
import threading
import zipfile
from pathlib import Path

import anyio
import httpx
import pytest
from typing_extensions import override

from bamboo_gateway.domain.errors import StorageFailed
from bamboo_gateway.storage.base import StoreUnusable
from bamboo_gateway.storage.file_system import FileSystem
from bamboo_gateway.storage.jsonl.doctor import check as examine
from bamboo_gateway.storage.jsonl.store import JsonlStore
from tests.api.serving import refused, serving
from tests.faults.degraded.disks import findings, ids, turn
from tests.faults.wire import metric
from tests.storage.conftest import Opener
from tests.storage.faults import FaultyFileSystem, abandon
from tests.storage.writing import (
    StepClock,
    Writer,
    answer_to,
    append,
    committed,
    everything,
    message,
)
from tests.support.waiting import until, until_true


def move(source: Path, target: Path) -> None:
    source.rename(target)


def contents(root: Path) -> dict[Path, bytes | None]:
    """Return all files and directories, and what is in the files."""
    return {path: path.read_bytes() if path.is_file() else None for path in root.rglob("*")}


def refusal(store: JsonlStore) -> str | None:
    return store.refusal.code if store.refusal else None


async def test_a_directory_that_is_moved_away_refuses_everything_until_it_is_back(
    opener: Opener, data_dir: Path, clock: StepClock
) -> None:
    """R1: nothing is acknowledged into files that the next start does not find."""
    store = await opener()
    writer = Writer("s", store.next_epoch())
    await committed(store, writer.commit(message("m0")))
    away = data_dir.with_name("away")
    move(data_dir, away)
    # Another one in its place is not that one either: nothing is written there.
    (data_dir / "index").mkdir(parents=True)
    clock.ms += 1000
    await turn(store)
    durable = writer.head.copy()
    assert isinstance(await answer_to(append(store, writer.commit(message("no")))), StorageFailed)
    assert refusal(store) == "storage-failed"
    assert not await store.checkpoint()
    assert contents(data_dir) == {data_dir / "index": None}
    shutil.rmtree(data_dir)
    clock.ms += 1000
    await turn(store)
    assert refusal(store) == "storage-failed"
    move(away, data_dir)
    clock.ms += 1000
    await turn(store)
    assert refusal(store) is None
    await committed(store, Writer.of(durable).commit(message("m1")))
    await store.aclose()
    assert findings(data_dir) == []
    fresh = await opener()
    assert await ids(fresh, "s") == ["m0", "m1"]


async def test_a_segment_that_somebody_removed_is_given_up_and_costs_nothing(
    opener: Opener, data_dir: Path, clock: StepClock
) -> None:
    store = await opener()
    writer = Writer("s", store.next_epoch())
    await committed(store, writer.commit(message("m0")))
    for path in (data_dir / "index").glob("journal-*"):
        path.unlink()
    clock.ms += 1000
    await turn(store)
    await committed(store, writer.commit(message("m1")))
    assert store.refusal is None
    assert await store.checkpoint()
    await abandon(store)
    fresh = await opener()
    assert await ids(fresh, "s") == ["m0", "m1"]


def test_ready_says_that_the_data_directory_is_gone_and_when_it_is_back(tmp_path: Path) -> None:
    root, away = tmp_path / "data", tmp_path / "away"
    with (
        serving(storage_url="jsonl:", data_dir=root, checkpoint_interval_seconds=0.2) as served,
        served.client() as api,
    ):
        api.post("/sessions", json={"id": "s"}).raise_for_status()
        root.rename(away)
        until(lambda: api.get("/health/ready").status_code == 503, "it is not ready")
        problem = refused(api.get("/health/ready"), 503, "unavailable")
        assert problem["check"] == "storage"
        assert "data directory" in problem["detail"]
        assert metric(api, "ready") == 0
        refused(api.post("/sessions", json={"id": "t"}), 503, "storage-failed")
        assert api.get("/sessions/s").status_code == 200
        checks = {check["name"]: check for check in api.get("/diagnostics").json()["checks"]}
        assert checks["writing"]["status"] == "fail"
        away.rename(root)
        until(lambda: api.get("/health/ready").status_code == 200, "it is ready again")
        assert api.post("/sessions", json={"id": "t"}).status_code == 201


def test_ready_and_diagnostics_tell_a_full_disk_and_a_log_that_cannot_be_written_apart(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fault: dict[str, int] = {}
    fs = FaultyFileSystem(
        lambda _, operation, path: (
            fault.get("error")
            if operation in ("open", "write") and path.endswith("events/bad.jsonl")
            else None
        )
    )
    monkeypatch.setattr("bamboo_gateway.storage.jsonl.store.FileSystem", lambda: fs)
    with (
        serving(storage_url="jsonl:", data_dir=tmp_path, checkpoint_interval_seconds=0.2) as served,
        served.client() as api,
    ):
        for name in ("bad", "good"):
            api.post("/sessions", json={"id": name}).raise_for_status()

        def say(name: str) -> httpx.Response:
            return api.post(f"/sessions/{name}/messages", json={"role": "user", "content": "x"})

        for error, code in ((errno.EIO, "storage-failed"), (errno.ENOSPC, "storage-full")):
            fault["error"] = error
            until(lambda: say("bad").status_code == 503, "it is refused")
            answer = say("bad")
            refused(answer, 503, code)
            assert int(answer.headers["Retry-After"]) >= 1
            assert say("good").status_code == 201
            ready = api.get("/health/ready")
            assert ready.status_code == 200
            assert ready.json()["detail"].startswith("read-only") == (error == errno.ENOSPC)
            [seen] = [c for c in api.get("/diagnostics").json()["checks"] if c["name"] == "writing"]
            assert seen["status"] == "fail"
            assert error == errno.ENOSPC or "bad: Input/output error" in seen["seen"]
            assert metric(api, "store_failed_logs") == 1
            assert b'"writable": false' in _storage_of(api, "bad")
            fault.clear()
            until(lambda: say("bad").status_code == 201, "it is written again")
            assert metric(api, "store_failed_logs") == 0
            assert b'"writable": true' in _storage_of(api, "bad")


def _storage_of(api: httpx.Client, session_id: str) -> bytes:
    report = api.get(f"/sessions/{session_id}/diagnostics").content
    with zipfile.ZipFile(io.BytesIO(report)) as archive:
        return archive.read("storage.json")


async def test_a_disk_that_becomes_read_only_refuses_writes_and_nothing_else(
    opener: Opener, data_dir: Path, clock: StepClock
) -> None:
    """R1: what was acknowledged stays; a start waits for a disk that can be written, unchanged."""
    disk = FaultyFileSystem()
    store = await opener(disk)
    await committed(store, Writer("a", store.next_epoch()).commit(message("m0")))
    assert await store.checkpoint()
    writer = Writer("b", store.next_epoch())
    await committed(store, writer.commit(message("m0")))
    await committed(store, writer.commit(message("m1")))
    durable = writer.head.copy()
    disk.should_fail = lambda *_: errno.EROFS
    assert isinstance(await answer_to(append(store, writer.commit(message("no")))), StorageFailed)
    assert refusal(store) == "storage-failed"
    assert not await store.checkpoint()
    assert (await ids(store, "a"), await ids(store, "b")) == (["m0"], ["m0", "m1"])
    await store.aclose()
    before = contents(data_dir)
    with pytest.raises(StoreUnusable, match="Read-only file system"):
        await opener(disk)
    assert contents(data_dir) == before
    disk.should_fail = lambda *_: None
    store = await opener(disk)
    assert (await ids(store, "a"), await ids(store, "b")) == (["m0"], ["m0", "m1"])
    disk.should_fail = lambda *_: errno.EROFS
    failing = Writer.of(durable)
    assert isinstance(await answer_to(append(store, failing.commit(message("no")))), StorageFailed)
    disk.should_fail = lambda *_: None
    clock.ms += 1000
    await turn(store)
    assert refusal(store) is None
    await committed(store, Writer.of(durable).commit(message("m2")))
    await store.aclose()
    fresh = await opener()
    assert await ids(fresh, "b") == ["m0", "m1", "m2"]
    await fresh.aclose()
    assert findings(data_dir) == []


class Unreadable(FaultyFileSystem):
    """One log whose file gives an error when it is read."""

    fails = True

    def __init__(self, name: str) -> None:
        super().__init__()
        self._end = f"events/{name}.jsonl"

    @override
    def pread(self, fd: int, size: int, offset: int) -> bytes:
        if self.fails and self._names.get(fd, "").endswith(self._end):
            raise OSError(errno.EIO, os.strerror(errno.EIO))
        return super().pread(fd, size, offset)


@pytest.mark.parametrize("end", ["stopped", "crashed"])
async def test_a_log_that_cannot_be_read_is_an_error_and_no_damage(
    opener: Opener, data_dir: Path, end: str
) -> None:
    """R4, R10: nothing is set aside or begun anew for a disk that may answer the next time."""
    store = await opener()
    for name in ("bad", "good"):
        writer = Writer(name, store.next_epoch())
        await committed(store, writer.commit(message("m0")))
        assert await store.checkpoint()
        await committed(store, writer.commit(message("m1")))
    await (store.aclose() if end == "stopped" else abandon(store))
    disk = Unreadable("bad")
    store = await opener(disk)
    assert store.report.damaged == []  # type: ignore[attr-defined]
    head = await store.load("bad")
    assert head is not None
    for _ in range(2):
        with pytest.raises(StorageFailed):
            await store.read("bad", head.epoch, 0, limit=10, max_bytes=1 << 20)
        with pytest.raises(StorageFailed):
            await store.find("bad", head.epoch, "message")
    assert await ids(store, "good") == ["m0", "m1"]
    disk.fails = False
    assert await ids(store, "bad") == ["m0", "m1"]
    assert await store.load("bad") == head
    await store.aclose()
    assert not list((data_dir / "quarantine").iterdir())
    assert findings(data_dir) == []


class SlowDisk(FileSystem):
    """A disk whose writes to the journal arrive when they are let through."""

    def __init__(self) -> None:
        self.open_gate = threading.Event()
        self.open_gate.set()
        self.waiting = threading.Event()

    @override
    def pwrite_synced(self, fd: int, data: bytes, offset: int) -> None:
        self.waiting.set()
        assert self.open_gate.wait(60)
        super().pwrite_synced(fd, data, offset)


async def test_a_slow_disk_holds_up_acknowledgements_and_nothing_else(opener: Opener) -> None:
    """R1, R7, R12."""
    disk = SlowDisk()
    store = await opener(disk)
    writer = Writer("s", store.next_epoch())
    await committed(store, writer.commit(message("m0")))
    durable = writer.head.copy()
    disk.open_gate.clear()
    disk.waiting.clear()
    try:
        answers = [append(store, writer.commit(message(f"m{n}"))) for n in (1, 2, 3)]
        await until_true(disk.waiting.is_set)
        assert await ids(store, "s") == ["m0"]
        assert await store.load("s") == durable
        assert store.is_writing
        assert store.refusal is None
        assert not any(answer.done() for answer in answers)
    finally:
        disk.open_gate.set()
    with anyio.fail_after(60):
        assert [await answer for answer in answers] == [None] * 3
    assert await ids(store, "s") == ["m0", "m1", "m2", "m3"]


async def test_what_was_set_aside_finds_its_way_back(opener: Opener, data_dir: Path) -> None:
    """R4, R10: a damaged log goes on without what is lost; put back, it has everything again."""
    store = await opener()
    writer = Writer("s", store.next_epoch())
    await committed(store, writer.commit(*(message(f"m{n}", "x" * 200) for n in range(4))))
    await store.aclose()
    log = data_dir / "events" / "s.jsonl"
    (data_dir / "sessions" / "s.json").unlink()  # it would refill what is lost
    whole = log.read_bytes()
    log.write_bytes(whole.replace(b'"id":"m2"', b'"id":"??"'))
    store = await opener()
    head = await store.load("s")
    assert head is not None
    with pytest.raises(Exception, match="no such session"):
        await everything(store, "s")
    again = await store.load("s")
    assert again is not None
    assert again.epoch > head.epoch
    assert await ids(store, "s") == ["m0", "m1", "m3"]
    [piece] = (data_dir / "quarantine").glob("log-s-*.jsonl")
    assert b'"id":"??"' in piece.read_bytes()
    await store.aclose()
    # The log from a backup, in its place.
    log.write_bytes(whole)
    assert [f.problem for f in examine(data_dir, StepClock()) if f.is_open]
    assert not [f for f in examine(data_dir, StepClock(), repair=True) if f.is_open]
    fresh = JsonlStore(data_dir, StepClock())
    await fresh.open()
    last = await fresh.load("s")
    assert last is not None
    assert last.epoch > again.epoch
    assert await ids(fresh, "s") == ["m0", "m1", "m2", "m3"]
    await fresh.aclose()
    assert findings(data_dir) == []
