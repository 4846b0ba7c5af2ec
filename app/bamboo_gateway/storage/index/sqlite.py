"""SQLite databases through apsw, which brings a SQLite of its own.

apsw is no DBAPI, so SQLAlchemy does not execute anything: its dialect compiles a statement once to
text with named parameters, and apsw executes that.
"""

from pathlib import Path
from typing import TYPE_CHECKING, Literal

import apsw

from bamboo_gateway.storage.index.statement import sql_dialect

if TYPE_CHECKING:
    from sqlalchemy import MetaData, Table

# A page of the database is read and written as a whole; heads of sessions take 200 to 2,000 bytes.
_PAGE_BYTES = 4096
# The pages that a connection keeps, in KiB: the upper levels of the indexes of 100,000 sessions.
_CACHE_KIB = 8 * 1024
# After a large transaction the WAL shrinks to this again, so that its space is not kept for good.
_WAL_BYTES_MAX = 4 * 1024 * 1024
# How long a connection waits for another one's lock. One process owns the database, so only a
# short lock of its other connection can be in the way.
_BUSY_MS = 5000


def open_database(
    path: Path,
    *,
    synchronous: Literal["OFF", "NORMAL", "FULL"] = "FULL",
    read_only: bool = False,
) -> apsw.Connection:
    """Open a database in WAL mode, and create it if it does not exist.

    Deleted rows are overwritten with zeros (`secure_delete`). Their former content stays in the
    WAL until `truncate_wal`.

    Args:
        path: The file. Beside it SQLite keeps `-wal` and `-shm`.
        synchronous: `FULL` makes every commit durable. With `NORMAL` the last ones may be lost
            when the machine fails, but the database is never torn.
        read_only: Open a second connection that reads alone; the database exists.

    Raises:
        apsw.Error: It cannot be opened, or is no database.
    """
    flags = (
        apsw.SQLITE_OPEN_READONLY
        if read_only
        else apsw.SQLITE_OPEN_READWRITE | apsw.SQLITE_OPEN_CREATE
    )
    connection = apsw.Connection(str(path), flags=flags | apsw.SQLITE_OPEN_NOFOLLOW)
    try:
        connection.set_busy_timeout(_BUSY_MS)
        if not read_only:
            connection.pragma("page_size", _PAGE_BYTES)
            connection.pragma("journal_mode", "wal")
            connection.pragma("journal_size_limit", _WAL_BYTES_MAX)
            connection.pragma("secure_delete", True)
        connection.pragma("synchronous", synchronous)
        connection.pragma("cache_size", -_CACHE_KIB)
        connection.pragma("temp_store", "memory")
        connection.pragma("trusted_schema", False)
    except BaseException:
        connection.close()
        raise
    return connection


def truncate_wal(connection: apsw.Connection) -> bool:
    """Write the WAL into the database and empty it; return whether nothing was in the way.

    A reader's open transaction may be: the next call tries again.
    """
    busy = connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").get[0]
    return not busy


def create_tables(connection: apsw.Connection, metadata: "MetaData") -> None:
    """Create all tables and their indexes; the caller has begun a transaction."""
    for table in metadata.sorted_tables:
        create_table(connection, table)


def create_table(connection: apsw.Connection, table: "Table", *, is_listed: bool = True) -> None:
    """Create a table, with the indexes of lists if it is listed, else only the unique ones."""
    from sqlalchemy.schema import CreateIndex, CreateTable  # noqa: PLC0415 - see `statement`

    dialect = sql_dialect("sqlite")
    connection.execute(str(CreateTable(table).compile(dialect=dialect)))
    for index in sorted(table.indexes, key=lambda index: str(index.name)):
        if index.unique or is_listed:
            connection.execute(str(CreateIndex(index).compile(dialect=dialect)))
