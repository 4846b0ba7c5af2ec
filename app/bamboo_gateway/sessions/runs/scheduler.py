"""RunScheduler: how a chat becomes a run, and waits for its turn."""

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Any

import anyio
import structlog

from bamboo_gateway.agents.base import Turn
from bamboo_gateway.domain.callers import Caller
from bamboo_gateway.domain.codec import decode
from bamboo_gateway.domain.errors import (
    BambooError,
    Conflict,
    Draining,
    InvalidInput,
    LimitReached,
    Refused,
    RunActive,
    SessionExists,
)
from bamboo_gateway.domain.events import CODE_INTERRUPTED, Cancelled, Draft, Failed
from bamboo_gateway.domain.limits import PAGE_BYTES_MAX
from bamboo_gateway.domain.messages import Message
from bamboo_gateway.domain.projections import session_view
from bamboo_gateway.domain.sessions import ActiveRun, QueuedRun
from bamboo_gateway.domain.tool_order import in_order
from bamboo_gateway.observability.tracing import Parent, here
from bamboo_gateway.sessions.access import own
from bamboo_gateway.sessions.commands import Chat, Idempotency, Outcome
from bamboo_gateway.sessions.pool import Decision, SessionPool
from bamboo_gateway.sessions.runs.client_ids import ClientIds
from bamboo_gateway.sessions.runs.conversation import Conversation, agent_conversation
from bamboo_gateway.sessions.runs.executor import RunExecutor
from bamboo_gateway.sessions.runs.external import ExternalRuns
from bamboo_gateway.sessions.runs.factory import (
    EXTERNAL,
    Agents,
    Maker,
    beginning,
    created_draft,
    restored,
)
from bamboo_gateway.sessions.streaming.session_writer import SessionWriter, Vanished

log = structlog.get_logger(__name__)

_START_RETRY_SECONDS = 1.0
"""A queued run that could not be started (a full disk) is tried again after so long."""


