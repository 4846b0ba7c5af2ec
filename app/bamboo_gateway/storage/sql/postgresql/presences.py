"""Rows of `presence`: claims that live no longer than the process that made them.

A presence belongs to the row of its executor. While that process seems dead its presences are not
shown; they count again when it goes on, and are deleted with its row.

Two claims of one name are made one behind the other (a lock of the transaction): else two processes
that make one at the same moment would not see each other's.
"""

from collections.abc import Collection, Sequence
from typing import Any, Final

import psycopg

from bamboo_gateway.storage.replicas import Presence
from bamboo_gateway.storage.sql.postgresql.connections import Driver
from bamboo_gateway.storage.sql.postgresql.registration import NOW_MS

# Both are one message and one transaction.
_LOCK: Final = """\
SELECT pg_advisory_xact_lock(
  hashtextextended(%(session_id)s || ' ' || %(kind)s || ' ' || %(name)s, 4776311)
);
"""
_NAMED: Final = "p.session_id = %(session_id)s AND p.kind = %(kind)s AND p.name = %(name)s"
_PUT: Final = f"""\
put AS (
  INSERT INTO presence (session_id, kind, name, executor, body, touched_at)
  SELECT %(session_id)s, %(kind)s, %(name)s, executor, %(body)s, {NOW_MS}
  FROM executors WHERE executor = %(executor)s {{and_free}}
  ON CONFLICT (session_id, kind, name, executor)
  DO UPDATE SET body = excluded.body, wish = NULL, touched_at = excluded.touched_at
  RETURNING executor
)"""  # noqa: S608 - texts of ours
_ANSWER: Final = """\
SELECT EXISTS (SELECT FROM put), EXISTS (SELECT FROM executors WHERE executor = %(executor)s)"""
_CLAIM_STREAM: Final = f"""\
{_LOCK}WITH {_PUT.format(and_free="")}, others AS (
  UPDATE presence p SET wish = 'superseded' WHERE {_NAMED} AND p.executor <> %(executor)s
)
{_ANSWER}"""  # noqa: S608 - texts of ours
_IS_FREE: Final = f"""AND NOT EXISTS (
    SELECT FROM presence p JOIN executors e USING (executor)
    WHERE {_NAMED} AND p.executor <> %(executor)s AND p.executor <> ALL(%(dead)s)
  )"""
_CLAIM: Final = f"{_LOCK}WITH {_PUT.format(and_free=_IS_FREE)}\n{_ANSWER}"
_UNCLAIM: Final = f"DELETE FROM presence p WHERE {_NAMED} AND p.executor = %(executor)s"  # noqa: S608 - texts of ours
_COLUMNS: Final = "p.session_id, p.kind, p.name, p.executor, p.body, p.wish"
_PRESENT: Final = f"""\
SELECT {_COLUMNS} FROM presence p JOIN executors e USING (executor)
WHERE p.kind = %(kind)s AND p.executor <> ALL(%(dead)s)
  AND (%(session_ids)s::text[] IS NULL OR p.session_id = ANY(%(session_ids)s))"""  # noqa: S608 - texts of ours
_WISH: Final = f"""\
UPDATE presence p SET wish = %(wish)s FROM executors e
WHERE {_NAMED} AND e.executor = p.executor AND p.executor <> %(executor)s
  AND p.executor <> ALL(%(dead)s)"""  # noqa: S608 - texts of ours
# The rows are locked first: a wish that comes meanwhile is taken too, or stays.
_WISHES: Final = f"""\
WITH asked AS (
  SELECT * FROM presence WHERE executor = %(executor)s AND wish IS NOT NULL FOR UPDATE
)
UPDATE presence p SET wish = NULL FROM asked a
WHERE p.session_id = a.session_id AND p.kind = a.kind AND p.name = a.name
  AND p.executor = a.executor
RETURNING {_COLUMNS.replace("p.wish", "a.wish")}"""  # noqa: S608 - texts of ours


def claim(connection: Driver, one: Presence, dead: Sequence[str]) -> bool | None:
    """Write a presence, as `Replicas.claim`; None when its executor has no row."""
    statement = _CLAIM_STREAM if one.kind == "stream" else _CLAIM
    names = one._asdict() | {"dead": list(dead)}
    # The client puts the values in: the protocol has no parameters for several statements.
    cursor = psycopg.ClientCursor(connection)
    cursor.execute(statement, names)
    while cursor.nextset():
        pass
    [(is_written, has_row)] = cursor.fetchall()
    return bool(is_written) if has_row else None


def unclaim(connection: Driver, executor: str, session_id: str, kind: str, name: str) -> None:
    """Remove a presence, as `Replicas.unclaim`."""
    names = {"session_id": session_id, "kind": kind, "name": name, "executor": executor}
    connection.execute(_UNCLAIM, names)


def present(
    connection: Driver, kind: str, session_ids: Collection[str] | None, dead: Sequence[str]
) -> list[Presence]:
    """Return presences, as `Replicas.present`."""
    ids = None if session_ids is None else list(session_ids)
    names = {"kind": kind, "session_ids": ids, "dead": list(dead)}
    return _presences(connection.execute(_PRESENT, names).fetchall())


def ask(
    connection: Driver,
    executor: str,
    named: tuple[str, str, str],
    wish: str,
    dead: Sequence[str],
) -> bool:
    """Ask something of a presence (session, kind, name) of another process, as `Replicas.wish`."""
    session_id, kind, name = named
    names = {"session_id": session_id, "kind": kind, "name": name, "executor": executor}
    return connection.execute(_WISH, names | {"wish": wish, "dead": list(dead)}).rowcount > 0


def take_wishes(connection: Driver, executor: str) -> list[Presence]:
    """Return what is asked of an executor, and take it back, as `Replicas.wishes`."""
    return _presences(connection.execute(_WISHES, {"executor": executor}).fetchall())


def _presences(rows: Sequence[tuple[Any, ...]]) -> list[Presence]:
    return [
        Presence(session_id, kind, name, executor, bytes(body), wish)
        for session_id, kind, name, executor, body, wish in rows
    ]
