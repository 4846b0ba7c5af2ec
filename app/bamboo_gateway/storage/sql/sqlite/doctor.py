"""`bamboo doctor` on a SQLite database that no process owns: every page, row and count.

Without `repair` it changes nothing. What follows from other rows (marks, counts, indexes, shares)
is made again from them. A log with events that are damaged or missing goes on under a new epoch,
so that clients load it again, and what is damaged is put into `quarantine/`. A file with damaged
pages is copied, row by row, as far as it can be read (`salvage`).
"""

from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

import apsw
from sqlalchemy import select

from bamboo_gateway.domain.clock import Clock
from bamboo_gateway.storage.base import StoreUnusable
from bamboo_gateway.storage.index.sqlite import open_database
from bamboo_gateway.storage.index.tables import sessions
from bamboo_gateway.storage.reports import Finding, Severity
from bamboo_gateway.storage.sql import rows_check
from bamboo_gateway.storage.sql.session_check import SessionCheck
from bamboo_gateway.storage.sql.sqlite import schema
from bamboo_gateway.storage.sql.sqlite.connection import SqliteConnection
from bamboo_gateway.storage.sql.sqlite.database import give_new_epochs
from bamboo_gateway.storage.sql.sqlite.lock import DatabaseLock
from bamboo_gateway.storage.sql.sqlite.salvage import quarantine_of, salvage

Progress = Callable[[int, int], None]

# Lines of the integrity check that are read: one damaged page gives some.
_PROBLEMS_MAX = 100
# What integrity_check says when an index does not fit its table: the index can be made again.
_INDEX_PROBLEMS = ("missing from index", "wrong # of entries in index", "non-unique entry in index")
_KEYS = select(sessions.c.key, sessions.c.id).order_by(sessions.c.key)


def check(
    path: Path,
    clock: Clock,
    *,
    repair: bool = False,
    new_epochs: bool = False,
    progress: Progress | None = None,
) -> list[Finding]:
    """Check a database; this blocks, so it runs in a process of its own.

    Args:
        path: The file.
        clock: The clock for new epochs.
        repair: Repair what is found.
        new_epochs: Give every session a new epoch. For a restored backup: clients may have seen
            later positions than it has. Includes `repair`.
        progress: Called with the number of sessions examined and their total.

    Raises:
        StoreBusy: A process owns the database.
        StoreUnusable: There is no such database, or it cannot be read or written.
    """
    if not path.is_file():
        raise StoreUnusable(f"There is no database {path}.")
    lock = DatabaseLock(path)
    try:
        lock.take()
        before = lock.previous
        examination = _Examination(path, clock, repairs=repair or new_epochs)
        findings = examination.run(progress, new_epochs=new_epochs)
        if repair or new_epochs:
            lock.write(str(before.get("durability", "fsync")), clean=True)
    except OSError as error:
        raise StoreUnusable(f"The database {path} cannot be used: {error.strerror}.") from error
    except apsw.NotADBError as error:
        raise StoreUnusable(
            f"{path} is no SQLite database, or its first page is damaged; restore a backup."
        ) from error
    except (apsw.CantOpenError, apsw.PermissionsError, apsw.ReadOnlyError) as error:
        raise StoreUnusable(
            f"The database {path} cannot be opened for writing; give this user the rights to the "
            "file and its directory."
        ) from error
    finally:
        lock.release()
    return findings


