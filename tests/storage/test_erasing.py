"""Deleted data is off the disk, also in the catalog, the journal and the quarantine."""

import asyncio
import random
from pathlib import Path
from typing import Any

import pytest

from bamboo_gateway.storage.jsonl.paths import Paths
from bamboo_gateway.storage.jsonl.quarantine import set_aside
from bamboo_gateway.storage.jsonl.store import JsonlStore
from bamboo_gateway.storage.reports import SessionQuery
from tests.storage.conftest import Opener
from tests.storage.faults import FaultyFileSystem, VolatileFileSystem, abandon
from tests.storage.writing import NOBODY, StepClock, Writer, committed, everything, message

SECRET = b"zz-secret"


def files_with(root: Path, content: bytes) -> list[str]:
    """Return the files that have the text in their name or content."""
    return sorted(
        str(file.relative_to(root))
        for file in root.rglob("*")
        if file.is_file() and (content.decode() in file.name or content in file.read_bytes())
    )


def titled(title: str) -> dict[str, Any]:
    return {"type": "session_created", "user_id": "u", "title": title}


def retitled(title: str) -> dict[str, Any]:
    return {"type": "session_updated", "title": title}


async def secret(store: JsonlStore, session_id: str = "one") -> Writer:
    """Make a session whose head was in several checkpoints."""
    writer = Writer(session_id, store.next_epoch())
    await committed(store, writer.commit(titled("zz-secret 1"), message("m1", "zz-secret said")))
    assert await store.checkpoint()
    for number in range(2, 4):
        await committed(store, writer.commit(retitled(f"zz-secret {number}")))
        assert await store.checkpoint()
    return writer


@pytest.mark.parametrize("index_enabled", [True, False])
async def test_the_next_checkpoint_erases_every_line_of_a_deleted_session_in_the_catalog(
    opener: Opener, data_dir: Path, index_enabled: bool
) -> None:
    store = await opener(index_enabled=index_enabled)
    others = [Writer(f"s-{number}", store.next_epoch()) for number in range(50)]
    for other in others:
        await committed(store, other.commit(titled(f"title of {other.head.id}")))
    gone = await secret(store)
    assert "index/catalog.jsonl" in files_with(data_dir, SECRET)
    catalog = data_dir / "index" / "catalog.jsonl"
    file_before, size_before = catalog.stat().st_ino, catalog.stat().st_size
    await store.delete("one", gone.head.epoch)
    assert await store.checkpoint()
    assert files_with(data_dir, SECRET) == []
    # Those who ask what has changed are told by one line with its id and owner.
    [told] = [line for line in catalog.read_bytes().splitlines() if b'"one"' in line]
    assert b'"deleted":"one"' in told
    # In its place: what it costs does not grow with the sessions there are.
    assert catalog.stat().st_ino == file_before
    assert catalog.stat().st_size < size_before + 500
    await store.aclose()
    fresh = await opener(index_enabled=index_enabled)
    assert fresh.report.clean  # type: ignore[attr-defined]
    await fresh.vacuum()
    assert b'"one"' not in catalog.read_bytes()
    page = await fresh.query(SessionQuery(sort_by="title"), NOBODY)
    assert {head.id: head.title for head in page.heads} == {
        other.head.id: f"title of {other.head.id}" for other in others
    }


async def test_a_new_session_with_the_same_id_keeps_nothing_of_the_deleted_one(
    opener: Opener, data_dir: Path
) -> None:
    store = await opener()
    gone = await secret(store)
    await store.delete("one", gone.head.epoch)
    again = Writer("one", store.next_epoch())
    await committed(store, again.commit(titled("another"), message("m2")))
    assert await store.checkpoint()
    assert files_with(data_dir, SECRET) == []
    await store.aclose()
    fresh = await opener()
    assert await fresh.load("one") == again.head
    assert len(await everything(fresh, "one")) == again.head.seq


