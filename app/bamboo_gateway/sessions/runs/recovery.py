"""Recovery: what the last process left open is closed, what was queued is started (R5)."""

import anyio
import structlog

from bamboo_gateway.domain.callers import GATEWAY
from bamboo_gateway.domain.errors import BambooError, NotFound
from bamboo_gateway.domain.limits import RECOVERY_CONCURRENCY
from bamboo_gateway.domain.sessions import ActiveRun
from bamboo_gateway.sessions.pool import SessionPool
from bamboo_gateway.sessions.runs.executor import end_interrupted
from bamboo_gateway.sessions.runs.factory import EXTERNAL, Maker, restored
from bamboo_gateway.sessions.streaming.session_writer import SessionWriter, Vanished

log = structlog.get_logger(__name__)

_RETRY_SECONDS = 1.0
"""A session that could not be recovered is tried again after so long at first."""

_RETRY_SECONDS_MAX = 30.0
"""And at most this far apart."""


class Recovery:
    """See the module."""

    def __init__(self, pool: SessionPool, maker: Maker) -> None:
        self._pool = pool
        self._maker = maker

    async def recover(self) -> int:
        """Closes the runs that the last process left open, then starts queued ones (R5)."""
        sessions = self._pool.store.unfinished()
        # Closing takes a place in memory each; more at once than there are would refuse some.
        at_once = min(RECOVERY_CONCURRENCY, self._pool.settings.max_active_sessions)
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
        self._pool.spawn(self._take_up_all, sessions, name="start what was queued")
        return closed

    async def _take_up_all(self, waiting: list[str]) -> None:
        """Starts what is queued as places get free, and closes what could not be closed before."""
        delay = _RETRY_SECONDS
        while waiting and not self._pool.draining:
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
        """Closes the run that nobody executes, and starts the next; gives how many it closed."""
        closed = 0
        try:
            async with self._pool.use(GATEWAY, session_id) as live:
                active = live.head.active
                if active is not None and live.run is None and active.agent != EXTERNAL:
                    await self._close_interrupted(live, active)
                    closed = 1
                if start:
                    self._pool.slot_free(live)
        except (NotFound, Vanished):
            pass  # deleted meanwhile
        return closed

    async def _close_interrupted(self, live: SessionWriter, active: ActiveRun) -> None:
        try:
            assembler = await restored(self._pool.store, self._maker, live, active.run_id)
        except BambooError:
            raise
        except Exception:  # one damaged session must not keep the gateway from starting (R10)
            log.exception("what a run said cannot be read", session_id=live.id)
            assembler = self._maker.assembler(active.run_id)
        await live.ready()
        await live.commit(end_interrupted(assembler), reserve=True)
