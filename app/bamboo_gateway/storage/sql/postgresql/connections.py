"""The connections of this process, and whether the database answers.

While the database does not answer, nobody waits for it: a watcher asks for it twice a second, and
everybody else gets `Unavailable` at once. Only who must know the outcome of a commit waits
(`until_answers`).

A database may be away without a word: the network loses every packet, the server hangs, PgBouncer
keeps statements until it finds a server again. So the watcher waits for `SILENT_SECONDS` at most,
and when it finds no database it breaks the connections of everybody who waits for it too.

Connections have no state of their own (no prepared statements, no SET, no LISTEN), so PgBouncer may
give each transaction another one.
"""

import logging
import os
import select
import socket
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from threading import Condition, Lock, Thread, Timer
from typing import Any, Final

import psycopg
import structlog
from psycopg_pool import ConnectionPool, PoolTimeout

from bamboo_gateway.domain.errors import BambooError, Unavailable
from bamboo_gateway.storage.sql.postgresql import arrays
from bamboo_gateway.storage.sql.postgresql.errors import (
    is_lost,
    is_read_only,
    not_there,
    read_only,
    translating,
)
from bamboo_gateway.storage.sql.postgresql.target import Target

log = structlog.get_logger(__name__)
# The driver complains of each attempt; the watcher says once that there is no database.
logging.getLogger("psycopg").setLevel(logging.ERROR)

Driver = psycopg.Connection[tuple[Any, ...]]

SILENT_SECONDS: Final = 10.0
"""How long the watcher waits for a word of the database."""

# The threads of the store (8 read, 2 do bulk work, 1 commits, 4 lock a session each, 3 look at
# others), and one that is being replaced.
_CONNECTIONS_MAX: Final = 19
# How long a call waits for a connection, the time of connecting included.
_WAIT_SECONDS: Final = 10.0
# The pool's own attempts to connect get rarer, up to minutes. So each ends soon, and the next call
# begins another one.
_RECONNECT_SECONDS: Final = 2.0
_PROBE_SECONDS: Final = 0.5
_IS_READ_ONLY = "SELECT pg_is_in_recovery() OR current_setting('transaction_read_only')::bool"


def connect(target: Target, **changed: Any) -> Driver:
    """Make a connection outside of a pool; the driver's errors are raised as they are.

    Args:
        target: The database.
        changed: Parameters of libpq that are others than the target's.

    Raises:
        StoreUnusable: The password file cannot be read.
    """
    connection: Driver = psycopg.connect(**_parameters(target) | changed)
    arrays.register(connection)
    return connection


@contextmanager
def breaking_after(
    connection: Driver, seconds: float, tell: Callable[[], None] | None = None
) -> Iterator[None]:
    """Break a connection if the block takes too long: it gets the driver's error then.

    Args:
        connection: The connection.
        seconds: How long the block may take.
        tell: Called, on another thread, before the connection is broken.
    """

    def give_up() -> None:
        if tell is not None:
            tell()
        _break(connection)

    timer = Timer(seconds, give_up)
    timer.daemon = True
    timer.start()
    try:
        yield
    finally:
        timer.cancel()
        timer.join()


def _parameters(target: Target) -> dict[str, Any]:
    return {**target.parameters(), "autocommit": True, "prepare_threshold": None}


