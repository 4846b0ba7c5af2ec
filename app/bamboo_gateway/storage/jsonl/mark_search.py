"""Finds lines of a log by their marks, in its mark file and in memory, and verifies each line.

The mark file of a log has the older marks, `Log.marks` the newer ones. A bundle has its own marks.
"""

from bisect import bisect_left, bisect_right
from collections.abc import Collection, Iterator
from dataclasses import dataclass

from bamboo_gateway.storage.commits import Found, MarkKind, Record
from bamboo_gateway.storage.file_system import FileSystem
from bamboo_gateway.storage.jsonl.bundle import BundleView, PackedMarks
from bamboo_gateway.storage.jsonl.log.log import Log, LogView, LogWriter, OutdatedError
from bamboo_gateway.storage.jsonl.log.marks import MarksFile, StaleMarksError, digests_of
from bamboo_gateway.storage.jsonl.log.reader import LineReader, LongLineError, seq_of
from bamboo_gateway.storage.jsonl.paths import Paths
from bamboo_gateway.storage.lines import LINE_EXTRA_BYTES, body_of
from bamboo_gateway.storage.marks import Mark, mark_of

# Above every seq, and above every number of lines or bytes.
NO_END = 1 << 62


@dataclass(frozen=True, slots=True)
class Search:
    """The conditions of one search; see `SessionStore.find`."""

    kind: MarkKind
    key: str | None
    after: int
    before: int
    limit: int
    max_bytes: int
    reverse: bool

    def admits(self, seq: int, kind: MarkKind) -> bool:
        """Return whether a mark fulfils the conditions by kind and seq."""
        return kind == self.kind and self.after < seq < self.before


class MarkSearch:
    """Searches by marks. Not for the loop's thread, since it blocks."""

    def __init__(self, fs: FileSystem, paths: Paths, writer: LogWriter) -> None:
        self._fs = fs
        self._paths = paths
        self._writer = writer

    def find(self, log: Log, size: int, search: Search) -> Found:
        """Find lines among those before the byte `size`.

        Raises:
            StaleMarksError: The mark file has to be rebuilt.
            DamagedError, LogReplacedError: The log is damaged.
            FileNotFoundError: The log is missing.
        """
        view, marks, pending = self._open(log, size)
        try:
            found = Found()
            lines = LineReader(view)
            left = search.max_bytes
            for seq, offset in _rising(_places(marks, pending, search), reverse=search.reverse):
                if offset >= size:
                    continue
                if len(found) >= search.limit:
                    found.has_more = True
                    break
                try:
                    record = _verified(lines, seq, offset, search, left if found else None)
                except LongLineError:
                    found.has_more = True
                    break
                if record is not None:
                    found.append(record)
                    left -= len(record.body)
            return found
        finally:
            marks.close()
            view.close()

    def count(self, log: Log, size: int, search: Search) -> int:
        """Count the marks before the byte `size` that a search admits, whatever their key.

        Raises:
            StaleMarksError, DamagedError, LogReplacedError, FileNotFoundError: As `find`.
        """
        view, marks, pending = self._open(log, size)
        try:
            first, last = marks.above(search.after), marks.above(search.before - 1)
            return marks.count_of(search.kind, first, last) + sum(
                offset < size and search.admits(mark.seq, mark.kind) for mark, offset in pending
            )
        finally:
            marks.close()
            view.close()

    def keys_in_use(self, log: Log, size: int, kind: MarkKind, keys: Collection[str]) -> set[str]:
        """Return those of the keys that mark a line before the byte `size`.

        Raises:
            StaleMarksError, DamagedError, LogReplacedError, FileNotFoundError: As `find`.
        """
        view, marks, pending = self._open(log, size)
        try:
            used = {
                mark.key
                for mark, offset in pending
                if mark.kind == kind and mark.key in keys and offset < size
            }
            digests = {digest for key in keys for digest in digests_of(kind, key)}
            any_key = _all_of(kind)
            lines = LineReader(view)
            for seq, offset, _, entry_kind in marks.named(digests, reverse=False):
                if entry_kind == kind and offset < size:
                    record = _verified(lines, seq, offset, any_key, None)
                    mark = mark_of(record.body, seq) if record is not None else None
                    if mark is not None and mark.key in keys:
                        used.add(mark.key)
            return used
        finally:
            marks.close()
            view.close()

    def messages(self, log: Log, size: int) -> Iterator[bytes]:
        """Yield the stored lines of all messages before the byte `size`, without their newline.

        Raises:
            StaleMarksError, DamagedError, LogReplacedError, FileNotFoundError: As `find`.
        """
        view, marks, pending = self._open(log, size)
        try:
            lines = LineReader(view)
            for seq, offset in _rising(_places(marks, pending, _EVERY_MESSAGE), reverse=False):
                if offset >= size:
                    continue
                line = lines.line_at(offset)
                if seq_of(line) != seq:
                    raise StaleMarksError
                yield line[:-1]
        finally:
            marks.close()
            view.close()

    def _open(self, log: Log, size: int) -> tuple[LogView, MarksFile, list[tuple[Mark, int]]]:
        with self._writer.lock:
            saved = log.marks_saved
            pending = list(log.marks)
        if log.packed:
            packed = self._writer.view(log, size)
            assert isinstance(packed, BundleView)
            return packed, PackedMarks(packed), []
        if saved < 0:
            raise StaleMarksError
        try:
            marks = MarksFile(self._fs, self._paths.marks_of(log.name), log.epoch, saved)
        except StaleMarksError:
            if log.is_outdated:
                raise OutdatedError from None
            raise
        try:
            return self._writer.view(log, size), marks, pending
        except BaseException:
            marks.close()
            raise


