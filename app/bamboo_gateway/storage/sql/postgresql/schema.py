"""The schema of the database: created, checked, upgraded and downgraded with Alembic.

`migrations/versions` has one file for each revision. All steps of one command are one transaction,
so a schema is never half of one and half of another.
"""

import io
import logging
from collections.abc import Callable
from pathlib import Path
from threading import Lock
from typing import TYPE_CHECKING, Any, Final

import psycopg
import structlog

from bamboo_gateway.storage.base import StoreUnusable
from bamboo_gateway.storage.sql.postgresql.connections import Driver
from bamboo_gateway.storage.sql.schema_change import UNRELEASED

if TYPE_CHECKING:
    from alembic.config import Config

log = structlog.get_logger(__name__)

REVISIONS: Final = ("0001", "0002")
"""All revisions that this version knows, the oldest first; `bamboo serve` needs the last one."""

_TABLES = """\
SELECT to_regclass('alembic_version') IS NOT NULL, to_regclass('sessions') IS NOT NULL,
  to_regclass('leftovers') IS NOT NULL, to_regclass('file_pieces') IS NOT NULL"""


# Alembic keeps what it works on in a module's variables.
_ALEMBIC = Lock()


def revision_of(connection: Driver) -> str | None:
    """Return the revision of a database, None for an empty one.

    Raises:
        StoreUnusable: The tables are those of another program or of a development version, or have
            lost their revision.
    """
    row = connection.execute(_TABLES).fetchone()
    assert row is not None
    has_versions, has_sessions, has_leftovers, has_last_table = row
    if has_versions:
        found = connection.execute("SELECT version_num FROM alembic_version").fetchone()
        if found is not None and has_sessions:
            if has_leftovers and not has_last_table:
                raise StoreUnusable(f"The database {UNRELEASED}")
            return str(found[0])
        if found is not None:
            raise _foreign("alembic_version")
    if has_sessions and has_leftovers:
        raise StoreUnusable(
            "The database has the gateway's tables, but no row in the table `alembic_version`, as "
            "after a restore that was not finished. Restore it again into an empty database."
        )
    if has_sessions:
        raise _foreign("sessions")
    return None


def _foreign(table: str) -> StoreUnusable:
    return StoreUnusable(
        f"The database has a table `{table}` of another program; give the gateway a database of "
        "its own."
    )


def check(revision: str) -> None:
    """Check that a schema is the one that this version needs.

    Raises:
        StoreUnusable: It is older or newer.
    """
    check_is_known(revision)
    if revision != REVISIONS[-1]:
        raise StoreUnusable(
            f"The database has schema {revision} of an older version of the gateway, and this one "
            f"needs {REVISIONS[-1]}; run `bamboo migrate schema` to upgrade it."
        )


def check_is_known(revision: str) -> None:
    """Check that a schema is not one of a newer version.

    Raises:
        StoreUnusable: It is.
    """
    if revision not in REVISIONS:
        raise StoreUnusable(
            f"The database has schema {revision} of a newer version of the gateway, and this one "
            f"knows up to {REVISIONS[-1]}; install that version, or go back with its `bamboo "
            f"migrate schema --to {REVISIONS[-1]}`."
        )


def move(connect: Callable[[], Driver], to: str = REVISIONS[-1]) -> None:
    """Create the tables in an empty database, or change those that are there.

    Args:
        connect: Makes a connection.
        to: The revision; an earlier one than the database's, or `base` for no tables, downgrades.

    Raises:
        psycopg.Error, StoreUnusable: Nothing has changed.
    """
    # What it does is said here; it would tell how. Before its import, which tells already.
    logging.getLogger("alembic").setLevel(logging.WARNING)
    from alembic import command  # noqa: PLC0415 - a start of the gateway seldom needs it
    from sqlalchemy import create_engine, pool  # noqa: PLC0415
    from sqlalchemy.exc import DBAPIError  # noqa: PLC0415

    def transactional() -> Driver:
        connection = connect()
        connection.autocommit = False
        return connection

    engine = create_engine(
        "postgresql+psycopg://",
        creator=transactional,
        poolclass=pool.NullPool,
        use_native_hstore=False,
    )
    try:
        with _ALEMBIC, engine.connect() as connection:
            config = _config()
            config.attributes["connection"] = connection
            revision = revision_of(_driver(connection))
            connection.rollback()
            run = command.downgrade if _is_earlier(to, revision) else command.upgrade
            run(config, to)
            connection.commit()
            if revision != to:
                log.info("PostgreSQL: the schema has changed", before=revision, after=to)
    except DBAPIError as error:
        if isinstance(error.orig, psycopg.Error):
            raise error.orig from None
        raise
    finally:
        engine.dispose()


def script(revision: str | None, to: str = REVISIONS[-1]) -> str:
    """Return the SQL that leads from a revision (None: an empty database) to another one."""
    from alembic import command  # noqa: PLC0415

    output = io.StringIO()
    config = _config(output)
    if _is_earlier(to, revision):
        command.downgrade(config, f"{revision}:{to}", sql=True)
    else:
        command.upgrade(config, f"{revision or 'base'}:{to}", sql=True)
    return output.getvalue()


def _is_earlier(to: str, revision: str | None) -> bool:
    if revision is None or to == "base":
        return revision is not None
    return REVISIONS.index(to) < REVISIONS.index(revision)


def _driver(connection: Any) -> Driver:
    driver: Driver = connection.connection.driver_connection
    return driver


def _config(output: io.StringIO | None = None) -> "Config":
    from alembic.config import Config  # noqa: PLC0415

    config = Config(output_buffer=output)
    directory = str(Path(__file__).with_name("migrations"))
    config.set_main_option("script_location", directory.replace("%", "%%"))
    return config
