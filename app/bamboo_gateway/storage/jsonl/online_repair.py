"""Repairs a log that a reader found damaged, while the store runs (R4, R10).

A thread writes the new log aside. Only the switch to the new epoch happens on the committer's
thread, between batches: it adds the lines that arrived meanwhile, syncs the file, writes a record
and renames the file. From then on the store refuses reads and writes in the old epoch.
"""

import os
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from bamboo_gateway.domain.sessions import SessionHead
from bamboo_gateway.storage.file_system import FileSystem
from bamboo_gateway.storage.jsonl.bundle import salvage_bundle
from bamboo_gateway.storage.jsonl.index.catalog import Entry
from bamboo_gateway.storage.jsonl.journal.segments import RECORD_OVERHEAD_BYTES, Journal, pack
from bamboo_gateway.storage.jsonl.log.log import Log
from bamboo_gateway.storage.jsonl.log.table import LogTable
from bamboo_gateway.storage.jsonl.paths import Paths, file_name
from bamboo_gateway.storage.jsonl.quarantine import set_aside
from bamboo_gateway.storage.jsonl.repair import fold_data, make_log, refill, salvage


@dataclass(slots=True)
class Prepared:
    """A repaired log written aside: the part of the damaged log that it covers, and its head."""

    session_id: str
    old_epoch: int
    epoch: int
    generation: int
    covered: int
    size: int
    head: SessionHead


class OnlineRepair:
    """Prepares repaired logs, and puts them in the place of the damaged ones."""

    def __init__(self, fs: FileSystem, paths: Paths, journal: Journal, table: LogTable) -> None:
        self._fs = fs
        self._paths = paths
        self._journal = journal
        self._table = table
        self.quarantined: list[str] = []

    def prepare(
        self, known: SessionHead, epoch: int, generation: int, size: int, *, is_packed: bool
    ) -> Prepared:
        """Salvage the log into a file aside; on any thread.

        Args:
            known: The session's durable head.
            epoch: The new epoch.
            generation: The generation of its files that the loop knows.
            size: The bytes of the log that were acknowledged and in its file at that moment.
            is_packed: Whether the log is in a bundle.

        Raises:
            OSError: The files could not be read or written.
        """
        name = file_name(known.id)
        if is_packed:
            data, origin = b"", f"archive/{name}.zst"
            found = salvage_bundle(self._fs, self._paths.archive_of(name))
        else:
            data = (self._fs.read(self._paths.log_of(name)) or b"")[:size]
            found, origin = salvage(data), f"events/{name}.jsonl"
        refill(self._fs, self._paths, name, found)
        for offset, lost in found.damaged:
            note = {"from": origin, "offset": offset, "why": "unreadable"}
            kept = set_aside(self._fs, self._paths, f"log-{name}", lost, note)
            self.quarantined.append(kept)
        content, head = make_log(known.id, epoch, found, known)
        self._fs.write_new(self._aside(epoch), content)
        return Prepared(known.id, known.epoch, epoch, generation, len(data), len(content), head)

    def _aside(self, epoch: int) -> Path:
        # Recovery uses this name too.
        return self._paths.aside / f"replace-{epoch}"

    def switch(self, prepared: Prepared) -> Entry | None:
        """Put the repaired log in its place; on the committer's thread.

        Returns:
            The new entry; None when the session is gone or was repaired by somebody else.

        Raises:
            OSError: The record or the file could not be written; the damaged log stays.
        """
        log = self._table.log_of(prepared.session_id)
        if log is None or log.epoch != prepared.old_epoch or log.generation != prepared.generation:
            self._fs.unlink(self._aside(prepared.epoch))
            return None
        if not log.packed:
            self._add_what_came(log, prepared)
        self._write_record(prepared)
        # First: a later write of its tail would go into the repaired file.
        self._table.retire(log)
        try:
            self._fs.rename(self._aside(prepared.epoch), self._paths.log_of(log.name))
        except OSError:
            log.deleted = log.removed = False
            raise
        self._fs.sync_directory(self._paths.events)
        with suppress(OSError):
            self._fs.unlink(self._paths.marks_of(log.name))
            self._fs.unlink(self._paths.snapshot_of(log.name))
            self._fs.unlink(self._paths.archive_of(log.name))
        entry = Entry(prepared.session_id, prepared.epoch)
        entry.set_head(prepared.head)
        entry.size, entry.marks = prepared.size, -1
        entry.changed = self._journal.lsn
        fresh = self._table.log_from(entry)
        fresh.journal_bytes, fresh.held_end = log.journal_bytes, log.held_end
        self._table.put(fresh)
        return entry

    def _add_what_came(self, log: Log, prepared: Prepared) -> None:
        with self._table.writer.lock:
            written, tail = log.written, b"".join(log.tail)
        more = b""
        if written > prepared.covered:
            data = self._fs.read(log.path) or b""
            more = data[prepared.covered : written]
        more += tail[max(prepared.covered - written, 0) :]
        lines = [line for _, line in salvage(b"\n" + more).lines]
        if not lines:
            return
        added = b"".join(lines)
        fd = self._fs.open(self._aside(prepared.epoch), os.O_RDWR)
        try:
            self._fs.pwrite(fd, added, prepared.size)
            self._fs.sync(fd)
        finally:
            self._fs.close(fd)
        prepared.size += len(added)
        fold_data(prepared.head, added)
        prepared.head.epoch = prepared.epoch

    def _write_record(self, prepared: Prepared) -> None:
        journal = self._journal
        self._fs.sync_directory(self._paths.aside)
        if not journal.make_room(RECORD_OVERHEAD_BYTES):
            journal.make_reserve_room(RECORD_OVERHEAD_BYTES)
        journal.lsn += 1
        head = prepared.head
        record = pack(
            journal.lsn,
            journal.acked,
            prepared.session_id,
            prepared.epoch,
            head.seq + 1,
            "replace",
            head.last_activity_at,
            prepared.size,
            b"",
        )
        try:
            journal.write(record, sync=True)
        except BaseException:
            journal.abandon()
            raise
        journal.last_epoch = max(journal.last_epoch, prepared.epoch)
