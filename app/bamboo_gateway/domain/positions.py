"""Positions: where an event stands in its session's log, written `<epoch>-<seq>`."""

import re
from typing import NamedTuple

from typing_extensions import override

from bamboo_gateway.domain.errors import InvalidInput

# More digits than a position ever has: one far beyond the end is gone, and not malformed.
_POSITION = re.compile(r"([0-9]{1,100})-([0-9]{1,100})")
_SEQ = re.compile(r"[0-9]{1,100}")


class Position(NamedTuple):
    """An event's place. `seq` 0 is the place before the first event."""

    epoch: int
    seq: int

    @override
    def __str__(self) -> str:
        return f"{self.epoch}-{self.seq}"


def parse_position(text: str) -> Position | None:
    """Reads `<epoch>-<seq>`; None when it is malformed (a `Last-Event-ID` then means reset)."""
    match = _POSITION.fullmatch(text)
    return Position(int(match[1]), int(match[2])) if match else None


def parse_after(text: str, epoch: int) -> Position:
    """Reads an `after` parameter, where people may give a bare seq of the current epoch.

    Raises:
        InvalidInput: When it is neither.
    """
    if _SEQ.fullmatch(text):
        return Position(epoch, int(text))
    position = parse_position(text)
    if position is None:
        raise InvalidInput(
            "`after` is a position, `<epoch>-<seq>`, as the gateway gave it.",
            code="invalid-position",
            errors=[{"loc": ["query", "after"], "msg": "not a position"}],
        )
    return position
