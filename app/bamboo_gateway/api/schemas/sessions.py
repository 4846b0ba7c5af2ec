"""What clients get, for the OpenAPI document: the contract's shapes, in the contract's order.

Answers are not built with these: the bytes come from the manager, and the tests hold every answer
against the document.
"""

from typing import Any, Literal

from pydantic import BaseModel, ConfigDict

from bamboo_gateway.api.schemas.messages import Part, SessionTypeName


class _Shape(BaseModel):
    # Also defaults are in every answer, unless a field says otherwise.
    model_config = ConfigDict(extra="forbid", json_schema_serialization_defaults_required=True)


class UsageShape(_Shape):
    """Tokens of the model."""

    prompt_tokens: int
    completion_tokens: int
    total_tokens: int


class ParentShape(_Shape):
    """Where a session was forked from."""

    session_id: str
    message_id: str | None
    position: str | None


class Session(_Shape):
    """A conversation with its whole history."""

    id: str
    title: str | None
    user_id: str | None
    session_type: SessionTypeName
    state: Literal["active", "idle", "disconnected", "closed", "expired", "archived"]
    working_dir: str | None
    created_at: str
    updated_at: str
    last_activity_at: str
    expires_at: str | None
    ttl_seconds: int | None
    message_count: int
    usage: UsageShape
    metadata: dict[str, Any]
    extension_data: dict[str, Any]
    parent: ParentShape | None
    position: str
    active_run_id: str | None
    stream_url: str


class ToolCallShape(_Shape):
    """A tool call in a message; `arguments` is a string only when a model's text is no JSON."""

    id: str
    name: str
    arguments: dict[str, Any] | str


class _MessageOptional(BaseModel):
    tool_calls: list[ToolCallShape] = []
    tool_call_id: str = ""
    run_id: str = ""
    usage: UsageShape | None = None
    model: str = ""


class Message(_MessageOptional):
    """Something said. Members that do not apply are absent."""

    id: str
    role: Literal["system", "user", "assistant", "tool"]
    content: str | list[Part]
    status: Literal["complete", "incomplete"]
    created_at: str
    metadata: dict[str, Any]


class SessionWithMessages(Session):
    """A session, and with `include_messages` everything said in it."""

    messages: list[Message] | None = None

    model_config = ConfigDict(json_schema_serialization_defaults_required=False)


class SessionPageShape(BaseModel):
    """A page of sessions; `total` unless `count=false`, `offset` when it was asked by offset."""

    sessions: list[Session]
    next_cursor: str | None
    has_more: bool
    total: int = 0
    offset: int = 0


class MessagePageShape(_Shape):
    """A page of messages. Open `stream_url` after it, never `position`: nothing is missed."""

    messages: list[Message]
    next_cursor: str | None
    has_more: bool
    position: str
    stream_url: str


class MessagesAdded(_Shape):
    """The messages of a list, as stored."""

    messages: list[Message]
    position: str


class RunErrorShape(_Shape):
    """Why a run failed."""

    code: str
    message: str


class Run(_Shape):
    """One turn of an agent."""

    run_id: str
    session_id: str
    agent: str
    status: Literal["queued", "running", "completed", "failed", "cancelled", "interrupted"]
    position: str
    message_ids: list[str]
    created_at: str
    started_at: str | None
    ended_at: str | None
    usage: UsageShape | None
    finish_reason: str | None
    error: RunErrorShape | None
    stream_url: str


class RunWaited(Run):
    """A run; with `Prefer: wait`, once it has ended, its last assistant message."""

    message: Message | None = None

    model_config = ConfigDict(json_schema_serialization_defaults_required=False)


class RunCancelled(Run):
    """A run; `cancel_requested` while its terminal event is not in the log yet."""

    cancel_requested: bool = False

    model_config = ConfigDict(json_schema_serialization_defaults_required=False)


class RunPageShape(_Shape):
    """A page of runs."""

    runs: list[Run]
    next_cursor: str | None
    has_more: bool


class SessionCancelled(_Shape):
    """What cancelling a session's runs came to."""

    session_id: str
    runs: list[RunCancelled]


class ChatAccepted(_Shape):
    """The turn is accepted; open `stream_url` at any time to see all of it, once."""

    session_id: str
    run_id: str
    message_ids: list[str]
    status: Literal["queued", "running"]
    position: str
    stream_url: str


class ChatCompleted(_Shape):
    """The turn has ended: the last assistant message, and how it went."""

    session_id: str
    run_id: str
    message_ids: list[str]
    status: Literal["completed", "failed", "cancelled", "interrupted"]
    position: str
    stream_url: str
    message: Message | None
    usage: UsageShape | None
    error: RunErrorShape | None


class Event(BaseModel):
    """One event of a session's log; the further members depend on `type`."""

    model_config = ConfigDict(extra="allow")

    type: str
    seq: int
    time: str


class EventPageShape(_Shape):
    """A page of events; `next` is the position to go on after."""

    events: list[Event]
    next: str
    has_more: bool


class EventsAppended(_Shape):
    """Where the events stand; of an empty streamed body nowhere."""

    first: str | None
    last: str | None
    count: int


class ConnectionShape(_Shape):
    """An open stream."""

    connection_id: str
    session_id: str
    since: str
    position: str
    lag_events: int
    remote_address: str | None


class ConnectionPageShape(_Shape):
    """Who watches a session."""

    connections: list[ConnectionShape]
    next_cursor: str | None
    has_more: bool


class Health(_Shape):
    """Whether the gateway lives, or is ready."""

    status: Literal["ok", "ready", "unavailable"]
    detail: str


class ProblemShape(BaseModel):
    """A problem document (RFC 9457). `code` is stable; further members depend on it."""

    model_config = ConfigDict(extra="allow")

    type: str
    title: str
    status: int
    detail: str
    instance: str
    code: str
    retryable: bool
    errors: list["ProblemPlace"] = []


class ProblemPlace(BaseModel):
    """One thing that is wrong with a request, and where."""

    loc: list[str | int]
    msg: str
