"""RunExecutor: executes one run. The run belongs to its session and to no connection (R6).

The executor iterates the agent, turns its events into drafts and hands them to the session writer.
However the agent ends, the executor ends the run with its messages so far and exactly one terminal
event (R5). An agent that ignores its cancellation is left behind after a while; its later events
are dropped.
"""

from collections.abc import Mapping, Sequence
from contextlib import aclosing, suppress
from functools import partial
from typing import Any

import anyio
import structlog
from structlog.contextvars import bind_contextvars, clear_contextvars

from bamboo_gateway.agents.base import Agent, AgentError, Answer, Turn
from bamboo_gateway.domain.client_tools import ClientTools
from bamboo_gateway.domain.errors import (
    BambooError,
    InvalidEvent,
    InvalidInput,
    Refused,
    StorageFull,
    TooLarge,
)
from bamboo_gateway.domain.events import (
    CODE_INTERRUPTED,
    AgentEvent,
    Cancelled,
    Complete,
    DeltaEvent,
    Draft,
    Failed,
    InputRequired,
    MessageSaid,
    TerminalEvent,
    check_encodable,
)
from bamboo_gateway.domain.files import files_in
from bamboo_gateway.domain.limits import RUN_AHEAD_EVENTS_YIELD
from bamboo_gateway.domain.message_assembler import MessageAssembler
from bamboo_gateway.domain.sessions import ActiveRun
from bamboo_gateway.domain.views import session_view
from bamboo_gateway.observability.tracing import Parent, span_under
from bamboo_gateway.sessions.context import Context
from bamboo_gateway.sessions.files.downloads import open_for_agent
from bamboo_gateway.sessions.runs.conversation import Conversation, agent_conversation
from bamboo_gateway.sessions.runs.detached_task import DetachedTask
from bamboo_gateway.sessions.runs.factory import Maker, restored
from bamboo_gateway.sessions.streaming.session_writer import HeadMoved, SessionWriter, Vanished

log = structlog.get_logger(__name__)

_RETRY_SECONDS = 0.05
"""How long to wait before a terminal event that could not be stored is first tried again."""

_TURN_RETRY_SECONDS = 0.5
"""How long to wait before a conversation that could not be read is read again."""

_RETRY_SECONDS_MAX = 30.0
"""The longest wait before a terminal event that could not be stored is tried again."""


