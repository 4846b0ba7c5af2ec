"""The native frames: SSE as the contract writes it: LF line ends, always `data`, never `event`."""

from typing import Any, Final, assert_never

from bamboo_gateway.domain.codec import encode
from bamboo_gateway.domain.positions import Position
from bamboo_gateway.sessions.streaming.rendering import (
    CaughtUp,
    Control,
    Goodbye,
    Heartbeat,
    Open,
    Ping,
    Reset,
)

RETRY_MS: Final = 1000
"""How long clients wait before they reconnect: short, since that costs a cursor, no replay."""

PING: Final = b": ping\n"
"""A heartbeat: a comment. After a blank line, common parsers would emit an empty event."""


class NativeFrames:
    """The renderer of the gateway's own streams."""

    __slots__ = ()

    def event(self, epoch: int, seq: int, body: bytes, /) -> bytes:
        """Return the frame of an event of the log."""
        return b"id: %d-%d\ndata: %b\n\n" % (epoch, seq, body)

    def control(self, shown: Control, /) -> bytes:
        """Return the frame of an item that is not in the log."""
        match shown:
            case Ping():
                return PING
            case CaughtUp():
                return b""  # `open` and the positions of events say it
            case Heartbeat(position):
                return _frame(position, {"type": "heartbeat"})
            case Open(position):
                data = {
                    "type": "open",
                    "session_id": shown.session_id,
                    "connection_id": shown.connection_id,
                    "position": str(position),
                    "active_run_id": shown.active_run_id,
                }
                # With an id in any case: by the letter of the HTML standard, a first frame without
                # one erases the id that a client has kept.
                head = b"id: %d-%d\nretry: %d\n" % (*shown.resumes_after, RETRY_MS)
                return b"%bdata: %b\n\n" % (head, encode(data))
            case Reset(position, reason):
                return _frame(
                    position, {"type": "reset", "reason": reason, "position": str(position)}
                )
            case Goodbye(reason, retry):
                return _frame(None, {"type": "goodbye", "reason": reason, "retry": retry})
            case _:
                assert_never(shown)


NATIVE: Final = NativeFrames()


def _frame(position: Position | None, data: dict[str, Any]) -> bytes:
    head = b"id: %d-%d\n" % position if position is not None else b""
    return b"%bdata: %b\n\n" % (head, encode(data))
