"""What AG-UI clients send. Unknown members are ignored, as the protocol asks.

Only new messages count, and they become the gateway's own `MessageInput`, with its bounds and
errors; so the schemas here say little about messages.
"""

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from bamboo_gateway.api.limits import NAME_CHARS_MAX
from bamboo_gateway.api.schemas.fields import Answer, Described, Id

_CLIENT_ID_CHARS_MAX = 1024
_MESSAGES_MAX = 10_000
"""Clients send the whole conversation with each turn. To read so many takes some 30 ms."""
_CONTEXT_MAX = 1000
_RESUME_MAX = 64


class _Sent(BaseModel):
    """The base: strict types, unknown members ignored."""

    model_config = ConfigDict(extra="ignore", strict=True, populate_by_name=True)


class SentMessage(_Sent):
    """A message of the client's conversation."""

    id: Annotated[str, Field(min_length=1, max_length=_CLIENT_ID_CHARS_MAX)]
    role: Literal["user", "assistant", "system", "developer", "tool", "reasoning", "activity"]
    content: Any = None
    tool_calls: Annotated[list[dict[str, Any]] | None, Field(alias="toolCalls")] = None
    tool_call_id: Annotated[str | None, Field(alias="toolCallId")] = None


class SentTool(_Sent):
    """A tool of the client's."""

    name: str
    description: str | None = None
    parameters: Any = None


class SentContext(_Sent):
    """Something that the agent should know."""

    description: str
    value: str


class SentAnswer(_Sent):
    """The answer to an interrupt."""

    interrupt_id: Annotated[Id, Field(alias="interruptId")]
    status: Literal["resolved", "cancelled"]
    payload: Any = None


class RunAgentInput(_Sent):
    """RunAgentInput of AG-UI 1.0."""

    thread_id: Annotated[Id, Field(alias="threadId", description="The session.")]
    run_id: Annotated[
        Id, Field(alias="runId", description="The run. A repeat with the same one starts no other.")
    ]
    state: Annotated[
        Any, Field(description="Passed to agents that allow the option `state`; else ignored.")
    ] = None
    messages: Annotated[
        list[SentMessage],
        Field(
            max_length=_MESSAGES_MAX,
            description="The conversation. Known messages are ignored, new ones at its end "
            "appended.",
        ),
    ] = []
    tools: Annotated[list[SentTool] | None, Field(description="Tools that the client runs.")] = None
    context: Annotated[
        list[SentContext] | None,
        Field(
            max_length=_CONTEXT_MAX,
            description="Passed to agents that allow the option `context`; else ignored.",
        ),
    ] = None
    forwarded_props: Annotated[
        Any,
        Field(
            alias="forwardedProps",
            description="Members that are options which the agent allows are set; others ignored.",
        ),
    ] = None
    resume: Annotated[
        list[SentAnswer] | None,
        Field(max_length=_RESUME_MAX, description="Answers to the interrupts of the run before."),
    ] = None


class ConnectInput(_Sent):
    """What a client sends to see a thread: RunAgentInput, of which only the thread counts."""

    thread_id: Annotated[Id, Field(alias="threadId", description="The session.")]
    run_id: Annotated[
        str | None,
        Field(
            alias="runId",
            max_length=NAME_CHARS_MAX,
            description="Names the answer when the thread has had no run.",
        ),
    ] = None


class Stopped(Answer):
    """The runs of a thread that were stopped."""

    stopped: Annotated[bool, Field(description="Whether there was one.")]
    threadId: str  # noqa: N815  the protocol's spelling
    runIds: list[str]  # noqa: N815  the protocol's spelling


class Refusal(Described):
    """A refused request: the protocol's RUN_ERROR, with the members of the gateway's problem."""

    type: Literal["RUN_ERROR"]
    message: str
    title: str
    status: int
    detail: str
    code: Annotated[str, Field(description="As in a problem of the gateway.")]
    retryable: bool
    errors: list[dict[str, Any]] = []
