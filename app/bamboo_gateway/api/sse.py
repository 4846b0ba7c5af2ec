"""The stream of one connection: sse-starlette's response with a send loop of its own.

Deviations from `sse_starlette.EventSourceResponse`, each measured:

* One coroutine takes chunks from the connection and sends them, instead of an iterator with a task
  for it: what waits is joined before `send`, since neither server nor loop joins small writes.
* No ping task and no shutdown watcher: heartbeats and farewells come from the connection, whose
  session has one clock for all; `AppStatus`, global to the process, is not consulted.
* No timeout around each send: the same clock cancels a response that is stuck (`cancel_slow`).
* While the task has nothing to send, what is committed is sent without waking it, and past `send`
  (`WRITE`): 1.3 times the single events a core hands out.
* Only the start of the response passes the framework and the middleware; the rest happens on the
  app's `stage`, with the server's own `send`.

What is left is two tasks: the server's, which sends, and one that waits for the client to leave
(`send` to a client that went away returns without an error for ever); 15 KB in all.
"""

from collections.abc import AsyncIterator, Mapping
from functools import partial
from typing import Final

import anyio
import structlog
from sse_starlette import EventSourceResponse
from starlette.types import Receive, Scope, Send
from typing_extensions import override

from bamboo_gateway.api.detached_response import DETACH_SLOT
from bamboo_gateway.api.disconnect import absorb_cancellation, wait_for_disconnect
from bamboo_gateway.api.middleware import IS_HEAD
from bamboo_gateway.domain.clock import Clock
from bamboo_gateway.sessions.streaming.subscription import Subscription

log = structlog.get_logger(__name__)

ABORT: Final = "bamboo.abort"
"""Where the scope's `extensions` keep what cuts the client's connection, if the server has it."""

WATCHED: Final = "bamboo.watched"
"""Where they are told that the answer looks itself after a client that takes nothing: it says
`goodbye` and counts it, where the server would only close the connection."""

WRITE: Final = "bamboo.write"
"""Where they keep what sends a piece of a body that has begun at once, if the server has it: a
function of the bytes, which says False and has sent nothing when `send` would wait, or end."""


class StreamResponse(EventSourceResponse):
    """Answers with a connection's frames until it ends, the client leaves, or it is stuck.

    Owns the connection: closes it whatever happens.
    """

    def __init__(
        self, connection: Subscription, clock: Clock, headers: Mapping[str, str] | None = None
    ) -> None:
        super().__init__(
            _OWN_LOOP,
            headers={
                "Cache-Control": "no-cache, no-transform",
                "Connection-Id": connection.id,
                **(headers or {}),
            },
            ping=0,
            sep="\n",
        )
        # Which connections stay is the server's to say, and wrong where it closes them (HTTP/1.0).
        del self.headers["Connection"]
        self._frames = FrameLoop(connection, clock)

    @override
    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        frames = self._frames
        try:
            await send(
                {
                    "type": "http.response.start",
                    "status": self.status_code,
                    "headers": self.raw_headers,
                }
            )
            if IS_HEAD in scope:
                await send({"type": "http.response.body", "body": b"", "more_body": False})
                frames.close()
            elif (slot := scope.get(DETACH_SLOT)) is not None:
                slot.put(frames)
            else:
                await frames.run(scope, receive, send)
        except BaseException:
            frames.close()
            raise


class FrameLoop:
    """Sends the frames of one connection: all that an open stream has in memory, but its tasks."""

    __slots__ = ("_clock", "_connection", "_done")

    def __init__(self, connection: Subscription, clock: Clock) -> None:
        self._connection = connection
        self._clock = clock
        self._done = False

    async def run(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Sends until the end, and closes the connection."""
        try:
            async with anyio.create_task_group() as group:
                self._connection.cancel_slow = group.cancel_scope.cancel
                extensions = scope.get("extensions") or {}
                extensions[WATCHED] = True
                self._connection.send_now = extensions.get(WRITE)
                watch = partial(self._watch, receive, group.cancel_scope)
                group.start_soon(absorb_cancellation, watch, name="watch-client")
                await self._pump(send)
                group.cancel_scope.cancel()
            if not self._done:
                await _cut(scope, receive)
        finally:
            self.close()

    def close(self) -> None:
        """Unregisters the connection. Idempotent."""
        self._connection.cancel_slow = self._connection.send_now = None
        self._connection.aclose()

    async def _pump(self, send: Send) -> None:
        connection, monotonic = self._connection, self._clock.monotonic
        while (chunk := await self._next()) is not None:
            connection.sending_since = monotonic()
            await send({"type": "http.response.body", "body": chunk, "more_body": True})
            connection.sending_since = None
        connection.sending_since = monotonic()
        await send({"type": "http.response.body", "body": b"", "more_body": False})
        connection.sending_since = None
        self._done = True

    async def _next(self) -> bytes | None:
        try:
            return await self._connection.next()
        except Exception:
            # The boundary: the client hears `goodbye` and comes back; the log has why.
            log.exception("a stream failed", session_id=self._connection.session_id)
            self._connection.end("shutdown")
            return await self._connection.next()

    async def _watch(self, receive: Receive, scope: anyio.CancelScope) -> None:
        await wait_for_disconnect(receive)
        self._done = True
        scope.cancel()


class _OwnLoop:
    """What the base class would iterate over; this one has a loop of its own."""

    def __aiter__(self) -> AsyncIterator[bytes]:
        raise NotImplementedError


_OWN_LOOP: Final = _OwnLoop()


async def _cut(scope: Scope, receive: Receive) -> None:
    """Cuts the connection of a reader that is stuck: its buffers would be waited for otherwise."""
    abort = (scope.get("extensions") or {}).get(ABORT)
    if abort is not None:
        abort()
        await wait_for_disconnect(receive)
