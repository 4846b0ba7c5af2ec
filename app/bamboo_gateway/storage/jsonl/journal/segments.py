"""The journal: what is synced before anything is acknowledged.

It is a chain of segments, `index/journal-<number>.jsonl`. A segment's first line names its
predecessor and how many of that one's bytes count: after a write or sync that failed nothing beyond
the good bytes is ever read, since pages the kernel could not write are not trusted again, and the
next segment may give the same seqs without R3 breaking.

A record is one commit, whole or absent. The records of one write stand behind one line that
describes them all, then their lines follow as they are, so that the file reads with grep and jq:

    {"crc":"…","lsn":<the first's>,"acked":…,"records":[[session,epoch,first,…],…]}

One line for all, since describing each by itself costs more than all else that is done for a
commit. A record's `crc` covers its lines, so that damage costs the records it lies in; the line's
own covers the rest. `at` is where the lines begin in the session's log, which makes replay a matter
of writing bytes to their place, as often as need be. `acked` is the last record known to be durable
when these were written: it tells a torn tail (nothing behind it was acknowledged) from damage
(something was).

Segments are preallocated, so that a sync writes data only and running out of space is noticed
before a commit is taken; and used again when a checkpoint has dropped them, made blank where they
were written: a sync of blocks that were written before costs a third of one that has to note they
are now in use, and nothing of a deleted session stays. The last part of a segment, and a reserve
file that becomes a segment when no other can be made, are kept back for endings of runs and for
deletions on a full disk.
"""

import os
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple
from zlib import crc32

from bamboo_gateway.domain import codec
from bamboo_gateway.domain.errors import StorageFull, Unavailable
from bamboo_gateway.storage.jsonl.files import FULL_ERRNOS, NOT_SUPPORTED_ERRNOS, FileSystem
from bamboo_gateway.storage.jsonl.paths import Paths
from bamboo_gateway.storage.lines import LINE_PREFIX_BYTES, body_of, is_intact, to_line

# A checkpoint is due at this size: replaying so much takes well below a second.
SEGMENT_BYTES = 16 * 1024 * 1024
# Thousands of run endings and deletions; nothing beside the 16 MiB of a segment.
RESERVE_BYTES = 1024 * 1024
# When 16 MiB cannot be had, commits of some seconds still can.
SMALL_SEGMENT_BYTES = 512 * 1024
# Of the records; a segment of another one is set aside, not guessed at.
FORMAT = 2
# Dropped segments kept for use: what is filled while a checkpoint is at work.
SPARES_MAX = 4
# Above what describing one record takes: a 128-byte id and ten numbers, and their line.
RECORD_OVERHEAD_BYTES = 512


@dataclass(slots=True)
class Segment:
    """One file of the chain. Records lie from `begin` to `end`.

    With `has_unsynced` some of them are not known to be on the disk.
    """

    number: int
    fd: int
    limit: int
    begin: int
    end: int
    has_unsynced: bool = False


