"""`bamboo migrate schema` and `new-epochs` for PostgreSQL, while no gateway uses the database."""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

import psycopg

from bamboo_gateway.storage.base import StoreUnusable
from bamboo_gateway.storage.sql.postgresql import processes, schema
from bamboo_gateway.storage.sql.postgresql.admission import Admission
from bamboo_gateway.storage.sql.postgresql.connection import PostgresConnection
from bamboo_gateway.storage.sql.postgresql.connections import Driver, connect
from bamboo_gateway.storage.sql.postgresql.database import PostgresDatabase
from bamboo_gateway.storage.sql.postgresql.errors import unusable
from bamboo_gateway.storage.sql.postgresql.heartbeat import TIMING, Heartbeat
from bamboo_gateway.storage.sql.postgresql.registration import Other
from bamboo_gateway.storage.sql.postgresql.target import Target
from bamboo_gateway.storage.sql.schema_change import SchemaChange

# The schema of the version that had one process at a time, which `meta.owner` named.
_OF_ONE_PROCESS: Final = "0001"
_ASK_SECONDS: Final = 0.5

_OWNER: Final = "SELECT text, number FROM meta WHERE name = 'owner'"
_OWN: Final = """\
INSERT INTO meta (name, number, text) VALUES ('owner', 0, %(mine)s)
ON CONFLICT (name) DO UPDATE SET number = 0, text = excluded.text
  WHERE meta.text = %(theirs)s AND meta.number = %(counter)s
RETURNING 1"""
_DISOWN: Final = "DELETE FROM meta WHERE name = 'owner' AND text = %s"


def migrate(target: Target, to: str | None, *, is_dry: bool) -> SchemaChange:
    """Change the schema of a database that no gateway uses.

    Args:
        target: The database.
        to: The revision, or `base` for no tables at all; None is the newest.
        is_dry: Change nothing, and return the SQL.

    Raises:
        StoreBusy: A gateway uses the database.
        StoreUnusable: It cannot be used, or there is no such revision.
    """
    wanted = schema.REVISIONS[-1] if to is None else to
    if wanted not in (*schema.REVISIONS, "base"):
        known = ", ".join(schema.REVISIONS)
        raise StoreUnusable(f"There is no schema {wanted!r}: this version knows {known} and base.")
    try:
        with connect(target) as connection:
            before = schema.revision_of(connection)
            if before is not None:
                schema.check_is_known(before)
            after = None if wanted == "base" else wanted
            if before == after:
                return SchemaChange(before, after)
            if is_dry:
                return SchemaChange(before, after, schema.script(before, wanted))
            _move(connection, target, before, wanted)
            return SchemaChange(before, after)
    except psycopg.Error as error:
        raise unusable(target.shown, error) from error


def give_new_epochs(database: PostgresDatabase) -> int:
    """Give every session of a database that no gateway uses a new epoch; return how many.

    Raises:
        StoreBusy: A gateway uses the database.
        StoreUnusable: It cannot be used, or has no tables.
    """
    if database.look() is None:
        raise StoreUnusable("The database has no tables of a gateway: there are no sessions.")
    try:
        database.be_alone()
        database.open(follows=False)
        with database.writing() as connection:
            assert isinstance(connection, PostgresConnection)
            return database.renew_epochs(connection)
    finally:
        database.close()


def _move(connection: Driver, target: Target, before: str | None, wanted: str) -> None:
    if before is None:
        schema.move(lambda: connect(target), wanted)
    elif before == _OF_ONE_PROCESS:
        with _owning(connection):
            schema.move(lambda: connect(target), wanted)
    else:
        with _alone(connection, target):
            schema.move(lambda: connect(target), wanted)


@contextmanager
def _alone(connection: Driver, target: Target) -> Iterator[None]:
    """Keep other processes out of a database that several may use."""
    heartbeat = Heartbeat(target, TIMING)
    heartbeat.begin(connection, alone=True)
    try:
        yield
    finally:
        heartbeat.stop()
        if schema.revision_of(connection) not in {None, _OF_ONE_PROCESS}:
            heartbeat.release(connection)


@contextmanager
def _owning(connection: Driver) -> Iterator[None]:
    """Keep gateways of an earlier version out, of which one process owned the database."""
    mine = processes.own_name()
    admission = Admission(TIMING.dead_seconds, alone=True)
    while True:
        row = connection.execute(_OWNER).fetchone()
        others = [Other(row[0], row[1], row[0], is_old=False)] if row is not None else []
        if admission.admit(others, None):
            theirs, counter = row or (None, None)
            values = {"mine": mine, "theirs": theirs, "counter": counter}
            if connection.execute(_OWN, values).fetchone():
                break
        else:
            time.sleep(_ASK_SECONDS)
    try:
        yield
    finally:
        if schema.revision_of(connection) is not None:
            connection.execute(_DISOWN, [mine])