class Connections:
    """A pool that nobody waits for while the database does not answer."""

    def __init__(
        self,
        target: Target,
        every_seconds: float,
        prepare: Callable[[Driver], object],
        silent_seconds: float,
    ) -> None:
        """Make it; nothing is connected before `open`.

        Args:
            target: The database.
            every_seconds: How often the watcher looks while the database answers.
            prepare: Called by the watcher, with a connection of its own, when it has found a
                database, before others use one that has come back. It may take its time.
            silent_seconds: How long the watcher waits for a word of the database.
        """
        self._target = target
        self._prepare = prepare
        self._every = every_seconds
        self._silent_seconds = silent_seconds
        self._lent: set[Driver] = set()
        self._lent_lock = Lock()
        self._pool: ConnectionPool[Driver] = ConnectionPool(
            kwargs=lambda: _parameters(target),
            min_size=1,
            max_size=_CONNECTIONS_MAX,
            reconnect_timeout=_RECONNECT_SECONDS,
            configure=arrays.register,
            name="bamboo-postgresql",
            open=False,
        )
        self._changed = Condition()
        self._refusal: Unavailable | None = None
        self._answers = True
        self._is_suspect = False
        self._is_closing = False
        self._watcher = Thread(target=self._watch, name="bamboo-postgresql-watch", daemon=True)
        self._when_away: Callable[[Unavailable], None] | None = None
        self.outages = 0

    def open(self) -> None:
        """Start the pool and the watcher."""
        self._pool.open()
        self._watcher.start()

    def stop_watching(self) -> None:
        """End the watcher; connections are lent as before."""
        self.stop_waiting()
        if self._watcher.is_alive():
            self._watcher.join()

    def close(self) -> None:
        """End both. Idempotent."""
        self.stop_watching()
        self._pool.close()

    def when_away(self, tell: Callable[[Unavailable], None]) -> None:
        """Register what each look calls that finds no database."""
        self._when_away = tell

    @property
    def refusal(self) -> Unavailable | None:
        """The error that every write gets at present, as far as is known."""
        return self._refusal

    @contextmanager
    def lend(self) -> Iterator[Driver]:
        """Lend a connection in autocommit; the block's driver errors are raised as they are.

        A connection that is lost in the block is not lent again.

        Raises:
            Unavailable: The database does not answer.
        """
        connection = self._get()
        with self._lent_lock:
            self._lent.add(connection)
        try:
            # Those that are lent before are broken, those after find it here.
            if not self._answers:
                raise not_there()
            yield connection
        except psycopg.Error as error:
            if is_lost(error):
                self.suspect()
            elif is_read_only(error):
                # Another server of the URL may be the one that takes writes.
                connection.close()
                self.suspect()
            raise
        finally:
            with self._lent_lock:
                self._lent.remove(connection)
            # The pool rolls back what is open, and replaces what is closed.
            self._pool.putconn(connection)

    def suspect(self) -> None:
        """Let the watcher look at once whether the database answers."""
        with self._changed:
            self._is_suspect = True
            self._changed.notify_all()

    def until_answers(self, seconds: float | None = None) -> bool:
        """Wait until the database answers again.

        Returns:
            False when it did not within this time, or when nobody is to wait any more.
        """
        with self._changed:
            self._changed.wait_for(
                lambda: self._is_closing or (self._answers and not self._is_suspect), seconds
            )
            return self._answers and not self._is_suspect and not self._is_closing

    def stop_waiting(self) -> None:
        """Let nobody wait for the database any more, and end the watcher."""
        with self._changed:
            self._is_closing = True
            self._changed.notify_all()

    def stats(self) -> dict[str, Any]:
        """Return the numbers of the pool, and how often the database did not answer."""
        found = self._pool.get_stats()
        return {
            "database_connections": found.get("pool_size", 0),
            "database_connections_idle": found.get("pool_available", 0),
            "database_outages_total": self.outages,
        }

    def _get(self) -> Driver:
        give_up = time.monotonic() + _WAIT_SECONDS
        while True:
            if not self._answers:
                raise not_there()
            with translating():
                try:
                    # The pool does not end a wait because the database has gone away meanwhile.
                    connection = self._pool.getconn(_PROBE_SECONDS)
                except PoolTimeout:
                    if time.monotonic() < give_up:
                        continue
                    raise
            if not _is_spoken_to(connection):
                return connection
            # Not by the pool's `check`, which waits a second after each such connection.
            connection.close()
            self._pool.putconn(connection)

    # -- the watcher ------------------------------------------------------------------------

    def _watch(self) -> None:
        connection: Driver | None = None
        wait = self._every
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._is_closing or self._is_suspect, wait)
                if self._is_closing:
                    break
                # What is suspected from here on is looked at again.
                self._is_suspect, was_suspect = False, self._is_suspect
            if connection is not None and was_suspect:
                connection.close()
            connection = self._look(connection)
            wait = self._every if self._refusal is None else _PROBE_SECONDS
        if connection is not None:
            connection.close()

    def _look(self, connection: Driver | None) -> Driver | None:
        """Find out whether the database answers; return a connection that does."""
        try:
            if connection is not None and not connection.closed:
                # The end of an old connection says nothing about a new one.
                with suppress(psycopg.Error):
                    return self._ask(connection)
                connection.close()
            connection = connect(self._target)
            return self._ask(connection)
        except (psycopg.Error, BambooError) as error:
            if connection is not None:
                connection.close()
            # The further lines are advice of the client library.
            reason = (str(error).strip().splitlines() or [""])[0]
            self._found(answers=False, refusal=not_there(), reason=reason)
            return None

    def _ask(self, connection: Driver) -> Driver:
        with breaking_after(connection, self._silent_seconds, self._found_silent):
            row = connection.execute(_IS_READ_ONLY).fetchone()
        if row is not None and row[0]:
            # The next look asks all servers of the URL.
            connection.close()
            self._found(answers=True, refusal=read_only())
        else:
            self._prepare(connection)
            self._found(answers=True, refusal=None)
        return connection

    def _found_silent(self) -> None:
        reason = f"it has said nothing for {self._silent_seconds:g} seconds"
        self._found(answers=False, refusal=not_there(), reason=reason)

    def _found(self, *, answers: bool, refusal: Unavailable | None, reason: str = "") -> None:
        if not answers and self._answers:
            self.outages += 1
            log.error("PostgreSQL does not answer", reason=reason)
        elif refusal is not None and self._refusal is None:
            log.error("PostgreSQL is read-only")
        elif refusal is None and self._refusal is not None:
            log.info("PostgreSQL answers again")
        if refusal is None and self._refusal is not None:
            # Connections from before are broken, or lead to a server that is the primary no more.
            self._pool.drain()
        with self._changed:
            self._answers, self._refusal = answers, refusal
            self._changed.notify_all()
        if answers:
            return
        with self._lent_lock:
            for connection in self._lent:
                _break(connection)
        if refusal is not None and self._when_away is not None:
            self._when_away(refusal)


def _break(connection: Driver) -> None:
    """End what another thread waits for on a connection: it gets the driver's error."""
    with suppress(psycopg.Error, OSError), socket.socket(fileno=os.dup(connection.fileno())) as end:
        end.shutdown(socket.SHUT_RDWR)


def _is_spoken_to(connection: Driver) -> bool:
    """Return whether the server has said something unasked, which is only ever a goodbye."""
    poll = select.poll()
    poll.register(connection.fileno(), select.POLLIN)
    return bool(poll.poll(0))