class Journal:
    """The writing end. Used by the committer's thread alone."""

    def __init__(self, fs: FileSystem, paths: Paths, check_owner: Callable[[], None]) -> None:
        """Make it; `check_owner` raises OSError when the directory is not ours any more."""
        self._fs = fs
        self._paths = paths
        self._check_owner = check_owner
        self._is_finished = False
        self._current: Segment | None = None
        self._next_number = 1
        self._predecessor: tuple[int, int] | None = None
        self.last_epoch = 0
        self.lsn = 0
        self.acked = 0
        # Closed segments that no checkpoint has dropped yet, oldest first, with the bytes used of
        # each; None: of one that must not be used again.
        self.closed: dict[int, int | None] = {}
        # Dropped ones, blank again.
        self.spares: list[Path] = []
        # Which file the last segment is.
        self._segment_place: tuple[int, int] | None = None

    def begin(self, number: int, lsn: int, last_epoch: int, kept: dict[int, int]) -> None:
        """Set where the chain goes on after recovery; a segment is made when it is needed.

        Args:
            number: Of the next segment.
            lsn: Of the last record.
            last_epoch: The last one given.
            kept: Segments that recovery could not bring up, with the bytes of each that count:
                they wait for the first checkpoint.
        """
        self._next_number = number
        self.lsn = self.acked = lsn
        self.last_epoch = last_epoch
        self.closed = dict.fromkeys(kept)
        self._predecessor = max(kept.items(), default=None)

    def is_in_place(self) -> bool:
        """Look whether the directory is still the one that was opened.

        A segment that somebody has removed is given up: what it says is in memory, and the next
        checkpoint brings it up.
        """
        try:
            self._check_owner()
        except OSError:
            return False
        current = self._current
        if current is not None and self._segment_place != self._fs.identity(
            self._paths.segment(current.number)
        ):
            self.abandon()
        return True

    @property
    def size(self) -> int:
        """Bytes in the current segment."""
        return self._current.end if self._current else 0

    @property
    def disk_bytes(self) -> int:
        """What the segments take: they are preallocated; a large commit's may be larger."""
        segments = len(self.closed) + len(self.spares) + (self._current is not None)
        return segments * (SEGMENT_BYTES + RESERVE_BYTES) + RESERVE_BYTES

    @property
    def number(self) -> int:
        """The current segment's; 0 without one."""
        return self._current.number if self._current else 0

    @property
    def has_records(self) -> bool:
        """Whether the current segment holds any."""
        return self._current is not None and self._current.end > self._current.begin

    def make_room(self, size: int) -> bool:
        """Make sure that `size` more bytes fit.

        Returns:
            False when only the reserve is left: then records that may use it are written, if they
            fit, and no others.

        Raises:
            OSError: No segment can be made, for another reason than space; or the directory is not
                ours any more.
            Unavailable: The journal is finished.
        """
        if self._is_finished:
            raise Unavailable("The store is closed.")
        self._check_owner()
        current = self._current
        if current is not None and current.end + size <= current.limit:
            return True
        try:
            self.rotate(size)
        except OSError as error:
            if error.errno not in FULL_ERRNOS:
                raise
            return False
        return True

    def make_reserve_room(self, size: int) -> None:
        """Make sure that `size` more bytes fit into what is kept back.

        Raises:
            StorageFull: They do not.
        """
        current = self._current
        if size == 0 or (
            current is not None and current.end + size <= current.limit + RESERVE_BYTES
        ):
            return
        path = self._paths.segment(self._next_number)
        if (
            size + RECORD_OVERHEAD_BYTES > RESERVE_BYTES
            or self._fs.size(self._paths.reserve) is None
        ):
            raise StorageFull("The disk is full, and the space kept back is used up.")
        self._fs.rename(self._paths.reserve, path)
        fd = self._fs.open(path, os.O_RDWR)
        self._start(fd, limit=0)

    def rotate(self, size: int = 0) -> None:
        """Begin a new segment. The one before stays as it is when that fails.

        Raises:
            OSError: It could not be made.
        """
        self._check_owner()
        path = self._paths.segment(self._next_number)
        limit = max(SEGMENT_BYTES, size + RECORD_OVERHEAD_BYTES)
        if self.spares and limit == SEGMENT_BYTES:
            self._use_spare(path)
            return
        fd = self._fs.open(path, os.O_RDWR | os.O_CREAT | os.O_TRUNC)
        try:
            try:
                self._allocate(fd, limit + RESERVE_BYTES)
            except OSError as error:
                if error.errno not in FULL_ERRNOS:
                    raise
                limit = max(SMALL_SEGMENT_BYTES, size + RECORD_OVERHEAD_BYTES)
                self._fs.truncate(fd, 0)
                self._allocate(fd, limit + RESERVE_BYTES)
            self._start(fd, limit)
        except BaseException:
            self._fs.close(fd)
            with suppress(OSError):
                self._fs.unlink(path)
            raise

    def _use_spare(self, path: Path) -> None:
        self._fs.rename(self.spares.pop(), path)
        fd = self._fs.open(path, os.O_RDWR)
        try:
            self._start(fd, SEGMENT_BYTES)
        except BaseException:
            self._fs.close(fd)
            with suppress(OSError):
                self._fs.unlink(path)
            raise

    def give_up_spares(self) -> None:
        """Free the space of dropped segments: others need it more."""
        spares, self.spares = self.spares, []
        for path in spares:
            # What cannot be removed now is cleared away at the next start.
            with suppress(OSError):
                self._fs.unlink(path)

    def _allocate(self, fd: int, size: int) -> None:
        try:
            self._fs.allocate(fd, size)
        except OSError as error:
            # Without preallocation syncs are slower, and only writing tells when the disk is full.
            if error.errno not in NOT_SUPPORTED_ERRNOS:
                raise

    def _start(self, fd: int, limit: int) -> None:
        head = {
            "journal": FORMAT,
            "number": self._next_number,
            "lsn": self.lsn + 1,
            "predecessor": self._predecessor[0] if self._predecessor else None,
            "counts": self._predecessor[1] if self._predecessor else None,
            "epoch": self.last_epoch,
        }
        line = to_line(codec.encode(head))
        self._fs.pwrite(fd, line, 0)
        self._fs.sync(fd)
        self._fs.sync_directory(self._paths.index)
        self.close_current()
        self._current = Segment(self._next_number, fd, limit, len(line), len(line))
        self._segment_place = self._fs.identity(self._paths.segment(self._next_number))
        self._predecessor = (self._next_number, len(line))
        self._next_number += 1

    def write(self, data: bytes, *, sync: bool) -> None:
        """Write records; after an error the segment's good end is where it was.

        Raises:
            OSError: The caller answers its commits with it and calls `abandon`.
        """
        current = self._current
        assert current is not None
        if sync and not current.has_unsynced:
            self._fs.pwrite_synced(current.fd, data, current.end)
        else:
            self._fs.pwrite(current.fd, data, current.end)
            if sync:
                self._fs.sync(current.fd)
            current.has_unsynced = not sync
        current.end += len(data)
        self._predecessor = (current.number, current.end)
        self.acked = self.lsn

    def abandon(self) -> None:
        """Abandon the segment after a failure: its good bytes count, nothing beyond is read.

        A successor that says so is made at once if it can be; else with the next commit. Cutting
        the file covers the time in between, as far as the disk still does anything.
        """
        current = self._current
        if current is None:
            return
        with suppress(OSError):
            self._fs.truncate(current.fd, current.end)
            self._fs.sync(current.fd)
        self.close_current()
        self.closed[current.number] = None
        with suppress(OSError):
            self.rotate()

    def finish(self) -> None:
        """Close the last segment: no record is taken from here on.

        Raises:
            OSError: The directory is not ours any more.
        """
        self._is_finished = True
        self.close_current()
        self._check_owner()

    def close_current(self) -> None:
        """Close the segment, which then waits for its checkpoint."""
        current, self._current = self._current, None
        if current is not None:
            is_whole = current.limit == SEGMENT_BYTES
            self.closed[current.number] = current.end if is_whole else None
            self._fs.close(current.fd)

    def keep_reserve(self) -> None:
        """Make the reserve file where it is missing and there is space."""
        if self._fs.size(self._paths.reserve) is not None:
            return
        aside = self._paths.aside / "reserve"
        with suppress(OSError):
            fd = self._fs.open(aside, os.O_RDWR | os.O_CREAT | os.O_TRUNC)
            try:
                self._fs.allocate(fd, RESERVE_BYTES)
            finally:
                self._fs.close(fd)
            self._fs.rename(aside, self._paths.reserve)


