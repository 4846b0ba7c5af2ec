r"""Stored lines: an event or a note as the JSONL store writes it.

A line is the JSON of the event with its checksum as first member:

    {"crc":"9ae0daaf","type":"token","seq":8,"time":"…",…}\n

A log therefore reads with grep and jq, and the event's own bytes (the *body*: the same object
without `crc`) are found by slicing, without parsing. `crc` is the CRC-32 of the body. All lines
begin with the same members (crc, type, seq), so the first bytes of a line answer most questions.
"""

from collections.abc import Iterable, Sequence
from zlib import crc32

from bamboo_gateway.domain.events import DELTA_TYPES
from bamboo_gateway.storage.commits import Event, Note
from bamboo_gateway.storage.marks import MARKED_STARTS, Mark, mark_of

LINE_PREFIX_BYTES = len(b'{"crc":"00000000",')
LINE_EXTRA_BYTES = LINE_PREFIX_BYTES - len(b"{") + len(b"\n")
"""The number of bytes by which a line is longer than its body."""
# The checksum of a body's first byte. The rest of the body is in the line unchanged, so the
# checksum goes on from here.
_BRACE_CHECKSUM = crc32(b"{")
_DELTA_STARTS = tuple(b'"type":"%b"' % name.encode() for name in sorted(DELTA_TYPES))


def to_line(body: bytes) -> bytes:
    """Return the stored line of an event's or a note's JSON object."""
    return b'{"crc":"%08x",' % crc32(body) + body[1:] + b"\n"


def stored_lines(events: Sequence[Event], notes: Sequence[Note] = ()) -> bytes:
    """Return the stored lines of events and notes, each note behind the event that it follows."""
    return b"".join([to_line(entry.body) for entry in in_log_order(events, notes)])


def in_log_order(events: Sequence[Event], notes: Sequence[Note]) -> Iterable[Event | Note]:
    """Return events and notes in the order of their lines."""
    if not notes:
        return events
    # Sorting is stable: of one seq the event comes first, then its notes.
    return sorted([*events, *notes], key=lambda entry: entry.seq)


def body_of(line: bytes) -> bytes:
    """Return the body of a stored line (with or without its newline); do not check it."""
    end = -1 if line.endswith(b"\n") else None
    return b"".join((b"{", memoryview(line)[LINE_PREFIX_BYTES:end]))


def is_intact(line: bytes) -> bool:
    """Return whether a stored line is whole and its checksum holds."""
    if not (line.startswith(b'{"crc":"') and line.endswith(b"}\n")):
        return False
    # Compared as text: `int` would also take signs, spaces and capitals for digits. A line may have
    # many MB: a view avoids copying it.
    checksum = crc32(memoryview(line)[LINE_PREFIX_BYTES:-1], _BRACE_CHECKSUM)
    return line[16:18] == b'",' and line[8:16] == b"%08x" % checksum


def mark_of_line(line: bytes, seq_before: int) -> Mark | None:
    """Return the mark of a stored line, or None; most lines need only a look at their start."""
    if line.startswith(MARKED_STARTS, LINE_PREFIX_BYTES):
        return mark_of(body_of(line), seq_before)
    return None


def is_delta(line: bytes) -> bool:
    """Return whether a line holds a delta: an event that a later message replaces."""
    return line.startswith(_DELTA_STARTS, LINE_PREFIX_BYTES)


def delta_bytes(data: bytes) -> int:
    """Return how many bytes of whole stored lines belong to deltas."""
    return sum(len(line) for line in data.splitlines(keepends=True) if is_delta(line))
