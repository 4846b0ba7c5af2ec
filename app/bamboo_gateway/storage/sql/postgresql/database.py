"""`PostgresDatabase`: a database that several gateway processes use, each by a few connections."""

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, Final

import psycopg
import structlog
from typing_extensions import override

from bamboo_gateway.domain.errors import BambooError, Unavailable
from bamboo_gateway.storage.base import StoreUnusable
from bamboo_gateway.storage.files.base import ContentStore
from bamboo_gateway.storage.reports import StoreCheck
from bamboo_gateway.storage.sql import leftovers
from bamboo_gateway.storage.sql.contents import RowContents
from bamboo_gateway.storage.sql.database import Connection, Database, Opened
from bamboo_gateway.storage.sql.postgresql import schema, tombstones
from bamboo_gateway.storage.sql.postgresql.checks import server_checks
from bamboo_gateway.storage.sql.postgresql.connection import PostgresConnection
from bamboo_gateway.storage.sql.postgresql.connections import (
    SILENT_SECONDS,
    Connections,
    Driver,
    breaking_after,
    connect,
)
from bamboo_gateway.storage.sql.postgresql.errors import (
    RETRY_SECONDS,
    is_lost,
    translating,
    unusable,
)
from bamboo_gateway.storage.sql.postgresql.group_commit import GroupCommit
from bamboo_gateway.storage.sql.postgresql.heartbeat import TIMING, Heartbeat, Timing
from bamboo_gateway.storage.sql.postgresql.history import History, take_epoch
from bamboo_gateway.storage.sql.postgresql.locked import SessionLocks
from bamboo_gateway.storage.sql.postgresql.statements import change_slot, run_columns
from bamboo_gateway.storage.sql.postgresql.target import Target
from bamboo_gateway.storage.sql.prepared import HeadRow, PreparedCommit
from bamboo_gateway.storage.sql.reads import scope_of
from bamboo_gateway.storage.sql.rows import find_session

log = structlog.get_logger(__name__)

SERVER_VERSION_MIN: Final = 14

# A server that starts or recovers says so; it is waited for this long before the start fails.
_STARTING_SECONDS: Final = 60.0
_STARTING: Final = "57P03"
# How long a change waits for a database that went away at its COMMIT.
_OUTCOME_SECONDS: Final = 30.0
_LOOK_SECONDS: Final = 3.0
# How long a process that ends tries to say so.
_RELEASE_SECONDS: Final = 5.0
_PAUSE_SECONDS: Final = 0.05

# What a transaction of several statements waits for at most: a lock; its own next statement; one
# statement. A connection that this process forgot would hold its locks for good otherwise, and the
# other processes wait for those of one that is stopped.
_LIMITS: Final = (
    "SET LOCAL lock_timeout = '5s'; SET LOCAL idle_in_transaction_session_timeout = '5s';"
    " SET LOCAL statement_timeout = '60s'"
)
# Reading a whole table takes its time, and nobody waits for a row that it has locked.
_NO_LIMITS: Final = (
    "SET LOCAL statement_timeout = 0; SET LOCAL idle_in_transaction_session_timeout = 0"
)
_BEGIN: Final = f"BEGIN; {_LIMITS}"
_BEGIN_LOOSE: Final = f"{_BEGIN}; SET LOCAL synchronous_commit = off"
_BEGIN_SNAPSHOT: Final = f"BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY; {_LIMITS}"

_FACTS: Final = """\
SELECT current_setting('server_version_num')::int / 10000, current_setting('server_encoding'),
  pg_is_in_recovery(), current_setting('fsync'), current_setting('synchronous_commit'),
  current_setting('full_page_writes'), current_setting('synchronous_standby_names')"""
