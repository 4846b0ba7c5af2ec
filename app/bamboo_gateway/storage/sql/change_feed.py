"""Which sessions have changed, by numbers in the order of the commits (`SessionStore.changes`).

A session's row has the number of its last change, and `gone_sessions` those of deletions. Whoever
changes a session takes its number in its own transaction, from a row of `meta` that it then keeps
locked until it ends. So numbers become visible in their order, also where transactions run beside
one another (PostgreSQL). To avoid deadlocks, a number is taken right after the locks of sessions,
and before any other row is written.

With several processes on one database each of them would wait for that row. They would better take
numbers from a sequence; then a page has to stop below the first number of every transaction that
runs (`pg_snapshot_xmin`), since a later number may be visible before an earlier one.
"""

from collections.abc import Sequence
from secrets import token_hex
from typing import Any

from sqlalchemy import bindparam, case, delete, insert, or_, select, update

from bamboo_gateway.domain import codec
from bamboo_gateway.storage.base import GONE_SESSIONS_MAX, ChangesLost
from bamboo_gateway.storage.index.tables import sessions
from bamboo_gateway.storage.listing import gone_of
from bamboo_gateway.storage.reports import Change, ChangePage, GoneSession
from bamboo_gateway.storage.sql.database import Connection, Database
from bamboo_gateway.storage.sql.reads import head_of
from bamboo_gateway.storage.sql.tables import gone_sessions, meta

# How many deletions there may be beyond `GONE_SESSIONS_MAX` before the oldest are forgotten.
_SLACK = 256

_TAKE = (
    update(meta)
    .where(meta.c.name == "last_change")
    .values(number=meta.c.number + 1)
    .returning(meta.c.number)
)
_FEED = select(meta.c.name, meta.c.number, meta.c.text).where(
    or_(
        meta.c.name == "last_change",
        meta.c.name == "forgotten_changes",
        meta.c.name == "change_feed",
    )
)
_CHANGED = (
    select(
        sessions.c.change_number,
        sessions.c.id,
        sessions.c.epoch,
        sessions.c.seq,
        sessions.c.last_activity_at,
        sessions.c.head,
    )
    .where(sessions.c.change_number > bindparam("after"))
    .order_by(sessions.c.change_number)
    .limit(bindparam("limit"))
)
_GONE = (
    select(
        gone_sessions.c.change_number,
        gone_sessions.c.session_id,
        gone_sessions.c.user_id,
        gone_sessions.c.session_type,
        gone_sessions.c.parent_id,
        gone_sessions.c.shared_with,
    )
    .where(
        gone_sessions.c.change_number > bindparam("after"),
        # One that was created again has a later change.
        ~select(sessions.c.key).where(sessions.c.id == gone_sessions.c.session_id).exists(),
    )
    .order_by(gone_sessions.c.change_number)
    .limit(bindparam("limit"))
)
_REST = select(
    sessions.c.epoch,
    sessions.c.seq,
    sessions.c.last_activity_at,
    sessions.c.head,
    sessions.c.user_id,
    sessions.c.session_type,
    sessions.c.parent_id,
).where(sessions.c.key == bindparam("session_key"))
_FORGET_FORMER = delete(gone_sessions).where(gone_sessions.c.session_id == bindparam("of_id"))
_NOTE_GONE = insert(gone_sessions).values(
    session_id=bindparam("of_id"),
    change_number=bindparam("change"),
    user_id=bindparam("owner"),
    session_type=bindparam("of_type"),
    parent_id=bindparam("parent"),
    shared_with=bindparam("shares"),
)
_OLDEST_KEPT = (
    select(gone_sessions.c.change_number)
    .order_by(gone_sessions.c.change_number.desc())
    .offset(bindparam("kept"))
    .limit(1)
)
_FORGET = delete(gone_sessions).where(gone_sessions.c.change_number <= bindparam("upto"))
_NOTE_FORGOTTEN = (
    update(meta).where(meta.c.name == "forgotten_changes").values(number=bindparam("upto"))
)
_RENEW = update(meta).where(meta.c.name == "change_feed").values(text=bindparam("feed"))
_ADD_FEED = insert(meta).values(
    name=bindparam("of_name"), number=bindparam("number"), text=bindparam("feed")
)
_GREATEST = select(
    select(sessions.c.change_number)
    .order_by(sessions.c.change_number.desc())
    .limit(1)
    .scalar_subquery(),
    select(gone_sessions.c.change_number)
    .order_by(gone_sessions.c.change_number.desc())
    .limit(1)
    .scalar_subquery(),
)
_RAISE = (
    update(meta)
    .where(meta.c.name == "last_change")
    .values(number=case((meta.c.number < bindparam("least"), bindparam("least")),
                        else_=meta.c.number))
)  # fmt: skip


