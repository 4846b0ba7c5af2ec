"""What has changed after a cursor, read from the store: one page.

A change is a commit that is more than deltas, a deletion, a time to live that ends, or a share that
was given or ends. A caller is told of the sessions that it may read, as they are now. It is told
that a session is gone when it could read it before; of others' sessions it is told nothing.

A page looks at a bounded number of changes, of all users, so it may show none although there are
more (`has_more`).
"""

from dataclasses import dataclass
from typing import Final, Literal, NamedTuple, TypedDict

from bamboo_gateway.domain.callers import Caller
from bamboo_gateway.domain.clock import format_ms
from bamboo_gateway.domain.errors import Forbidden
from bamboo_gateway.domain.sessions import SessionHead, SessionState
from bamboo_gateway.sessions.access import may_be_told_gone, may_read
from bamboo_gateway.sessions.context import Context
from bamboo_gateway.storage.base import ChangesLost
from bamboo_gateway.storage.reports import Change, Expiry

_COMMIT_MS_MAX = 60_000
"""How long after it was decided the end of a share may become durable, and is still told."""

SCAN_CHANGES = 1000
"""The changes of all users that one page looks at: some milliseconds of the store's work."""


class ChangeCursor(NamedTuple):
    """Up to where a caller knows all changes.

    Attributes:
        feed: The `change_feed` of the store that the number is from.
        number: The number of a change.
        moment: The time in ms; what ended by itself before is known.
        session_id: Of that very moment, up to this session.
    """

    feed: str
    number: int
    moment: int
    session_id: str = ""


NO_CURSOR: Final = ChangeCursor("", 0, 0)
"""A cursor of no store: it is never served."""


@dataclass(frozen=True, slots=True)
class ChangeFilter:
    """The sessions that a caller asks about; `None` does not filter.

    A session that leaves the filter is gone for this caller.
    """

    user_id: str | None = None
    session_type: str | None = None
    parent_id: str | None = None


class SessionChanged(TypedDict):
    """A session that has changed, as it is now."""

    type: Literal["session_changed"]
    session_id: str
    position: str
    state: SessionState
    title: str | None
    preview: str | None
    updated_at: str
    active_run_id: str | None


class SessionGone(TypedDict):
    """A session that was deleted, left the filter, or that the caller may not read any more."""

    type: Literal["session_gone"]
    session_id: str


ChangeView = SessionChanged | SessionGone


class ChangeEntry(NamedTuple):
    """A change as a caller is told, and the cursor behind it."""

    view: ChangeView
    cursor: ChangeCursor


@dataclass(frozen=True, slots=True)
class ChangesPage:
    """A page of changes.

    Attributes:
        entries: The changes, each session's last one.
        next: The cursor of the following page.
        has_more: Whether there are more changes already.
        is_reset: The cursor cannot be served. The caller has to list its sessions again, and goes
            on from `next`.
    """

    entries: list[ChangeEntry]
    next: ChangeCursor
    has_more: bool = False
    is_reset: bool = False


def check_may_ask(caller: Caller) -> None:
    """Refuse a credential that is for one session.

    Raises:
        Forbidden: The caller's credential is for one session.
    """
    if caller.session_id is not None:
        raise Forbidden("Your credential is for one session; it cannot ask what has changed.")


async def cursor_now(context: Context) -> ChangeCursor:
    """Return the cursor of the present moment."""
    now_ms = context.clock.now_ms()
    return ChangeCursor(*await context.store.last_change(), now_ms + 1)


