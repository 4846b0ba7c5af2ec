"""A stream of changes: an open response that is told which sessions have changed."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

import structlog

from bamboo_gateway.domain.callers import Caller
from bamboo_gateway.domain.errors import Unavailable
from bamboo_gateway.sessions.changes.feed import ChangeFeed
from bamboo_gateway.sessions.changes.page import (
    NO_CURSOR,
    ChangeCursor,
    ChangeEntry,
    ChangeFilter,
    ChangesPage,
    check_may_ask,
    cursor_now,
)
from bamboo_gateway.sessions.context import Context
from bamboo_gateway.sessions.streaming.hub import StreamHub, StreamPlace
from bamboo_gateway.sessions.streaming.rendering import GoodbyeReason

log = structlog.get_logger(__name__)

_CHANGES_PER_SEND = 50
"""The changes of one send: with the longest titles about 256 KiB."""


@dataclass(frozen=True, slots=True)
class ChangesRequest:
    """Where a stream of changes begins, and what it shows.

    Attributes:
        wanted: Which sessions.
        cursor: Begin after it; None: now.
        is_malformed: The client has sent a cursor that is none: the stream begins with `reset`.
        heartbeat_events: Send heartbeats as events.
    """

    wanted: ChangeFilter
    cursor: ChangeCursor | None = None
    is_malformed: bool = False
    heartbeat_events: bool = False


class ChangesRenderer(Protocol):
    """Turns what a stream of changes shows into the bytes of one protocol."""

    def open(self, cursor: ChangeCursor, connection_id: str, /) -> bytes:
        """Render the first item: where the stream begins."""

    def entry(self, entry: ChangeEntry, /) -> bytes:
        """Render a change."""

    def reset(self, cursor: ChangeCursor, /) -> bytes:
        """Render that the client's cursor cannot be served: the stream goes on from this one."""

    def goodbye(self, cursor: ChangeCursor, reason: GoodbyeReason, /) -> bytes:
        """Render the last item of a stream that the gateway ends."""

    def heartbeat(self, cursor: ChangeCursor, *, is_event: bool) -> bytes:
        """Render a heartbeat: an event, or what other clients skip."""


class ChangeStream:
    """One open stream of changes; it is drained with `next`.

    Its attributes mean the same as those of `Subscription`.
    """

    session_id = "changes"
    cancel_slow: Callable[[], None] | None
    send_now: Callable[[bytes], bool] | None

    def __init__(
        self,
        context: Context,
        feed: ChangeFeed,
        hub: StreamHub,
        place: StreamPlace,
        caller: Caller,
        request: ChangesRequest,
        cursor: ChangeCursor,
        renderer: ChangesRenderer,
    ) -> None:
        self.id = context.ids.make("c_", context.clock.now_ms())
        self.caller = caller
        self.opened_at = context.clock.monotonic()
        self.sending_since: float | None = None
        self.cancel_slow = self.send_now = None
        self.is_slow = False
        self.quiet_ticks = 0
        self.ended_by = "left"
        self._context = context
        self._hub = hub
        self._place = place
        self._renderer = renderer
        self._begins_with_reset = request.is_malformed
        self._heartbeat_events = request.heartbeat_events
        self._heartbeat_due = False
        self._greeted = False
        self._ended = False
        self._closed = False
        self._goodbye: GoodbyeReason | None = None
        self._told = cursor
        self._following = feed.following(caller, request.wanted, cursor)
        self._follower = self._following.__enter__()

    async def next(self) -> bytes | None:
        """Wait for the next rendered chunk, and return it; None at the end."""
        self.quiet_ticks = 0
        shown, follower = self._renderer, self._follower
        if not self._greeted:
            self._greeted = True
            if not self._begins_with_reset:
                return shown.open(self._told, self.id)
            # A client that does not get to the `reset` comes back with what is none, and gets it.
            return shown.open(NO_CURSOR, self.id) + shown.reset(self._told)
        while not self._ended:
            if self._context.drain.has_begun:
                self.end("shutdown")
            if self._goodbye is not None:
                self._ended = True
                self.ended_by = self._goodbye
                return shown.goodbye(self._told, self._goodbye)
            try:
                page = await follower.take(_CHANGES_PER_SEND)
            except Unavailable:
                # The client comes back, and is told what is wrong.
                self.end("shutdown")
                continue
            if page is not None:
                return self._chunk(page)
            if self._heartbeat_due:
                self._heartbeat_due = False
                # With the cursor, so that a client that heard nothing for long is not far behind.
                is_event = self._heartbeat_events or self._told != follower.cursor
                self._told = follower.cursor
                return shown.heartbeat(self._told, is_event=is_event)
            await follower.wait()
        return None

    def _chunk(self, page: ChangesPage) -> bytes:
        self._told = page.next
        if page.is_reset:
            return self._renderer.reset(page.next)
        if page.entries:
            self._told = page.entries[-1].cursor
        return b"".join(map(self._renderer.entry, page.entries))

    def end(self, reason: GoodbyeReason, *, after_rest: bool = False) -> None:
        """End the stream with `goodbye`."""
        del after_rest  # what is not told yet is told to the client that comes back
        if self._goodbye is None:
            self._goodbye = reason
        self._follower.wake()

    def beat(self) -> None:
        """Make the stream send a heartbeat, after it was silent for too long."""
        self.quiet_ticks = 0
        self._heartbeat_due = True
        self._follower.wake()

    def aclose(self) -> None:
        """Unregister the stream. Idempotent."""
        self._ended = True
        if self._closed:
            return
        self._closed = True
        self._following.__exit__(None, None, None)
        self._follower.wake()
        self._hub.clock.responses.discard(self)
        self._place.release()
        if self.is_slow:
            self.ended_by = "slow"
        self._context.tally.streams_ended[self.ended_by,] += 1
        if self._context.settings.access_log:
            log.info(
                "stream ended",
                connection_id=self.id,
                reason=self.ended_by,
                seconds=round(self._context.clock.monotonic() - self.opened_at, 1),
            )


async def open_changes(
    context: Context,
    feed: ChangeFeed,
    hub: StreamHub,
    caller: Caller,
    request: ChangesRequest,
    renderer: ChangesRenderer,
) -> ChangeStream:
    """Open a stream of changes. It takes the place of one stream.

    Raises:
        Forbidden: The caller's credential is for one session.
        Unavailable, LimitReached: As `StreamHub.reserve`.
    """
    check_may_ask(caller)
    with hub.reserve(caller) as place:
        cursor = request.cursor
        if cursor is None or request.is_malformed:
            cursor = await cursor_now(context)
        stream = ChangeStream(context, feed, hub, place, caller, request, cursor, renderer)
        place.is_used = True
        hub.clock.responses.add(stream)
        context.tally.streams_opened += 1
        return stream
