"""Where the loop and the threads hand something over, and the one who takes it comes late.

The loop is kept from its turn while the committer works on, or a thread is held at one call to the
disk while everybody else goes on: then the files are left as they are, as by `kill -9`, and opened
again. What was acknowledged is there once, in the log and in everything that is made of it.
"""

import asyncio
import shutil
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from app.storage.jsonl.catalogfile import CatalogFile, EntryState
from app.storage.jsonl.committer import Errand
from app.storage.jsonl.files import FileSystem
from app.storage.jsonl.paths import Paths
from app.storage.jsonl.store import JsonlStore
from tests.storage.conftest import Opener
from tests.storage.faults import FaultyFileSystem, abandon
from tests.storage.writing import (
    DEADLINE_SECONDS,
    Writer,
    answer_to,
    append,
    committed,
    complete,
    everything,
    message,
    run_start,
    token,
)


def hold_the_loop(store: JsonlStore) -> None:
    """Keeps the loop from its turn until the committer has done all that it was given.

    So whatever the committer has to tell waits in one row, and a callback that is put behind it
    comes after all of it: as late as it can be.
    """
    done = threading.Event()
    store._committer._queue.put(Errand(done.set))
    assert done.wait(DEADLINE_SECONDS)


async def found_in(store: JsonlStore, session_id: str) -> dict[str, list[object]]:
    """What the session shows, by every way there is to read it."""
    head = await store.load(session_id)
    assert head is not None
    records = await everything(store, session_id)
    shown: dict[str, list[object]] = {
        "head": [head.epoch, head.seq, head.message_count, store.size(session_id).original_bytes],
        "log": [record.seq for record in records],
        "deltas": [store.delta_bytes(session_id)],
    }
    for kind in ("message", "run", "note"):
        for reverse in (False, True):
            found = await store.find(session_id, head.epoch, kind, reverse=reverse)
            names = [(record.seq, record.body) for record in found]
            shown[f"{kind} {'from the end' if reverse else 'in order'}"] = list(names)
    return shown


async def test_a_checkpoint_takes_the_state_of_its_own_records_however_late_the_loop_is(
    opener: Opener,
) -> None:
    """R2: what a later commit has changed is not counted as checkpointed."""
    store = await opener(FaultyFileSystem())
    writer = Writer("s-1", store.next_epoch())
    await committed(store, writer.commit())
    assert await store.checkpoint()
    first = append(store, writer.commit(message("m1"), token("a"), note="k1"))
    running = store._upkeep._start(final=False)
    second = append(store, writer.commit(message("m2"), token("b"), note="k2"))
    hold_the_loop(store)
    assert await answer_to(first) is await answer_to(second) is None
    assert await running
    state = CatalogFile(FileSystem(), store._paths, keeps_heads=True).load().entries["s-1"]
    assert (state.seq, state.marks) == (3, 2)
    before = await found_in(store, "s-1")
    await abandon(store)
    fresh = await opener()
    assert await found_in(fresh, "s-1") == before
    assert before["head"][2] == len(before["message in order"]) == 2


@pytest.mark.parametrize("covered", range(6))
async def test_replaying_what_the_catalog_has_already_changes_nothing(
    opener: Opener, tmp_path: Path, covered: int
) -> None:
    """R2: the catalog may have come further than it says, by any number of records."""
    store = await opener(FaultyFileSystem())
    writer = Writer("s-1", store.next_epoch())
    await committed(store, writer.commit(message("m1"), note="k1"))
    assert await store.checkpoint()
    lsn, last_epoch = store._journal.lsn, store._journal.last_epoch
    commits = [
        writer.commit(message("m2"), note="k2"),
        writer.commit(run_start("run_1"), token("a"), token("b")),
        writer.commit(token("c")),
        writer.commit(note="k3"),
        writer.commit(message("m3"), complete("run_1")),
    ]
    for commit in commits[:covered]:
        await committed(store, commit)
    for segment in store._paths.index.glob("journal-*.jsonl"):
        shutil.copy(segment, tmp_path)
    assert await store.checkpoint()
    for commit in commits[covered:]:
        await committed(store, commit)
    before = await found_in(store, "s-1")
    await abandon(store)
    _put_back(tmp_path, store._paths)
    _say_no_further_than(store._paths, lsn, last_epoch)
    fresh = await opener()
    assert fresh.report.journal_records >= len(commits)  # type: ignore[attr-defined]
    assert await found_in(fresh, "s-1") == before


def _put_back(kept: Path, paths: Paths) -> None:
    """Puts segments back that a checkpoint has dropped since."""
    for segment in kept.glob("journal-*.jsonl"):
        if not (paths.index / segment.name).exists():
            shutil.copy(segment, paths.index)


def _say_no_further_than(paths: Paths, lsn: int, last_epoch: int) -> None:
    """Has the catalog say that it has come to this record, whatever its lines say."""
    file = CatalogFile(FileSystem(), paths, keeps_heads=True)
    file.load()
    file.append([], [], lsn, last_epoch)
    file.close()


