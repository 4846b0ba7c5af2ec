"""Events: what agents yield, and what a session's log may hold.

Agents yield the frozen classes below. External programs send JSON objects of the same shape, which
`parse_agent_event` reads. In the log an event is one flat JSON object that begins with `type`,
`seq` and `time`. Before an event has its seq it is a `Draft`.
"""

from dataclasses import dataclass, field
from typing import Annotated, Any, Final, Literal, NamedTuple, TypedDict, get_args

from pydantic import (
    BeforeValidator,
    ConfigDict,
    Discriminator,
    Field,
    TypeAdapter,
    ValidationError,
    with_config,
)

from bamboo_gateway.domain.codec import encode, nests_deeper, object_in
from bamboo_gateway.domain.errors import InvalidEvent

DELTA_TYPES: Final = frozenset({"token", "thinking", "tool_delta"})
TERMINAL_TYPES: Final = frozenset({"complete", "error", "cancelled"})
RUN_EVENT_TYPES: Final = frozenset(
    {"token", "thinking", "tool_start", "tool_delta", "tool_complete", "tool_error"}
)
SESSION_EVENT_TYPES: Final = frozenset(
    {
        "session_created",
        "session_updated",
        "session_forked",
        "session_merged",
        "summary_saved",
        "branch_started",
        "branch_selected",
        "extensions_updated",
        "state_change",
    }
)
SHARE_TYPES: Final = frozenset({"session_shared", "share_revoked"})
EVENT_TYPES: Final = (
    DELTA_TYPES
    | TERMINAL_TYPES
    | RUN_EVENT_TYPES
    | SESSION_EVENT_TYPES
    | SHARE_TYPES
    | {"message", "run_queued", "run_start", "custom"}
)

CODE_INTERRUPTED: Final = "interrupted"


def _as_object(arguments: Any) -> Any:
    """Decode the arguments of a tool call that arrived as the text of a JSON object."""
    read = object_in(arguments) if isinstance(arguments, str) else None
    if read is None or nests_deeper(read, _ARGUMENTS_DEPTH_MAX):
        return arguments
    return read


class Draft(NamedTuple):
    """An event that has no seq yet: its type and its other fields, in order."""

    type: str
    fields: dict[str, Any]


_EXACT = ConfigDict(extra="forbid", revalidate_instances="always")

COUNT_MAX: Final = 2**53 - 1
"""The largest whole number that every JSON reader keeps exactly; sums of counts stop there too."""

_ARGUMENTS_DEPTH_MAX = 200
"""The encoder cannot write an event that nests deeper than 254 levels."""

_Count = Annotated[int, Field(ge=0, le=COUNT_MAX)]


class UsageCounts(TypedDict):
    """The Usage of the API: tokens of the model."""

    prompt_tokens: int
    completion_tokens: int
    total_tokens: int


@with_config(_EXACT)
@dataclass(frozen=True, slots=True)
class Usage:
    """The cost of a run, in tokens of the model."""

    prompt_tokens: _Count = 0
    completion_tokens: _Count = 0
    total_tokens: _Count = 0

    def __add__(self, other: "Usage") -> "Usage":
        return Usage(
            min(self.prompt_tokens + other.prompt_tokens, COUNT_MAX),
            min(self.completion_tokens + other.completion_tokens, COUNT_MAX),
            min(self.total_tokens + other.total_tokens, COUNT_MAX),
        )

    def to_json(self) -> UsageCounts:
        """Return the Usage of the API."""
        return {
            "prompt_tokens": self.prompt_tokens,
            "completion_tokens": self.completion_tokens,
            "total_tokens": self.total_tokens,
        }

    @staticmethod
    def of(value: Any) -> "Usage":
        """Read a stored usage; absent or null counts are 0."""
        if not isinstance(value, dict):
            return Usage()
        names = ("prompt_tokens", "completion_tokens", "total_tokens")
        return Usage(*(int(value.get(name) or 0) for name in names))


@with_config(_EXACT)
@dataclass(frozen=True, slots=True)
class Token:
    """A delta of the assistant's text."""

    content: str
    type: Literal["token"] = "token"


@with_config(_EXACT)
@dataclass(frozen=True, slots=True)
class Thinking:
    """A delta of the assistant's reasoning."""

    content: str
    type: Literal["thinking"] = "thinking"