_PROPOSE: Final = (
    "INSERT INTO meta (name, text) VALUES ('ticket_secret', %s) ON CONFLICT (name) DO NOTHING"
)
# A statement of its own: it sees what somebody else has put there meanwhile.
_KEPT: Final = "SELECT text FROM meta WHERE name = 'ticket_secret'"
# Of nobody (of an earlier version), of the dead, and of those that have no row any more.
_DEAD_LEFTOVERS: Final = """\
SELECT l.number FROM leftovers l LEFT JOIN executors e USING (executor)
WHERE e.executor IS NULL OR (e.executor = ANY(%(dead)s) AND e.executor <> %(executor)s)
ORDER BY l.number"""
_UNFINISHED: Final = """\
SELECT s.id FROM sessions s LEFT JOIN executors e USING (executor)
WHERE (s.has_active OR s.has_queue)
  AND (e.executor IS NULL OR e.executor = ANY(%(dead)s) OR e.executor = %(executor)s)
ORDER BY s.id"""
_NOTE_RUN: Final = "UPDATE sessions SET run_id = %s, executor = %s WHERE key = %s"
# How often each process looks for tombstones that are over; who finds some looks again at once.
_SWEEP_SECONDS: Final = 600.0
_COUNT_USAGE: Final = """\
INSERT INTO usage (scope, slot, sessions, stored_bytes)
VALUES (%s, %s, %s, %s)
ON CONFLICT (scope, slot) DO UPDATE SET sessions = usage.sessions + excluded.sessions,
  stored_bytes = usage.stored_bytes + excluded.stored_bytes"""


def make_database(url: str, password_file: Path | None) -> "PostgresDatabase":
    """Make the database that a URL names; nothing is connected.

    Raises:
        StoreUnusable: It is no URL of a PostgreSQL database.
    """
    return PostgresDatabase(Target(url, password_file))


