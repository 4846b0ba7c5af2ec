"""Exchanges a session's files for others that say the same, under the same epoch and positions.

Packing, unpacking and compacting have one shape, and so has adding many events at once, for which
"the same" is the log with them: the new files are written aside while everybody
goes on; then, on the committer's thread and between batches, one record makes them the session's.
Readers that looked a log up before find out when they open it (`Log.is_outdated`) and look again.
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
        kind: What they are.
        entry: Whose.
        generation: What they were made of.
        head: The session's head as of them.
        log: The log or bundle; `sidecar` its marks, which a bundle holds itself.
        size: The bytes of the log, also when it lies in a bundle.
        marks: How many marks it has; -1 when they have to be built again.
        deltas: The bytes of its delta lines.
        bundle: The bytes of the bundle; 0 without one.
        token: Stands in the first line of a compacted log, to know it again.
        freed: What the log has lost.
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
        """All that was written aside."""
        return [self.log, *([self.sidecar] if self.sidecar else [])]

    def seq_after(self, log: Log) -> int:
        """Return the seq of the session's last event with these files."""
        return self.head.seq if self.kind == "extend" else log.seq

    def about(self) -> dict[str, Any]:
        """Say in a record what a replay needs."""
        about: dict[str, Any] = {"aside": self.log.name, "marks": self.marks, "deltas": self.deltas}
        if self.sidecar is not None:
            about["sidecar"] = self.sidecar.name
        if self.token is not None:
            about["token"] = self.token
        return about | {"head": self.head.to_json()}


class FileSwapper:
    """See the module."""

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
        """Return a name for a file that is being written."""
        return self._paths.aside / f"{kind}-{next(self._numbers)}"

    async def carry_out(
        self, exchange: FileSwap, catch_up: Callable[[Log], None] | None = None
    ) -> None:
        """Put the files in their place; the old ones are gone on return.

        Args:
            exchange: What was prepared.
            catch_up: Adds what has come since, or refuses it, on the committer's thread; without it
                nothing may have come.

        Raises:
            Conflict: The session has gone, or has changed since.
            StorageFull: There is no room for the record.
            OSError: It could not be done; the session is as it was.
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
        # First: whoever opens a file now looks again before he trusts it. A log that began in this
        # process has not needed to know its entry before.
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
        """Write the record, if the session is still what the files were made of."""
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
        # What is held of the former file goes with the next checkpoint.
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
        """Rename what the session no longer needs: removing large files takes its time."""
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
            # What stays is removed with the session, or taken over by its next exchange.
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
        # Until this is durable a replay repeats the renames.
        with suppress(OSError):
            self._fs.sync_directory(self._target(exchange).parent)
        self.remove(exchange.leftovers)

    def remove(self, files: Iterable[Path]) -> None:
        """Remove files; what cannot be removed now is cleared away at the next start."""
        for path in files:
            with suppress(OSError):
                self._fs.unlink(path)
