"""The contract between the gateway and agents, which answer in sessions.

An agent is an async generator of events. The gateway does everything around it: it assembles
messages, commits and streams. It ends the run as completed when the generator returns without a
terminal event, and as failed when it raises. It cancels the agent by cancelling the task that
iterates it.
"""

from abc import ABC, abstractmethod
from collections.abc import AsyncIterator, Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import count
from typing import Any, Literal, NamedTuple, Protocol, runtime_checkable

import anyio

from bamboo_gateway.agents.allowed import ANY_OPTIONS, AllowedOptions
from bamboo_gateway.agents.tool_calls import ToolCall
from bamboo_gateway.agents.turn_files import OpenFile, no_files
from bamboo_gateway.domain.client_tools import ClientTools
from bamboo_gateway.domain.codec import size_left
from bamboo_gateway.domain.errors import BambooError
from bamboo_gateway.domain.events import AgentEvent, InputRequired
from bamboo_gateway.domain.limits import KiB
from bamboo_gateway.domain.messages import Message

SessionAnswer = Callable[[Mapping[str, Any]], Mapping[str, Any]]
"""Makes the API's Session of a turn's session: with `stream_url`, whose form only the API knows."""


_SHORT = 64 * KiB
"""The size, by `size_left`, of an input that is encoded on the event loop: 0.2 ms at most."""

_MESSAGE = 512
"""How much a message adds to the size besides its text: so much text takes as long to encode."""


class LeftOut(NamedTuple):
    """How much of the beginning of a conversation was not read. A turn has one user message."""

    turns: int = 0
    messages: int = 0


NOTHING_LEFT_OUT = LeftOut()


@dataclass(frozen=True, slots=True)
class Answer:
    """What became of a request for input of the run before.

    Attributes:
        request: The request, as that run made it; its `request_id` is never None.
        status: Whether somebody answered it, or its time has passed.
        value: The answer, which fits the request's schema; None when it has expired.
        user_id: The user who answered, if the credential names one.
        given_at: When it was answered, or has expired: an RFC 3339 time.
    """

    request: InputRequired
    status: Literal["answered", "expired"]
    value: Any = None
    user_id: str | None = None
    given_at: str = ""

    @property
    def approved(self) -> bool:
        """Whether this is an approval that was given."""
        return isinstance(self.value, dict) and self.value.get("approved") is True

    def to_json(self) -> dict[str, Any]:
        """Return the answer as services get it."""
        request = {
            name: value
            for name in InputRequired.__dataclass_fields__
            if name != "type" and (value := getattr(self.request, name)) is not None
        }
        return {
            "request": request,
            "status": self.status,
            "answer": self.value,
            "user_id": self.user_id,
            "given_at": self.given_at,
        }


@dataclass(frozen=True, slots=True)
class Turn:
    """The input of an agent: the conversation, ending with the messages to answer.

    Attributes:
        run_id: The id of the run.
        messages: The conversation in order, with the input of the run at the end. It is whole
            unless the agent needs only its end (`SupportsWindow`).
        session: The Session of the API (docs/reference/shapes.md) without messages. Instead of
            `stream_url` it has `stream_after`, the position where a stream has to begin.
        options: The `options` of the chat request.
        cancelled: Is set when the run has to end. The agent's task is cancelled as well, so only
            agents that work outside that task (threads, processes) need to check it.
        left_out: How much before `messages` was not read.
        answers: What became of the requests for input of the run before, by their ids. A turn with
            answers has no input message; the calls that the requests name wait for this run.
        open_file: Returns a file that a message of the session names: `await
            turn.open_file(part["file_id"])` (`turn_files.TurnFile`).
        client_tools: Tools that the client brought: `{"name", "description"?, "parameters"}`, with
            a JSON Schema. The agent may call them with a `ToolStart` and no result; the client runs
            them, and the result begins the next turn. An agent that cannot use them ignores them.
    """

    run_id: str
    messages: list[Message]
    session: Mapping[str, Any]
    options: Mapping[str, Any] = field(default_factory=dict)
    cancelled: anyio.Event = field(default_factory=anyio.Event)
    left_out: LeftOut = NOTHING_LEFT_OUT
    answers: Mapping[str, Answer] = field(default_factory=dict)
    open_file: OpenFile = field(default=no_files, repr=False, compare=False)
    client_tools: ClientTools = ()
    _call_numbers: Iterator[int] = field(default_factory=count, repr=False, compare=False)

    @property
    def is_short(self) -> bool:
        """Whether the input is encoded in a small part of a millisecond; a thread costs more.

        The event loop must not wait for a longer one.
        """
        left = size_left(_SHORT, [dict(self.options), self.metadata, list(self.client_tools)])
        for message in self.messages:
            left -= _MESSAGE
            for value in (message.content, message.tool_calls, message.metadata):
                if value:
                    left = left - len(value) if isinstance(value, str) else size_left(left, value)
            if left < 0:
                return False
        return True

    @property
    def metadata(self) -> Mapping[str, Any]:
        """The metadata of the session."""
        metadata: Mapping[str, Any] = self.session.get("metadata") or {}
        return metadata

    def tool(
        self, name: str, arguments: Mapping[str, Any] | None = None, call_id: str | None = None
    ) -> ToolCall:
        """Prepare a call of a tool that the agent runs itself (module `tool_calls`)."""
        return ToolCall(
            call_id or f"call_{self.run_id}_{next(self._call_numbers)}", name, arguments
        )


