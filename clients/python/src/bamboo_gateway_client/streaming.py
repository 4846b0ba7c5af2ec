"""What a stream does with what it receives: its position, its end, and the pause after a loss.

It does no I/O, so that both clients have one copy. The position is the only state that a reconnect
needs: whatever ends a connection, the next one sends the id of the last frame as `Last-Event-ID`.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from bamboo_gateway_client.errors import GatewayError, ProblemError, ProtocolError
from bamboo_gateway_client.events import TERMINAL_TYPES
from bamboo_gateway_client.sse import EventTooLongError, SseReader

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

    from bamboo_gateway_client.retries import Retries

# What the gateway sends as `retry:`; used until a stream sends another value.
RETRY_SECONDS = 1.0
_NO_CONTENT = 204


@dataclass(frozen=True, slots=True)
class StreamHooks:
    """Functions that a stream calls, for programs that show the state of the connection.

    Attributes:
        lost: Gets why the connection was lost, and the seconds until the next attempt.
        found: Gets the position from which a stream goes on, when it is connected again.
        opened: Gets the `open` event of each connection.
        left: Gets a session and why the gateway ended its part of a joint stream.
    """

    lost: Callable[[str, float], None] | None = None
    found: Callable[[str | None], None] | None = None
    opened: Callable[[dict[str, Any]], None] | None = None
    left: Callable[[str, str], None] | None = None


class StreamState:
    """The state of a stream over all its connections.

    Args:
        retries: Gives the pauses.
        after: The position to begin after; None begins where the gateway chooses.
        run_id: The run whose terminal event ends the stream.
        until_complete: Whether the gateway ends the stream with a run.
        sessions: The sessions of a joint stream; empty for every other one.
        hooks: Are called on the way.

    Attributes:
        position: The id of the last frame; None before the first one.
        goodbye: Why the gateway ended the stream for good, if it did.
        data: The last event as JSON text, as it was received.
        ended: Whether nothing more will come.
        dropped: Whether this connection is of no more use.
    """

    def __init__(
        self,
        retries: Retries,
        *,
        after: str | None = None,
        run_id: str | None = None,
        until_complete: bool = False,
        sessions: Sequence[str] = (),
        hooks: StreamHooks | None = None,
    ) -> None:
        self.after = after
        self.position: str | None = None
        self.goodbye: str | None = None
        self.data = ""
        self.ended = False
        self.dropped = False
        self._retries = retries
        self._run_id = run_id
        self._until_complete = until_complete
        self._sessions = frozenset(sessions)
        self._left: set[str] = set()
        self._hooks = hooks or StreamHooks()
        self._retry_seconds = RETRY_SECONDS
        self._failures = 0
        self._lost_because = ""
        self._kind = ""
        self._reader = SseReader()

    def goes_on(self) -> bool:
        """Return whether more may come."""
        return not self.ended

    def headers(self) -> dict[str, str]:
        """Return the headers of the next connection."""
        return {"Last-Event-ID": self.position} if self.position else {}

    def params(self, first: Mapping[str, Any]) -> dict[str, Any]:
        """Return the query of the next connection: where the first one began counts only there.

        With `from=start` in a later one, a session that was deleted and made again would begin
        without a `reset`.
        """
        begin = () if self.position is None else ("after", "from")
        return {name: value for name, value in first.items() if name not in begin}

    def connected(self, status: int, content_type: str) -> bool:
        """Take the head of an answer; return whether events follow.

        Raises:
            ProtocolError: It is no event stream, and none was there before: the address is wrong.
        """
        self.dropped = False
        self._kind = ""
        self._lost_because = "it was closed"
        if status == _NO_CONTENT:
            self.ended = True
            return False
        if not content_type.startswith("text/event-stream"):
            if self.position is not None:
                # A proxy, or a network that asks for a login, is in between: it passes.
                self._lost_because = "something else answers"
                return False
            raise ProtocolError("This does not answer like a gateway: no event stream.")
        if self._failures and self._hooks.found:
            self._hooks.found(self.position)
        self._reader = SseReader(self.position)
        return True

    def feed(self, chunk: bytes) -> Iterator[dict[str, Any]]:
        """Yield the events that `chunk` completes, except those about the connection.

        Raises:
            ProtocolError: The other side sends no events of a gateway.
        """
        try:
            frames = self._reader.feed(chunk)
        except EventTooLongError as error:
            raise ProtocolError(f"This does not answer like a gateway: {error}.") from error
        if self._reader.retry_ms is not None:
            self._retry_seconds = self._reader.retry_ms / 1000
        for frame in frames:
            self._failures = 0
            self.position = frame.id
            self.data = frame.data
            event = _decoded(frame.data)
            self._kind = event["type"]
            match self._kind:
                case "open":
                    if self._hooks.opened:
                        self._hooks.opened(event)
                case "heartbeat":
                    pass
                case "goodbye":
                    self._on_goodbye(event)
                    if self.dropped or self.ended:
                        return
                case _:
                    self.ended |= self._is_end(event)
                    yield event
                    if self.ended:
                        return

    def closed(self) -> None:
        """Take the orderly end of a connection."""
        # Only with `until` does the gateway end a stream after a terminal event.
        self.ended |= self._until_complete and self._kind in TERMINAL_TYPES

    def lost(self, failure: GatewayError, *, reached: bool) -> float:
        """Take the loss of a connection, and return the seconds until the next one.

        Args:
            failure: Why.
            reached: Whether this gateway has ever answered. Otherwise `Retries.attempts` count.

        Raises:
            GatewayError: The failure itself, when another attempt would not help.
        """
        wanted: float | None = None
        if isinstance(failure, ProblemError):
            if not failure.is_passing:
                raise failure
            wanted = failure.retry_after_seconds
            self._lost_because = str(failure)
        else:
            self._lost_because = getattr(failure, "reason", str(failure))
        if not reached and self._failures + 1 >= self._retries.attempts:
            raise failure
        return self._pause(wanted)

    def pause(self) -> float:
        """Return the seconds until the next connection after one that has ended."""
        return self._pause(None)

    def _pause(self, wanted: float | None) -> float:
        seconds = wanted
        if seconds is None:
            seconds = self._retries.backoff(self._retry_seconds, self._failures)
        self._failures += 1
        if self._hooks.lost:
            self._hooks.lost(self._lost_because, seconds)
        return seconds

    def _is_end(self, event: dict[str, Any]) -> bool:
        return (
            self._run_id is not None
            and self._until_complete
            and event["type"] in TERMINAL_TYPES
            and event.get("run_id") == self._run_id
        )

    def _on_goodbye(self, goodbye: dict[str, Any]) -> None:
        reason = goodbye["reason"]
        self._lost_because = f"goodbye {reason}"
        if self._sessions:
            self._on_joint_goodbye(goodbye)
        elif not goodbye.get("retry", True):
            self.goodbye = reason
            self.ended = True

    def _on_joint_goodbye(self, goodbye: dict[str, Any]) -> None:
        if goodbye.get("retry", True):
            self.dropped = True  # this session goes on over a new connection, as do the others
            return
        session = goodbye["session_id"]
        if session not in self._left:
            self._left.add(session)
            if self._hooks.left:
                self._hooks.left(session, goodbye["reason"])
        self.ended = self._left >= self._sessions


def _decoded(data: str) -> dict[str, Any]:
    try:
        event: dict[str, Any] = json.loads(data)
        event["type"]
    except (ValueError, TypeError, KeyError) as error:
        raise ProtocolError("This does not answer like a gateway: a frame is no event.") from error
    return event
