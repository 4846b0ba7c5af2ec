"""Offsets of the protocol: a position with both numbers at a fixed width.

Offsets have to sort as texts in the order of the stream, so `1763661234567-42` is written
`0001763661234567_0000000000000042`. Every offset is one position and the other way round: it stays
valid as long as the position does.
"""

import re
from typing import Final

from bamboo_gateway.domain.positions import Position

START: Final = "-1"
NOW: Final = "now"
"""The protocol's own words for the begin and the end of a stream."""

_OFFSET: Final = re.compile(r"([0-9]{16})_([0-9]{16})")
_CURSOR: Final = re.compile(r"[0-9]{1,30}")

_CURSORS_PER_EVENT: Final = 1_000_000
"""How often a client may come back to one position until its cursor meets that of the next event.
At a long poll every 20 seconds that takes eight months."""


def offset_of(position: Position) -> str:
    """Return the offset of a position."""
    return f"{position.epoch:016d}_{position.seq:016d}"


def parse_offset(text: str) -> Position | None:
    """Return the position that an offset means; None when it is malformed."""
    match = _OFFSET.fullmatch(text)
    return Position(int(match[1]), int(match[2])) if match else None


def cursor_at(position: Position, seen: int | None = None) -> int:
    """Return `Stream-Cursor` for an answer that ends at a position.

    The protocol wants a number that grows with every live answer, so that no cache between client
    and server answers the same request forever. It suggests the time; here it is made of the
    position, so that one rendered event serves all readers.

    Args:
        position: Where the answer ends.
        seen: The cursor that the client has sent. The result is greater.
    """
    cursor = position.seq * _CURSORS_PER_EVENT
    return cursor if seen is None or seen < cursor else seen + 1


def parse_cursor(text: str | None) -> int | None:
    """Return the cursor that a client sends back; None for anything that is not one."""
    return int(text) if text is not None and _CURSOR.fullmatch(text) else None
