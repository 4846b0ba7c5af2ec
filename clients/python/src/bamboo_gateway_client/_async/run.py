"""A run: one turn of an agent."""

from __future__ import annotations

from time import monotonic
from typing import TYPE_CHECKING, Any, cast

from bamboo_gateway_client._async.pause import pause
from bamboo_gateway_client._async.stream import AsyncEventStream
from bamboo_gateway_client.addresses import segment
from bamboo_gateway_client.errors import ProblemError, RunFailedError, UnreachableError
from bamboo_gateway_client.events import text_of
from bamboo_gateway_client.streaming import RETRY_SECONDS, StreamHooks, StreamState

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Mapping

    from bamboo_gateway_client._async.transport import AsyncTransport
    from bamboo_gateway_client.events import StreamedEvent
    from bamboo_gateway_client.types import RunCancelled, RunWaited

# One request waits so long for the run's end; below the idle limits of the usual proxies.
WAIT_SECONDS = 25
# A gateway that is silent for so long after that does not keep a caller who has a deadline.
LATE_SECONDS = 1.0


class AsyncRun:
    """A handle on a run. The run belongs to its session: it goes on when this program ends.

    Iterating gives the run's events from its first to its terminal one, as often as it is done.

    Attributes:
        id: The run.
        session_id: Its session.
        position: The position just before its first event.
        message_ids: Its input.
    """

    def __init__(self, transport: AsyncTransport, accepted: Mapping[str, Any]) -> None:
        self.id: str = accepted["run_id"]
        self.session_id: str = accepted["session_id"]
        self.position: str | None = accepted.get("position")
        self.message_ids: list[str] = list(accepted.get("message_ids") or ())
        self._transport = transport
        self._path = f"/sessions/{segment(self.session_id)}/runs/{segment(self.id)}"

    def stream(self, *, hooks: StreamHooks | None = None) -> AsyncEventStream[StreamedEvent]:
        """Return the session's stream from before the run's first event to its terminal event.

        It also has what others do in the session meanwhile.
        """
        params = {"after": self.position, "run_id": self.id, "until": "complete"}
        state = StreamState(
            self._transport.retries,
            after=self.position,
            run_id=self.id,
            until_complete=True,
            hooks=hooks,
        )
        return AsyncEventStream(
            self._transport, f"/stream/{segment(self.session_id)}", params, state
        )

    async def __aiter__(self) -> AsyncIterator[StreamedEvent]:
        if self.position is None:
            self.position = (await self.get())["position"]
        async with self.stream() as stream:
            async for event in stream:
                if event["type"] == "reset" or self._is_mine(cast("Mapping[str, Any]", event)):
                    yield event

    def _is_mine(self, event: Mapping[str, Any]) -> bool:
        return event.get("run_id") == self.id or event.get("message_id") in self.message_ids

    async def get(self) -> RunWaited:
        """Return the run as it stands, once it has ended also its last message."""
        answer: RunWaited = await self._transport.call("GET", self._path)
        return answer

    async def wait(self, timeout_seconds: float | None = None) -> RunWaited:
        """Wait for the run's end and return it, however it ended: `status` and `error` say.

        It waits through restarts of the gateway.

        Raises:
            TimeoutError: It has not ended after so many seconds. It goes on.
            ProblemError: The gateway refused, for example because the session was deleted.
            UnreachableError: The gateway has never answered.
        """
        deadline = None if timeout_seconds is None else monotonic() + timeout_seconds
        failures = 0
        while True:
            left = WAIT_SECONDS if deadline is None else deadline - monotonic()
            # Whole seconds, at least one: without `Prefer` the answer has no message.
            asked = max(1, min(WAIT_SECONDS, int(left)))
            headers = {"Prefer": f"wait={asked}"}
            seconds = 0.0
            try:
                run: RunWaited = await self._transport.call(
                    "GET",
                    self._path,
                    headers=headers,
                    attempts=1,
                    answer_seconds=None if deadline is None else asked + LATE_SECONDS,
                )
            except (UnreachableError, ProblemError) as failure:
                is_passing = not isinstance(failure, ProblemError) or failure.is_passing
                if not is_passing or not self._transport.reached:
                    raise
                seconds = self._transport.retries.backoff(RETRY_SECONDS, failures)
                failures += 1
            else:
                failures = 0
                if run["ended_at"] is not None:
                    return run
            if deadline is not None and monotonic() + seconds >= deadline:
                raise TimeoutError(f"The run {self.id} has not ended after {timeout_seconds} s.")
            await pause(seconds)

    async def text(self, timeout_seconds: float | None = None) -> str:
        """Wait for the run's end and return the text of its last message.

        Raises:
            RunFailedError: It did not complete; `run` has what was said until then.
            TimeoutError, ProblemError, UnreachableError: As `wait`.
        """
        run = await self.wait(timeout_seconds)
        if run["status"] != "completed":
            raise RunFailedError(run)
        return text_of(run.get("message"))

    async def cancel(self) -> RunCancelled:
        """Cancel the run and return it; one that has ended stays as it is."""
        answer: RunCancelled = await self._transport.call("POST", f"{self._path}/cancel")
        return answer
