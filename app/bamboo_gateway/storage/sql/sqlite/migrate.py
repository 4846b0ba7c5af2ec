"""`bamboo migrate schema` for SQLite: upgrade the tables of a file, or say how."""

from pathlib import Path

import apsw

from bamboo_gateway.storage.base import StoreUnusable
from bamboo_gateway.storage.index.sqlite import open_database
from bamboo_gateway.storage.sql.schema_change import SchemaChange
from bamboo_gateway.storage.sql.sqlite import schema
from bamboo_gateway.storage.sql.sqlite.lock import DatabaseLock


def migrate(path: Path, to: str | None, *, is_dry: bool) -> SchemaChange:
    """Upgrade the schema of a database that no gateway uses.

    Args:
        path: The file.
        to: The version to reach; None is the newest. There is no way to an older one.
        is_dry: Change nothing, and return the SQL.

    Raises:
        StoreBusy: A process owns the database.
        StoreUnusable: It cannot be used, or its schema cannot become this version.
    """
    if not path.is_file():
        raise StoreUnusable(f"There is no database {path}.")
    lock = DatabaseLock(path)
    try:
        lock.take()
        connection = open_database(path)
    except (OSError, apsw.Error) as error:
        lock.release()
        raise StoreUnusable(f"The database {path} cannot be used: {error}.") from error
    try:
        before = schema.version_of(connection, path)
        wanted = _version(to, before)
        if is_dry:
            steps = [
                step for version in range(before, wanted) for step in schema.MIGRATIONS[version]
            ]
            return SchemaChange(str(before), str(wanted), "".join(f"{step};\n" for step in steps))
        schema.upgrade(connection, wanted)
        return SchemaChange(str(before), str(wanted))
    except apsw.Error as error:
        raise StoreUnusable(f"The schema of {path} was not changed: {error}.") from error
    finally:
        connection.close()
        lock.release()


def _version(to: str | None, before: int) -> int:
    wanted = schema.VERSION if to is None else int(to) if to.isascii() and to.isdigit() else -1
    if not before <= wanted <= schema.VERSION:
        raise StoreUnusable(
            f"The schema {before} cannot become {to}: a file is only ever upgraded, up to "
            f"{schema.VERSION}. Restore a backup to go back."
        )
    return wanted
