"""Events: what agents yield, and what a session's log may hold.

Agents yield the frozen classes below. External programs send JSON objects of the same shape, which
`parse_agent_event` reads. In the log an event is one flat JSON object that begins with `type`,
`seq` and `time`. Before an event has its seq it is a `Draft`.
"""

from dataclasses import dataclass, field
from datetime import datetime
from typing import Annotated, Any, Final, Literal, NamedTuple, TypedDict, get_args

from pydantic import (
    AfterValidator,
    BeforeValidator,
    ConfigDict,
    Discriminator,
    Field,
    TypeAdapter,
    ValidationError,
    with_config,
)

from bamboo_gateway.domain.clock import format_ms, parse_ms
from bamboo_gateway.domain.codec import encode, nests_deeper, object_in
from bamboo_gateway.domain.errors import InvalidEvent
from bamboo_gateway.domain.ids import is_id

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
        "message_hidden",
        "run_hidden",
        "extensions_updated",
        "state_change",
    }
)
SHARE_TYPES: Final = frozenset({"session_shared", "share_revoked"})
INPUT_TYPES: Final = frozenset({"input_required", "input_given", "input_closed"})
"""A request for input, its answer, and its end without one; `input_requests` says which follows."""
EVENT_TYPES: Final = (
    DELTA_TYPES
    | TERMINAL_TYPES
    | RUN_EVENT_TYPES
    | SESSION_EVENT_TYPES
    | SHARE_TYPES
    | INPUT_TYPES
    | {"message", "run_queued", "run_start", "custom"}
)

CODE_INTERRUPTED: Final = "interrupted"

REASON_INPUT: Final = "input_required"
"""The `finish_reason` of a run that has asked for input and waits for it in no memory."""


def _as_object(arguments: Any) -> Any:
    """Decode the arguments of a tool call that arrived as the text of a JSON object."""
    read = object_in(arguments) if isinstance(arguments, str) else None
    if read is None or nests_deeper(read, _ARGUMENTS_DEPTH_MAX):
        return arguments
    return read


def _as_time(value: Any) -> Any:
    """Write a time, or a datetime with its zone, as the API writes times."""
    if isinstance(value, datetime):
        if value.tzinfo is None:
            raise ValueError("a datetime needs its zone, as that of `datetime.now(UTC)`")
        return format_ms(round(value.timestamp() * 1000))
    if isinstance(value, str):
        try:
            return format_ms(parse_ms(value))
        except (ValueError, OverflowError):
            raise ValueError("not a time like 2026-11-20T17:25:00Z") from None
    return value


def _an_id(value: str) -> str:
    if not is_id(value):
        raise ValueError("1 to 128 characters of [A-Za-z0-9._-], a letter or digit first")
    return value


class Draft(NamedTuple):
    """An event that has no seq yet: its type and its other fields, in order."""

    type: str
    fields: dict[str, Any]


_EXACT = ConfigDict(extra="forbid", revalidate_instances="always")

COUNT_MAX: Final = 2**53 - 1
"""The largest whole number that every JSON reader keeps exactly; sums of counts stop there too."""

_ARGUMENTS_DEPTH_MAX = 200
"""The encoder cannot write an event that nests deeper than 254 levels."""

PROMPT_CHARS_MAX: Final = 8_000
"""The longest prompt of a request for input: a question for people, and no document."""

_Count = Annotated[int, Field(ge=0, le=COUNT_MAX)]


class UsageCounts(TypedDict):
    """The Usage of the API: tokens of the model."""

    prompt_tokens: int
    completion_tokens: int
    cached_tokens: int
    reasoning_tokens: int
    total_tokens: int


@with_config(_EXACT)
@dataclass(frozen=True, slots=True)
class Usage:
    """The cost of a run, in tokens of the model.

    Attributes:
        prompt_tokens: What the model read.
        completion_tokens: What it wrote.
        total_tokens: Both.
        cached_tokens: The part of `prompt_tokens` that the model server had read before.
        reasoning_tokens: The part of `completion_tokens` that is reasoning.
    """

    prompt_tokens: _Count = 0
    completion_tokens: _Count = 0
    total_tokens: _Count = 0
    cached_tokens: _Count = 0
    reasoning_tokens: _Count = 0

    def __add__(self, other: "Usage") -> "Usage":
        return Usage(
            min(self.prompt_tokens + other.prompt_tokens, COUNT_MAX),
            min(self.completion_tokens + other.completion_tokens, COUNT_MAX),
            min(self.total_tokens + other.total_tokens, COUNT_MAX),
            min(self.cached_tokens + other.cached_tokens, COUNT_MAX),
            min(self.reasoning_tokens + other.reasoning_tokens, COUNT_MAX),
        )

    def __sub__(self, other: "Usage") -> "Usage":
        """Return what is left; no count is below 0."""
        return Usage(
            max(self.prompt_tokens - other.prompt_tokens, 0),
            max(self.completion_tokens - other.completion_tokens, 0),
            max(self.total_tokens - other.total_tokens, 0),
            max(self.cached_tokens - other.cached_tokens, 0),
            max(self.reasoning_tokens - other.reasoning_tokens, 0),
        )

    def to_json(self) -> UsageCounts:
        """Return the Usage of the API."""
        return {
            "prompt_tokens": self.prompt_tokens,
            "completion_tokens": self.completion_tokens,
            "cached_tokens": self.cached_tokens,
            "reasoning_tokens": self.reasoning_tokens,
            "total_tokens": self.total_tokens,
        }

    @staticmethod
    def of(value: Any) -> "Usage":
        """Read a stored usage; absent or null counts are 0."""
        if not isinstance(value, dict):
            return Usage()
        return Usage(*(int(value.get(name) or 0) for name in _COUNTS))


_COUNTS: Final = (
    "prompt_tokens",
    "completion_tokens",
    "total_tokens",
    "cached_tokens",
    "reasoning_tokens",
)


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


RequestKind = Literal["approval", "question", "form"]


@with_config(_EXACT)
@dataclass(frozen=True, slots=True)
class InputRequired:
    """A request for input: the agent asks people, and ends. The answers come with the next turn.

    Attributes:
        prompt: The question, for people.
        kind: `approval` is answered with `{"approved": bool, "reason"?: str}`, `question` with a
            text and `form` with an object, unless `schema` says otherwise.
        tool_call_id: The call that the question is about. It stays open, and the turn that gets
            the answer yields its result.
        schema: The JSON Schema of the answer (`answer_schema` has its limits); not of an approval.
        expires_at: When the request ends without an answer: an RFC 3339 time, or a datetime with
            its zone. None: never.
        request_id: A name for the request, with the characters of an id; None: the gateway makes
            one.
    """

    prompt: Annotated[str, Field(min_length=1, max_length=PROMPT_CHARS_MAX)]
    kind: RequestKind = "question"
    tool_call_id: str | None = None
    schema: dict[str, Any] | None = None
    expires_at: Annotated[str | None, BeforeValidator(_as_time)] = None
    request_id: Annotated[str, AfterValidator(_an_id)] | None = None
    type: Literal["input_required"] = "input_required"


@with_config(_EXACT)
@dataclass(frozen=True, slots=True)
class Complete:
    """Terminal: the run completed. `model` is the model that answered, if the agent knows it."""

    usage: Usage | None = None
    finish_reason: str = "stop"
    model: str | None = None
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
    | InputRequired
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
