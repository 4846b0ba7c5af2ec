"""values.sqlite: small values that the gateway keeps beside the sessions.

A database of its own, since values are neither events nor made from them. It is the truth: nothing
else has what is in it. It is made with the first value.

A file that cannot be read is set aside in `quarantine/`, and what can be read of it goes into a new
one, so it never stops a start. A file that gets damaged while the store runs is found by reads and
writes, which fail until the next start.

**A failed COMMIT** leaves its pages whole in the WAL, where a crash would find them. So the next
thing written is a small transaction that overwrites the first of them (`_fence`), as in the store
of `sqlite:`.
"""

import errno
import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from threading import Lock
from typing import Any, Final

import apsw
import structlog

from bamboo_gateway.domain import codec
from bamboo_gateway.domain.clock import Clock
from bamboo_gateway.domain.errors import StorageFailed, StorageFull
from bamboo_gateway.storage.base import StoreUnusable
from bamboo_gateway.storage.file_system import FileSystem, failure_of
from bamboo_gateway.storage.index.sqlite import open_database, truncate_wal
from bamboo_gateway.storage.jsonl.paths import Paths
from bamboo_gateway.storage.reports import ValueChange
from bamboo_gateway.storage.values import end_of

logger = structlog.get_logger(__name__)

APPLICATION_ID: Final = int.from_bytes(b"BamV")
VERSION: Final = 1
SUFFIXES: Final = ("", "-wal", "-shm")

# A check of every page takes a second for so many bytes; beyond, only `doctor` makes it.
_CHECKED_BYTES_MAX: Final = 256 * 1024 * 1024
_DAMAGED: Final = (apsw.NotADBError, apsw.CorruptError, apsw.SQLError)
_TABLES: Final = (
    "CREATE TABLE kept_values (kind TEXT NOT NULL, key TEXT NOT NULL, value BLOB NOT NULL,"
    " PRIMARY KEY (kind, key)) WITHOUT ROWID",
    "CREATE TABLE fence (number INTEGER NOT NULL)",
    "INSERT INTO fence VALUES (0)",
)
_PUT = (
    "INSERT INTO kept_values (kind, key, value) VALUES (?, ?, ?)"
    " ON CONFLICT DO UPDATE SET value = excluded.value"
)
_REMOVE = "DELETE FROM kept_values WHERE kind = ? AND key = ?"
_VALUE = "SELECT value FROM kept_values WHERE kind = ? AND key = ?"
_VALUES = (
    "SELECT key, value FROM kept_values WHERE kind = ? AND key > ? AND key >= ? AND key < ?"
    " ORDER BY key LIMIT ?"
)
_KINDS = "SELECT DISTINCT kind FROM kept_values ORDER BY kind"
_FENCE = "UPDATE fence SET number = number + 1"


