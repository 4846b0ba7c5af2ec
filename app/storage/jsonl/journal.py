"""The journal: what is synced before anything is acknowledged.

It is a chain of segments, `index/journal-<number>.jsonl`. A segment's first line names its
predecessor and how many of that one's bytes count: after a write or sync that failed nothing beyond
the good bytes is ever read, since pages the kernel could not write are not trusted again, and the
next segment may give the same seqs without R3 breaking.

A record is one commit, whole or absent: a line that describes it, then its lines as they are, so
that the file reads with grep and jq. `crc` covers both. `at` is where the lines begin in the
session's log, which makes replay a matter of writing bytes to their place, as often as need be.
`acked` is the last record known to be durable when this one was written: it tells a torn tail
(nothing behind it was acknowledged) from damage (something was).

Segments are preallocated, so that a sync writes data only and running out of space is noticed
before a commit is taken. The last part of a segment, and a reserve file that becomes a segment when
no other can be made, are kept back for endings of runs and for deletions on a full disk.
"""

import errno
import os
from contextlib import suppress
from dataclasses import dataclass, field
from zlib import crc32

from app.domain import codec
from app.domain.errors import StorageFull
from app.storage.jsonl.files import FULL_ERRNOS, FileSystem
from app.storage.jsonl.paths import Paths

# A checkpoint is due at this size: replaying so much takes well below a second.
SEGMENT_BYTES = 16 * 1024 * 1024
# Thousands of run endings and deletions; nothing beside the 16 MiB of a segment.
RESERVE_BYTES = 1024 * 1024
# When 16 MiB cannot be had, commits of some seconds still can.
SMALL_SEGMENT_BYTES = 512 * 1024
# Above what one record's describing line takes: a 128-byte id and ten numbers.
RECORD_OVERHEAD_BYTES = 512

_PREFIX = len(b'{"crc":"00000000",')
_NOT_SUPPORTED = frozenset({errno.EOPNOTSUPP, errno.ENOTSUP, errno.EINVAL, errno.ENOSYS})


@dataclass(slots=True)
class Segment:
    """One file of the chain. Records lie from `begin` to `end`."""

    number: int
    fd: int
    limit: int
    begin: int
    end: int


class Journal:
    """The writing end. Used by the committer's thread alone."""

    def __init__(self, fs: FileSystem, paths: Paths) -> None:
        self._fs = fs
        self._paths = paths
        self._current: Segment | None = None
        self._next_number = 1
        self._predecessor: tuple[int, int] | None = None
        self.last_epoch = 0
        self.lsn = 0
        self.acked = 0
        # Closed segments that no checkpoint has dropped yet, oldest first.
        self.closed: list[int] = []

    def begin(self, number: int, lsn: int, last_epoch: int) -> None:
        """Sets where the chain goes on after recovery; a segment is made when it is needed."""
        self._next_number = number
        self.lsn = self.acked = lsn
        self.last_epoch = last_epoch

    @property
    def size(self) -> int:
        """Bytes in the current segment."""
        return self._current.end if self._current else 0

    @property
    def disk_bytes(self) -> int:
        """What the segments take: they are preallocated; a large commit's may be larger."""
        segments = len(self.closed) + (self._current is not None)
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
        """Sees to it that `size` more bytes fit.

        Returns:
            False when only the reserve is left: then records that may use it are written, if they
            fit, and no others.

        Raises:
            OSError: No segment can be made, for another reason than space.
        """
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
        """Sees to it that `size` more bytes fit into what is kept back.

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
        """Begins a new segment. The one before stays as it is when that fails.

        Raises:
            OSError: It could not be made.
        """
        path = self._paths.segment(self._next_number)
        limit = max(SEGMENT_BYTES, size + RECORD_OVERHEAD_BYTES)
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

    def _allocate(self, fd: int, size: int) -> None:
        try:
            self._fs.allocate(fd, size)
        except OSError as error:
            # Without preallocation syncs are slower, and only writing tells when the disk is full.
            if error.errno not in _NOT_SUPPORTED:
                raise

    def _start(self, fd: int, limit: int) -> None:
        head = {
            "journal": 1,
            "number": self._next_number,
            "lsn": self.lsn + 1,
            "predecessor": self._predecessor[0] if self._predecessor else None,
            "counts": self._predecessor[1] if self._predecessor else None,
            "epoch": self.last_epoch,
        }
        line = codec.to_line(codec.encode(head))
        self._fs.pwrite(fd, line, 0)
        self._fs.sync(fd)
        self._fs.sync_directory(self._paths.index)
        self.close_current()
        self._current = Segment(self._next_number, fd, limit, len(line), len(line))
        self._predecessor = (self._next_number, len(line))
        self._next_number += 1

    def write(self, data: bytes, *, sync: bool) -> None:
        """Writes records; after an error the segment's good end is where it was.

        Raises:
            OSError: The caller answers its commits with it and calls `abandon`.
        """
        current = self._current
        assert current is not None
        self._fs.pwrite(current.fd, data, current.end)
        if sync:
            self._fs.sync(current.fd)
        current.end += len(data)
        self._predecessor = (current.number, current.end)
        self.acked = self.lsn

    def abandon(self) -> None:
        """Gives up the segment after a failure: its good bytes count, nothing beyond is read.

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
        with suppress(OSError):
            self.rotate()

    def close_current(self) -> None:
        """Closes the segment, which then waits for its checkpoint."""
        current, self._current = self._current, None
        if current is not None:
            self.closed.append(current.number)
            self._fs.close(current.fd)

    def keep_reserve(self) -> None:
        """Makes the reserve file where it is missing and there is space."""
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


