"""Runs: one turn of an agent, owned by its session and by no connection (R6).

`RunExecutor` iterates the agent, turns its events into drafts and gives them to the session's
writer. However it ends, it ends the run with what was said and exactly one terminal event (R5). An
agent that ignores its cancellation is left behind after a while, and can say nothing more.
"""

from collections.abc import Awaitable, Callable
from contextlib import aclosing
from typing import Any

import anyio
import structlog
from structlog.contextvars import bind_contextvars, clear_contextvars

from bamboo_gateway.agents.base import Agent, AgentError, Turn
from bamboo_gateway.domain.errors import BambooError, InvalidEvent, StorageFull, TooLarge
from bamboo_gateway.domain.events import (
    CODE_INTERRUPTED,
    AgentEvent,
    Complete,
    Draft,
    Failed,
    TerminalEvent,
    check_encodable,
)
from bamboo_gateway.domain.limits import RUN_AHEAD_EVENTS_YIELD
from bamboo_gateway.domain.message_assembler import MessageAssembler
from bamboo_gateway.observability.tracing import Parent, span_under
from bamboo_gateway.sessions.runs.detached_task import DetachedTask
from bamboo_gateway.sessions.streaming.session_writer import SessionWriter, Vanished

log = structlog.get_logger(__name__)

_RETRY_SECONDS_MAX = 30.0
"""A terminal event that cannot be stored is tried again at most this far apart."""


