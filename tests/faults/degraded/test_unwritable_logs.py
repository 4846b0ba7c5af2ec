"""R1, R10: a log that cannot be written loses nothing acknowledged and affects no other session."""

import asyncio
import errno
from pathlib import Path

import pytest
from typing_extensions import override

from bamboo_gateway.domain.errors import StorageFailed
from bamboo_gateway.storage.jsonl.doctor import check as examine
from bamboo_gateway.storage.jsonl.store import JsonlStore
from tests.faults.degraded.disks import BadFile, VolatileBadFile, findings, ids, turn
from tests.processes import Gateway
from tests.storage.conftest import Opener
from tests.storage.faults import Image, abandon, files_of, write_out
from tests.storage.test_crashes import History, check_log
from tests.storage.writing import (
    StepClock,
    Writer,
    answer_to,
    append,
    committed,
    complete,
    message,
    run_start,
    token,
)
from tests.support.logs import captured_logs
from tests.support.waiting import until

LIMIT_KIB = 18_500
ERRORS = [errno.EIO, errno.EACCES, errno.EFBIG]


def held(data_dir: Path) -> list[str]:
    return [path.name for path in (data_dir / "index").glob("held-*")]


async def two_sessions(store: JsonlStore) -> tuple[Writer, Writer]:
    """`bad`, whose log has failed after three messages and a run's start, and `good`."""
    bad, good = Writer("bad", store.next_epoch()), Writer("good", store.next_epoch())
    for writer in (bad, good):
        await committed(store, writer.commit(message("m1"), message("m2", "x" * 900)))
    await committed(store, bad.commit(message("m3"), run_start("r"), note="k"))
    await write_out(store)
    return bad, good


@pytest.mark.parametrize("error", ERRORS, ids=errno.errorcode.get)
@pytest.mark.parametrize("operation", ["open", "write", "sync"])
@pytest.mark.parametrize("end", ["stopped", "crashed", "crashed before a checkpoint"])
async def test_what_was_acknowledged_is_there_after_a_restart_and_what_was_not_is_refused(
    opener: Opener, data_dir: Path, error: int, operation: str, end: str
) -> None:
    disk = BadFile("bad", error, (operation,))
    store = await opener(disk)
    bad, good = await two_sessions(store)
    if operation == "sync":
        assert await store.checkpoint()
    durable = bad.head.copy()
    refused = await answer_to(append(store, bad.commit(message("refused"))))
    assert isinstance(refused, StorageFailed)
    assert refused.retry_after_seconds
    assert list(store.unwritable()) == ["bad"]
    assert (await store.stats())["failed_logs"] == (await store.stats())["log_failures_total"] == 1
    # Others go on; so do an ending of a run, and reads.
    await committed(store, good.commit(message("m3")))
    await committed(store, Writer.of(durable).commit(complete("r"), reserve=True))
    assert await ids(store, "bad") == ["m1", "m2", "m3"]
    if end != "crashed before a checkpoint":
        assert await store.checkpoint()
        assert held(data_dir) == ["held-bad.jsonl"]
        await turn(store)
        # The journal is not pinned, and nothing is lost in a place where nobody looks.
        assert not store._journal.closed
        assert not list((data_dir / "quarantine").iterdir())
    await (store.aclose() if end == "stopped" else abandon(store))
    fresh = await opener()
    assert fresh.report.damaged == []  # type: ignore[attr-defined]
    for name in ("bad", "good"):
        assert await ids(fresh, name) == ["m1", "m2", "m3"]
    head = await fresh.load("bad")
    assert head is not None
    assert (head.epoch, head.seq, head.active) == (durable.epoch, durable.seq + 1, None)
    assert await fresh.find("bad", head.epoch, "note", key="k")
    assert held(data_dir) == []
    await committed(fresh, Writer.of(head).commit(message("m4")))
    await fresh.aclose()
    assert findings(data_dir) == []


@pytest.mark.parametrize("error", ERRORS, ids=errno.errorcode.get)
@pytest.mark.parametrize("end", ["stopped", "crashed", "crashed before a checkpoint"])
async def test_a_start_goes_on_with_a_log_that_still_cannot_be_written(
    opener: Opener, data_dir: Path, clock: StepClock, error: int, end: str
) -> None:
    disk = BadFile("bad", error)
    store = await opener(disk)
    await two_sessions(store)
    if end == "crashed":
        assert await store.checkpoint()
    await (store.aclose() if end == "stopped" else abandon(store))
    assert bool(findings(data_dir)) or end == "crashed before a checkpoint"
    for _ in range(2):
        again = await opener(disk)
        assert again.report.unwritten == ["bad"]  # type: ignore[attr-defined]
        assert not again.report.disk_full  # type: ignore[attr-defined]
        assert held(data_dir) == ["held-bad.jsonl"]
        assert await ids(again, "bad") == ["m1", "m2", "m3"]
        head = await again.load("bad")
        assert head is not None
        refused = await answer_to(append(again, Writer.of(head).commit(message("no"))))
        assert isinstance(refused, StorageFailed)
        await abandon(again)
    disk.fails = False
    again = await opener(disk)
    assert await ids(again, "bad") == ["m1", "m2", "m3"]
    await again.aclose()
    assert findings(data_dir) == []


