"""A session's log in the running store: a file, and the lines that are not in it yet.

Only the committer's thread moves the end of a log. Other threads read it through a `LogView`, which
is made under the lock and does not change afterwards.
"""

import os
from collections import OrderedDict
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from threading import Lock
from typing import TYPE_CHECKING

from bamboo_gateway.domain import codec
from bamboo_gateway.storage.file_system import FileSystem
from bamboo_gateway.storage.lines import body_of, is_intact, to_line

if TYPE_CHECKING:
    from bamboo_gateway.storage.jsonl.index.catalog import Entry
    from bamboo_gateway.storage.marks import Mark

# The first line: the id, two numbers and the member names.
HEADER_BYTES_MAX = 1024


def make_header(session_id: str, epoch: int, created_ms: int, *, token: str | None = None) -> bytes:
    """Make the first line of a log; a compacted log has a token, which no other log has."""
    shape: dict[str, object] = {
        "log": 1,
        "session": session_id,
        "epoch": epoch,
        "created": created_ms,
    }
    if token is not None:
        shape["compacted"] = token
    return to_line(codec.encode(shape))


def read_header(line: bytes) -> tuple[str, int] | None:
    """Return the session and epoch in the first line of a log; None when it is no such line."""
    if not is_intact(line):
        return None
    try:
        shape = codec.decode(body_of(line))
        return (str(shape["session"]), int(shape["epoch"])) if shape["log"] == 1 else None
    except (ValueError, KeyError, TypeError):
        return None


def read_token(line: bytes) -> str | None:
    """Return the token in an intact first line of a log; None when it was never compacted."""
    token = codec.decode(body_of(line)).get("compacted")
    return token if isinstance(token, str) else None


class Log:
    """The log of one session in one epoch, between its first use and its eviction.

    Attributes:
        seq: The seq of the last event for the committer: commits being synced are included.
        size: The bytes of the log for the committer.
        written: How many of them are in the file; the rest is in `tail`. 0: there is no file yet.
        tail: The lines that are not in the file yet.
        marks: The marks that are not in the mark file yet: (mark, offset in the log).
        marks_saved: How many marks are in the mark file; -1 when it has to be rebuilt.
        marks_version: Changes whenever these two change in another way than by growing.
        packed: The files are in a bundle (`path`), and nothing is appended.
        generation: The generation of the entry that the log was made for.
        entry: That entry; by both `is_outdated` is computed.
        pins: How many tasks work on the mark file; the log is not evicted meanwhile.
        deleted: The log is a tombstone: the session is deleted and not created again yet. For the
            committer: a deletion being synced is included.
        removed: The same, durably; for other threads.
        journal_bytes: The bytes of its records in segments that no checkpoint has dropped.
        failure: Why the file cannot be written, while it cannot; see `WriteHealth`.
        is_uncertain: A sync of the file failed: only the checkpoint writes the file again.
        held_end: The end of the held lines; 0 without a held file.
    """

    __slots__ = (
        "deleted",
        "entry",
        "epoch",
        "failure",
        "generation",
        "held_end",
        "is_new_file",
        "is_uncertain",
        "journal_bytes",
        "marks",
        "marks_saved",
        "marks_version",
        "name",
        "packed",
        "path",
        "pins",
        "removed",
        "segment",
        "seq",
        "session_id",
        "size",
        "tail",
        "written",
    )

    def __init__(
        self,
        session_id: str,
        name: str,
        path: Path,
        epoch: int,
        *,
        seq: int = 0,
        size: int = 0,
        marks_saved: int = 0,
    ) -> None:
        self.session_id = session_id
        self.name = name
        self.path = path
        self.epoch = epoch
        self.seq = seq
        self.size = size
        self.written = size
        self.tail: list[bytes] = []
        self.marks: list[tuple[Mark, int]] = []
        self.marks_saved = marks_saved
        self.marks_version = 0
        self.packed = False
        self.generation = 0
        self.entry: Entry | None = None
        self.pins = 0
        self.deleted = self.removed = False
        self.is_new_file = False
        self.journal_bytes = 0
        self.failure: OSError | None = None
        self.is_uncertain = False
        self.held_end = 0
        # The journal segment that last named it in synced bytes; see `durability = "os"`.
        self.segment = 0

    @property
    def is_outdated(self) -> bool:
        """Whether the files were swapped or deleted since; any thread may ask."""
        entry = self.entry
        return self.removed or (entry is not None and entry.committer_generation != self.generation)


class LogView:
    """A log at one moment, for reading. Close it after use."""

    def __init__(
        self, fs: FileSystem, path: Path, epoch: int, written: int, tail: bytes, end: int
    ) -> None:
        """Open the file, if it has any lines of the log.

        Raises:
            FileNotFoundError: The file is missing.
            LogReplacedError: The file is a log of another epoch.
        """
        self._fs = fs
        self._written = min(written, end)
        self._tail = tail
        self.end = end
        self._fd: int | None = None
        if self._written:
            self._fd = fs.open(path, os.O_RDONLY)
        self.begin = self._check_header(epoch)

    def _check_header(self, epoch: int) -> int:
        head = self.read(0, HEADER_BYTES_MAX)
        line = head[: head.find(b"\n") + 1]
        named = read_header(line)
        if named is None or named[1] != epoch:
            self.close()
            raise LogReplacedError(named)
        return len(line)

    def read(self, offset: int, size: int) -> bytes:
        """Read up to `size` bytes; fewer only at the end."""
        size = min(size, self.end - offset)
        if size <= 0:
            return b""
        data = b""
        if offset < self._written and self._fd is not None:
            data = self._fs.pread(self._fd, min(size, self._written - offset), offset)
            if len(data) < min(size, self._written - offset):
                return data  # The file is shorter than it was: the caller detects that.
        if len(data) < size:
            start = max(offset - self._written, 0)
            data += self._tail[start : start + size - len(data)]
        return data

    def place_after(self, seq: int) -> int | None:  # noqa: ARG002 - bundles know
        """Return the start of a line at or before the first event above `seq`, if known."""
        return None

    def close(self) -> None:
        """Close the file. Idempotent."""
        fd, self._fd = self._fd, None
        if fd is not None:
            self._fs.close(fd)


