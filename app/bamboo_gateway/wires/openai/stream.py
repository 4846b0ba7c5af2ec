"""The stream of one response: lines of the log, translated into frames for one reader."""

from collections.abc import Awaitable, Callable
from typing import Final

from bamboo_gateway.domain.codec import decode
from bamboo_gateway.sessions.run_records import RunRecord
from bamboo_gateway.sessions.streaming.rendering import GoodbyeReason
from bamboo_gateway.sessions.streaming.subscription import Subscription
from bamboo_gateway.wires.openai.frames import ResponseFrames, is_terminal
from bamboo_gateway.wires.openai.lines import GOODBYE, PING
from bamboo_gateway.wires.openai.responses import response_of, status_of

_ENDINGS: Final = {"completed": "completed", "failed": "failed"}
"""The last frame by the response's status; all others end with `response.incomplete`: the protocol
has no frame for a response that was cancelled."""


class ResponseStream:
    """What the HTTP response drains: the frames of a run, until its end.

    The subscription begins before the run's first event, whatever the reader has already: where an
    item is in the output depends on all that came before. What the reader has is not sent again.

    Args:
        subscription: Lines of the log (`lines.LINES`), until the run's end.
        frames: Translates them.
        record: Reads the run once it has ended.
    """

    def __init__(
        self,
        subscription: Subscription,
        frames: ResponseFrames,
        record: Callable[[], Awaitable[RunRecord]],
    ) -> None:
        self.id = subscription.id
        self._subscription = subscription
        self._frames = frames
        self._record = record
        self._write: Callable[[bytes], bool] | None = None
        self._left = b""

    @property
    def session_id(self) -> str:
        """The session of the response, for the log."""
        return self._subscription.session_id

    @property
    def sending_since(self) -> float | None:
        """Since when a chunk is being sent."""
        return self._subscription.sending_since

    @sending_since.setter
    def sending_since(self, since: float | None) -> None:
        self._subscription.sending_since = since

    @property
    def cancel_slow(self) -> Callable[[], None] | None:
        """Ends the response when it is stuck."""
        return self._subscription.cancel_slow

    @cancel_slow.setter
    def cancel_slow(self, cancel: Callable[[], None] | None) -> None:
        self._subscription.cancel_slow = cancel

    @property
    def send_now(self) -> Callable[[bytes], bool] | None:
        """Sends a chunk at once."""
        return self._write

    @send_now.setter
    def send_now(self, write: Callable[[bytes], bool] | None) -> None:
        self._write = write
        self._subscription.send_now = self._send_now if write is not None else None

    async def next(self) -> bytes | None:
        """Wait for the next frames, and return them; None at the end."""
        while True:
            if self._left:
                left, self._left = self._left, b""
                return left
            chunk = await self._subscription.next()
            if chunk is None:
                return None
            if chunk == PING:
                return PING
            for line in chunk.splitlines():
                if line.startswith(GOODBYE):
                    self._say_goodbye(line.removeprefix(GOODBYE).decode("ascii"))
                elif line[:1] == b"{":
                    await self._take(line)
            if frames := self._frames.taken():
                return frames

    def end(self, reason: GoodbyeReason) -> None:
        """End it with an error that says why."""
        self._subscription.end(reason)

    def aclose(self) -> None:
        """Unregister it. Idempotent."""
        self._subscription.aclose()

    async def _take(self, line: bytes) -> None:
        # A run that waits behind this one may be cancelled, and end, before it.
        if not is_terminal(line) or decode(line).get("run_id") != self._frames.run_id:
            self._frames.feed(line)
            return
        record = await self._record()
        kind = _ENDINGS.get(status_of(record.run), "incomplete")
        self._frames.end(line, kind, response_of(record))

    def _send_now(self, chunk: bytes) -> bool:
        """Send what came in between, without the task that waits in `next`."""
        write = self._write
        if write is None or self._left or b"\n!" in chunk or chunk.startswith(GOODBYE):
            return False
        lines = chunk.splitlines()
        if any(map(is_terminal, lines)):
            return False
        for line in lines:
            if line[:1] == b"{":
                self._frames.feed(line)
        frames = self._frames.taken()
        if frames and not write(frames):
            # The lines come again through `next`; they are translated once.
            self._left = frames
            return False
        return True

    def _say_goodbye(self, reason: str) -> None:
        self._frames.fail(
            "stream_ended",
            f"The stream ended before the response ({reason}). Go on with `starting_after`.",
        )
