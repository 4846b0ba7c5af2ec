"""Events that external programs post: what an agent may yield, without what the gateway adds.

They describe `POST …/events` in the OpenAPI document. `domain.events` reads the events themselves,
by the same rules for agents; a test compares the two.
"""

from typing import Annotated, Any, Literal

from pydantic import ConfigDict, Discriminator, Field

from bamboo_gateway.api.schemas.fields import Described, DescribedUnion
from bamboo_gateway.domain.events import COUNT_MAX, PROMPT_CHARS_MAX, RequestKind

_Count = Annotated[int, Field(ge=0, le=COUNT_MAX)]


class _Posted(Described):
    model_config = ConfigDict(extra="forbid")


class _OfRun(_Posted):
    run_id: Annotated[str, Field(description="An open external run.")]


class PostedToken(_OfRun):
    """A delta of the assistant's text."""

    type: Literal["token"]
    content: str


class PostedThinking(_OfRun):
    """A delta of the assistant's reasoning."""

    type: Literal["thinking"]
    content: str


class PostedToolStart(_OfRun):
    """A tool call. A string of `arguments` that holds a JSON object is read as that object."""

    type: Literal["tool_start"]
    tool_call_id: str
    tool_name: str
    arguments: dict[str, Any] | str = {}


class PostedToolDelta(_OfRun):
    """A delta of a tool call's arguments or output."""

    type: Literal["tool_delta"]
    tool_call_id: str
    content: str


class PostedToolResult(_Posted):
    """What a tool returned. `content` is text, or any JSON value."""

    success: bool
    content: Any


class PostedToolComplete(_OfRun):
    """A tool call has its result."""

    type: Literal["tool_complete"]
    tool_call_id: str
    result: PostedToolResult


class PostedToolError(_OfRun):
    """A tool call has failed."""

    type: Literal["tool_error"]
    tool_call_id: str
    error: str


class PostedMessage(_OfRun):
    """A whole message: `role`, `content`, and what else a message may have."""

    type: Literal["message"]
    message: dict[str, Any]


class PostedUsage(_Posted):
    """What the run cost, in tokens of the model."""

    prompt_tokens: _Count = 0
    completion_tokens: _Count = 0
    total_tokens: _Count = 0
    cached_tokens: _Count = 0
    reasoning_tokens: _Count = 0


class PostedInputRequired(_OfRun):
    """A request for input. The run ends with its terminal event, and the next one gets the answers.

    `expires_at` is an RFC 3339 time. Without a `request_id` the gateway makes one.
    """

    type: Literal["input_required"]
    prompt: Annotated[str, Field(min_length=1, max_length=PROMPT_CHARS_MAX)]
    kind: RequestKind = "question"
    tool_call_id: str | None = None
    schema_: Annotated[
        dict[str, Any] | None, Field(alias="schema", description="The JSON Schema of the answer.")
    ] = None
    expires_at: str | None = None
    request_id: str | None = None


class PostedComplete(_OfRun):
    """Terminal: the run completed."""

    type: Literal["complete"]
    usage: PostedUsage | None = None
    finish_reason: str = "stop"
    model: str | None = None


class PostedError(_OfRun):
    """Terminal: the run failed. `message` is for people and holds no secret."""

    type: Literal["error"]
    message: str
    code: str = "agent_error"


class PostedCancelled(_OfRun):
    """Terminal: the run was cancelled."""

    type: Literal["cancelled"]
    reason: str = "cancelled"


class PostedCustom(_Posted):
    """Anything for the session's front ends; with `run_id` as part of an external run."""

    type: Literal["custom"]
    name: str
    value: Any = None
    run_id: str | None = None


PostedEventType = (
    PostedToken
    | PostedThinking
    | PostedToolStart
    | PostedToolDelta
    | PostedToolComplete
    | PostedToolError
    | PostedMessage
    | PostedInputRequired
    | PostedComplete
    | PostedError
    | PostedCancelled
    | PostedCustom
)


class PostedEvent(DescribedUnion[Annotated[PostedEventType, Discriminator("type")]]):
    """An event to append. All but `custom` belong to an open external run."""
