"""Reads the journal: all records that count, and the damage and torn tails of its segments.

`segments` describes the format and writes it. Recovery reads the journal. A checkpoint reads it to
write lines again after a failed sync, and `doctor` reads it without changing anything.
"""

from dataclasses import dataclass, field
from typing import NamedTuple
from zlib import crc32

from bamboo_gateway.domain import codec
from bamboo_gateway.storage.file_system import FileSystem
from bamboo_gateway.storage.jsonl.journal.segments import FORMAT, Description
from bamboo_gateway.storage.jsonl.paths import Paths
from bamboo_gateway.storage.lines import LINE_PREFIX_BYTES, body_of, is_intact


@dataclass(slots=True)
class JournalRecord:
    """A record read from the journal; when `is_lost`, only its description could be read."""

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
    """The contents of all segments on disk."""

    records: list[JournalRecord] = field(default_factory=list)
    numbers: list[int] = field(default_factory=list)
    # The first record of the oldest segment: the catalog has to cover all records before it.
    first_lsn: int = 0
    last_lsn: int = 0
    last_epoch: int = 0
    torn_bytes: int = 0
    # The bytes of each segment that count; the bytes behind them never will.
    ends: dict[int, int] = field(default_factory=dict)
    # Where acknowledged records could not be read: (segment number, offset, bytes).
    damaged: list[tuple[int, int, bytes]] = field(default_factory=list)

    def take(self, records: list[JournalRecord]) -> None:
        """Add the records read from a segment."""
        self.records += records
        for record in records:
            self.last_lsn = max(self.last_lsn, record.lsn)
            self.last_epoch = max(self.last_epoch, record.epoch)


def read_journal(fs: FileSystem, paths: Paths) -> JournalContents:
    """Read all segments in order, each as far as it counts."""
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
            # No record of a segment without a header was ever acknowledged, unless the header was
            # damaged later.
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
            # Records outside the damaged bytes are still good, and the description names the
            # sessions of the others.
            contents.take(written.records)
        offset = len(data) if again is None else again


class _Write(NamedTuple):
    """The records that one write put into a segment."""

    acked: int
    records: list[JournalRecord]
    end: int

    @property
    def is_whole(self) -> bool:
        """Whether all records are intact."""
        return not any(record.is_lost for record in self.records)


def _read_write(data: bytes, offset: int) -> _Write | None:
    """Read the records of the write at `offset`; None when no intact line describes them."""
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
    """Find the next whole write that was made after the record `lsn` had been acknowledged."""
    while (offset := data.find(b'{"crc":"', offset + 1)) >= 0:
        if not data.startswith(b'"lsn":', offset + LINE_PREFIX_BYTES):
            continue
        written = _read_write(data, offset)
        if written is not None and written.is_whole and written.acked >= lsn:
            return offset
    return None