def _all_of(kind: MarkKind) -> Search:
    """Return the search that finds every line of a kind."""
    return Search(kind, None, 0, NO_END, NO_END, NO_END, reverse=False)


_EVERY_MESSAGE = _all_of("message")


def _places(
    marks: MarksFile, pending: list[tuple[Mark, int]], search: Search
) -> Iterator[tuple[int, int]]:
    """Yield (seq, offset) of each mark that may match, in the order of the search."""
    if search.reverse:
        yield from _pending_places(pending, search)
        yield from _saved_places(marks, search)
    else:
        yield from _saved_places(marks, search)
        yield from _pending_places(pending, search)


def _pending_places(pending: list[tuple[Mark, int]], search: Search) -> Iterator[tuple[int, int]]:
    # There may be as many as one checkpoint takes, so a page looks only at its own.
    first = bisect_right(pending, search.after, key=_seq_of_pending)
    last = bisect_left(pending, search.before, key=_seq_of_pending)
    for at in range(last - 1, first - 1, -1) if search.reverse else range(first, last):
        mark, offset = pending[at]
        if search.admits(mark.seq, mark.kind) and search.key in (None, mark.key):
            yield mark.seq, offset


def _seq_of_pending(pending: tuple[Mark, int]) -> int:
    return pending[0].seq


def _rising(places: Iterator[tuple[int, int]], *, reverse: bool) -> Iterator[tuple[int, int]]:
    """Yield the places, and check their order: each line of a log has one mark at most.

    Raises:
        StaleMarksError: The offsets do not rise (or fall, in reverse).
    """
    last: int | None = None
    for seq, offset in places:
        if last is not None and (offset >= last if reverse else offset <= last):
            raise StaleMarksError
        last = offset
        yield seq, offset


def _saved_places(marks: MarksFile, search: Search) -> Iterator[tuple[int, int]]:
    if search.key is not None:
        entries = marks.named(digests_of(search.kind, search.key), reverse=search.reverse)
    else:
        first, last = marks.above(search.after), marks.above(search.before - 1)
        entries = marks.blocks(first, last, reverse=search.reverse)
    for seq, offset, _, kind in entries:
        if search.admits(seq, kind):
            yield seq, offset


def _verified(
    lines: LineReader, seq: int, offset: int, search: Search, bytes_max: int | None
) -> Record | None:
    """Read the line that a mark leads to; return None when the line has another key.

    Raises:
        LongLineError: Its body has more than `bytes_max` bytes.
        DamagedError: The line is damaged.
        StaleMarksError: The mark leads to another line.
    """
    line_max = None if bytes_max is None else bytes_max + LINE_EXTRA_BYTES
    if not lines.begins_line(offset):
        raise StaleMarksError
    body = body_of(lines.line_at(offset, line_max))
    mark = mark_of(body, seq)
    if mark is None or mark.kind != search.kind or mark.seq != seq:
        raise StaleMarksError
    # Two keys may share a digest.
    return Record(seq, body) if search.key in (None, mark.key) else None