class PostgresDatabase(Database):
    """A PostgreSQL database."""

    name = "PostgreSQL"
    dialect = "postgresql"
    has_replicas = True

    def __init__(
        self,
        target: Target,
        *,
        timing: Timing = TIMING,
        look_seconds: float = _LOOK_SECONDS,
        silent_seconds: float = SILENT_SECONDS,
    ) -> None:
        """Name the database; it is opened by `open`.

        Args:
            target: The database.
            timing: How the heartbeat of this process beats.
            look_seconds: How often it is looked whether the database answers.
            silent_seconds: How long a database that says nothing is waited for.
        """
        self._target = target
        self._history = History()
        self._connections = Connections(target, look_seconds, self._follow, silent_seconds)
        self.heartbeat = Heartbeat(target, timing)
        self._commits = GroupCommit(self._connections, self.heartbeat, self._history)
        self.locks = SessionLocks(self._connections, self._commits, self.commit)
        self._is_open = False
        self._sweep_at = time.monotonic() + _SWEEP_SECONDS
        self._follows = True
        self._is_alone = False
        self._last_epoch = 0
        self._when_renewed: Callable[[], object] | None = None

    def be_alone(self) -> None:
        """Let `open` refuse a database that a gateway uses, and keep gateways out until `close`."""
        self._is_alone = True

    @override
    def open(self, *, follows: bool = True) -> Opened:
        """Open it, as `Database.open`.

        Args:
            follows: Whether sessions get new epochs when the server's history has changed
                (`history`). Without, nothing that needs it may be committed.
        """
        self._follows = follows
        new_epochs = 0
        try:
            with self._first_connection() as connection:
                self._check_server(connection)
                revision = schema.revision_of(connection)
                if revision is None:
                    schema.move(lambda: connect(self._target))
                else:
                    schema.check(revision)
                is_clean = self.heartbeat.begin(connection, alone=self._is_alone)
                self._is_open = True
                if follows:
                    new_epochs = self._follow(connection)
                row = connection.execute(
                    "SELECT (SELECT count(*) FROM sessions),"
                    " (SELECT number FROM meta WHERE name = 'last_epoch')"
                ).fetchone()
        except psycopg.Error as error:
            raise unusable(self._target.shown, error) from error
        assert row is not None
        if follows:
            log.info("PostgreSQL: the database is open", deployment=self.deployment)
        self._connections.open()
        self._last_epoch = int(row[1] or 0)
        return Opened(int(row[0]), self._last_epoch, is_clean=is_clean, new_epochs=new_epochs)

    @override
    def look(self) -> tuple[str | None, int] | None:
        try:
            with self._first_connection() as connection:
                revision = schema.revision_of(connection)
                if revision is None:
                    return None
                schema.check(revision)
                row = connection.execute(
                    "SELECT (SELECT text FROM meta WHERE name = 'migration'),"
                    " (SELECT count(*) FROM sessions)"
                ).fetchone()
        except psycopg.Error as error:
            raise unusable(self._target.shown, error) from error
        assert row is not None
        return row[0], int(row[1])

    @override
    def close(self) -> None:
        was_open, self._is_open = self._is_open, False
        self._connections.stop_watching()
        self.heartbeat.stop()
        if was_open:
            # The last act. Without it the others see by the counter that this process has ended.
            with (
                suppress(BambooError, psycopg.Error),
                connect(self._target) as connection,
                breaking_after(connection, _RELEASE_SECONDS),
            ):
                self.heartbeat.release(connection)
        self._connections.close()

    @override
    def stop_waiting(self) -> None:
        self._connections.stop_waiting()

    @override
    def when_away(self, tell: Callable[[Unavailable], None]) -> None:
        self._connections.when_away(tell)

    @override
    def when_renewed(self, tell: Callable[[], object]) -> None:
        self._when_renewed = tell

    @override
    def take_epoch(self) -> int:
        with translating(), self._connections.lend() as driver:
            self._last_epoch = max(self._last_epoch, epoch := take_epoch(driver))
        return epoch

    @property
    def shown(self) -> str:
        """The URL without anything secret, for messages."""
        return self._target.shown

    @property
    def connections(self) -> Connections:
        """The connections of this process."""
        return self._connections

    @property
    def executor(self) -> str:
        """The id of this process."""
        return self.heartbeat.executor

    @property
    def deployment(self) -> str:
        """The id of the gateways that share this database; empty before it is open."""
        return self._history.deployment

    def keep_secret(self, proposed: bytes) -> bytes:
        """Return the secret that the database keeps, as `SupportsSecret`."""
        give_up = time.monotonic() + _OUTCOME_SECONDS
        while True:
            try:
                with self.writing() as connection:
                    assert isinstance(connection, PostgresConnection)
                    connection.driver.execute(_PROPOSE, [proposed.hex()])
                    [(kept,)] = connection.driver.execute(_KEPT).fetchall()
                    return bytes.fromhex(kept)
            except Unavailable:
                # Nothing is wrong with doing it again, whatever became of it.
                if not self._connections.until_answers(give_up - time.monotonic()):
                    raise

    def has_other_history(self) -> bool:
        """Return whether the server may have lost commits since the epochs were given."""
        with self.reading() as connection:
            assert isinstance(connection, PostgresConnection)
            return self._history.has_changed(connection.driver)

    def renew_epochs(self, connection: PostgresConnection) -> int:
        """Give every session a new epoch, in a transaction; return how many these are."""
        connection.driver.execute(_NO_LIMITS)
        return self._history.renew(connection)

    def _follow(self, connection: Driver) -> int:
        """Follow the server's history; return how many sessions got a new epoch."""
        if not self._follows or self._history.is_followed(connection):
            return 0
        with connection.transaction():
            connection.execute(_NO_LIMITS)
            count = self._history.follow(
                PostgresConnection(connection, self.executor), self._last_epoch
            )
        self._history.adopt()
        if self._is_open and self._when_renewed is not None:
            self._when_renewed()
        return count

    @override
    def commit(self, batch: Sequence[PreparedCommit]) -> list[BambooError | None]:
        return self._commits.commit(batch, self._make_room)

    @override
    @contextmanager
    def reading(self, *, snapshot: bool = False) -> Iterator[Connection]:
        with translating(), self._connections.lend() as driver:
            connection = PostgresConnection(driver, self.executor)
            try:
                if snapshot:
                    driver.execute(_BEGIN_SNAPSHOT)
                yield connection
            finally:
                connection.end_statements()
                if snapshot:
                    driver.rollback()

    @override
    @contextmanager
    def writing(self, *, durable: bool = True) -> Iterator[Connection]:
        with translating(), self._connections.lend() as driver:
            connection = PostgresConnection(driver, self.executor)
            transaction = _begin(driver, _BEGIN if durable else _BEGIN_LOOSE)
            try:
                yield connection
                connection.end_statements()
            except BaseException:
                with suppress(psycopg.Error):
                    connection.end_statements()
                    driver.rollback()
                raise
            try:
                driver.execute("COMMIT")
            except psycopg.Error as error:
                if not is_lost(error):
                    raise
                self._connections.suspect()
                if not self._was_committed(transaction):
                    raise

    def _was_committed(self, transaction: str) -> bool:
        """Find out whether a transaction was committed whose connection broke at COMMIT."""
        give_up = time.monotonic() + _OUTCOME_SECONDS
        while self._connections.until_answers(give_up - time.monotonic()):
            with suppress(BambooError, psycopg.Error), self._connections.lend() as driver:
                row = driver.execute("SELECT pg_xact_status(%s::xid8)", [transaction]).fetchone()
                match row and row[0]:
                    case "committed":
                        return True
                    case "in progress":
                        # The server has not noticed yet that nobody is there any more.
                        time.sleep(_PAUSE_SECONDS)
                    case _:
                        return False
        raise Unavailable(
            "The database went away while it stored this: the outcome is unknown. Look again in a "
            "moment.",
            retry_after_seconds=RETRY_SECONDS,
        )

    @override
    def make_contents(self) -> ContentStore:
        return RowContents(self, lambda: self.executor)

    @override
    def count_usage(
        self, connection: Connection, user_id: str | None, sessions: int, stored_bytes: int
    ) -> None:
        assert isinstance(connection, PostgresConnection)
        for scope in sorted({scope_of(None), scope_of(user_id)}):
            values = [scope, change_slot(self.heartbeat.slot), sessions, stored_bytes]
            connection.driver.execute(_COUNT_USAGE, values)

    @override
    def note_creation(self, connection: Connection, session_id: str, epoch: int) -> None:
        assert isinstance(connection, PostgresConnection)
        if self.is_filled:
            tombstones.forget(connection.driver, session_id)
        tombstones.note_creation(connection.driver, session_id, epoch)

    @override
    def note_run(self, connection: Connection, key: int, row: HeadRow) -> None:
        assert isinstance(connection, PostgresConnection)
        connection.driver.execute(_NOTE_RUN, [*run_columns(row), key])

    @override
    def keep_tombstone(
        self, connection: Connection, session_id: str, epoch: int, key: int, version: int
    ) -> None:
        assert isinstance(connection, PostgresConnection)
        driver = connection.driver
        if self.is_filled:
            tombstones.forget(driver, session_id)
        else:
            tombstones.keep(driver, session_id, epoch, key, version)

    @override
    def is_spent(self, session_id: str, key: str) -> bool:
        with translating(), self._connections.lend() as driver:
            return tombstones.is_spent(driver, session_id, key)

    @override
    def on_interval(self) -> None:
        now = time.monotonic()
        if now < self._sweep_at:
            return
        self._sweep_at = now + _SWEEP_SECONDS
        with suppress(BambooError), self.writing(durable=False) as connection:
            assert isinstance(connection, PostgresConnection)
            if tombstones.sweep(connection.driver):
                self._sweep_at = now

    @override
    def dead_leftovers(self, connection: Connection, now_ms: int) -> list[int]:
        assert isinstance(connection, PostgresConnection)
        values = {"executor": self.heartbeat.executor, "dead": self.heartbeat.dead}
        found = connection.driver.execute(_DEAD_LEFTOVERS, values)
        return [int(number) for (number,) in found]

    def unfinished(self) -> list[str]:
        """List sessions with runs that nobody alive executes, as `SessionStore.unfinished`."""
        values = {"executor": self.heartbeat.executor, "dead": self.heartbeat.dead}
        with self.reading() as connection:
            assert isinstance(connection, PostgresConnection)
            found = connection.driver.execute(_UNFINISHED, values).fetchall()
        return [session_id for (session_id,) in found]

    @override
    def checks(self) -> list[StoreCheck]:
        with self.reading() as connection:
            assert isinstance(connection, PostgresConnection)
            return [*server_checks(connection.driver), self.heartbeat.check()]

    @override
    def stats(self) -> dict[str, Any]:
        return {
            **self._connections.stats(),
            **self.heartbeat.stats(),
            "unknown_outcomes_total": self._commits.unknown_outcomes,
        }

    @property
    @override
    def refusal(self) -> Unavailable | None:
        return self._connections.refusal

    def _make_room(self, prepared: PreparedCommit) -> bool:
        """Remove rows of an extension that is not published; return whether there was one."""
        with self.writing(durable=False) as connection:
            session = find_session(connection, prepared.commit.session_id)
            if session is None:
                return False
            numbers = leftovers.rivals(connection, "extension", session.key)
        for number in numbers:
            leftovers.evict(self, number)
        return bool(numbers)

    # -- opening ----------------------------------------------------------------------------

    def _first_connection(self) -> Driver:
        """Connect; wait for a server that is starting."""
        give_up = time.monotonic() + _STARTING_SECONDS
        while True:
            try:
                return connect(self._target)
            except psycopg.OperationalError as error:
                if not _is_starting(error) or time.monotonic() > give_up:
                    raise
            log.info("PostgreSQL is starting; waiting for it")
            time.sleep(1)

    def _check_server(self, connection: Driver) -> None:
        row = connection.execute(_FACTS).fetchone()
        assert row is not None
        version, encoding, is_standby, fsync, synchronous, full_pages, standbys = row
        if version < SERVER_VERSION_MIN:
            raise StoreUnusable(
                f"{self._target.shown} is PostgreSQL {version}; the gateway needs "
                f"{SERVER_VERSION_MIN} or newer."
            )
        if encoding != "UTF8":
            raise StoreUnusable(
                f"{self._target.shown} has the encoding {encoding}; create the database with "
                "ENCODING 'UTF8' TEMPLATE template0."
            )
        if is_standby:
            raise StoreUnusable(
                f"{self._target.shown} is a standby, which is read-only; name the primary."
            )
        _say_what_durable_means(fsync, synchronous, full_pages, standbys)


