"""Abandoned runs: active runs that no living process executes. They are closed as interrupted (R5).

A run is not executed a second time by itself: its agent may have done half of its work. What it has
said becomes an incomplete message.
"""

import structlog

from bamboo_gateway.domain.errors import BambooError
from bamboo_gateway.domain.message_assembler import MessageAssembler
from bamboo_gateway.domain.sessions import ActiveRun
from bamboo_gateway.sessions.context import Context
from bamboo_gateway.sessions.runs.executor import end_interrupted
from bamboo_gateway.sessions.runs.factory import EXTERNAL, Maker, restored
from bamboo_gateway.sessions.streaming.session_writer import SessionWriter
from bamboo_gateway.sessions.transaction import Decision, Transactions

log = structlog.get_logger(__name__)


class AbandonedRuns:
    """Closes the runs whose executor is dead or gone."""

    def __init__(self, context: Context, transactions: Transactions, maker: Maker) -> None:
        self._context = context
        self._transactions = transactions
        self._replicas = context.store.replicas
        self._maker = maker

    def of(self, writer: SessionWriter) -> ActiveRun | None:
        """Return the active run if no living process executes it; the session is ready.

        A run of this process that has no task here is one whose start was stored although the store
        reported a failure: its agent was never asked.
        """
        active = writer.head.active
        if active is None or active.agent == EXTERNAL or writer.run is not None:
            return None
        if self._replicas is None or active.executor in (None, self._replicas.executor):
            return active
        return active if self._replicas.is_dead(active.executor) else None

    async def close(self, writer: SessionWriter) -> bool:
        """Close the active run, if nobody executes it. Return whether it was.

        Everything that this process has decided in the session is durable or undone before: a start
        that is on its way is no abandoned run.

        Raises:
            LookAgain: Another process has changed the session, or closed the run.
            BambooError: The end could not be stored.
        """
        await writer.settled()
        while True:
            await writer.ready()
            active, durable_seq = self.of(writer), writer.durable_seq
            if active is None:
                return False
            assembler = await self._said(writer, active)
            await writer.ready()
            if self.of(writer) == active and writer.durable_seq == durable_seq:
                break  # what it has said meanwhile would be missing in its last message
        end: Decision = Decision(
            end_interrupted(assembler), {}, reserve=True, closes=self._dead(active)
        )
        await self._transactions.commit(writer, end)
        return True

    async def _said(self, writer: SessionWriter, active: ActiveRun) -> MessageAssembler:
        try:
            return await restored(self._context.store, self._maker, writer, active.run_id)
        except BambooError:
            raise
        except Exception:  # one damaged session must not keep the gateway from starting (R10)
            log.exception("a run's messages cannot be read", session_id=writer.id)
            return self._maker.assembler(active.run_id, active.model)

    def _dead(self, active: ActiveRun) -> str | None:
        """Return the dead process whose run it is; None: it is this process's, or nobody's."""
        if self._replicas is None or active.executor == self._replicas.executor:
            return None
        return active.executor
