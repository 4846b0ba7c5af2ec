"""Maintenance beside commits and reads: checkpoints, snapshots, and removal of deleted files.

Everything here begins and ends on the loop's thread and does its work in thread pools of its own,
so that neither commits nor reads wait for it (R7). One checkpoint runs at a time.
"""

import asyncio
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from itertools import count
from pathlib import Path
from typing import Any

from bamboo_gateway.domain.clock import Clock
from bamboo_gateway.domain.sessions import SessionHead
from bamboo_gateway.storage.file_system import FileSystem
from bamboo_gateway.storage.jsonl.index.catalog import Catalog, Entry
from bamboo_gateway.storage.jsonl.index.catalog_file import CatalogFile
from bamboo_gateway.storage.jsonl.index.catalog_lines import EntryState
from bamboo_gateway.storage.jsonl.journal.checkpoint import Checkpointer, Work
from bamboo_gateway.storage.jsonl.journal.committer import Committer, Rotation
from bamboo_gateway.storage.jsonl.log.log import Log
from bamboo_gateway.storage.jsonl.log.table import LogTable
from bamboo_gateway.storage.jsonl.mark_search import MarkSearch
from bamboo_gateway.storage.jsonl.paths import Paths
from bamboo_gateway.storage.jsonl.snapshots import is_due, write_snapshot

# The rest after a snapshot for a checkpoint, as a multiple of the time it took: many sessions may
# have grown at once, and commits share the disk and the interpreter with the snapshots.
_SNAPSHOT_REST = 4


@dataclass(slots=True)
class Counters:
    """What happened since the store was opened."""

    checkpoints: int = 0
    checkpoint_failures: int = 0
    snapshots: int = 0


