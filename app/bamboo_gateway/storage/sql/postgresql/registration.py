"""The rows of `executors`: how a process begins, renews and ends, and who may be alone.

All statements are of one transaction, so they work behind PgBouncer. Who begins holds a lock until
its row is there: slots are given once, and of a gateway and a command that wants the database for
itself, one sees the other.
"""

from collections.abc import Callable
from typing import Any, Final, NamedTuple

from bamboo_gateway.storage.sql.postgresql.connections import Driver

NOW_MS: Final = "(extract(epoch FROM clock_timestamp()) * 1000)::bigint"

# A row whose counter has not moved for this long is removed, when no session names its executor.
_FORGOTTEN_MS: Final = 3_600_000
# `usage.slot` is twice as large.
_SLOTS_MAX: Final = 16_000

_LIMITS: Final = (
    "SET LOCAL lock_timeout = '5s'; SET LOCAL idle_in_transaction_session_timeout = '10s'"
)
# Any number that is not the one of `migrations/env.py` will do.
_LOCK: Final = "SELECT pg_advisory_xact_lock(4776310)"
_INSERT: Final = f"""\
INSERT INTO executors (executor, counter, slot, name, started_at, touched_at)
SELECT %(executor)s, 0, min(n), %(name)s, {NOW_MS}, {NOW_MS}
FROM generate_series(0, {_SLOTS_MAX}) n
WHERE NOT EXISTS (SELECT FROM executors e WHERE e.slot = n)
RETURNING slot"""  # noqa: S608 - numbers of ours
_OTHERS: Final = f"""\
SELECT executor, counter, name, touched_at < {NOW_MS} - {_FORGOTTEN_MS}
FROM executors WHERE executor <> %(executor)s"""  # noqa: S608
_META: Final = """\
SELECT (SELECT text FROM meta WHERE name = 'leader'),
  (SELECT text FROM meta WHERE name = 'alone')"""
# The other rows are those of the statement's beginning, and `mine` is what it has changed.
_RENEW: Final = f"""\
WITH mine AS (
  UPDATE executors SET counter = counter + 1, touched_at = {NOW_MS} WHERE executor = %(executor)s
  RETURNING executor
)
SELECT e.executor, e.counter, e.name, e.touched_at < {NOW_MS} - {_FORGOTTEN_MS},
  EXISTS (SELECT FROM mine), (SELECT text FROM meta WHERE name = 'leader')
FROM executors e"""  # noqa: S608
_LEAD: Final = """\
INSERT INTO meta (name, text) VALUES ('leader', %(executor)s)
ON CONFLICT (name) DO UPDATE SET text = excluded.text
WHERE meta.text IS NOT DISTINCT FROM %(leader)s AND NOT EXISTS (
  SELECT FROM executors e WHERE e.executor = meta.text AND e.counter <> %(counter)s
)
RETURNING 1"""
_BE_ALONE: Final = """\
WITH dead AS (DELETE FROM executors WHERE executor <> %(executor)s),
  theirs AS (DELETE FROM presence WHERE executor <> %(executor)s)
INSERT INTO meta (name, text) VALUES ('alone', %(executor)s)
ON CONFLICT (name) DO UPDATE SET text = excluded.text"""
# Only with the counter that was judged: who starts a run moves it, and who lives too.
_REMOVE: Final = """\
WITH gone AS (
  DELETE FROM executors e WHERE e.executor = %(executor)s AND e.counter = %(counter)s
    AND NOT EXISTS (SELECT FROM sessions s WHERE s.executor = e.executor)
  RETURNING e.executor
)
DELETE FROM presence p USING gone g WHERE p.executor = g.executor"""
_SWEEP: Final = """\
DELETE FROM presence p
WHERE NOT EXISTS (SELECT FROM executors e WHERE e.executor = p.executor)"""
_RELEASE: Final = """\
WITH streams AS (DELETE FROM presence WHERE executor = %(executor)s),
  roles AS (DELETE FROM meta WHERE name IN ('leader', 'alone') AND text = %(executor)s)
DELETE FROM executors WHERE executor = %(executor)s"""


class Other(NamedTuple):
    """The row of another executor."""

    executor: str
    counter: int
    name: str
    is_old: bool


class Renewal(NamedTuple):
    """What a renewal has seen; `is_lost` when there is no row of this executor."""

    is_lost: bool
    others: list[Other]
    leader: str | None


class Begun(NamedTuple):
    """What a process saw that has begun."""

    slot: int
    others: list[Other]
    leader: str | None


Admit = Callable[[list[Other], str | None], bool]
"""Called with the other processes and with the one that has the database alone, if there is one.
It returns whether this process may begin beside them; False means that it is asked again later.

Raises:
    StoreBusy: The process may not begin at all.
"""


def begin(
    connection: Driver, executor: str, name: str, admit: Admit, *, alone: bool = False
) -> Begun | None:
    """Write the row of an executor, if it is admitted; None if not yet.

    Who is `alone` removes the rows of all others: it was admitted because they are dead.
    """
    with connection.transaction():
        _lock(connection)
        names = {"executor": executor, "name": name}
        others = [Other(*row) for row in connection.execute(_OTHERS, names).fetchall()]
        [(leader, holder)] = connection.execute(_META).fetchall()
        if not admit(others, holder):
            return None
        [(slot,)] = connection.execute(_INSERT, names).fetchall()
        if alone:
            connection.execute(_BE_ALONE, names)
        return Begun(int(slot), others, leader)


def renew(connection: Driver, executor: str) -> Renewal:
    """Move the counter of an executor, and read those of the others."""
    rows: list[tuple[Any, ...]] = connection.execute(_RENEW, {"executor": executor}).fetchall()
    others = [Other(*row[:4]) for row in rows if row[0] != executor]
    return Renewal(not rows or not rows[0][4], others, rows[0][5] if rows else None)


def lead(connection: Driver, executor: str, leader: str | None, counter: int) -> bool:
    """Take the place of a leader that was judged dead by this counter; return whether it worked."""
    names = {"executor": executor, "leader": leader, "counter": counter}
    return connection.execute(_LEAD, names).fetchone() is not None


def remove(connection: Driver, executor: str, counter: int) -> None:
    """Remove the row of a dead executor and its presences, unless a session names it."""
    connection.execute(_REMOVE, {"executor": executor, "counter": counter})


def sweep(connection: Driver) -> None:
    """Remove the presences of executors that have no row."""
    connection.execute(_SWEEP)


def release(connection: Driver, executor: str) -> None:
    """Remove an executor's row, with all that lives no longer than it."""
    connection.execute(_RELEASE, {"executor": executor})


def _lock(connection: Driver) -> None:
    """Take the lock of those who begin, until the transaction ends."""
    connection.execute(_LIMITS)
    connection.execute(_LOCK)
