"""File swaps: give a session other files with the same content, epoch and positions.

Packing, unpacking and compacting work this way. So does adding many events at once, where the new
files also have the added events. The new files are written aside while everybody goes on. Then one
record makes them the session's files, on the committer's thread and between batches. A reader that
looked up the log before notices this when it opens the log (`Log.is_outdated`), and looks it up
again.
"""

from collections.abc import Callable, Iterable
from contextlib import suppress
from dataclasses import dataclass, field
from itertools import count
from pathlib import Path
from typing import Any, Literal

from bamboo_gateway.domain.errors import Conflict
from bamboo_gateway.domain.sessions import SessionHead
from bamboo_gateway.storage.file_system import FileSystem
from bamboo_gateway.storage.jsonl.bulk_threads import BulkThreads
from bamboo_gateway.storage.jsonl.index.catalog import Catalog, Entry
from bamboo_gateway.storage.jsonl.journal.lifecycle_records import LifecycleRecords
from bamboo_gateway.storage.jsonl.log.log import Log
from bamboo_gateway.storage.jsonl.log.table import LogTable
from bamboo_gateway.storage.jsonl.paths import Paths, file_name

Kind = Literal["pack", "unpack", "compact", "extend"]


@dataclass(slots=True)
class FileSwap:
    """New files for a session, written aside and synced.

    Attributes:
        kind: The kind of the swap.
        entry: The session's entry.
        generation: The generation of the files that they were made from.
        head: The session's head that belongs to them.
        log: The new log or bundle.
        mark_file: The new mark file; None for a bundle, which has its own marks.
        size: The bytes of the log, also when it is in a bundle.
        marks: The number of its marks; -1 when they have to be rebuilt.
        deltas: The bytes of its delta lines.
        bundle: The bytes of the bundle; 0 when there is none.
        token: A text in the first line of a compacted log, which identifies it.
        lsn: The number of its record.
        freed: The bytes that the log lost.
        leftovers: The new names of the replaced files, which are removed later.
    """

    kind: Kind
    entry: Entry
    generation: int
    head: SessionHead
    log: Path
    mark_file: Path | None = None
    size: int = 0
    marks: int = 0
    deltas: int = 0
    bundle: int = 0
    token: str | None = None
    lsn: int = 0
    freed: int = 0
    leftovers: list[Path] = field(default_factory=list)

    @property
    def files(self) -> list[Path]:
        """All files that were written aside."""
        return [self.log, *([self.mark_file] if self.mark_file else [])]

    def seq_after(self, log: Log) -> int:
        """Return the seq of the session's last event with these files."""
        return self.head.seq if self.kind == "extend" else log.seq

    def about(self) -> dict[str, Any]:
        """Return what a replay needs to repeat the swap; this is part of the file format."""
        about: dict[str, Any] = {"aside": self.log.name, "marks": self.marks, "deltas": self.deltas}
        if self.mark_file is not None:
            about["sidecar"] = self.mark_file.name
        if self.token is not None:
            about["token"] = self.token
        return about | {"head": self.head.to_json()}


