"""Recovery: closes the runs that a dead process left open, and starts queued ones (R5).

A process that has the store for itself does so once, at its start. Processes that share a store do
so after each renewal: each looks for what the dead have left (`Replicas.due`), and the fence of the
store decides which of them does it.
"""

from collections.abc import Awaitable, Callable

import anyio
import structlog

from bamboo_gateway.domain.callers import GATEWAY
from bamboo_gateway.domain.errors import BambooError, NotFound
from bamboo_gateway.domain.limits import RECOVERY_CONCURRENCY
from bamboo_gateway.sessions.context import Context
from bamboo_gateway.sessions.runs.abandoned import AbandonedRuns
from bamboo_gateway.sessions.runs.external import ExternalRuns
from bamboo_gateway.sessions.runs.input_expiry import InputExpiry
from bamboo_gateway.sessions.runs.scheduler import RunScheduler
from bamboo_gateway.sessions.streaming.session_writer import LookAgain, SessionWriter
from bamboo_gateway.sessions.transaction import Transactions
from bamboo_gateway.storage.replicas import Replicas

log = structlog.get_logger(__name__)

_RETRY_SECONDS = 1.0
"""The first wait before a session that could not be recovered is tried again."""

_RETRY_SECONDS_MAX = 30.0
"""The longest wait before it is tried again."""


class Recovery:
    """Recovers the sessions that have an open or queued run which no process takes care of."""

    def __init__(
        self,
        context: Context,
        transactions: Transactions,
        abandoned: AbandonedRuns,
        scheduler: RunScheduler,
        external: ExternalRuns,
        expiry: InputExpiry,
    ) -> None:
        self._context = context
        self._registry = transactions.registry
        self._abandoned = abandoned
        self._scheduler = scheduler
        self._external = external
        self._expiry = expiry
        self._is_looking = False
        # The sessions that waited in the last look, and still do if they are in the next one.
        self._waited: set[str] = set()

    # -- at a start -------------------------------------------------------------------------

    async def recover(self) -> int:
        """Close the open runs. Return how many; a background task then starts queued ones."""
        sessions = await self._context.store.unfinished()
        closed = 0

        async def one(session_id: str) -> None:
            nonlocal closed
            closed += await self._take_up(session_id, start=False)

        await self._each(sessions, one, "not recovered yet")
        self._context.tasks.spawn(self._take_up_all, sessions, name="start queued runs")
        return closed

    async def begin_again(self) -> None:
        """Go on as after a start: the store has given its sessions new epochs meanwhile.

        Their streams end, so that clients load what is there now; the runs of this process end.
        """
        await self._registry.reload_all()
        while True:
            try:
                await self.recover()
            except BambooError as error:
                log.warning("runs are not closed yet", code=error.code)
                await anyio.sleep(_RETRY_SECONDS)
            else:
                return

    async def _take_up_all(self, waiting: list[str]) -> None:
        """Start queued runs as places become free, and close what could not be closed before."""
        delay = _RETRY_SECONDS
        while waiting and not self._context.drain.has_begun:
            again = []
            for session_id in waiting:
                try:
                    await self._take_up(session_id, start=True)
                except BambooError:
                    again.append(session_id)
            waiting = again
            if waiting:
                await anyio.sleep(delay)
                delay = min(delay * 2, _RETRY_SECONDS_MAX)

    async def _take_up(self, session_id: str, *, start: bool) -> int:
        """Close the interrupted run, and start the next. Return how many were closed."""
        closed = 0

        async def take_up(writer: SessionWriter) -> None:
            nonlocal closed
            closed += await self._abandoned.close(writer)
            if start:
                self._registry.slot_free(writer)

        await self._with(session_id, take_up)
        return closed

    # -- while other processes share the store ------------------------------------------------

    def follow(self, replicas: Replicas) -> None:
        """Look for what the dead have left after each renewal, from now on."""
        replicas.when_renewed(lambda: self._look_later(replicas))

    def _look_later(self, replicas: Replicas) -> None:
        # A look that takes longer than a round is the only one.
        if not self._is_looking and not self._context.drain.has_begun:
            self._is_looking = True
            self._context.tasks.spawn(self._look, replicas, name="look for what is left to do")

    async def _look(self, replicas: Replicas) -> None:
        try:
            await self.look(replicas)
        except BambooError as error:
            log.warning("what is left to do is not known", code=error.code)
        finally:
            self._is_looking = False

    async def look(self, replicas: Replicas) -> None:
        """Do what is due: close, start, end and expire what no other process takes care of.

        Raises:
            Unavailable: The store does not answer now.
        """
        now_ms = self._context.clock.now_ms()
        timeout_ms = int(self._context.settings.external_run_timeout_seconds * 1000)
        due = await replicas.due(now_ms - timeout_ms, now_ms)
        # Whoever ends a run starts the next one. So a queue is left only when it is seen twice.
        left = [session_id for session_id in due.queued if session_id in self._waited]
        self._waited = set(due.queued)
        not_executed = [session_id for session_id in due.mine if not self._executes(session_id)]
        for sessions, do, message in (
            ({*due.abandoned, *not_executed}, self._close, "a run could not be closed"),
            (left, self._start_next, "a queued run could not start"),
            (due.silent, self._end_silent, "an external run could not be ended"),
            (due.asking, self._expiry.expire, "a request could not expire"),
        ):
            await self._each(sessions, do, message)

    def _executes(self, session_id: str) -> bool:
        writer = self._registry.get(session_id)
        return writer is not None and writer.run is not None

    async def _close(self, session_id: str) -> None:
        async def close(writer: SessionWriter) -> None:
            if await self._abandoned.close(writer):
                log.info("closed a run that was interrupted", session_id=session_id)
                self._registry.slot_free(writer)

        await self._with(session_id, close)

    async def _start_next(self, session_id: str) -> None:
        async def start_next(writer: SessionWriter) -> None:
            self._scheduler.start_next(writer)

        await self._with(session_id, start_next)

    async def _end_silent(self, session_id: str) -> None:
        await self._with(session_id, self._external.end_if_silent)

    # -- sessions ---------------------------------------------------------------------------

    async def _with(
        self, session_id: str, work: Callable[[SessionWriter], Awaitable[None]]
    ) -> None:
        """Do work in a session, unless it is deleted or another process is changing it."""
        try:
            async with self._registry.use(GATEWAY, session_id) as writer:
                await work(writer)
        except NotFound:
            pass  # deleted meanwhile
        except LookAgain:
            # Somebody was faster. If not, the next look finds it again.
            log.debug("another process was faster", session_id=session_id)

    async def _each(
        self, sessions: set[str] | list[str], do: Callable[[str], Awaitable[None]], message: str
    ) -> None:
        # Each takes a place in memory: more at once than there are places would be refused.
        at_once = min(RECOVERY_CONCURRENCY, self._context.settings.max_active_sessions)
        limiter = anyio.Semaphore(at_once)

        async def one(session_id: str) -> None:
            async with limiter:
                if self._context.drain.has_begun:
                    return
                try:
                    await do(session_id)
                except BambooError as error:
                    log.warning(message, session_id=session_id, code=error.code)

        async with anyio.create_task_group() as tasks:
            for session_id in sessions:
                tasks.start_soon(one, session_id, name=f"recover {session_id}")
