"""Copies the files of all sessions while a gateway writes them: each copy is a prefix of its log.

The copy needs no word with the gateway. It reads the journal first (see `pending_lines`), then one
session after the other: its log, up to the last whole line, and the lines that only the journal
has. A file that was opened stays what it is: swaps put a new file in its place. What does not fit
together, because the session was packed, compacted or created anew in between, is read again with a
newer journal. What never fits is damaged, and then there is no backup: it would look whole.
"""

import os
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from bamboo_gateway.domain.positions import Position
from bamboo_gateway.storage.backup.contents import copy_contents
from bamboo_gateway.storage.backup.target import CHUNK_BYTES, BackupTarget, NewFile
from bamboo_gateway.storage.base import StoreUnusable
from bamboo_gateway.storage.file_system import FileSystem
from bamboo_gateway.storage.jsonl.bundle import BundleView
from bamboo_gateway.storage.jsonl.log.log import LogReplacedError, read_header
from bamboo_gateway.storage.jsonl.log.reader import DamagedError, is_note, seq_of
from bamboo_gateway.storage.jsonl.paths import Paths, file_name, root_of
from bamboo_gateway.storage.jsonl.pending_lines import PendingLines, read_exactly, read_pending
from bamboo_gateway.storage.jsonl.values_backup import copy_values
from bamboo_gateway.storage.jsonl.verify import check_lines, names_on_disk, problem_of_bundle
from bamboo_gateway.storage.lines import is_intact

# A session is packed or compacted once in a while, and not as often as this in a second.
_READS_MAX = 20
_PAUSE_SECONDS = 0.05
# Two listings in each direction: a session that moves between the two directories is in one.
_LISTINGS = 2


def copy_sessions(
    data_dir: Path, target: BackupTarget, progress: Callable[[int, int], None] | None = None
) -> tuple[int, int]:
    """Copy all sessions of a data directory, with what lies in its quarantine.

    Returns:
        The number of sessions, and the highest epoch.

    Raises:
        StoreUnusable: There is no data directory, or a session cannot be copied whole.
        OSError: A file cannot be read or written.
    """
    paths = Paths(root_of(data_dir))
    if not paths.events.is_dir():
        raise StoreUnusable(f"There are no sessions in {paths.root}: it has no `events` directory.")
    return _LiveCopy(FileSystem(), paths, target).run(progress)


def check_place(data_dir: Path, to: Path) -> None:
    """Refuse a target inside of the data directory: the next backup would be larger, or refused.

    Raises:
        StoreUnusable: The target is in the data directory.
    """
    root, wanted = root_of(data_dir), root_of(to)
    if wanted == root or root in wanted.parents:
        raise StoreUnusable(f"{to} is inside of the data directory {root}; name another place.")


class _Unsettled(Exception):
    """The files of a session did not fit together; `why` says what was found."""

    def __init__(self, why: str) -> None:
        super().__init__(why)
        self.why = why


@dataclass(slots=True)
class _Read:
    """What was read of a log file: its epoch, the end of its last whole line, and its last seq."""

    epoch: int
    end: int
    seq: int
    has_more: bool