class RunExecutor:
    """The execution of one run in this process.

    Attributes:
        run_id: The run's id.
        agent_name: The name of the agent that answers.
        writer: The writer of the run's session.
        executor: This process, as the others know it; None: it has the store for itself.
    """

    __slots__ = (
        "_agent",
        "_answers",
        "_assembler",
        "_cancelled",
        "_client_tools",
        "_context",
        "_conversation",
        "_end_scope",
        "_ending",
        "_failure",
        "_foreign",
        "_has_kept_tools",
        "_last_seq",
        "_maker",
        "_options",
        "_parent",
        "_said",
        "_scope",
        "_since_yield",
        "_stop",
        "agent_name",
        "executor",
        "run_id",
        "writer",
    )

    def __init__(
        self,
        context: Context,
        maker: Maker,
        writer: SessionWriter,
        run_id: str,
        agent_name: str,
        agent: Agent,
        options: dict[str, Any],
        parent: Parent = None,
        answers: Mapping[str, Answer] | None = None,
        open_calls: Sequence[str] = (),
        client_tools: ClientTools = (),
    ) -> None:
        self.writer = writer
        self.run_id = run_id
        self.agent_name = agent_name
        replicas = context.store.replicas
        self.executor = replicas.executor if replicas is not None else None
        self._context = context
        self._maker = maker
        self._agent = agent
        self._options = options
        self._client_tools = client_tools
        self._parent = parent
        self._conversation: Conversation | None = None
        self._answers = answers or {}
        self._assembler = maker.assembler(run_id, agent.model_of(options))
        self._assembler.carry(open_calls)
        self._scope = anyio.CancelScope()
        self._end_scope = anyio.CancelScope(shield=True)
        self._foreign = DetachedTask(context.settings.agent_abandon_seconds)
        self._cancelled = anyio.Event()
        self._stop: TerminalEvent | None = None
        self._said: TerminalEvent | None = None
        self._failure: BambooError | None = None
        self._last_seq = 0
        self._ending = False
        self._has_kept_tools = False
        self._since_yield = 0

    def cancel(self, terminal: TerminalEvent) -> None:
        """Ask the run to end with `terminal`. The first request counts; repeats do nothing."""
        if self._stop is None and not self._ending:
            self._stop = terminal
            self._cancelled.set()
            self._scope.cancel()

    def broken(self, error: BambooError) -> None:
        """Report that a commit failed. If it held events of this run, the run cannot go on."""
        if self._last_seq > self.writer.durable_seq:
            self._failure = self._failure or error
            if not self._ending:
                self._scope.cancel()

    def executes(self, active: ActiveRun | None) -> bool:
        """Return whether the active run is this one, and executed here."""
        return (
            active is not None and active.run_id == self.run_id and active.executor == self.executor
        )

    def wished(self, terminal: dict[str, Any]) -> None:
        """End as another process wishes (`ActiveRun.wish`)."""
        self.cancel(Cancelled(str(terminal.get("reason", "cancelled"))))

    def moved(self, last_seq: int) -> None:
        """Note that what the run said has other seqs now, up to this one: it was decided again."""
        self._last_seq = last_seq

    def abandon(self) -> None:
        """Stop without a terminal event: the session is deleted, or somebody has ended the run."""
        self._ending = True
        self._scope.cancel()

    def is_making(self, message_id: str) -> bool:
        """Return whether a message of that id has begun and is not complete yet."""
        return self._assembler.is_making(message_id)

    def leave(self) -> None:
        """Stop waiting for an agent that was cancelled."""
        self._foreign.leave()

    def give_up(self) -> None:
        """Stop trying to store the end. The next start of the gateway closes the run."""
        self._foreign.leave()
        self._end_scope.cancel()

    async def execute(self) -> None:
        """Execute the run to its end, which is durable on return unless the session is deleted."""
        clear_contextvars()
        bind_contextvars(session_id=self.writer.id, run_id=self.run_id)
        named = {"session_id": self.writer.id, "run_id": self.run_id, "agent": self.agent_name}
        with span_under(self._parent, "run", **named):
            await self._execute()

    async def free_messages(self) -> None:
        """Free the conversation in small steps, once the run has given its slot back."""
        if self._conversation is not None:
            await self._conversation.let_go()

    async def _turn_at_last(self) -> Turn:
        """Load the turn, for as long as a shared store does not answer: it comes back."""
        while True:
            try:
                return await self._load_turn()
            except BambooError as error:
                if not self.writer.keeps_said(error):
                    raise
            await anyio.sleep(_TURN_RETRY_SECONDS)
            await self.writer.ready_at_last()

    async def _load_turn(self) -> Turn:
        head = self.writer.head.copy()
        active = head.active
        assert active is not None  # the run has the session's slot
        read = self._conversation = await agent_conversation(
            self._context.store,
            head,
            active.start_seq,
            self._agent,
            self._options,
            self.writer.channel.queue,
        )
        view = session_view(head, "active", self._context.states.expires_at(head))
        return Turn(
            self.run_id,
            read.messages,
            view,
            self._options,
            self._cancelled,
            read.left_out,
            self._answers,
            partial(open_for_agent, self._context, self.writer),
            self._client_tools,
        )

    async def _execute(self) -> None:
        otherwise: TerminalEvent = Complete()
        try:
            with self._scope:
                turn = await self._turn_at_last()
                await self._foreign.run(lambda: self._iterate(turn), f"agent {self.run_id}")
        except Vanished:
            return
        except AgentError as error:
            otherwise = Failed(error.detail, error.code)
        except (InvalidEvent, TooLarge) as error:
            otherwise = Failed(
                f"The agent broke the event contract: {error.detail}", "invalid_event"
            )
        except BambooError as error:
            self._failure = self._failure or error
        except Exception:
            log.exception("agent failed", session_id=self.writer.id, run_id=self.run_id)
            otherwise = _AGENT_FAILED
        self._ending = True
        if self._foreign.was_left:
            log.error(
                "an agent ignored its cancellation and was left behind",
                session_id=self.writer.id,
                run_id=self.run_id,
                agent=self.agent_name,
            )
        with self._end_scope:
            await self._end(otherwise)

    def _final(self, otherwise: TerminalEvent) -> TerminalEvent:
        if self._failure is not None:
            code = "storage_full" if isinstance(self._failure, StorageFull) else "storage_failed"
            return Failed(self._failure.detail, code)
        # A cancelled agent may end in any way; a terminal event of its own counts.
        return self._said or self._stop or otherwise

    async def _iterate(self, turn: Turn) -> None:
        async with aclosing(self._agent.run(turn)) as events:  # type: ignore[type-var]
            async for event in events:
                if not isinstance(event, DeltaEvent):
                    check_encodable(event)
                    if isinstance(event, TerminalEvent):
                        self._said = event
                        return
                    if isinstance(event, MessageSaid):
                        event = await self._with_files(event)
                if not self.writer.is_ready:
                    await self.writer.ready_at_last()
                self._emit(event)
                if self._since_yield >= RUN_AHEAD_EVENTS_YIELD or self.writer.is_ahead:
                    self._since_yield = 0
                    await self.writer.drained()

    async def _with_files(self, said: MessageSaid) -> MessageSaid:
        """Refer to the files that an agent's message names: of the session, or of its user."""
        content: Any = said.message.get("content")
        if not any(True for _ in files_in(content)):
            return said
        head = self.writer.head
        try:
            [named] = await self._context.files.named(
                head.id, head.files, [content], lambda record: record.user_id == head.user_id
            )
        except (InvalidInput, Refused) as error:
            raise AgentError(error.detail, code=error.code.replace("-", "_")) from error
        return MessageSaid({**said.message, "content": named})

    def _emit(self, event: AgentEvent) -> None:
        if self._failure is not None:
            raise self._failure
        if self._ending:
            # The agent was left behind: its run has ended without it.
            raise Vanished
        self._since_yield += 1
        if isinstance(event, DeltaEvent):
            before, delta = self._assembler.delta(event)
            if before:
                _, self._last_seq = self.writer.decide(before)
            self._last_seq = self.writer.decide_delta(delta, may_join=self._agent.coalesce)
        else:
            drafts = self._assembler.feed(event)
            if isinstance(event, InputRequired):
                self._keep_for_next_run(drafts[0])
            _, self._last_seq = self.writer.decide(drafts)

    def _keep_for_next_run(self, request: Draft) -> None:
        """Add what the run that gets the answer has too; tools only once, as they may be large."""
        if self._options:
            request.fields["options"] = self._options
        if self._client_tools and not self._has_kept_tools:
            request.fields["client_tools"] = list(self._client_tools)
            self._has_kept_tools = True

    async def _end(self, otherwise: TerminalEvent) -> None:
        delay = _RETRY_SECONDS
        drafts: list[Draft] | None = None
        is_counted = False
        while True:
            try:
                await self.writer.ready_at_last()
                if self._failure is not None and self._last_seq:
                    await self._outcome_known()
                    # The assembler has events that were undone with the failed commit.
                    self._assembler = await restored(
                        self._context.store, self._maker, self.writer, self.run_id
                    )
                    self._last_seq, drafts = 0, None
                    await self.writer.ready_at_last()
                if not self.executes(self.writer.head.active):
                    # The end was stored, although the store reported a failure; or another process
                    # has ended the run.
                    return
                final = self._final(otherwise)
                if not is_counted and isinstance(final, Complete):
                    # Before the end is stored, so that a crash between the two forgets nothing.
                    await self._context.budget.spend(self.writer.head.user_id, final.usage)
                    is_counted = True
                    continue  # the session may have changed meanwhile
                drafts = drafts or self._assembler.end(final)
                await self.writer.commit(drafts, waiters=[self._ended], reserve=True)
            except Vanished:
                return
            except HeadMoved:
                # Behind what the run has said before, and only if it still has the slot.
                if self._failure is not None:
                    # Of the commit that failed, more may be stored than was known: read it again.
                    self._last_seq = self.writer.durable_seq
            except (TooLarge, InvalidEvent):
                # The last message does not fit into an event, and the terminal event always does:
                # it is stored alone.
                fits = drafts is not None and len(drafts) > 1
                drafts = [drafts[-1]] if drafts and fits else [_short(self.run_id)]
            except BambooError as error:
                log.warning(
                    "a run's end could not be stored, trying again",
                    session_id=self.writer.id,
                    run_id=self.run_id,
                    code=error.code,
                )
                await anyio.sleep(delay)
                delay = min(delay * 2, _RETRY_SECONDS_MAX)
            except Exception:  # the boundary: stored messages may be unreadable, the run must end
                log.exception(
                    "a run's last messages are lost", session_id=self.writer.id, run_id=self.run_id
                )
                self._last_seq, drafts = 0, [_short(self.run_id)]
            else:
                return

    async def _outcome_known(self) -> None:
        """Wait until all that the run has said is durable or undone: then the log has it.

        Raises:
            Vanished: The session does not exist any more.
        """
        while self._last_seq > self.writer.durable_seq and self.writer.is_storing:
            with suppress(BambooError):
                await self.writer.settled()
            await self.writer.ready_at_last()

    def _ended(self, error: BambooError | None) -> None:
        # Here, and not after `commit`: by then, other events may have the seqs of what was undone,
        # and `broken` may reach the next run.
        if error is not None:
            # The next run may have claimed the slot behind this end, which was not stored.
            self.writer.claim_run(self)
        if error is None or isinstance(error, TooLarge | InvalidEvent):
            return
        if not self.writer.keeps_said(error):
            self.broken(error)


_AGENT_FAILED = Failed("The agent failed; the gateway's log has the details.")


def _short(run_id: str) -> Draft:
    return Draft(
        "error",
        {
            "run_id": run_id,
            "message": "The last message of the run could not be stored.",
            "code": "invalid_event",
        },
    )


def end_interrupted(assembler: MessageAssembler) -> list[Draft]:
    """Return the events that close a run which a stop of the gateway has interrupted."""
    return assembler.end(
        Failed("The gateway stopped while this run was executing.", CODE_INTERRUPTED)
    )