class Agent(ABC):
    """Answers turns. One instance serves all sessions concurrently.

    Attributes:
        allowed: The `options` of a chat that clients may set. An agent with a URL takes them from
            `allow` of the URL, or has the default of its kind.
        kind: The kind of its URL, for lists of agents.
        model: The model that answers, if it is always the same and known.
        description: What the agent does, in a sentence for people. An agent with a URL takes this
            from `description` of the URL.
        coalesce: Whether consecutive deltas of one text may become one event while the store is
            busy. What the text is, and when a client sees it, stays the same. An agent with a URL
            takes this from `coalesce` of the URL.
    """

    allowed: AllowedOptions = ANY_OPTIONS
    kind: str = "python"
    model: str | None = None
    description: str | None = None
    coalesce: bool = True

    def check_options(self, options: Mapping[str, Any]) -> None:
        """Refuse options that clients may not set, or that the agent cannot use.

        The scheduler calls this before it stores a run, and again before it starts a queued run,
        because the settings may have changed.

        Raises:
            InvalidInput: With code `option-refused`; `errors` lists each option.
        """
        self.allowed.check(options)

    def options_schema(self) -> dict[str, Any]:
        """Return the JSON Schema of the `options` that clients may set."""
        return self.allowed.json_schema()

    def model_of(self, options: Mapping[str, Any]) -> str | None:
        """Return the model that answers a chat with these options; None if only the code knows.

        Messages and statistics name it, unless the agent names another one in `Complete`.
        """
        del options
        return self.model

    @abstractmethod
    def run(self, turn: Turn) -> AsyncIterator[AgentEvent]:
        """Answer one turn, as an async generator.

        The generator yields events in order. After a terminal event (`Complete`, `Failed`,
        `Cancelled`) it is closed. A `ToolDelta` before the `ToolStart` of its call is a piece of
        the arguments, after it a piece of the output. The client answers a call without a result
        with the next turn.

        To cancel the run, the gateway cancels the task of the generator. The generator must let the
        cancellation through, and release what it has acquired.

        Raises:
            AgentError: The run fails with this code and message, which clients see.
            Exception: The run fails with `agent_error`; only the log has the details.
        """

    async def probe(self) -> str:
        """Check whether the agent can be reached, without asking it anything.

        Returns:
            The result of the check, for `/diagnostics`.

        Raises:
            AgentError: The agent cannot be reached.
        """
        return "is part of the gateway"

    async def aclose(self) -> None:
        """Release what the agent holds (connection pools). All runs have ended by then."""
        return


@runtime_checkable
class SupportsWindow(Protocol):
    """An optional method of agents that need only the end of a long conversation.

    With it, a turn reads what the agent uses, and not the whole conversation.
    """

    def is_enough(self, messages: Sequence[Message], options: Mapping[str, Any]) -> bool:
        """Return whether earlier messages than these make no difference to the answer.

        The gateway calls this again with at least twice as many messages until the answer is True
        or nothing is left, perhaps in a thread.

        Args:
            messages: The latest messages of the conversation, which may begin inside a tool
                exchange. Before them are the summary, if there is one, and all earlier system
                messages.
            options: The `options` of the chat request.

        Raises:
            AgentError: As `Agent.run`.
        """


class AgentError(BambooError):
    """The agent failed, and clients may see the message.

    `code` is snake_case, like every `code` in events: `upstream_error`, `upstream_timeout` …
    """

    code = "agent_error"


class AgentConfigError(BambooError):
    """An agent URL cannot be used; its one line stops the start."""

    code = "agent-config"
