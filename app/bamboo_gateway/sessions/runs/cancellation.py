"""Cancellation: ends a run, and waits for its end."""

from typing import Any

import anyio

from bamboo_gateway.domain.callers import Caller
from bamboo_gateway.domain.codec import decode
from bamboo_gateway.domain.errors import BambooError, StorageFull, Unavailable
from bamboo_gateway.domain.events import Cancelled, Draft
from bamboo_gateway.domain.input_requests import end_round
from bamboo_gateway.domain.views import RunView
from bamboo_gateway.sessions.access import Need
from bamboo_gateway.sessions.answers import CancelRequested, RunCancelled, SessionCancelled
from bamboo_gateway.sessions.commands import RunWait
from bamboo_gateway.sessions.context import Context
from bamboo_gateway.sessions.history import last_of_run
from bamboo_gateway.sessions.queries import find_run
from bamboo_gateway.sessions.runs.abandoned import AbandonedRuns
from bamboo_gateway.sessions.runs.external import ExternalRuns
from bamboo_gateway.sessions.runs.factory import EXTERNAL, Maker
from bamboo_gateway.sessions.runs.scheduler import wish_to_end
from bamboo_gateway.sessions.streaming.session_writer import LookAgain, SessionWriter
from bamboo_gateway.sessions.transaction import Decision, SlotFreed, Transactions

_LOOK_SECONDS = 0.25
"""How often a cancel call that waits asks whether the store still takes writes."""


