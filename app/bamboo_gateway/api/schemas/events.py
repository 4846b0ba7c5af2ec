"""Events of a session's log: a union discriminated by `type`, one schema for each type.

The members that an event is required to have are those of the contract. Others may be there, so
that a client of today reads the log of tomorrow: these schemas forbid none.
"""

from typing import Annotated, Any, Literal

from pydantic import Discriminator, Field

from bamboo_gateway.api.schemas.fields import (
    Answer,
    Described,
    DescribedUnion,
    SessionTypeName,
    no_default,
)
from bamboo_gateway.api.schemas.messages import Message, Usage, UsageParts
from bamboo_gateway.api.schemas.sessions import Parent
from bamboo_gateway.api.schemas.shares import Share
from bamboo_gateway.domain.events import RequestKind


class _LogEvent(Described):
    seq: Annotated[int, Field(ge=1, description="Counts 1, 2, 3 … in one session.")]
    time: Annotated[str, Field(description="When it was appended: RFC 3339, in UTC.")]


class _RunEvent(_LogEvent):
    run_id: str


class _SaidEvent(_RunEvent):
    message_id: Annotated[str, Field(description="The message that this becomes part of.")]


class MessageEvent(_LogEvent):
    """A whole message: it replaces whatever deltas of `message_id` a client has shown."""

    type: Literal["message"]
    run_id: str = ""
    message_id: str
    message: Message


class TokenEvent(_SaidEvent):
    """A delta of the assistant's text."""

    type: Literal["token"]
    content: str


class ThinkingEvent(_SaidEvent):
    """A delta of the assistant's reasoning."""

    type: Literal["thinking"]
    content: str


class ToolStartEvent(_SaidEvent):
    """A tool call. `arguments` is a string only when a model's text is not JSON."""

    type: Literal["tool_start"]
    tool_call_id: str
    tool_name: str
    arguments: dict[str, Any] | str


class ToolDeltaEvent(_SaidEvent):
    """A delta of a tool call's arguments or output."""

    type: Literal["tool_delta"]
    tool_call_id: str
    content: str


class ToolResult(Described):
    """What a tool returned. `content` is text, or any JSON value."""

    success: bool
    content: Any


class ToolCompleteEvent(_SaidEvent):
    """A tool call has its result."""

    type: Literal["tool_complete"]
    tool_call_id: str
    result: ToolResult


class ToolErrorEvent(_SaidEvent):
    """A tool call has failed."""

    type: Literal["tool_error"]
    tool_call_id: str
    error: str


class RunQueuedEvent(_RunEvent):
    """A run waits, with its input; the input becomes messages when the run starts."""

    type: Literal["run_queued"]
    agent: str
    messages: list[Message]
    options: dict[str, Any] = {}
    client_tools: Annotated[
        list[dict[str, Any]], Field(description="The tools that the client brought, and runs.")
    ] = []
    front: Annotated[bool, Field(description="The run goes before the others that wait.")] = False
    branch_from: Annotated[
        dict[str, Any],
        Field(description="`message_id`: the run begins a branch behind that message."),
    ] = {}


class RunStartEvent(_RunEvent):
    """A run has started; `message_ids` is its input, or the message that it answers again."""

    type: Literal["run_start"]
    agent: str
    message_ids: list[str]
    position: Annotated[
        str, Field(description="Just before the run's first event; absent when it was queued.")
    ] = ""
    model: Annotated[str, Field(description="The model that answers, if that is known.")] = ""
    request_ids: Annotated[
        list[str], Field(description="The requests for input whose answers the run gets.")
    ] = []
    tool_call_ids: Annotated[
        list[str], Field(description="The open calls of the run that asked; this one goes on.")
    ] = []


class CompleteEvent(_RunEvent):
    """Terminal: the run completed."""

    type: Literal["complete"]
    finish_reason: str
    usage: Usage | None = None
    model: Annotated[str, Field(description="The model that answered, if the agent said so.")] = ""


class ErrorEvent(_RunEvent):
    """Terminal: the run failed. `code` is `interrupted` when the gateway stopped before it."""

    type: Literal["error"]
    message: str
    code: str


class CancelledEvent(_RunEvent):
    """Terminal: the run was cancelled."""

    type: Literal["cancelled"]
    reason: str


class InputRequiredEvent(_RunEvent):
    """The run asks people for input, and ends with `finish_reason: "input_required"`."""

    type: Literal["input_required"]
    request_id: str
    kind: RequestKind
    prompt: Annotated[str, Field(description="The question, for people.")]
    tool_call_id: Annotated[
        str, Field(description="The call that it is about, which stays open.")
    ] = ""
    schema_: Annotated[
        dict[str, Any], Field(alias="schema", description="The JSON Schema of the answer.")
    ] = {}
    expires_at: Annotated[str, Field(description="When it ends without an answer.")] = ""
    options: Annotated[
        dict[str, Any], Field(description="Those of the run, for the run that gets the answers.")
    ] = {}
    client_tools: Annotated[
        list[dict[str, Any]],
        Field(description="Those of the run, in its first request, for the run with the answers."),
    ] = []


class InputGivenEvent(_LogEvent):
    """A request was answered. The last answer's commit also starts the run that gets them all."""

    type: Literal["input_given"]
    request_id: str
    answer: Any
    user_id: str | None
    run_id: Annotated[str, Field(description="The run that starts with it, if one does.")] = ""
    position: Annotated[str, Field(description="Just before the first answer of the commit.")]


class InputClosedEvent(_LogEvent):
    """A request has ended without an answer."""

    type: Literal["input_closed"]
    request_id: str
    reason: Literal["superseded", "cancelled", "expired"]


