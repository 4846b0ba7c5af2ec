"""A session's events across lost connections, each event once and in order.

The position is the only state. Whatever ends a connection, the next one sends the id of the last
frame that was read as `Last-Event-ID`.
"""

import random
import time
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple, cast

import httpx

from bamboo_gateway.agents.sse_reader import LineTooLongError, SseReader
from bamboo_gateway.cli.client import GatewayClient, RefusedError, UnreachableError
from bamboo_gateway.cli.output import CommandError
from bamboo_gateway.domain import codec
from bamboo_gateway.domain.events import TERMINAL_TYPES

# What the gateway sends as `retry:`; used until a stream sends another value.
RETRY_SECONDS = 1.0
# A gateway that stays away is asked four times a minute.
RETRY_SECONDS_MAX = 15.0
# An event is as large as `max_event_bytes` of the gateway allows, 1 MiB unless raised. Far above
# that the other side is no gateway, and its endless line must not fill this machine's memory.
_EVENT_BYTES_MAX = 64 * 1024 * 1024


class Received(NamedTuple):
    """One event of the log, or a `reset`.

    Attributes:
        position: Its position in the log.
        event: The decoded JSON object.
        data: The same as JSON text, as it was received.
    """

    position: str
    event: dict[str, Any]
    data: str


class EventStream:
    """Iterates over a session's events and reconnects when the connection is lost.

    It passes `reset` on, because the caller then has to load again what it has shown. It handles
    the other frames that are not in the log itself. The iteration ends when the gateway announces
    that nothing more will come.

    Args:
        client: The gateway.
        session_id: The session to follow.
        after: The position to begin after; None begins where the gateway chooses.
        run_id: The run that `until_complete` waits for.
        until_complete: Whether the stream ends with a run's terminal event.
        notify: Receives a line for people when the connection is lost or found again.
        on_idle: Is called when the first connection finds no active run.
        pause: Waits this many seconds; tests replace it.

    Attributes:
        position: The position of the last frame; None before the first one.
        goodbye: Why the gateway ended the stream for good, if it did.
    """

    def __init__(
        self,
        client: GatewayClient,
        session_id: str,
        *,
        after: str | None = None,
        run_id: str | None = None,
        until_complete: bool = False,
        notify: Callable[[str], None],
        on_idle: Callable[[], None] | None = None,
        pause: Callable[[float], None] = time.sleep,
    ) -> None:
        self.position: str | None = None
        self.goodbye: str | None = None
        self._client = client
        self._path = f"/stream/{session_id}"
        self._params: dict[str, Any] = {
            name: value
            for name, value in {
                "after": after,
                "run_id": run_id,
                "until": "complete" if until_complete else None,
            }.items()
            if value is not None
        }
        self._notify = notify
        self._on_idle = on_idle
        self._pause = pause
        self._retry_seconds = RETRY_SECONDS
        self._failures = 0
        self._ended = False
        self._lost_because = ""

    def __iter__(self) -> Iterator[Received]:
        while not self._ended:
            self._lost_because = "it was closed"
            wanted: float | None = None
            try:
                yield from self._one_stream()
            except httpx.TransportError as error:
                if not self._client.reached:
                    raise UnreachableError(self._client.url, error) from error
                self._lost_because = str(error) or type(error).__name__
            except RefusedError as refusal:
                if not refusal.passes or not self._client.reached:
                    raise
                self._lost_because, wanted = refusal.line, refusal.retry_after_seconds
            if not self._ended:
                self._wait(wanted)

    def _one_stream(self) -> Iterator[Received]:
        headers = {"Last-Event-ID": self.position} if self.position else {}
        with self._client.stream(self._path, self._params, headers) as response:
            if response.status_code == httpx.codes.NO_CONTENT:
                self._ended = True
                return
            media_type = response.headers.get("Content-Type", "")
            if not media_type.startswith("text/event-stream"):
                raise CommandError("This does not answer like a gateway: no event stream.")
            if self._failures:
                self._notify(f"connected again, going on after {self.position or 'the start'}")
            kind = ""
            for data in self._frames(response):
                event = _decoded(data)
                kind = event["type"]
                match kind:
                    case "open":
                        if event.get("active_run_id") is None and self._on_idle is not None:
                            self._on_idle()
                        self._on_idle = None  # what a later connection finds was shown as events
                    case "heartbeat":
                        pass
                    case "goodbye":
                        self._lost_because = f"goodbye {event['reason']}"
                        if self._leaves(event):
                            return
                    case _:
                        yield Received(self.position or "", event, data)
            # Only with `until` does the gateway end a stream after a terminal event.
            self._ended |= "until" in self._params and kind in TERMINAL_TYPES

    def _leaves(self, goodbye: dict[str, Any]) -> bool:
        """Take a `goodbye`; return whether the connection is of no more use."""
        if not goodbye.get("retry", True):
            self.goodbye = goodbye["reason"]
            self._ended = True
        return False

    def _frames(self, response: httpx.Response) -> Iterator[str]:
        reader = SseReader(_EVENT_BYTES_MAX, self.position)
        try:
            for chunk in response.iter_bytes():
                for frame in reader.feed(chunk):
                    self._failures = 0
                    self.position = frame.id
                    yield frame.data
                if reader.retry_ms is not None:
                    self._retry_seconds = reader.retry_ms / 1000
        except LineTooLongError as error:
            raise CommandError(f"This does not answer like a gateway: {error}.") from error

    def _wait(self, wanted: float | None) -> None:
        backoff = min(self._retry_seconds * 2**self._failures, RETRY_SECONDS_MAX)
        self._failures += 1
        # Random, so that clients that lost one gateway together do not return together.
        seconds = backoff * random.uniform(0.5, 1) if wanted is None else wanted  # noqa: S311
        self._notify(f"connection lost ({self._lost_because}); trying again in {seconds:.1f} s")
        self._pause(seconds)


def _decoded(data: str) -> dict[str, Any]:
    try:
        event = codec.decode(data)
        event["type"]
    except (ValueError, TypeError, KeyError) as error:
        raise CommandError("This does not answer like a gateway: a frame is no event.") from error
    return cast("dict[str, Any]", event)
