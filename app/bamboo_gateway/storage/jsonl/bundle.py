"""Bundles, `archive/<name>.zst`: a whole log in one compressed file, readable by position.

The log is cut at line ends into blocks, and each block is a zstd frame with its own checksum. So
reading a position decompresses one block and not the log, and `zstd -dc` restores the log.
Everything else is in skippable frames: the marks, in blocks too, and at the end

    block table · marks table · footer (a JSON line with a checksum) · its length u32 · magic

An entry of a table is three u64: the offset of the block in the file, the offset of its content in
the log (or the number of its first mark), and for the log the seq of the last event before the
block.
"""

import os
import struct
from bisect import bisect_right
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any
from zlib import crc32

import zstandard
from typing_extensions import override

from bamboo_gateway.domain import codec
from bamboo_gateway.storage.file_system import FileSystem
from bamboo_gateway.storage.jsonl.bulk_threads import Pacer
from bamboo_gateway.storage.jsonl.log.log import LogReplacedError, LogView
from bamboo_gateway.storage.jsonl.log.marks import ENTRY_BYTES, MarksFile, pack_header, pack_marks
from bamboo_gateway.storage.jsonl.log.reader import DamagedError, lines_from, seq_of
from bamboo_gateway.storage.jsonl.repair import Salvage, salvage
from bamboo_gateway.storage.lines import body_of, is_delta, is_intact, mark_of_line, to_line

if TYPE_CHECKING:
    from bamboo_gateway.storage.marks import Mark

# Larger blocks compress better, smaller ones are read faster: 0.2 ms for each of this size.
BLOCK_BYTES = 128 * 1024
_MARKS_PER_BLOCK = BLOCK_BYTES // ENTRY_BYTES
# The default of zstd: higher levels take many times as long and save a few percent.
_LEVEL = 3
# The blocks that a view keeps: a line may cross a page, and a page may cross blocks.
_CACHED_BLOCKS = 2
_FRAME = b"\x28\xb5\x2f\xfd"
_SKIPPABLE = struct.Struct("<II")
_SKIPPABLE_MAGIC = 0x184D2A50
_PLACE = struct.Struct("<QQQ")
_TAIL = struct.Struct("<I8s")
_MAGIC = b"bamboo-z"


@dataclass(slots=True)
class Bundled:
    """The sizes of a written bundle: its bytes, its number of marks, and the bytes of deltas."""

    size: int
    marks: int
    deltas: int


class BundleWriter:
    """Writes one bundle; its memory holds one block of the log and one block of marks."""

    def __init__(self, fs: FileSystem, path: Path) -> None:
        self._fs = fs
        self._fd = fs.open(path, os.O_RDWR | os.O_CREAT | os.O_TRUNC)
        self._compressor = zstandard.ZstdCompressor(level=_LEVEL, write_checksum=True)
        self._at = 0
        self._pacer = Pacer()
        self._blocks: list[bytes] = []
        self._mark_blocks: list[bytes] = []
        self._pending: list[tuple[Mark, int]] = []
        self._marks = self._deltas = self._crc = 0

    def write(self, view: LogView, about: dict[str, Any]) -> Bundled:
        """Write the whole log, check every line, and sync the bundle.

        Args:
            view: The log.
            about: Members for the footer: the session, its epoch, its head.

        Raises:
            OSError: The bundle could not be written.
            DamagedError: The log is damaged.
        """
        seq = seq_before = 0
        block = [view.read(0, view.begin)]
        begin, size = 0, view.begin
        for offset, part in lines_from(view, view.begin):
            line = part + b"\n"
            if size - begin >= BLOCK_BYTES:
                self._add_block(b"".join(block), begin, seq_before)
                block, begin, seq_before = [], offset, seq
            self._note(line, offset, seq)
            seq = seq_of(line) or seq
            block.append(line)
            self._pacer.took(len(line))
            size = offset + len(line)
        self._add_block(b"".join(block), begin, seq_before)
        self._add_marks()
        footer = {
            "bundle": 1,
            **about,
            "bytes": size,
            "begin": view.begin,
            "crc32": self._crc,
            "marks": self._marks,
            "deltas": self._deltas,
            "blocks": len(self._blocks),
        }
        self._add_footer(to_line(codec.encode(footer)))
        self._fs.sync(self._fd)
        return Bundled(self._at, self._marks, self._deltas)

    def _note(self, line: bytes, offset: int, seq: int) -> None:
        mark = mark_of_line(line, seq)
        if mark is not None:
            self._pending.append((mark, offset))
            self._marks += 1
            if len(self._pending) == _MARKS_PER_BLOCK:
                self._add_marks()
        elif is_delta(line):
            self._deltas += len(line)

    def _add_block(self, content: bytes, begin: int, seq_before: int) -> None:
        self._crc = crc32(content, self._crc)
        self._blocks.append(_PLACE.pack(self._at, begin, seq_before))
        self._put(self._compressor.compress(content))

    def _add_marks(self) -> None:
        if not self._pending:
            return
        content = pack_marks(self._pending)
        first = self._marks - len(self._pending)
        self._pending = []
        frame = self._compressor.compress(content)
        self._put(_SKIPPABLE.pack(_SKIPPABLE_MAGIC, len(frame)))
        self._mark_blocks.append(_PLACE.pack(self._at, first, 0))
        self._put(frame)

    def _add_footer(self, footer: bytes) -> None:
        tables = b"".join([*self._blocks, *self._mark_blocks])
        checked = tables + struct.pack("<I", crc32(tables))
        tail = checked + footer + _TAIL.pack(len(footer), _MAGIC)
        self._put(_SKIPPABLE.pack(_SKIPPABLE_MAGIC, len(tail)) + tail)

    def _put(self, data: bytes) -> None:
        self._fs.pwrite(self._fd, data, self._at)
        self._at += len(data)

    def close(self) -> None:
        """Close the file."""
        self._fs.close(self._fd)


