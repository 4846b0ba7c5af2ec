"""The frames of `live=sse`: an event `data` with JSON messages, then an event `control`.

The control event has the offset behind the data. The client comes back with it.
"""

from typing import Final, assert_never

from typing_extensions import override

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
from bamboo_gateway.wires.durable_streams.offsets import cursor_at


class DurableStreamFrames:
    """The renderer of the protocol.

    Each event of the log is a `data` event of its own, so that all readers share it. The first
    control event without data says that the client has read everything (`upToDate`).
    """

    __slots__ = ()

    def event(self, epoch: int, seq: int, body: bytes, /) -> bytes:
        """Return the frames of an event of the log. A body is one line."""
        return (
            b"event: data\ndata:[%b]\n\n"
            b'event: control\ndata:{"streamNextOffset":"%016d_%016d","streamCursor":"%d000000"}\n\n'
        ) % (body, epoch, seq, seq)

    def control(self, shown: Control, /) -> bytes:
        """Return the frame of an item that is not in the log; empty where the protocol has none."""
        match shown:
            case CaughtUp(position):
                return self._up_to_date(position)
            case Ping() | Heartbeat():
                return b": ping\n"
            case Goodbye(reason):
                return b": goodbye %b\n\n" % reason.encode("ascii")
            case Open() | Reset():
                # A client without an offset in reach is refused before its stream begins.
                return b""
            case _:
                assert_never(shown)

    def _up_to_date(self, position: Position, seen: int | None = None) -> bytes:
        return (
            b"event: control\n"
            b'data:{"streamNextOffset":"%016d_%016d","streamCursor":"%d","upToDate":true}\n\n'
        ) % (*position, cursor_at(position, seen))


FRAMES: Final = DurableStreamFrames()


class ReturningFrames(DurableStreamFrames):
    """The same for a client that has sent a cursor: the control event's is greater.

    It renders events as `FRAMES` does and is equal to it, so that both share them in the queue.
    """

    __slots__ = ("_seen",)

    def __init__(self, seen: int) -> None:
        self._seen = seen

    @override
    def __eq__(self, other: object) -> bool:
        return isinstance(other, DurableStreamFrames)

    @override
    def __hash__(self) -> int:
        return hash(FRAMES)

    @override
    def _up_to_date(self, position: Position, seen: int | None = None) -> bytes:
        return super()._up_to_date(position, self._seen)
