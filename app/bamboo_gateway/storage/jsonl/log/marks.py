"""Mark files: the offsets of a log's messages, run events and notes, found without reading the log.

`index/marks/<name>.idx` has a 32-byte header and 32 bytes for each mark, in log order:

    seq u64 · offset u64 · key digest 8 bytes · kind u8 · three 0 · CRC-32 of the rest u32

A lookup by key searches for eight bytes and verifies the line in the log. The last fifty messages
are read from the last entries. A range of seqs is bisected. The catalog has the number of entries
that count. A mark file that does not fit its log (missing, torn, of another epoch, leading to a
wrong line) is rebuilt from the log.
"""

import os
import struct
from collections.abc import Collection, Iterable, Iterator
from hashlib import blake2b
from pathlib import Path
from zlib import crc32

from bamboo_gateway.storage.commits import MarkKind
from bamboo_gateway.storage.file_system import FileSystem
from bamboo_gateway.storage.jsonl.log.log import LogView
from bamboo_gateway.storage.jsonl.log.reader import lines_from, seq_of
from bamboo_gateway.storage.lines import LINE_PREFIX_BYTES
from bamboo_gateway.storage.marks import Mark, mark_of

ENTRY_BYTES = 32
_ENTRY = struct.Struct("<QQ8sB3xI")
_DIGEST_AT = 16
_KIND_AT = 24
_HEADER = struct.Struct("<8sQ12xI")
_MAGIC = b"bamboo1\n"
# Up to this many digests, searching for one after the other is faster than looking at every entry.
_FINDS_MAX = 16
# A scan of all marks holds this many at once: 1 MiB.
_SCAN_ENTRIES = 32 * 1024
# One read of 16 KiB: it contains a page of the last fifty messages, with all marks between them.
_BLOCK_ENTRIES = 512
# The files have their places: a new kind comes last.
_KINDS: tuple[MarkKind, ...] = ("message", "run", "note", "input")
_KIND_NUMBER = {kind: number for number, kind in enumerate(_KINDS)}


class StaleMarksError(Exception):
    """The mark file does not fit its log and has to be rebuilt."""


def digest_of(key: str) -> bytes:
    """Return the eight bytes by which a key is searched."""
    return blake2b(key.encode(), digest_size=8).digest()


def digests_of(kind: MarkKind, key: str) -> tuple[bytes, ...]:
    """Return the digests that a mark of this kind and key may have.

    Earlier gateways gave all notes the same key when they made marks from stored lines: in rebuilt
    mark files, and in bundles, which do not change.
    """
    return (digest_of(key), _FORMER_NOTE) if kind == "note" else (digest_of(key),)


def pack_marks(marks: Iterable[tuple[Mark, int]]) -> bytes:
    """Return the entries of marks with their offsets in the log."""
    parts = []
    for mark, offset in marks:
        head = _ENTRY.pack(mark.seq, offset, digest_of(mark.key), _KIND_NUMBER[mark.kind], 0)[:-4]
        parts.append(head + struct.pack("<I", crc32(head)))
    return b"".join(parts)


_FORMER_NOTE = digest_of("idempotency")


def pack_header(epoch: int) -> bytes:
    """Return the header of a mark file."""
    head = _HEADER.pack(_MAGIC, epoch, 0)[:-4]
    return head + struct.pack("<I", crc32(head))


def marks_of_lines(view: LogView, offset: int) -> Iterator[tuple[Mark, int]]:
    """Read the marks of a log, beginning at the start of a line.

    Raises:
        DamagedError: A line is not intact.
    """
    seq = 0
    for start, line in lines_from(view, offset):
        mark = mark_of(b"{" + line[LINE_PREFIX_BYTES:], seq)
        if mark is not None:
            yield mark, start
        seq = seq_of(line) or seq