@with_config(_EXACT)
@dataclass(frozen=True, slots=True)
class ToolStart:
    """A whole tool call. `arguments` is a string only when the model's text was not JSON."""

    tool_call_id: str
    tool_name: str
    arguments: Annotated[dict[str, Any] | str, BeforeValidator(_as_object)] = field(
        default_factory=dict
    )
    type: Literal["tool_start"] = "tool_start"


@with_config(_EXACT)
@dataclass(frozen=True, slots=True)
class ToolDelta:
    """Arguments or output of a tool call, as they arrive."""

    tool_call_id: str
    content: str
    type: Literal["tool_delta"] = "tool_delta"


@with_config(_EXACT)
@dataclass(frozen=True, slots=True)
class ToolResult:
    """The result of a tool. `content` is text, or any JSON value."""

    success: bool
    content: Any


@with_config(_EXACT)
@dataclass(frozen=True, slots=True)
class ToolComplete:
    """The result of a tool call."""

    tool_call_id: str
    result: ToolResult
    type: Literal["tool_complete"] = "tool_complete"


@with_config(_EXACT)
@dataclass(frozen=True, slots=True)
class ToolError:
    """A tool call that failed."""

    tool_call_id: str
    error: str
    type: Literal["tool_error"] = "tool_error"


@with_config(_EXACT)
@dataclass(frozen=True, slots=True)
class MessageSaid:
    """A whole message, from an agent that assembles its own messages.

    `message` has `role` and `content`, and perhaps other members of a Message. The gateway gives it
    its id, run and time.
    """

    message: dict[str, Any]
    type: Literal["message"] = "message"


@with_config(_EXACT)
@dataclass(frozen=True, slots=True)
class Complete:
    """Terminal: the run completed."""

    usage: Usage | None = None
    finish_reason: str = "stop"
    type: Literal["complete"] = "complete"


@with_config(_EXACT)
@dataclass(frozen=True, slots=True)
class Failed:
    """Terminal: the run failed. `message` is for people; it holds no secret and no path."""

    message: str
    code: str = "agent_error"
    type: Literal["error"] = "error"


@with_config(_EXACT)
@dataclass(frozen=True, slots=True)
class Cancelled:
    """Terminal: the run was cancelled."""

    reason: str = "cancelled"
    type: Literal["cancelled"] = "cancelled"


@with_config(_EXACT)
@dataclass(frozen=True, slots=True)
class Custom:
    """Any data that an agent or a program sends to its front end."""

    name: str
    value: Any = None
    type: Literal["custom"] = "custom"


DeltaEvent = Token | Thinking | ToolDelta
TerminalEvent = Complete | Failed | Cancelled
AgentEvent = (
    Token
    | Thinking
    | ToolStart
    | ToolDelta
    | ToolComplete
    | ToolError
    | MessageSaid
    | Custom
    | TerminalEvent
)

_ADAPTER: TypeAdapter[AgentEvent] = TypeAdapter(Annotated[AgentEvent, Discriminator("type")])

_TYPES = (kind.__dataclass_fields__["type"].default for kind in get_args(AgentEvent))
_TYPE_PROBLEM = f"`type` is one of: {', '.join(_TYPES)}"
_PROBLEMS = {
    "union_tag_not_found": _TYPE_PROBLEM,
    "union_tag_invalid": _TYPE_PROBLEM,
    "unexpected_keyword_argument": "no such field",
}
"""What a client is told in place of pydantic's own words, which name parts of its schema."""


def check_encodable(event: AgentEvent) -> None:
    """Refuse text with lone surrogates before it becomes part of an event.

    Raises:
        InvalidEvent: The text cannot be stored as UTF-8.
    """
    try:
        encode(event)
    except (TypeError, UnicodeEncodeError) as error:
        raise InvalidEvent(f"The event {event.type!r} cannot be written as JSON.") from error


def parse_agent_event(value: Any) -> AgentEvent:
    """Read one event of an agent from its JSON object.

    Raises:
        InvalidEvent: The type is unknown or fields are wrong; `errors` lists them.
    """
    if not isinstance(value, dict):
        raise InvalidEvent("An event must be a JSON object.")
    try:
        return _ADAPTER.validate_python(value)
    except ValidationError as error:
        details = [
            {"loc": list(item["loc"]), "msg": _PROBLEMS.get(item["type"], item["msg"])}
            for item in error.errors(include_url=False, include_input=False)
        ]
        first = details[0]
        place = ".".join(str(part) for part in first["loc"])
        problem = f"{place}: {first['msg']}" if place else first["msg"]
        raise InvalidEvent(f"Not a valid event: {problem}", errors=details) from error
