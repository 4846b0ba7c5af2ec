"""Sessions: creating and changing them, and what clients see of them."""

from typing import Any, Self

from pydantic import ConfigDict, Field, model_validator

from bamboo_gateway.api.schemas.fields import (
    Answer,
    Described,
    ExtensionData,
    Id,
    Input,
    Metadata,
    SessionTypeName,
    StateName,
    Title,
    Ttl,
    UserId,
    WorkingDir,
    no_default,
)
from bamboo_gateway.api.schemas.messages import Message, Usage
from bamboo_gateway.domain.events import RequestKind
from bamboo_gateway.sessions.commands import NewSession


class SessionInput(Input):
    """A session to create."""

    id: Id | None = Field(None, description="Absent: the gateway makes one.")
    session_id: Id | None = Field(None, description="The same as `id`; chat calls it so.")
    user_id: UserId | None = None
    title: Title | None = None
    session_type: SessionTypeName = "user"
    working_dir: WorkingDir | None = None
    metadata: Metadata = Field(default_factory=dict)
    extension_data: ExtensionData = Field(default_factory=dict)
    ttl_seconds: Ttl | None = Field(None, description="Time to live after the last activity.")

    @model_validator(mode="after")
    def _one_id(self) -> Self:
        if self.id and self.session_id and self.id != self.session_id:
            raise ValueError("`id` and `session_id` name two sessions")
        return self

    def to_new(self) -> NewSession:
        """Return the session as the command takes it."""
        values = self.model_dump(exclude={"session_id"})
        return NewSession(**{**values, "id": self.id or self.session_id})


class SessionPatch(Input):
    """A JSON merge patch (RFC 7396): null removes a member, also inside `metadata`."""

    title: Title | None = None
    working_dir: WorkingDir | None = None
    metadata: Metadata | None = None
    ttl_seconds: Ttl | None = None
    session_type: SessionTypeName = Field("user", json_schema_extra=no_default)
    extension_data: ExtensionData | None = None


class ReopenInput(Input):
    """How long a reopened session lives."""

    ttl_seconds: Ttl | None = Field(
        None,
        description="The new time to live. Absent: the present one, counted again; null: none.",
    )


class Parent(Answer):
    """Where a session was forked from."""

    session_id: str
    message_id: str | None
    position: str | None


class OpenRequest(Answer):
    """A request for input that waits for an answer; `prompt` is the begin of the question."""

    request_id: str
    kind: RequestKind
    prompt: str
    run_id: str
    tool_call_id: str | None
    asked_at: str
    expires_at: str | None


class Session(Answer):
    """A conversation with its whole history."""

    id: str
    title: str | None
    user_id: str | None
    session_type: SessionTypeName
    state: StateName
    working_dir: str | None
    created_at: str
    updated_at: str
    last_activity_at: str
    expires_at: str | None
    ttl_seconds: int | None
    message_count: int
    preview: str | None = Field(
        description=(
            "The first 120 characters of the last text that the user or the assistant said; "
            "whitespace is folded. Null: there is none, or none since an upgrade."
        )
    )
    usage: Usage
    metadata: dict[str, Any]
    extension_data: dict[str, Any]
    parent: Parent | None
    position: str
    active_run_id: str | None
    open_requests: list[OpenRequest]
    stream_url: str


class SessionWithMessages(Session):
    """A session; with `include_messages` also all of its messages."""

    messages: list[Message] | None = None

    model_config = ConfigDict(json_schema_serialization_defaults_required=False)


class SessionPage(Described):
    """A page of sessions; with `total` unless `count=false`, with `offset` when that was given."""

    sessions: list[Session]
    next_cursor: str | None
    has_more: bool
    total: int = 0
    offset: int = 0
