"""The contract between the gateway and whatever answers in a session.

An agent is an async generator over events. The gateway owns everything around it: it assembles
messages, commits, streams, ends the run when the generator returns without a terminal event
(completed) or raises (failed), and cancels it by cancelling the task that iterates it.
"""

from abc import ABC, abstractmethod
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import count
from typing import Any, NamedTuple, Protocol, runtime_checkable

import anyio

from bamboo_gateway.agents.allowed import ANY_OPTIONS, AllowedOptions
from bamboo_gateway.agents.tool_calls import ToolCall
from bamboo_gateway.domain.errors import BambooError
from bamboo_gateway.domain.events import AgentEvent
from bamboo_gateway.domain.messages import Message


class LeftOut(NamedTuple):
    """How much of a conversation's beginning was not read. A turn is a message of the user's."""

    turns: int = 0
    messages: int = 0


NOTHING_LEFT_OUT = LeftOut()


@dataclass(frozen=True, slots=True)
class Turn:
    """What an agent is given: the conversation so far, ending with the input it answers.

    Attributes:
        run_id: The run's name.
        messages: The conversation in order, the run's own input last: the whole of it, unless the
            agent says that its end is enough (`SupportsWindow`).
        session: The session, in the API's shape (docs/reference/shapes.md), without messages. In
            place of `stream_url` it has `stream_after`, the position where a stream has to begin.
        options: What the chat request passed in `options`.
        cancelled: Is set when the run is to end; the agent's task is cancelled as well, so only
            agents that work outside that task (threads, processes) need to look at it.
        left_out: What stands before `messages` and was not read.
    """

    run_id: str
    messages: list[Message]
    session: Mapping[str, Any]
    options: Mapping[str, Any] = field(default_factory=dict)
    cancelled: anyio.Event = field(default_factory=anyio.Event)
    left_out: LeftOut = NOTHING_LEFT_OUT
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
    """What answers. One instance serves every session, concurrently.

    Attributes:
        allowed: Which `options` of a chat clients may set. Agents that a URL describes take it from
            the URL's `allow`, or have their kind's default.
    """

    allowed: AllowedOptions = ANY_OPTIONS

    def check_options(self, options: Mapping[str, Any]) -> None:
        """Refuse options that clients may not set, or that the agent cannot use.

        The scheduler calls it before a run is stored, and again before a run that waited starts,
        since the settings may have changed.

        Raises:
            InvalidInput: With code `option-refused`; `errors` names each option.
        """
        self.allowed.check(options)

    @abstractmethod
    def run(self, turn: Turn) -> AsyncIterator[AgentEvent]:
        """Answer one turn, as an async generator.

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
        """Check whether the agent can be reached, without asking it anything.

        Returns:
            What was seen, for `/diagnostics`.

        Raises:
            AgentError: It cannot be reached.
        """
        return "is part of the gateway"

    async def aclose(self) -> None:
        """Release what the agent holds (connection pools). All runs have ended by then."""
        return


@runtime_checkable
class SupportsWindow(Protocol):
    """What an agent may say besides: that the end of a long conversation is enough for it.

    So a turn costs what the agent uses, whatever was said before.
    """

    def is_enough(self, messages: Sequence[Message], options: Mapping[str, Any]) -> bool:
        """Return whether what stands before `messages` makes no difference to the answer.

        Asked again with at least twice as much until it is so, or nothing is left; perhaps in a
        thread.

        Args:
            messages: The conversation's latest messages, which may begin amid a tool exchange.
                Before them the summary, if there is one, and every earlier system message.
            options: What the chat request passed in `options`.

        Raises:
            AgentError: As `Agent.run`.
        """


class AgentError(BambooError):
    """The agent failed in a way that its words may tell clients.

    `code` is snake_case, like every `code` in events: `upstream_error`, `upstream_timeout` …
    """

    code = "agent_error"


class AgentConfigError(BambooError):
    """An agent URL that cannot be used; stops the start with its one line."""

    code = "agent-config"
