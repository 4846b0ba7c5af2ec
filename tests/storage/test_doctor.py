"""`bamboo doctor` on JSONL files: findings, repairs, and no change without `repair`."""

import asyncio
import shutil
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest

from bamboo_gateway.settings import Settings
from bamboo_gateway.storage.base import StoreBusy, StoreUnusable
from bamboo_gateway.storage.factory import check_store
from bamboo_gateway.storage.jsonl.store import JsonlStore
from bamboo_gateway.storage.lines import mark_of_line
from bamboo_gateway.storage.marks import Mark
from bamboo_gateway.storage.reports import Finding
from tests.storage.faults import abandon
from tests.storage.test_damage import flip
from tests.storage.writing import (
    StepClock,
    Writer,
    committed,
    complete,
    entries_of,
    everything,
    message,
    run_start,
    seqs,
    token,
)


def make_data(root: Path, *, closed: bool = True) -> Writer:
    async def make() -> Writer:
        store = JsonlStore(root, StepClock())
        await store.open()
        one, two = Writer("one", store.next_epoch()), Writer("two", store.next_epoch())
        await committed(store, one.commit(message("m1"), token("a"), message("m2"), note="k"))
        await committed(store, two.commit(message("m1")))
        await store.checkpoint()
        await committed(store, one.commit(token("b")))
        await (store.aclose() if closed else abandon(store))
        return one

    return asyncio.run(make())


def check(root: Path, *, repair: bool = False, new_epochs: bool = False) -> list[Finding]:
    settings = Settings(data_dir=root)
    return check_store(settings, StepClock(), repair=repair, new_epochs=new_epochs)


def state_of(root: Path) -> dict[str, bytes]:
    return {
        str(path.relative_to(root)): path.read_bytes().rstrip(b"\0 \n")
        for path in root.rglob("*")
        if path.is_file() and path.name != "LOCK"
    }


def test_healthy_data_has_no_findings(data_dir: Path) -> None:
    make_data(data_dir)
    told: list[tuple[int, int]] = []
    settings = Settings(data_dir=data_dir)
    assert check_store(settings, StepClock(), progress=lambda *n: told.append(n)) == []
    assert told == [(1, 2), (2, 2)]
    assert check(data_dir, repair=True) == []


def test_records_left_by_a_crash_are_a_note_and_repair_replays_them(data_dir: Path) -> None:
    make_data(data_dir, closed=False)
    before = state_of(data_dir)
    findings = check(data_dir)
    assert [(finding.severity, finding.is_open) for finding in findings] == [("note", False)]
    assert state_of(data_dir) == before
    assert [finding.repaired for finding in check(data_dir, repair=True)] == [True]
    assert check(data_dir) == []
    assert read(data_dir, "one") == [1, 2, 3, 4, 5]


def read(root: Path, session_id: str) -> list[int]:
    async def look() -> list[int]:
        store = JsonlStore(root, StepClock())
        await store.open()
        try:
            return await seqs(store, session_id)
        finally:
            await store.aclose()

    return asyncio.run(look())


def epoch_of(root: Path, session_id: str) -> int:
    async def look() -> int:
        store = JsonlStore(root, StepClock())
        await store.open()
        head = await store.load(session_id)
        await store.aclose()
        assert head is not None
        return head.epoch

    return asyncio.run(look())


@pytest.mark.parametrize(
    ("name", "mark", "severity"),
    [
        ("events/one.jsonl", b'"seq":3', "fail"),
        ("events/one.jsonl", b'"log":1', "fail"),
        ("sessions/one.json", b'"snapshot":1', "warn"),
        ("sessions/one.json", b'"m2"', "warn"),
        ("index/marks/one.idx", b"bamboo", "warn"),
        ("index/catalog.jsonl", b'"one"', "warn"),
    ],
)
def test_a_flipped_byte_anywhere_is_found_and_repaired(
    data_dir: Path, name: str, mark: bytes, severity: str
) -> None:
    """R10."""
    writer = make_data(data_dir)
    path = data_dir / name
    flip(path, path.read_bytes().index(mark) + 2)
    before = state_of(data_dir)
    findings = check(data_dir)
    assert any(f.severity == severity and not f.repaired for f in findings), findings
    assert state_of(data_dir) == before
    assert any(f.repaired for f in check(data_dir, repair=True))
    left = check(data_dir)
    assert all(finding.subject.startswith("quarantine/") for finding in left), left
    found = read(data_dir, "one")
    assert set(found) >= {1, 2, 4, 5}
    assert (epoch_of(data_dir, "one") > writer.head.epoch) == (severity == "fail")
    assert read(data_dir, "two") == [1, 2]


