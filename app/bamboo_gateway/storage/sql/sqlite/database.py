"""`SqliteDatabase`: one file in WAL mode. One connection writes, a few read.

Every transaction that writes holds `_turn`, which lets threads in by the order of their coming, so
that bulk work and commits take turns.

**A failed COMMIT.** SQLite writes a transaction's frames to the WAL and then syncs it. When the
sync fails, the transaction is rolled back, but its frames are in the file, whole: after a crash
SQLite would find and apply them, though the commits were answered with an error. So the next thing
written is a small transaction (`_fence`), which overwrites the first of these frames and so makes
all of them void. Until that succeeds, every write is refused.

**A full disk.** A file beside the database (`…-reserve`) keeps some space. It is given up for
commits that may use it, endings of runs, and made again when there is space.

**Free pages.** Deleted rows are zeroed (`secure_delete`). Their pages are given back to the file
system little by little (`auto_vacuum = incremental`), so a deletion costs no rewriting of the file.
"""

import os
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from threading import Lock
from typing import Any, Literal

import apsw
from typing_extensions import override

from bamboo_gateway.domain.clock import Clock
from bamboo_gateway.domain.errors import BambooError, StorageFailed, StorageFull, Unavailable
from bamboo_gateway.domain.limits import MiB
from bamboo_gateway.storage.base import StoreUnusable
from bamboo_gateway.storage.files.base import ContentStore
from bamboo_gateway.storage.files.disk import DiskContents, files_beside
from bamboo_gateway.storage.index.search_tables import SQLITE_MERGE
from bamboo_gateway.storage.index.sqlite import open_database
from bamboo_gateway.storage.reports import Erased, StoreCheck
from bamboo_gateway.storage.sql import epochs, leftovers
from bamboo_gateway.storage.sql.database import Connection, Database, Opened
from bamboo_gateway.storage.sql.prepared import PreparedCommit
from bamboo_gateway.storage.sql.reads import scope_of
from bamboo_gateway.storage.sql.rows import find_session
from bamboo_gateway.storage.sql.sqlite import schema
from bamboo_gateway.storage.sql.sqlite.checks import file_checks
from bamboo_gateway.storage.sql.sqlite.connection import SqliteConnection
from bamboo_gateway.storage.sql.sqlite.errors import FULL, error_of, translated
from bamboo_gateway.storage.sql.sqlite.group_commit import GroupCommit
from bamboo_gateway.storage.sql.sqlite.lock import DatabaseLock
from bamboo_gateway.storage.sql.sqlite.turns import Turns

Durability = Literal["fsync", "os"]

# Endings of runs and deletions of some hundred sessions.
_RESERVE_BYTES = 4 * MiB
# The WAL is written into the database when it has this many pages (16 MiB), and at each interval.
_WAL_PAGES_MAX = 4096
# Free pages that stay in the file for what comes next, and how many are given back at a time.
_FREE_PAGES_KEPT = 1024
_FREE_PAGES_TAKEN = 256
# How much of the trigram index a vacuum writes in one transaction, in pages.
_MERGED_PAGES = 64

# How long a checkpoint that empties the WAL waits for readers; the next interval tries again.
_CHECKPOINT_BUSY_MS = 50
_BUSY_MS = 5000
# Errors that a single commit can be the reason of.
_OF_ONE_ROW = (
    apsw.ConstraintError,
    apsw.TooBigError,
    apsw.CorruptError,
    ValueError,
    TypeError,
    OverflowError,
)

_PROBE = "UPDATE meta SET number = number + 1 WHERE name = 'fence'"
_FIND_MIGRATION = "SELECT text FROM meta WHERE name = 'migration'"
_COUNT_USAGE = (
    "INSERT INTO usage (scope, slot, sessions, stored_bytes) VALUES (?, 0, ?, ?) ON CONFLICT DO"
    " UPDATE SET sessions = sessions + excluded.sessions,"
    " stored_bytes = stored_bytes + excluded.stored_bytes"
)


