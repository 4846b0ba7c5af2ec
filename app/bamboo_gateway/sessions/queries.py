"""Reading a session's log in pages. Stored events are cut and joined, and mostly not parsed."""

import re
from collections.abc import AsyncGenerator
from typing import Any

from bamboo_gateway.domain.codec import decode
from bamboo_gateway.domain.errors import InvalidCursor, NotFound
from bamboo_gateway.domain.ids import message_cursor
from bamboo_gateway.domain.limits import PAGE_BYTES_MAX, SCAN_BYTES_MAX
from bamboo_gateway.domain.paths import Path, every_path, path_of
from bamboo_gateway.domain.positions import Position
from bamboo_gateway.domain.sessions import SessionHead
from bamboo_gateway.domain.views import RunView, run_view
from bamboo_gateway.sessions.commands import EventPage, MessagePage, RunList
from bamboo_gateway.sessions.history import find_on_path, history_page
from bamboo_gateway.sessions.shown_messages import shown_messages
from bamboo_gateway.storage.base import SessionStore
from bamboo_gateway.storage.commits import Found, Record

ALL_BRANCHES = "all"
"""In the place of a branch: the messages of all branches, in the order of the log."""

_MESSAGE_ID = re.compile(rb'"message_id":("(?:[^"\\]|\\.)*")')


async def message_page(
    store: SessionStore,
    head: SessionHead,
    *,
    limit: int,
    before: str | None,
    after: str | None,
    descending: bool,
    branch: str | None = None,
) -> MessagePage:
    """Return a page of the messages of a path, from either end.

    The path is that of `branch`: None means the current one, `ALL_BRANCHES` every message.

    `before` and `after` are cursors as in `domain.ids.message_cursor`. Of several messages with the
    same id, `after` means the last and `before` the first: so a client that names the end of its
    page always goes on behind it.

    Raises:
        NotFound: There is no such branch, or `before` or `after` names no message of the path.
    """
    path = _named_path(head, branch)
    first, last = head.history_from, head.seq + 1
    if after is not None:
        first = await _seq_of_message(store, head, path, after, last=True)
    if before is not None:
        last = await _seq_of_message(store, head, path, before, last=False)
    shown = await find_on_path(
        store,
        head,
        path,
        after=first,
        before=last,
        limit=limit,
        max_bytes=PAGE_BYTES_MAX,
        reverse=descending,
    )
    begin = head.active.before_seq if head.active else head.seq
    return MessagePage(
        messages=await shown_messages(store, head, shown, descending=descending),
        next_cursor=_cursor_of(shown[-1]) if shown.has_more else None,
        has_more=shown.has_more,
        position=head.position,
        stream_after=Position(head.epoch, begin),
    )


async def message_pages(store: SessionStore, head: SessionHead) -> AsyncGenerator[list[bytes]]:
    """Yield all messages of the current path, a page at a time.

    Raises:
        NotFound: The session was deleted meanwhile.
    """
    after = head.history_from
    while page := await history_page(store, head, after=after, before=head.seq + 1):
        yield await shown_messages(store, head, page)
        after = page[-1].seq


def unknown_branch(branch_id: str) -> NotFound:
    """Return the error for a branch that a session does not have."""
    return NotFound(f"No branch {branch_id!r} in this session.", code="branch-not-found")


def _named_path(head: SessionHead, branch: str | None) -> Path:
    if branch == ALL_BRANCHES:
        return every_path(head)
    try:
        return path_of(head, branch)
    except KeyError:
        assert branch is not None
        raise unknown_branch(branch) from None


def _cursor_of(record: Record) -> str:
    """Return the cursor behind a message. It has the seq, since an id may occur twice."""
    named = _MESSAGE_ID.search(record.body)
    assert named is not None  # every message event has the id, before the message itself
    return f"{decode(named[1])}@{record.seq}"


async def _seq_of_message(
    store: SessionStore, head: SessionHead, path: Path, cursor: str, *, last: bool
) -> int:
    """Return the seq of the message that a cursor names: of several, the last or the first.

    Raises:
        NotFound: There is no such message.
    """
    message_id, seq = message_cursor(cursor)
    if seq is None:
        found = await store.find(
            head.id,
            head.epoch,
            "message",
            key=message_id,
            after=head.history_from,
            limit=1,
            reverse=last,
        )
    else:
        # By its seq: that costs the same in a history of any length.
        after = max(head.history_from, seq - 1)
        found = await store.find(
            head.id, head.epoch, "message", after=after, before=seq + 1, limit=1
        )
        found = Found(record for record in found if _cursor_of(record) == cursor)
    if not found or found[0].seq not in path:
        where = "in this session" if not head.branches else "on this path of the session"
        raise NotFound(f"No message {message_id!r} {where}.", code="message-not-found")
    return found[0].seq


