"""What the OpenAPI document says of the protocol's bodies; OpenAI's own document says the rest."""

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from bamboo_gateway.api.schemas.fields import Described


class _Given(BaseModel):
    """What clients send. Each member is read by hand: its error names it as OpenAI's do."""

    model_config = ConfigDict(extra="allow")


class ResponseCreate(_Given):
    """A request for a response. Members that are not here are in the how-to page."""

    model: Annotated[Any, Field(description="The name of an agent.")] = None
    input: Annotated[Any, Field(description="A text, or a list of items.")] = None
    stream: Annotated[Any, Field(description="Answer with the stream of the response.")] = None
    background: Annotated[Any, Field(description="Answer at once, without its end.")] = None
    store: Annotated[Any, Field(description="`false`: it cannot be retrieved.")] = None
    previous_response_id: Annotated[Any, Field(description="Go on behind this response.")] = None
    conversation: Annotated[Any, Field(description="Go on in this conversation.")] = None
    instructions: Annotated[Any, Field(description="Needs `allow=system` of the agent.")] = None
    tools: Annotated[Any, Field(description="Functions that the client runs.")] = None
    metadata: Annotated[Any, Field(description="Up to 16 texts that the response keeps.")] = None


class ConversationCreate(_Given):
    """A new conversation."""

    items: Annotated[Any, Field(description="Messages that it begins with.")] = None
    metadata: Annotated[Any, Field(description="Up to 16 texts.")] = None


class ConversationUpdate(_Given):
    """Changes of a conversation."""

    metadata: Annotated[Any, Field(description="Replaces what there is.")] = None


class ItemsCreate(_Given):
    """Items for a conversation."""

    items: Annotated[Any, Field(description="Messages, calls and their results.")] = None


class _Shown(Described):
    model_config = ConfigDict(extra="allow", defer_build=True)


class OpenAIResponse(_Shown):
    """OpenAI's Response; a run."""

    id: str
    object: Literal["response"]
    created_at: int
    status: str
    model: str
    output: list[dict[str, Any]]


class OpenAIConversation(_Shown):
    """OpenAI's Conversation; a session."""

    id: str
    object: Literal["conversation"]
    created_at: int
    metadata: dict[str, Any]


class OpenAIItem(_Shown):
    """An item of a conversation."""

    id: str
    type: str


class OpenAIItems(_Shown):
    """A page of items."""

    object: Literal["list"]
    data: list[dict[str, Any]]
    first_id: str | None
    last_id: str | None
    has_more: bool


class OpenAIDeleted(_Shown):
    """What was deleted."""

    id: str
    object: str
    deleted: Literal[True]


class OpenAIModel(_Shown):
    """OpenAI's Model; an agent."""

    id: str
    object: Literal["model"]
    created: int
    owned_by: str


class OpenAIModels(_Shown):
    """All agents."""

    object: Literal["list"]
    data: list[OpenAIModel]


class OpenAIErrorDetail(Described):
    """What was wrong."""

    message: str
    type: str
    param: str | None
    code: str | None


class OpenAIError(Described):
    """An error in OpenAI's form."""

    error: OpenAIErrorDetail