class FileSwapper:
    """Carries out file swaps."""

    def __init__(
        self,
        fs: FileSystem,
        paths: Paths,
        catalog: Catalog,
        table: LogTable,
        lifecycle: LifecycleRecords,
        bulk: BulkThreads,
    ) -> None:
        self._fs = fs
        self._paths = paths
        self._catalog = catalog
        self._table = table
        self._lifecycle = lifecycle
        self._bulk = bulk
        self._numbers = count()

    def aside(self, kind: Kind) -> Path:
        """Return a path for a file in progress."""
        return self._paths.aside / f"{kind}-{next(self._numbers)}"

    async def carry_out(
        self, swap: FileSwap, catch_up: Callable[[Log], None] | None = None
    ) -> None:
        """Put the new files in their place; on return the old ones are gone.

        Args:
            swap: The prepared files.
            catch_up: Adds the lines that arrived since, or refuses them, on the committer's thread.
                Without it no line may have arrived.

        Raises:
            Conflict: The session is gone, or has changed.
            StorageFull: There is no room for the record.
            OSError: The swap failed; the session is unchanged.
        """
        await self._lifecycle.carry_out(
            lambda: self._switch(swap, catch_up), lambda _: self._adopt(swap)
        )
        await self._bulk.run(lambda: self._finish(swap))

    def _switch(self, swap: FileSwap, catch_up: Callable[[Log], None] | None) -> None:
        entry = swap.entry
        try:
            log = self._recorded(swap, catch_up)
        except BaseException:
            self.remove(swap.files)
            raise
        # First: a reader that opens a file from now on checks it again. A log that began in this
        # process did not need its entry before.
        log.entry = entry
        with self._table.writer.swapping():
            entry.committer_generation += 1
        try:
            self._fs.rename(swap.log, self._target(swap))
        except OSError:
            entry.committer_generation -= 1
            keep, about = "keep", {"instead_of": swap.kind}
            self._lifecycle.revoke(
                lambda: self._lifecycle.record(
                    keep, entry.id, entry.epoch, log.seq, log.size, about
                ),
                swap.files,
            )
            raise
        fresh = self._fresh(swap, log)
        self._table.put(fresh)
        self._place_mark_file(swap, fresh)
        self._rename_old_files(swap)
        self._lifecycle.committer.note_changed(fresh)

    def _target(self, swap: FileSwap) -> Path:
        name = file_name(swap.entry.id)
        return self._paths.archive_of(name) if swap.bundle else self._paths.log_of(name)

    def _recorded(self, swap: FileSwap, catch_up: Callable[[Log], None] | None) -> Log:
        """Write the record, if the session still has the files that the new ones were made from."""
        entry = swap.entry
        log = self._table.log_of(entry.id)
        if log is None or log.epoch != entry.epoch or log.generation != swap.generation:
            raise Conflict("There is no such session of that epoch.", head=None)
        if catch_up is not None:
            catch_up(log)
        elif log.seq != swap.head.seq or log.size != swap.size:
            raise Conflict("The session has been appended to.", head=log.seq)
        seq = swap.seq_after(log)
        record = self._lifecycle.record
        swap.lsn = record(swap.kind, entry.id, entry.epoch, seq, swap.size, swap.about())
        return log

    def _fresh(self, swap: FileSwap, log: Log) -> Log:
        entry = swap.entry
        fresh = Log(
            entry.id,
            log.name,
            self._target(swap),
            entry.epoch,
            seq=swap.seq_after(log),
            size=swap.size,
            marks_saved=swap.marks,
        )
        fresh.packed = swap.bundle > 0
        fresh.entry, fresh.generation = entry, entry.committer_generation
        fresh.journal_bytes = log.journal_bytes
        # The next checkpoint removes the held file of the former log.
        fresh.held_end = log.held_end
        return fresh

    def _place_mark_file(self, swap: FileSwap, fresh: Log) -> None:
        if swap.mark_file is None:
            return
        try:
            self._fs.rename(swap.mark_file, self._paths.marks_of(fresh.name))
        except OSError:
            swap.marks = fresh.marks_saved = -1

    def _rename_old_files(self, swap: FileSwap) -> None:
        """Rename the files that the session no longer needs; removing large files takes time."""
        name = file_name(swap.entry.id)
        paths = self._paths
        gone = {
            "pack": (paths.log_of(name), paths.marks_of(name), paths.snapshot_of(name)),
            "unpack": (paths.archive_of(name),),
            "compact": (),
            "extend": (),
        }
        for path in gone[swap.kind]:
            aside = self._paths.aside / f"past-{next(self._numbers)}"
            # A file that stays is removed with the session, or overwritten by its next swap.
            with suppress(OSError):
                self._fs.rename(path, aside)
                swap.leftovers.append(aside)

    def _adopt(self, swap: FileSwap) -> None:
        entry = swap.entry
        with self._catalog.changing_files(entry):
            entry.generation = entry.committer_generation
            entry.size, entry.marks = swap.size, swap.marks
            entry.deltas, entry.bundle = swap.deltas, swap.bundle
            entry.snapshot = min(entry.snapshot, swap.size)
            if swap.kind == "extend":
                self._catalog.rewritten.add(entry.id)
                entry.set_head(swap.head.copy())
                self._catalog.note_change(entry, swap.lsn)
            if swap.bundle:
                entry.snapshot = entry.snapshot_bytes = 0

    def _finish(self, swap: FileSwap) -> None:
        # Until the name is durable, a replay repeats the renames.
        with suppress(OSError):
            self._fs.sync_directory(self._target(swap).parent)
        self.remove(swap.leftovers)

    async def forget_snapshot(self, entry: Entry) -> None:
        """Remove a session's snapshot, which may have what its log lost; a later one is made.

        Raises:
            OSError: It could not be removed.
        """
        with self._catalog.changing_files(entry):
            entry.snapshot = entry.snapshot_bytes = 0
        path = self._paths.snapshot_of(file_name(entry.id))
        await self._bulk.run(lambda: self._fs.unlink(path))
        await self._bulk.run(lambda: self._fs.sync_directory(path.parent))

    def remove(self, files: Iterable[Path]) -> None:
        """Remove files; the next start removes those that cannot be removed now."""
        for path in files:
            with suppress(OSError):
                self._fs.unlink(path)
