"""`POST /chat`: the request, and the two JSON answers."""

from typing import Annotated, Literal, Self

from pydantic import Discriminator, Field, Tag, model_validator

from bamboo_gateway.api.schemas.fields import (
    Answer,
    Id,
    Input,
    Metadata,
    Name,
    Options,
    SessionTypeName,
    Title,
    UserId,
    WorkingDir,
)
from bamboo_gateway.api.schemas.messages import (
    Message,
    MessageInput,
    MessageList,
    Usage,
    message_kind,
)
from bamboo_gateway.api.schemas.runs import RunError
from bamboo_gateway.sessions.commands import NewMessage, NewSession

ChatMessage = Annotated[
    Annotated[str, Field(min_length=1), Tag("<text>")]
    | Annotated[MessageInput, Tag("<message>")]
    | Annotated[MessageList, Tag("<list>")],
    Discriminator(message_kind),
]


class ChatInput(Input):
    """One turn of a conversation."""

    message: ChatMessage = Field(
        description="The user's text, or a message, or a list of messages (tool results)."
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
        description="Options for the agent: those that its `allow` names, within its bounds.",
    )
    run_id: Id | None = Field(
        None,
        description="The client's own name for the run, with which it can cancel the run before "
        "it has the answer.",
    )
    on_busy: Literal["enqueue", "reject", "interrupt"] = Field(
        "enqueue",
        description="When a run is active: wait for its end, answer 409, or cancel it and go "
        "first.",
    )

    edit_message_id: Id | None = Field(
        None,
        description="A user's message of the session. The new message takes its place, in a new "
        "branch; the old one stays in its own.",
    )

    @model_validator(mode="after")
    def _edits_a_session(self) -> Self:
        if self.edit_message_id is not None and self.session_id is None:
            raise ValueError("`edit_message_id` needs `session_id`")
        return self

    def messages(self) -> list[NewMessage]:
        """Return the turn's messages."""
        if isinstance(self.message, str):
            return [NewMessage("user", self.message)]
        if isinstance(self.message, MessageInput):
            return [self.message.to_new()]
        return [message.to_new() for message in self.message]

    def session(self) -> NewSession:
        """Return what the session is created with when there is none."""
        return NewSession(
            id=self.session_id,
            user_id=self.user_id,
            title=self.title,
            session_type=self.session_type,
            working_dir=self.working_dir,
            metadata=self.metadata,
        )


class RegenerateInput(Input):
    """What is answered again, and how."""

    message_id: Id | None = Field(
        None,
        description="An answer, or the user's message itself. Absent: the last message of the "
        "current branch.",
    )
    agent: Name | None = Field(None, description="Which configured agent answers.")
    options: Options = Field(
        default_factory=dict,
        description="Options for the agent: those that its `allow` names, within its bounds.",
    )
    run_id: Id | None = Field(None, description="The client's own name for the run.")
    on_busy: Literal["enqueue", "reject", "interrupt"] = Field(
        "enqueue",
        description="When a run is active: wait for its end, answer 409, or cancel it and go "
        "first.",
    )


class ChatAccepted(Answer):
    """The gateway has stored the turn. At any time `stream_url` shows all of its events, once."""

    session_id: str
    run_id: str
    message_ids: list[str]
    status: Literal["queued", "running"]
    position: str
    stream_url: str


class ChatCompleted(Answer):
    """The run has ended: how, and the last assistant message."""

    session_id: str
    run_id: str
    message_ids: list[str]
    status: Literal["completed", "failed", "cancelled", "interrupted"]
    position: str
    stream_url: str
    message: Message | None
    usage: Usage | None
    error: RunError | None
