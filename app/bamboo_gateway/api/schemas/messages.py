"""What clients send, checked: unknown members are refused, everything has a bound.

`shapes` has what they get back. The tags of unions stand in angle brackets, so that `problems` can
leave them out of the place of an error: a client knows no `<list>`.
"""

from typing import Annotated, Any, Literal, Self

from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Discriminator,
    Field,
    Tag,
    model_validator,
)

from bamboo_gateway.api.limits import (
    ITEMS_MAX,
    MEMBERS_MAX,
    NAME_CHARS_MAX,
    OPTIONS_BYTES_MAX,
    PARTS_MAX,
    PATH_CHARS_MAX,
    TITLE_CHARS_MAX,
    TTL_SECONDS_MAX,
    URL_CHARS_MAX,
    USER_ID_CHARS_MAX,
)
from bamboo_gateway.domain.codec import encode
from bamboo_gateway.domain.errors import InvalidId
from bamboo_gateway.domain.events import COUNT_MAX
from bamboo_gateway.domain.ids import check_id
from bamboo_gateway.domain.limits import EXTENSION_DATA_BYTES_MAX, METADATA_BYTES_MAX
from bamboo_gateway.sessions.commands import NewMessage, NewSession


class Input(BaseModel):
    """The base of all that clients send."""

    # Strict: "5" is no number and 1 no truth; a client that mixes them up hears of it.
    model_config = ConfigDict(extra="forbid", strict=True)

    @model_validator(mode="before")
    @classmethod
    def _few_members(cls, value: Any) -> Any:
        if isinstance(value, dict) and len(value) > MEMBERS_MAX:
            raise ValueError(f"has {len(value)} members, of which most are not known")
        return value


def _is_id(text: str) -> str:
    try:
        return check_id(text, "valid id")
    except InvalidId as error:
        raise ValueError(error.detail) from error


def _fits(bytes_max: int) -> AfterValidator:
    def check(value: dict[str, Any]) -> dict[str, Any]:
        size = len(encode(value))
        if size > bytes_max:
            raise ValueError(f"has {size} bytes as JSON; {bytes_max} are allowed")
        return value

    return AfterValidator(check)


Id = Annotated[
    str,
    AfterValidator(_is_id),
    Field(json_schema_extra={"pattern": "^[A-Za-z0-9][A-Za-z0-9._-]{0,127}$"}),
]
Name = Annotated[str, Field(min_length=1, max_length=NAME_CHARS_MAX)]
Title = Annotated[str, Field(max_length=TITLE_CHARS_MAX)]
UserId = Annotated[str, Field(min_length=1, max_length=USER_ID_CHARS_MAX)]
WorkingDir = Annotated[str, Field(max_length=PATH_CHARS_MAX)]
Metadata = Annotated[dict[str, Any], _fits(METADATA_BYTES_MAX)]
ExtensionData = Annotated[dict[str, Any], _fits(EXTENSION_DATA_BYTES_MAX)]
Options = Annotated[dict[str, Any], _fits(OPTIONS_BYTES_MAX)]
Ttl = Annotated[int, Field(ge=1, le=TTL_SECONDS_MAX)]
SessionTypeName = Literal["user", "sub_agent", "scheduled"]


class TextPart(Input):
    """Words, or with `thinking` reasoning."""

    type: Literal["text", "thinking"]
    text: str


class MediaPart(Input):
    """An image or a file, by `url` or as Base64 in `data`."""

    type: Literal["image", "file"]
    url: Annotated[str, Field(min_length=1, max_length=URL_CHARS_MAX)] | None = None
    data: str | None = None
    media_type: Name
    name: Name | None = None

    @model_validator(mode="after")
    def _one_source(self) -> Self:
        if (self.url is None) == (self.data is None):
            raise ValueError("has either `url` or `data`")
        return self


def _part_kind(value: Any) -> str:
    # It may be anything, also what has no hash.
    kind = value.get("type") if isinstance(value, dict) else getattr(value, "type", None)
    return "<media>" if kind in ("image", "file") else "<text>"


Part = Annotated[
    Annotated[TextPart, Tag("<text>")] | Annotated[MediaPart, Tag("<media>")],
    Discriminator(_part_kind),
]


def _content_kind(value: Any) -> str:
    return "<parts>" if isinstance(value, list) else "<text>"


Content = Annotated[
    Annotated[str, Tag("<text>")]
    | Annotated[list[Part], Field(min_length=1, max_length=PARTS_MAX), Tag("<parts>")],
    Discriminator(_content_kind),
]


class ToolCallInput(Input):
    """A tool call of an assistant message."""

    id: Name
    name: Name
    arguments: dict[str, Any] = Field(default_factory=dict)


class UsageInput(Input):
    """What a message cost, in tokens."""

    prompt_tokens: int = Field(0, ge=0, le=COUNT_MAX)
    completion_tokens: int = Field(0, ge=0, le=COUNT_MAX)
    total_tokens: int = Field(0, ge=0, le=COUNT_MAX)