# What a line says of a record: session, epoch, first, count, kind, time, at, bytes, crc.
Description = tuple[str, int, int, int, str, int, int, int, int]


def describe(lsn: int, acked: int, records: list[Description]) -> bytes:
    """Make the line that describes the records of one write; their data follow it verbatim."""
    return to_line(codec.encode({"lsn": lsn, "acked": acked, "records": records}))


def pack(
    lsn: int,
    acked: int,
    session_id: str,
    epoch: int,
    first: int,
    kind: str,
    time_ms: int,
    at: int,
    data: bytes,
) -> bytes:
    """Make a record that is written by itself and holds no events: of what happens to files."""
    about = (session_id, epoch, first, 0, kind, time_ms, at, len(data), crc32(data))
    return describe(lsn, acked, [about]) + data


@dataclass(slots=True)
class JournalRecord:
    """A record as read back; of one that `is_lost` there is no more than its description."""

    lsn: int
    session: str
    epoch: int
    first: int
    count: int
    kind: str
    time: int
    at: int
    data: bytes
    is_lost: bool = False


@dataclass(slots=True)
class JournalContents:
    """What the segments on disk say."""

    records: list[JournalRecord] = field(default_factory=list)
    numbers: list[int] = field(default_factory=list)
    # Where the segments begin: the catalog has to cover everything before.
    first_lsn: int = 0
    last_lsn: int = 0
    last_epoch: int = 0
    torn_bytes: int = 0
    # How many bytes of each segment count: what is behind them never will.
    ends: dict[int, int] = field(default_factory=dict)
    # Where acknowledged records could not be read: (segment number, offset, the bytes).
    damaged: list[tuple[int, int, bytes]] = field(default_factory=list)

    def take(self, records: list[JournalRecord]) -> None:
        """Add what was read of a segment."""
        self.records += records
        for record in records:
            self.last_lsn = max(self.last_lsn, record.lsn)
            self.last_epoch = max(self.last_epoch, record.epoch)


