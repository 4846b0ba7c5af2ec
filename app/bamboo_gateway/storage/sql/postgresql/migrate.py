"""`bamboo migrate schema` and `new-epochs` for PostgreSQL, while no gateway uses the database."""

from secrets import token_hex

import psycopg

from bamboo_gateway.storage.base import StoreUnusable
from bamboo_gateway.storage.sql.postgresql import schema
from bamboo_gateway.storage.sql.postgresql.connection import PostgresConnection
from bamboo_gateway.storage.sql.postgresql.connections import Driver, connect
from bamboo_gateway.storage.sql.postgresql.database import PostgresDatabase
from bamboo_gateway.storage.sql.postgresql.errors import unusable
from bamboo_gateway.storage.sql.postgresql.ownership import Ownership
from bamboo_gateway.storage.sql.postgresql.target import Target
from bamboo_gateway.storage.sql.schema_change import SchemaChange


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
        database.open(follows=False)
        with database.writing() as connection:
            assert isinstance(connection, PostgresConnection)
            return database.renew_epochs(connection)
    finally:
        database.close()


def _move(connection: Driver, target: Target, before: str | None, wanted: str) -> None:
    if before is None:
        schema.move(lambda: connect(target), wanted)
        return
    ownership = Ownership(token_hex(16))
    ownership.take(connection)
    try:
        schema.move(lambda: connect(target), wanted)
    finally:
        if schema.revision_of(connection) is not None:
            ownership.release(connection)