async def read_changes(
    context: Context, caller: Caller, wanted: ChangeFilter, cursor: ChangeCursor, limit: int
) -> ChangesPage:
    """Return the changes after a cursor.

    Raises:
        StorageFailed: The store cannot be read.
    """
    store = context.store
    now, since_ms = await cursor_now(context), cursor.moment
    try:
        page = await store.changes(cursor.feed, cursor.number, SCAN_CHANGES)
    except ChangesLost:
        return ChangesPage([], now, is_reset=True)
    entries: list[ChangeEntry] = []
    for change in page.changes:
        cursor = cursor._replace(number=change.number)
        view = view_of_change(context, caller, wanted, change, since_ms)
        if view is not None:
            entries.append(ChangeEntry(view, cursor))
            if len(entries) >= limit:
                return ChangesPage(entries, cursor, has_more=True)
    cursor = cursor._replace(number=page.last)
    if page.has_more:
        return ChangesPage(entries, cursor, has_more=True)
    known = {entry.view["session_id"] for entry in entries}
    ends = await store.expiries((cursor.moment, cursor.session_id), now.moment - 1, SCAN_CHANGES)
    for end in ends:
        cursor = cursor._replace(moment=end.at, session_id=end.session_id)
        view = view_of_end(context, caller, wanted, end, since_ms)
        if view is not None and end.session_id not in known:
            known.add(end.session_id)
            entries.append(ChangeEntry(view, cursor))
            if len(entries) >= limit:
                return ChangesPage(entries, cursor, has_more=True)
    if len(ends) >= SCAN_CHANGES:
        return ChangesPage(entries, cursor, has_more=True)
    return ChangesPage(entries, _at_least(cursor, now.moment))


def _at_least(cursor: ChangeCursor, moment: int) -> ChangeCursor:
    # The clock may have been set back: nothing is told twice for that.
    return cursor if cursor.moment >= moment else cursor._replace(moment=moment, session_id="")


def view_of_change(
    context: Context, caller: Caller, wanted: ChangeFilter, change: Change, since_ms: int
) -> ChangeView | None:
    """Return what a caller is told of a change; None: nothing.

    `since_ms` is the moment of its cursor.
    """
    if change.head is not None:
        return _view(context, caller, wanted, change.head, since_ms)
    gone = change.gone
    if gone is None or not _admits(wanted, gone.user_id, gone.parent_id):
        return None
    if not may_be_told_gone(caller, gone.user_id, gone.shared_with, since_ms - _COMMIT_MS_MAX):
        return None
    return _gone(change.session_id)


def view_of_end(
    context: Context, caller: Caller, wanted: ChangeFilter, end: Expiry, since_ms: int
) -> ChangeView | None:
    """Return what a caller is told of something that ended by itself; None: nothing."""
    return _view(context, caller, wanted, end.head, since_ms)


def readers_of(change: Change | Expiry) -> set[str]:
    """Return the users who may be told of a change."""
    head = change.head
    if head is not None:
        return {*head.readers, *_known(head.user_id)}
    gone = change.gone if isinstance(change, Change) else None
    return {*gone.shared_with, *_known(gone.user_id)} if gone is not None else set()


def _known(user_id: str | None) -> tuple[str, ...]:
    return (user_id,) if user_id is not None else ()


def _view(
    context: Context, caller: Caller, wanted: ChangeFilter, head: SessionHead, since_ms: int
) -> ChangeView | None:
    parent_id = head.parent.get("session_id") if head.parent else None
    if not _admits(wanted, head.user_id, parent_id):
        return None
    if not may_read(caller, head, context.clock.now_ms()):
        if may_be_told_gone(caller, head.user_id, head.readers, since_ms - _COMMIT_MS_MAX):
            return _gone(head.id)
        return None
    if wanted.session_type not in {None, head.session_type}:
        return _gone(head.id)  # it may have had that type before
    return {
        "type": "session_changed",
        "session_id": head.id,
        "position": str(head.position),
        "state": context.states.state_of(head),
        "title": head.title,
        "preview": head.preview,
        "updated_at": format_ms(head.updated_at),
        "active_run_id": head.active.run_id if head.active is not None else None,
    }


def _admits(wanted: ChangeFilter, user_id: str | None, parent_id: str | None) -> bool:
    # A session keeps its user and its parent, so it never leaves these filters.
    return wanted.user_id in {None, user_id} and wanted.parent_id in {None, parent_id}


def _gone(session_id: str) -> SessionGone:
    return {"type": "session_gone", "session_id": session_id}
