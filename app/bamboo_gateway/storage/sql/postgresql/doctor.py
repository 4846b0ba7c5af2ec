"""`bamboo doctor` on a PostgreSQL database that no gateway uses: every row, count and content.

The pages and indexes are the server's own matter (`pg_amcheck`). What follows from other rows is
checked and repaired as in SQLite. While it works the database is its own, as it is a gateway's, so
that none starts meanwhile; a gateway that runs is left alone.

Each session is checked in a transaction of its own: a large database is not held back for hours.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from sqlalchemy import bindparam, func, select

from bamboo_gateway.domain.clock import Clock
from bamboo_gateway.domain.errors import BambooError
from bamboo_gateway.storage.base import StoreUnusable
from bamboo_gateway.storage.index.tables import sessions
from bamboo_gateway.storage.reports import Finding
from bamboo_gateway.storage.sql import rows_check
from bamboo_gateway.storage.sql.contents_check import check_contents
from bamboo_gateway.storage.sql.postgresql.connection import PostgresConnection
from bamboo_gateway.storage.sql.postgresql.database import PostgresDatabase
from bamboo_gateway.storage.sql.session_check import SessionCheck

Progress = Callable[[int, int], None]

# Sessions whose keys are in memory at a time.
_KEYS_MAX: Final = 1000

_KEYS = (
    select(sessions.c.key)
    .where(sessions.c.key > bindparam("after"))
    .order_by(sessions.c.key)
    .limit(_KEYS_MAX)
)
_COUNT = select(func.count()).select_from(sessions)
# Reading a whole table takes its time, and nobody waits for a row that it has locked.
_NO_LIMITS: Final = (
    "SET LOCAL statement_timeout = 0; SET LOCAL idle_in_transaction_session_timeout = 0"
)


def check(
    database: PostgresDatabase,
    quarantine: Path,
    clock: Clock,
    *,
    repair: bool = False,
    new_epochs: bool = False,
    progress: Progress | None = None,
) -> list[Finding]:
    """Check a database; this blocks, so it runs in a process of its own.

    Args:
        database: The database; it is not open.
        quarantine: The directory for damaged events; it is made when there is one.
        clock: The clock for new epochs.
        repair: Repair what is found.
        new_epochs: Give every session a new epoch. For a restored backup: clients may have seen
            later positions than it has. Includes `repair`.
        progress: Called with the number of sessions examined and their total.

    Raises:
        StoreBusy: A gateway uses the database.
        StoreUnusable: It cannot be used, or has no tables.
    """
    if database.look() is None:
        raise StoreUnusable("The database has no tables of a gateway: there is nothing to check.")
    examination = _Examination(database, quarantine, clock, repairs=repair or new_epochs)
    try:
        database.be_alone()
        database.open(follows=False)
        return examination.run(progress, new_epochs=new_epochs)
    except OSError as error:
        raise StoreUnusable(f"{quarantine} cannot be written: {error.strerror}.") from error
    finally:
        database.close()


class _Examination:
    def __init__(
        self, database: PostgresDatabase, quarantine: Path, clock: Clock, *, repairs: bool
    ) -> None:
        self._database = database
        self._quarantine = quarantine
        self._clock = clock
        self._repairs = repairs
        self._findings: list[Finding] = []

    def run(self, progress: Progress | None, *, new_epochs: bool) -> list[Finding]:
        self._check_sessions(progress)
        repairs, found = self._repairs, self._findings
        with self._transaction() as connection:
            found += rows_check.check_strays(connection, repairs=repairs)
            found += rows_check.list_leftovers(connection)
            found += rows_check.check_usage(connection, repairs=repairs)
            found += rows_check.check_epoch(connection, repairs=repairs)
            found += rows_check.check_changes(connection, repairs=repairs)
            if new_epochs:
                count = self._database.renew_epochs(connection)
                problem = f"{count} sessions had their old epochs"
                action = "every session has a new epoch"
                found.append(Finding("note", "database", problem, action, repaired=True))
            elif self._database.has_other_history():
                problem = "PostgreSQL was promoted, restored or replaced, and may have lost commits"
                action = "the next start gives every session a new epoch"
                found.append(Finding("note", "database", problem, action))
        found += check_contents(self._transaction, self._quarantine, repair=repairs)
        return found

    def _check_sessions(self, progress: Progress | None) -> None:
        with self._transaction() as connection:
            [(total,)] = connection.rows(_COUNT)
        done, after = 0, -1
        while keys := self._keys_behind(after):
            for after in keys:
                with self._transaction() as connection:
                    checks = SessionCheck(
                        connection, self._clock, self._set_aside, repairs=self._repairs
                    )
                    self._findings += checks.run(after)
                done += 1
                if progress is not None:
                    progress(done, total)

    def _keys_behind(self, after: int) -> list[int]:
        with self._transaction() as connection:
            return [int(key) for (key,) in connection.rows(_KEYS, {"after": after})]

    @contextmanager
    def _transaction(self) -> Iterator[PostgresConnection]:
        """Begin a transaction; without `repairs` it only reads."""
        lent = self._database.writing() if self._repairs else self._database.reading(snapshot=True)
        try:
            with lent as connection:
                assert isinstance(connection, PostgresConnection)
                connection.driver.execute(_NO_LIMITS)
                yield connection
        except BambooError as error:
            # A command has nobody to tell that it should retry.
            raise StoreUnusable(f"{error.detail} Start the check again.") from error

    def _set_aside(self, key: int, lines: bytes) -> None:
        self._quarantine.mkdir(mode=0o700, parents=True, exist_ok=True)
        name = f"postgresql-{key}-{self._clock.now_ms()}.jsonl"
        (self._quarantine / name).write_bytes(lines)
