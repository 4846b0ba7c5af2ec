"""The contract between the gateway and whatever answers in a session.

An agent is an async generator over events. The gateway owns everything around it: it assembles
messages, commits, streams, ends the run when the generator returns without a terminal event
(completed) or raises (failed), and cancels it by cancelling the task that iterates it.
"""

from abc import ABC, abstractmethod
from collections.abc import AsyncIterator, Iterator, Mapping
from dataclasses import dataclass, field
from itertools import count
from typing import Any

import anyio

from app.agents.tool_calls import ToolCall
from app.domain.errors import BambooError
from app.domain.events import AgentEvent
from app.domain.messages import Message


@dataclass(frozen=True, slots=True)
class Turn:
    """What an agent is given: the conversation so far, ending with the input it answers.

    Attributes:
        run_id: The run's name.
        messages: The whole conversation in order, the run's own input last.
        session: The session, in the contract's shape (API section 8), without messages.
        options: What the chat request passed in `options`.
        cancelled: Is set when the run is to end; the agent's task is cancelled as well, so only
            agents that work outside that task (threads, processes) need to look at it.
    """

    run_id: str
    messages: list[Message]
    session: Mapping[str, Any]
    options: Mapping[str, Any] = field(default_factory=dict)
    cancelled: anyio.Event = field(default_factory=anyio.Event)
    _call_numbers: Iterator[int] = field(default_factory=count, repr=False, compare=False)

    @property
    def metadata(self) -> Mapping[str, Any]:
        """The session's metadata."""
        metadata: Mapping[str, Any] = self.session.get("metadata") or {}
        return metadata

    def tool(
        self, name: str, arguments: Mapping[str, Any] | None = None, call_id: str | None = None
    ) -> ToolCall:
        """Prepares a call of a tool that the agent runs itself; see `tool_calls`."""
        return ToolCall(
            call_id or f"call_{self.run_id}_{next(self._call_numbers)}", name, arguments
        )


class Agent(ABC):
    """What answers. One instance serves every session, concurrently."""

    @abstractmethod
    def run(self, turn: Turn) -> AsyncIterator[AgentEvent]:
        """Answers one turn, as an async generator.

        Yields its events in order. After a terminal event (`Complete`, `Failed`, `Cancelled`) it
        is closed. A `ToolDelta` before its call's `ToolStart` is a piece of the arguments, after
        it of the output; a `ToolStart` without a result is a call that the client answers, with
        the next turn.

        Cancellation arrives as the task's cancellation, inside the generator; it must be let
        through, and what was acquired given back.

        Raises:
            AgentError: The run ends as failed with its code and words, which clients see.
            Exception: The run ends as failed with `agent_error`; only the log has the details.
        """

    async def probe(self) -> str:
        """Looks whether the agent can be reached, asking nothing of it; gives what was seen.

        Raises:
            AgentError: It cannot be reached.
        """
        return "is part of the gateway"

    async def aclose(self) -> None:
        """Gives back what the agent holds (connection pools). Runs have ended before."""
        return


class AgentError(BambooError):
    """The agent failed in a way that its words may tell clients.

    `code` is snake_case, like every `code` in events: `upstream_error`, `upstream_timeout` …
    """

    code = "agent_error"


class AgentConfigError(BambooError):
    """An agent URL that cannot be used; stops the start with its one line."""

    code = "agent-config"