class SqliteDatabase(Database):
    """A SQLite database in one file."""

    name = "SQLite"
    dialect = "sqlite"

    def __init__(self, path: Path, clock: Clock, *, durability: str = "fsync") -> None:
        """Name the file; it is opened by `open`.

        Args:
            path: The file.
            clock: The clock for new epochs.
            durability: `fsync`, or `os` for commits that survive the process and not the machine.
        """
        self.path = Path(os.path.realpath(path.expanduser()))
        self._clock = clock
        self._durability = durability
        self._lock = DatabaseLock(self.path)
        self._reserve = self.path.with_name(self.path.name + "-reserve")
        self._turn = Turns()
        self._writer: SqliteConnection | None = None
        self._group: GroupCommit | None = None
        self._readers: list[SqliteConnection] = []
        self._readers_lock = Lock()
        self._is_syncing = durability == "fsync"
        self._wal_pages = 0
        self._checkpoint_pages = _WAL_PAGES_MAX
        self._has_deleted = False
        self.checkpoints = self.checkpoint_failures = 0
        self._needs_fence = False
        self._refusal: Unavailable | None = None
        self._is_open = False

    @override
    def open(self) -> Opened:
        try:
            return self._open()
        except OSError as error:
            raise StoreUnusable(
                f"The database {self.path} cannot be used: {error.strerror}."
            ) from error
        except apsw.NotADBError as error:
            raise StoreUnusable(
                f"{self.path} is no SQLite database; choose another storage_url."
            ) from error
        except (apsw.CantOpenError, apsw.PermissionsError, apsw.ReadOnlyError) as error:
            raise StoreUnusable(
                f"The database {self.path} cannot be opened for writing; give this user the "
                "rights to the file and its directory."
            ) from error
        except apsw.BusyError as error:
            raise StoreUnusable(
                f"The database {self.path} is locked by another program; close it there."
            ) from error
        except apsw.Error as error:
            raise StoreUnusable(
                f"The database {self.path} cannot be used: {error}. Run `bamboo doctor`."
            ) from error

    @override
    def look(self) -> tuple[str | None, int] | None:
        if not self.path.exists():
            return None
        try:
            connection = open_database(self.path, read_only=True)
            try:
                if schema.is_empty(connection):
                    return None
                schema.check(connection, self.path)
                origin: Any = connection.execute(_FIND_MIGRATION).get
                return origin, int(connection.execute("SELECT count(*) FROM sessions").get)
            finally:
                connection.close(True)
        except apsw.Error as error:
            raise StoreUnusable(f"The database {self.path} cannot be used: {error}.") from error

    def _open(self) -> Opened:
        self.path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        self._lock.take()
        is_clean = self._lock.previous.get("clean", True)
        after_power_loss = self._lock.is_after_power_loss
        create_file(self.path)
        _check_owner(self.path)
        writer = open_database(
            self.path, synchronous="FULL" if self._durability == "fsync" else "NORMAL"
        )
        self._writer = SqliteConnection(writer)
        writer.set_wal_hook(self._wal_grew)
        if schema.is_empty(writer):
            schema.create(writer)
        schema.check(writer, self.path)
        new_epochs = 0
        if after_power_loss:
            new_epochs = give_new_epochs(writer, self._clock.now_ms())
        self._lock.write(self._durability, clean=False)
        self._group = GroupCommit(writer)
        self._keep_reserve()
        count: Any = writer.execute("SELECT count(*) FROM sessions").get
        epoch: Any = writer.execute("SELECT number FROM meta WHERE name = 'last_epoch'").get
        self._is_open = True
        return Opened(count, epoch or 0, is_clean=bool(is_clean), new_epochs=new_epochs)

    @override
    def close(self) -> None:
        was_open, self._is_open = self._is_open, False
        is_clean = was_open and not self._needs_fence
        with self._readers_lock:
            readers, self._readers = self._readers, []
        for reader in readers:
            reader.driver.close(True)
        writer, self._writer = self._writer, None
        if writer is not None:
            if was_open:
                with suppress(apsw.Error):
                    # With everything in the database itself, the WAL goes when it is closed.
                    writer.driver.wal_checkpoint(mode=apsw.SQLITE_CHECKPOINT_TRUNCATE)
            # What cannot be written into the database stays in the WAL.
            with suppress(apsw.Error):
                writer.driver.close(True)
        if was_open:
            with suppress(OSError):
                self._lock.write(self._durability, clean=is_clean)
        self._lock.release()

    @override
    def commit(self, batch: Sequence[PreparedCommit]) -> list[BambooError | None]:
        try:
            with self._turn:
                answers = self._write(batch)
        except apsw.FullError:
            with self._turn:
                return self._commit_from_reserve(batch)
        except _OF_ONE_ROW as error:
            # One commit may be the reason, and the others do not depend on it (R10).
            if len(batch) == 1:
                return [self._commit_alone(batch[0], error)]
            half = len(batch) // 2
            return self.commit(batch[:half]) + self.commit(batch[half:])
        except apsw.Error as error:
            failed = error_of(error, "Writing to the database")
            return [failed for _ in batch]
        if self._wal_pages >= self._checkpoint_pages:
            with self._turn:
                self._checkpoint()
        return answers

    def _write(self, batch: Sequence[PreparedCommit]) -> list[BambooError | None]:
        """Write a batch in one transaction."""
        group = self._group
        if group is None:
            closed = Unavailable("The store is closed.")
            return [closed for _ in batch]
        with self._transaction(durable=True):
            refused = group.write(batch)
        return [None if answer is None else answer.error() for answer in refused]

    def _commit_alone(self, prepared: PreparedCommit, error: Exception) -> BambooError | None:
        """Try a commit again that failed because of its own rows."""
        try:
            if isinstance(error, apsw.ConstraintError) and self._make_room(prepared):
                with self._turn:
                    return self._write([prepared])[0]
        except apsw.Error as again:
            error = again
        except BambooError as failed:
            return failed
        if isinstance(error, apsw.Error):
            return error_of(error, "Writing to the database")
        return StorageFailed(f"The commit cannot be stored: {error}.")

    def _make_room(self, prepared: PreparedCommit) -> bool:
        """Remove rows of an extension that is not published; return whether there was one."""
        with self.writing(durable=False) as connection:
            session = find_session(connection, prepared.commit.session_id)
            if session is None:
                return False
            numbers = leftovers.rivals(connection, "extension", session.key)
        for number in numbers:
            leftovers.remove(self, number)
        return bool(numbers)

    def _commit_from_reserve(self, batch: Sequence[PreparedCommit]) -> list[BambooError | None]:
        full = self._refusal = StorageFull(FULL)
        answers: list[BambooError | None] = [full for _ in batch]
        urgent = [number for number, prepared in enumerate(batch) if prepared.commit.reserve]
        if urgent:
            self._reserve.unlink(missing_ok=True)
            with suppress(apsw.Error):
                written = self._write([batch[number] for number in urgent])
                for number, answer in zip(urgent, written, strict=True):
                    answers[number] = answer
            self._refusal = full
        return answers

    @contextmanager
    def _transaction(self, *, durable: bool) -> Iterator[SqliteConnection]:
        """Begin and end a transaction; the caller has the turn."""
        writer = self._writer
        if writer is None:
            raise Unavailable("The store is closed.")
        driver = writer.driver
        if self._needs_fence:
            self._fence(driver)
        self._sync(driver, durable=durable)
        driver.execute("BEGIN IMMEDIATE")
        try:
            yield writer
            writer.end_statements()
        except BaseException:
            writer.end_statements()
            _roll_back(driver)
            raise
        self._has_deleted = self._has_deleted or writer.has_deleted
        writer.has_deleted = False
        try:
            driver.execute("COMMIT")
        except BaseException as error:
            _roll_back(driver)
            self._needs_fence = True
            with suppress(apsw.Error):
                self._fence(driver)
            if self._needs_fence and isinstance(error, apsw.Error):
                self._refusal = error_of(error, "Writing to the database")
            raise
        self._refusal = None

    def _fence(self, driver: apsw.Connection) -> None:
        """Overwrite what a failed COMMIT has left in the WAL."""
        self._sync(driver, durable=True)
        driver.execute("BEGIN IMMEDIATE")
        try:
            driver.execute(_PROBE)
            driver.execute("COMMIT")
        except BaseException:
            _roll_back(driver)
            raise
        self._needs_fence = False

    def _sync(self, driver: apsw.Connection, *, durable: bool) -> None:
        wanted = durable and self._durability == "fsync"
        if wanted != self._is_syncing:
            driver.pragma("synchronous", "FULL" if wanted else "NORMAL")
            self._is_syncing = wanted

    def _wal_grew(self, _connection: apsw.Connection, _name: str, pages: int) -> int:
        self._wal_pages = pages
        return apsw.SQLITE_OK

    @override
    @contextmanager
    def reading(self, *, snapshot: bool = False) -> Iterator[Connection]:
        with translated("Reading from the database"):
            reader = self._take_reader()
            driver = reader.driver
            try:
                if snapshot:
                    driver.execute("BEGIN")
                yield reader
            finally:
                reader.end_statements()
                if snapshot:
                    _roll_back(driver)
                with self._readers_lock:
                    if self._is_open:
                        self._readers.append(reader)
                        reader = None  # type: ignore[assignment]
                if reader is not None:
                    driver.close(True)

    def _take_reader(self) -> SqliteConnection:
        with self._readers_lock:
            if not self._is_open:
                raise Unavailable("The store is closed.")
            if self._readers:
                return self._readers.pop()
        return SqliteConnection(open_database(self.path, read_only=True))

    @override
    @contextmanager
    def writing(self, *, durable: bool = True) -> Iterator[Connection]:
        with translated("Writing to the database"), self._turn:
            try:
                with self._transaction(durable=durable) as connection:
                    yield connection
            except apsw.FullError:
                self._refusal = StorageFull(FULL)
                raise

    @override
    def make_contents(self) -> ContentStore:
        return DiskContents(files_beside(self.path))

    @override
    def count_usage(
        self, connection: Connection, user_id: str | None, sessions: int, stored_bytes: int
    ) -> None:
        assert isinstance(connection, SqliteConnection)
        scopes = {scope_of(None), scope_of(user_id)}
        values = [(scope, sessions, stored_bytes) for scope in sorted(scopes)]
        connection.driver.executemany(_COUNT_USAGE, values)

    @override
    def dead_leftovers(self, connection: Connection, now_ms: int) -> list[int]:
        assert isinstance(connection, SqliteConnection)
        found = connection.driver.execute("SELECT number FROM leftovers ORDER BY number")
        return [number for (number,) in found]

    @override
    def use_reserve(self) -> None:
        self._reserve.unlink(missing_ok=True)

    @override
    def on_interval(self) -> None:
        with self._turn, suppress(apsw.Error, BambooError):
            self._look_after_disk()
            self._give_back_pages()
            self._checkpoint(empties=True)

    @override
    def vacuum(self) -> list[Erased]:
        with translated("Cleaning the database"):
            self._erase_searched()
        with translated("Cleaning the database"), self._turn:
            with self._transaction(durable=True) as connection:
                # Deleted rows are zeroed as they go; the count of a user without sessions stays.
                connection.driver.execute(
                    "DELETE FROM usage WHERE sessions = 0 AND stored_bytes = 0 AND scope <> x''"
                )
            # Also when the WAL is that of a process before.
            self._has_deleted, self._wal_pages = True, max(self._wal_pages, 1)
            self._checkpoint(empties=True)
            is_done = not self._has_deleted
        later = "at the next interval that no reader is in the way of"
        return [
            Erased("sqlite", "rows of sessions, and the search index", "now"),
            Erased("sqlite", "the write-ahead log", "now" if is_done else later),
        ]

    def _erase_searched(self) -> None:
        """Remove what deleted messages left in the trigram index, between commits."""
        pages, is_whole = -_MERGED_PAGES, False
        while not is_whole:
            with self._turn, self._transaction(durable=False) as connection:
                before = connection.driver.total_changes()
                connection.driver.execute(SQLITE_MERGE, (pages,))
                # As FTS5 says that there was nothing to do.
                is_whole = connection.driver.total_changes() - before < 2
            pages = _MERGED_PAGES

    def _checkpoint(self, *, empties: bool = False) -> None:
        """Write the WAL into the database; the caller has the turn.

        It goes only as far as the oldest reader. With `empties` the WAL is truncated when rows were
        deleted, so that nothing of them stays in it; a reader that is in the way does not wait.
        """
        if self._writer is None or not self._wal_pages:
            return
        driver = self._writer.driver
        self._checkpoint_pages = self._wal_pages + _WAL_PAGES_MAX
        try:
            if empties and self._has_deleted:
                driver.set_busy_timeout(_CHECKPOINT_BUSY_MS)
                try:
                    driver.wal_checkpoint(mode=apsw.SQLITE_CHECKPOINT_TRUNCATE)
                finally:
                    driver.set_busy_timeout(_BUSY_MS)
                self._has_deleted = False
                self._wal_pages = 0
            else:
                driver.wal_checkpoint(mode=apsw.SQLITE_CHECKPOINT_PASSIVE)
        except apsw.BusyError:
            return
        except apsw.Error:
            self.checkpoint_failures += 1
            return
        self.checkpoints += 1
        if empties:
            self._checkpoint_pages = _WAL_PAGES_MAX

    def _give_back_pages(self) -> None:
        """Give free pages back to the file system, some at a time."""
        if self._writer is None or self._refusal is not None:
            return
        driver = self._writer.driver
        if driver.pragma("freelist_count") > _FREE_PAGES_KEPT:
            driver.execute(f"PRAGMA incremental_vacuum({_FREE_PAGES_TAKEN})").fetchall()

    def _look_after_disk(self) -> None:
        """While the last write failed, try another one; keep the reserve."""
        if self._refusal is not None:
            with suppress(apsw.Error), self._transaction(durable=True) as connection:
                connection.driver.execute(_PROBE)
        if self._refusal is None:
            self._keep_reserve()

    @override
    def checks(self) -> list[StoreCheck]:
        with self.reading() as connection:
            assert isinstance(connection, SqliteConnection)
            return file_checks(
                connection.driver,
                durability=self._durability,
                wal_bytes=self._size("-wal"),
                checkpoint_failures=self.checkpoint_failures,
            )

    def _size(self, suffix: str) -> int:
        with suppress(OSError):
            return self.path.with_name(self.path.name + suffix).stat().st_size
        return 0

    @override
    def stats(self) -> dict[str, Any]:
        return {
            "checkpoints_total": self.checkpoints,
            "checkpoint_failures_total": self.checkpoint_failures,
            "database_bytes": self._size(""),
            "disk_bytes_journal": self._size("-wal"),
        }

    @property
    @override
    def refusal(self) -> Unavailable | None:
        return self._refusal

    def _keep_reserve(self) -> None:
        """Make the file that keeps space, if it is not there."""
        try:
            fd = os.open(self._reserve, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o600)
        except OSError:
            return
        try:
            os.posix_fallocate(fd, 0, _RESERVE_BYTES)
        except OSError:
            self._reserve.unlink(missing_ok=True)
        finally:
            os.close(fd)


