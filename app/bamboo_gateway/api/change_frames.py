"""Changes as clients get them: their cursor as text, and the native frames of their stream."""

from base64 import urlsafe_b64decode, urlsafe_b64encode
from collections.abc import Mapping
from typing import Any, Final

from bamboo_gateway.api.frames import PING, RETRY_MS
from bamboo_gateway.domain.codec import decode, encode
from bamboo_gateway.domain.ids import is_id
from bamboo_gateway.sessions.changes.page import ChangeCursor, ChangeEntry
from bamboo_gateway.sessions.streaming.rendering import GoodbyeReason, comes_back

CHANGE_CURSOR_CHARS_MAX: Final = 512
"""Longer than any: a feed's name, two numbers and a session's id."""

RESET: Final[Mapping[str, Any]] = {"type": "reset", "reason": "unknown_position"}
"""What a client is told whose cursor cannot be served."""

_NUMBER_MAX: Final = 1 << 62


def write_change_cursor(cursor: ChangeCursor) -> str:
    """Return a cursor as one text, which clients only send back."""
    return urlsafe_b64encode(encode([*cursor])).rstrip(b"=").decode()


def read_change_cursor(text: str) -> ChangeCursor:
    """Return the cursor of a text.

    Raises:
        ValueError: It is no cursor.
    """
    if len(text) > CHANGE_CURSOR_CHARS_MAX:
        raise ValueError("not a cursor")
    match decode(urlsafe_b64decode(text + "=" * (-len(text) % 4))):
        case [str(feed), int(number), int(moment), str(session_id)]:
            numbers_fit = 0 <= number < _NUMBER_MAX and 0 <= moment < _NUMBER_MAX
            if numbers_fit and (not session_id or is_id(session_id)):
                return ChangeCursor(feed, number, moment, session_id)
        case _:
            pass
    raise ValueError("not a cursor")


class ChangeFrames:
    """The renderer of the native stream of changes."""

    __slots__ = ()

    def open(self, cursor: ChangeCursor, connection_id: str, /) -> bytes:
        """Return the first frame: where the stream begins."""
        data = encode({"type": "open", "connection_id": connection_id})
        return b"id: %b\nretry: %d\ndata: %b\n\n" % (_id(cursor), RETRY_MS, data)

    def entry(self, entry: ChangeEntry, /) -> bytes:
        """Return the frame of a change."""
        return _frame(entry.cursor, entry.view)

    def reset(self, cursor: ChangeCursor, /) -> bytes:
        """Return the frame that tells a client to list its sessions again."""
        return _frame(cursor, RESET)

    def goodbye(self, cursor: ChangeCursor, reason: GoodbyeReason, /) -> bytes:
        """Return the last frame."""
        return _frame(cursor, {"type": "goodbye", "reason": reason, "retry": comes_back(reason)})

    def heartbeat(self, cursor: ChangeCursor, *, is_event: bool) -> bytes:
        """Return a comment, or the frame of a `heartbeat` event."""
        return _frame(cursor, {"type": "heartbeat"}) if is_event else PING


def _id(cursor: ChangeCursor) -> bytes:
    return write_change_cursor(cursor).encode()


def _frame(cursor: ChangeCursor, data: Mapping[str, Any]) -> bytes:
    return b"id: %b\ndata: %b\n\n" % (_id(cursor), encode(data))