def read_journal(fs: FileSystem, paths: Paths) -> JournalContents:
    """Read every segment, in order, each as far as it counts."""
    contents = JournalContents()
    found: list[tuple[int, int, bytes]] = []
    counts: dict[int, int] = {}
    for name in fs.names(paths.index):
        if not (name.startswith("journal-") and name.endswith(".jsonl")):
            continue
        number = int(name[len("journal-") : -len(".jsonl")])
        contents.numbers.append(number)
        data = fs.read(paths.segment(number)) or b""
        contents.ends[number] = 0
        line = data[: data.find(b"\n") + 1]
        if not is_intact(line):
            # Without a header no record of it was ever acknowledged, unless it was damaged later.
            if rest := data.strip(b"\0"):
                _note_unreadable(contents, number, 0, rest)
            continue
        head = codec.decode(line)
        if head["journal"] != FORMAT:
            contents.damaged.append((number, 0, data.rstrip(b"\0")))
            continue
        found.append((number, head["lsn"], data))
        contents.last_epoch = max(contents.last_epoch, head["epoch"])
        contents.first_lsn = min(contents.first_lsn or head["lsn"], head["lsn"])
        contents.last_lsn = max(contents.last_lsn, head["lsn"] - 1)
        if head["predecessor"] is not None:
            counts[head["predecessor"]] = head["counts"]
    for number, first_lsn, data in found:
        whole = counts.get(number)
        _read_segment(contents, number, first_lsn, data[:whole], is_whole=whole is not None)
    return contents


def _note_unreadable(contents: JournalContents, number: int, offset: int, rest: bytes) -> None:
    if _intact_after(rest, 0, 0) is not None:
        contents.damaged.append((number, offset, rest))
    else:
        contents.torn_bytes += len(rest)


def _read_segment(
    contents: JournalContents, number: int, lsn: int, data: bytes, *, is_whole: bool
) -> None:
    offset = data.find(b"\n") + 1
    contents.ends[number] = len(data) if is_whole else offset
    while offset < len(data):
        written = _read_write(data, offset)
        if written is not None and written.is_whole:
            contents.take(written.records)
            offset, lsn = written.end, written.records[-1].lsn + 1
            contents.ends[number] = max(contents.ends[number], offset)
            continue
        again = _intact_after(data, offset, lsn)
        rest = data[offset:again].rstrip(b"\0")
        if again is None and not is_whole:
            contents.torn_bytes += len(rest)
            return
        contents.damaged.append((number, offset, rest))
        if written is not None:
            # What the damage does not lie in is as good as ever; whose the rest was is known.
            contents.take(written.records)
        offset = len(data) if again is None else again


class _Write(NamedTuple):
    """What one write put into a segment."""

    acked: int
    records: list[JournalRecord]
    end: int

    @property
    def is_whole(self) -> bool:
        """Whether all of it is intact."""
        return not any(record.is_lost for record in self.records)


def _read_write(data: bytes, offset: int) -> _Write | None:
    """Read the records of the write at `offset`; None when there is no intact line of them."""
    end = data.find(b"\n", offset) + 1
    line = data[offset:end]
    if not (line.startswith(b'"lsn":', LINE_PREFIX_BYTES) and is_intact(line)):
        return None
    shape = codec.decode(body_of(line))
    descriptions: list[Description] = shape["records"]
    records: list[JournalRecord] = []
    for lsn, description in enumerate(descriptions, shape["lsn"]):
        session, epoch, first, count, kind, time, at, size, crc = description
        lines = data[end : end + size]
        record = JournalRecord(lsn, session, epoch, first, count, kind, time, at, lines)
        record.is_lost = len(lines) != size or crc32(lines) != crc
        records.append(record)
        end += size
    return _Write(shape["acked"], records, end)


def _intact_after(data: bytes, offset: int, lsn: int) -> int | None:
    """Find the next whole write that was made when the record `lsn` had been acknowledged."""
    while (offset := data.find(b'{"crc":"', offset + 1)) >= 0:
        if not data.startswith(b'"lsn":', offset + LINE_PREFIX_BYTES):
            continue
        written = _read_write(data, offset)
        if written is not None and written.is_whole and written.acked >= lsn:
            return offset
    return None
