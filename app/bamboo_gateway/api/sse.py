"""The response of one stream: sse-starlette's response with a send loop of its own.

It deviates from `sse_starlette.EventSourceResponse`; each deviation was measured:

* One coroutine takes chunks from the subscription and sends them, instead of an iterator with a
  task of its own. Waiting events are joined before `send`, because neither the server nor the loop
  joins small writes.
* There is no ping task and no shutdown watcher. Heartbeats and `goodbye` come from the
  subscription, and one clock serves all of them (`StreamHub.watch`). `AppStatus`, which is global
  to the process, is not used.
* There is no timeout around each send: the same clock cancels a stuck response (`cancel_slow`).
* While the task has nothing to send, committed events are sent without waking it, by `WRITE`
  instead of `send`: one core sends 1.3 times as many single events.
* Only the start of the response passes through the framework and the middleware. The rest runs
  in `detached_response`, with the server's own `send`.

Two tasks are left: the server's, which sends, and one that waits until the client leaves (`send` to
a client that went away keeps returning without an error). They take 15 KB.
"""

from collections.abc import AsyncIterator, Callable, Mapping
from functools import partial
from typing import Final, Protocol

import anyio
import structlog
from sse_starlette import EventSourceResponse
from starlette.types import Receive, Scope, Send
from typing_extensions import override

from bamboo_gateway.api.detached_response import DETACH_SLOT
from bamboo_gateway.api.disconnect import absorb_cancellation, wait_for_disconnect
from bamboo_gateway.api.middleware import IS_HEAD
from bamboo_gateway.domain.clock import Clock
from bamboo_gateway.domain.errors import Unavailable
from bamboo_gateway.sessions.streaming.rendering import GoodbyeReason

log = structlog.get_logger(__name__)

ABORT: Final = "bamboo.abort"
"""The scope extension with a function that cuts the client's connection, if the server has one."""

WATCHED: Final = "bamboo.watched"
"""The scope extension that tells the server that the response itself handles a client that reads
nothing: it says `goodbye` and counts it, while the server would only close the connection."""

WRITE: Final = "bamboo.write"
"""The scope extension with a function that sends a piece of a begun body at once, if the server
has one. The function takes the bytes; it returns False and sends nothing when `send` would wait, or
end."""


class OpenStream(Protocol):
    """What a response drains: a `Subscription`, a `JointStream`, a `ChangeStream`."""

    id: str
    sending_since: float | None
    cancel_slow: Callable[[], None] | None
    send_now: Callable[[bytes], bool] | None

    @property
    def session_id(self) -> str:
        """What it shows, for the log."""

    async def next(self) -> bytes | None:
        """Wait for the next chunk, and return it; None at the end."""

    def end(self, reason: GoodbyeReason) -> None:
        """End it with `goodbye`."""

    def aclose(self) -> None:
        """Unregister it. Idempotent."""


class StreamResponse(EventSourceResponse):
    """A response with the chunks of a subscription, until it ends, is stuck, or the client leaves.

    It owns the subscription, and closes it in every case.
    """

    def __init__(
        self, subscription: OpenStream, clock: Clock, headers: Mapping[str, str] | None = None
    ) -> None:
        super().__init__(
            _OWN_LOOP,
            headers={
                "Cache-Control": "no-cache, no-transform",
                "Connection-Id": subscription.id,
                **(headers or {}),
            },
            ping=0,
            sep="\n",
        )
        # The server decides which connections stay open; the header would be wrong where it closes
        # them (HTTP/1.0).
        del self.headers["Connection"]
        self._frames = FrameLoop(subscription, clock)

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
    """The send loop of one subscription: all that an open stream has in memory beside its tasks."""

    __slots__ = ("_clock", "_done", "_subscription")

    def __init__(self, subscription: OpenStream, clock: Clock) -> None:
        self._subscription = subscription
        self._clock = clock
        self._done = False

    async def run(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send until the end, and close the subscription."""
        try:
            async with anyio.create_task_group() as group:
                self._subscription.cancel_slow = group.cancel_scope.cancel
                extensions = scope.get("extensions") or {}
                extensions[WATCHED] = True
                self._subscription.send_now = extensions.get(WRITE)
                watch = partial(self._watch, receive, group.cancel_scope)
                group.start_soon(absorb_cancellation, watch, name="watch-client")
                await self._pump(send)
                group.cancel_scope.cancel()
            if not self._done:
                await _cut(scope, receive)
        finally:
            self.close()

    def close(self) -> None:
        """Unregister the subscription. Idempotent."""
        self._subscription.cancel_slow = self._subscription.send_now = None
        self._subscription.aclose()

    async def _pump(self, send: Send) -> None:
        subscription, monotonic = self._subscription, self._clock.monotonic
        while (chunk := await self._next()) is not None:
            subscription.sending_since = monotonic()
            await send({"type": "http.response.body", "body": chunk, "more_body": True})
            subscription.sending_since = None
        subscription.sending_since = monotonic()
        await send({"type": "http.response.body", "body": b"", "more_body": False})
        subscription.sending_since = None
        self._done = True

    async def _next(self) -> bytes | None:
        try:
            return await self._subscription.next()
        except Unavailable as error:
            # It has to read the log, and the database is away: another replica may reach it.
            session_id = self._subscription.session_id
            log.warning("a stream cannot go on here", session_id=session_id, code=error.code)
            self._subscription.end("shutdown")
            return await self._subscription.next()
        except Exception:
            # The boundary for bugs: the client gets `goodbye` and reconnects; the log says why.
            log.exception("a stream failed", session_id=self._subscription.session_id)
            self._subscription.end("shutdown")
            return await self._subscription.next()

    async def _watch(self, receive: Receive, scope: anyio.CancelScope) -> None:
        await wait_for_disconnect(receive)
        self._done = True
        scope.cancel()


class _OwnLoop:
    """The iterator that the base class requires. It is never used: see `FrameLoop`."""

    def __aiter__(self) -> AsyncIterator[bytes]:
        raise NotImplementedError


_OWN_LOOP: Final = _OwnLoop()


async def _cut(scope: Scope, receive: Receive) -> None:
    """Cut the connection of a stuck client: the server would wait for its buffers otherwise."""
    abort = (scope.get("extensions") or {}).get(ABORT)
    if abort is not None:
        abort()
        await wait_for_disconnect(receive)