class ValuesFile:
    """The database, from `open` to `close`. One thread writes, another one reads."""

    def __init__(
        self, fs: FileSystem, paths: Paths, clock: Clock, check_place: Callable[[], None]
    ) -> None:
        """Name it.

        Args:
            fs: The file system.
            paths: The layout of the data directory.
            clock: The clock that names what is set aside.
            check_place: Raises OSError when the data directory is not the store's any more.
        """
        self._fs = fs
        self._paths = paths
        self._clock = clock
        self._check_place = check_place
        self._synchronous: Any = "FULL"
        self._writer: apsw.Connection | None = None
        self._reader: apsw.Connection | None = None
        # Held while connections are made and closed.
        self._lock = Lock()
        self._needs_fence = False
        self.damage: str | None = None
        """What was found wrong since the start, or None."""

    def open(self, *, durability: str) -> str | None:
        """Check the file, if there is one, and set it aside when it is damaged.

        Args:
            durability: `fsync`, or `os` for values that survive the process and not the machine.

        Returns:
            The name in quarantine, if it was set aside.

        Raises:
            StoreUnusable: It is the file of a newer version.
            OSError: It cannot be opened, or not be set aside.
        """
        self._synchronous = "FULL" if durability == "fsync" else "NORMAL"
        if self._fs.size(self._paths.mended_values) is not None:
            self.damage = "it was damaged, and setting it aside was interrupted"
            return self._replace(self.damage)
        if not self._exists():
            return None
        problem = problem_of(self._paths.values)
        if problem is None:
            return None
        self.damage = problem
        kept = self.mend(problem)
        logger.error("values_damaged", problem=problem, kept=kept)
        return kept

    def mend(self, problem: str) -> str:
        """Set a damaged file aside, and put what can be read of it into a new one.

        Returns:
            The name of the old file in quarantine.

        Raises:
            OSError: It could not be done; the next start does it.
        """
        made = self._paths.aside / "values"
        for suffix in SUFFIXES:
            self._fs.unlink(Path(f"{made}{suffix}"))
        count = _salvage(self._paths.values, made)
        # From here on the old file is not needed: a crash goes on with `_replace`.
        self._fs.rename(made, self._paths.mended_values)
        self._fs.sync_directory(self._paths.root)
        return self._replace(problem, count)

    def _replace(self, problem: str, count: int | None = None) -> str:
        """Put the mended file in the place of the damaged one."""
        path = self._paths.values
        name = f"values-{self._clock.now_ms()}.sqlite"
        note = {"file": name, "from": path.name, "why": problem, "values_kept": count}
        kept = self._paths.quarantine / name
        self._fs.write_aside(
            self._paths.aside / "quarantined",
            kept.with_name(f"{name}.note.json"),
            codec.encode_pretty(note),
        )
        for suffix in SUFFIXES:
            with suppress(FileNotFoundError):
                self._fs.rename(Path(f"{path}{suffix}"), Path(f"{kept}{suffix}"))
        self._fs.sync_directory(self._paths.quarantine)
        self._fs.sync_directory(self._paths.root)
        self._fs.rename(self._paths.mended_values, path)
        self._fs.sync_directory(self._paths.root)
        return name

    def write(self, changes: Sequence[ValueChange]) -> None:
        """Write and remove values in one transaction; on the writing thread.

        Raises:
            StorageFull, StorageFailed: Nothing was changed.
        """
        if all(change.value is None for change in changes) and not self._exists():
            return
        try:
            self._check_place()
            self._write(changes)
        except apsw.Error as error:
            raise self._failure(error, "Writing values") from error
        except OSError as error:
            raise failure_of(error, "Writing values") from error

    def _write(self, changes: Sequence[ValueChange]) -> None:
        connection = self._writing()
        if self._needs_fence:
            self._fence(connection)
        connection.execute("BEGIN IMMEDIATE")
        try:
            for kind, key, value in changes:
                if value is None:
                    connection.execute(_REMOVE, (kind, key))
                else:
                    connection.execute(_PUT, (kind, key, value))
        except BaseException:
            _roll_back(connection)
            raise
        try:
            connection.execute("COMMIT")
        except BaseException:
            _roll_back(connection)
            self._needs_fence = True
            with suppress(apsw.Error):
                self._fence(connection)
            raise

    def _fence(self, connection: apsw.Connection) -> None:
        """Overwrite what a failed COMMIT has left in the WAL."""
        connection.execute("BEGIN IMMEDIATE")
        try:
            connection.execute(_FENCE)
            connection.execute("COMMIT")
        except BaseException:
            _roll_back(connection)
            raise
        self._needs_fence = False

    def value(self, kind: str, key: str) -> bytes | None:
        """Read a value; on the reading thread."""
        for (value,) in self._read(_VALUE, (kind, key)):
            return bytes(value)
        return None

    def values(self, kind: str, *, prefix: str, after: str, limit: int) -> list[tuple[str, bytes]]:
        """Read values, as `SessionStore.values`; on the reading thread."""
        rows = self._read(_VALUES, (kind, after, prefix, end_of(prefix), limit))
        return [(key, bytes(value)) for key, value in rows]

    def kinds(self) -> list[str]:
        """Read all kinds; on the reading thread."""
        return [kind for (kind,) in self._read(_KINDS, ())]

    def _read(self, text: str, values: tuple[Any, ...]) -> list[tuple[Any, ...]]:
        try:
            connection = self._reading()
            return connection.execute(text, values).fetchall() if connection else []
        except apsw.Error as error:
            raise self._failure(error, "Reading values") from error

    def vacuum(self) -> bool:
        """Empty the WAL, where removed values are last; on the writing thread.

        Returns:
            Whether nothing was in the way.
        """
        if not self._exists():
            return True
        try:
            return truncate_wal(self._writing())
        except (apsw.Error, OSError):
            return False

    @property
    def disk_bytes(self) -> int:
        """The bytes that the files take."""
        return sum(self._fs.size(Path(f"{self._paths.values}{s}")) or 0 for s in SUFFIXES)

    def close(self) -> None:
        """Close the connections. Idempotent."""
        with self._lock:
            connections = (self._reader, self._writer)
            self._reader = self._writer = None
        for connection in connections:
            if connection is not None:
                # What cannot be written into the database stays in the WAL.
                with suppress(apsw.Error):
                    connection.close(True)

    def _exists(self) -> bool:
        return self._fs.size(self._paths.values) is not None

    def _writing(self) -> apsw.Connection:
        with self._lock:
            if self._writer is None:
                path = self._paths.values
                _create_file(path)
                connection = open_database(path, synchronous=self._synchronous)
                try:
                    if _is_empty(connection):
                        _create(connection)
                        self._fs.sync_directory(self._paths.root)
                except BaseException:
                    connection.close(True)
                    raise
                self._writer = connection
            return self._writer

    def _reading(self) -> apsw.Connection | None:
        """Return the reading connection; None as long as there is no value."""
        with self._lock:
            if self._reader is None and self._exists():
                connection = open_database(self._paths.values, read_only=True)
                if _is_empty(connection):
                    connection.close(True)
                    return None
                self._reader = connection
            return self._reader

    def _failure(self, error: apsw.Error, doing: str) -> StorageFailed | StorageFull:
        if isinstance(error, apsw.FullError):
            return StorageFull("The disk is full: nothing can be written until there is space.")
        if isinstance(error, _DAMAGED):
            self.damage = str(error)
        return StorageFailed(f"{doing} failed: {error}.")