async def test_deleting_a_session_removes_its_quarantined_files_alone(
    opener: Opener, data_dir: Path
) -> None:
    paths, fs = Paths(data_dir), FaultyFileSystem()
    store = await opener()
    gone = await secret(store, "zz-secret")
    other = Writer("zz-secret-0123abcd", store.next_epoch())
    await committed(store, other.commit())
    for stem in ("log-zz-secret", "records-zz-secret", "snapshot-zz-secret"):
        set_aside(fs, paths, stem, b"piece", {"why": "a test"})
    kept = set_aside(fs, paths, "log-zz-secret-0123abcd", b"piece", {"why": "a test"})
    await store.delete("zz-secret", gone.head.epoch)
    names = sorted(file.name for file in paths.quarantine.iterdir())
    assert names == [kept, f"{kept}.note.json"]


@pytest.mark.parametrize("operation", ["write", "sync", "truncate"])
async def test_a_catalog_that_cannot_be_written_is_tried_again(
    opener: Opener, data_dir: Path, operation: str
) -> None:
    failing = 0

    def fails(_: int, what: str, path: str) -> int | None:
        nonlocal failing
        if failing and what == operation and path.endswith("catalog.jsonl"):
            failing -= 1
            return 5
        return None

    for nth in range(1, 4):
        store = await opener(FaultyFileSystem(fails), root=data_dir / str(nth))
        gone = await secret(store)
        kept = Writer("two", store.next_epoch())
        await committed(store, kept.commit(titled("kept")))
        await store.delete("one", gone.head.epoch)
        failing = nth
        while failing and not await store.checkpoint():
            pass
        failing = 0
        assert await store.checkpoint()
        assert files_with(data_dir / str(nth), SECRET) == []
        await store.aclose()
        fresh = await opener(root=data_dir / str(nth))
        assert fresh.report.clean  # type: ignore[attr-defined]
        assert (await fresh.usage()).sessions == 1
        assert await fresh.load("two") == kept.head


async def deleting(root: Path, crash_at: int | None) -> tuple[VolatileFileSystem, bool]:
    """Delete a session, create it again, checkpoint; return whether the deletion was answered."""
    fs = VolatileFileSystem(root)
    store = JsonlStore(root, StepClock(), fs=fs)
    await store.open()
    await committed(store, Writer("two", store.next_epoch()).commit(titled("kept")))
    gone = await secret(store)
    answered = was_answered = False

    def note() -> None:
        nonlocal was_answered
        was_answered = answered

    fs.changes, fs.crash_at, fs.on_crash = 0, crash_at, note
    await store.delete("one", gone.head.epoch)
    answered = True
    await committed(store, Writer("one", store.next_epoch()).commit(titled("another")))
    await store.checkpoint()
    await abandon(store)
    return fs, was_answered


async def nothing_is_left(root: Path) -> None:
    store = JsonlStore(root, StepClock(), fs=VolatileFileSystem(root))
    report = await store.open()
    assert report.damaged == []
    assert report.quarantined == []
    head = await store.load("one")
    assert head is None or head.title == "another"
    kept = await store.load("two")
    assert kept is not None
    assert kept.title == "kept"
    await store.aclose()
    assert files_with(root, SECRET) == []


def test_after_a_crash_anywhere_the_next_start_erases_the_deleted_session(
    tmp_path: Path,
) -> None:
    whole, _ = asyncio.run(deleting(tmp_path / "whole", None))
    answers = set()
    for crash_at in range(1, whole.changes + 1):
        root = tmp_path / str(crash_at)
        fs, was_answered = asyncio.run(deleting(root, crash_at))
        answers.add(was_answered)
        if fs.image is None or not was_answered:
            continue
        ways: list[dict[str, Any]] = [{"power_lost": False}, {"power_lost": True}]
        ways += [
            {"power_lost": True, "chance": random.Random(f"{crash_at} {number}")}
            for number in range(2)
        ]
        for way in ways:
            fs.image.restore(root, **way)
            try:
                asyncio.run(nothing_is_left(root))
            except BaseException as error:
                error.add_note(f"crash at change {crash_at} of {whole.changes}, {way}")
                raise
    assert answers == {True, False}
