"""Repeats the file change that a lifecycle record describes; this may be done any number of times.

A record of these kinds, together with its files, holds the whole state of the session at its
moment, so earlier records are not needed. When its files are still in the directory for files in
progress, they are renamed again. When they are already in their place, nothing is renamed. When
they are in neither place, the record was revoked, and the state before it holds.
"""

from dataclasses import dataclass

from bamboo_gateway.domain import codec
from bamboo_gateway.domain.sessions import SessionHead
from bamboo_gateway.storage.file_system import FileSystem
from bamboo_gateway.storage.jsonl.bundle import BundleView
from bamboo_gateway.storage.jsonl.index.catalog import Entry
from bamboo_gateway.storage.jsonl.journal.reader import JournalRecord
from bamboo_gateway.storage.jsonl.log.log import (
    HEADER_BYTES_MAX,
    LogReplacedError,
    read_header,
    read_token,
)
from bamboo_gateway.storage.jsonl.log.reader import DamagedError
from bamboo_gateway.storage.jsonl.paths import Paths

KINDS = ("publish", "pack", "unpack", "compact", "extend")


def effective_records(records: list[JournalRecord]) -> list[JournalRecord]:
    """Return the records without those that a `keep` record revoked, and without `keep` itself."""
    found: list[JournalRecord] = []
    for record in records:
        if record.kind != "keep":
            found.append(record)
            continue
        for place in reversed(range(len(found))):
            if found[place].kind in KINDS:
                del found[place]
                break
    return found


@dataclass(slots=True)
class Redo:
    """Repeats the lifecycle record of one session at a time."""

    fs: FileSystem
    paths: Paths

    def repeat(self, name: str, record: JournalRecord, known: Entry | None) -> Entry | None:
        """Put a record's files in their place; return its entry, or None if the record was revoked.

        Raises:
            OSError: A file cannot be renamed or removed.
        """
        about = codec.decode(record.data)
        aside = self.paths.aside / about["aside"]
        is_pack = record.kind == "pack"
        target = self.paths.archive_of(name) if is_pack else self.paths.log_of(name)
        if self.fs.size(aside) is not None:
            self.fs.rename(aside, target)
        elif not self.is_in_place(name, record, about.get("token")):
            return None
        if (mark_file := about.get("sidecar")) and self.fs.size(self.paths.aside / mark_file):
            self.fs.rename(self.paths.aside / mark_file, self.paths.marks_of(name))
        self._remove_others(name, record.kind)
        entry = Entry(record.session, record.epoch)
        entry.set_head(SessionHead.of(about["head"]))
        if known is not None and known.epoch == record.epoch:
            entry.activity = max(entry.activity, known.activity)
        entry.size, entry.marks, entry.deltas = record.at, about["marks"], about["deltas"]
        if is_pack:
            entry.bundle = self.fs.size(target) or 0
        return entry

    def is_in_place(self, name: str, record: JournalRecord, token: str | None) -> bool:
        """Return whether the session has the files of this record."""
        if record.kind == "pack":
            try:
                BundleView(self.fs, self.paths.archive_of(name), record.epoch).close()
            except (FileNotFoundError, LogReplacedError, DamagedError):
                return False
            return True
        line = self._first_line(name)
        named = read_header(line)
        if named != (record.session, record.epoch):
            return False
        return token is None or read_token(line) == token

    def _first_line(self, name: str) -> bytes:
        try:
            fd = self.fs.open(self.paths.log_of(name), 0)
        except FileNotFoundError:
            return b""
        try:
            data = self.fs.pread(fd, HEADER_BYTES_MAX, 0)
        finally:
            self.fs.close(fd)
        return data[: data.find(b"\n") + 1]

    def _remove_others(self, name: str, kind: str) -> None:
        paths = self.paths
        gone = {
            # Files of that name belong to an earlier epoch.
            "publish": (paths.snapshot_of(name), paths.archive_of(name)),
            "pack": (paths.log_of(name), paths.snapshot_of(name), paths.marks_of(name)),
            "unpack": (paths.archive_of(name),),
            "compact": (),
            "extend": (),
        }
        for path in gone[kind]:
            self.fs.unlink(path)