class Maintenance:
    """Starts checkpoints and snapshots, and removes the files of deleted sessions."""

    def __init__(
        self,
        fs: FileSystem,
        paths: Paths,
        catalog: Catalog,
        catalog_file: CatalogFile,
        table: LogTable,
        committer: Committer,
        checkpointer: Checkpointer,
        mark_search: MarkSearch,
        clock: Clock,
    ) -> None:
        self._clock = clock
        # When all records of the journal were last known to be in the logs.
        self._checkpointed_at = clock.monotonic()
        self._fs = fs
        self._paths = paths
        self._catalog = catalog
        self._catalog_file = catalog_file
        self._table = table
        self._committer = committer
        self._checkpointer = checkpointer
        self._mark_search = mark_search
        self._checkpoint_pool = ThreadPoolExecutor(1, "bamboo-checkpoint")
        # Two threads: a long snapshot must not delay the removal of deleted files.
        self._bulk_pool = ThreadPoolExecutor(2, "bamboo-bulk")
        self._running: asyncio.Future[bool] | None = None
        self._is_wanted = False
        self._is_closing = False
        # The sessions that have grown since their snapshots, by id; and whether one is being
        # written, or the rest after it lasts.
        self._grown: dict[str, Entry] = {}
        self._is_snapshotting = False
        self._names = count()
        self.counters = Counters()
        self.last_error: OSError | None = None

    @property
    def journal_seconds(self) -> float:
        """How long the journal's oldest record has waited, as exact as the checkpoint interval."""
        return self._clock.monotonic() - self._checkpointed_at if self._committer.has_work else 0.0

    def due(self) -> None:
        """Start a checkpoint if there is anything to do, at once or after the one that runs."""
        self._is_wanted = self._running is not None
        if self._is_closing:
            return
        catalog = self._catalog
        if self._running is not None:
            return
        if self._committer.has_work or catalog.dirty or catalog.deleted:
            self._start(final=False).add_done_callback(_take_result)
        else:
            self._checkpointed_at = self._clock.monotonic()

    async def checkpoint(self, *, final: bool = False) -> bool:
        """Make a checkpoint of everything acknowledged before; return whether it succeeded."""
        while self._running is not None:
            await asyncio.shield(self._running)
        return await asyncio.shield(self._start(final=final))

    def _start(self, *, final: bool) -> "asyncio.Future[bool]":
        self._is_closing = self._is_closing or final
        done = self._running = asyncio.get_running_loop().create_future()
        # By `change`: the state is taken before the answer of any later commit. A replay relies on
        # this. So do the marks: whatever the state has of a log was in this rotation.
        self._committer.change(lambda: self._committer.rotate(final=final), self._rotated)
        return done

    def _rotated(self, rotation: Rotation | Exception) -> None:
        if isinstance(rotation, Exception):
            self._finish(rotation)
            return
        # The loop has the answers up to the rotation and no later ones: this is the state at its
        # lsn.
        dirty, self._catalog.dirty = self._catalog.dirty, {}
        deleted, self._catalog.deleted = self._catalog.deleted, set()
        states = [EntryState.of(entry) for entry in dirty.values()]
        changes = self._catalog.changes
        gone, changes.unsaved = changes.unsaved, {}
        work = Work(rotation, states, sorted(deleted), changes.feed, gone)
        loop = asyncio.get_running_loop()
        working = loop.run_in_executor(self._checkpoint_pool, self._checkpointer.run, work)
        working.add_done_callback(lambda future: self._checkpointed(future, work))

    def _checkpointed(self, working: "asyncio.Future[None]", work: Work) -> None:
        error = working.exception()
        if error is not None:
            catalog = self._catalog
            entries = [state.entry for state in work.states]
            still = {e.id: e for e in entries if catalog.entries.get(e.id) is e}
            catalog.dirty = {**still, **catalog.dirty}
            catalog.deleted |= set(work.deleted)
            catalog.changes.put_back(work.gone)
            giving = self._committer.send(lambda: self._committer.take_back(work.rotation))
            giving.add_done_callback(_take_result)
            self._finish(error)
            return
        forgetting = self._committer.send(lambda: self._committer.forget_segments(work.rotation))
        forgetting.add_done_callback(_take_result)
        if not self._catalog_file.keeps_heads:
            for state in work.states:
                state.settle()
        self._snapshot_grown(work)
        loop = asyncio.get_running_loop()
        rewriting = loop.run_in_executor(self._checkpoint_pool, self._catalog_file.rewrite_if_due)
        rewriting.add_done_callback(lambda future: self._finish(future.exception()))

    def _finish(self, error: BaseException | None) -> None:
        if error is not None and not isinstance(error, OSError):
            # Not a failure of the disk but a bug in this program, so it must be visible as one.
            context = {"message": "a checkpoint failed", "exception": error}
            asyncio.get_running_loop().call_exception_handler(context)
        self.last_error = error if isinstance(error, OSError) else None
        if error is None:
            self._checkpointed_at = self._clock.monotonic()
        self.counters.checkpoints += error is None
        self.counters.checkpoint_failures += error is not None
        done, self._running = self._running, None
        if done is not None and not done.done():
            done.set_result(error is None)
        if self._is_wanted and error is None:
            self.due()

    def _snapshot_grown(self, work: Work) -> None:
        for state in work.states:
            if self._has_grown(state.entry):
                self._grown[state.entry.id] = state.entry
        if not self._is_snapshotting:
            self._snapshot_next()

    def _has_grown(self, entry: Entry) -> bool:
        is_current = self._catalog.entries.get(entry.id) is entry
        return is_current and is_due(entry.size, entry.snapshot, at_rest=False)

    def _snapshot_next(self) -> None:
        """Start the next snapshot of a grown session: one at a time, with rests between them."""
        self._is_snapshotting = False
        while self._grown and not self._is_closing:
            entry = self._grown.pop(next(iter(self._grown)))
            if self._has_grown(entry):
                self._is_snapshotting = True
                rest = partial(self._rest, asyncio.get_running_loop().time())
                self._start_snapshot(entry).add_done_callback(rest)
                return

    def _rest(self, began: float, _: "asyncio.Future[None]") -> None:
        loop = asyncio.get_running_loop()
        loop.call_later(_SNAPSHOT_REST * (loop.time() - began), self._snapshot_next)

    async def snapshot(self, entries: Iterable[Entry]) -> None:
        """Write the snapshots that are due, of sessions that leave memory."""
        started = [
            self._start_snapshot(entry)
            for entry in entries
            if is_due(entry.size, entry.snapshot, at_rest=True)
        ]
        if started:
            await asyncio.wait(started)

    def _start_snapshot(self, entry: Entry) -> "asyncio.Future[None]":
        """Start writing a snapshot. A failure is not an error: the log is still the truth."""
        loop = asyncio.get_running_loop()
        done: asyncio.Future[None] = loop.create_future()
        if not entry.has_head or entry.bundle:
            done.set_result(None)
            return done
        log, size = self._table.current(entry), entry.size

        def written(future: "asyncio.Future[tuple[Path, int]]") -> None:
            if future.exception() is not None:
                done.set_result(None)
                return
            # Renamed on the committer's thread, where the session cannot disappear meanwhile.
            aside, aside_bytes = future.result()
            self._committer.change(
                lambda: self._publish(log, aside), lambda result: published(result, aside_bytes)
            )

        def published(is_published: bool | Exception, snapshot_bytes: int) -> None:
            if is_published is True:
                self.counters.snapshots += 1
                if entry.generation == log.generation:
                    with self._catalog.changing_files(entry):
                        entry.snapshot, entry.snapshot_bytes = size, snapshot_bytes
            done.set_result(None)

        writing = loop.run_in_executor(
            self._bulk_pool, self._write_snapshot, entry.own_head(), size, log
        )
        writing.add_done_callback(written)
        return done

    def _write_snapshot(self, head: SessionHead, size: int, log: Log) -> tuple[Path, int]:
        aside = self._paths.aside / f"snapshot-{next(self._names)}"
        lines = self._mark_search.messages(log, size)
        return aside, write_snapshot(self._fs, aside, head, size, lines)

    def _publish(self, log: Log, aside: Path) -> bool:
        current = self._table.log_of(log.session_id)
        if current is None or current.epoch != log.epoch or log.is_outdated:
            self._fs.unlink(aside)
            return False
        self._fs.rename(aside, self._paths.snapshot_of(log.name))
        return True

    async def remove(self, leftovers: list[Path]) -> None:
        """Remove the renamed files of a deleted session, and sync the removal.

        Raises:
            OSError: Some files are still there; the next start removes them.
        """
        loop = asyncio.get_running_loop()
        await loop.run_in_executor(self._bulk_pool, self._remove, leftovers)

    def _remove(self, leftovers: list[Path]) -> None:
        for path in leftovers:
            self._fs.unlink(path)
        for directory in (self._paths.events, self._paths.snapshots, self._paths.aside):
            self._fs.sync_directory(directory)

    def close(self) -> None:
        """Wait for the threads of the pools; not on the loop's thread."""
        self._is_closing = True
        self._checkpoint_pool.shutdown()
        self._bulk_pool.shutdown()


def _take_result(future: "asyncio.Future[Any]") -> None:
    """Take the result of a future that nobody waits for; its errors were handled elsewhere."""
    future.exception()