class RunScheduler:
    """See the module. Runs are children of the pool's task group."""

    def __init__(
        self, pool: SessionPool, agents: Agents, maker: Maker, external: ExternalRuns
    ) -> None:
        self.started = 0
        self._pool = pool
        self._agents = agents
        self._maker = maker
        self._external = external
        # Also those whose session is gone already.
        self._running: set[RunExecutor] = set()
        pool.on_slot_free.append(self.start_next)

    # -- starting ---------------------------------------------------------------------------

    async def chat(self, caller: Caller, chat: Chat, idem: Idempotency | None) -> Outcome:
        """Begins a turn, or queues it (API section 2).

        Raises:
            Forbidden: It names another user for a session that is to be created.
            NotFound: There is a session of that id, and the caller may not see it.
            InvalidInput: An unknown agent, or two messages with the same id.
            MessageExists: The session has a message of an id that the caller names.
            RunActive: The session is busy and `on_busy` says reject.
            Refused: The run id is taken, or tool calls are open and these are not their results, or
                the other way round.
            LimitReached: `max_queued_runs` wait already.
            Draining: The gateway is shutting down.
        """
        chat = replace(chat, session=own(caller, chat.session))
        agent = self._agents.named(chat.agent)
        run_id = chat.run_id or self._maker.run_id()
        ids = [message.id for message in chat.messages]
        names = ClientIds(self._pool.store, self._external.hold, chat.run_id, ids)

        async def prepare(live: SessionWriter) -> None:
            if live.head.seq and chat.session.id is None:
                raise SessionExists(f"There is a session {live.id!r} already.")
            await names.prepare(live)

        def decide(live: SessionWriter) -> Decision:
            names.check(live)
            return self._decide_chat(live, chat, agent, run_id)

        async def begin(session_id: str) -> Outcome:
            return await self._pool.change(
                caller,
                session_id,
                decide,
                create=True,
                idem=idem,
                prepare=prepare,
            )

        if chat.session.id is not None:
            return await begin(chat.session.id)
        return await self._maker.under_new_id(caller, idem, begin)

    def _decide_chat(self, live: SessionWriter, chat: Chat, agent: str, run_id: str) -> Decision:
        if self._pool.draining:
            raise Draining("The gateway is shutting down; try again in a moment.")
        head = live.head
        busy = head.active is not None or bool(head.queue) or live.starting
        active_id = head.active.run_id if head.active else None
        if busy and chat.on_busy == "reject":
            raise RunActive(
                f"The session is executing the run {active_id!r}.",
                extra={"active_run_id": active_id},
            )
        position = str(head.position)
        messages = [self._maker.new_message(given) for given in chat.messages]
        drafts: list[Draft] = []
        waiters = []
        quotas = self._pool.quotas
        if head.seq == 0:
            quotas.check_session(chat.session.user_id)
            drafts.append(created_draft(chat.session, self._pool.settings.default_ttl_seconds))
        if not busy:
            quotas.check_run(head.user_id if head.seq else chat.session.user_id)
            said = in_order(
                head.open_calls, messages, close=self._maker.close_passed_over, all_answered=True
            )
            drafts += beginning(run_id, agent, said, position)
            waiters.append(self._start_when_durable(live, run_id, agent, chat.options, here()))
        else:
            if len(head.queue) >= self._pool.settings.max_queued_runs:
                raise LimitReached(
                    f"{len(head.queue)} runs wait in this session already (max_queued_runs).",
                    code="too-many-queued-runs",
                    retry_after_seconds=5,
                )
            quotas.check_queue(head.user_id)
            fields = {
                "run_id": run_id,
                "agent": agent,
                "messages": [message.to_json() for message in messages],
                "options": chat.options,
            }
            front = {"front": True} if chat.on_busy == "interrupt" else {}
            drafts.append(Draft("run_queued", fields | front))
            waiters.append(self._queued_when_durable(live, interrupts=active_id if front else None))
        return Decision(
            drafts,
            {
                "session_id": live.id,
                "run_id": run_id,
                "message_ids": [message.id for message in messages],
                "status": "queued" if busy else "running",
                "position": position,
                "stream_url": f"/api/v1/stream/{live.id}?after={position}&run_id={run_id}",
            },
            waiters,
        )

    def _start_when_durable(
        self,
        live: SessionWriter,
        run_id: str,
        agent: str,
        options: dict[str, Any],
        parent: Parent = None,
    ) -> Callable[[BambooError | None], None]:
        patience = self._pool.settings.agent_abandon_seconds
        again = partial(restored, self._pool.store, self._maker)
        task = RunExecutor(live, run_id, agent, self._maker.assembler(run_id), again, patience)
        task.parent = parent
        live.run = task

        def durable(error: BambooError | None) -> None:
            if error is not None:
                if live.run is task:
                    live.run = None
                return
            self.started += 1
            self._pool.spawn(
                self._execute, live, task, agent, options, name=f"run {live.id} {run_id}"
            )

        return durable

    def _queued_when_durable(
        self, live: SessionWriter, *, interrupts: str | None
    ) -> Callable[[BambooError | None], None]:
        def durable(error: BambooError | None) -> None:
            active = live.head.active
            # Only the run that was active at the decision: by now it may be the interrupting one.
            if error is None and active is not None and active.run_id == interrupts:
                self._interrupt(live, active)
            self.start_next(live)

        return durable

    def _interrupt(self, live: SessionWriter, active: ActiveRun) -> None:
        terminal = Cancelled("interrupted by a newer message")
        if live.run is not None:
            live.run.cancel(terminal)
        elif active.agent == EXTERNAL:
            self._external.end_later(live, terminal)

    async def _execute(
        self, live: SessionWriter, task: RunExecutor, agent: str, options: dict[str, Any]
    ) -> None:
        given: list[Conversation] = []

        async def load_turn(run_id: str, options: dict[str, Any], cancelled: anyio.Event) -> Turn:
            head = live.head.copy()
            active = head.active
            assert active is not None  # the run has the session's slot
            said = await agent_conversation(
                self._pool.store, head, active.start_seq, self._agents[agent], options
            )
            given.append(said)
            view = session_view(head, "active", self._pool.expires_at(head))
            return Turn(run_id, said.messages, view, options, cancelled, said.left_out)

        self._running.add(task)
        try:
            await task.execute(self._agents[agent], options, load_turn)
        finally:
            self._running.discard(task)
            if live.run is task:
                live.run = None
            live.last_used = self._pool.clock.monotonic()
            self._pool.slot_free(live)
        for said in given:
            await said.let_go()

    # -- the queue --------------------------------------------------------------------------

    def start_next(self, live: SessionWriter) -> None:
        """Starts the run at the head of the queue, if nothing stands against it."""
        head = live.head
        if live.starting or live.gone or self._pool.draining or live.run is not None:
            return
        if head.active is None and head.queue and head.logged_state is None:
            live.starting = True
            self._pool.spawn(self._start_queued, live, name=f"start next in {live.id}")

    async def _start_queued(self, live: SessionWriter) -> None:
        try:
            while await self._start_one(live):  # noqa: ASYNC110
                await anyio.sleep(_START_RETRY_SECONDS)
        except Vanished:
            return
        finally:
            live.starting = False
        if live.head.active is None:
            self.start_next(live)

    async def _start_one(self, live: SessionWriter) -> bool:
        """Tries once; gives whether it is worth another try."""
        try:
            queued, given = await self._next_input(live)
            head = live.head
            if self._pool.draining or head.active or head.logged_state or queued is None:
                return False
            agent = given.get("agent")
            if agent is None:
                lost = Failed("The input of this run is not in the log any more.", "input_lost")
                await live.commit(self._maker.assembler(queued.run_id).end(lost), reserve=True)
                return False
            if agent not in self._agents:
                gone = Failed(f"The agent {agent!r} is not configured any more.", "unknown_agent")
                await live.commit(self._maker.assembler(queued.run_id).end(gone), reserve=True)
                return False
            given_messages = [Message.of(shape) for shape in given["messages"]]
            try:
                # Nobody is there to be refused: what the run before left open is closed.
                messages = in_order(
                    head.open_calls, given_messages, close=self._maker.unanswered, all_answered=True
                )
            except (Refused, InvalidInput) as error:
                unfit = Failed(error.detail, error.code.replace("-", "_"))
                await live.commit(self._maker.assembler(queued.run_id).end(unfit), reserve=True)
                return False
            drafts = beginning(queued.run_id, agent, messages, None)
            durable = self._start_when_durable(
                live, queued.run_id, agent, given.get("options") or {}
            )
            await live.commit(drafts, waiters=[durable])
        except BambooError as error:
            if isinstance(error, Conflict):
                live.lost()
            log.warning("a queued run could not start", session_id=live.id, code=error.code)
            return True
        return False

    async def _next_input(self, live: SessionWriter) -> tuple[QueuedRun | None, dict[str, Any]]:
        """Gives the first run that waits and its input, ready for a decision.

        The log alone keeps the input: in memory, what waits would take what its messages take.
        """
        read: QueuedRun | None = None
        given: dict[str, Any] = {}
        while True:
            await live.ready()
            first = live.head.queue[0] if live.head.queue else None
            if first is None or first == read:
                return first, given
            if first.seq > live.durable_seq:
                # It cannot be read before it is stored, and may still be undone.
                await live.settled()
            else:
                read, given = first, await self._read_input(live, first)

    async def _read_input(self, live: SessionWriter, queued: QueuedRun) -> dict[str, Any]:
        """Reads a `run_queued`; empty when it is not there, damaged on the disk."""
        records = await self._pool.store.read(
            live.id, live.epoch, queued.seq - 1, limit=1, max_bytes=PAGE_BYTES_MAX
        )
        if not records or records[0].seq != queued.seq:
            return {}
        given: dict[str, Any] = decode(records[0].body)
        return given

    # -- the gateway's end ------------------------------------------------------------------

    async def finish(self, seconds: float) -> None:
        """Lets runs end by themselves for so long, then ends them as interrupted."""
        self._pool.draining = True
        with anyio.move_on_after(seconds):
            await self._all_ended()
        for live in self._pool.sessions:
            if live.run is not None:
                live.run.cancel(Failed("The gateway is shutting down.", CODE_INTERRUPTED))
        for again in range(2):
            with anyio.move_on_after(self._pool.settings.cancel_timeout_seconds / 2):
                await self._all_ended()
            for task in self._running:
                if not again:
                    task.leave()

    def give_up(self) -> None:
        """Leaves what is still not stored to the next start: a shutdown has an end (R11)."""
        self._pool.draining = True
        for task in self._running:
            task.give_up()

    async def _all_ended(self) -> None:
        for live in self._pool.sessions:
            if live.run is not None and live.head.active is not None:
                ended = anyio.Event()
                live.on_run_end(live.head.active.run_id, ended.set)
                await ended.wait()
