"""Reading pages of events, and waiting for the first event when there is none yet."""

from functools import partial

import anyio

from bamboo_gateway.domain.callers import Caller
from bamboo_gateway.domain.positions import After
from bamboo_gateway.domain.sessions import SessionHead
from bamboo_gateway.sessions.commands import EventPage
from bamboo_gateway.sessions.context import Context
from bamboo_gateway.sessions.queries import event_page, event_page_descending
from bamboo_gateway.sessions.registry import SessionRegistry
from bamboo_gateway.sessions.streaming.session_writer import Vanished
from bamboo_gateway.sessions.streaming.subscription import check_within


async def poll_events(
    context: Context,
    registry: SessionRegistry,
    caller: Caller,
    session_id: str,
    *,
    after: After | None,
    limit: int,
    types: frozenset[str] | None,
    wait_seconds: float,
    descending: bool,
) -> EventPage:
    """Return a page of events; with `wait_seconds`, wait for the first event that matches.

    Raises:
        PositionGone: `after` is of another epoch, or beyond the end.
    """

    async def read(after: After | None, head: SessionHead) -> EventPage:
        place = None
        if after is not None:
            place = check_within(after, head.epoch, head.seq)
        if descending:
            before = head.seq + 1 if place is None else place
            return await event_page_descending(
                context.store, head, before=before, limit=limit, types=types
            )
        return await event_page(context.store, head, after=place or 0, limit=limit, types=types)

    page = await registry.read(caller, session_id, partial(read, after), "read")
    if descending or page.events or page.has_more or wait_seconds <= 0:
        return page
    with anyio.move_on_after(wait_seconds):
        while not page.events and not context.drain.has_begun:
            await _next_change(context, registry, caller, session_id, page.next.seq)
            page = await registry.read(caller, session_id, partial(read, page.next), "read")
    return page


async def _next_change(
    context: Context, registry: SessionRegistry, caller: Caller, session_id: str, seq: int
) -> None:
    """Wait until an event after `seq` is durable, or until the shutdown wakes all waits."""
    try:
        async with registry.use(caller, session_id, "read", place=False) as writer:
            if writer.durable_seq != seq or context.drain.has_begun:
                return
            changed = anyio.Event()
            # The session may leave memory meanwhile; its channel stays.
            forget = writer.channel.on_change(changed.set)
    except Vanished:
        return
    try:
        await changed.wait()
    finally:
        forget()