class StateChangeEvent(_LogEvent):
    """The session was closed, reopened, archived or restored, or it has expired."""

    type: Literal["state_change"]
    from_: Annotated[str, Field(alias="from")]
    to: str


class SessionCreatedEvent(_LogEvent):
    """The first event of every session: what it was created with."""

    type: Literal["session_created"]
    user_id: str | None = None
    title: str | None = None
    session_type: SessionTypeName = "user"
    working_dir: str | None = None
    metadata: dict[str, Any] = {}
    ttl_seconds: int | None = None
    extension_data: dict[str, Any] = {}
    created_at: Annotated[str, Field(description="Of an import: when it was first created.")] = ""
    parent: Parent | None = None
    ancestors: list[dict[str, Any]] = []
    merged_from: list[dict[str, Any]] = []
    usage_total: Usage | None = None
    usage_parts: UsageParts | None = None


class SessionUpdatedEvent(_LogEvent):
    """The session was changed: the members that changed, with their new values.

    Clients change them, and the gateway gives a title to a session without one.
    """

    type: Literal["session_updated"]
    title: str | None = None
    session_type: Annotated[SessionTypeName, Field(json_schema_extra=no_default)] = "user"
    working_dir: str | None = None
    metadata: dict[str, Any] = {}
    ttl_seconds: int | None = None
    extension_data: dict[str, Any] = {}


class SessionForkedEvent(_LogEvent):
    """The session was forked; `message_id` is the last message that the child has."""

    type: Literal["session_forked"]
    child_id: str
    title: str | None
    message_id: str | None


class MergeSource(Described):
    """The session that was merged in, and up to where."""

    session_id: str
    title: str | None
    position: str
    counted_usage: Usage | None = None
    counted_parts: UsageParts | None = None


class SessionMergedEvent(_LogEvent):
    """Another session was merged in. Its `message_count` messages follow this event."""

    type: Literal["session_merged"]
    source: MergeSource
    strategy: Literal["append", "interleave", "replace"]
    message_count: int
    replaces: Annotated[
        bool,
        Field(description="The messages before count no more: only in logs of earlier versions."),
    ]
    metadata: dict[str, Any] = {}
    extension_data: dict[str, Any] = {}
    usage_total: Usage | None = None
    usage_parts: UsageParts | None = None


class SummarySavedEvent(_LogEvent):
    """A summary of everything up to `position` was saved; null: it was deleted."""

    type: Literal["summary_saved"]
    summary: str | None
    turn_count: int
    position: str
    message_id: Annotated[str | None, Field(description="The last message that it covers.")] = None
    message_seq: Annotated[int, Field(description="The seq of that message, or 0.")] = 0
    created_at: str = ""


class BranchStartedEvent(_LogEvent):
    """A branch has begun behind `from_message_id` (null: before the first message).

    It is the current one: cut the shown messages behind that message, and go on from there.
    """

    type: Literal["branch_started"]
    branch_id: str
    from_message_id: str | None
    parent_branch_id: Annotated[
        str | None, Field(description="The branch that `from_message_id` belongs to.")
    ]
    created_at: Annotated[str, Field(description="Of an import: when it first began.")] = ""
    path: Annotated[
        dict[str, Any], Field(description="What the gateway counts of the path. Skip it.")
    ]


class BranchSelectedEvent(_LogEvent):
    """Another branch is the current one: load the messages again."""

    type: Literal["branch_selected"]
    branch_id: str


class MessageHiddenEvent(_LogEvent):
    """The last message was taken back: the branch that began just before it is without it."""

    type: Literal["message_hidden"]
    message_id: str


class RunHiddenEvent(_LogEvent):
    """A client has deleted the response of a run in a protocol that shows runs by themselves."""

    type: Literal["run_hidden"]
    run_id: str


class ExtensionsUpdatedEvent(_LogEvent):
    """The extension data has changed; all of it is here."""

    type: Literal["extensions_updated"]
    extension_data: dict[str, Any]


class EventShare(Share):
    """A share as the log has it; of a link with the digest of its token."""

    token_sha256: str | None = None


class SessionSharedEvent(_LogEvent):
    """The session was shared. A client may skip this event."""

    type: Literal["session_shared"]
    share: EventShare


class ShareRevokedEvent(_LogEvent):
    """A share was revoked. A client may skip this event."""

    type: Literal["share_revoked"]
    share_id: str


class CustomEvent(_LogEvent):
    """Anything that an agent or a program tells its front end."""

    type: Literal["custom"]
    run_id: str = ""
    name: str
    value: Any


LogEvent = (
    MessageEvent
    | TokenEvent
    | ThinkingEvent
    | ToolStartEvent
    | ToolDeltaEvent
    | ToolCompleteEvent
    | ToolErrorEvent
    | RunQueuedEvent
    | RunStartEvent
    | CompleteEvent
    | ErrorEvent
    | CancelledEvent
    | InputRequiredEvent
    | InputGivenEvent
    | InputClosedEvent
    | StateChangeEvent
    | SessionCreatedEvent
    | SessionUpdatedEvent
    | SessionForkedEvent
    | SessionMergedEvent
    | SummarySavedEvent
    | BranchStartedEvent
    | BranchSelectedEvent
    | MessageHiddenEvent
    | RunHiddenEvent
    | ExtensionsUpdatedEvent
    | SessionSharedEvent
    | ShareRevokedEvent
    | CustomEvent
)


class Event(DescribedUnion[Annotated[LogEvent, Discriminator("type")]]):
    """One event of a session's log. `type` says which; a client skips types it does not know."""


class EventPage(Answer):
    """A page of events; the next page begins after `next`."""

    events: list[Event]
    next: str
    has_more: bool


class EventsAppended(Answer):
    """The positions of the events; null for a streamed body without lines."""

    first: str | None
    last: str | None
    count: int
