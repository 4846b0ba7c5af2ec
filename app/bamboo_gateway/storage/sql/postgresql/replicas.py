"""`PostgresReplicas`: this process among those that share a PostgreSQL database."""

import asyncio
from collections.abc import Callable, Collection
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import AbstractAsyncContextManager, suppress
from typing import Final, TypeVar

from typing_extensions import override

from bamboo_gateway.domain.errors import BambooError, Unavailable
from bamboo_gateway.storage.replicas import DueWork, LockedSession, Look, Presence, Replicas
from bamboo_gateway.storage.sql.postgresql import presences
from bamboo_gateway.storage.sql.postgresql.connections import Connections, Driver
from bamboo_gateway.storage.sql.postgresql.due_work import DueScan
from bamboo_gateway.storage.sql.postgresql.errors import RETRY_SECONDS, translating
from bamboo_gateway.storage.sql.postgresql.heartbeat import Heartbeat
from bamboo_gateway.storage.sql.postgresql.locked import SessionLocks
from bamboo_gateway.storage.threads import Threads

T = TypeVar("T")

# Looks have threads of their own, since every request waits for one.
_LOOK_THREADS: Final = 2
_OTHER_THREADS: Final = 1

_LOOK: Final = "SELECT id, epoch, version, seq, last_activity_at FROM sessions WHERE id = ANY(%s)"

_Found = dict[str, Look]


class PostgresReplicas(Replicas):
    """The heartbeat, and what is read and written for the others; closed before the database."""

    def __init__(self, connections: Connections, heartbeat: Heartbeat, locks: SessionLocks) -> None:
        self._connections = connections
        self._locks = locks
        self._heartbeat = heartbeat
        self._threads = Threads(_OTHER_THREADS)
        self._due = DueScan()
        self._looks = _Looks(self._look)

    def open(self) -> None:
        """Begin; the database is open. Called on the event loop."""
        loop = asyncio.get_running_loop()
        self._looks.open(loop)
        self._heartbeat.attach(loop)

    async def aclose(self) -> None:
        """Refuse further calls, and wait for those that run."""
        await self._threads.aclose()
        await self._locks.aclose()
        self._looks.close()

    @property
    @override
    def executor(self) -> str:
        return self._heartbeat.executor

    @property
    @override
    def is_leader(self) -> bool:
        return self._heartbeat.is_leader

    @override
    def is_dead(self, executor: str) -> bool:
        return self._heartbeat.is_dead(executor)

    @override
    async def look(self, session_ids: Collection[str]) -> dict[str, Look]:
        return await self._looks.look(session_ids)

    def _look(self, session_ids: Collection[str]) -> _Found:
        with translating(), self._connections.lend() as connection:
            rows = connection.execute(_LOOK, [list(session_ids)]).fetchall()
        return {session_id: Look(*columns) for session_id, *columns in rows}

    @override
    async def due(self, silent_before_ms: int, now_ms: int) -> DueWork:
        def scan(connection: Driver) -> DueWork:
            dead = self._heartbeat.dead
            times = (silent_before_ms, now_ms)
            found, executors = self._due.run(connection, self.executor, dead, *times)
            # The dead have rows; the others have none.
            self._heartbeat.note_gone([one for one in executors if one not in dead])
            return found

        return await self._run(scan)

    @override
    def when_renewed(self, call: Callable[[], None]) -> None:
        self._heartbeat.when_renewed(call)

    @override
    def when_lost(self, call: Callable[[], None]) -> None:
        self._heartbeat.when_lost(call)

    @override
    def locked(self, session_id: str) -> AbstractAsyncContextManager[LockedSession]:
        return self._locks.locked(session_id)

    @override
    async def claim(self, one: Presence) -> bool:
        dead = self._heartbeat.dead
        is_written = await self._run(lambda connection: presences.claim(connection, one, dead))
        if is_written is None:
            self._heartbeat.renew_now()
            raise Unavailable(
                "The other gateway processes have taken this one for dead. Retry in a moment.",
                retry_after_seconds=RETRY_SECONDS,
            )
        return is_written

    @override
    async def unclaim(self, session_id: str, kind: str, name: str) -> None:
        executor = self.executor
        with suppress(BambooError):
            await self._run(
                lambda connection: presences.unclaim(connection, executor, session_id, kind, name)
            )

    @override
    async def present(self, kind: str, session_ids: Collection[str] | None) -> list[Presence]:
        dead = self._heartbeat.dead
        return await self._run(
            lambda connection: presences.present(connection, kind, session_ids, dead)
        )

    @override
    async def wish(self, session_id: str, kind: str, name: str, wish: str) -> bool:
        executor, dead, named = self.executor, self._heartbeat.dead, (session_id, kind, name)
        return await self._run(
            lambda connection: presences.ask(connection, executor, named, wish, dead)
        )

    @override
    async def wishes(self) -> list[Presence]:
        executor = self.executor
        return await self._run(lambda connection: presences.take_wishes(connection, executor))

    async def _run(self, function: Callable[[Driver], T]) -> T:
        def run() -> T:
            with translating(), self._connections.lend() as connection:
                return function(connection)

        return await self._threads.run(run)


