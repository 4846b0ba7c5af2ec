"""Work with invisible rows: it is named before it begins, so that nothing is left of it for good.

A row of `leftovers` is also the claim to the work: when it is gone, somebody else has taken over or
a commit needed the place, and whoever finds that gives up.
"""

from collections.abc import Callable
from typing import Any, Literal

from sqlalchemy import and_, bindparam, column, delete, func, insert, select, table, update

from bamboo_gateway.domain.limits import MiB
from bamboo_gateway.storage.index.search_statements import delete_statement
from bamboo_gateway.storage.index.statement import DialectName
from bamboo_gateway.storage.index.tables import sessions
from bamboo_gateway.storage.sql.database import Connection, Database
from bamboo_gateway.storage.sql.tables import (
    MARK_KINDS,
    archives,
    events,
    leftovers,
    marks,
    notes,
    search_messages,
    unsearched,
)

Work = Literal["creation", "extension", "deletion", "packing", "compaction"]

# What one transaction removes or adds: commits wait that long, some 10 ms.
PORTION_ROWS = 2000
PORTION_BYTES = 1 * MiB
# Each deleted message changes the trigram index.
SEARCHED_ROWS = 200

_BEGIN = (
    insert(leftovers)
    .values(
        work=bindparam("work"),
        session_key=bindparam("session_key"),
        deltas_upto=bindparam("deltas_upto"),
        touched_at=bindparam("now_ms"),
    )
    .returning(leftovers.c.number)
)
# Where several processes share the database, the row says whose it is.
_shared = table("leftovers", *(column(one.name) for one in leftovers.c), column("executor"))
_BEGIN_OF = (
    insert(_shared)
    .values(
        work=bindparam("work"),
        session_key=bindparam("session_key"),
        deltas_upto=bindparam("deltas_upto"),
        touched_at=bindparam("now_ms"),
        executor=bindparam("executor"),
    )
    .returning(_shared.c.number)
)
_TOUCH = (
    update(leftovers)
    .where(leftovers.c.number == bindparam("claim"))
    .values(touched_at=bindparam("now_ms"))
)
_TOUCH_OF = (
    update(_shared)
    .where(_shared.c.number == bindparam("claim"), _shared.c.executor == bindparam("mine"))
    .values(touched_at=bindparam("now_ms"))
)
_TAKE = (
    update(_shared).where(_shared.c.number == bindparam("claim")).values(executor=bindparam("mine"))
)
_END = delete(leftovers).where(leftovers.c.number == bindparam("claim"))
_WORK = select(leftovers.c.work, leftovers.c.session_key, leftovers.c.deltas_upto).where(
    leftovers.c.number == bindparam("claim")
)
# Behind the lock of the session's row, as all who write under the claim take the two.
_LOCK = select(leftovers.c.number).where(leftovers.c.number == bindparam("claim")).with_for_update()
_RIVALS = select(leftovers.c.number).where(
    leftovers.c.session_key == bindparam("session_key"), leftovers.c.work == bindparam("work")
)
_ROW = (
    select(sessions.c.seq, sessions.c.version, sessions.c.is_packed)
    .where(sessions.c.key == bindparam("session_key"))
    .with_for_update()
)
_NO_END = (1 << 62) - 1


def begin(
    connection: Connection,
    work: Work,
    now_ms: int,
    session_key: int | None = None,
    deltas_upto: int = 0,
) -> int:
    """Name the work; return its number."""
    values: dict[str, Any] = {"work": work, "session_key": session_key, "deltas_upto": deltas_upto}
    values["now_ms"] = now_ms
    if connection.executor is None:
        [(number,)] = connection.rows(_BEGIN, values)
    else:
        values["executor"] = connection.executor
        [(number,)] = connection.rows(_BEGIN_OF, values)
    return int(number)


def still_claimed(connection: Connection, number: int, now_ms: int) -> bool:
    """Return whether the work is still the caller's, and note that it goes on."""
    values: dict[str, Any] = {"claim": number, "now_ms": now_ms}
    if connection.executor is None:
        return connection.run(_TOUCH, values) == 1
    return connection.run(_TOUCH_OF, values | {"mine": connection.executor}) == 1


def end(connection: Connection, number: int) -> bool:
    """Take the work from the list; return whether it was still there."""
    return connection.run(_END, {"claim": number}) == 1


def rivals(connection: Connection, work: Work, session_key: int) -> list[int]:
    """Return the numbers of the same work on the same session."""
    rows = connection.rows(_RIVALS, {"work": work, "session_key": session_key})
    return [int(number) for (number,) in rows]


def evict(database: Database, number: int) -> None:
    """Remove what is invisible of a work that may be another process's, which may still live.

    The claim is taken from it first: it would publish what is half removed.
    """
    with database.writing(durable=False) as connection:
        if connection.executor is not None:
            connection.run(_TAKE, {"claim": number, "mine": connection.executor})
    remove(database, number)


def remove(database: Database, number: int) -> None:
    """Remove what is invisible of a work, in short transactions, and then its row.

    The same call ends work that has been published: packing leaves the events, a deletion all.
    """
    while not _remove_portion(database, number):
        pass


