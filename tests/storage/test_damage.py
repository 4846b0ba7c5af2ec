"""R4, R10: files torn and bytes flipped everywhere; only that is lost, and it is reported."""

import asyncio
import shutil
import threading
from pathlib import Path

import pytest

from bamboo_gateway.domain import codec
from bamboo_gateway.domain.errors import Conflict
from bamboo_gateway.storage.jsonl.store import JsonlStore
from tests.storage.conftest import Opener
from tests.storage.faults import VolatileFileSystem, abandon, write_out
from tests.storage.writing import (
    DEADLINE_SECONDS,
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


async def prepared(root: Path, *, closed: bool) -> list[bytes]:
    """Make two sessions, one of them checkpointed and continued; return the bodies of its log."""
    store = await opened(root)
    one, two = Writer("one", store.next_epoch()), Writer("two", store.next_epoch())
    await committed(store, one.commit(message("m1"), note="key1"))
    await committed(store, two.commit(message("other")))
    await committed(store, one.commit(run_start("r1"), token("a"), message("m2")))
    await store.checkpoint()
    await committed(store, one.commit(token("b"), note="key2"))
    await committed(store, one.commit(message("m3"), complete("r1")))
    bodies = [record.body for record in await everything(store, "one")]
    await write_out(store)
    await (store.aclose() if closed else abandon(store))
    return bodies


async def opened(root: Path) -> JsonlStore:
    store = JsonlStore(root, StepClock(), fs=VolatileFileSystem(root))
    store.report = await store.open()  # type: ignore[attr-defined]
    return store


def fresh_copy(source: Path, target: Path) -> Path:
    shutil.rmtree(target, ignore_errors=True)
    shutil.copytree(source, target)
    return target


@pytest.mark.parametrize("step", [23, pytest.param(1, marks=pytest.mark.slow)])
def test_a_journal_torn_at_any_byte_loses_whole_commits_at_its_end(
    tmp_path: Path, step: int
) -> None:
    bodies = asyncio.run(prepared(tmp_path / "data", closed=False))
    [segment] = (tmp_path / "data" / "index").glob("journal-*.jsonl")
    whole = segment.read_bytes().rstrip(b"\0")
    seen: set[int] = set()

    async def look(root: Path) -> None:
        store = await opened(root)
        found = [record.body for record in await everything(store, "one")]
        assert found == bodies[: len(found)]
        seen.add(len(found))
        assert store.report.damaged == []  # type: ignore[attr-defined]
        head = await store.load("one")
        assert head is not None
        await committed(store, Writer.of(head).commit(message("after")))
        assert await seqs(store, "two") == [1, 2]
        await abandon(store)

    for size in range(0, len(whole), step):
        root = fresh_copy(tmp_path / "data", tmp_path / "copy")
        (root / "index" / segment.name).write_bytes(whole[:size])
        # The log's own tail was never synced, so it may be gone as well.
        log = root / "events" / "one.jsonl"
        log.write_bytes(log.read_bytes()[: -1 - size % 40])
        asyncio.run(look(root))
    assert seen == {5, 6}


@pytest.mark.parametrize("name", ["index/catalog.jsonl", "index/marks/one.idx", "LOCK"])
def test_files_that_can_be_rebuilt_may_be_torn_anywhere_or_missing(
    tmp_path: Path, name: str
) -> None:
    bodies = asyncio.run(prepared(tmp_path / "data", closed=True))
    whole = (tmp_path / "data" / name).read_bytes()

    async def look(root: Path) -> None:
        store = await opened(root)
        head = await store.load("one")
        assert head is not None
        assert [record.body for record in await everything(store, "one")] == bodies
        found = await store.find("one", head.epoch, "message")
        assert [record.seq for record in found] == [2, 5, 7]
        [note] = await store.find("one", head.epoch, "note", key="key1")
        assert note.seq == 2
        run = await store.find("one", head.epoch, "run", key="r1")
        assert [record.seq for record in run] == [3, 8]
        assert await store.unfinished() == []
        assert head.message_count == 3
        assert store.next_epoch() > head.epoch
        await abandon(store)

    asyncio.run(look(fresh_copy(tmp_path / "data", tmp_path / "copy")))
    for size in [*range(0, len(whole), 1 + len(whole) // 40), None]:
        root = fresh_copy(tmp_path / "data", tmp_path / "copy")
        if size is None:
            (root / name).unlink()
        else:
            (root / name).write_bytes(whole[:size])
        asyncio.run(look(root))


@pytest.mark.parametrize("name", ["index/catalog.jsonl", "index/marks/one.idx"])
def test_files_that_can_be_rebuilt_may_have_any_byte_flipped(tmp_path: Path, name: str) -> None:
    bodies = asyncio.run(prepared(tmp_path / "data", closed=True))
    whole = (tmp_path / "data" / name).read_bytes()

    async def look(root: Path) -> None:
        store = await opened(root)
        head = await store.load("one")
        assert head is not None
        assert [record.body for record in await everything(store, "one")] == bodies
        assert [r.seq for r in await store.find("one", head.epoch, "message")] == [2, 5, 7]
        assert head.message_count == 3
        await abandon(store)

    for place in range(0, len(whole), 1 + len(whole) // 40):
        root = fresh_copy(tmp_path / "data", tmp_path / "copy")
        flip(root / name, place)
        asyncio.run(look(root))


def flip(path: Path, place: int) -> None:
    data = bytearray(path.read_bytes())
    data[place] ^= 0x15
    path.write_bytes(data)


@pytest.mark.parametrize("step", [23, pytest.param(1, marks=pytest.mark.slow)])
def test_a_flipped_byte_in_a_log_loses_one_line_and_begins_a_new_epoch(
    tmp_path: Path, step: int
) -> None:
    """R3, R4, R10: the old epoch never gets shorter; messages come from the snapshot."""
    bodies = asyncio.run(prepared(tmp_path / "data", closed=True))
    log = tmp_path / "data" / "events" / "one.jsonl"
    whole = log.read_bytes()
    first = whole.index(b"\n") + 1

    async def look(root: Path, place: int) -> None:
        store = await opened(root)
        old = await store.load("one")
        assert old is not None
        try:
            found = [record.body for record in await everything(store, "one")]
        except Conflict:
            fresh = await store.load("one")
            assert fresh is not None
            assert fresh.epoch > old.epoch
            found = [record.body for record in await everything(store, "one")]
            assert (fresh.seq, fresh.user_id, fresh.active) == (old.seq, "u", None)
            lost = [body for body in bodies if body not in found]
            # Messages are refilled; the first line is made again from the head.
            assert all(b'"type":"message"' not in body for body in lost)
            assert len(lost) <= 2
            if place >= first:
                assert list((root / "quarantine").glob("log-one-*.jsonl"))
        else:
            assert found == bodies
        await committed(store, Writer.of(await head_of(store)).commit(message("after")))
        assert await seqs(store, "two") == [1, 2]
        epoch = (await head_of(store)).epoch
        count = len(await store.find("one", epoch, "message"))
        assert count == (await head_of(store)).message_count == 4
        await abandon(store)
        again = await opened(root)
        assert (await head_of(again)).epoch == epoch
        assert (await everything(again, "one"))[-1].seq == len(bodies) + 1
        await abandon(again)

    for place in range(0, len(whole), step):
        root = fresh_copy(tmp_path / "data", tmp_path / "copy")
        flip(root / "events" / "one.jsonl", place)
        try:
            asyncio.run(look(root, place))
        except BaseException as error:
            error.add_note(f"byte {place}: {whole[max(0, place - 30) : place + 30]!r}")
            raise


async def head_of(store: JsonlStore):
    head = await store.load("one")
    assert head is not None
    return head


async def test_a_repair_keeps_the_lines_that_are_written_while_it_runs(
    opener: Opener, data_dir: Path
) -> None:
    store = await opener()
    writer = Writer("one", store.next_epoch())
    await committed(store, writer.commit(*(token(f"t{n}") for n in range(50))))
    await store.checkpoint()
    log = data_dir / "events" / "one.jsonl"
    flip(log, log.read_bytes().index(b"t20"))
    await committed(store, writer.commit(message("m1")))
    with_old_epoch = writer.commit(token("late"))
    for _ in range(2):
        try:
            await everything(store, "one")
        except Conflict:
            continue
    head = await store.load("one")
    assert head is not None
    assert head.epoch > writer.head.epoch
    found = await seqs(store, "one")
    assert found == [*range(1, 22), *range(23, 53)]
    with pytest.raises(Conflict) as refused:
        await committed(store, with_old_epoch)
    assert refused.value.head is None
    await committed(store, Writer.of(head).commit(token("new")))
    await abandon(store)
    fresh = await opener()
    assert await seqs(fresh, "one") == [*found, 53]


async def test_a_log_of_an_unknown_session_is_quarantined_and_the_store_opens(
    opener: Opener, data_dir: Path
) -> None:
    store = await opener()
    writer = Writer("good", store.next_epoch())
    await committed(store, writer.commit(message("m1")))
    await store.aclose()
    (data_dir / "index" / "catalog.jsonl").unlink()
    (data_dir / "events" / "~odd.jsonl").write_bytes(b"\xff\xfe no log at all\n")
    fresh = await opener()
    report = fresh.report  # type: ignore[attr-defined]
    assert report.catalog_rebuilt
    assert len(report.quarantined) >= 1
    assert await seqs(fresh, "good") == [1, 2]
    assert (await fresh.usage()).sessions == 1
    kept = b"".join(path.read_bytes() for path in (data_dir / "quarantine").glob("log-*.jsonl"))
    assert b"no log at all" in kept


async def test_acknowledged_records_damaged_in_the_journal_give_their_session_a_new_epoch(
    opener: Opener, data_dir: Path
) -> None:
    """R3, R4: the log lacks lines, so its positions no longer mean what they meant."""
    store = await opener()
    one, two = Writer("one", store.next_epoch()), Writer("two", store.next_epoch())
    await committed(store, one.commit(message("m1")))
    await committed(store, two.commit(message("m1")))
    await store.checkpoint()
    for number in range(5):
        await committed(store, one.commit(token(f"one{number}")))
        await committed(store, two.commit(token(f"two{number}")))
    await write_out(store)
    await abandon(store)
    [segment] = (data_dir / "index").glob("journal-*.jsonl")
    flip(segment, segment.read_bytes().index(b"one2"))
    log = data_dir / "events" / "one.jsonl"
    log.write_bytes(log.read_bytes()[: log.read_bytes().index(b'{"crc":"', 400)])
    fresh = await opener()
    report = fresh.report  # type: ignore[attr-defined]
    assert report.damaged
    assert report.quarantined
    assert report.new_epochs == 1
    head = await fresh.load("one")
    assert head is not None
    assert head.epoch > one.head.epoch
    assert await seqs(fresh, "one") == [1, 2, 3, 4, 6, 7]
    assert await seqs(fresh, "two") == list(range(1, 8))
    other = await fresh.load("two")
    assert other is not None
    assert other.epoch == two.head.epoch


async def test_damage_in_one_journal_write_loses_only_the_damaged_records(
    opener: Opener, data_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """R10: many sessions share a write, and only the journal has their lines yet."""
    monkeypatch.setattr(
        "bamboo_gateway.storage.jsonl.journal.committer._REST_SECONDS", DEADLINE_SECONDS
    )
    store = await opener()
    writers = [Writer(f"s-{number}", store.next_epoch()) for number in range(6)]
    for writer in writers:
        await committed(store, writer.commit())
    await store.checkpoint()
    before = store._committer.batches
    hold = threading.Event()
    held = store._committer.send(lambda: hold.wait(DEADLINE_SECONDS))
    writers.append(Writer("new", store.next_epoch()))
    answers = [append(store, w.commit(token(f"in {w.head.id}"), message("m"))) for w in writers]
    hold.set()
    assert await held
    assert [await answer_to(answer) for answer in answers] == [None] * len(writers)
    assert store._committer.batches == before + 1
    await committed(store, writers[0].commit(token("a later write")))
    await abandon(store)
    [segment] = (data_dir / "index").glob("journal-*.jsonl")
    for name in (b"in s-3", b"in new"):
        flip(segment, segment.read_bytes().index(name))
    fresh = await opener()
    assert fresh.report.damaged  # type: ignore[attr-defined]
    for writer in writers:
        head = await fresh.load(writer.head.id)
        assert head is not None
        is_whole = writer.head.id not in ("s-3", "new")
        assert (head.epoch == writer.head.epoch) is is_whole
        assert len(await seqs(fresh, head.id)) == (writer.head.seq if is_whole else 1)


async def test_a_missing_log_comes_back_from_its_snapshot(opener: Opener, data_dir: Path) -> None:
    store = await opener()
    writer = Writer("one", store.next_epoch())
    await committed(store, writer.commit(message("m1"), token(), message("m2")))
    await store.release("one")
    await store.aclose()
    (data_dir / "events" / "one.jsonl").unlink()
    fresh = await opener()
    head = await fresh.load("one")
    assert head is not None
    try:
        await everything(fresh, "one")
    except Conflict:
        head = await fresh.load("one")
    assert head is not None
    assert head.epoch > writer.head.epoch
    records = await everything(fresh, "one")
    assert [codec.decode(record.body)["type"] for record in records] == [
        "session_created",
        "message",
        "message",
    ]


async def test_a_repaired_session_counts_no_message_that_a_merge_has_replaced(
    opener: Opener, data_dir: Path
) -> None:
    store = await opener()
    writer = Writer("s-1", store.next_epoch())
    await committed(store, writer.commit(message("m1"), message("m2")))
    merged = {"type": "session_merged", "source": {"session_id": "s-2"}, "replaces": True}
    await committed(store, writer.commit(merged, message("m3"), message("m4")))
    await store.aclose()
    path = data_dir / "events" / "s-1.jsonl"
    flip(path, path.read_bytes().index(b'"m1"') + 1)
    again = await opener()
    with pytest.raises(Conflict):
        await everything(again, "s-1")
    head = await again.load("s-1")
    assert head is not None
    assert head.message_count == 2