class _Looks:
    """Looks at sessions, in few statements.

    Those of one turn of the event loop are one statement. While all threads are busy the next one
    gathers. A look never gets the answer of a statement that was sent before it was asked for.
    """

    def __init__(self, look: Callable[[Collection[str]], _Found]) -> None:
        self._look = look
        self._loop: asyncio.AbstractEventLoop | None = None
        self._waiting: list[tuple[Collection[str], asyncio.Future[_Found]]] = []
        self._sent = 0
        self._pool: ThreadPoolExecutor | None = None

    def open(self, loop: asyncio.AbstractEventLoop) -> None:
        """Begin."""
        self._loop = loop
        self._pool = ThreadPoolExecutor(_LOOK_THREADS, thread_name_prefix="bamboo-look")

    def close(self) -> None:
        """Refuse further looks, and those that wait."""
        pool, self._pool = self._pool, None
        self._answer(self._take(), Unavailable("The store is closed."))
        if pool is not None:
            pool.shutdown(wait=False)

    async def look(self, session_ids: Collection[str]) -> _Found:
        """Look at sessions, as `Replicas.look`."""
        if self._pool is None or self._loop is None:
            raise Unavailable("The store is closed.")
        if not self._waiting:
            self._loop.call_soon(self._send)
        answer: asyncio.Future[_Found] = self._loop.create_future()
        self._waiting.append((session_ids, answer))
        return await answer

    def _take(self) -> list[tuple[Collection[str], "asyncio.Future[_Found]"]]:
        waiting, self._waiting = self._waiting, []
        return waiting

    def _send(self) -> None:
        if self._pool is None or not self._waiting or self._sent == _LOOK_THREADS:
            return
        waiting = self._take()
        ids = {session_id for session_ids, _ in waiting for session_id in session_ids}
        self._sent += 1
        sent = self._pool.submit(self._look, ids)

        def done(sent: "Future[_Found]") -> None:
            assert self._loop is not None
            with suppress(RuntimeError):  # the loop is closed
                self._loop.call_soon_threadsafe(answer, sent)

        def answer(sent: "Future[_Found]") -> None:
            self._sent -= 1
            self._answer(waiting, sent.exception() or sent.result())
            self._send()

        sent.add_done_callback(done)

    @staticmethod
    def _answer(
        waiting: list[tuple[Collection[str], "asyncio.Future[_Found]"]],
        outcome: _Found | BaseException,
    ) -> None:
        for session_ids, answer in waiting:
            if answer.done():
                continue
            if isinstance(outcome, BaseException):
                answer.set_exception(outcome)
            else:
                answer.set_result({one: outcome[one] for one in session_ids if one in outcome})
