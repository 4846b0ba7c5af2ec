"""Recovery: closes the runs that the last process left open, and starts queued ones (R5)."""

import anyio
import structlog

from bamboo_gateway.domain.callers import GATEWAY
from bamboo_gateway.domain.errors import BambooError, NotFound
from bamboo_gateway.domain.limits import RECOVERY_CONCURRENCY
from bamboo_gateway.domain.sessions import ActiveRun
from bamboo_gateway.sessions.context import Context
from bamboo_gateway.sessions.runs.executor import end_interrupted
from bamboo_gateway.sessions.runs.factory import EXTERNAL, Maker, restored
from bamboo_gateway.sessions.streaming.session_writer import SessionWriter, Vanished
from bamboo_gateway.sessions.transaction import Decision, Transactions

log = structlog.get_logger(__name__)

_RETRY_SECONDS = 1.0
"""The first wait before a session that could not be recovered is tried again."""

_RETRY_SECONDS_MAX = 30.0
"""The longest wait before it is tried again."""


class Recovery:
    """Recovers the sessions that have an open or queued run."""

    def __init__(self, context: Context, transactions: Transactions, maker: Maker) -> None:
        self._context = context
        self._transactions = transactions
        self._registry = transactions.registry
        self._maker = maker

    async def recover(self) -> int:
        """Close the open runs. Return how many; a background task then starts queued ones."""
        sessions = await self._context.store.unfinished()
        # Each close takes a place in memory: more at once than there are places would be refused.
        at_once = min(RECOVERY_CONCURRENCY, self._context.settings.max_active_sessions)
        limiter = anyio.Semaphore(at_once)
        closed = 0

        async def one(session_id: str) -> None:
            nonlocal closed
            async with limiter:
                try:
                    closed += await self._take_up(session_id, start=False)
                except BambooError as error:
                    log.warning("not recovered yet", session_id=session_id, code=error.code)

        async with anyio.create_task_group() as tasks:
            for session_id in sessions:
                tasks.start_soon(one, session_id, name=f"recover {session_id}")
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
        try:
            async with self._registry.use(GATEWAY, session_id) as writer:
                active = writer.head.active
                if active is not None and writer.run is None and active.agent != EXTERNAL:
                    await self._close_interrupted(writer, active)
                    closed = 1
                if start:
                    self._registry.slot_free(writer)
        except (NotFound, Vanished):
            pass  # deleted meanwhile
        return closed

    async def _close_interrupted(self, writer: SessionWriter, active: ActiveRun) -> None:
        try:
            assembler = await restored(self._context.store, self._maker, writer, active.run_id)
        except BambooError:
            raise
        except Exception:  # one damaged session must not keep the gateway from starting (R10)
            log.exception("a run's messages cannot be read", session_id=writer.id)
            assembler = self._maker.assembler(active.run_id, active.model)
        await writer.ready()
        end: Decision = Decision(end_interrupted(assembler), {}, reserve=True)
        await self._transactions.commit(writer, end)
