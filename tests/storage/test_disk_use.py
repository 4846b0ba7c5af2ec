"""R11: files derived from the logs, and the segments, stay within the documented bounds."""

import errno
from pathlib import Path

import pytest

from bamboo_gateway.domain import codec
from bamboo_gateway.domain.errors import StorageFailed
from bamboo_gateway.storage.jsonl.journal import committer, segments
from bamboo_gateway.storage.jsonl.log.marks import ENTRY_BYTES
from bamboo_gateway.storage.jsonl.paths import root_of
from bamboo_gateway.storage.jsonl.store import JsonlStore
from tests.storage.conftest import Opener
from tests.storage.faults import FaultyFileSystem
from tests.storage.writing import Writer, committed, complete, message, run_start, token

MIB = 1024 * 1024
SEGMENT_BYTES = segments.SEGMENT_BYTES + segments.RESERVE_BYTES
# Three at work, and those that wait to be used again.
SEGMENTS_MAX = 3 + segments.SPARES_MAX
# Names, numbers and checksums around a head.
ENVELOPE_BYTES = 400


def taken(directory: Path, pattern: str = "*") -> int:
    return sum(path.stat().st_size for path in directory.glob(pattern) if path.is_file())


def segment_files(root: Path) -> list[Path]:
    return [*root.rglob("journal-*"), *root.rglob("spare-*")]


async def talk(store: JsonlStore, session_id: str, turns: int, deltas: int, title: str) -> Writer:
    writer = Writer(session_id, store.next_epoch())
    await committed(store, writer.commit({"type": "session_created", "title": title}))
    for turn in range(turns):
        run_id = f"r{turn}"
        await committed(store, writer.commit(message(f"m{turn}"), run_start(run_id)))
        await committed(store, writer.commit(*[token() for _ in range(deltas)], complete(run_id)))
    return writer


@pytest.mark.parametrize(
    ("sessions", "turns", "deltas", "title"),
    [(200, 0, 0, ""), (20, 30, 0, ""), (5, 20, 100, ""), (50, 1, 1, "t" * 4_000)],
    ids=["empty", "short messages", "deltas", "large heads"],
)
async def test_derived_files_take_no_more_space_than_logs_and_heads(
    sessions: int, turns: int, deltas: int, title: str, data_dir: Path, opener: Opener
) -> None:
    store = await opener()
    writers = [await talk(store, f"s{n}", turns, deltas, title) for n in range(sessions)]
    # Heads that change again and again: what the catalog knew before is taken out in time.
    for change in range(20):
        for writer in writers:
            named = {"type": "session_updated", "title": f"{change}{title}"}
            await committed(store, writer.commit(named))
        assert await store.checkpoint()
    for writer in writers:
        await store.release(writer.head.id)
    assert await store.checkpoint()
    await store.aclose()

    root = root_of(data_dir)
    heads = sum(len(codec.encode(writer.head.to_json())) for writer in writers)
    heads += ENVELOPE_BYTES * sessions
    logs = taken(root / "events")
    assert logs > 0
    assert taken(root / "sessions") <= logs + heads
    # A header, and of each turn its message, its start and its end.
    assert taken(root / "index" / "marks") <= ENTRY_BYTES * sessions * (1 + 3 * turns)
    assert taken(root / "index", "catalog*") <= 2 * heads + MIB
    assert len(segment_files(root)) <= SEGMENTS_MAX


async def test_the_journal_stays_bounded_while_commits_go_on(
    data_dir: Path, opener: Opener
) -> None:
    store = await opener()
    writer = Writer("s", store.next_epoch())
    seen = 0
    for number in range(20):
        await committed(store, writer.commit(message(f"m{number}", "x" * (7 * MIB))))
        seen = max(seen, (await store.stats())["disk_bytes_journal"])
        if number % 2:
            assert await store.checkpoint()
            assert len(segment_files(root_of(data_dir))) <= SEGMENTS_MAX
    assert 0 < seen <= SEGMENTS_MAX * SEGMENT_BYTES + segments.RESERVE_BYTES


async def test_while_checkpoints_fail_the_journal_is_bounded_and_commits_are_refused(
    data_dir: Path, opener: Opener, monkeypatch: pytest.MonkeyPatch
) -> None:
    most = 7
    monkeypatch.setattr(committer, "_CLOSED_SEGMENTS_MAX", most)
    fs = FaultyFileSystem()
    store = await opener(fs)
    fs.should_fail = lambda _, __, path: errno.EIO if "catalog" in path else None
    writer = Writer("s", store.next_epoch())

    async def write_on() -> None:
        for number in range(3 * most):
            await committed(store, writer.commit(message(f"m{number}", "x" * (9 * MIB))))

    with pytest.raises(StorageFailed, match="Checkpoints fail"):
        await write_on()
    # One that filled up, one that the last checkpoint closed, and the one in use.
    assert most < len(segment_files(root_of(data_dir))) <= most + 3
    fs.should_fail = lambda *_: None
    assert await store.checkpoint()
    head = await store.load("s")
    assert head is not None
    await committed(store, Writer.of(head).commit(message("later")))
    assert len(segment_files(root_of(data_dir))) <= SEGMENTS_MAX
