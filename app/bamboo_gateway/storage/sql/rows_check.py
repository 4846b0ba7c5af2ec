"""The check of what belongs to no single session: stray rows, counts of users, the last epoch."""

from typing import Final

from sqlalchemy import bindparam, delete, func, insert, select, update

from bamboo_gateway.storage.index.tables import sessions
from bamboo_gateway.storage.reports import Finding
from bamboo_gateway.storage.sql.change_feed import is_behind, renew_feed
from bamboo_gateway.storage.sql.database import Connection
from bamboo_gateway.storage.sql.reads import scope_of
from bamboo_gateway.storage.sql.tables import (
    archives,
    events,
    leftovers,
    marks,
    meta,
    notes,
    search_messages,
    unsearched,
    usage,
)

_LOG_TABLES: Final = (events, marks, notes, archives, unsearched, search_messages)

# A leftover without a session's key names rows under its own number, negated.
_STRAYS: Final = {
    table: select(table.c.session_key)
    .distinct()
    .where(
        ~select(sessions.c.key).where(sessions.c.key == table.c.session_key).exists(),
        ~select(leftovers.c.number)
        .where(func.coalesce(leftovers.c.session_key, -leftovers.c.number) == table.c.session_key)
        .exists(),
    )
    for table in _LOG_TABLES
}
_DELETE_STRAYS: Final = {
    table: delete(table).where(table.c.session_key == bindparam("session_key"))
    for table in _LOG_TABLES
}
_COUNT_LEFTOVERS = select(leftovers.c.work, func.count()).group_by(leftovers.c.work)
_COUNTED = select(sessions.c.user_id, func.count(), func.sum(sessions.c.stored_bytes)).group_by(
    sessions.c.user_id
)
_STORED = select(
    usage.c.scope, func.sum(usage.c.sessions), func.sum(usage.c.stored_bytes)
).group_by(usage.c.scope)
_FORGET_USAGE = delete(usage)
_INSERT_USAGE = insert(usage).values(
    scope=bindparam("scope"),
    slot=0,
    sessions=bindparam("sessions"),
    stored_bytes=bindparam("stored_bytes"),
)
_LAST = select(meta.c.number).where(meta.c.name == "last_epoch")
_GREATEST = select(func.coalesce(func.max(sessions.c.epoch), 0))
_NOTE_LAST = update(meta).where(meta.c.name == "last_epoch").values(number=bindparam("new_epoch"))
_ADD_LAST = insert(meta).values(name="last_epoch", number=bindparam("new_epoch"))


def check_strays(connection: Connection, *, repairs: bool) -> list[Finding]:
    """Find rows of no session that no leftover names either; remove them with `repairs`."""
    findings = []
    for table in _LOG_TABLES:
        for (key,) in connection.rows(_STRAYS[table]):
            if repairs:
                connection.run(_DELETE_STRAYS[table], {"session_key": key})
            problem = "there are rows of a session that is not there"
            findings.append(Finding("warn", table.name, problem, "they are removed", repairs))
    return findings


def list_leftovers(connection: Connection) -> list[Finding]:
    """Name work that was interrupted. Nothing is wrong: its rows are invisible."""
    action = "the next start removes its rows, which nobody sees"
    return [
        Finding("note", "leftovers", f"{work} was interrupted {count} times", action)
        for work, count in sorted(connection.rows(_COUNT_LEFTOVERS))
    ]


def check_usage(connection: Connection, *, repairs: bool) -> list[Finding]:
    """Compare what is counted for each user with the sessions; count again with `repairs`."""
    counted: dict[bytes, tuple[int, int]] = {}
    total_count = total_bytes = 0
    for user_id, count, size in connection.rows(_COUNTED):
        total_count += int(count)
        total_bytes += int(size)
        if user_id is not None:
            counted[scope_of(user_id)] = int(count), int(size)
    counted[scope_of(None)] = total_count, total_bytes
    stored = {
        bytes(scope): (int(count), int(size)) for scope, count, size in connection.rows(_STORED)
    }
    nothing = (0, 0)
    wrong = [
        scope
        for scope in counted.keys() | stored.keys()
        if counted.get(scope, nothing) != stored.get(scope, nothing)
    ]
    if not wrong:
        return []
    if repairs:
        connection.run(_FORGET_USAGE)
        names = ("scope", "sessions", "stored_bytes")
        connection.run_each(
            _INSERT_USAGE,
            [dict(zip(names, (scope, *counts), strict=True)) for scope, counts in counted.items()],
        )
    problem = f"the counts of {len(wrong)} users are wrong"
    return [Finding("warn", "usage", problem, "they are counted again", repairs)]


def check_epoch(connection: Connection, *, repairs: bool) -> list[Finding]:
    """Check that the last epoch is the greatest: a smaller one could be given again (R3)."""
    last = connection.rows(_LAST)
    [(greatest,)] = connection.rows(_GREATEST)
    if last and greatest <= (last[0][0] or 0):
        return []
    if repairs:
        connection.run(_NOTE_LAST if last else _ADD_LAST, {"new_epoch": greatest})
    problem = "a session has a later epoch than the last one given"
    return [Finding("warn", "meta", problem, "the later one counts", repairs)]


def check_changes(connection: Connection, *, repairs: bool) -> list[Finding]:
    """Check that no number of a change is given again; begin a new feed with `repairs`."""
    if not is_behind(connection):
        return []
    if repairs:
        renew_feed(connection)
    problem = "a session has a later change than the last one counted"
    action = "who asks for changes lists all sessions again"
    return [Finding("warn", "meta", problem, action, repairs)]
