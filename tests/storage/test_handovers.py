"""Handovers between the loop and the threads, when the receiver is late.

A test blocks the loop while the committer works on, or holds a thread at one call to the disk while
others go on. It then leaves the files as `kill -9` would, and opens them again. Acknowledged events
must be there once, in the log and in every file derived from it.
"""

import asyncio
import errno
import os
import shutil
import threading
from collections.abc import Iterator
from pathlib import Path

import anyio
import pytest
from typing_extensions import override

from bamboo_gateway.domain.errors import BambooError, Conflict, StorageFailed, Unavailable
from bamboo_gateway.storage.file_system import FileSystem
from bamboo_gateway.storage.jsonl.index.catalog_file import CatalogFile
from bamboo_gateway.storage.jsonl.index.catalog_lines import EntryState
from bamboo_gateway.storage.jsonl.journal.committer import Job
from bamboo_gateway.storage.jsonl.log.log import Log
from bamboo_gateway.storage.jsonl.paths import Paths
from bamboo_gateway.storage.jsonl.store import JsonlStore
from bamboo_gateway.storage.reports import SessionQuery
from tests.storage.conftest import Opener
from tests.storage.faults import FaultyFileSystem, abandon, write_out
from tests.storage.writing import (
    DEADLINE_SECONDS,
    NOBODY,
    Writer,
    answer_to,
    append,
    committed,
    complete,
    entries_of,
    everything,
    message,
    run_start,
    token,
)


def hold_the_loop(store: JsonlStore) -> None:
    """Block the loop until the committer has done all its queued requests.

    So all calls of the committer into the loop wait in one queue, and a callback added behind
    them runs as late as possible.
    """
    done = threading.Event()
    store._committer._put(Job(done.set))
    assert done.wait(DEADLINE_SECONDS)


async def found_in(store: JsonlStore, session_id: str) -> dict[str, list[object]]:
    """Return what a session shows, by every way to read it."""
    head = await store.load(session_id)
    assert head is not None
    records = await everything(store, session_id)
    shown: dict[str, list[object]] = {
        "head": [
            head.epoch,
            head.seq,
            head.message_count,
            (await store.size(session_id)).original_bytes,
        ],
        "log": [record.seq for record in records],
        "deltas": [await store.delta_bytes(session_id)],
    }
    for kind in ("message", "run", "note"):
        for reverse in (False, True):
            found = await store.find(session_id, head.epoch, kind, reverse=reverse)
            names = [(record.seq, record.body) for record in found]
            shown[f"{kind} {'from the end' if reverse else 'in order'}"] = list(names)
    return shown


async def test_a_checkpoint_writes_the_state_at_its_rotation_however_late_the_loop_is(
    opener: Opener,
) -> None:
    """R2: a checkpoint does not count what a later commit changed."""
    store = await opener(FaultyFileSystem())
    writer = Writer("s-1", store.next_epoch())
    await committed(store, writer.commit())
    assert await store.checkpoint()
    first = append(store, writer.commit(message("m1"), token("a"), note="k1"))
    running = store._maintenance._start(final=False)
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
async def test_replaying_records_that_the_catalog_has_changes_nothing(
    opener: Opener, tmp_path: Path, covered: int
) -> None:
    """R2: the catalog may include any number of records after its checkpoint line."""
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
    # Checked before anybody reads: a reader would have a mark file with a doubled mark rebuilt.
    marks = [before[f"{kind} in order"] for kind in ("message", "run", "note")]
    assert fresh._catalog.entries["s-1"].marks in (-1, sum(map(len, marks)))
    assert await found_in(fresh, "s-1") == before


def _put_back(kept: Path, paths: Paths) -> None:
    """Restore segments that a checkpoint has dropped since."""
    for segment in kept.glob("journal-*.jsonl"):
        if not (paths.index / segment.name).exists():
            shutil.copy(segment, paths.index)


def _say_no_further_than(paths: Paths, lsn: int, last_epoch: int) -> None:
    """Write a checkpoint line for this record, whatever the other lines include."""
    file = CatalogFile(FileSystem(), paths, keeps_heads=True)
    file.load()
    file.append([], [], lsn, last_epoch)
    file.close()


