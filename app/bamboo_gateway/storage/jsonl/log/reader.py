"""Reads pages of a log: finds the first line by bisecting file offsets, and checks every checksum.

The seq is at the start of each event's line and rises from line to line. So the place behind
any position is found in O(log n) reads of some KiB. Notes have no seq; a search that hits one goes
on to the next line.
"""

import re
from collections.abc import Iterator
from zlib import crc32

from bamboo_gateway.storage.commits import Record
from bamboo_gateway.storage.jsonl.log.log import LogView
from bamboo_gateway.storage.lines import LINE_PREFIX_BYTES, is_intact

_NOTE_LINE = re.compile(rb'\{"crc":"[0-9a-f]{8}","note":')
_EVENT_LINE = re.compile(rb'\{"crc":"[0-9a-f]{8}","type":"[^"\\]{1,64}","seq":([0-9]{1,15})[,}]')
_BRACE_CHECKSUM = crc32(b"{")
# A probe reads most lines whole, and a chunk covers a page of tokens in few reads.
_PROBE_BYTES = 4096
_CHUNK_BYTES = 128 * 1024
# The most that is read at once of a long line, and so the most that is read beyond its end.
_LINE_CHUNK_BYTES = 256 * 1024
# Lines that begin this close to each other are read together: twice the bytes of reading each.
_NEAR_BYTES = 2 * _PROBE_BYTES
# Below this size the rest is read through: one more read costs less than further probes.
_SCAN_BYTES = 16 * 1024


class DamagedError(Exception):
    """The line at `offset` has a wrong checksum, or is neither an event nor a note."""

    def __init__(self, offset: int) -> None:
        super().__init__(f"damaged line at byte {offset}")
        self.offset = offset


class LongLineError(Exception):
    """A line is longer than its reader accepts."""


def seq_of(line: bytes) -> int | None:
    """Return the seq of an event's line; None for a note and for any other line."""
    match = _EVENT_LINE.match(line)
    return int(match[1]) if match else None


def is_note(line: bytes) -> bool:
    """Return whether a line holds a note."""
    return _NOTE_LINE.match(line) is not None


def lines_from(view: LogView, offset: int) -> Iterator[tuple[int, bytes]]:
    """Yield the offset and the content of each line, checked, without its newline.

    Raises:
        DamagedError: A line is not intact.
    """
    # The begun part of a line whose end is not read yet: joined once, however long the line is.
    begun: list[bytes] = []
    at = offset
    while chunk := view.read(at, _CHUNK_BYTES):
        at += len(chunk)
        first, *lines = chunk.split(b"\n")
        begun.append(first)
        if not lines:
            continue
        lines.insert(0, b"".join(begun))
        begun = [lines.pop()]
        for part in lines:
            # `is_intact`, inlined: all replays go through this loop.
            try:
                intact = part.startswith(b'{"crc":"') and crc32(
                    memoryview(part)[18:], _BRACE_CHECKSUM
                ) == int(part[8:16], 16)
            except ValueError:
                intact = False
            if not intact:
                raise DamagedError(offset)
            yield offset, part
            offset += len(part) + 1
    if any(begun) or offset < view.end:
        raise DamagedError(offset)


def read_page(
    view: LogView, after: int, start: int | None, limit: int, max_bytes: int
) -> tuple[list[Record], int]:
    """Read the events after the seq `after`.

    Args:
        view: The log.
        after: A seq; 0 for the beginning of the log.
        start: The offset of the next line, if the caller knows it.
        limit: The most events to read.
        max_bytes: The most bytes of bodies to read; the first event is read in any case.

    Returns:
        The events, and the offset of the line behind the last of them.

    Raises:
        DamagedError: A line of the page, or on the way to it, is not intact.
    """
    if start is None:
        start = find_after(view, after)
    found: list[Record] = []
    size = 0
    end = start
    for offset, line in lines_from(view, start):
        seq = seq_of(line)
        if seq is None:
            if not is_note(line):
                raise DamagedError(offset)
        elif seq > after:
            size += len(line) - LINE_PREFIX_BYTES + 1
            if found and size > max_bytes:
                break
            found.append(Record(seq, b"{" + line[LINE_PREFIX_BYTES:]))
        end = offset + len(line) + 1
        if len(found) >= limit:
            break
    return found, end


