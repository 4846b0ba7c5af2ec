"""Acknowledged lines that a log file may lack: read from the journal beside a running gateway.

A gateway acknowledges a commit when the journal is synced, and writes it to the log up to a second
later; a log that cannot be written has its last lines in a held file. Lines move from the journal
to held files and logs, and each step is finished before its source goes. So whoever reads the
journal first, then the held files and then the logs, misses nothing that was acknowledged before.
"""

import os
import time
from dataclasses import dataclass, field
from pathlib import Path

from typing_extensions import override

from bamboo_gateway.domain import codec
from bamboo_gateway.storage.base import StoreUnusable
from bamboo_gateway.storage.file_system import FileSystem
from bamboo_gateway.storage.jsonl.journal.reader import (
    JournalContents,
    JournalRecord,
    read_journal,
)
from bamboo_gateway.storage.jsonl.journal.redo import KINDS, Redo, effective_records
from bamboo_gateway.storage.jsonl.log.held import Held, read_held
from bamboo_gateway.storage.jsonl.log.log import make_header
from bamboo_gateway.storage.jsonl.log.reader import seq_of
from bamboo_gateway.storage.jsonl.paths import Paths, file_name

# A checkpoint drops segments at most every 16 MiB, and reading them takes a tenth of that time.
_READS_MAX = 50
_PAUSE_SECONDS = 0.05


@dataclass(slots=True)
class PendingLines:
    """The end of one log, as the journal and the held file have it.

    Attributes:
        session_id: The session.
        epoch: The epoch of the log.
        start: The offset of the first line in the log; 0 when the whole log is here.
        data: The lines; none when the session was deleted.
        is_deleted: The epoch was deleted.
        is_unclear: The session got other files while the journal was read.
    """

    session_id: str
    epoch: int
    start: int = 0
    data: bytearray = field(default_factory=bytearray)
    is_deleted: bool = False
    is_unclear: bool = False

    @property
    def end(self) -> int:
        """The size of the log with these lines."""
        return self.start + len(self.data)

    @property
    def is_whole(self) -> bool:
        """Whether the log is here from its first line on."""
        return self.start == 0 and bool(self.data)

    def seqs(self) -> tuple[int, int]:
        """Return the seqs of the first and the last event; (0, 0) when there are only notes."""
        seqs = [seq for line in bytes(self.data).split(b"\n") if (seq := seq_of(line)) is not None]
        return (seqs[0], seqs[-1]) if seqs else (0, 0)


def read_pending(fs: FileSystem, paths: Paths) -> dict[str, PendingLines]:
    """Read what the log files may lack now, by the file names of the sessions.

    Raises:
        StoreUnusable: Acknowledged lines in the journal or in a held file cannot be read.
    """
    by_session: dict[str, list[JournalRecord]] = {}
    for record in _read_stable(fs, paths).records:
        by_session.setdefault(record.session, []).append(record)
    pending = {}
    for session_id, records in by_session.items():
        found = _last_lines(fs, paths, effective_records(records))
        if found is not None:
            pending[file_name(session_id)] = found
    for name, held in read_held(fs, paths).items():
        if held is None:
            raise StoreUnusable(
                f"index/{paths.held_of(name).name} is damaged: acknowledged lines of a session "
                "cannot be read. Stop the gateway and run `bamboo doctor`."
            )
        with_held = _with_held(pending.get(name), held)
        if with_held is not None:
            pending[name] = with_held
    return pending


