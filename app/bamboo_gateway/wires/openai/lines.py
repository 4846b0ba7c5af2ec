"""The renderer below the protocol's streams: each event of the log as one line.

All readers of a session share these lines. What the protocol makes of them depends on the whole
response (which item, the how many-th), so `stream` translates them for each reader.
"""

from typing import Final, assert_never

from bamboo_gateway.sessions.streaming.rendering import (
    CaughtUp,
    Control,
    Goodbye,
    Heartbeat,
    Open,
    Ping,
    Reset,
)

PING: Final = b": ping\n"
GOODBYE: Final = b"!"
"""The begin of the line that ends a stream; its reason follows."""


class Lines:
    """Events as lines. JSON of the log is one line each."""

    __slots__ = ()

    def event(self, epoch: int, seq: int, body: bytes, /) -> bytes:
        """Return the line of an event."""
        del epoch, seq  # the body has them
        return body + b"\n"

    def control(self, shown: Control, /) -> bytes:
        """Return the line of an item that is not in the log; empty: it says nothing here."""
        match shown:
            case Ping() | Heartbeat():
                return PING
            case Goodbye(reason):
                return b"%b%b\n" % (GOODBYE, reason.encode("ascii"))
            case Open() | Reset() | CaughtUp():
                return b""
            case _:
                assert_never(shown)


LINES: Final = Lines()
