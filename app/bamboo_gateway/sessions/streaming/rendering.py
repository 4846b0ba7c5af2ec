"""What a stream shows beside the events of the log, and the interface that renders both.

The core decides what a stream shows. A renderer, which belongs to the client's protocol, decides
how. The code that opens the stream passes the renderer to `StreamHub.connect`.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Literal, Protocol

from bamboo_gateway.domain.positions import Position

ResetReason = Literal["unknown_position", "epoch_changed"]
GoodbyeReason = Literal[
    "shutdown", "superseded", "deleted", "closed", "slow", "lifetime", "unauthorized"
]


_COMES_BACK = frozenset({"shutdown", "slow", "lifetime", "unauthorized"})


def comes_back(reason: GoodbyeReason) -> bool:
    """Return whether a client whose stream ended for this reason should reconnect."""
    return reason in _COMES_BACK


@dataclass(frozen=True, slots=True)
class Open:
    """The first item of every stream: which session it shows, and from which position on.

    `resumes_after` is what a client comes back with when it loses the stream behind this item. It
    is `position`, unless a `Reset` follows: then it cannot be served either, so that a client which
    has not read the `Reset` gets it again.
    """

    position: Position
    session_id: str
    connection_id: str
    active_run_id: str | None
    resumes_after: Position


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
    concatenation of results. The frames of a protocol that depend on earlier events are folds over
    such chunks (`wires.folded_streams`).
    """

    def event(self, epoch: int, seq: int, body: bytes, /) -> bytes:
        """Render an event of the log; `body` is its JSON."""

    def control(self, shown: Control, /) -> bytes:
        """Render an item that is not in the log; empty when the protocol does not show it."""


class JointRenderer(Protocol):
    """Turns what a joint stream shows into the bytes of one protocol.

    Each response has one of its own: it keeps the positions of all sessions, which every frame
    repeats as its cursor. A session is named by its place in the request. The events themselves
    are rendered by `shared`, once for all joint streams.
    """

    def shared(self, place: int, /) -> Renderer:
        """Return the renderer of a session's events, equal in all joint streams of the session."""

    def move(self, place: int, position: Position, /) -> None:
        """Set the position of a session that the next frames carry."""

    def events(
        self, place: int, epoch: int, seqs: Iterable[int], rendered: Sequence[bytes], /
    ) -> bytes:
        """Join the rendered events of a session, and move its position behind each of them."""

    def control(self, place: int, shown: Open | Reset | Goodbye, /) -> bytes:
        """Render an item of one session that is not in the log.

        A `Reset` moves the session to its position; the others leave it where it is.
        """

    def heartbeat(self, *, is_event: bool) -> bytes:
        """Render a heartbeat of the whole stream: an event, or what other clients skip."""
