"""RunScheduler: starts runs once they are durable, and queued ones when their turn comes."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import anyio
import structlog
from typing_extensions import override

from bamboo_gateway.agents.base import Answer
from bamboo_gateway.domain.client_tools import ClientTools
from bamboo_gateway.domain.codec import decode
from bamboo_gateway.domain.errors import (
    BambooError,
    Conflict,
    InvalidInput,
    LimitReached,
    NotFound,
    Refused,
)
from bamboo_gateway.domain.events import CODE_INTERRUPTED, Cancelled, Failed
from bamboo_gateway.domain.limits import PAGE_BYTES_MAX
from bamboo_gateway.domain.messages import Message
from bamboo_gateway.domain.sessions import ActiveRun, QueuedRun, SessionHead
from bamboo_gateway.domain.titles import first_message_titles
from bamboo_gateway.domain.tool_order import in_order
from bamboo_gateway.observability.tracing import Parent
from bamboo_gateway.sessions.context import Context
from bamboo_gateway.sessions.runs.branching import Branching, behind
from bamboo_gateway.sessions.runs.executor import RunExecutor
from bamboo_gateway.sessions.runs.external import ExternalRuns
from bamboo_gateway.sessions.runs.factory import EXTERNAL, Agents, Maker, beginning
from bamboo_gateway.sessions.runs.titling import Titles
from bamboo_gateway.sessions.streaming.session_writer import (
    LookAgain,
    SessionWriter,
    Vanished,
    Wish,
)
from bamboo_gateway.sessions.transaction import Decision, Effect, SlotFreed, Transactions

log = structlog.get_logger(__name__)

_START_RETRY_SECONDS = 1.0
"""How long to wait before trying again to start a queued run that could not start (a full disk)."""

_LEFT_MAX = 10_000
"""How many runs are remembered that wait for a process with their agent: some 100 bytes each. When
there are more, each is looked at again."""


class RunScheduler:
    """Owns the runs that agents of this process execute. They are background tasks.

    Attributes:
        agents: The configured agents.
    """

    def __init__(
        self,
        context: Context,
        transactions: Transactions,
        agents: Agents,
        maker: Maker,
        external: ExternalRuns,
        titles: Titles,
    ) -> None:
        self.agents = agents
        self._titles = titles
        self._context = context
        self._transactions = transactions
        self._registry = transactions.registry
        self._maker = maker
        self._external = external
        # Also runs whose session is deleted already.
        self._running: set[RunExecutor] = set()
        # The queued runs whose agent this process has not; another one may have it.
        self._left: set[str] = set()
        self._registry.on_slot_free.append(self.start_next)

    # -- effects of decisions ---------------------------------------------------------------

    def start_of(
        self,
        writer: SessionWriter,
        run_id: str,
        agent: str,
        options: dict[str, Any],
        parent: Parent = None,
        answers: Mapping[str, Answer] | None = None,
        open_calls: Sequence[str] = (),
        client_tools: ClientTools = (),
    ) -> Effect:
        """Return the effect that executes a run once its `run_start` is durable.

        Args:
            writer: The session's writer.
            run_id: The run's id.
            agent: The name of a configured agent.
            options: What the chat passes to the agent.
            parent: The span of the request that the run answers, if it is traced.
            answers: The answers that the run gets.
            open_calls: The calls that it takes over from the run that asked.
            client_tools: The tools that the client brought.
        """
        run = RunExecutor(
            self._context,
            self._maker,
            writer,
            run_id,
            agent,
            self.agents[agent],
            options,
            parent,
            answers,
            open_calls,
            client_tools,
        )
        return _StartRun(self, writer, run)

    def start_when_free(self, writer: SessionWriter, *, interrupts: str | None) -> Effect:
        """Return the effect that starts a queued run as soon as nothing prevents it.

        Args:
            writer: The session's writer.
            interrupts: The run that ends for it, if that is still the active one.
        """
        return _StartWhenFree(self, writer, interrupts)

    def external_opened(self, writer: SessionWriter) -> Effect:
        """Return the effect of an external run that begins with answers."""
        return self._external.opened(writer)

    def slot_freed(self, writer: SessionWriter) -> Effect:
        """Return the effect that starts the next run, as of a run that has ended."""
        return SlotFreed(self._registry, writer)

    def start(self, writer: SessionWriter, run: RunExecutor) -> None:
        """Execute a run whose `run_start` is durable."""
        name = f"run {writer.id} {run.run_id}"
        self._context.tasks.spawn(self._execute, writer, run, name=name)

    def interrupt(self, writer: SessionWriter, active: ActiveRun) -> None:
        """End the active run in favour of a newer message; another process ends its own."""
        terminal = Cancelled(_INTERRUPTED)
        if writer.run is not None:
            writer.run.cancel(terminal)
        elif active.agent == EXTERNAL:
            self._external.end_later(writer, terminal)

    def wish_to_interrupt(self, writer: SessionWriter) -> Wish | None:
        """Return the wish that the decision about the newer message carries.

        It is None when `interrupt` ends the run: this process executes it, or nobody does.
        """
        return wish_to_end(writer, Cancelled(_INTERRUPTED))

    async def _execute(self, writer: SessionWriter, run: RunExecutor) -> None:
        self._running.add(run)
        try:
            await self._titles.expect(writer)
            await run.execute()
        finally:
            self._running.discard(run)
            writer.release_run(run)
            self._registry.slot_free(writer)
        await run.free_messages()

    # -- the queue --------------------------------------------------------------------------

    def start_next(self, writer: SessionWriter) -> None:
        """Start the run at the head of the session's queue, if nothing prevents it."""
        head = writer.head
        if (
            writer.starting
            or writer.gone
            or self._context.drain.has_begun
            or writer.run is not None
        ):
            return
        if head.queue and head.queue[0].run_id in self._left:
            return
        if head.open_requests:
            return  # people come first
        if head.active is None and head.queue and head.logged_state is None:
            writer.claim_start()
            self._context.tasks.spawn(self._start_queued, writer, name=f"start next in {writer.id}")

    async def _start_queued(self, writer: SessionWriter) -> None:
        try:
            while await self._start_decided(writer):  # noqa: ASYNC110
                await anyio.sleep(_START_RETRY_SECONDS)
        except Vanished:
            return
        finally:
            writer.release_start()
        if writer.head.active is None:
            self.start_next(writer)

    async def _start_decided(self, writer: SessionWriter) -> bool:
        """Try to start the next run, until no other process has changed the session meanwhile."""
        while True:
            try:
                return await self._start_one(writer)
            except Vanished:
                raise
            except LookAgain:
                await writer.ready()

    async def _start_one(self, writer: SessionWriter) -> bool:
        """Try once to start the next run. Return whether to try again."""
        try:
            await self._context.budget.look_up(writer.head.user_id)
            queued, given = await self._next_input(writer)
            branching = self._branching(given)
            if branching is not None and not writer.head.active:
                try:
                    await branching.prepare(writer)
                except NotFound:
                    await writer.ready()
                    given = {}
                if (writer.head.queue[0] if writer.head.queue else None) != queued:
                    return True
            head = writer.head
            is_over = self._context.drain.has_begun
            if head.open_requests or is_over or head.active or head.logged_state or queued is None:
                return False
            if self._leaves(queued, given.get("agent")):
                return False
            decision = self._start_decision(writer, queued, given, branching)
            await self._transactions.commit(writer, decision)
        except LookAgain:
            raise
        except BambooError as error:
            if isinstance(error, Conflict):
                writer.lost()
            log.warning("a queued run could not start", session_id=writer.id, code=error.code)
            return True
        return False

    def can_begin(self, head: SessionHead) -> bool:
        """Return whether this process has the agent that gets the answers of the present round."""
        agent = head.open_requests[0].agent
        return agent == EXTERNAL or agent in self.agents

    def _leaves(self, queued: QueuedRun, agent: str | None) -> bool:
        """Return whether the run waits for another process, one that has its agent."""
        if self._context.store.replicas is None or agent is None or agent in self.agents:
            return False
        if len(self._left) >= _LEFT_MAX:
            self._left.clear()
        self._left.add(queued.run_id)
        log.warning(
            "a queued run waits for a process that has its agent", run_id=queued.run_id, agent=agent
        )
        return True

    def _branching(self, given: dict[str, Any]) -> Branching | None:
        """Return the branch that a queued run begins, if it named the message before it."""
        if "branch_from" not in given:
            return None
        branches_max = self._context.settings.max_branches
        resolve = behind(given["branch_from"]["message_id"])
        return Branching(self._context.store, self._maker, resolve, branches_max)

    def _start_decision(
        self,
        writer: SessionWriter,
        queued: QueuedRun,
        given: dict[str, Any],
        branching: Branching | None,
    ) -> Decision:
        """Return how a queued run begins, or how it ends without having begun."""

        def not_begun(message: str, code: str) -> Decision:
            end = self._maker.assembler(queued.run_id).end(Failed(message, code))
            return Decision(end, {}, reserve=True)

        agent = given.get("agent")
        if agent is None:
            return not_begun("The input of this run is not in the log any more.", "input_lost")
        if agent not in self.agents:
            return not_begun(f"The agent {agent!r} is not configured any more.", "unknown_agent")
        options = given.get("options") or {}
        try:
            # What the operator allows may have changed since the run was queued.
            self.agents[agent].check_options(options)
            self._context.budget.check(writer.head.user_id)
            branch = branching.drafts(writer) if branching is not None else []
            # No client waits that could be refused: close the calls that the run before left open.
            messages = in_order(
                [] if branch else writer.head.open_calls,
                [Message.of(shape) for shape in given["messages"]],
                close=self._maker.unanswered,
                all_answered=True,
            )
        except (Refused, InvalidInput, LimitReached) as error:
            return not_begun(error.detail, error.code.replace("-", "_"))
        client_tools = tuple(given.get("client_tools") or ())
        start = self.start_of(writer, queued.run_id, agent, options, client_tools=client_tools)
        model = self.agents[agent].model_of(options)
        answers = branching.from_message_id if branching is not None else None
        drafts = beginning(queued.run_id, agent, messages, None, model, answers=answers)
        drafts += first_message_titles(self._context.settings.titles, writer.head, messages)
        return Decision([*branch, *drafts], {}, (start,))

    async def _next_input(self, writer: SessionWriter) -> tuple[QueuedRun | None, dict[str, Any]]:
        """Return the first queued run and its input, with the session ready for a decision.

        Only the log keeps the input: queued messages would fill the memory.
        """
        read: QueuedRun | None = None
        given: dict[str, Any] = {}
        while True:
            await writer.ready()
            first = writer.head.queue[0] if writer.head.queue else None
            if first is None or first == read:
                return first, given
            if first.seq > writer.durable_seq:
                # It cannot be read before it is stored, and may still be undone.
                await writer.settled()
            else:
                read, given = first, await self._read_input(writer, first)

    async def _read_input(self, writer: SessionWriter, queued: QueuedRun) -> dict[str, Any]:
        """Read a `run_queued`. Return nothing when it is damaged on the disk."""
        records = await self._context.store.read(
            writer.id, writer.epoch, queued.seq - 1, limit=1, max_bytes=PAGE_BYTES_MAX
        )
        if not records or records[0].seq != queued.seq:
            return {}
        given: dict[str, Any] = decode(records[0].body)
        return given

    # -- shutdown ---------------------------------------------------------------------------

    async def finish(self, seconds: float) -> None:
        """Let runs end by themselves for this long, then end them as interrupted."""
        with anyio.move_on_after(seconds):
            await self._all_ended()
        for writer in self._registry.sessions:
            if writer.run is not None:
                writer.run.cancel(Failed("The gateway is shutting down.", CODE_INTERRUPTED))
        for again in range(2):
            with anyio.move_on_after(self._context.settings.cancel_timeout_seconds / 2):
                await self._all_ended()
            for run in self._running:
                if not again:
                    run.leave()

    def lost(self) -> None:
        """End all runs: the other processes have taken this one for dead, and close them, too."""
        lost = Failed(
            "The gateway was out of reach while this run was executing.", CODE_INTERRUPTED
        )
        for writer in self._registry.sessions:
            if writer.run is not None:
                writer.run.cancel(lost)
        for run in self._running:
            run.cancel(lost)

    def give_up(self) -> None:
        """Leave ends that are still not stored to the next start: a shutdown is bounded (R11)."""
        for run in self._running:
            run.give_up()

    async def _all_ended(self) -> None:
        for writer in self._registry.sessions:
            if writer.run is not None:
                ended = anyio.Event()
                if writer.head.active is not None:
                    writer.on_run_end(writer.head.active.run_id, ended.set)
                else:
                    # The terminal event is decided and not durable yet.
                    writer.when_settled(ended.set)
                await ended.wait()


