"""The schema of a SQLite database: created, checked, and upgraded by plain SQL.

`user_version` is the version of the schema. `application_id` says that the file is the gateway's.
"""

from pathlib import Path
from typing import Final

import apsw

from bamboo_gateway.storage.base import StoreUnusable
from bamboo_gateway.storage.index.search_tables import SQLITE_DDL
from bamboo_gateway.storage.index.sqlite import create_tables
from bamboo_gateway.storage.sql.change_feed import renew_feed
from bamboo_gateway.storage.sql.schema_change import UNRELEASED
from bamboo_gateway.storage.sql.sqlite.connection import SqliteConnection
from bamboo_gateway.storage.sql.tables import events

APPLICATION_ID: Final = int.from_bytes(b"Bamb")
VERSION: Final = 1
"""The version of the schema that `tables` has."""

# The table that was added last while the first schema was still changing.
_HAS_LAST_TABLE: Final = "SELECT count(*) FROM sqlite_schema WHERE name = 'session_metadata'"

# What leads from each version to the next: version -> statements. A released one never changes.
MIGRATIONS: Final[dict[int, tuple[str, ...]]] = {}


def is_empty(connection: apsw.Connection) -> bool:
    """Return whether the database has nothing in it yet."""
    return not connection.execute("SELECT count(*) FROM sqlite_schema").get


def create(connection: apsw.Connection) -> None:
    """Create the tables in an empty database; one transaction."""
    connection.execute("BEGIN IMMEDIATE")
    try:
        create_tables(connection, events.metadata)
        for statement in SQLITE_DDL:
            connection.execute(statement)
        connection.execute("INSERT INTO meta (name, number) VALUES ('last_epoch', 0), ('fence', 0)")
        renew_feed(SqliteConnection(connection))
        connection.execute(f"PRAGMA application_id = {APPLICATION_ID}")
        connection.execute(f"PRAGMA user_version = {VERSION}")
        connection.execute("COMMIT")
    except BaseException:
        if connection.in_transaction:
            connection.execute("ROLLBACK")
        raise


def version_of(connection: apsw.Connection, path: Path) -> int:
    """Return the version of a database's schema.

    Raises:
        StoreUnusable: It is the database of another program, or of a newer version of this one.
    """
    if connection.pragma("application_id") != APPLICATION_ID:
        raise StoreUnusable(
            f"{path} is the database of another program; choose another storage_url."
        )
    version: int = connection.pragma("user_version")
    if version > VERSION:
        raise StoreUnusable(
            f"{path} has schema {version} of a newer version of the gateway, and this one knows "
            f"up to {VERSION}; install that version, or restore a backup."
        )
    return version


def check(connection: apsw.Connection, path: Path) -> None:
    """Check that the database is the gateway's, and of this version; not one that is empty.

    Raises:
        StoreUnusable: It is not.
    """
    version = version_of(connection, path)
    if version < VERSION:
        raise StoreUnusable(
            f"{path} has schema {version} of an older version of the gateway; run "
            "`bamboo migrate schema` to upgrade it."
        )
    if not connection.execute(_HAS_LAST_TABLE).get:
        raise StoreUnusable(f"{path} {UNRELEASED}")


def upgrade(connection: apsw.Connection, upto: int = VERSION) -> list[int]:
    """Upgrade the schema, one transaction for each version; return the versions that it reached."""
    reached = []
    version: int = connection.pragma("user_version")
    while version < upto:
        connection.execute("BEGIN IMMEDIATE")
        try:
            for statement in MIGRATIONS[version]:
                connection.execute(statement)
            version += 1
            connection.execute(f"PRAGMA user_version = {version}")
            connection.execute("COMMIT")
        except BaseException:
            if connection.in_transaction:
                connection.execute("ROLLBACK")
            raise
        reached.append(version)
    return reached