def create_file(path: Path) -> None:
    """Create the file of a database, for its owner alone; one that has something stays as it is."""
    fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
    size = os.fstat(fd).st_size
    # No connection to the file is open yet: closing a descriptor of it would drop SQLite's locks.
    os.close(fd)
    if size:
        return
    connection = apsw.Connection(str(path), flags=apsw.SQLITE_OPEN_READWRITE)
    try:
        # It can be chosen only before the first page is written.
        connection.pragma("auto_vacuum", 2)
        connection.execute("VACUUM")
    finally:
        connection.close()


def _check_owner(path: Path) -> None:
    """Check whose database it is before anything of it is changed.

    Raises:
        StoreUnusable: It is another program's, or has another schema.
    """
    connection = apsw.Connection(str(path), flags=apsw.SQLITE_OPEN_READWRITE)
    try:
        if not schema.is_empty(connection):
            schema.check(connection, path)
    finally:
        connection.close()


def give_new_epochs(
    connection: apsw.Connection, now_ms: int, keys: Collection[int] | None = None
) -> int:
    """Give sessions a new epoch, all of them or those of the keys; return how many these are.

    It is one transaction, or a part of the one that is open.
    """
    with connection:
        count = epochs.give_new_epochs(SqliteConnection(connection), now_ms, keys)
    return count  # noqa: RET504 - for a type checker the block may swallow what is raised


def _roll_back(driver: apsw.Connection) -> None:
    if driver.in_transaction:
        driver.execute("ROLLBACK")
