"""Commits under a lock, for who met a conflict again and again (`Replicas.locked`).

A session that another process appends to a hundred times a second moves between any look and the
commit that was decided on it. So the row is locked, read, and committed to through one connection.
The server ends the lock by itself, whatever becomes of this process: a lock that outlives who holds
it would keep everybody out.
"""

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Callable, Iterator, Sequence
from contextlib import ExitStack, asynccontextmanager, contextmanager, suppress
from secrets import randbits
from typing import Final

import anyio
import psycopg

from bamboo_gateway.domain.errors import BambooError
from bamboo_gateway.domain.sessions import SessionHead
from bamboo_gateway.storage.commits import Commit
from bamboo_gateway.storage.sql.postgresql.connections import Connections, Driver
from bamboo_gateway.storage.sql.postgresql.errors import (
    is_duplicate,
    is_lost,
    is_repeatable,
    translated,
    translating,
)
from bamboo_gateway.storage.sql.postgresql.group_commit import (
    LOCKED,
    LOCKED_WAIT_MS,
    Answer,
    GroupCommit,
    Lost,
)
from bamboo_gateway.storage.sql.prepared import PreparedCommit, prepare
from bamboo_gateway.storage.sql.reads import head_of
from bamboo_gateway.storage.threads import Threads

LOCK_MS: Final = 100
"""How long a lock is waited for."""
IDLE_MS: Final = 300
"""How long its transaction may do nothing: the decision is made in memory."""
LOCKS_MAX: Final = 4
"""How many sessions are locked at a time: each lock has a connection of the pool."""

_BEGIN: Final = (
    f"BEGIN; SET LOCAL lock_timeout = {LOCK_MS};"
    f" SET LOCAL idle_in_transaction_session_timeout = {IDLE_MS}"
)
_LOCK: Final = """\
SELECT epoch, seq, last_activity_at, head, version FROM sessions WHERE id = %s FOR UPDATE"""

# What all commits wait for, as the number of the change, is waited for as by others.
_WAIT: Final = f"SET LOCAL lock_timeout = {LOCKED_WAIT_MS}"


class SessionLocks:
    """Locks sessions of a database."""

    def __init__(
        self,
        connections: Connections,
        commits: GroupCommit,
        commit: Callable[[Sequence[PreparedCommit]], Sequence[Answer]],
    ) -> None:
        """Make it.

        Args:
            connections: The connections.
            commits: The group commit.
            commit: `Database.commit`, for what the lock does not help.
        """
        self._connections = connections
        self._commits = commits
        self._commit = commit
        self._threads = Threads(LOCKS_MAX)
        self._free: asyncio.Semaphore | None = None

    @asynccontextmanager
    async def locked(self, session_id: str) -> AsyncGenerator["Locked"]:
        """Lock a session, as `Replicas.locked`."""
        if self._free is None:
            # Made here, in the event loop that it belongs to.
            self._free = asyncio.Semaphore(LOCKS_MAX)
        async with self._free:
            lock = _Lock(self._connections)
            try:
                head = await self._threads.run(lambda: lock.begin(session_id))
                yield Locked(head, lambda commit: self._append(lock, commit))
            finally:
                with anyio.CancelScope(shield=True):
                    await anyio.to_thread.run_sync(lock.end)

    async def aclose(self) -> None:
        """Refuse further locks, and wait for the commits that are on their way."""
        await self._threads.aclose()

    async def _append(self, lock: "_Lock", commit: Commit) -> None:
        with anyio.CancelScope(shield=True):
            answer = await self._threads.run(lambda: self._answer(lock, commit))
        if answer is not None:
            raise answer

    def _answer(self, lock: "_Lock", commit: Commit) -> Answer:
        unit = prepare(commit, randbits(63))
        try:
            with lock.taken() as connection:
                connection.execute(_WAIT)
                return self._commits.append_locked(connection, unit)
        except Lost:
            return self._commits.find_out(unit)
        except psycopg.Error as error:
            # Nothing is stored. The lock ended before the commit came; or rows of an extension, or
            # another transaction, are in its way.
            if is_lost(error) or is_duplicate(error) or is_repeatable(error):
                return self._commit([unit])[0]
            return translated(error)
        except BambooError as error:
            return error


class Locked:
    """A session that is locked, as `LockedSession`."""

    def __init__(
        self, head: SessionHead | None, append: Callable[[Commit], Awaitable[None]]
    ) -> None:
        self.head = head
        self._append = append

    async def append(self, commit: Commit) -> None:
        """Make a commit durable, and end the lock.

        Raises:
            BambooError: As the `done` of `SessionStore.append`.
        """
        await self._append(commit)


class _Lock:
    """The connection that has the lock; one thread at a time uses it."""

    def __init__(self, connections: Connections) -> None:
        self._connections = connections
        self._lent = ExitStack()
        self._driver: Driver | None = None

    def begin(self, session_id: str) -> SessionHead | None:
        """Lock the row and return its head, None without one.

        Raises:
            Unavailable: Somebody else has it locked, or the database does not answer.
        """
        with translating(), ExitStack() as stack:
            driver = stack.enter_context(self._connections.lend())
            stack.callback(_roll_back, driver)
            driver.execute(_BEGIN)
            try:
                row = driver.cursor(binary=True).execute(_LOCK, [session_id]).fetchone()
            except psycopg.errors.LockNotAvailable:
                raise LOCKED from None
            self._driver, self._lent = driver, stack.pop_all()
        if row is None:
            return None
        *columns, version = row
        head = head_of(*columns)
        head.version = version
        return head

    @contextmanager
    def taken(self) -> Iterator[Driver]:
        """Lend the connection once; behind the block the lock has ended."""
        driver, self._driver = self._driver, None
        assert driver is not None, "one commit ends the lock"
        with self._lent:
            yield driver

    def end(self) -> None:
        """End the lock, if it has not ended."""
        self._driver = None
        self._lent.close()


def _roll_back(driver: Driver) -> None:
    with suppress(psycopg.Error):
        driver.rollback()