_INTERRUPTED = "interrupted by a newer message"


def wish_to_end(writer: SessionWriter, end: Cancelled) -> Wish | None:
    """Return the wish that another process ends the active run; None when none executes it."""
    active = writer.head.active
    if active is None or active.executor is None or writer.run is not None:
        return None
    return Wish(active.run_id, {"type": end.type, "reason": end.reason})


@dataclass(frozen=True, slots=True)
class _StartRun(Effect):
    """Execute a run once it is durable."""

    scheduler: RunScheduler
    writer: SessionWriter
    run: RunExecutor

    @override
    def decided(self) -> None:
        # The head names the run from here on: a cancellation has to find it.
        self.writer.claim_run(self.run)

    @override
    def committed(self) -> None:
        self.scheduler.start(self.writer, self.run)

    @override
    def undone(self) -> None:
        self.writer.release_run(self.run)


@dataclass(frozen=True, slots=True)
class _StartWhenFree(Effect):
    """Start a queued run as soon as nothing prevents it; end the run that it interrupts."""

    scheduler: RunScheduler
    writer: SessionWriter
    interrupts: str | None

    @override
    def committed(self) -> None:
        active = self.writer.head.active
        # Only the run that was active at the decision: by now it may be the interrupting one.
        if active is not None and active.run_id == self.interrupts:
            self.scheduler.interrupt(self.writer, active)
        self.scheduler.start_next(self.writer)

    @override
    def undone(self) -> None:
        self.scheduler.start_next(self.writer)