async def test_a_log_that_lacks_what_the_catalog_counts_gets_it_from_the_journal(
    opener: Opener, tmp_path: Path
) -> None:
    """R3: no new epoch while every acknowledged line is there, in one file or another."""
    store = await opener(FaultyFileSystem())
    writer = Writer("s-1", store.next_epoch())
    await committed(store, writer.commit(message("m1")))
    assert await store.checkpoint()
    lsn, last_epoch = store._journal.lsn, store._journal.last_epoch
    log = store._paths.log_of("s-1")
    kept = log.stat().st_size
    await committed(store, writer.commit(message("m2")))
    for segment in store._paths.index.glob("journal-*.jsonl"):
        shutil.copy(segment, tmp_path)
    assert await store.checkpoint()
    before = await found_in(store, "s-1")
    await abandon(store)
    with log.open("r+b") as file:
        file.truncate(kept)
    _put_back(tmp_path, store._paths)
    _say_no_further_than(store._paths, lsn, last_epoch)
    fresh = await opener()
    assert fresh.report.new_epochs == 0  # type: ignore[attr-defined]
    assert await found_in(fresh, "s-1") == before


class Gate:
    """Holds the thread that comes by until it is opened."""

    def __init__(self) -> None:
        self.reached = threading.Event()
        self.opened = threading.Event()

    def pass_by(self) -> None:
        self.reached.set()
        assert self.opened.wait(DEADLINE_SECONDS)

    async def comes(self) -> None:
        """Waits until a thread is there."""
        arrived = await asyncio.to_thread(self.reached.wait, DEADLINE_SECONDS)
        assert arrived


class GatedFileSystem(FaultyFileSystem):
    """Holds whoever makes a call of a name on a path that is named, once."""

    def __init__(self) -> None:
        super().__init__(self._pass)
        self._gates: list[tuple[str, str, Gate]] = []

    def gate(self, operation: str, path: str) -> Gate:
        """Sets a gate before the next such call."""
        gate = Gate()
        self._gates.append((operation, path, gate))
        return gate

    def _pass(self, _: int, operation: str, path: str) -> int | None:
        for place, (wanted, part, gate) in enumerate(self._gates):
            if operation == wanted and part in path:
                del self._gates[place]
                # Others go on meanwhile.
                self.lock.release()
                try:
                    gate.pass_by()
                finally:
                    self.lock.acquire()
                break
        return None


@pytest.fixture
def fs() -> Iterator[GatedFileSystem]:
    """A file system with gates; those that nobody opened are opened at the end."""
    system = GatedFileSystem()
    gates: list[Gate] = []
    set_gate = system.gate

    def gate(operation: str, path: str) -> Gate:
        gates.append(set_gate(operation, path))
        return gates[-1]

    system.gate = gate  # type: ignore[method-assign]
    yield system
    for one in gates:
        one.opened.set()


async def test_marks_that_a_reader_has_built_again_while_a_checkpoint_is_at_work_count_once(
    opener: Opener, fs: GatedFileSystem
) -> None:
    """R2: the sidecar has come further than the state that the checkpoint writes."""
    store = await opener(fs)
    writer = Writer("s-1", store.next_epoch())
    await committed(store, writer.commit(message("m1")))
    gate = fs.gate("sync_directory", "/events")
    running = store._upkeep._start(final=False)
    await gate.comes()
    await committed(store, writer.commit(message("m2")))
    store._paths.marks_of("s-1").unlink()
    before = await found_in(store, "s-1")
    gate.opened.set()
    assert await running
    await abandon(store)
    fresh = await opener()
    assert await found_in(fresh, "s-1") == before
    assert before["head"][2] == len(before["message in order"]) == 2


async def test_a_sidecar_that_has_a_line_twice_is_noticed_by_its_reader_and_built_again(
    opener: Opener,
) -> None:
    store = await opener(FaultyFileSystem())
    writer = Writer("s-1", store.next_epoch())
    for number in range(3):
        await committed(store, writer.commit(message(f"m{number}")))
    assert await store.checkpoint()
    before = await found_in(store, "s-1")
    await abandon(store)
    _double_last_mark(store._paths, "s-1")
    fresh = await opener()
    assert await found_in(fresh, "s-1") == before


def _double_last_mark(paths: Paths, name: str) -> None:
    """Leaves a sidecar as gateways did that counted replayed marks twice."""
    path = paths.marks_of(name)
    with path.open("ab") as file:
        file.write(path.read_bytes()[-32:])
    file_of_catalog = CatalogFile(FileSystem(), paths, keeps_heads=True)
    contents = file_of_catalog.load()
    entry = contents.entries[name]
    entry.marks += 1
    file_of_catalog.append([EntryState.of(entry)], [], contents.lsn, contents.last_epoch)
    file_of_catalog.close()