def take_number(connection: Connection) -> int:
    """Return the number of a change, which is the last one until the transaction ends."""
    [(number,)] = connection.rows(_TAKE)
    return int(number)


def note_gone(connection: Connection, session_key: int, session_id: str, number: int) -> None:
    """Note a deletion, before the session's rows are deleted."""
    [(epoch, seq, activity_ms, head, *rest)] = connection.rows(_REST, {"session_key": session_key})
    try:
        gone = gone_of(head_of(epoch, seq, activity_ms, head))
    except (ValueError, KeyError, TypeError):
        # A session with a damaged head can be deleted too.
        gone = GoneSession(*rest)
    connection.run(_FORGET_FORMER, {"of_id": session_id})
    names: dict[str, Any] = {"of_id": session_id, "change": number, "owner": gone.user_id}
    names |= {"of_type": gone.session_type, "parent": gone.parent_id}
    names["shares"] = codec.encode(list(gone.shared_with))
    connection.run(_NOTE_GONE, names)


def forget_gone(connection: Connection, kept: int = GONE_SESSIONS_MAX) -> None:
    """Forget the oldest deletions, all but so many; older numbers are lost then."""
    for (upto,) in connection.rows(_OLDEST_KEPT, {"kept": kept}):
        connection.run(_FORGET, {"upto": upto})
        connection.run(_NOTE_FORGOTTEN, {"upto": upto})


def renew_feed(connection: Connection) -> None:
    """Begin a new feed, since numbers may have been given before for other changes."""
    there = {name for name, _, _ in connection.rows(_FEED)}
    for name in ("last_change", "forgotten_changes", "change_feed"):
        if name not in there:
            connection.run(_ADD_FEED, {"of_name": name, "number": 0, "feed": None})
    [(changed, gone)] = connection.rows(_GREATEST)
    connection.run(_RAISE, {"least": max(int(changed or 0), int(gone or 0))})
    [(last,)] = [(number,) for name, number, _ in connection.rows(_FEED) if name == "last_change"]
    connection.run(_FORGET, {"upto": last})
    connection.run(_NOTE_FORGOTTEN, {"upto": last})
    connection.run(_RENEW, {"feed": token_hex(8)})


def is_behind(connection: Connection) -> bool:
    """Return whether numbers would be given again, or the feed has no name: after damage."""
    feed, last, _ = _feed_of(connection.rows(_FEED))
    [(changed, gone)] = connection.rows(_GREATEST)
    return not feed or max(int(changed or 0), int(gone or 0)) > last


class ChangeFeed:
    """Reads changes. All of it blocks."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._deletions = 0

    def forget_some(self, connection: Connection) -> None:
        """Forget the oldest deletions once in a while; call it with each deletion."""
        self._deletions += 1
        if self._deletions % _SLACK == 0:
            forget_gone(connection)

    def forget_all(self) -> None:
        """Forget all deletions: they name users that may have been erased."""
        with self._database.writing() as connection:
            take_number(connection)
            forget_gone(connection, 0)

    def last_change(self) -> tuple[str, int]:
        """Read the feed, as `SessionStore.last_change`."""
        with self._database.reading() as connection:
            feed, last, _ = _feed_of(connection.rows(_FEED))
        return feed, last

    def changes(self, feed: str, after: int, limit: int) -> ChangePage:
        """Read changes, as `SessionStore.changes`."""
        names = {"after": after, "limit": limit + 1}
        with self._database.reading(snapshot=True) as connection:
            found, last, forgotten = _feed_of(connection.rows(_FEED))
            if feed != found or not forgotten <= after <= last:
                raise ChangesLost("These changes are not known any more.")
            changed = connection.rows(_CHANGED, names)
            gone = connection.rows(_GONE, names)
        changes = sorted([*map(_change, changed), *map(_deletion, gone)], key=_number)
        shown = changes[:limit]
        has_more = len(changes) > limit
        return ChangePage(shown, shown[-1].number if has_more else last, has_more)


def _feed_of(rows: Sequence[Any]) -> tuple[str, int, int]:
    found = {name: (number, text) for name, number, text in rows}
    nothing = (0, None)
    return (
        str(found.get("change_feed", nothing)[1] or ""),
        int(found.get("last_change", nothing)[0] or 0),
        int(found.get("forgotten_changes", nothing)[0] or 0),
    )


def _number(change: Change) -> int:
    return change.number


def _change(row: Sequence[Any]) -> Change:
    number, session_id, epoch, seq, activity_ms, head = row
    return Change(int(number), str(session_id), head_of(epoch, seq, activity_ms, head))


def _deletion(row: Sequence[Any]) -> Change:
    number, session_id, user_id, session_type, parent_id, shared_with = row
    shares = tuple(codec.decode(bytes(shared_with)))
    gone = GoneSession(user_id, str(session_type), parent_id, shares)
    return Change(int(number), str(session_id), None, gone)
