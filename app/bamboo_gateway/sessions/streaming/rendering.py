"""What a stream shows beside the events of the log, and who turns both into bytes.

The core says what is shown. A renderer, which belongs to the protocol that the client speaks, says
how: it is given to `StreamHub.connect` by whoever opens the stream.
"""

from dataclasses import dataclass
from typing import Literal, Protocol

from bamboo_gateway.domain.positions import Position

ResetReason = Literal["unknown_position", "epoch_changed"]
GoodbyeReason = Literal[
    "shutdown", "superseded", "deleted", "closed", "slow", "lifetime", "unauthorized"
]


@dataclass(frozen=True, slots=True)
class Open:
    """The first of every stream: what is watched, and from which position on."""

    position: Position
    session_id: str
    connection_id: str
    active_run_id: str | None


@dataclass(frozen=True, slots=True)
class Reset:
    """The client's own position cannot be served: the stream goes on after `position`."""

    position: Position
    reason: ResetReason


@dataclass(frozen=True, slots=True)
class Heartbeat:
    """A heartbeat for clients that see events only."""

    position: Position


@dataclass(frozen=True, slots=True)
class Ping:
    """A heartbeat for all other clients."""


@dataclass(frozen=True, slots=True)
class Goodbye:
    """The last of a stream that the gateway ends; `retry`: the client should come back."""

    reason: GoodbyeReason
    retry: bool


Control = Open | Reset | Heartbeat | Ping | Goodbye


class Renderer(Protocol):
    """Turns what a stream shows into the bytes of one protocol.

    It keeps no state, and what it makes depends on its arguments alone: the event queue calls it
    once for each event, and gives what it made to all connections with this renderer. Chunks are
    joined from what it makes.
    """

    def event(self, epoch: int, seq: int, body: bytes, /) -> bytes:
        """Return what shows an event of the log; `body` is its JSON."""

    def control(self, shown: Control, /) -> bytes:
        """Return what shows something that is not in the log."""
