"""SSE frames as the contract writes them: LF line ends, always `data`, never `event`."""

from typing import Any

from bamboo_gateway.domain.codec import encode
from bamboo_gateway.domain.positions import Position

RETRY_MS = 1000
"""What clients wait before they come back: short, for coming back costs a cursor, no replay."""

PING = b": ping\n"
"""A heartbeat: a comment without a blank line, for common parsers hand out empty events else."""


def event_frame(epoch: int, seq: int, body: bytes) -> bytes:
    """Frames one event of the log."""
    return b"id: %d-%d\ndata: %b\n\n" % (epoch, seq, body)


def open_frame(
    position: Position, session_id: str, connection_id: str, active_run_id: str | None
) -> bytes:
    """Frames `open`, the first of every stream."""
    data = encode(
        {
            "type": "open",
            "session_id": session_id,
            "connection_id": connection_id,
            "position": str(position),
            "active_run_id": active_run_id,
        }
    )
    return b"id: %d-%d\nretry: %d\ndata: %b\n\n" % (*position, RETRY_MS, data)


def control_frame(position: Position | None, data: dict[str, Any]) -> bytes:
    """Frames what is not in the log: `reset`, `heartbeat`, `goodbye`."""
    head = b"id: %d-%d\n" % position if position is not None else b""
    return head + b"data: %b\n\n" % encode(data)