class Cancellation:
    """Cancels runs, and waits for their ends."""

    def __init__(
        self,
        context: Context,
        transactions: Transactions,
        maker: Maker,
        external: ExternalRuns,
        abandoned: AbandonedRuns,
    ) -> None:
        self._context = context
        self._transactions = transactions
        self._registry = transactions.registry
        self._maker = maker
        self._external = external
        self._abandoned = abandoned

    async def cancel_run(self, caller: Caller, session_id: str, run_id: str) -> RunCancelled:
        """Cancel one run. Return it once its terminal event is durable.

        A run that has ended and waits for answers stays as it has ended, and gets none any more.

        Raises:
            NotFound: There is no such run.
            StorageFailed: The end of a run that this process does not execute could not be stored.
            Unavailable: The store takes no writes at present. The run's agent has been told to
                stop; its terminal event is stored once the store takes writes again.
        """

        async def cancel(writer: SessionWriter) -> RunCancelled:
            self._context.states.check_not_expired(writer.head)
            cancelled = await self._cancel(writer, run_id)
            if any(one.run_id == run_id for one in writer.head.open_requests):
                await self._end_round(writer)
            return cancelled

        return await self._registry.within(caller, session_id, cancel)

    async def cancel_session(self, caller: Caller, session_id: str) -> SessionCancelled:
        """Cancel the active run, all queued ones, and what waits for answers."""

        async def cancel(writer: SessionWriter) -> SessionCancelled:
            self._context.states.check_not_expired(writer.head)
            head = writer.head
            # The queue first: else its next run would start while the active one ends.
            run_ids = [queued.run_id for queued in head.queue]
            run_ids += [head.active.run_id] if head.active else []
            if not run_ids:
                try:
                    # An end may be decided and not durable yet.
                    await writer.settled()
                except BambooError:
                    # It was undone: there is something to cancel again.
                    raise LookAgain from None
            runs = [await self._cancel(writer, run_id) for run_id in run_ids]
            await self._end_round(writer)
            return {"session_id": session_id, "runs": runs}

        return await self._registry.within(caller, session_id, cancel)

    async def _cancel(self, writer: SessionWriter, run_id: str) -> RunCancelled:
        ended = anyio.Event()
        forget = writer.on_run_end(run_id, ended.set)
        try:
            await writer.ready()
            head = writer.head
            terminal = Cancelled("cancelled by the client")
            if any(queued.run_id == run_id for queued in head.queue):
                end = Draft("cancelled", {"run_id": run_id, "reason": terminal.reason})
                await self._transactions.commit(writer, Decision([end], {}))
            elif head.active and head.active.run_id == run_id:
                if writer.run is not None:
                    writer.run.cancel(terminal)
                elif head.active.agent == EXTERNAL:
                    await self._external.end(writer, terminal)
                elif self._context.store.replicas is not None:
                    await self._end_elsewhere(writer, terminal)
                await self._await_end(ended)
        finally:
            forget()
        await writer.ready()
        try:
            await writer.settled()
        except BambooError:
            await writer.ready()
        run = await find_run(self._context.store, writer.id, writer.epoch, run_id)
        requested: CancelRequested = {"cancel_requested": True} if run["ended_at"] is None else {}
        return {**run, **requested}

    async def _end_elsewhere(self, writer: SessionWriter, terminal: Cancelled) -> None:
        """Ask the process that executes the run to end it; close the run when that one is dead."""
        if self._abandoned.of(writer) is not None:
            if await self._abandoned.close(writer):
                self._registry.slot_free(writer)
            return
        wish = wish_to_end(writer, terminal)
        active = writer.head.active
        if wish is not None and active is not None and active.wish is None:
            await self._transactions.commit(writer, Decision([], {}, wish=wish))

    async def _await_end(self, ended: anyio.Event) -> None:
        """Wait for a run's end, as long as one can be stored.

        Raises:
            Unavailable: The store takes no writes at present.
        """
        give_up = anyio.current_time() + self._context.settings.cancel_timeout_seconds
        while (left := give_up - anyio.current_time()) > 0:
            # Before the first look: a refusal may be that of an earlier write, and over.
            with anyio.move_on_after(min(left, _LOOK_SECONDS)):
                await ended.wait()
                return
            refusal = self._context.store.refusal
            # A full disk keeps space for the ends of runs.
            if refusal is not None and not isinstance(refusal, StorageFull):
                raise Unavailable(
                    refusal.detail,
                    code=refusal.code,
                    retry_after_seconds=refusal.retry_after_seconds,
                )

    async def _end_round(self, writer: SessionWriter) -> None:
        """Close the open requests for input, unless their run is still active."""
        await writer.ready()
        head = writer.head
        if head.active is not None or head.logged_state is not None or not head.open_requests:
            return
        drafts = end_round(head, "cancelled", self._maker.closed_call)
        freed = SlotFreed(self._registry, writer)
        await self._transactions.commit(writer, Decision(drafts, {}, (freed,), reserve=True))

    async def wait_run(
        self, caller: Caller, session_id: str, run_id: str, seconds: float, need: Need = "own"
    ) -> RunWait:
        """Wait for a run's end, for at most this many seconds.

        Raises:
            NotFound: There is no such run.
        """
        deadline = anyio.current_time() + seconds

        async def wait(writer: SessionWriter) -> RunWait:
            run = await self._wait_end(writer, run_id, deadline)
            message = await self._last_answer(writer, run) if run["ended_at"] else None
            return RunWait(run, run["ended_at"] is not None, message)

        # Without a place in memory: the run that is waited for has one.
        return await self._registry.within(caller, session_id, wait, need, place=False)

    async def _wait_end(self, writer: SessionWriter, run_id: str, deadline: float) -> RunView:
        while True:
            ended = anyio.Event()
            # Registered before the look-up, so that an end in between is not missed.
            forget = writer.on_run_end(run_id, ended.set)
            try:
                run = await find_run(self._context.store, writer.id, writer.epoch, run_id)
                remaining = deadline - anyio.current_time()
                if run["ended_at"] is not None or remaining <= 0:
                    return run
                with anyio.move_on_after(remaining):
                    await ended.wait()
                await writer.ready()
            finally:
                forget()

    async def _last_answer(self, writer: SessionWriter, run: RunView) -> dict[str, Any] | None:
        run_id = run["run_id"]
        store = self._context.store
        [first] = await store.find(writer.id, writer.epoch, "run", key=run_id, limit=1)
        last = await last_of_run(store, writer.id, writer.epoch, run_id)
        before = last.seq if last is not None else None
        while before is not None and before > first.seq:
            page = await store.find(
                writer.id,
                writer.epoch,
                "message",
                after=first.seq,
                before=before,
                limit=20,
                reverse=True,
            )
            for record in page:
                message: dict[str, Any] = decode(record.body)["message"]
                if message["role"] == "assistant" and message.get("run_id") == run_id:
                    return message
            before = page[-1].seq if page else None
        return None
