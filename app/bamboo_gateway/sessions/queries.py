"""Reading a session's log in pages: stored lines are cut and joined, not parsed."""

import re
from collections.abc import AsyncGenerator
from typing import Any

from bamboo_gateway.domain.codec import decode
from bamboo_gateway.domain.errors import InvalidCursor, NotFound
from bamboo_gateway.domain.ids import message_cursor
from bamboo_gateway.domain.limits import PAGE_BYTES_MAX, SCAN_BYTES_MAX
from bamboo_gateway.domain.positions import Position
from bamboo_gateway.domain.projections import run_view
from bamboo_gateway.domain.sessions import SessionHead
from bamboo_gateway.sessions.commands import EventPage, MessagePage, RunList
from bamboo_gateway.sessions.history import history_page
from bamboo_gateway.sessions.pool import SessionPool
from bamboo_gateway.storage.base import Found, Record, SessionStore

_MESSAGE_MEMBER = b'"message":{'
_MESSAGE_ID = re.compile(rb'"message_id":("(?:[^"\\]|\\.)*")')


async def message_page(
    store: SessionStore,
    head: SessionHead,
    *,
    limit: int,
    before: str | None,
    after: str | None,
    descending: bool,
) -> MessagePage:
    """Reads a page of messages, from either end.

    `before` and `after` are those of `domain.ids.message_cursor`. Of several messages with one id,
    `after` means the last and `before` the first, so that whoever names the end of his page goes on
    in any case.

    Raises:
        NotFound: `before` or `after` names no message of this session.
    """
    first, last = head.history_from, head.seq + 1
    if after is not None:
        first = await _seq_of_message(store, head, after, last=True)
    if before is not None:
        last = await _seq_of_message(store, head, before, last=False)
    shown = await store.find(
        head.id,
        head.epoch,
        "message",
        after=first,
        before=last,
        limit=limit,
        max_bytes=PAGE_BYTES_MAX,
        reverse=descending,
    )
    begin = head.active.before_seq if head.active else head.seq
    return MessagePage(
        messages=[message_of(record.body) for record in shown],
        next_cursor=_cursor_of(shown[-1]) if shown.has_more else None,
        has_more=shown.has_more,
        position=head.position,
        stream_url=f"/api/v1/stream/{head.id}?after={head.epoch}-{begin}",
    )


async def message_pages(pool: SessionPool, head: SessionHead) -> AsyncGenerator[list[bytes]]:
    """Reads all messages, a page at a time.

    Raises:
        NotFound: The session was deleted meanwhile.
    """
    after = head.history_from
    while page := await history_page(pool.store, head, after=after, before=head.seq + 1):
        yield [message_of(record.body) for record in page]
        after = page[-1].seq


def message_of(body: bytes) -> bytes:
    """Cuts the message out of its event: `message` is the event's last member."""
    return body[body.index(_MESSAGE_MEMBER) + len(_MESSAGE_MEMBER) - 1 : -1]


def _cursor_of(record: Record) -> str:
    """Return what the next page goes on from: by its seq, since an id may stand twice."""
    named = _MESSAGE_ID.search(record.body)
    assert named is not None  # every message event has it, before the message itself
    return f"{decode(named[1])}@{record.seq}"


async def _seq_of_message(
    store: SessionStore, head: SessionHead, cursor: str, *, last: bool
) -> int:
    """Find the message that a cursor names: of several with its id the last one, or the first.

    Raises:
        NotFound: There is none.
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
        # By its place: that costs the same in a history of any length.
        after = max(head.history_from, seq - 1)
        found = await store.find(
            head.id, head.epoch, "message", after=after, before=seq + 1, limit=1
        )
        found = Found(record for record in found if _cursor_of(record) == cursor)
    if not found:
        raise NotFound(f"No message {message_id!r} in this session.", code="message-not-found")
    return found[0].seq


async def event_page(
    store: SessionStore,
    head: SessionHead,
    *,
    after: int,
    limit: int,
    types: frozenset[str] | None,
) -> EventPage:
    """Reads a page of events after a seq; a filter looks at `SCAN_BYTES_MAX` of log at most."""
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
    """Reads a page of events before a seq, the latest first; `next` goes on from there."""
    bodies: list[bytes] = []
    scanned = 0
    shown = before
    window_max = window = max(limit, 100)
    while before > 1 and scanned < SCAN_BYTES_MAX:
        start = max(0, before - 1 - window)
        page = await store.read(
            head.id, head.epoch, start, limit=window, max_bytes=SCAN_BYTES_MAX - scanned
        )
        # The log is read forwards. Fewer events than asked for, which reach neither `before` nor
        # the log's end: they had too many bytes, so a smaller window is tried.
        if len(page) < window and page and page[-1].seq < min(before - 1, head.seq):
            window = min(len(page), max(1, window // 2))
            continue
        # A log that was compacted has wide gaps.
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


async def find_run(store: SessionStore, session_id: str, epoch: int, run_id: str) -> dict[str, Any]:
    """Folds one run from its own events.

    Raises:
        NotFound: No such run.
    """
    events: list[dict[str, Any]] = []
    after = 0
    # The input of a run that was queued may be a page by itself.
    while page := await store.find(session_id, epoch, "run", key=run_id, after=after):
        events += [decode(record.body) for record in page]
        after = page[-1].seq
        if not page.has_more:
            break
    if not events:
        raise NotFound(f"No run {run_id!r} in this session.", code="run-not-found")
    return run_view(session_id, epoch, events)


async def last_of_run(
    store: SessionStore, session_id: str, epoch: int, run_id: str
) -> Record | None:
    """Gives the last of the events that say where a run is: its terminal event, if it has ended."""
    found = await store.find(session_id, epoch, "run", key=run_id, limit=1, reverse=True)
    return found[0] if found else None


def run_cursor(cursor: str | None) -> int | None:
    """Reads the `next_cursor` of an earlier page of runs.

    Raises:
        InvalidCursor: It is none.
    """
    if cursor is None:
        return None
    if not (cursor.isascii() and cursor.isdigit() and len(cursor) < 16):
        raise InvalidCursor
    return int(cursor)


async def run_page(
    store: SessionStore, head: SessionHead, *, limit: int, cursor: int | None, descending: bool
) -> RunList:
    """Reads a page of runs in the order they were asked for; cursors are seqs."""
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
