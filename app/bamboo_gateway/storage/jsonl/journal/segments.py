"""The journal: every commit is synced here before the store acknowledges it.

The journal is a chain of segments, `index/journal-<number>.jsonl`. The first line of a segment
names its predecessor and how many bytes of it count. After a failed write or sync nothing beyond
the good bytes is ever read, because pages that the kernel could not write cannot be trusted. So the
next segment may give the same seqs again without breaking R3.

A record is one commit; it counts as a whole or not at all. One line describes all records of a
write. The log lines of these records follow it unchanged, so that the file reads with grep and jq:

    {"crc":"…","lsn":<the first's>,"acked":…,"records":[[session,epoch,first,…],…]}

There is one line for all records, because a line for each would cost more than everything else that
a commit needs. The `crc` of a record covers its log lines, so damage costs only the records that it
hits; the `crc` of the describing line covers the rest. `at` is the offset of the lines in the
session's log. Replay therefore writes bytes to their place, and may be repeated. `acked` is the
last record known to be durable when these were written. It tells a torn tail (no later record was
acknowledged) from damage (one was).

Segments are preallocated: a sync then writes data only, and a full disk is noticed before a commit
is accepted. Segments that a checkpoint has dropped are used again, after their written part was
overwritten with blanks. Syncing blocks that were written before takes a third of the time of blocks
that the file system must first mark as used, and no data of a deleted session stays. The last part
of a segment is kept back for endings of runs and for deletions on a full disk. So is a reserve
file, which becomes a segment when no other can be made.
"""

import os
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from zlib import crc32

from bamboo_gateway.domain import codec
from bamboo_gateway.domain.errors import StorageFull, Unavailable
from bamboo_gateway.storage.file_system import FULL_ERRNOS, NOT_SUPPORTED_ERRNOS, FileSystem
from bamboo_gateway.storage.jsonl.paths import Paths
from bamboo_gateway.storage.lines import to_line

# A checkpoint is due at this size: replaying a segment takes well below a second.
SEGMENT_BYTES = 16 * 1024 * 1024
# Room for thousands of run endings and deletions; little compared to the 16 MiB of a segment.
RESERVE_BYTES = 1024 * 1024
# When the disk has no 16 MiB left, commits of a few seconds still fit into this.
SMALL_SEGMENT_BYTES = 512 * 1024
# The format of the records. A segment of another format goes into quarantine: it is not guessed at.
FORMAT = 2
# Dropped segments kept for reuse: as many as are filled while a checkpoint runs.
SPARES_MAX = 4
# More than the description of one record takes: a 128-byte id, ten numbers and their line.
RECORD_OVERHEAD_BYTES = 512


@dataclass(slots=True)
class Segment:
    """One file of the chain; its records lie from `begin` to `end`.

    While `has_unsynced` is set, some of them may not be on the disk.
    """

    number: int
    fd: int
    limit: int
    begin: int
    end: int
    has_unsynced: bool = False


class Journal:
    """Writes the journal; only the committer's thread uses it."""

    def __init__(self, fs: FileSystem, paths: Paths, check_owner: Callable[[], None]) -> None:
        """Create a journal; `check_owner` raises OSError when another owns the directory."""
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
        # Closed segments that no checkpoint has dropped yet, oldest first, with the used bytes of
        # each; None marks a segment that must not be reused.
        self.closed: dict[int, int | None] = {}
        # Dropped segments that are blank again.
        self.spares: list[Path] = []
        # The identity of the current segment's file.
        self._segment_place: tuple[int, int] | None = None

    def begin(self, number: int, lsn: int, last_epoch: int, kept: dict[int, int]) -> None:
        """Set where the chain goes on after recovery; the first segment is made when it is needed.

        Args:
            number: The number of the next segment.
            lsn: The number of the last record.
            last_epoch: The last epoch given out.
            kept: The segments that recovery could not apply, with the bytes of each that count;
                they wait for the first checkpoint.
        """
        self._next_number = number
        self.lsn = self.acked = lsn
        self.last_epoch = last_epoch
        self.closed = dict.fromkeys(kept)
        self._predecessor = max(kept.items(), default=None)

    def is_in_place(self) -> bool:
        """Return whether the path still leads to the directory that the store opened.

        When somebody has removed the current segment, abandon it: its records are in memory, and
        the next checkpoint writes them to the logs.
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
        """The bytes in the current segment."""
        return self._current.end if self._current else 0

    @property
    def disk_bytes(self) -> int:
        """The preallocated bytes of all segments; a segment for a large commit may take more."""
        segments = len(self.closed) + len(self.spares) + (self._current is not None)
        return segments * (SEGMENT_BYTES + RESERVE_BYTES) + RESERVE_BYTES

    @property
    def number(self) -> int:
        """The number of the current segment; 0 when there is none."""
        return self._current.number if self._current else 0

    @property
    def has_records(self) -> bool:
        """Whether the current segment holds records."""
        return self._current is not None and self._current.end > self._current.begin

    def make_room(self, size: int) -> bool:
        """Make sure that `size` more bytes fit.

        Returns:
            False when only the reserve is left: then only records that may use the reserve are
                written, if they fit.

        Raises:
            OSError: No segment can be made, for another reason than space; or this process no
                longer owns the directory.
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
        """Make sure that `size` more bytes fit into the reserve.

        Raises:
            StorageFull: They do not fit.
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
            raise StorageFull("The disk is full, and the reserve is used up.")
        self._fs.rename(self._paths.reserve, path)
        fd = self._fs.open(path, os.O_RDWR)
        self._start(fd, limit=0)

    def rotate(self, size: int = 0) -> None:
        """Begin a new segment. When that fails, the current segment stays as it is.

        Raises:
            OSError: The segment could not be made.
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

    def remove_spares(self) -> None:
        """Remove dropped segments kept for reuse, because the disk is full."""
        spares, self.spares = self.spares, []
        for path in spares:
            # The next start removes what cannot be removed now.
            with suppress(OSError):
                self._fs.unlink(path)

    def _allocate(self, fd: int, size: int) -> None:
        try:
            self._fs.allocate(fd, size)
        except OSError as error:
            # Without preallocation a sync is slower, and a full disk shows only when a write fails.
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
        """Write records; after an error the good end of the segment is where it was.

        Raises:
            OSError: The caller answers the commits with it, then calls `abandon`.
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
        """Abandon the segment after a failure: its good bytes count, nothing beyond them is read.

        Make a successor that records this at once if possible, else with the next commit. Until
        then truncating the file has the same effect, as far as the disk still works.
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
        """Close the last segment; the journal accepts no record from here on.

        Raises:
            OSError: This process no longer owns the directory.
        """
        self._is_finished = True
        self.close_current()
        self._check_owner()

    def close_current(self) -> None:
        """Close the current segment; it then waits for a checkpoint."""
        current, self._current = self._current, None
        if current is not None:
            is_whole = current.limit == SEGMENT_BYTES
            self.closed[current.number] = current.end if is_whole else None
            self._fs.close(current.fd)

    def keep_reserve(self) -> None:
        """Make the reserve file when it is missing and there is space."""
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


# The description of one record: session, epoch, first, count, kind, time, at, bytes, crc.
Description = tuple[str, int, int, int, str, int, int, int, int]


def describe(lsn: int, acked: int, records: list[Description]) -> bytes:
    """Return the line that describes the records of one write; their data follow it unchanged."""
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
    """Return a record of a change of a session's files: without events, written by itself."""
    about = (session_id, epoch, first, 0, kind, time_ms, at, len(data), crc32(data))
    return describe(lsn, acked, [about]) + data