async def event_page(
    store: SessionStore,
    head: SessionHead,
    *,
    after: int,
    limit: int,
    types: frozenset[str] | None,
) -> EventPage:
    """Return a page of events after a seq. A filter scans at most `SCAN_BYTES_MAX` of the log."""
    bodies: list[bytes] = []
    scanned = 0
    cursor = after
    while scanned < SCAN_BYTES_MAX:
        wanted = limit - len(bodies) if types is None else 2000
        records = await store.read(
            head.id, head.epoch, cursor, limit=wanted, max_bytes=SCAN_BYTES_MAX - scanned
        )
        if not records:
            return EventPage(bodies, Position(head.epoch, cursor), has_more=False)
        for record in records:
            seq, body = record
            if scanned and scanned + len(body) > SCAN_BYTES_MAX:
                return EventPage(bodies, Position(head.epoch, cursor), has_more=True)
            if types is None or record.type in types:
                if len(bodies) == limit:
                    return EventPage(bodies, Position(head.epoch, cursor), has_more=True)
                bodies.append(body)
            cursor = seq
            scanned += len(body)
        if types is None and len(bodies) == limit:
            break
    return EventPage(bodies, Position(head.epoch, cursor), has_more=cursor < head.seq)


async def event_page_descending(
    store: SessionStore,
    head: SessionHead,
    *,
    before: int,
    limit: int,
    types: frozenset[str] | None,
) -> EventPage:
    """Return a page of events before a seq, the latest first; `next` goes on from there."""
    bodies: list[bytes] = []
    scanned = 0
    shown = before
    window_max = window = max(limit, 100)
    while before > 1 and scanned < SCAN_BYTES_MAX:
        start = max(0, before - 1 - window)
        page = await store.read(
            head.id, head.epoch, start, limit=window, max_bytes=SCAN_BYTES_MAX - scanned
        )
        # The log is read forwards. When fewer events come than were asked for, and they reach
        # neither `before` nor the log's end, they had too many bytes: try a smaller window.
        if len(page) < window and page and page[-1].seq < min(before - 1, head.seq):
            window = min(len(page), max(1, window // 2))
            continue
        # A compacted log has wide gaps.
        window = min(2 * window, window_max)
        records = [record for record in page if record.seq < before]
        before = start + 1
        for record in reversed(records):
            seq, body = record
            if scanned and scanned + len(body) > SCAN_BYTES_MAX:
                return EventPage(bodies, Position(head.epoch, seq + 1), has_more=True)
            scanned += len(body)
            if types is None or record.type in types:
                if len(bodies) == limit:
                    return EventPage(bodies, Position(head.epoch, shown), has_more=True)
                bodies.append(body)
                shown = seq
        if types is None and len(bodies) == limit:
            before = shown
            break
    return EventPage(bodies, Position(head.epoch, before), has_more=before > 1)


async def find_run(store: SessionStore, session_id: str, epoch: int, run_id: str) -> RunView:
    """Return one run, folded from its own events.

    Raises:
        NotFound: There is no such run.
    """
    events: list[dict[str, Any]] = []
    after = 0
    # The input of a queued run may fill a page by itself.
    while page := await store.find(session_id, epoch, "run", key=run_id, after=after):
        events += [decode(record.body) for record in page]
        after = page[-1].seq
        if not page.has_more:
            break
    if not events:
        raise NotFound(f"No run {run_id!r} in this session.", code="run-not-found")
    return run_view(session_id, epoch, events)


def run_cursor(cursor: str | None) -> int | None:
    """Return the seq that the `next_cursor` of an earlier page of runs means.

    Raises:
        InvalidCursor: It is no such cursor.
    """
    if cursor is None:
        return None
    if not (cursor.isascii() and cursor.isdigit() and len(cursor) < 16):
        raise InvalidCursor
    return int(cursor)


async def run_page(
    store: SessionStore, head: SessionHead, *, limit: int, cursor: int | None, descending: bool
) -> RunList:
    """Return a page of runs in the order of their requests; cursors are seqs."""
    firsts: list[tuple[int, str]] = []
    after, before = 0, head.seq + 1
    if cursor is not None:
        after, before = (after, cursor) if descending else (cursor, before)
    while len(firsts) <= limit:
        page = await store.find(
            head.id,
            head.epoch,
            "run",
            after=after,
            before=before,
            limit=1000,
            reverse=descending,
        )
        if not page:
            break
        firsts += [
            (record.seq, event["run_id"])
            for record in page
            if _begins_run(event := decode(record.body))
        ]
        after, before = (after, page[-1].seq) if descending else (page[-1].seq, before)
    shown = firsts[:limit]
    has_more = len(firsts) > limit
    runs = [await find_run(store, head.id, head.epoch, run_id) for _, run_id in shown]
    return RunList(runs, str(shown[-1][0]) if has_more else None, has_more)


def _begins_run(event: dict[str, Any]) -> bool:
    if event["type"] == "run_start":
        return "position" in event
    return bool(event["type"] == "run_queued")
