"""One run of a chat: start it exactly once, show its events, cancel it with Ctrl-C."""

import signal
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from threading import Thread
from types import FrameType
from typing import Any, Self

from bamboo_gateway.cli.client import GatewayClient, RefusedError, UnreachableError
from bamboo_gateway.cli.event_stream import EventStream
from bamboo_gateway.cli.output import CommandError, notice
from bamboo_gateway.cli.transcript import Transcript
from bamboo_gateway.domain.clock import SystemClock
from bamboo_gateway.domain.events import TERMINAL_TYPES
from bamboo_gateway.domain.ids import IdMaker
from bamboo_gateway_client.retries import SECONDS_MAX as RETRY_SECONDS_MAX
from bamboo_gateway_client.streaming import RETRY_SECONDS

# About three minutes together: longer than a restart with a recovery, and shorter than people's
# patience.
SEND_ATTEMPTS_MAX = 15

_ids = IdMaker()


def new_id(prefix: str) -> str:
    """Make an id as the gateway makes its own, without asking it."""
    return _ids.make(prefix, SystemClock().now_ms())


@dataclass(frozen=True, slots=True)
class ChatRequest:
    """A message to send, with the agent that answers it and the agent's options.

    Attributes:
        run_id: The run's id. This program chooses it, so that it can cancel the run before the
            gateway has answered.
        session_id: The session's id, chosen here as well when the session is new.
    """

    message: str | Mapping[str, Any]
    session_id: str
    agent: str | None = None
    options: Mapping[str, Any] = field(default_factory=dict)
    run_id: str = field(default_factory=lambda: new_id("run_"))

    @property
    def path(self) -> str:
        """The route that takes it."""
        return "/chat"

    def body(self) -> dict[str, Any]:
        """Return what is posted."""
        body: dict[str, Any] = {
            "message": self.message,
            "session_id": self.session_id,
            "run_id": self.run_id,
        }
        if self.agent is not None:
            body["agent"] = self.agent
        if self.options:
            body["options"] = self.options
        return body


@dataclass(frozen=True, slots=True)
class RegenerateRequest:
    """A message to answer again: an answer, the user's message, or by default the last message."""

    session_id: str
    message_id: str | None = None
    agent: str | None = None
    run_id: str = field(default_factory=lambda: new_id("run_"))

    @property
    def path(self) -> str:
        """The route that takes it."""
        return f"/sessions/{self.session_id}/regenerate"

    def body(self) -> dict[str, Any]:
        """Return what is posted."""
        given = {"message_id": self.message_id, "agent": self.agent, "run_id": self.run_id}
        return {name: value for name, value in given.items() if value is not None}


def send(
    client: GatewayClient,
    request: ChatRequest | RegenerateRequest,
    pause: Callable[[float], None] = time.sleep,
) -> dict[str, Any]:
    """Post a request until the gateway answers; the idempotency key makes all attempts one run.

    Raises:
        RefusedError: The gateway refused the request.
        UnreachableError: No gateway answered, or it stayed away for all attempts.
    """
    body = request.body()
    headers = {"Idempotency-Key": request.run_id}
    for attempt in range(SEND_ATTEMPTS_MAX):
        wanted: float | None = None
        try:
            answer: dict[str, Any] = client.call("POST", request.path, json=body, headers=headers)
        except UnreachableError as error:
            if not client.reached or attempt == SEND_ATTEMPTS_MAX - 1:
                raise
            line = error.line
        except RefusedError as refusal:
            if not refusal.passes or attempt == SEND_ATTEMPTS_MAX - 1:
                raise
            line, wanted = refusal.line, refusal.retry_after_seconds
        else:
            return answer
        seconds = min(RETRY_SECONDS * 2**attempt, RETRY_SECONDS_MAX) if wanted is None else wanted
        notice(f"{line} Sending again in {seconds:.0f} s.")
        pause(seconds)
    raise AssertionError("the last attempt returns or raises")


def show(client: GatewayClient, run: Mapping[str, Any], transcript: Transcript) -> str:
    """Show a run from its beginning to its end.

    Args:
        client: The gateway.
        run: The answer of `POST /chat`, or a Run.
        transcript: Prints the run's events.

    Returns:
        The type of the run's terminal event: `complete`, `error` or `cancelled`.

    Raises:
        CommandError: The stream ended before the run, for example when the session was deleted.
    """
    session_id, run_id = run["session_id"], run["run_id"]
    stream = EventStream(
        client,
        session_id,
        after=run["position"],
        run_id=run_id,
        until_complete=True,
        notify=transcript.interrupt,
    )
    for position, event, _ in stream:
        if event["type"] == "reset":
            transcript.interrupt(
                f"the gateway cannot go on where the stream was ({event['reason']}); "
                f"it goes on at {position}"
            )
        elif event.get("run_id") == run_id:
            transcript.show(event)
            if event["type"] in TERMINAL_TYPES:
                return str(event["type"])
    return _ended_unseen(client, session_id, run_id, stream, transcript)


class CancelOnInterrupt:
    """While the block runs, Ctrl-C cancels the run; a second one raises `KeyboardInterrupt`.

    A thread makes the cancel call. An exception from the signal handler would interrupt the stream
    inside a frame, and it would be unknown what has been shown.
    """

    def __init__(self, client: GatewayClient, session_id: str, run_id: str) -> None:
        self._path = f"/sessions/{session_id}/runs/{run_id}/cancel"
        self._client = client
        self._pressed = False

    def __enter__(self) -> Self:
        self._before = signal.signal(signal.SIGINT, self._on_sigint)
        return self

    def __exit__(self, *_: object) -> None:
        signal.signal(signal.SIGINT, self._before)

    def begun(self) -> None:
        """Cancel now if Ctrl-C came before the run existed: that call could not find it."""
        if self._pressed:
            self._start_cancel()

    def _on_sigint(self, _signal: int, _frame: FrameType | None) -> None:
        if self._pressed:
            raise KeyboardInterrupt
        self._pressed = True
        self._start_cancel()

    def _start_cancel(self) -> None:
        Thread(target=self._cancel, name="cancel", daemon=True).start()

    def _cancel(self) -> None:
        try:
            self._client.call("POST", self._path)
        except CommandError as failure:
            if not (isinstance(failure, RefusedError) and failure.is_not_found):
                notice(f"The run could not be cancelled: {failure.line}")


def _ended_unseen(
    client: GatewayClient,
    session_id: str,
    run_id: str,
    stream: EventStream,
    transcript: Transcript,
) -> str:
    """Show the end of a run whose terminal event was not in the stream (after a `reset`)."""
    run = client.call("GET", f"/sessions/{session_id}/runs/{run_id}")
    if run["ended_at"] is None:
        reason = stream.goodbye or "no reason given"
        raise CommandError(f"The gateway ended the stream before the run ended: {reason}.")
    page = client.call(
        "GET", f"/sessions/{session_id}/messages", params={"limit": 100, "order": "desc"}
    )
    for message in reversed(page["messages"]):
        if message.get("run_id") == run_id:
            transcript.show({"type": "message", "run_id": run_id, "message": message})
    transcript.interrupt(f"the run has ended: {run['status']}")
    return {"completed": "complete", "cancelled": "cancelled"}.get(run["status"], "error")
