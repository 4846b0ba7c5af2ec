"""Statements that write rows of sessions and logs, for all work that is no commit."""

from collections.abc import Sequence
from typing import Any

from sqlalchemy import bindparam, delete, insert, select, update

from bamboo_gateway.domain.errors import Conflict
from bamboo_gateway.storage.index.metadata_pairs import pairs_of
from bamboo_gateway.storage.index.rows import shares_of
from bamboo_gateway.storage.index.tables import session_metadata, session_shares, sessions
from bamboo_gateway.storage.sql.database import Connection
from bamboo_gateway.storage.sql.prepared import EventRow, HeadRow, MarkRow, NoteRow
from bamboo_gateway.storage.sql.tables import MARK_KINDS, events, marks, meta, notes, unsearched

LOCK_SESSION = (
    select(
        sessions.c.key,
        sessions.c.epoch,
        sessions.c.seq,
        sessions.c.version,
        sessions.c.is_packed,
        sessions.c.user_id,
        sessions.c.log_bytes,
        sessions.c.stored_bytes,
        sessions.c.last_activity_at,
    )
    .where(sessions.c.id == bindparam("session_id"))
    .with_for_update()
)

INSERT_EVENT = insert(events).values(
    session_key=bindparam("session_key"),
    seq=bindparam("seq"),
    is_delta=bindparam("is_delta"),
    body=bindparam("body"),
)
INSERT_MARK = insert(marks).values(
    session_key=bindparam("session_key"),
    kind=bindparam("kind"),
    seq=bindparam("seq"),
    key=bindparam("key"),
)
INSERT_UNSEARCHED = insert(unsearched).values(
    session_key=bindparam("session_key"), seq=bindparam("seq")
)
_UNSEARCHED = select(unsearched.c.seq).where(
    unsearched.c.session_key == bindparam("session_key"), unsearched.c.seq == 0
)
INSERT_NOTE = insert(notes).values(
    session_key=bindparam("session_key"),
    seq=bindparam("seq"),
    version=bindparam("version"),
    number=bindparam("number"),
    key=bindparam("key"),
    body=bindparam("body"),
)
_DELETE_SHARES = delete(session_shares).where(session_shares.c.key == bindparam("session_key"))
_INSERT_SHARE = insert(session_shares).values(
    user_id=bindparam("share_user"),
    key=bindparam("session_key"),
    expires_at=bindparam("share_end"),
)
DELETE_METADATA = delete(session_metadata).where(session_metadata.c.key == bindparam("session_key"))
INSERT_METADATA = insert(session_metadata).values(
    pair=bindparam("pair"), key=bindparam("session_key")
)
_RAISE_EPOCH = (
    update(meta)
    .where(meta.c.name == "last_epoch", meta.c.number < bindparam("epoch"))
    .values(number=bindparam("epoch"))
)

# The columns of a session that follow from its head, and change with it. Its id does not.
HEAD_COLUMNS = (
    "user_id", "session_type", "parent_id", "root_id", "head_state", "has_active",
    "has_queue", "created_at", "updated_at", "message_count", "metadata_digest", "title_key",
    "title_folded", "seq",
    "last_activity_at", "activity_slot", "expires_at", "expires_slot",
)  # fmt: skip

INSERT_SESSION = insert(sessions).values(
    {
        name: bindparam(name)
        for name in (
            "key", "id", "epoch", "version", "log_bytes", "stored_bytes", "delta_bytes",
            "is_packed", "head", "change_number", *HEAD_COLUMNS,
        )
    }
)  # fmt: skip
EXTEND_SESSION = (
    update(sessions)
    .where(sessions.c.key == bindparam("session_key"))
    .values(
        {
            **{
                name: bindparam(name)
                for name in ("version", "head", "change_number", *HEAD_COLUMNS)
            },
            "log_bytes": sessions.c.log_bytes + bindparam("added_bytes"),
            "stored_bytes": sessions.c.stored_bytes + bindparam("added_bytes"),
            "delta_bytes": sessions.c.delta_bytes + bindparam("added_delta_bytes"),
        }
    )
)


class LockedSession:
    """A session's row, locked until the transaction ends."""

    def __init__(self, row: Sequence[Any]) -> None:
        (
            self.key,
            self.epoch,
            self.seq,
            self.version,
            self.is_packed,
            self.user_id,
            self.log_bytes,
            self.stored_bytes,
            self.activity_ms,
        ) = row


def find_session(connection: Connection, session_id: str) -> LockedSession | None:
    """Lock and return the row of a session, or None."""
    rows = connection.rows(LOCK_SESSION, {"session_id": session_id})
    return LockedSession(rows[0]) if rows else None


def lock_session(connection: Connection, session_id: str, epoch: int) -> LockedSession:
    """Lock and return the row of a session.

    Raises:
        Conflict: There is no session of this epoch.
    """
    session = find_session(connection, session_id)
    if session is None or session.epoch != epoch:
        raise Conflict("There is no such session of that epoch.", head=None)
    return session


def insert_rows(
    connection: Connection,
    key: int,
    version: int,
    events_: Sequence[EventRow],
    marks_: Sequence[MarkRow],
    notes_: Sequence[NoteRow],
) -> None:
    """Insert rows of a log."""
    if events_:
        connection.run_each(
            INSERT_EVENT,
            [
                {"session_key": key, "seq": seq, "is_delta": is_delta, "body": body}
                for seq, is_delta, body in events_
            ],
        )
    if marks_:
        connection.run_each(
            INSERT_MARK,
            [
                {"session_key": key, "kind": kind, "seq": seq, "key": name}
                for kind, seq, name in marks_
            ],
        )
        messages = [seq for kind, seq, _ in marks_ if kind == MARK_KINDS["message"]]
        if messages:
            names = [{"session_key": key, "seq": seq} for seq in messages]
            connection.run_each(INSERT_UNSEARCHED, names)
    if notes_:
        connection.run_each(
            INSERT_NOTE,
            [
                {"session_key": key, "seq": seq, "version": version, "number": number,
                 "key": name, "body": body}
                for seq, number, name, body in notes_
            ],
        )  # fmt: skip


def note_merge(connection: Connection, key: int) -> None:
    """Have the messages that a merge replaced removed from what is searched."""
    if not connection.rows(_UNSEARCHED, {"session_key": key}):
        connection.run(INSERT_UNSEARCHED, {"session_key": key, "seq": 0})


def write_shares(connection: Connection, key: int, row: HeadRow, *, is_new: bool) -> None:
    """Write the shares of a session."""
    if not is_new:
        connection.run(_DELETE_SHARES, {"session_key": key})
    ends = shares_of(row.head)
    if ends:
        connection.run_each(
            _INSERT_SHARE,
            [
                {"share_user": user_id, "session_key": key, "share_end": end}
                for user_id, end in ends.items()
            ],
        )


def write_metadata(connection: Connection, key: int, row: HeadRow, *, is_new: bool) -> None:
    """Write the pairs of a session's metadata."""
    if not is_new:
        connection.run(DELETE_METADATA, {"session_key": key})
    pairs = [{"pair": pair, "session_key": key} for pair in pairs_of(row.head.metadata)]
    if pairs:
        connection.run_each(INSERT_METADATA, pairs)


def delete_filters(connection: Connection, key: int) -> None:
    """Delete the shares of a session, and the pairs of its metadata."""
    connection.run(_DELETE_SHARES, {"session_key": key})
    connection.run(DELETE_METADATA, {"session_key": key})


def raise_epoch(connection: Connection, epoch: int) -> None:
    """Note that an epoch is used."""
    connection.run(_RAISE_EPOCH, {"epoch": epoch})