async def keyed(store: JsonlStore) -> None:
    writer = await some_session(store)
    await committed(store, writer.commit(message("m2"), note="k2"))
    await committed(store, writer.commit(note="k2"))
    await committed(store, writer.commit(run_start("run_1"), token("a"), note="k3"))


async def without_messages(store: JsonlStore) -> None:
    await committed(store, Writer("one", store.next_epoch()).commit())


async def compacted(store: JsonlStore) -> None:
    writer = await some_session(store)
    await committed(store, writer.commit(run_start("run_1"), token("a"), note="k1"))
    await committed(store, writer.commit(token("b"), note="k2"))
    await committed(store, writer.commit(message("m2"), complete("run_1"), note="k3"))
    assert await store.compact("one", writer.head.epoch, writer.head.seq) > 0
    await committed(store, writer.commit(message("m3"), note="k4"))


async def archived(store: JsonlStore) -> None:
    writer = await some_session(store)
    await store.pack("one", writer.head.epoch)


async def restored(store: JsonlStore) -> None:
    writer = await some_session(store)
    await store.pack("one", writer.head.epoch)
    await store.unpack("one", writer.head.epoch)
    await committed(store, writer.commit(message("m2"), note="k2"))


async def made_whole(store: JsonlStore) -> None:
    """Create a session as forks and imports do, with an idempotency key."""
    history = Writer("one", store.next_epoch())
    async with store.creation("one", history.head.epoch) as creation:
        await creation.write(*entries_of(history.commit(message("m1"), message("m2"), note="k1")))
        await creation.publish(history.head)


async def evicted(store: JsonlStore) -> None:
    await some_session(store)
    for _ in range(3):
        await store.release("one")
        assert await store.checkpoint()
    assert not store._table.logs


async def made_again(store: JsonlStore) -> None:
    writer = await some_session(store)
    await store.release("one")
    await store.delete("one", writer.head.epoch)
    await some_session(store)
    await store.release("one")


async def rebuilt(store: JsonlStore) -> None:
    writer = await some_session(store)
    assert await store.checkpoint()
    store._paths.marks_of("one").unlink()
    [found] = await store.find("one", writer.head.epoch, "note", key="k1")
    assert found.seq == writer.head.seq


async def some_session(store: JsonlStore) -> Writer:
    writer = Writer("one", store.next_epoch())
    await committed(store, writer.commit(message("m1"), note="k1"))
    return writer


@pytest.mark.parametrize("checkpointed", [True, False])
@pytest.mark.parametrize("closed", [True, False])
@pytest.mark.parametrize(
    "done",
    [
        keyed,
        without_messages,
        compacted,
        archived,
        restored,
        made_whole,
        evicted,
        made_again,
        rebuilt,
    ],
)
def test_the_doctor_finds_nothing_after_any_history_of_sessions(
    data_dir: Path,
    done: Callable[[JsonlStore], Awaitable[None]],
    *,
    checkpointed: bool,
    closed: bool,
) -> None:
    async def go_through() -> None:
        store = JsonlStore(data_dir, StepClock())
        await store.open()
        await done(store)
        if checkpointed:
            assert await store.checkpoint()
        await (store.aclose() if closed else abandon(store))

    asyncio.run(go_through())
    assert not [finding for finding in check(data_dir) if finding.is_open]
    assert not [one for one in check(data_dir, repair=True) if one.severity != "note"]
    assert list((data_dir / "quarantine").iterdir()) == []
    assert check(data_dir) == []


def _as_earlier_gateways(body: bytes, seq_before: int) -> Mark | None:
    mark = mark_of_line(body, seq_before)
    return mark._replace(key="idempotency") if mark is not None and mark.kind == "note" else mark


