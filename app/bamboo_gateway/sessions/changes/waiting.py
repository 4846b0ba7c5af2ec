"""Waiting for a change in one request (long poll)."""

import anyio

from bamboo_gateway.domain.callers import Caller
from bamboo_gateway.sessions.changes.feed import ChangeFeed
from bamboo_gateway.sessions.changes.page import (
    ChangeCursor,
    ChangeFilter,
    ChangesPage,
    check_may_ask,
    cursor_now,
    read_changes,
)
from bamboo_gateway.sessions.context import Context


async def poll_changes(
    context: Context,
    feed: ChangeFeed,
    caller: Caller,
    wanted: ChangeFilter,
    cursor: ChangeCursor | None,
    limit: int,
    wait_seconds: float,
) -> ChangesPage:
    """Return which of the caller's sessions have changed after a cursor; None: after now.

    With `wait_seconds`, wait for the first change when there is none yet.

    Raises:
        Forbidden: The caller's credential is for one session.
        StorageFailed: The store cannot be read.
    """
    check_may_ask(caller)
    if cursor is None:
        cursor = await cursor_now(context)
    if wait_seconds <= 0:
        return await read_changes(context, caller, wanted, cursor, limit)
    with feed.following(caller, wanted, cursor) as follower:
        with anyio.move_on_after(wait_seconds):
            while True:
                page = await follower.take(limit)
                if page is not None or context.drain.has_begun:
                    return page or ChangesPage([], follower.cursor)
                await follower.wait()
        return ChangesPage([], follower.cursor)
