"""Positions: the place of an event in its session's log, written `<epoch>-<seq>`.

Inside the gateway a position is a `Position`. It is text only at the edges: in requests, answers,
SSE frames and the bodies of events.
"""

import re
from typing import NamedTuple

from typing_extensions import override

from bamboo_gateway.domain.errors import InvalidInput

# More digits than a position ever has: one far beyond the end is gone, and not malformed.
_POSITION = re.compile(r"([0-9]{1,100})-([0-9]{1,100})")
_SEQ = re.compile(r"[0-9]{1,100}")


class Position(NamedTuple):
    """The place of an event. `seq` 0 is the place before the first event."""

    epoch: int
    seq: int

    @override
    def __str__(self) -> str:
        return f"{self.epoch}-{self.seq}"


NOWHERE = Position(0, 0)
"""A position that no log has: epochs are times in ms. It replaces malformed text, which is then
refused like a position of another log."""

After = Position | int
"""What a client can name in `after`: a position, or a bare seq of the session's present epoch."""


def parse_position(text: str) -> Position | None:
    """Read `<epoch>-<seq>`; None when it is malformed (a `Last-Event-ID` then means reset)."""
    match = _POSITION.fullmatch(text)
    return Position(int(match[1]), int(match[2])) if match else None


def parse_after(text: str) -> After:
    """Read an `after` parameter, where people may give a bare seq of the present epoch.

    Raises:
        InvalidInput: It is neither a position nor a seq.
    """
    if _SEQ.fullmatch(text):
        return int(text)
    position = parse_position(text)
    if position is None:
        raise InvalidInput(
            "`after` must be a position that the gateway sent, `<epoch>-<seq>`.",
            code="invalid-position",
            errors=[{"loc": ["query", "after"], "msg": "not a position"}],
        )
    return position


def in_epoch(after: After, epoch: int) -> Position:
    """Return the position that is meant in a log of this epoch."""
    return after if isinstance(after, Position) else Position(epoch, after)
