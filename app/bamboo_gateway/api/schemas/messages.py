"""Messages: as clients send them, and as the history has them."""

from typing import Annotated, Any, Literal, Self

from pydantic import ConfigDict, Discriminator, Field, Tag, model_validator

from bamboo_gateway.api.limits import ITEMS_MAX, PARTS_MAX, URL_CHARS_MAX
from bamboo_gateway.api.schemas.fields import Answer, Described, Id, Input, Metadata, Name
from bamboo_gateway.domain.events import COUNT_MAX
from bamboo_gateway.sessions.commands import NewMessage


class TextPart(Input):
    """Text; with the type `thinking`, the assistant's reasoning."""

    type: Literal["text", "thinking"]
    text: str


class MediaPart(Input):
    """An image or a file: its address in `url`, or its content as Base64 in `data`."""

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


class FilePart(Input):
    """An image or a file that was uploaded: `POST /files` answers its `file_id`.

    The gateway adds what it knows of the file (`name`, `media_type`, `bytes`); what a client sends
    of it is ignored. Its content is at `/files/{file_id}`.
    """

    type: Literal["image", "file"]
    file_id: Id
    name: str | None = None
    media_type: str | None = None
    bytes: int | None = None


_PART_KINDS = {"text": "<text>", "thinking": "<text>", "image": "<media>", "file": "<media>"}


def _part_kind(value: Any) -> str | None:
    # The value may be anything, also something without a hash.
    kind = value.get("type") if isinstance(value, dict) else getattr(value, "type", None)
    tag = _PART_KINDS.get(kind) if isinstance(kind, str) else None
    has_file = "file_id" in value if isinstance(value, dict) else hasattr(value, "file_id")
    return "<stored>" if tag == "<media>" and has_file else tag


Part = Annotated[
    Annotated[TextPart, Tag("<text>")]
    | Annotated[MediaPart, Tag("<media>")]
    | Annotated[FilePart, Tag("<stored>")],
    Discriminator(
        _part_kind,
        custom_error_type="unknown_part",
        custom_error_message="a part's `type` is one of: text, thinking (both with `text`), image, "
        "file (both with `file_id`, or with `media_type` and `url` or `data`)",
    ),
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
    cached_tokens: int = Field(0, ge=0, le=COUNT_MAX)
    reasoning_tokens: int = Field(0, ge=0, le=COUNT_MAX)
    total_tokens: int = Field(0, ge=0, le=COUNT_MAX)


class MessageInput(Input):
    """A message as a client sends it. A tool message is the result of its `tool_call_id`."""

    role: Literal["system", "user", "assistant", "tool"]
    content: Content
    id: Id | None = Field(None, description="Absent: the gateway makes one.")
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
        """Return the message as the command takes it."""
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


def message_kind(value: Any) -> str:
    """Return the union's tag for one or several messages."""
    if isinstance(value, list):
        return "<list>"
    return "<text>" if isinstance(value, str) else "<message>"


MessageOrList = Annotated[
    Annotated[MessageInput, Tag("<message>")] | Annotated[MessageList, Tag("<list>")],
    Discriminator(message_kind),
]


class Usage(Answer):
    """Tokens of the model. In messages and events of earlier versions the details are absent."""

    prompt_tokens: int
    completion_tokens: int
    cached_tokens: Annotated[
        int, Field(description="The part of `prompt_tokens` that came from the server's cache.")
    ] = 0
    reasoning_tokens: Annotated[
        int, Field(description="The part of `completion_tokens` that is reasoning.")
    ] = 0
    total_tokens: int

    model_config = ConfigDict(json_schema_serialization_defaults_required=False)


class UsageParts(Described):
    """The usage that was counted, by the agent and by the model that it was used for."""

    by_agent: dict[str, Usage] = {}
    by_model: dict[str, Usage] = {}


class ToolCall(Answer):
    """A tool call in a message. `arguments` is a string only when a model's text is not JSON."""

    id: str
    name: str
    arguments: dict[str, Any] | str


class _MessageOptional(Described):
    parent_id: Annotated[
        str | None,
        Field(description="The message before it; null: it is the first one of its path."),
    ] = None
    branch_id: Annotated[str, Field(description="The branch that it belongs to.")] = ""
    siblings: Annotated[
        list[str],
        Field(
            description="At a branching point: all messages with the same parent, itself "
            "included, oldest first. Only where messages are read, never in events."
        ),
    ] = []
    tool_calls: list[ToolCall] = []
    tool_call_id: str = ""
    run_id: str = ""
    usage: Usage | None = None
    model: str = ""
    copied_from: Annotated[
        str, Field(description="The message that a merge has copied it from.")
    ] = ""


class Message(_MessageOptional):
    """A message of the history. Members that do not apply are absent."""

    id: str
    role: Literal["system", "user", "assistant", "tool"]
    content: str | list[Part]
    status: Literal["complete", "incomplete"]
    created_at: str
    metadata: dict[str, Any]


class MessagePage(Answer):
    """A page of messages. Open `stream_url` after it, never `position`: nothing is missed."""

    messages: list[Message]
    next_cursor: str | None
    has_more: bool
    position: str
    stream_url: str


class MessagesAdded(Answer):
    """The messages of a list, as they are stored."""

    messages: list[Message]
    position: str