def _begin(driver: Driver, statements: str) -> str:
    """Begin a transaction and return its id, by which its outcome can be looked up."""
    cursor = driver.execute(f"{statements}; SELECT pg_current_xact_id()::text")
    while cursor.nextset():
        pass
    row = cursor.fetchone()
    assert row is not None
    return str(row[0])


def _is_starting(error: psycopg.Error) -> bool:
    # libpq gives an error of connecting no SQLSTATE, only the server's words.
    return error.sqlstate == _STARTING or any(
        words in str(error)
        for words in ("the database system is starting up", "the database system is shutting down")
    )


def _say_what_durable_means(fsync: str, synchronous: str, full_pages: str, standbys: str) -> None:
    """Log what the server's settings promise, as a warning where that is less than people think."""
    risks = []
    if fsync != "on":
        risks.append("fsync is off: a crash of the server's machine may destroy the database")
    if full_pages != "on":
        risks.append("full_page_writes is off: a power loss may damage the database")
    if synchronous == "off":
        risks.append("synchronous_commit is off: a crash of the server may lose the last commits")
    facts = {"fsync": fsync, "synchronous_commit": synchronous}
    if risks:
        log.warning("PostgreSQL may lose what it has acknowledged", reasons=risks, **facts)
        return
    if not standbys or synchronous == "local":
        promise = "on the disk of the server; a failover may lose the last commits"
    else:
        promise = f"on the disk of the server and {synchronous} on synchronous standbys"
    log.info("PostgreSQL: an acknowledged commit is durable", means=promise, **facts)