class _LiveCopy:
    def __init__(self, fs: FileSystem, paths: Paths, target: BackupTarget) -> None:
        self._fs = fs
        self._paths = paths
        self._target = target
        self._pending: dict[str, PendingLines] = {}
        self._sessions = self._last_epoch = 0

    def run(self, progress: Callable[[int, int], None] | None) -> tuple[int, int]:
        self._pending = read_pending(self._fs, self._paths)
        known = {name for name, lines in self._pending.items() if lines.is_whole}
        names = self._names() | known
        for number, name in enumerate(sorted(names), 1):
            self._copy(name)
            if progress is not None:
                progress(number, len(names))
        for name in sorted(self._names() - names):
            self._copy(name)
        self._copy_quarantine()
        copy_values(self._paths.values, self._target)
        copy_contents(self._paths.files, self._target)
        return self._sessions, self._last_epoch

    def _names(self) -> set[str]:
        return set().union(*(names_on_disk(self._fs, self._paths) for _ in range(_LISTINGS)))

    def _copy_quarantine(self) -> None:
        for name in self._fs.names(self._paths.quarantine):
            self._target.copy(self._paths.quarantine / name, f"quarantine/{name}")

    def _copy(self, name: str) -> None:
        problem = ""
        for attempt in range(_READS_MAX):
            if attempt:
                time.sleep(_PAUSE_SECONDS)
                self._pending = read_pending(self._fs, self._paths)
            try:
                self._try(name)
            except _Unsettled as unsettled:
                problem = unsettled.why
            else:
                return
        raise StoreUnusable(
            f"The session in events/{name}.jsonl cannot be copied: {problem}. Read the session "
            "once, which repairs it, or stop the gateway and run `bamboo doctor --repair`."
        )

    def _try(self, name: str) -> None:
        """Copy a session as it is now; do nothing when it is deleted.

        Raises:
            _Unsettled: Its files do not fit together.
        """
        pending = self._pending.get(name)
        if pending is not None and pending.is_unclear:
            raise _Unsettled("it got other files each time")
        if pending is not None and pending.is_whole:
            # The log may not be there yet; what is there may belong to a former session.
            fd = self._open(self._paths.log_of(name))
            if fd is None or self._epoch_in(fd, name) < pending.epoch:
                if fd is not None:
                    self._fs.close(fd)
                if self._fs.size(self._paths.archive_of(name)) is None:
                    self._write_lines(name, pending)
                    return
                raise _Unsettled("it is being packed or deleted")
        else:
            fd = self._open(self._paths.log_of(name))
        if fd is None:
            if self._copy_bundle(name, pending):
                return
            fd = self._open(self._paths.log_of(name))
        if fd is None:
            self._check_gone(name, pending)
            return
        try:
            self._copy_log(name, fd, pending)
        finally:
            self._fs.close(fd)

    def _check_gone(self, name: str, pending: PendingLines | None) -> None:
        if pending is not None and not pending.is_deleted:
            raise _Unsettled("its log is missing")
        if self._fs.size(self._paths.archive_of(name)) is not None:
            raise _Unsettled("it was packed and unpacked each time")

    def _open(self, path: Path) -> int | None:
        with suppress(FileNotFoundError):
            return self._fs.open(path, os.O_RDONLY)
        return None

    def _header(self, fd: int, name: str) -> tuple[bytes, str, int]:
        data = self._fs.pread(fd, 1024, 0)
        line = data[: data.find(b"\n") + 1]
        named = read_header(line)
        if named is None or file_name(named[0]) != name:
            raise _Unsettled("its first line cannot be read")
        return line, *named

    def _epoch_in(self, fd: int, name: str) -> int:
        try:
            return self._header(fd, name)[2]
        except _Unsettled:
            return 0  # it is being written

    def _copy_log(self, name: str, fd: int, pending: PendingLines | None) -> None:
        _, session_id, epoch = self._header(fd, name)
        if pending is not None and pending.is_deleted and pending.epoch >= epoch:
            return  # its files are about to go
        with self._target.new_file(f"events/{name}.jsonl") as file:
            found = self._copy_lines(fd, file, epoch)
            more, seq = self._missing_lines(fd, found, pending)
            file.write(more)
            file.keep(session_id, str(Position(epoch, seq)))
        self._count(epoch)

    def _copy_lines(self, fd: int, file: NewFile, epoch: int) -> _Read:
        """Copy the whole lines of a log, and check each."""
        size, at, seq = os.fstat(fd).st_size, 0, 0
        begun: list[bytes] = []
        while at < size and (chunk := self._fs.pread(fd, min(CHUNK_BYTES, size - at), at)):
            at += len(chunk)
            cut = chunk.rfind(b"\n") + 1
            if not cut:
                begun.append(chunk)
                continue
            whole = b"".join([*begun, chunk[:cut]])
            begun = [chunk[cut:]]
            lines = whole.splitlines(keepends=True)
            if file.size == 0:
                lines = lines[1:]  # the header
            for line in lines:
                number = seq_of(line)
                is_next = is_note(line) if number is None else number > seq
                if not (is_next and is_intact(line)):
                    raise _Unsettled(f"a line before byte {file.size + len(whole)} is damaged")
                seq = number or seq
            file.write(whole)
        return _Read(epoch, file.size, seq, has_more=any(begun))

    def _missing_lines(
        self, fd: int, found: _Read, pending: PendingLines | None
    ) -> tuple[bytes, int]:
        """Return the lines that the file lacks, and the seq of the last event with them.

        Raises:
            _Unsettled: The file and the journal do not fit together.
        """
        if pending is None or pending.epoch < found.epoch or pending.is_deleted:
            if found.has_more:
                raise _Unsettled(f"its last line, at byte {found.end}, is not whole")
            return b"", found.seq
        if pending.epoch > found.epoch:
            raise _Unsettled("the journal has a newer epoch")
        first, last = pending.seqs()
        in_file = read_exactly(self._fs, fd, pending.start, pending.end)
        fits = pending.data.startswith(in_file) and pending.start <= found.end
        reaches = bool(in_file) or not first or found.seq < first
        if fits and found.end >= pending.end:
            return b"", found.seq  # what follows is being written
        if fits and reaches:
            return bytes(pending.data[found.end - pending.start :]), max(found.seq, last)
        # All these lines are in the file: also when it was swapped since, for then its lines are
        # at other places.
        if found.seq >= last and not found.has_more:
            return b"", found.seq
        raise _Unsettled(f"its lines behind byte {found.end} are not in the journal")

    def _write_lines(self, name: str, lines: PendingLines) -> None:
        """Write a log of which only the journal has lines."""
        with self._target.new_file(f"events/{name}.jsonl") as file:
            file.write(lines.data)
            file.keep(lines.session_id, str(Position(lines.epoch, lines.seqs()[1])))
        self._count(lines.epoch)

    def _copy_bundle(self, name: str, pending: PendingLines | None) -> bool:
        path = f"archive/{name}.zst"
        fd = self._open(self._paths.archive_of(name))
        if fd is None:
            return False
        with self._target.new_file(path) as file:
            try:
                at = 0
                while chunk := self._fs.pread(fd, CHUNK_BYTES, at):
                    file.write(chunk)
                    at += len(chunk)
            finally:
                self._fs.close(fd)
            session_id, epoch, seq = self._check_bundle(file.path)
            if file_name(session_id) != name:
                raise _Unsettled("its bundle belongs to another session")
            if pending is not None and not pending.is_deleted:
                newer = pending.epoch > epoch or pending.seqs()[1] > seq
                if newer and pending.epoch >= epoch:
                    raise _Unsettled("the journal has lines that its bundle lacks")
            if pending is None or not pending.is_deleted or pending.epoch < epoch:
                file.keep(session_id, str(Position(epoch, seq)))
                self._count(epoch)
        return True

    def _check_bundle(self, path: Path) -> tuple[str, int, int]:
        """Check a copied bundle completely; return its session, epoch and last seq."""
        try:
            view = BundleView(self._fs, path, None)
            try:
                about = view.about
                problem, seq = check_lines(view)
            finally:
                view.close()
            problem = problem or problem_of_bundle(self._fs, path, about["epoch"])
        except (DamagedError, LogReplacedError):
            problem, about, seq = "its bundle is damaged", {}, 0
        if problem is not None:
            raise _Unsettled(problem)
        return about["session"], about["epoch"], seq

    def _count(self, epoch: int) -> None:
        self._sessions += 1
        self._last_epoch = max(self._last_epoch, epoch)
