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
from bamboo_gateway.storage.jsonl.bulk_threads import BulkThreads
from bamboo_gateway.storage.jsonl.files import FileSystem
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
        sidecar: The new mark file; None for a bundle, which has its own marks.
        size: The bytes of the log, also when it is in a bundle.
        marks: The number of its marks; -1 when they have to be rebuilt.
        deltas: The bytes of its delta lines.
        bundle: The bytes of the bundle; 0 when there is none.
        token: A text in the first line of a compacted log, which identifies it.
        freed: The bytes that the log lost.
        leftovers: The new names of the replaced files, which are removed later.
    """

    kind: Kind
    entry: Entry
    generation: int
    head: SessionHead
    log: Path
    sidecar: Path | None = None
    size: int = 0
    marks: int = 0
    deltas: int = 0
    bundle: int = 0
    token: str | None = None
    freed: int = 0
    leftovers: list[Path] = field(default_factory=list)

    @property
    def files(self) -> list[Path]:
        """All files that were written aside."""
        return [self.log, *([self.sidecar] if self.sidecar else [])]

    def seq_after(self, log: Log) -> int:
        """Return the seq of the session's last event with these files."""
        return self.head.seq if self.kind == "extend" else log.seq

    def about(self) -> dict[str, Any]:
        """Return what a replay needs to repeat the swap; this is part of the file format."""
        about: dict[str, Any] = {"aside": self.log.name, "marks": self.marks, "deltas": self.deltas}
        if self.sidecar is not None:
            about["sidecar"] = self.sidecar.name
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
        self, exchange: FileSwap, catch_up: Callable[[Log], None] | None = None
    ) -> None:
        """Put the new files in their place; on return the old ones are gone.

        Args:
            exchange: The prepared files.
            catch_up: Adds the lines that arrived since, or refuses them, on the committer's thread.
                Without it no line may have arrived.

        Raises:
            Conflict: The session is gone, or has changed.
            StorageFull: There is no room for the record.
            OSError: The swap failed; the session is unchanged.
        """
        await self._lifecycle.carry_out(
            lambda: self._switch(exchange, catch_up), lambda _: self._adopt(exchange)
        )
        await self._bulk.run(lambda: self._finish(exchange))

    def _switch(self, exchange: FileSwap, catch_up: Callable[[Log], None] | None) -> None:
        entry = exchange.entry
        try:
            log = self._recorded(exchange, catch_up)
        except BaseException:
            self.remove(exchange.files)
            raise
        # First: a reader that opens a file from now on checks it again. A log that began in this
        # process did not need its entry before.
        log.entry = entry
        with self._table.writer.exchanging():
            entry.exchanged += 1
        try:
            self._fs.rename(exchange.log, self._target(exchange))
        except OSError:
            entry.exchanged -= 1
            keep, about = "keep", {"instead_of": exchange.kind}
            self._lifecycle.revoke(
                lambda: self._lifecycle.record(
                    keep, entry.id, entry.epoch, log.seq, log.size, about
                ),
                exchange.files,
            )
            raise
        fresh = self._fresh(exchange, log)
        self._table.put(fresh)
        self._place_sidecar(exchange, fresh)
        self._take_away(exchange)
        self._lifecycle.committer.note_changed(fresh)

    def _target(self, exchange: FileSwap) -> Path:
        name = file_name(exchange.entry.id)
        return self._paths.archive_of(name) if exchange.bundle else self._paths.log_of(name)

    def _recorded(self, exchange: FileSwap, catch_up: Callable[[Log], None] | None) -> Log:
        """Write the record, if the session still has the files that the new ones were made from."""
        entry = exchange.entry
        log = self._table.log_of(entry.id)
        if log is None or log.epoch != entry.epoch or log.generation != exchange.generation:
            raise Conflict("There is no such session of that epoch.", head=None)
        if catch_up is not None:
            catch_up(log)
        elif log.seq != exchange.head.seq or log.size != exchange.size:
            raise Conflict("The session has been appended to.", head=log.seq)
        seq = exchange.seq_after(log)
        self._lifecycle.record(
            exchange.kind, entry.id, entry.epoch, seq, exchange.size, exchange.about()
        )
        return log

    def _fresh(self, exchange: FileSwap, log: Log) -> Log:
        entry = exchange.entry
        fresh = Log(
            entry.id,
            log.name,
            self._target(exchange),
            entry.epoch,
            seq=exchange.seq_after(log),
            size=exchange.size,
            marks_saved=exchange.marks,
        )
        fresh.packed = exchange.bundle > 0
        fresh.entry, fresh.generation = entry, entry.exchanged
        fresh.journal_bytes = log.journal_bytes
        # The next checkpoint removes the held file of the former log.
        fresh.held_end = log.held_end
        return fresh

    def _place_sidecar(self, exchange: FileSwap, fresh: Log) -> None:
        if exchange.sidecar is None:
            return
        try:
            self._fs.rename(exchange.sidecar, self._paths.marks_of(fresh.name))
        except OSError:
            exchange.marks = fresh.marks_saved = -1

    def _take_away(self, exchange: FileSwap) -> None:
        """Rename the files that the session no longer needs; removing large files takes time."""
        name = file_name(exchange.entry.id)
        paths = self._paths
        gone = {
            "pack": (paths.log_of(name), paths.marks_of(name), paths.snapshot_of(name)),
            "unpack": (paths.archive_of(name),),
            "compact": (),
            "extend": (),
        }
        for path in gone[exchange.kind]:
            aside = self._paths.aside / f"past-{next(self._numbers)}"
            # A file that stays is removed with the session, or overwritten by its next swap.
            with suppress(OSError):
                self._fs.rename(path, aside)
                exchange.leftovers.append(aside)

    def _adopt(self, exchange: FileSwap) -> None:
        entry = exchange.entry
        with self._catalog.changing_files(entry):
            entry.generation = entry.exchanged
            entry.size, entry.marks = exchange.size, exchange.marks
            entry.deltas, entry.bundle = exchange.deltas, exchange.bundle
            entry.snapshot = min(entry.snapshot, exchange.size)
            if exchange.kind == "extend":
                entry.set_head(exchange.head.copy())
                self._catalog.changed.add(entry.id)
            if exchange.bundle:
                entry.snapshot = entry.snapshot_bytes = 0

    def _finish(self, exchange: FileSwap) -> None:
        # Until the name is durable, a replay repeats the renames.
        with suppress(OSError):
            self._fs.sync_directory(self._target(exchange).parent)
        self.remove(exchange.leftovers)

    def remove(self, files: Iterable[Path]) -> None:
        """Remove files; the next start removes those that cannot be removed now."""
        for path in files:
            with suppress(OSError):
                self._fs.unlink(path)
