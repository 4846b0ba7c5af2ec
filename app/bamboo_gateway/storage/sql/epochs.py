"""New epochs for sessions whose positions clients may have seen for other content (R3)."""

from collections.abc import Collection

from sqlalchemy import bindparam, select, update

from bamboo_gateway.domain import codec
from bamboo_gateway.storage.index.tables import sessions
from bamboo_gateway.storage.sql.change_feed import renew_feed
from bamboo_gateway.storage.sql.database import Connection
from bamboo_gateway.storage.sql.tables import meta

# Heads that are in memory at a time.
_ROWS = 500

_LAST = select(meta.c.number).where(meta.c.name == "last_epoch")
_HEADS = (
    select(sessions.c.key, sessions.c.head)
    .where(sessions.c.key > bindparam("after"))
    .order_by(sessions.c.key)
    .limit(_ROWS)
)
_RENEW = (
    update(sessions)
    .where(sessions.c.key == bindparam("session_key"))
    .values(
        epoch=bindparam("new_epoch"), head=bindparam("new_head"), version=sessions.c.version + 1
    )
)
_NOTE_LAST = update(meta).where(meta.c.name == "last_epoch").values(number=bindparam("new_epoch"))


def next_epoch(connection: Connection, now_ms: int) -> int:
    """Return an epoch that no session has had, and note it as used."""
    rows = connection.rows(_LAST)
    epoch = max(now_ms, (int(rows[0][0] or 0) if rows else 0) + 1)
    connection.run(_NOTE_LAST, {"new_epoch": epoch})
    return epoch


def give_new_epochs(
    connection: Connection, now_ms: int, keys: Collection[int] | None = None
) -> int:
    """Give sessions a new epoch, all of them or those of the keys; return how many these are.

    A session whose head is damaged stays as it is: it cannot be loaded. The numbers of changes may
    be given again too, so there is a new feed.
    """
    renew_feed(connection)
    epoch = next_epoch(connection, now_ms)
    count, after = 0, -1
    while heads := connection.rows(_HEADS, {"after": after}):
        after = int(heads[-1][0])
        renewed = []
        for key, head in heads:
            if keys is not None and key not in keys:
                continue
            try:
                stored = codec.decode(head)
            except ValueError:
                continue
            stored["epoch"] = epoch
            body = codec.encode(stored)
            renewed.append({"session_key": key, "new_epoch": epoch, "new_head": body})
        if renewed:
            connection.run_each(_RENEW, renewed)
        count += len(renewed)
    return count