def _read_stable(fs: FileSystem, paths: Paths) -> JournalContents:
    """Read the segments that stay while they are read.

    What a dropped segment had is in the logs by then. A record that is being written may look
    damaged to a reader; real damage stays.
    """
    problem = ""
    for attempt in range(_READS_MAX):
        if attempt:
            time.sleep(_PAUSE_SECONDS)
        before = _segments(fs, paths)
        data = {number: fs.read(paths.segment(number)) for number in before}
        after = _segments(fs, paths)
        if after.keys() - before.keys():
            # The new one may say that the last bytes of its predecessor do not count.
            problem = "another segment was begun each time"
            continue
        kept = {n: data[n] for n, identity in before.items() if after.get(n) == identity}
        journal = read_journal(_Segments(kept), paths)
        if journal.damaged or any(record.is_lost for record in journal.records):
            problem = "acknowledged records in it are damaged"
        else:
            return journal
    raise StoreUnusable(
        f"The journal cannot be read: {problem}. Nothing of it can be left out of a backup; "
        "try again, or stop the gateway and run `bamboo doctor`."
    )


def _segments(fs: FileSystem, paths: Paths) -> dict[int, tuple[int, int] | None]:
    return {
        int(name[len("journal-") : -len(".jsonl")]): fs.identity(paths.index / name)
        for name in fs.names(paths.index)
        if name.startswith("journal-") and name.endswith(".jsonl")
    }


class _Segments(FileSystem):
    """Segments as they were read."""

    def __init__(self, kept: dict[int, bytes | None]) -> None:
        self._kept = kept

    @override
    def names(self, path: Path) -> list[str]:
        return [Paths(path.parent).segment(number).name for number in sorted(self._kept)]

    @override
    def read(self, path: Path) -> bytes | None:
        return self._kept[int(path.name[len("journal-") : -len(".jsonl")])]


def _last_lines(fs: FileSystem, paths: Paths, records: list[JournalRecord]) -> PendingLines | None:
    """Return the lines since the last record that gave the session other files.

    The committer writes such a record and renames the files before it takes the next commit, so the
    files have all that was committed before.
    """
    found: PendingLines | None = None
    for record in _since_last_files(fs, paths, records):
        session_id, epoch = record.session, record.epoch
        if record.kind == "create":
            header = make_header(session_id, epoch, record.time)
            found = PendingLines(session_id, epoch, 0, bytearray(header + record.data))
        elif record.kind == "delete":
            found = PendingLines(session_id, epoch, is_deleted=True)
        elif record.kind == "append":
            if found is None or found.epoch != epoch:
                found = PendingLines(session_id, epoch, record.at)
            if 0 <= record.at - found.start <= len(found.data):
                found.data[record.at - found.start :] = record.data
            else:
                found.is_unclear = True
    return found


def _since_last_files(
    fs: FileSystem, paths: Paths, records: list[JournalRecord]
) -> list[JournalRecord]:
    """Return the records from the last one on whose files the session has.

    A swap whose files are not in place was revoked, or its gateway was killed before the rename:
    the session then has its former files, and needs the lines before that record.
    """
    redo = Redo(fs, paths)
    for place in reversed(range(len(records))):
        record = records[place]
        name = file_name(record.session)
        if record.kind in {"create", "delete"}:
            return records[place:]
        if record.kind in KINDS:
            token = codec.decode(record.data).get("token")
            if redo.is_in_place(name, record, token):
                return records[place + 1 :]
        elif record.kind == "replace" and redo.is_in_place(name, record, None):
            return records[place + 1 :]
    return records


def _with_held(pending: PendingLines | None, held: Held) -> PendingLines | None:
    """Put held lines before those of the journal, which they may overlap."""
    if pending is None:
        return PendingLines(held.session, held.epoch, held.at, bytearray(held.data))
    if pending.epoch != held.epoch or pending.is_deleted:
        return pending
    if not held.at <= pending.start <= held.end:
        return pending  # of a former file of the session, or all of it is in the journal too
    data = bytearray(held.data[: pending.start - held.at])
    return PendingLines(held.session, held.epoch, held.at, data + pending.data)


def read_exactly(fs: FileSystem, fd: int, start: int, end: int) -> bytes:
    """Read a part of a file; less when the file is shorter."""
    return fs.pread(fd, max(min(end, os.fstat(fd).st_size) - start, 0), start)