async def test_a_log_gets_lines_that_the_catalog_counts_from_the_journal(
    opener: Opener, tmp_path: Path
) -> None:
    """R3: no new epoch while every acknowledged line is in some file."""
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
    """A gate that holds a thread until it is opened."""

    def __init__(self) -> None:
        self.reached = threading.Event()
        self.opened = threading.Event()

    def pass_by(self) -> None:
        self.reached.set()
        assert self.opened.wait(DEADLINE_SECONDS)

    async def comes(self) -> None:
        """Wait until a thread is at the gate."""
        arrived = await asyncio.to_thread(self.reached.wait, DEADLINE_SECONDS)
        assert arrived


class GatedFileSystem(FaultyFileSystem):
    """Hold the next thread that makes a given call on a given path; reads count too."""

    def __init__(self) -> None:
        super().__init__(self._pass)
        self.gates: list[Gate] = []
        self._waiting: list[tuple[str, str, Gate]] = []
        # What fails with EIO: an operation, and what its path has in it.
        self.failing: set[tuple[str, str]] = set()

    def gate(self, operation: str, path: str) -> Gate:
        """Set a gate before the next such call."""
        gate = Gate()
        self.gates.append(gate)
        self._waiting.append((operation, path, gate))
        return gate

    def _pass(self, _: int, operation: str, path: str) -> int | None:
        gate = self._gate_for(operation, path)
        if gate is not None:
            # Others go on meanwhile.
            self.lock.release()
            try:
                gate.pass_by()
            finally:
                self.lock.acquire()
        fails = any(operation == wanted and part in path for wanted, part in self.failing)
        return errno.EIO if fails else None

    def _gate_for(self, operation: str, path: str) -> Gate | None:
        for place, (wanted, part, gate) in enumerate(self._waiting):
            if operation == wanted and part in path:
                del self._waiting[place]
                return gate
        return None

    @override
    def open(self, path: Path, flags: int) -> int:
        if not flags & (os.O_CREAT | os.O_RDWR):
            gate = self._gate_for("look", str(path))
            if gate is not None:
                gate.pass_by()
        return super().open(path, flags)

    @override
    def pread(self, fd: int, size: int, offset: int) -> bytes:
        data = super().pread(fd, size, offset)
        gate = self._gate_for("read", self._names.get(fd, ""))
        if gate is not None:
            gate.pass_by()
        return data


@pytest.fixture
def fs() -> Iterator[GatedFileSystem]:
    """A file system with gates; the fixture opens the remaining ones at the end."""
    system = GatedFileSystem()
    yield system
    for gate in system.gates:
        gate.opened.set()


async def test_marks_that_a_reader_rebuilds_during_a_checkpoint_count_once(
    opener: Opener, fs: GatedFileSystem
) -> None:
    """R2: the mark file has more than the state that the checkpoint writes."""
    store = await opener(fs)
    writer = Writer("s-1", store.next_epoch())
    await committed(store, writer.commit(message("m1")))
    gate = fs.gate("sync_directory", "/events")
    running = store._maintenance._start(final=False)
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