class MarksFile:
    """A mark file open for reading: its first `count` entries. Close it after use."""

    def __init__(self, fs: FileSystem, path: Path, epoch: int, count: int) -> None:
        """Open the file.

        Raises:
            StaleMarksError: It is missing, too short, or of another epoch.
        """
        self._fs = fs
        self._fd: int | None = None
        self.count = count
        if count == 0:
            return
        try:
            self._fd = fs.open(path, os.O_RDONLY)
        except FileNotFoundError:
            raise StaleMarksError from None
        head = self._pread(ENTRY_BYTES, 0)
        if head != pack_header(epoch) or os.fstat(self._fd).st_size < ENTRY_BYTES * (count + 1):
            self.close()
            raise StaleMarksError

    def _pread(self, size: int, offset: int) -> bytes:
        assert self._fd is not None
        return self._fs.pread(self._fd, size, offset)

    def entries(self, first: int, last: int) -> list[tuple[int, int, bytes, MarkKind]]:
        """Return (seq, offset, digest, kind) of the entries `first <= n < last`.

        Raises:
            StaleMarksError: One of them is damaged.
        """
        first, last = max(first, 0), min(last, self.count)
        if first >= last:
            return []
        data = self._pread((last - first) * ENTRY_BYTES, (first + 1) * ENTRY_BYTES)
        return [_unpack(data, at) for at in range(0, (last - first) * ENTRY_BYTES, ENTRY_BYTES)]

    def above(self, seq: int) -> int:
        """Return the number of the first entry whose seq is above `seq`."""
        low, high = 0, self.count
        while low < high:
            middle = (low + high) // 2
            if self.entries(middle, middle + 1)[0][0] > seq:
                high = middle
            else:
                low = middle + 1
        return low

    def blocks(
        self, first: int, last: int, *, reverse: bool
    ) -> Iterator[tuple[int, int, bytes, MarkKind]]:
        """Yield the entries from either end, reading a block at a time."""
        starts = range(first, last, _BLOCK_ENTRIES)
        for start in reversed(starts) if reverse else starts:
            block = self.entries(start, min(start + _BLOCK_ENTRIES, last))
            yield from reversed(block) if reverse else block

    def count_of(self, kind: MarkKind, first: int, last: int) -> int:
        """Count the entries `first <= n < last` of one kind, without verifying them in the log."""
        wanted = bytes([_KIND_NUMBER[kind]])
        count = 0
        for start in range(first, last, _SCAN_ENTRIES):
            size = (min(start + _SCAN_ENTRIES, last) - start) * ENTRY_BYTES
            data = self._pread(size, (start + 1) * ENTRY_BYTES)
            count += data[_KIND_AT::ENTRY_BYTES].count(wanted)
        return count

    def named(
        self, digests: Collection[bytes], *, reverse: bool
    ) -> Iterator[tuple[int, int, bytes, MarkKind]]:
        """Yield the entries that have one of the digests, from either end, in one pass."""
        starts = range(0, self.count, _SCAN_ENTRIES)
        for start in reversed(starts) if reverse else starts:
            count = min(_SCAN_ENTRIES, self.count - start)
            data = self._pread(count * ENTRY_BYTES, (start + 1) * ENTRY_BYTES)
            for place in sorted(_places_of(digests, data), reverse=reverse):
                yield _unpack(data, place)

    def close(self) -> None:
        """Close the file. Idempotent."""
        fd, self._fd = self._fd, None
        if fd is not None:
            self._fs.close(fd)


def last_offset(fs: FileSystem, path: Path, epoch: int, count: int) -> int | None:
    """Return the offset in the log of the last of `count` marks; None when there is none."""
    if count <= 0:
        return None
    try:
        marks = MarksFile(fs, path, epoch, count)
        try:
            [(_, offset, _, _)] = marks.entries(count - 1, count)
        finally:
            marks.close()
    except StaleMarksError:
        return None
    return offset


def _places_of(digests: Collection[bytes], data: bytes) -> set[int]:
    """Return the offsets in `data` of the entries that have one of the digests."""
    if len(digests) > _FINDS_MAX:
        return {
            at
            for at in range(0, len(data), ENTRY_BYTES)
            if data[at + _DIGEST_AT : at + _KIND_AT] in digests
        }
    places: set[int] = set()
    for digest in digests:
        at = data.find(digest)
        while at >= 0:
            # The same bytes may also occur across other fields; only the digest's own place counts.
            if at % ENTRY_BYTES == _DIGEST_AT:
                places.add(at - _DIGEST_AT)
            at = data.find(digest, at + 1)
    return places


def _unpack(data: bytes, at: int) -> tuple[int, int, bytes, MarkKind]:
    entry = data[at : at + ENTRY_BYTES]
    if len(entry) < ENTRY_BYTES:
        raise StaleMarksError
    seq, offset, digest, kind, crc = _ENTRY.unpack(entry)
    if crc32(entry[:-4]) != crc or kind >= len(_KINDS):
        raise StaleMarksError
    return seq, offset, digest, _KINDS[kind]
