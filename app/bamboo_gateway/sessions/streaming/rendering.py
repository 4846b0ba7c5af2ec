"""What a stream shows beside the events of the log, and the interface that renders both.

The core decides what a stream shows. A renderer, which belongs to the client's protocol, decides
how. The code that opens the stream passes the renderer to `StreamHub.connect`.
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
    """The first item of every stream: which session it shows, and from which position on."""

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
class CaughtUp:
    """The stream has shown everything that the log has, for the first time since it was opened."""

    position: Position


@dataclass(frozen=True, slots=True)
class Heartbeat:
    """A heartbeat for clients that see events only."""

    position: Position


@dataclass(frozen=True, slots=True)
class Ping:
    """A heartbeat for all other clients."""


@dataclass(frozen=True, slots=True)
class Goodbye:
    """The last item of a stream that the gateway ends; `retry`: the client should reconnect."""

    reason: GoodbyeReason
    retry: bool


Control = Open | Reset | CaughtUp | Heartbeat | Ping | Goodbye


class Renderer(Protocol):
    """Turns what a stream shows into the bytes of one protocol.

    It keeps no state, and its results depend on its arguments alone: the event queue calls it once
    for each event, and shares the result among all subscriptions with this renderer. A chunk is the
    concatenation of results.
    """

    def event(self, epoch: int, seq: int, body: bytes, /) -> bytes:
        """Render an event of the log; `body` is its JSON."""

    def control(self, shown: Control, /) -> bytes:
        """Render an item that is not in the log; empty when the protocol does not show it."""
