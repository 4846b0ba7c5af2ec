"""Sessions of which something ends by itself in a span of time (`SessionStore.expiries`)."""

from collections.abc import Sequence
from typing import Any

from sqlalchemy import ColumnElement, Select, and_, bindparam, or_, select

from bamboo_gateway.storage.index.rows import HEAD_STATES, SLOT_BITS
from bamboo_gateway.storage.index.tables import session_shares, sessions
from bamboo_gateway.storage.reports import Expiry
from bamboo_gateway.storage.sql.database import Database
from bamboo_gateway.storage.sql.reads import head_of


def _within(at: Any, session_id: Any) -> ColumnElement[bool]:
    return and_(
        at >= bindparam("after_ms"),
        or_(at > bindparam("after_ms"), session_id > bindparam("after_id")),
        at <= bindparam("until"),
    )


_SESSION = (sessions.c.epoch, sessions.c.seq, sessions.c.last_activity_at, sessions.c.head)
# Only slots have an index: the moments themselves move with every commit.
_TIMES_TO_LIVE: Select[Any] = (
    select(sessions.c.expires_at, sessions.c.id, *_SESSION)
    .where(
        sessions.c.expires_slot >= bindparam("first_slot"),
        sessions.c.expires_slot <= bindparam("last_slot"),
        sessions.c.head_state != HEAD_STATES["archived"],
        _within(sessions.c.expires_at, sessions.c.id),
    )
    .order_by(sessions.c.expires_slot, sessions.c.expires_at, sessions.c.id)
    .limit(bindparam("limit"))
)
_ends = (
    select(session_shares.c.expires_at, sessions.c.id, sessions.c.key)
    .select_from(session_shares.join(sessions, sessions.c.key == session_shares.c.key))
    .where(_within(session_shares.c.expires_at, sessions.c.id))
    .distinct()
    .order_by(session_shares.c.expires_at, sessions.c.id)
    .limit(bindparam("limit"))
    .subquery()
)
_SHARES: Select[Any] = (
    select(_ends.c.expires_at, sessions.c.id, *_SESSION)
    .select_from(_ends.join(sessions, sessions.c.key == _ends.c.key))
    .order_by(_ends.c.expires_at, sessions.c.id)
)


def expiries(database: Database, after: tuple[int, str], until: int, limit: int) -> list[Expiry]:
    """Read what ends, as `SessionStore.expiries`. It blocks."""
    after_ms, after_id = after
    names = {"after_ms": after_ms, "after_id": after_id, "until": until, "limit": limit}
    slots = {"first_slot": after_ms >> SLOT_BITS, "last_slot": until >> SLOT_BITS}
    with database.reading(snapshot=True) as connection:
        rows = [*connection.rows(_TIMES_TO_LIVE, names | slots), *connection.rows(_SHARES, names)]
    found = {(int(row[0]), str(row[1])): row for row in rows}
    return [_expiry(found[key]) for key in sorted(found)[:limit]]


def _expiry(row: Sequence[Any]) -> Expiry:
    at, session_id, epoch, seq, activity_ms, head = row
    return Expiry(int(at), str(session_id), head_of(epoch, seq, activity_ms, head))