async def test_a_log_that_can_be_written_again_is_found_out_without_being_asked(
    opener: Opener, data_dir: Path, clock: StepClock
) -> None:
    disk = BadFile("bad")
    with captured_logs() as logs:
        store = await opener(disk)
        bad, _ = await two_sessions(store)
        assert await store.checkpoint()
        for _ in range(5):  # each attempt fails, and is not said again
            clock.ms += 30_000
            await turn(store)
        assert list(store.unwritable()) == ["bad"]
        disk.fails = False
        clock.ms += 30_000
        await turn(store)
        assert store.unwritable() == {}
        await committed(store, bad.commit(message("m4")))
        assert await store.checkpoint()
    assert held(data_dir) == []
    said = [line for line in logs if line.get("session_id") == "bad"]
    assert [line["event"] for line in said] == ["log cannot be written", "log is written again"]
    assert "errno 5" in said[0]["why"]
    assert (await store.stats())["log_failures_total"] == 1
    await abandon(store)
    fresh = await opener()
    assert await ids(fresh, "bad") == ["m1", "m2", "m3", "m4"]
    await fresh.aclose()
    assert findings(data_dir) == []


@pytest.mark.parametrize("how", ["deleted", "packed", "compacted"])
async def test_such_a_session_can_be_deleted_archived_and_compacted(
    opener: Opener, data_dir: Path, how: str
) -> None:
    """R9: what was held of it before does not come back."""
    store = await opener(BadFile("bad"))
    bad, _ = await two_sessions(store)
    assert await store.checkpoint()
    assert held(data_dir)
    epoch = bad.head.epoch
    if how == "deleted":
        await store.delete("bad", epoch)
    elif how == "packed":
        await store.pack("bad", epoch)
    else:
        await committed(store, bad.commit(token(), complete("r"), reserve=True))
        assert await store.compact("bad", epoch, bad.head.seq)
    assert how == "deleted" or await ids(store, "bad") == ["m1", "m2", "m3"]
    await abandon(store)
    for _ in range(2):
        fresh = await opener()
        if how == "deleted":
            assert await fresh.load("bad") is None
        else:
            assert await ids(fresh, "bad") == ["m1", "m2", "m3"]
        assert held(data_dir) == []
        await fresh.aclose()
        assert findings(data_dir) == []


async def test_doctor_says_what_is_held_and_brings_it_in(opener: Opener, data_dir: Path) -> None:
    disk = BadFile("bad")
    store = await opener(disk)
    await two_sessions(store)
    await store.aclose()
    [found] = [f for f in examine(data_dir, StepClock()) if f.is_open]
    assert found.subject == "bad"
    assert "acknowledged bytes are not in its log" in found.problem
    assert "events/bad.jsonl" in found.action
    [still] = [f for f in examine(data_dir, StepClock(), repair=True, fs=disk) if f.is_open]
    assert (still.subject, held(data_dir)) == ("bad", ["held-bad.jsonl"])
    assert not [f for f in examine(data_dir, StepClock(), repair=True) if f.is_open]
    assert held(data_dir) == []
    fresh = await opener()
    assert await ids(fresh, "bad") == ["m1", "m2", "m3"]


@pytest.mark.parametrize("is_damaged", [False, True])
async def test_what_is_held_is_found_without_a_catalog_and_its_damage_is_said(
    opener: Opener, data_dir: Path, is_damaged: bool
) -> None:
    """R4, R10."""
    store = await opener(BadFile("bad"))
    await two_sessions(store)
    await store.aclose()
    (data_dir / "index" / "catalog.jsonl").unlink()
    if is_damaged:
        path = data_dir / "index" / "held-bad.jsonl"
        path.write_bytes(path.read_bytes().replace(b"m3", b"m4"))
    fresh = await opener()
    if is_damaged:
        assert fresh.report.damaged  # type: ignore[attr-defined]
        assert list((data_dir / "quarantine").glob("records-bad-*"))
    else:
        assert await ids(fresh, "bad") == ["m1", "m2", "m3"]
    assert await ids(fresh, "good") == ["m1", "m2"]