def test_bundles_and_marks_of_earlier_gateways_are_valid_and_their_notes_are_found(
    data_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """They gave all notes one key when they made marks from lines."""

    async def fill() -> None:
        store = JsonlStore(data_dir, StepClock())
        await store.open()
        writer = await some_session(store)
        await committed(store, writer.commit(message("m2"), note="k2"))
        with monkeypatch.context() as earlier:
            earlier.setattr(
                "bamboo_gateway.storage.jsonl.bundle.mark_of_line", _as_earlier_gateways
            )
            await store.pack("one", writer.head.epoch)
        await look_for_notes(store)
        await store.aclose()

    async def look_for_notes(store: JsonlStore) -> None:
        head = await store.load("one")
        assert head is not None
        for number in (1, 2):
            [note] = await store.find("one", head.epoch, "note", key=f"k{number}")
            assert b'"key":"k%d"' % number in note.body
        assert len(await store.find("one", head.epoch, "note")) == 2

    async def go_on() -> None:
        store = JsonlStore(data_dir, StepClock())
        await store.open()
        head = await store.load("one")
        assert head is not None
        await store.unpack("one", head.epoch)
        await look_for_notes(store)
        await store.aclose()

    asyncio.run(fill())
    assert check(data_dir) == []
    asyncio.run(go_on())
    assert check(data_dir) == []


def test_a_missing_log_and_stray_files_are_found_and_repaired(data_dir: Path) -> None:
    make_data(data_dir)
    shutil.copy(data_dir / "events" / "two.jsonl", data_dir / "copy")
    (data_dir / "events" / "one.jsonl").unlink()
    (data_dir / "sessions" / "ghost.json").write_bytes(b"{}")
    problems = {finding.subject: finding.problem for finding in check(data_dir)}
    assert problems["one"] == "the log is missing"
    assert problems["sessions/ghost.json"] == "it belongs to no session"
    check(data_dir, repair=True)
    assert read(data_dir, "one") == [1, 2, 4]
    assert not (data_dir / "sessions" / "ghost.json").exists()


def test_a_restored_backup_gets_new_epochs(data_dir: Path) -> None:
    """R3: clients may have seen positions that the backup does not have."""
    writer = make_data(data_dir)
    findings = check(data_dir, new_epochs=True)
    assert [finding.subject for finding in findings] == ["sessions"]
    assert epoch_of(data_dir, "one") > writer.head.epoch
    assert read(data_dir, "one") == [1, 2, 3, 4, 5]
    assert check(data_dir) == []


def test_an_archived_session_of_a_restored_backup_gets_a_new_epoch_too(data_dir: Path) -> None:
    """R3: it may have been restored and continued since."""
    before = pack(data_dir, make_data(data_dir))
    check(data_dir, new_epochs=True)
    assert check(data_dir) == []
    epoch, bodies, found = packed_log(data_dir)
    assert epoch > before[0]
    assert (bodies, found) == before[1:]
    # The last epoch is one of those that are noted as used.
    check(data_dir, new_epochs=True)
    assert packed_log(data_dir)[0] > epoch
    assert check(data_dir) == []
    # What is unpacked goes on under that epoch.
    epoch = packed_log(data_dir, unpacks=True)[0]
    assert packed_log(data_dir) == (epoch, *before[1:])


def test_a_lost_index_is_made_again_from_an_archive_with_a_new_epoch(data_dir: Path) -> None:
    before = pack(data_dir, make_data(data_dir))
    check(data_dir, new_epochs=True)
    shutil.rmtree(data_dir / "index")
    epoch, bodies, found = packed_log(data_dir)
    assert epoch > before[0]
    assert (bodies, found) == before[1:]


Log = tuple[int, list[bytes], list[bytes]]


def pack(root: Path, writer: Writer) -> Log:
    """Archive and pack the session of a writer, and return its log."""

    async def packed() -> None:
        store = JsonlStore(root, StepClock())
        await store.open()
        archived = {"type": "state_change", "from": "idle", "to": "archived"}
        await committed(store, writer.commit(archived))
        await store.pack(writer.head.id, writer.head.epoch)
        await store.aclose()

    asyncio.run(packed())
    return packed_log(root)


def packed_log(root: Path, *, unpacks: bool = False) -> Log:
    """Return the epoch, the events and the messages of the session that `pack` has packed."""

    async def look() -> Log:
        store = JsonlStore(root, StepClock())
        await store.open()
        assert (root / "archive" / "one.zst").exists() or unpacks
        head = await store.load("one")
        assert head is not None
        if unpacks:
            await store.unpack("one", head.epoch)
        bodies = [record.body for record in await everything(store, "one")]
        found = await store.find("one", head.epoch, "message")
        if unpacks:
            await store.pack("one", head.epoch)
        await store.aclose()
        return head.epoch, bodies, [record.body for record in found]

    return asyncio.run(look())


def test_a_directory_in_use_is_left_alone(data_dir: Path) -> None:
    """R8."""

    async def held() -> None:
        store = JsonlStore(data_dir, StepClock())
        await store.open()
        try:
            with pytest.raises(StoreBusy):
                check(data_dir, repair=True)
        finally:
            await store.aclose()

    asyncio.run(held())


def test_a_store_without_files_cannot_be_examined(tmp_path: Path) -> None:
    with pytest.raises(StoreUnusable):
        check_store(Settings(storage_url="memory:"), StepClock())
    with pytest.raises(StoreUnusable):
        check(tmp_path / "nowhere")