class BundleView(LogView):
    """A bundle open for reading, with the offsets of the plain log. Close it after use."""

    def __init__(self, fs: FileSystem, path: Path, epoch: int | None) -> None:
        """Open a bundle; `epoch` None accepts any epoch.

        Raises:
            FileNotFoundError: There is no file.
            LogReplacedError: The bundle is of another epoch.
            DamagedError: The end of the bundle is damaged.
        """
        self._fs = fs
        self._path = path
        self._fd: int | None = fs.open(path, os.O_RDONLY)
        self._decompressor = zstandard.ZstdDecompressor()
        self._cached: dict[int, bytes] = {}
        try:
            self._read_end(os.fstat(self._fd).st_size)
        except (ValueError, KeyError, TypeError, struct.error) as error:
            self.close()
            raise DamagedError(0) from error
        if epoch not in (None, self.about["epoch"]):
            self.close()
            raise LogReplacedError((self.about["session"], self.about["epoch"]))
        self.end = self.about["bytes"]
        self.begin = self.about["begin"]

    def _read_end(self, size: int) -> None:
        assert self._fd is not None
        tail = self._fs.pread(self._fd, _TAIL.size, max(size - _TAIL.size, 0))
        length, magic = _TAIL.unpack(tail)
        if magic != _MAGIC:
            raise ValueError
        end = size - _TAIL.size - length
        footer = self._fs.pread(self._fd, length, end)
        if not is_intact(footer):
            raise ValueError
        self.about: dict[str, Any] = codec.decode(body_of(footer))
        blocks = self.about["blocks"]
        mark_blocks = -(-self.about["marks"] // _MARKS_PER_BLOCK)
        table_bytes = (blocks + mark_blocks) * _PLACE.size
        tables = self._fs.pread(self._fd, table_bytes + 4, end - table_bytes - 4)
        if struct.unpack("<I", tables[-4:]) != (crc32(tables[:-4]),):
            raise ValueError
        places = list(_PLACE.iter_unpack(tables[:-4]))
        self._places, self._mark_places = places[:blocks], places[blocks:]
        # The latest possible end of each frame: the header of the next frame, or the tables.
        self._ends = [*sorted(at for at, _, _ in places), end - table_bytes - 4]
        self._begins = [begin for _, begin, _ in self._places]
        self._seqs = [seq for _, _, seq in self._places]

    @override
    def read(self, offset: int, size: int) -> bytes:
        size = min(size, self.end - offset)
        parts: list[bytes] = []
        while size > 0:
            number = bisect_right(self._begins, offset) - 1
            part = self.block(number)[offset - self._begins[number] :][:size]
            parts.append(part)
            offset += len(part)
            size -= len(part)
        return parts[0] if len(parts) == 1 else b"".join(parts)

    def block(self, number: int) -> bytes:
        """Return the content of a block.

        Raises:
            DamagedError: The block is damaged.
        """
        content = self._cached.get(number)
        if content is None:
            at, begin, _ = self._places[number]
            last = number + 1 == len(self._places)
            size = (self.end if last else self._begins[number + 1]) - begin
            content = self._content(at, size)
            while len(self._cached) >= _CACHED_BLOCKS:
                del self._cached[next(iter(self._cached))]
            self._cached[number] = content
        return content

    def _content(self, at: int, size: int) -> bytes:
        assert self._fd is not None
        frame_bytes = self._ends[bisect_right(self._ends, at)] - at
        frame = self._fs.pread(self._fd, frame_bytes, at)
        try:
            content = self._decompressor.decompress(
                frame, max_output_size=size, allow_extra_data=True
            )
        except zstandard.ZstdError as error:
            raise DamagedError(at) from error
        if len(content) != size:
            raise DamagedError(at)
        return content

    @override
    def place_after(self, seq: int) -> int:
        number = max(bisect_right(self._seqs, seq) - 1, 0)
        begin: int = max(self._begins[number], self.begin)
        return begin

    def blocks(self) -> Iterator[bytes]:
        """Yield the content of the whole log, all of it checked.

        Raises:
            DamagedError: A part of the log is damaged.
        """
        crc = 0
        for number in range(len(self._places)):
            content = self.block(number)
            crc = crc32(content, crc)
            yield content
        if crc != self.about["crc32"]:
            raise DamagedError(0)

    def mark_blocks(self) -> Iterator[bytes]:
        """Yield the content of the mark file that the plain log had."""
        yield pack_header(self.about["epoch"])
        for number in range(len(self._mark_places)):
            yield self.mark_block(number)

    def mark_block(self, number: int) -> bytes:
        """Return a block of marks.

        Raises:
            DamagedError: The block is damaged.
        """
        at, first, _ = self._mark_places[number]
        return self._content(at, min(self.about["marks"] - first, _MARKS_PER_BLOCK) * ENTRY_BYTES)

    @override
    def close(self) -> None:
        fd, self._fd = self._fd, None
        if fd is not None:
            self._fs.close(fd)


class PackedMarks(MarksFile):
    """The marks in a bundle; usable while the view is open."""

    def __init__(self, view: BundleView) -> None:
        self._view = view
        self._fd = None
        self._cached: tuple[int, bytes] = (-1, b"")
        self.count = view.about["marks"]

    @override
    def _pread(self, size: int, offset: int) -> bytes:
        # Offsets are those in a mark file, whose header takes the place of one entry.
        offset -= ENTRY_BYTES
        parts: list[bytes] = []
        while size > 0:
            number, start = divmod(offset, BLOCK_BYTES)
            if number != self._cached[0]:
                self._cached = (number, self._view.mark_block(number))
            part = self._cached[1][start:][:size]
            if not part:
                break
            parts.append(part)
            offset += len(part)
            size -= len(part)
        return b"".join(parts)


def about_bundle(fs: FileSystem, path: Path) -> dict[str, Any]:
    """Return the footer of a bundle.

    Raises:
        FileNotFoundError: There is no bundle.
        DamagedError: The footer cannot be read.
    """
    view = BundleView(fs, path, None)
    view.close()
    return view.about


def salvage_bundle(fs: FileSystem, path: Path) -> Salvage:
    """Return the intact lines of a damaged bundle, read frame by frame without its tables."""
    data = fs.read(path) or b""
    parts: list[bytes] = []
    lost: list[tuple[int, bytes]] = []
    at = 0
    while (start := data.find(_FRAME, at)) >= 0:
        frame = zstandard.ZstdDecompressor().decompressobj()
        try:
            content = frame.decompress(data[start : start + 64 * 1024 * 1024])
        except zstandard.ZstdError:
            content = b""
        if not frame.eof:
            following = data.find(_FRAME, start + 4)
            at = following if following >= 0 else len(data)
            lost.append((start, data[start:at]))
            continue
        at = min(start + 64 * 1024 * 1024, len(data)) - len(frame.unused_data)
        if content.startswith(b'{"crc":"'):
            parts.append(content)
    found = salvage(b"".join(parts))
    found.damaged += lost
    return found