class RunExecutor:
    """The execution of one run in this process.

    Attributes:
        run_id: Its name.
        agent_name: Which configured agent answers.
        live: Whose run it is.
        parent: The span of the request that it is an answer to, if that is traced.
    """

    __slots__ = (
        "_assembler",
        "_cancelled",
        "_end_scope",
        "_ending",
        "_failure",
        "_foreign",
        "_last_seq",
        "_restore",
        "_said",
        "_scope",
        "_since_yield",
        "_stop",
        "agent_name",
        "live",
        "parent",
        "run_id",
    )

    def __init__(
        self,
        live: SessionWriter,
        run_id: str,
        agent_name: str,
        assembler: MessageAssembler,
        restore: Callable[[SessionWriter, str], Awaitable[MessageAssembler]],
        abandon_seconds: float,
    ) -> None:
        self.live = live
        self.run_id = run_id
        self.agent_name = agent_name
        self.parent: Parent = None
        self._assembler = assembler
        self._restore = restore
        self._scope = anyio.CancelScope()
        self._end_scope = anyio.CancelScope(shield=True)
        self._foreign = DetachedTask(abandon_seconds)
        self._cancelled = anyio.Event()
        self._stop: TerminalEvent | None = None
        self._said: TerminalEvent | None = None
        self._failure: BambooError | None = None
        self._last_seq = 0
        self._ending = False
        self._since_yield = 0

    def cancel(self, terminal: TerminalEvent) -> None:
        """Asks the run to end with `terminal`; the first wish counts. Idempotent."""
        if self._stop is None and not self._ending:
            self._stop = terminal
            self._cancelled.set()
            self._scope.cancel()

    def broken(self, error: BambooError) -> None:
        """Says that a commit failed: with events of this run in it, the run cannot go on."""
        if self._last_seq > self.live.durable_seq:
            self._failure = self._failure or error
            if not self._ending:
                self._scope.cancel()

    def abandon(self) -> None:
        """Stops it without a word: its session is gone."""
        self._ending = True
        self._scope.cancel()

    def is_making(self, message_id: str) -> bool:
        """Tells whether a message of that id has begun and is not said yet."""
        return self._assembler.is_making(message_id)

    def leave(self) -> None:
        """Waits no longer for an agent that was cancelled."""
        self._foreign.leave()

    def give_up(self) -> None:
        """Stops trying to store the end; the next start of the gateway closes the run."""
        self._foreign.leave()
        self._end_scope.cancel()

    async def execute(
        self, agent: Agent, options: dict[str, Any], load_turn: Callable[..., Awaitable[Turn]]
    ) -> None:
        """Runs to the end, and gives the session's slot back.

        Args:
            agent: What answers.
            options: What the chat passed to it.
            load_turn: Builds the turn from `(run_id, options, cancelled)`.
        """
        clear_contextvars()
        bind_contextvars(session_id=self.live.id, run_id=self.run_id)
        named = {"session_id": self.live.id, "run_id": self.run_id, "agent": self.agent_name}
        with span_under(self.parent, "run", **named):
            await self._execute(agent, options, load_turn)

    async def _execute(
        self, agent: Agent, options: dict[str, Any], load_turn: Callable[..., Awaitable[Turn]]
    ) -> None:
        otherwise: TerminalEvent = Complete()
        try:
            with self._scope:
                turn = await load_turn(self.run_id, options, self._cancelled)
                await self._foreign.run(lambda: self._iterate(agent, turn), f"agent {self.run_id}")
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
            log.exception("agent failed", session_id=self.live.id, run_id=self.run_id)
            otherwise = _AGENT_FAILED
        self._ending = True
        if self._foreign.was_left:
            log.error(
                "an agent ignored its cancellation and was left behind",
                session_id=self.live.id,
                run_id=self.run_id,
                agent=self.agent_name,
            )
        with self._end_scope:
            await self._end(otherwise)

    def _final(self, otherwise: TerminalEvent) -> TerminalEvent:
        if self._failure is not None:
            code = "storage_full" if isinstance(self._failure, StorageFull) else "storage_failed"
            return Failed(self._failure.detail, code)
        # An agent that was told to stop may end in any way, short of a terminal event of its own.
        return self._said or self._stop or otherwise

    async def _iterate(self, agent: Agent, turn: Turn) -> None:
        async with aclosing(agent.run(turn)) as events:  # type: ignore[type-var]
            async for event in events:
                check_encodable(event)
                if isinstance(event, TerminalEvent):
                    self._said = event
                    return
                if not self.live.is_ready:
                    await self.live.ready()
                self._emit(event)
                if self._since_yield >= RUN_AHEAD_EVENTS_YIELD or self.live.is_ahead:
                    self._since_yield = 0
                    await self.live.drained()

    def _emit(self, event: AgentEvent) -> None:
        if self._failure is not None:
            raise self._failure
        if self._ending:
            # It was left behind: its run has ended without it.
            raise Vanished
        _, self._last_seq = self.live.decide(self._assembler.feed(event))
        self._since_yield += 1

    async def _end(self, otherwise: TerminalEvent) -> None:
        delay = 0.05
        drafts: list[Draft] | None = None
        while True:
            try:
                await self.live.ready()
                if self._failure is not None and self._last_seq:
                    # What was undone with the failed commit is not to be taken as said.
                    self._assembler = await self._restore(self.live, self.run_id)
                    self._last_seq, drafts = 0, None
                    await self.live.ready()
                if not self._has_slot():
                    return  # its end was stored though reported as failed
                drafts = drafts or self._assembler.end(self._final(otherwise))
                await self.live.commit(drafts, waiters=[self._ended], reserve=True)
            except Vanished:
                return
            except (TooLarge, InvalidEvent):
                # What was said does not fit into one event: the end must, so it goes alone.
                fits = drafts is not None and len(drafts) > 1
                drafts = [drafts[-1]] if drafts and fits else [_short(self.run_id)]
            except BambooError as error:
                log.warning(
                    "a run's end could not be stored, trying again",
                    session_id=self.live.id,
                    run_id=self.run_id,
                    code=error.code,
                )
                await anyio.sleep(delay)
                delay = min(delay * 2, _RETRY_SECONDS_MAX)
            except Exception:  # the boundary: what was said may be beyond reading, the run must end
                log.exception("a run's end", session_id=self.live.id, run_id=self.run_id)
                self._last_seq, drafts = 0, [_short(self.run_id)]
            else:
                return

    def _has_slot(self) -> bool:
        active = self.live.head.active
        return active is not None and active.run_id == self.run_id

    def _ended(self, error: BambooError | None) -> None:
        # Here and not after `commit`: later, others may have taken the seqs of what was undone, and
        # the next run may be the one that `broken` is said to.
        if error is not None and not isinstance(error, TooLarge | InvalidEvent):
            self.broken(error)


_AGENT_FAILED = Failed("The agent failed; the gateway's log has the details.")


def _short(run_id: str) -> Draft:
    return Draft(
        "error",
        {
            "run_id": run_id,
            "message": "What the run said last could not be stored.",
            "code": "invalid_event",
        },
    )


def end_interrupted(assembler: MessageAssembler) -> list[Draft]:
    """Gives what closes a run that the gateway's end has cut: what was said, and why."""
    return assembler.end(
        Failed("The gateway stopped while this run was executing.", CODE_INTERRUPTED)
    )