def pack(
    lsn: int,
    acked: int,
    session_id: str,
    epoch: int,
    first: int,
    count: int,
    kind: bytes,
    time_ms: int,
    at: int,
    data: bytes,
) -> bytes:
    """Makes the line that describes a record; `data` follows it verbatim."""
    body = (
        b'{"lsn":%d,"acked":%d,"session":"%b","epoch":%d,"first":%d,"count":%d,"kind":"%b",'
        b'"time":%d,"at":%d,"bytes":%d}'
        % (
            lsn,
            acked,
            session_id.encode(),
            epoch,
            first,
            count,
            kind,
            time_ms,
            at,
            len(data),
        )
    )
    return b'{"crc":"%08x",%b\n' % (crc32(data, crc32(body)), body[1:])


@dataclass(slots=True)
class JournalRecord:
    """A record as read back."""

    lsn: int
    acked: int
    session: str
    epoch: int
    first: int
    count: int
    kind: str
    time: int
    at: int
    data: bytes


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
    # Where acknowledged records could not be read: (segment number, offset, the bytes).
    damaged: list[tuple[int, int, bytes]] = field(default_factory=list)


def read_journal(fs: FileSystem, paths: Paths) -> JournalContents:
    """Reads every segment, in order, each as far as it counts."""
    contents = JournalContents()
    found: list[tuple[int, int, bytes]] = []
    counts: dict[int, int] = {}
    for name in fs.names(paths.index):
        if not (name.startswith("journal-") and name.endswith(".jsonl")):
            continue
        number = int(name[len("journal-") : -len(".jsonl")])
        contents.numbers.append(number)
        data = fs.read(paths.segment(number)) or b""
        line = data[: data.find(b"\n") + 1]
        if not codec.is_intact(line):
            # Without a header no record of it was ever acknowledged, unless it was damaged later.
            if rest := data.strip(b"\0"):
                _note_unreadable(contents, number, 0, rest)
            continue
        head = codec.decode(line)
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
    while offset < len(data):
        record, end = _read_record(data, offset)
        if record is not None:
            contents.records.append(record)
            contents.last_lsn = max(contents.last_lsn, record.lsn)
            contents.last_epoch = max(contents.last_epoch, record.epoch)
            offset, lsn = end, record.lsn + 1
            continue
        again = _intact_after(data, offset, lsn)
        rest = data[offset:again].rstrip(b"\0")
        if again is None and not is_whole:
            contents.torn_bytes += len(rest)
            return
        contents.damaged.append((number, offset, rest))
        offset = len(data) if again is None else again


def _read_record(data: bytes, offset: int) -> tuple[JournalRecord | None, int]:
    newline = data.find(b"\n", offset, offset + RECORD_OVERHEAD_BYTES)
    line = data[offset : newline + 1]
    if newline < 0 or not (line.startswith(b'{"crc":"') and line.endswith(b"}\n")):
        return None, offset
    body = codec.body_of(line)
    try:
        expected = int(line[8:16], 16)
        shape = codec.decode(body)
        size = shape.pop("bytes")
        lines = data[newline + 1 : newline + 1 + size]
        if len(lines) != size or crc32(lines, crc32(body)) != expected:
            return None, offset
        return JournalRecord(**shape, data=lines), newline + 1 + size
    except (ValueError, KeyError, TypeError, AttributeError):
        return None, offset


def _intact_after(data: bytes, offset: int, lsn: int) -> int | None:
    """Finds the next intact record written when the record `lsn` had been acknowledged."""
    while (offset := data.find(b'{"crc":"', offset + 1)) >= 0:
        if not data.startswith(b'"lsn":', offset + _PREFIX):
            continue
        record, _ = _read_record(data, offset)
        if record is not None and record.acked >= lsn:
            return offset
    return None