def find_after(view: LogView, after: int) -> int:
    """Return the start of a line at or a little before the first event with a seq above `after`.

    Raises:
        DamagedError: A line on the way is not intact.
    """
    low, high = view.begin, view.end
    if after <= 0:
        return low
    known = view.place_after(after)
    if known is not None:
        return known
    # Every event before `low` is at or before `after`; the first event behind `high` is not.
    while high - low > _SCAN_BYTES:
        middle = (low + high) // 2
        probe = _event_after(view, middle, high)
        if probe is None:
            high = middle
            continue
        seq, end = probe
        if seq <= after:
            low = end
        else:
            high = middle
    return low


def _event_after(view: LogView, offset: int, high: int) -> tuple[int, int] | None:
    """Return (seq, end) of the first event whose line begins after `offset` and before `high`."""
    start = _line_after(view, offset)
    while start < high:
        line = line_at(view, start)
        end = start + len(line)
        seq = seq_of(line)
        if seq is not None:
            return seq, end
        if not is_note(line):
            raise DamagedError(start)
        start = end
    return None


def _line_after(view: LogView, offset: int) -> int:
    while True:
        chunk = view.read(offset, _PROBE_BYTES)
        newline = chunk.find(b"\n")
        if newline >= 0:
            return offset + newline + 1
        if len(chunk) < _PROBE_BYTES:
            return view.end
        offset += len(chunk)


def line_at(view: LogView, offset: int, bytes_max: int | None = None) -> bytes:
    """Return the line that begins at `offset`, with its newline; read little beyond it.

    Raises:
        LongLineError: The line has more than `bytes_max` bytes.
        DamagedError: There is no intact line.
    """
    parts: list[bytes] = []
    read = 0
    size = _PROBE_BYTES
    while True:
        chunk = view.read(offset + read, size)
        newline = chunk.find(b"\n")
        part = chunk[: newline + 1] if newline >= 0 else chunk
        parts.append(part)
        read += len(part)
        if bytes_max is not None and read > bytes_max:
            raise LongLineError
        if newline >= 0 or len(chunk) < size:
            break
        size = min(size * 4, _LINE_CHUNK_BYTES)
    line = b"".join(parts)
    if not is_intact(line):
        raise DamagedError(offset)
    return line


class LineReader:
    """Reads lines of a view one after the other, in either direction.

    While the lines are close together it reads ahead, up to 128 KiB at once: it gets a page of
    short messages in a few reads. Lines far apart, with the deltas of a run between them, are read
    one by one.
    """

    def __init__(self, view: LogView) -> None:
        self.begin = view.begin
        self._view = view
        self._at = 0
        self._data = b""
        self._ahead = 0
        self._last: int | None = None

    def line_at(self, offset: int, bytes_max: int | None = None) -> bytes:
        """Return the line that begins at `offset`; raise as the function of that name."""
        if not self._at <= offset < self._at + len(self._data):
            self._read_ahead(offset)
        self._last = offset
        start = offset - self._at
        end = self._data.find(b"\n", start) + 1 if start >= 0 else 0
        if end and (bytes_max is None or end - start <= bytes_max):
            line = self._data[start:end]
            if is_intact(line):
                return line
        return line_at(self._view, offset, bytes_max)

    def begins_line(self, offset: int) -> bool:
        """Return whether another line, or the header, ends right before `offset`."""
        start = offset - 1 - self._at
        if offset == self.begin or 0 <= start < len(self._data):
            return offset == self.begin or self._data[start : start + 1] == b"\n"
        return offset > self.begin and self._view.read(offset - 1, 1) == b"\n"

    def _read_ahead(self, offset: int) -> None:
        last = self._last
        if last is None or abs(offset - last) > _NEAR_BYTES:
            self._data, self._ahead = b"", 0
            return
        self._ahead = min(max(2 * self._ahead, 2 * _NEAR_BYTES), _CHUNK_BYTES)
        # Includes the byte before the line, which shows that a line begins there.
        self._at = offset - 1 if offset > last else max(self.begin, last - self._ahead)
        end = offset + self._ahead if offset > last else last
        self._data = self._view.read(self._at, end - self._at)
