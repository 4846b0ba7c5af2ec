"""The pieces of a packed log: consecutive events, compressed together.

A piece holds about `PIECE_BYTES` of events, so that a read by position decompresses little more
than it returns. Decompressed it is, for each event, its seq and the length of its body (8 bytes
each, little-endian), and after all of these the bodies.
"""

from collections.abc import Iterable, Iterator, Sequence
from struct import Struct
from typing import NamedTuple

import zstandard

from bamboo_gateway.domain.limits import KiB
from bamboo_gateway.storage.commits import Record
from bamboo_gateway.storage.sql.prepared import EventRow

PIECE_BYTES = 256 * KiB
"""Larger pieces compress some percent better, and make every read decompress more."""

_LEVEL = 6
_COUNT = Struct("<Q")
_ENTRY = Struct("<QQ")
# The sign of a seq marks a delta, which `compact` must know again after unpacking.
_DELTA_BIT = 1 << 63


class Piece(NamedTuple):
    """A row of `archives`, without the key of its session."""

    first_seq: int
    last_seq: int
    body: bytes


def pack_piece(rows: Sequence[EventRow]) -> Piece:
    """Compress consecutive events, at least one."""
    entries = b"".join(
        _ENTRY.pack(row.seq | _DELTA_BIT if row.is_delta else row.seq, len(row.body))
        for row in rows
    )
    plain = b"".join((_COUNT.pack(len(rows)), entries, *(row.body for row in rows)))
    return Piece(rows[0].seq, rows[-1].seq, zstandard.ZstdCompressor(level=_LEVEL).compress(plain))


def unpack_piece(body: bytes) -> Iterator[EventRow]:
    """Decompress a piece.

    Raises:
        ValueError: It is damaged.
    """
    try:
        plain = memoryview(zstandard.ZstdDecompressor().decompress(body))
    except zstandard.ZstdError as error:
        raise ValueError(f"a packed piece is damaged: {error}") from error
    (count,) = _COUNT.unpack_from(plain, 0)
    at = _COUNT.size + count * _ENTRY.size
    for number in range(count):
        marked, length = _ENTRY.unpack_from(plain, _COUNT.size + number * _ENTRY.size)
        yield EventRow(
            marked & ~_DELTA_BIT, bool(marked & _DELTA_BIT), bytes(plain[at : at + length])
        )
        at += length


def records_in(bodies: Iterable[bytes], after: int) -> Iterator[Record]:
    """Return the events of consecutive pieces behind the seq `after`."""
    for body in bodies:
        for row in unpack_piece(body):
            if row.seq > after:
                yield Record(row.seq, row.body)