async def test_a_mark_file_with_a_doubled_mark_is_detected_by_its_reader_and_rebuilt(
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
    """Leave a mark file as gateways did that counted replayed marks twice."""
    path = paths.marks_of(name)
    with path.open("ab") as file:
        file.write(path.read_bytes()[-32:])
    file_of_catalog = CatalogFile(FileSystem(), paths, keeps_heads=True)
    contents = file_of_catalog.load()
    entry = contents.entries[name]
    entry.marks += 1
    file_of_catalog.append([EntryState.of(entry)], [], contents.lsn, contents.last_epoch)
    file_of_catalog.close()


# -- checkpoints and later changes -----------------------------------------------------------------


async def test_a_failed_checkpoint_does_not_undo_later_changes(
    opener: Opener, fs: GatedFileSystem
) -> None:
    """`dirty` and `deleted` do not hide a later deletion, creation or commit."""
    store = await opener(fs)
    kept, gone = Writer("kept", store.next_epoch()), Writer("gone", store.next_epoch())
    await committed(store, kept.commit(message("m1")))
    await committed(store, gone.commit(message("m1")))
    gate = fs.gate("write", "catalog.jsonl")
    fs.failing.add(("write", "catalog.jsonl"))
    running = store._maintenance._start(final=False)
    await gate.comes()
    await committed(store, kept.commit(message("m2")))
    await store.delete("gone", gone.head.epoch)
    again = Writer("gone", store.next_epoch())
    await committed(store, again.commit(message("new")))
    gate.opened.set()
    assert not await running
    fs.failing.clear()
    before = {name: await found_in(store, name) for name in ("kept", "gone")}
    assert await store.checkpoint()
    await abandon(store)
    fresh = await opener()
    assert {name: await found_in(fresh, name) for name in before} == before
    assert before["gone"]["head"][0] == again.head.epoch


async def test_a_deletion_that_fails_does_not_change_a_concurrent_checkpoint(
    opener: Opener, fs: GatedFileSystem, monkeypatch: pytest.MonkeyPatch
) -> None:
    """R1: a session is not deleted for anybody until its record is durable."""
    monkeypatch.setattr(
        "bamboo_gateway.storage.jsonl.journal.committer._REST_SECONDS", DEADLINE_SECONDS
    )
    store = await opener(fs)
    writer = Writer("s-1", store.next_epoch())
    await committed(store, writer.commit(message("m1")))
    waiting = threading.Event()
    store._maintenance._checkpoint_pool.submit(waiting.wait, DEADLINE_SECONDS)
    running = store._maintenance._start(final=False)
    await store._reads.wait_for_committer()
    gate = fs.gate("write", "journal-")
    fs.failing.add(("write", "journal-"))
    deleting = asyncio.ensure_future(store.delete("s-1", writer.head.epoch))
    await gate.comes()
    waiting.set()
    assert await running
    gate.opened.set()
    with pytest.raises(StorageFailed):
        await deleting
    before = await found_in(store, "s-1")
    await abandon(store)
    assert await found_in(await opener(), "s-1") == before


async def test_a_tombstone_stays_until_the_loop_knows_of_the_deletion(opener: Opener) -> None:
    """Otherwise a new log would be made from the entry, which the loop still has."""
    store = await opener(FaultyFileSystem())
    first = Writer("s-1", store.next_epoch())
    await committed(store, first.commit(message("m1")))
    for _ in range(2):
        assert await store.checkpoint()
    deleting = asyncio.ensure_future(store.delete("s-1", first.head.epoch))
    await asyncio.sleep(0)
    running = store._maintenance._start(final=False)
    second = Writer("s-1", store.next_epoch())
    made = append(store, second.commit(message("new")))
    hold_the_loop(store)
    assert await answer_to(made) is None
    await deleting
    assert await running
    before = await found_in(store, "s-1")
    assert before["head"][0] == second.head.epoch
    await abandon(store)
    assert await found_in(await opener(), "s-1") == before


async def test_a_creation_its_commits_and_a_checkpoint_reach_the_loop_at_once(
    opener: Opener, fs: GatedFileSystem
) -> None:
    """R9: published, appended to and checkpointed before the loop knows of any of it."""
    store = await opener(fs)
    history = Writer("s-1", store.next_epoch())
    async with store.creation("s-1", history.head.epoch) as creation:
        await creation.write(*entries_of(history.commit(message("m1"), message("m2"), note="k1")))
        gate = fs.gate("rename", "/events/s-1")
        publishing = asyncio.ensure_future(creation.publish(history.head))
        await gate.comes()
        running = store._maintenance._start(final=False)
        more = append(store, history.commit(message("m3")))
        gate.opened.set()
        hold_the_loop(store)
        assert await answer_to(more) is None
        assert await running
        await publishing
    before = await found_in(store, "s-1")
    await abandon(store)
    assert await found_in(await opener(), "s-1") == before
    assert len(before["message in order"]) == 3


# -- file swaps: compacting, packing, repairing ----------------------------------------------------


async def a_session_to_compact(store: JsonlStore) -> Writer:
    writer = Writer("s-1", store.next_epoch())
    await committed(store, writer.commit(message("m1"), run_start("run_1")))
    for number in range(10):
        await committed(store, writer.commit(token(f"{number} " * 40)))
    await committed(store, writer.commit(message("m2"), complete("run_1"), note="k1"))
    return writer


async def queued(store: JsonlStore, count: int) -> None:
    """Wait until so many requests wait for the committer, which is blocked."""
    with anyio.fail_after(DEADLINE_SECONDS):
        while store._committer._queue.qsize() < count:  # noqa: ASYNC110 - nobody tells
            await anyio.sleep(0.001)


async def test_commits_before_and_after_a_compaction_reach_the_loop_at_once(
    opener: Opener, fs: GatedFileSystem
) -> None:
    """R2: earlier answers apply to the size of the old file, later ones to the new one."""
    store = await opener(fs)
    writer = await a_session_to_compact(store)
    assert await store.checkpoint()
    epoch, upto = writer.head.epoch, writer.head.seq
    gate = fs.gate("sync_directory", "/aside")
    compacting = asyncio.ensure_future(store.compact("s-1", epoch, upto))
    await gate.comes()
    holding = fs.gate("write", "journal-")
    first = append(store, writer.commit(token("between"), message("m3")))
    await holding.comes()
    gate.opened.set()
    await queued(store, 1)
    second = append(store, writer.commit(message("m4"), note="k2"))
    running = store._maintenance._start(final=False)
    third = append(store, writer.commit(message("m5")))
    holding.opened.set()
    hold_the_loop(store)
    assert [await answer_to(answer) for answer in (first, second, third)] == [None] * 3
    assert await running
    assert await compacting > 0
    before = await found_in(store, "s-1")
    names = [f"m{number}" for number in range(1, 6)]
    assert [name in str(before["message in order"]) for name in names] == [True] * 5
    await abandon(store)
    assert await found_in(await opener(), "s-1") == before


async def test_a_reader_that_looked_up_a_log_before_a_compaction_reads_it_afterwards(
    opener: Opener, fs: GatedFileSystem
) -> None:
    store = await opener(fs)
    writer = await a_session_to_compact(store)
    assert await store.checkpoint()
    epoch = writer.head.epoch
    kept = [record for record in await everything(store, "s-1") if b'"token"' not in record.body]
    store._recent.forget("s-1")  # the search has to look into the files
    gates = [fs.gate("look", "/events/s-1"), fs.gate("look", "/marks/s-1")]
    reading = asyncio.ensure_future(everything(store, "s-1"))
    finding = asyncio.ensure_future(store.find("s-1", epoch, "message"))
    for gate in gates:
        await gate.comes()
    # The compaction reads the log too: through a gate of its own there is none left.
    assert await store.compact("s-1", epoch, writer.head.seq) > 0
    for gate in gates:
        gate.opened.set()
    assert await reading == kept
    assert [record.seq for record in await finding] == [2, writer.head.seq - 1]


async def test_a_late_checkpoint_does_not_overwrite_the_marks_of_a_compacted_log(
    opener: Opener, fs: GatedFileSystem
) -> None:
    store = await opener(fs)
    writer = await a_session_to_compact(store)
    gate = fs.gate("open", "/marks/s-1")
    running = store._maintenance._start(final=False)
    await gate.comes()
    assert await store.compact("s-1", writer.head.epoch, writer.head.seq) > 0
    mark_file = store._paths.marks_of("s-1")
    compacted = mark_file.read_bytes()
    gate.opened.set()
    assert await running
    assert mark_file.read_bytes() == compacted
    before = await found_in(store, "s-1")
    await abandon(store)
    assert await found_in(await opener(), "s-1") == before


async def test_a_late_write_to_a_swapped_log_does_not_change_the_new_file(
    opener: Opener,
) -> None:
    """Between the rename and the moment when the table has the new log."""

    class WritesAfterTheRename(FaultyFileSystem):
        @override
        def rename(self, source: Path, target: Path) -> None:
            super().rename(source, target)
            if source.name.startswith("compact") and target.name == "s-1.jsonl":
                late = threading.Thread(target=store._writer.write, args=(former,))
                late.start()
                late.join(DEADLINE_SECONDS)

    store = await opener(WritesAfterTheRename())
    writer = await a_session_to_compact(store)
    former = store._table.logs["s-1"]
    assert await store.checkpoint()
    gathered = [token(f"tail {number}") for number in range(5)]
    await committed(store, writer.commit(*gathered, message("m3")))
    await write_out(store)
    # As if the committer had not written it yet.
    store._writer.forget(former)
    last = _last_line_of(store, former)
    with store._writer.lock:
        former.written = former.size - len(last)
        former.tail = [last]
    assert await store.compact("s-1", writer.head.epoch, writer.head.seq) > 0
    before = await found_in(store, "s-1")
    assert store._paths.log_of("s-1").stat().st_size == before["head"][3]
    await abandon(store)
    assert await found_in(await opener(), "s-1") == before


def _last_line_of(store: JsonlStore, log: Log) -> bytes:
    """Return the last line of a log, from its file or from memory."""
    view = store._writer.view(log, log.size)
    try:
        data = view.read(0, log.size)
    finally:
        view.close()
    return data[data.rstrip(b"\n").rfind(b"\n") + 1 :]


async def test_packing_counts_no_commit_that_is_not_durable_yet(
    opener: Opener, fs: GatedFileSystem
) -> None:
    """The pack is refused because the session goes on; the log does not count as damaged."""
    store = await opener(fs)
    writer = Writer("s-1", store.next_epoch())
    await committed(store, writer.commit(message("m1")))
    gate = fs.gate("write", "journal-")
    late = append(store, writer.commit(message("m2")))
    await gate.comes()
    packing = asyncio.ensure_future(store.pack("s-1", writer.head.epoch))
    await queued(store, 1)
    gate.opened.set()
    with pytest.raises(Conflict) as caught:
        await packing
    assert caught.value.head == writer.head.seq
    assert await answer_to(late) is None
    assert list(store._paths.aside.glob("pack-*")) == []


async def test_a_repaired_log_is_known_before_the_next_checkpoint_takes_the_state(
    opener: Opener, fs: GatedFileSystem
) -> None:
    """R3: the checkpoint drops the record of the repair, so it must have the new epoch."""
    store = await opener(fs)
    writer = Writer("s-1", store.next_epoch())
    for number in range(3):
        await committed(store, writer.commit(message(f"m{number}", "x" * 500)))
    await store.release("s-1")
    assert await store.checkpoint()
    log = store._paths.log_of("s-1")
    content = bytearray(log.read_bytes())
    content[content.index(b'"m1"') + 1] ^= 1
    log.write_bytes(content)
    gate = fs.gate("rename", "/events/s-1")
    reading = asyncio.ensure_future(everything(store, "s-1"))
    await gate.comes()
    running = store._maintenance._start(final=False)
    gate.opened.set()
    hold_the_loop(store)
    assert await running
    with pytest.raises(Conflict):
        await reading
    before = await found_in(store, "s-1")
    assert before["head"][0] != writer.head.epoch
    await abandon(store)
    fresh = await opener()
    assert fresh.report.new_epochs == 0  # type: ignore[attr-defined]
    assert await found_in(fresh, "s-1") == before


async def test_a_repair_during_a_write_keeps_the_line_that_is_half_written(
    opener: Opener, monkeypatch: pytest.MonkeyPatch
) -> None:
    """R10: a repair loses the damaged line, and no line that is being written."""
    monkeypatch.setattr(
        "bamboo_gateway.storage.jsonl.journal.committer._REST_SECONDS", DEADLINE_SECONDS
    )
    store = await opener(FaultyFileSystem())
    writer = Writer("s-1", store.next_epoch())
    for number in range(4):
        await committed(store, writer.commit(message(f"m{number}")))
    await write_out(store)
    log, path = store._table.logs["s-1"], store._paths.log_of("s-1")
    last = _last_line_of(store, log)
    with store._writer.lock:
        log.written = log.size - len(last)
        log.tail = [last]
    content = bytearray(path.read_bytes())
    content[content.index(b'"m1"') + 1] ^= 1
    path.write_bytes(content[: -len(last) // 2])
    with pytest.raises(Conflict):
        await everything(store, "s-1")
    assert [record.seq for record in await everything(store, "s-1")] == [1, 2, 4, 5]
    notes = list(store._paths.quarantine.glob("*.note.json"))
    assert len(notes) == 1


async def test_a_file_swap_after_the_last_checkpoint_is_refused(
    opener: Opener, fs: GatedFileSystem
) -> None:
    """Otherwise the directory would be marked clean with a record in no checkpoint."""
    store = await opener(fs)
    writer = await a_session_to_compact(store)
    gate = fs.gate("sync_directory", "/aside")
    compacting = asyncio.ensure_future(store.compact("s-1", writer.head.epoch, writer.head.seq))
    await gate.comes()
    before = await found_in(store, "s-1")
    final = fs.gate("write", "catalog.jsonl")
    closing = asyncio.ensure_future(store.aclose())
    await final.comes()
    gate.opened.set()
    with pytest.raises(Unavailable):
        await compacting
    final.opened.set()
    await closing
    fresh = await opener()
    report = fresh.report  # type: ignore[attr-defined]
    assert (report.clean, report.catalog_rebuilt) == (True, False)
    assert await found_in(fresh, "s-1") == before


async def test_a_task_cancelled_while_it_pins_a_log_unpins_it(
    opener: Opener, fs: GatedFileSystem
) -> None:
    store = await opener(fs)
    writer = await a_session_to_compact(store)
    assert await store.checkpoint()
    gate = fs.gate("write", "journal-")
    late = append(store, writer.commit(token("x")))
    await gate.comes()
    compacting = asyncio.ensure_future(store.compact("s-1", writer.head.epoch, writer.head.seq))
    await queued(store, 1)
    compacting.cancel()
    await asyncio.sleep(0)
    gate.opened.set()
    with pytest.raises(asyncio.CancelledError):
        await compacting
    assert await answer_to(late) is None
    await store._reads.wait_for_committer()
    assert store._table.logs["s-1"].pins == 0


# -- snapshots, heads, lists ----------------------------------------------------------------------


async def test_a_snapshot_of_a_deleted_session_is_not_published_for_its_successor(
    opener: Opener, fs: GatedFileSystem
) -> None:
    store = await opener(fs)
    first = Writer("s-1", store.next_epoch())
    await committed(store, first.commit(message("m1", "of the first life")))
    gate = fs.gate("write", "snapshot-")
    releasing = asyncio.ensure_future(store.release("s-1"))
    await gate.comes()
    await store.delete("s-1", first.head.epoch)
    second = Writer("s-1", store.next_epoch())
    await committed(store, second.commit(message("m2")))
    gate.opened.set()
    await releasing
    assert store._fs.size(store._paths.snapshot_of("s-1")) is None
    assert store._catalog.entries["s-1"].snapshot == 0


async def test_a_snapshot_is_counted_although_a_compaction_reaches_the_loop_with_it(
    opener: Opener, fs: GatedFileSystem
) -> None:
    store = await opener(fs)
    writer = await a_session_to_compact(store)
    assert await store.checkpoint()
    aside = fs.gate("sync_directory", "/aside")
    compacting = asyncio.ensure_future(store.compact("s-1", writer.head.epoch, writer.head.seq))
    await aside.comes()
    publishing = fs.gate("rename", "/sessions/s-1")
    releasing = asyncio.ensure_future(store.release("s-1"))
    await publishing.comes()
    aside.opened.set()
    await queued(store, 1)
    publishing.opened.set()
    hold_the_loop(store)
    await releasing
    assert await compacting > 0
    size = store._paths.snapshot_of("s-1").stat().st_size
    assert (await store.stats())["disk_bytes_snapshots"] == size


async def test_a_head_read_before_a_commit_is_not_returned_after_it(
    opener: Opener, fs: GatedFileSystem
) -> None:
    """Without an index in memory, heads are in the catalog file."""
    store = await opener(fs, index_enabled=False)
    writer = Writer("s-1", store.next_epoch())
    await committed(store, writer.commit(message("m1")))
    assert await store.checkpoint()
    assert not store._catalog.entries["s-1"].has_head
    gate = fs.gate("read", "catalog.jsonl")
    loading = asyncio.ensure_future(store.load("s-1"))
    await gate.comes()
    await committed(store, writer.commit(message("m2")))
    gate.opened.set()
    head = await loading
    assert head is not None
    assert (head.seq, head.message_count) == (3, 2)


@pytest.mark.parametrize("query", [SessionQuery(), SessionQuery(title_contains="new")])
async def test_a_list_shows_the_current_heads_of_sessions_that_changed_while_it_read_the_catalog(
    opener: Opener, fs: GatedFileSystem, query: SessionQuery
) -> None:
    store = await opener(fs, index_enabled=False)
    writer = Writer("s-1", store.next_epoch())
    await committed(store, writer.commit())
    assert await store.checkpoint()
    gate = fs.gate("read", "catalog.jsonl")
    listing = asyncio.ensure_future(store.query(query, NOBODY))
    await gate.comes()
    await committed(store, writer.commit({"type": "session_updated", "title": "new"}))
    gate.opened.set()
    assert [(head.seq, head.title) for head in (await listing).heads] == [(2, "new")]


async def test_without_an_index_no_head_stays_in_memory_after_a_release_during_a_checkpoint(
    opener: Opener, fs: GatedFileSystem, monkeypatch: pytest.MonkeyPatch
) -> None:
    """R11."""
    monkeypatch.setattr("bamboo_gateway.storage.jsonl.maintenance.is_due", lambda *_, **__: False)
    store = await opener(fs, index_enabled=False)
    writer = Writer("s-1", store.next_epoch())
    await committed(store, writer.commit(message("m1")))
    gate = fs.gate("write", "catalog.jsonl")
    running = store._maintenance._start(final=False)
    await gate.comes()
    await store.release("s-1")
    gate.opened.set()
    assert await running
    assert await store.checkpoint()
    assert not store._catalog.entries["s-1"].has_head


async def test_the_commits_of_one_turn_of_the_loop_are_one_batch(opener: Opener) -> None:
    store = await opener()
    writer = Writer("s-1", store.next_epoch())
    await committed(store, writer.commit(message("m1")))
    before = store._committer.batches
    waiting = [append(store, writer.commit(token(f"{number} "))) for number in range(20)]
    for answer in waiting:
        assert await answer_to(answer) is None
    assert store._committer.batches == before + 1


async def test_a_job_of_the_same_turn_of_the_loop_runs_behind_its_commits(opener: Opener) -> None:
    store = await opener()
    writer = Writer("s-1", store.next_epoch())
    await committed(store, writer.commit(message("m1")))
    committer = store._committer
    waiting = append(store, writer.commit(token("a ")))
    counted = committer.send(lambda: committer.commits)
    behind = append(store, writer.commit(token("b ")))
    assert await counted == 2
    assert [await answer_to(waiting), await answer_to(behind)] == [None, None]


async def test_one_turn_of_the_loop_hands_over_no_more_than_a_batch_may_have(
    opener: Opener, monkeypatch: pytest.MonkeyPatch
) -> None:
    """R11."""
    monkeypatch.setattr("bamboo_gateway.storage.jsonl.journal.committer._BATCH_BYTES", 1)
    store = await opener()
    writer = Writer("s-1", store.next_epoch())
    waiting = [append(store, writer.commit(message(f"m{number}"))) for number in range(5)]
    for answer in waiting:
        assert await answer_to(answer) is None
    assert store._committer.batches == 5


async def test_closing_answers_all_earlier_requests(opener: Opener) -> None:
    """R1: every request gets an answer, and every acknowledged commit is stored."""
    store = await opener(FaultyFileSystem())
    writer = Writer("s-1", store.next_epoch())
    answers = [append(store, writer.commit(message(f"m{number}"))) for number in range(50)]
    closing = asyncio.ensure_future(store.aclose())
    await asyncio.sleep(0)
    hold_the_loop(store)
    errors: list[BambooError | None] = [await answer_to(answer) for answer in answers]
    assert errors == [None] * 50
    await closing
    fresh = await opener()
    assert fresh.report.clean  # type: ignore[attr-defined]
    assert len((await found_in(fresh, "s-1"))["message in order"]) == 50