class _Examination:
    def __init__(self, path: Path, clock: Clock, *, repairs: bool) -> None:
        self._path = path
        self._clock = clock
        self._repairs = repairs
        self._findings: list[Finding] = []

    def run(self, progress: Progress | None, *, new_epochs: bool) -> list[Finding]:
        if self._is_empty():
            return []
        if self._is_torn() and self._repairs:
            kept = salvage(self._path, self._clock)
            self._found("fail", "database", "pages are damaged", kept, repaired=True)
        connection = open_database(self._path)
        try:
            schema.check(connection, self._path)
            connection.execute("BEGIN IMMEDIATE")
            try:
                self._check_rows(SqliteConnection(connection), progress)
                connection.execute("COMMIT" if self._repairs else "ROLLBACK")
            except BaseException:
                if connection.in_transaction:
                    connection.execute("ROLLBACK")
                raise
            if new_epochs:
                count = give_new_epochs(connection, self._clock.now_ms())
                self._found(
                    "note", "database", f"{count} sessions had their old epochs",
                    "every session has a new epoch", repaired=True,
                )  # fmt: skip
        finally:
            connection.close()
        return self._findings

    def _found(
        self, severity: Severity, subject: str, problem: str, action: str, *, repaired: bool
    ) -> None:
        self._findings.append(Finding(severity, subject, problem, action, repaired))

    def _is_empty(self) -> bool:
        """Return whether the tables were not created: the process that began to do it died."""
        connection = open_database(self._path)
        try:
            return schema.is_empty(connection)
        except apsw.CorruptError:
            return False
        finally:
            connection.close()

    def _is_torn(self) -> bool:
        """Check the pages; repair what are only indexes; return whether tables are damaged."""
        connection = open_database(self._path)
        try:
            schema.check(connection, self._path)
            problems = _problems(connection)
            if not problems:
                return False
            if not any(is_index for is_index, _ in problems):
                pass
            elif self._repairs:
                connection.execute("REINDEX")
                rest = _problems(connection)
                if not rest:
                    for _, problem in problems:
                        self._found("warn", "database", problem, "the indexes were made again",
                                    repaired=True)  # fmt: skip
                    return False
            for is_index, problem in problems:
                self._found(
                    "warn" if is_index else "fail", "database", problem,
                    "what can be read is copied into a new file, the old one goes to quarantine",
                    repaired=self._repairs,
                )  # fmt: skip
            return True
        except apsw.CorruptError as error:
            self._found("fail", "database", str(error), "what can be read is copied into a new "
                        "file, the old one goes to quarantine", repaired=self._repairs)  # fmt: skip
            return True
        finally:
            connection.close()

    def _check_rows(self, connection: SqliteConnection, progress: Progress | None) -> None:
        keys = connection.rows(_KEYS)
        checks = SessionCheck(connection, self._clock, self._set_aside, repairs=self._repairs)
        for done, (key, session_id) in enumerate(keys):
            if progress is not None:
                progress(done, len(keys))
            try:
                self._findings += checks.run(key)
            except apsw.CorruptError as error:
                self._found("fail", str(session_id), f"it cannot be read: {error}",
                            "run `bamboo doctor --repair`", repaired=False)  # fmt: skip
            finally:
                connection.end_statements()
        if progress is not None:
            progress(len(keys), len(keys))
        # Where pages are damaged, that has been said.
        with suppress(apsw.CorruptError):
            self._findings += rows_check.check_strays(connection, repairs=self._repairs)
        self._findings += rows_check.list_leftovers(connection)
        self._findings += rows_check.check_usage(connection, repairs=self._repairs)
        self._findings += rows_check.check_epoch(connection, repairs=self._repairs)
        self._findings += rows_check.check_changes(connection, repairs=self._repairs)

    def _set_aside(self, key: int, lines: bytes) -> None:
        name = f"{self._path.name}-{key}-{self._clock.now_ms()}.jsonl"
        (quarantine_of(self._path) / name).write_bytes(lines)


def _problems(connection: apsw.Connection) -> list[tuple[bool, str]]:
    """Return what the integrity check finds, and whether each is a matter of an index alone."""
    return [
        (any(words in line for words in _INDEX_PROBLEMS), line) for line in _lines_of(connection)
    ]


def _lines_of(connection: apsw.Connection) -> Iterator[str]:
    for (text,) in connection.execute(f"PRAGMA integrity_check({_PROBLEMS_MAX})"):
        for line in str(text).splitlines():
            if line != "ok":
                yield line
    for table, rowid, parent, _ in connection.execute("PRAGMA foreign_key_check"):
        yield f"row {rowid} of {table} names a row of {parent} that is not there"
