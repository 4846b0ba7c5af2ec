"""What goes on beside commits and reads: checkpoints, snapshots, removing what was deleted.

Everything here starts and ends on the loop's thread and works in pools of its own, so that neither
commits nor readers wait for it (R7). One checkpoint runs at a time.
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
from bamboo_gateway.storage.jsonl.files import FileSystem
from bamboo_gateway.storage.jsonl.index.catalog import Catalog, Entry
from bamboo_gateway.storage.jsonl.index.catalog_file import CatalogFile, EntryState
from bamboo_gateway.storage.jsonl.journal.checkpoint import Checkpointer, Work
from bamboo_gateway.storage.jsonl.journal.committer import Committer, Rotation
from bamboo_gateway.storage.jsonl.log.log import Log
from bamboo_gateway.storage.jsonl.log.table import LogTable
from bamboo_gateway.storage.jsonl.mark_files import MarkFiles
from bamboo_gateway.storage.jsonl.paths import Paths
from bamboo_gateway.storage.jsonl.snapshots import is_due, write_snapshot

# After a snapshot that a checkpoint asks for, how many times as long as it took until the next one:
# many sessions may have grown at once, and commits share the disk and the interpreter with them.
_SNAPSHOT_REST = 4


@dataclass(slots=True)
class Counters:
    """What happened since opening."""

    checkpoints: int = 0
    checkpoint_failures: int = 0
    snapshots: int = 0


class Maintenance:
    """See the module."""

    def __init__(
        self,
        fs: FileSystem,
        paths: Paths,
        catalog: Catalog,
        catalog_file: CatalogFile,
        table: LogTable,
        committer: Committer,
        checkpointer: Checkpointer,
        sidecars: MarkFiles,
        clock: Clock,
    ) -> None:
        self._clock = clock
        # When the journal was last known to hold nothing that is not in its place.
        self._brought_up_at = clock.monotonic()
        self._fs = fs
        self._paths = paths
        self._catalog = catalog
        self._catalog_file = catalog_file
        self._table = table
        self._committer = committer
        self._checkpointer = checkpointer
        self._sidecars = sidecars
        self._checkpoint_pool = ThreadPoolExecutor(1, "bamboo-checkpoint")
        # Two: one long snapshot must not hold up the removal of deleted files.
        self._bulk_pool = ThreadPoolExecutor(2, "bamboo-bulk")
        self._running: asyncio.Future[bool] | None = None
        self._is_wanted = False
        self._is_closing = False
        # Those that a checkpoint found to have grown, by id; and whether one of them is at work, or
        # the rest after it.
        self._grown: dict[str, Entry] = {}
        self._is_snapshotting = False
        self._names = count()
        self.counters = Counters()
        self.last_error: OSError | None = None

    @property
    def journal_seconds(self) -> float:
        """How long the journal's oldest record has waited; as exact as the interval."""
        return self._clock.monotonic() - self._brought_up_at if self._committer.has_work else 0.0

    def due(self) -> None:
        """Start a checkpoint if there is anything to do; after the one that is running, if so."""
        self._is_wanted = self._running is not None
        if self._is_closing:
            return
        catalog = self._catalog
        if self._running is not None:
            return
        if self._committer.has_work or catalog.dirty or catalog.deleted:
            self._start(final=False).add_done_callback(_look_at)
        else:
            self._brought_up_at = self._clock.monotonic()

    async def checkpoint(self, *, final: bool = False) -> bool:
        """Make a checkpoint of all that was acknowledged before; return whether it succeeded."""
        while self._running is not None:
            await asyncio.shield(self._running)
        return await asyncio.shield(self._start(final=final))

    def _start(self, *, final: bool) -> "asyncio.Future[bool]":
        self._is_closing = self._is_closing or final
        done = self._running = asyncio.get_running_loop().create_future()
        # By `change`: the state is taken before the answer of any later commit. A replay relies on
        # it, and so do the marks: what the state says of a log has been in this rotation.
        self._committer.change(lambda: self._committer.rotate(final=final), self._rotated)
        return done

    def _rotated(self, rotation: Rotation | Exception) -> None:
        if isinstance(rotation, Exception):
            self._finish(rotation)
            return
        # Answers up to the rotation are in, later ones are not: this is the state as of its lsn.
        dirty, self._catalog.dirty = self._catalog.dirty, {}
        deleted, self._catalog.deleted = self._catalog.deleted, set()
        states = [EntryState.of(entry) for entry in dirty.values()]
        work = Work(rotation, states, sorted(deleted))
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
            giving = self._committer.send(lambda: self._committer.give_back(work.rotation))
            giving.add_done_callback(_look_at)
            self._finish(error)
            return
        forgetting = self._committer.send(lambda: self._committer.brought_up(work.rotation))
        forgetting.add_done_callback(_look_at)
        if not self._catalog_file.keeps_heads:
            for state in work.states:
                state.settle()
        self._snapshot_grown(work)
        loop = asyncio.get_running_loop()
        rewriting = loop.run_in_executor(self._checkpoint_pool, self._catalog_file.rewrite_if_due)
        rewriting.add_done_callback(lambda future: self._finish(future.exception()))

    def _finish(self, error: BaseException | None) -> None:
        if error is not None and not isinstance(error, OSError):
            # Not a disk's doing: it is a fault of this program, and must be seen as one.
            context = {"message": "a checkpoint failed", "exception": error}
            asyncio.get_running_loop().call_exception_handler(context)
        self.last_error = error if isinstance(error, OSError) else None
        if error is None:
            self._brought_up_at = self._clock.monotonic()
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
        """Start the snapshot of the next that has grown: one at a time, with rests between."""
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
        """Write the snapshots of sessions at rest, where they are due."""
        started = [
            self._start_snapshot(entry)
            for entry in entries
            if is_due(entry.size, entry.snapshot, at_rest=True)
        ]
        if started:
            await asyncio.wait(started)

    def _start_snapshot(self, entry: Entry) -> "asyncio.Future[None]":
        """Start writing a snapshot. Failing is no error: without it the log is still the truth."""
        loop = asyncio.get_running_loop()
        done: asyncio.Future[None] = loop.create_future()
        if not entry.is_at_hand or entry.bundle:
            done.set_result(None)
            return done
        log, size = self._table.current(entry), entry.size

        def written(future: "asyncio.Future[tuple[Path, int]]") -> None:
            if future.exception() is not None:
                done.set_result(None)
                return
            # Named on the committer's thread, where the session cannot be gone meanwhile.
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
        lines = self._sidecars.messages(log, size)
        return aside, write_snapshot(self._fs, aside, head, size, lines)

    def _publish(self, log: Log, aside: Path) -> bool:
        current = self._table.log_of(log.session_id)
        if current is None or current.epoch != log.epoch or log.is_outdated:
            self._fs.unlink(aside)
            return False
        self._fs.rename(aside, self._paths.snapshot_of(log.name))
        return True

    async def remove(self, leftovers: list[Path]) -> None:
        """Remove what a deleted session's files were renamed to, and sync that they are gone.

        Raises:
            OSError: Some are still there, under names that the next start clears away.
        """
        loop = asyncio.get_running_loop()
        await loop.run_in_executor(self._bulk_pool, self._remove, leftovers)

    def _remove(self, leftovers: list[Path]) -> None:
        for path in leftovers:
            self._fs.unlink(path)
        for directory in (self._paths.events, self._paths.snapshots, self._paths.aside):
            self._fs.sync_directory(directory)

    def close(self) -> None:
        """Wait for the pools' threads; not on the loop's thread."""
        self._is_closing = True
        self._checkpoint_pool.shutdown()
        self._bulk_pool.shutdown()


def _look_at(future: "asyncio.Future[Any]") -> None:
    """Take the result of what nobody waits for; its errors have been dealt with."""
    future.exception()