class MessageInput(Input):
    """A message as a client gives it. A tool message is the result of its `tool_call_id`."""

    role: Literal["system", "user", "assistant", "tool"]
    content: Content
    id: Id | None = Field(None, description="Made by the gateway unless the client names one.")
    tool_calls: Annotated[list[ToolCallInput], Field(min_length=1, max_length=PARTS_MAX)] | None = (
        None
    )
    tool_call_id: Name | None = None
    model: Name | None = None
    usage: UsageInput | None = None
    metadata: Metadata = Field(default_factory=dict)

    @model_validator(mode="after")
    def _fits_role(self) -> Self:
        if (self.role == "tool") != (self.tool_call_id is not None):
            raise ValueError("tool messages, and only they, have `tool_call_id`")
        if self.tool_calls is not None and self.role != "assistant":
            raise ValueError("only assistant messages have `tool_calls`")
        if self.content == "" and self.tool_calls is None and self.role != "tool":
            raise ValueError('`content` may be "" only beside `tool_calls` or as a tool\'s result')
        return self

    def to_new(self) -> NewMessage:
        """Gives the command's form."""
        content = self.content
        return NewMessage(
            role=self.role,
            content=(
                content
                if isinstance(content, str)
                else [part.model_dump(exclude_none=True) for part in content]
            ),
            id=self.id,
            tool_calls=[call.model_dump() for call in self.tool_calls] if self.tool_calls else None,
            tool_call_id=self.tool_call_id,
            model=self.model,
            usage=self.usage.model_dump() if self.usage else None,
            metadata=self.metadata,
        )


MessageList = Annotated[list[MessageInput], Field(min_length=1, max_length=ITEMS_MAX)]


def _message_kind(value: Any) -> str:
    if isinstance(value, list):
        return "<list>"
    return "<text>" if isinstance(value, str) else "<message>"


MessageOrList = Annotated[
    Annotated[MessageInput, Tag("<message>")] | Annotated[MessageList, Tag("<list>")],
    Discriminator(_message_kind),
]
ChatMessage = Annotated[
    Annotated[str, Field(min_length=1), Tag("<text>")]
    | Annotated[MessageInput, Tag("<message>")]
    | Annotated[MessageList, Tag("<list>")],
    Discriminator(_message_kind),
]


class ChatInput(Input):
    """One turn of a conversation."""

    message: ChatMessage = Field(
        description="The user's words, or a message, or a list of messages (tool results)."
    )
    session_id: Id | None = Field(
        None, description="Absent: a new session. Unknown: created under exactly this id."
    )
    user_id: UserId | None = None
    title: Title | None = None
    working_dir: WorkingDir | None = None
    session_type: SessionTypeName = "user"
    metadata: Metadata = Field(default_factory=dict)
    agent: Name | None = Field(None, description="Which configured agent answers.")
    options: Options = Field(
        default_factory=dict,
        description="What the agent shall do otherwise, as far as its `allow` names it.",
    )
    run_id: Id | None = Field(
        None, description="The client's own name for the run, to cancel it before the answer came."
    )
    on_busy: Literal["enqueue", "reject", "interrupt"] = Field(
        "enqueue", description="When a run is active: wait, 409, or cancel it and go first."
    )

    def messages(self) -> list[NewMessage]:
        """Gives the turn's input."""
        if isinstance(self.message, str):
            return [NewMessage("user", self.message)]
        if isinstance(self.message, MessageInput):
            return [self.message.to_new()]
        return [message.to_new() for message in self.message]

    def session(self) -> NewSession:
        """Gives what the session is created with, if it has to be."""
        return NewSession(
            id=self.session_id,
            user_id=self.user_id,
            title=self.title,
            session_type=self.session_type,
            working_dir=self.working_dir,
            metadata=self.metadata,
        )


class SessionInput(Input):
    """A session to create."""

    id: Id | None = Field(None, description="Made by the gateway unless the client names one.")
    session_id: Id | None = Field(
        None, description="The same as `id`, by the name chat has for it."
    )
    user_id: UserId | None = None
    title: Title | None = None
    session_type: SessionTypeName = "user"
    working_dir: WorkingDir | None = None
    metadata: Metadata = Field(default_factory=dict)
    extension_data: ExtensionData = Field(default_factory=dict)
    ttl_seconds: Ttl | None = Field(None, description="Time to live after its last activity.")

    @model_validator(mode="after")
    def _one_id(self) -> Self:
        if self.id and self.session_id and self.id != self.session_id:
            raise ValueError("`id` and `session_id` name two sessions")
        return self

    def to_new(self) -> NewSession:
        """Gives the command's form."""
        values = self.model_dump(exclude={"session_id"})
        return NewSession(**{**values, "id": self.id or self.session_id})


class SessionPatch(Input):
    """A JSON merge patch (RFC 7396): null takes a member away, also inside `metadata`."""

    title: Title | None = None
    working_dir: WorkingDir | None = None
    metadata: Metadata | None = None
    ttl_seconds: Ttl | None = None
    session_type: SessionTypeName = "user"
    extension_data: ExtensionData | None = None


class ReopenInput(Input):
    """How long a session lives that is opened again."""

    ttl_seconds: Ttl | None = Field(
        None,
        description="The new time to live. Left out: the present one, counted again; null: none.",
    )


class RunInput(Input):
    """An external run to open."""

    agent: Literal["external"]
    run_id: Id | None = Field(None, description="Made by the gateway unless the client names one.")