async def fails_for_a_while(store: JsonlStore, disk: VolatileBadFile, history: History) -> None:
    """The log of `one` cannot be written, is given up twice, and can be written again."""
    one = Writer("one", store.next_epoch())
    disk.fails = False
    await history.commit(store, one.commit(message("m1"), note="key1"))
    await store.checkpoint()
    await history.commit(store, one.commit(message("m2")))
    await write_out(store)
    disk.fails = True
    store._writer.forget(store._table.logs["one"])
    await history.commit(store, one.commit(run_start("run_1"), message("m3")))
    await write_out(store)
    await store.checkpoint()
    assert store._table.logs["one"].held_end
    await history.commit(store, one.commit(token("a"), reserve=True))
    await store.checkpoint()
    await history.commit(store, one.commit(complete("run_1"), reserve=True))
    disk.fails = False
    store._clock.ms += 60_000  # type: ignore[attr-defined]
    await turn(store)
    await history.commit(store, one.commit(message("m4")))
    await store.compact("one", one.head.epoch, one.head.seq - 1)
    await store.checkpoint()
    await history.commit(store, one.commit(message("m5")))


async def crashes(root: Path) -> list[tuple[Image, History]]:
    """Run the script; return what each crash leaves, from the first change to the last."""
    disk, history = VolatileBadFile(root, "one"), History()
    found: list[tuple[Image, History]] = []
    disk.before_change = lambda: found.append((disk.take_image(), history.at_crash()))
    store = JsonlStore(root, StepClock(), fs=disk)
    await store.open()
    await fails_for_a_while(store, disk, history)
    await abandon(store)
    return found


def is_compacted(log: Path) -> bool:
    return log.exists() and b'"compacted"' in log.read_bytes()[:200]


async def check_whole(root: Path, history: History) -> None:
    assert history.frozen is not None
    acked, _ = history.frozen
    # First on the bad disk still, then on a good one, then once more.
    for name in ("one", "none", "none"):
        store = JsonlStore(root, StepClock(), fs=VolatileBadFile(root, name))
        report = await store.open()
        assert report.damaged == []
        head = await store.load("one")
        [key] = history.given
        if head is None:
            assert not acked.get(key)
        else:
            assert head.epoch == key[1]
            given = history.given[key]
            if is_compacted(root / "events" / "one.jsonl"):
                assert set(await ids(store, "one")) >= {f"m{n}" for n in range(1, 5)}
            else:
                await check_log(store, head, given, acked.get(key, 0))
        await abandon(store)


def test_r1_whatever_change_is_the_last_what_was_held_is_there_once(
    tmp_path: Path,
) -> None:
    root = tmp_path / "data"
    found = asyncio.run(crashes(root))
    assert len(found) > 100
    seen = set()
    for crash_at, (image, history) in list(enumerate(found))[::2]:
        for power_lost in (False, True):
            image.restore(root, power_lost=power_lost)
            left = (files_of(root), str(history.frozen))
            if left in seen:
                continue
            seen.add(left)
            try:
                asyncio.run(check_whole(root, history))
            except BaseException as error:
                error.add_note(f"crash at change {crash_at}, power lost: {power_lost}")
                raise


class Limited(Gateway):
    """A gateway whose files may not grow beyond a limit, which segments of the journal keep."""

    @override
    def command(self) -> list[str]:
        limit = f'ulimit -f {LIMIT_KIB}; exec "$@"'
        return ["bash", "-c", limit, "limited", *super().command()]


@pytest.mark.slow
@pytest.mark.parametrize("end", ["killed", "stopped"])
def test_a_session_that_reached_the_limit_of_its_file_keeps_all_that_was_acknowledged(
    tmp_path: Path, end: str
) -> None:
    acknowledged: list[str] = []
    with Limited(tmp_path, {"BAMBOO_CHECKPOINT_INTERVAL_SECONDS": "1"}) as limited:
        for name in ("big", "other"):
            limited.call("POST", "/sessions", json={"id": name})
        while True:
            content = f"{len(acknowledged)} {'x' * 900_000}"
            body = {"role": "user", "content": content}
            answer = limited.http.post("/sessions/big/messages", json=body)
            if answer.status_code != 201:
                break
            acknowledged.append(str(len(acknowledged)))
        assert (answer.status_code, answer.json()["code"]) == (503, "storage-failed")
        assert len(acknowledged) * 900_000 > 1024 * LIMIT_KIB - 2_000_000
        limited.call("POST", "/sessions/other/messages", json={"role": "user", "content": "on"})
        where = limited.data_dir / "index" / "held-big.jsonl"
        until(where.exists, "what the log lacks is held")
        if end == "killed":
            limited.kill()
        else:
            assert limited.stop() == 0
    free = Gateway(tmp_path)
    with free:
        found: list[str] = []
        after = None
        while True:
            params = {"limit": 10} | ({"after": after} if after else {})
            page = free.call("GET", "/sessions/big/messages", params=params)
            found += [said["content"].split()[0] for said in page["messages"]]
            after = page["next_cursor"]
            if not page["has_more"]:
                break
        assert found == acknowledged
        body = {"role": "user", "content": "again"}
        assert free.http.post("/sessions/big/messages", json=body).status_code == 201
        assert free.stop() == 0
    assert findings(free.data_dir) == []