def _remove_portion(database: Database, number: int) -> bool:
    """Remove a portion; return whether nothing was left, and the row is gone."""
    with database.writing(durable=False) as connection:
        found = connection.rows(_WORK, {"claim": number})
        if not found:
            return True
        work, session_key, deltas_upto = found[0]
        key = -number if session_key is None else int(session_key)
        rows = connection.rows(_ROW, {"session_key": key})
        row = rows[0] if rows else None
        if connection.executor is not None and not connection.rows(_LOCK, {"claim": number}):
            # Another process has ended it meanwhile, and may write rows in the same places already.
            return True
        for remove_some in _removals(work, key, row, int(deltas_upto), database.dialect):
            if remove_some(connection):
                return False
        return end(connection, number)


Removal = Callable[[Connection], int]


def _removals(
    work: Work, key: int, row: Any, deltas_upto: int, dialect: DialectName
) -> list[Removal]:
    """Return the functions that each remove a portion, and return how many rows that were."""
    if row is None:
        # What is searched goes first, since it has texts too.
        return [
            _searched(key, dialect),
            _unsearched(key, -1),
            *_beyond(key, -1, -1),
            _archives(key),
        ]
    seq, version, is_packed = row
    match work:
        case "extension":
            return [_unsearched(key, int(seq)), *_beyond(key, int(seq), int(version))]
        case "packing":
            return [_events(key, -1)] if is_packed else [_archives(key)]
        case "compaction":
            return [] if is_packed else [_deltas(key, deltas_upto)]
        case "creation" | "deletion":
            # The session is there: the creation was published, or the deletion never was.
            return []


def _beyond(key: int, seq: int, version: int) -> list[Removal]:
    return [
        _events(key, seq),
        *(_marks(key, kind, seq) for kind in MARK_KINDS.values()),
        _notes(key, version),
    ]


def _portion_of(table: Any, column: Any, size: Any, *conditions: Any) -> Any:
    condition = and_(
        table.c.session_key == bindparam("session_key"), column > bindparam("after"), *conditions
    )
    chosen = select(column, size).where(condition).order_by(column).limit(PORTION_ROWS)
    removed = delete(table).where(condition, column <= bindparam("last"))
    return chosen, removed


_EVENTS = _portion_of(events, events.c.seq, func.length(events.c.body))
_DELTAS = _portion_of(
    events,
    events.c.seq,
    func.length(events.c.body),
    events.c.is_delta.is_(True),
    events.c.seq <= bindparam("upto"),
)
_MARKS = _portion_of(
    marks, marks.c.seq, func.length(marks.c.key), marks.c.kind == bindparam("kind")
)
_ARCHIVES = _portion_of(archives, archives.c.last_seq, func.length(archives.c.body))
_UNSEARCHED = _portion_of(unsearched, unsearched.c.seq, unsearched.c.seq * 0)
_HAS_SEARCHED = (
    select(search_messages.c.number)
    .where(search_messages.c.session_key == bindparam("session_key"))
    .limit(1)
)
_NOTES = (
    select(notes.c.seq, notes.c.version, notes.c.number, func.length(notes.c.body))
    .where(notes.c.session_key == bindparam("session_key"), notes.c.version > bindparam("after"))
    .limit(PORTION_ROWS)
)
_NOTE = delete(notes).where(
    notes.c.session_key == bindparam("session_key"),
    notes.c.seq == bindparam("note_seq"),
    notes.c.version == bindparam("note_version"),
    notes.c.number == bindparam("note_number"),
)


def _by_range(statements: Any, names: dict[str, Any]) -> Removal:
    chosen, removed = statements

    def remove_some(connection: Connection) -> int:
        last, size = None, 0
        for place, length in connection.rows(chosen, names):
            last = place
            size += length
            if size > PORTION_BYTES:
                break
        return 0 if last is None else connection.run(removed, names | {"last": last})

    return remove_some


def _searched(key: int, dialect: DialectName) -> Removal:
    statement = delete_statement(dialect)
    names = {"session_key": key, "upto": _NO_END, "rows": SEARCHED_ROWS}
    values = statement.with_values(names)

    def remove_some(connection: Connection) -> int:
        # How many were deleted a driver does not always say.
        if not connection.rows(_HAS_SEARCHED, {"session_key": key}):
            return 0
        connection.execute(statement.text, values)
        return 1

    return remove_some


def _unsearched(key: int, after: int) -> Removal:
    return _by_range(_UNSEARCHED, {"session_key": key, "after": after})


def _events(key: int, after: int) -> Removal:
    return _by_range(_EVENTS, {"session_key": key, "after": after})


def _deltas(key: int, upto: int) -> Removal:
    return _by_range(_DELTAS, {"session_key": key, "after": -1, "upto": upto})


def _marks(key: int, kind: int, after: int) -> Removal:
    return _by_range(_MARKS, {"session_key": key, "kind": kind, "after": after})


def _archives(key: int) -> Removal:
    return _by_range(_ARCHIVES, {"session_key": key, "after": -1})


def _notes(key: int, version: int) -> Removal:
    def remove_some(connection: Connection) -> int:
        chosen, size = [], 0
        for seq, at_version, number, length in connection.rows(
            _NOTES, {"session_key": key, "after": version}
        ):
            chosen.append(
                {
                    "session_key": key,
                    "note_seq": seq,
                    "note_version": at_version,
                    "note_number": number,
                }
            )
            size += length
            if size > PORTION_BYTES:
                break
        if chosen:
            connection.run_each(_NOTE, chosen)
        return len(chosen)

    return remove_some
