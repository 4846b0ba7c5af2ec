"""What diagnostics say of a running SQL store: its database, leftovers, search, and some sessions.

Nothing is changed. All of it blocks, on a thread for bulk work (R12).
"""

import random
from collections.abc import Iterator
from typing import Final

from sqlalchemy import bindparam, func, literal, select

from bamboo_gateway.domain.clock import Clock
from bamboo_gateway.domain.errors import BambooError, StorageFailed
from bamboo_gateway.storage.index.tables import sessions
from bamboo_gateway.storage.reports import Finding, StoreCheck
from bamboo_gateway.storage.sql.database import Database
from bamboo_gateway.storage.sql.session_check import SessionCheck
from bamboo_gateway.storage.sql.tables import leftovers, unsearched

_LEFTOVER_SECONDS_WARN: Final = 3600
"""Whoever works on one writes within seconds: what rested for an hour is nobody's."""

_BACKLOG_WARN: Final = 10_000
"""Messages are indexed by the thousand a second: so many that wait mean that it fails."""

_OLDEST = select(func.count(), func.min(leftovers.c.touched_at)).select_from(leftovers)
# Counting goes no further than what is told.
_WAITING = select(func.count()).select_from(
    select(literal(1)).select_from(unsearched).limit(_BACKLOG_WARN + 1).subquery()
)
_ENDS = select(func.min(sessions.c.key), func.max(sessions.c.key))
_NEXT = (
    select(sessions.c.key, sessions.c.id, sessions.c.log_bytes)
    .where(sessions.c.key >= bindparam("from_key"))
    .order_by(sessions.c.key)
    .limit(1)
)


def store_checks(
    database: Database, clock: Clock, sessions_max: int, bytes_max: int
) -> list[StoreCheck]:
    """Check a database, as `SupportsChecks`."""
    try:
        return [
            *database.checks(),
            _leftovers(database, clock),
            _search(database),
            _records(database, clock, sessions_max, bytes_max),
        ]
    except BambooError as error:
        action = "look in the log for the reason; the gateway retries by itself"
        return [StoreCheck("database", "fail", error.detail, action)]


def _leftovers(database: Database, clock: Clock) -> StoreCheck:
    with database.reading() as connection:
        [(count, oldest)] = connection.rows(_OLDEST)
    seen = f"{count} changes go on, or were interrupted"
    if count and clock.now_ms() - oldest > _LEFTOVER_SECONDS_WARN * 1000:
        action = "restart the gateway at a quiet hour: it removes them"
        return StoreCheck("leftovers", "warn", f"{seen}, some of them an hour ago", action)
    return StoreCheck("leftovers", "ok", seen)


def _search(database: Database) -> StoreCheck:
    with database.reading() as connection:
        [(count,)] = connection.rows(_WAITING)
    if count > _BACKLOG_WARN:
        seen = f"searches do not find more than {_BACKLOG_WARN} messages yet"
        return StoreCheck("search", "warn", seen, "wait, or look in the log why writes fail")
    return StoreCheck("search", "ok", f"searches do not find {count} messages yet")


def _records(database: Database, clock: Clock, sessions_max: int, bytes_max: int) -> StoreCheck:
    looked_at = size = 0
    wrong: list[str] = []
    for key, session_id, log_bytes in _chosen(database, sessions_max):
        if looked_at and size + log_bytes > bytes_max:
            continue
        size += log_bytes
        looked_at += 1
        try:
            found = _look(database, clock, key)
        except StorageFailed:
            wrong.append(f"{session_id}: it cannot be read")
            continue
        # A change that goes on removes rows before it counts them: only damage is told.
        wrong += [f"{session_id}: {one.problem}" for one in found if one.severity == "fail"]
    seen = f"{looked_at} sessions were read, chosen at random"
    if wrong:
        action = "stop, then run bamboo doctor --repair"
        return StoreCheck("records", "fail", f"{seen}; {'; '.join(wrong[:3])}", action)
    return StoreCheck("records", "ok", f"{seen}, every event is whole")


def _look(database: Database, clock: Clock, key: int) -> list[Finding]:
    with database.reading(snapshot=True) as connection:
        return SessionCheck(connection, clock, _keep_nothing, repairs=False).run(key)


def _chosen(database: Database, sessions_max: int) -> Iterator[tuple[int, str, int]]:
    """Choose sessions at random, at a cost that does not grow with their number."""
    with database.reading() as connection:
        [(first, last)] = connection.rows(_ENDS)
        if first is None:
            return
        span = range(first, last + 1)
        places = random.sample(span, min(sessions_max, len(span)))
        # A gap leads to the session behind it, which may have been chosen already.
        found = {row[0]: row for p in places for row in connection.rows(_NEXT, {"from_key": p})}
    for key, session_id, log_bytes in found.values():
        yield int(key), str(session_id), int(log_bytes)


def _keep_nothing(_key: int, _lines: bytes) -> None:
    raise AssertionError("only a repair sets something aside")