def problem_of(path: Path, *, is_thorough: bool = False) -> str | None:
    """Return what is wrong with the file, or None. A WAL of a killed process is applied.

    Args:
        path: The file; it exists.
        is_thorough: Check every page and index, however large the file is.

    Raises:
        StoreUnusable: It is the file of a newer version.
        OSError: It cannot be opened.
    """
    try:
        connection = open_database(path)
    except _DAMAGED as error:
        return str(error)
    except apsw.FullError:
        return None
    except apsw.Error as error:
        raise OSError(errno.EACCES, f"it cannot be opened: {error}", str(path)) from error
    try:
        if _is_empty(connection):
            return None
        if connection.pragma("application_id") != APPLICATION_ID:
            return "it is the database of another program"
        version = connection.pragma("user_version")
        if version > VERSION:
            raise StoreUnusable(
                f"{path} was written by a newer version of the gateway; install that version."
            )
        if is_thorough:
            found: Any = connection.execute("PRAGMA integrity_check(1)").get
        elif path.stat().st_size <= _CHECKED_BYTES_MAX:
            found = connection.execute("PRAGMA quick_check(1)").get
        else:
            found = connection.execute("SELECT 'ok' FROM fence").get
        return None if found == "ok" else " ".join(str(found).split())
    except _DAMAGED as error:
        return str(error)
    except apsw.FullError:
        return None
    except apsw.Error as error:
        raise OSError(errno.EIO, f"it cannot be read: {error}", str(path)) from error
    finally:
        connection.close(True)


def _create_file(path: Path) -> None:
    """Create the file for its owner alone: SQLite would make it with the modes of the umask."""
    os.close(os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600))


def _is_empty(connection: apsw.Connection) -> bool:
    return not connection.execute("SELECT count(*) FROM sqlite_schema").get


def _create(connection: apsw.Connection) -> None:
    connection.execute("BEGIN IMMEDIATE")
    try:
        for statement in _TABLES:
            connection.execute(statement)
        connection.execute(f"PRAGMA application_id = {APPLICATION_ID}")
        connection.execute(f"PRAGMA user_version = {VERSION}")
        connection.execute("COMMIT")
    except BaseException:
        _roll_back(connection)
        raise


def _salvage(path: Path, made: Path) -> int:
    """Copy the values that can be read, from both ends, into a new file; return how many."""
    count = 0
    _create_file(made)
    new = open_database(made)
    try:
        _create(new)
        with suppress(apsw.Error):
            old = open_database(path, read_only=True)
            try:
                for direction in ("ASC", "DESC"):
                    for row in _readable(old, direction):
                        new.execute(_PUT, row)
                count = int(new.execute("SELECT count(*) FROM kept_values").get)
            finally:
                old.close(True)
        truncate_wal(new)
        # One file: nothing of it is in a WAL.
        new.pragma("journal_mode", "delete")
    except apsw.FullError as error:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(made)) from error
    finally:
        new.close(True)
    return count


def _readable(connection: apsw.Connection, direction: str) -> Iterator[tuple[Any, ...]]:
    """Return the rows up to the first that cannot be read."""
    order = f"kind {direction}, key {direction}"
    try:
        for row in connection.execute(
            f"SELECT kind, key, value FROM kept_values ORDER BY {order}"  # noqa: S608 - ours
        ):
            if isinstance(row[0], str) and isinstance(row[1], str) and isinstance(row[2], bytes):
                yield row
    except apsw.Error:
        return


def _roll_back(connection: apsw.Connection) -> None:
    if connection.in_transaction:
        connection.execute("ROLLBACK")