class LogReplacedError(Exception):
    """The file has an unexpected header; `named` is its (session, epoch), if it has one."""

    def __init__(self, named: tuple[str, int] | None) -> None:
        super().__init__("the log's header is another")
        self.named = named


class OutdatedError(LogReplacedError):
    """The log was swapped or deleted before it was read: look it up again."""

    def __init__(self) -> None:
        super().__init__(None)


class LogWriter:
    """Writes tails to files, and keeps a limited number of these files open (LRU).

    `lock` guards the moves from tail to file and from pending to saved marks. It is held for
    moments only, never during I/O.
    """

    def __init__(
        self,
        fs: FileSystem,
        files_max: int,
        open_bundle: Callable[[FileSystem, Path, int], LogView],
    ) -> None:
        """Create a writer; `open_bundle` opens a packed log by path and epoch."""
        self._fs = fs
        self._open_bundle = open_bundle
        self._files_max = files_max
        self._open: OrderedDict[Path, tuple[Log, int]] = OrderedDict()
        self._writing = Lock()
        self.lock = Lock()

    def write(self, log: Log, *, sync: bool = False) -> None:
        """Write the tail to the file.

        Raises:
            OSError: The lines stay in the tail, where reads see them; the next write tries again.
        """
        # The committer and a checkpoint may write the same log at once.
        with self._writing:
            if log.is_outdated:
                # The file of this name may belong to another log by now.
                return
            with self.lock:
                chunks = len(log.tail)
                data = b"".join(log.tail)
            if not data:
                return
            fd = self._fd_of(log)
            self._fs.pwrite(fd, data, log.written)
            if sync:
                self._fs.sync(fd)
            with self.lock:
                log.written += len(data)
                del log.tail[:chunks]

    def take_back(self, log: Log, start: int, data: bytes) -> bool:
        """Move lines back into memory that may not be in the file, because its sync failed.

        Args:
            log: The log.
            start: Where the lines begin in the log.
            data: The bytes of the log from there on.

        Returns:
            False when the file was written beyond them meanwhile.
        """
        self.forget(log)
        with self._writing, self.lock:
            if log.written > start + len(data):
                return False
            if log.written > start:
                log.tail.insert(0, data[: log.written - start])
                log.written = start
            return True

    def _fd_of(self, log: Log) -> int:
        known = self._open.get(log.path)
        if known is not None:
            if known[0] is log:
                self._open.move_to_end(log.path)
                return known[1]
            self._close(log.path)
        flags = os.O_RDWR
        if log.written == 0:
            flags |= os.O_CREAT | os.O_TRUNC
            log.is_new_file = True
        fd = self._fs.open(log.path, flags)
        self._open[log.path] = (log, fd)
        if len(self._open) > self._files_max:
            self._close(next(iter(self._open)))
        return fd

    def _close(self, path: Path) -> None:
        _, fd = self._open.pop(path)
        with suppress(OSError):
            self._fs.close(fd)

    def forget(self, log: Log) -> None:
        """Close the log's file, before it is renamed or because nobody writes to it."""
        with self._writing:
            known = self._open.get(log.path)
            if known is not None and known[0] is log:
                self._close(log.path)

    @contextmanager
    def swapping(self) -> Iterator[None]:
        """Block writers while a log is marked as outdated: for a moment, before its renames.

        A writer that was about to open the file has written by then; later ones see the mark.
        """
        with self._writing, self.lock:
            yield

    def copy_in_memory(self, log: Log) -> Log | None:
        """Copy a log of which no line and no mark is in a file yet; return None for other logs.

        Reading the copy opens no file, whatever other threads do with the log meanwhile.
        """
        with self.lock:
            if log.written or log.marks_saved or log.packed:
                return None
            copy = Log(log.session_id, log.name, log.path, log.epoch)
            copy.tail, copy.marks = list(log.tail), list(log.marks)
            copy.entry, copy.generation, copy.removed = log.entry, log.generation, log.removed
            return copy

    def view(self, log: Log, end: int) -> LogView:
        """Open the log for reading, up to the byte `end`.

        Raises:
            OutdatedError: The log was swapped or deleted.
        """
        with self.lock:
            written, tail = log.written, b"".join(log.tail)
        try:
            view = self._open_view(log, written, tail, end)
        except (FileNotFoundError, LogReplacedError):
            if log.is_outdated:
                raise OutdatedError from None
            raise
        # A log is marked as outdated before its files are swapped, so this is the right file.
        if log.is_outdated:
            view.close()
            raise OutdatedError
        return view

    def _open_view(self, log: Log, written: int, tail: bytes, end: int) -> LogView:
        if log.packed:
            return self._open_bundle(self._fs, log.path, log.epoch)
        return LogView(self._fs, log.path, log.epoch, written, tail, end)

    def close(self) -> None:
        """Close all files."""
        with self._writing:
            for path in list(self._open):
                self._close(path)

    @property
    def open_files(self) -> int:
        """The number of open files."""
        return len(self._open)
