"""Expiry of requests for input: a timer for each session with a request that expires.

The log has the times. A start finds these sessions with `SessionStore.unfinished`; while the
gateway runs, each end of a run is looked at. So nothing scans sessions. What has expired is closed,
and when nothing else is open, the next run begins in the same commit and is told. Processes that
share a store also look for what has expired (`Recovery`): the timers of a dead one are lost.
"""

from contextlib import suppress
from heapq import heappop, heappush
from typing import Any

import structlog

from bamboo_gateway.domain.callers import GATEWAY
from bamboo_gateway.domain.clock import format_ms
from bamboo_gateway.domain.errors import BambooError, InvalidInput, NotFound
from bamboo_gateway.domain.input_requests import close_draft
from bamboo_gateway.domain.sessions import SessionHead
from bamboo_gateway.sessions.context import Context
from bamboo_gateway.sessions.runs.factory import Maker
from bamboo_gateway.sessions.runs.rounds import Round, load_round, next_run
from bamboo_gateway.sessions.runs.scheduler import RunScheduler
from bamboo_gateway.sessions.streaming.session_writer import SessionWriter
from bamboo_gateway.sessions.transaction import Decision, Transactions

log = structlog.get_logger(__name__)

_RETRY_MS = 1000
"""How long to wait before a request that could not be closed (a full disk) is tried again."""

_AT_ONCE_MAX = 16
"""The sessions that are loaded at once because something in them has expired."""


class InputExpiry:
    """Closes requests for input whose time has passed."""

    def __init__(
        self,
        context: Context,
        transactions: Transactions,
        maker: Maker,
        scheduler: RunScheduler,
    ) -> None:
        self._context = context
        self._transactions = transactions
        self._registry = transactions.registry
        self._maker = maker
        self._scheduler = scheduler
        # When to look at which session: one entry for each session that waits, in the usual case.
        self._due: list[tuple[int, str]] = []
        self._noted: dict[str, int] = {}
        self._working = 0
        self._registry.on_slot_free.append(self.note)

    def note(self, writer: SessionWriter) -> None:
        """Note when the first open request of a session expires, if no run is active."""
        head = writer.head
        at = head.request_expires_at
        if at is None or head.active is not None or head.logged_state is not None or writer.gone:
            return
        self._note(writer.id, at)

    def _note(self, session_id: str, at: int) -> None:
        if self._noted.get(session_id) != at:
            self._noted[session_id] = at
            heappush(self._due, (at, session_id))

    def expire_due(self) -> None:
        """Begin to close what has expired; called every second."""
        if self._context.drain.has_begun:
            return  # the next start finds it
        now_ms = self._context.clock.now_ms()
        while self._due and self._due[0][0] <= now_ms and self._working < _AT_ONCE_MAX:
            at, session_id = heappop(self._due)
            if self._noted.get(session_id) != at:
                continue  # it was noted again with another time
            del self._noted[session_id]
            self._working += 1
            self._context.tasks.spawn(self._expire, session_id, name=f"expire in {session_id}")

    async def _expire(self, session_id: str) -> None:
        try:
            await self.expire(session_id)
        except BambooError as error:
            log.warning("a request could not expire", session_id=session_id, code=error.code)
            self._note(session_id, self._context.clock.now_ms() + _RETRY_MS)
        finally:
            self._working -= 1

    async def expire(self, session_id: str) -> None:
        """Close what has expired in a session.

        Raises:
            BambooError: It could not be closed now.
        """

        async def expire(writer: SessionWriter) -> None:
            await self._close_expired(writer)
            at = writer.head.request_expires_at
            # What could not be closed now (the session has expired) is noted when that ends.
            if at is not None and at > self._context.clock.now_ms():
                self.note(writer)

        with suppress(NotFound):  # deleted meanwhile
            await self._registry.within(GATEWAY, session_id, expire)

    async def _close_expired(self, writer: SessionWriter) -> None:
        known = await self._load(writer)
        head, now_ms = writer.head, self._context.clock.now_ms()
        expired = [
            one.request_id
            for one in head.open_requests
            if one.expires_at is not None and one.expires_at <= now_ms
        ]
        is_waiting = self._context.states.state_of(head) == "needs_input"
        if not expired or not is_waiting or self._context.drain.has_begun:
            return
        if self._context.store.replicas is not None and not self._scheduler.can_begin(head):
            return  # a process that has the agent closes it
        closings = [close_draft(name, "expired") for name in expired]
        decision: Decision = Decision(closings, {})
        if len(expired) == len(head.open_requests):
            at = {"time": format_ms(now_ms)}
            answers = known.answers(dict.fromkeys(expired, at))
            begun, effects = next_run(
                self._scheduler,
                self._maker,
                writer,
                self._maker.run_id(),
                answers,
                self._options(head, known),
                str(head.position),
                known.client_tools,
            )
            decision = Decision([*closings, *begun], {}, effects)
        await self._transactions.commit(writer, decision)

    async def _load(self, writer: SessionWriter) -> Round:
        """Read the round; on return the session is ready, with no await since then."""
        while True:
            await writer.ready()
            await writer.settled()
            head = writer.head
            seen = (head.open_requests, head.settled_requests)
            known = await load_round(self._context.store, head)
            await writer.ready()
            head = writer.head
            if seen == (head.open_requests, head.settled_requests):
                return known

    def _options(self, head: SessionHead, known: Round) -> dict[str, Any]:
        """Return the options of the run that asked, if its agent still takes them."""
        agent = head.open_requests[0].agent
        try:
            if agent in self._scheduler.agents:
                self._scheduler.agents[agent].check_options(known.options)
        except InvalidInput:
            # What the operator allows has changed since, and no client waits to be told.
            return {}
        return known.options
