"""The shapes of the gateway's JSON, made from its OpenAPI document. Do not edit: `make clients`."""

from __future__ import annotations

from typing import Any, Literal, NotRequired, TypedDict


class About(TypedDict):
    """What this is, and where to go. Every value of `links` is a path of this gateway."""
    name: str
    description: str
    version: str | None
    links: dict[str, str]


class AgentInfo(TypedDict):
    """An agent that a chat may name."""
    name: str
    kind: str
    """`openai`, `http`, `https`, `python` or `demo`."""
    model: str | None
    """The model that answers, unless `options` name another one."""
    description: str | None
    is_default: bool
    """It answers chats that name no agent."""
    options: dict[str, Any]
    """The JSON Schema of the `options` that a chat may set."""


class AgentList(TypedDict):
    """The agents, by name."""
    agents: list[AgentInfo]


class ArchivePage(TypedDict):
    """A page of archived sessions."""
    archives: list[ArchivedSession]
    next_cursor: str | None
    has_more: bool
    total: NotRequired[int]
    offset: NotRequired[int]


class ArchivedSession(TypedDict):
    """An archived session, and its bytes on the disk: compressed, and before."""
    session: Session
    archived_at: str
    bytes: int
    original_bytes: int


class Branch(TypedDict):
    """A branch of a conversation. Its path goes from the first message to its tip."""
    branch_id: str
    """That of the first branch is `main`."""
    parent_branch_id: str | None
    """The branch that has `from_message_id`."""
    from_message_id: str | None
    """It begins behind this message; null: before the first one."""
    tip_message_id: str | None
    """The last message of its path."""
    message_count: int
    """The messages of its path."""
    created_at: str
    current: bool
    """Whether new messages go here."""


class BranchSelected(TypedDict):
    """The branch that is current now."""
    branch_id: str
    """That of the first branch is `main`."""
    parent_branch_id: str | None
    """The branch that has `from_message_id`."""
    from_message_id: str | None
    """It begins behind this message; null: before the first one."""
    tip_message_id: str | None
    """The last message of its path."""
    message_count: int
    """The messages of its path."""
    created_at: str
    current: bool
    """Whether new messages go here."""
    position: str
    """The end of the log."""


class BranchSelectedEvent(TypedDict):
    """Another branch is the current one: load the messages again."""
    seq: int
    """Counts 1, 2, 3 … in one session."""
    time: str
    """When it was appended: RFC 3339, in UTC."""
    type: Literal["branch_selected"]
    branch_id: str


class BranchStartedEvent(TypedDict):
    """A branch has begun behind `from_message_id` (null: before the first message). It is the
    current one: cut the shown messages behind that message, and go on from there.
    """
    seq: int
    """Counts 1, 2, 3 … in one session."""
    time: str
    """When it was appended: RFC 3339, in UTC."""
    type: Literal["branch_started"]
    branch_id: str
    from_message_id: str | None
    parent_branch_id: str | None
    """The branch that `from_message_id` belongs to."""
    created_at: NotRequired[str]
    """Of an import: when it first began."""
    path: dict[str, Any]
    """What the gateway counts of the path. Skip it."""


class Branches(TypedDict):
    """All branches of a session, oldest first."""
    branches: list[Branch]


class BulkArchived(TypedDict):
    """What archiving many sessions has done."""
    archived: list[Done]
    failed: list[NotDone]


class BulkExportInput(TypedDict):
    """Sessions to write as one zip."""
    format: NotRequired[Literal["markdown", "json", "yaml"]]
    """Default: `"markdown"`."""
    include_metadata: NotRequired[bool]
    """Default: `true`."""
    include_tool_calls: NotRequired[bool]
    """Default: `true`."""
    session_ids: list[str]


class BulkRestored(TypedDict):
    """What restoring many sessions has done."""
    restored: list[Done]
    failed: list[NotDone]


class CancelledEvent(TypedDict):
    """Terminal: the run was cancelled."""
    seq: int
    """Counts 1, 2, 3 … in one session."""
    time: str
    """When it was appended: RFC 3339, in UTC."""
    run_id: str
    type: Literal["cancelled"]
    reason: str


class ChangeFrame(TypedDict):
    """One frame of a stream of changes. There is never an `event` line."""
    id: str
    """The cursor behind this frame."""
    retry: NotRequired[int]
    """Milliseconds to wait before a reconnect; only in the first frame."""
    data: str
    """A `ChangeEvent` as JSON."""


class ChangePage(TypedDict):
    """Which sessions have changed after the cursor; each with its last state only."""
    changes: list[SessionChanged | SessionGone | ChangesReset]
    next: str
    """The `after` of the next request."""
    has_more: bool


class ChangesOpen(TypedDict):
    """The first event of a stream of changes. Its `id` is where the stream begins."""
    type: Literal["open"]
    connection_id: str


class ChangesReset(TypedDict):
    """The cursor cannot be served: list the sessions again, and go on from the answer's `next`."""
    type: Literal["reset"]
    reason: Literal["unknown_position"]


class ChatAccepted(TypedDict):
    """The gateway has stored the turn. At any time `stream_url` shows all of its events, once."""
    session_id: str
    run_id: str
    message_ids: list[str]
    status: Literal["queued", "running"]
    position: str
    stream_url: str


class ChatCompleted(TypedDict):
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


class ChatInput(TypedDict):
    """One turn of a conversation."""
    message: str | MessageInput | list[MessageInput]
    """The user's text, or a message, or a list of messages (tool results)."""
    session_id: NotRequired[str | None]
    """Absent: a new session. Unknown: created under exactly this id."""
    user_id: NotRequired[str | None]
    title: NotRequired[str | None]
    working_dir: NotRequired[str | None]
    session_type: NotRequired[Literal["user", "sub_agent", "scheduled"]]
    """Default: `"user"`."""
    metadata: NotRequired[dict[str, Any]]
    agent: NotRequired[str | None]
    """Which configured agent answers."""
    options: NotRequired[dict[str, Any]]
    """Options for the agent: those that its `allow` names, within its bounds."""
    run_id: NotRequired[str | None]
    """The client's own name for the run, with which it can cancel the run before it has the
    answer.
    """
    on_busy: NotRequired[Literal["enqueue", "reject", "interrupt"]]
    """When a run is active: wait for its end, answer 409, or cancel it and go first. Default:
    `"enqueue"`.
    """
    edit_message_id: NotRequired[str | None]
    """A user's message of the session. The new message takes its place, in a new branch; the old
    one stays in its own.
    """


class ChatRequest(TypedDict):
    """A request of `DefaultChatTransport`, or of one that sends the last message alone."""
    id: str
    """The chat: the session, which is created when there is none."""
    messages: NotRequired[list[UiMessage] | None]
    """The client's messages. Those that the session has already count nothing."""
    message: NotRequired[UiMessage | None]
    """In the place of `messages`: the last one alone."""
    trigger: NotRequired[Literal["submit-message", "regenerate-message"]]
    """Default: `"submit-message"`."""
    messageId: NotRequired[str | None]
    """With `submit-message` the user's message whose place the last one takes, or the assistant's
    message with results of tools or approvals. With `regenerate-message` the message that is
    answered again; absent: the last.
    """
    agent: NotRequired[str | None]
    """Which configured agent answers."""
    options: NotRequired[dict[str, Any]]
    """Options for the agent: those that its `allow` names, within its bounds."""
    tools: NotRequired[list[dict[str, Any]] | dict[str, dict[str, Any]] | None]
    """Tools that the client runs: a list of `{name, description, parameters}`, or an object by
    name. `inputSchema` is read as `parameters`.
    """


class Check(TypedDict):
    """One check: what it saw, and what to do when it is not `ok`."""
    name: str
    status: Literal["ok", "warn", "fail"]
    seen: str
    action: str


class CleanupInput(TypedDict):
    """Which sessions to delete."""
    before: NotRequired[str | None]
    """An RFC 3339 time: all without activity since then, whatever their retention."""
    dry_run: NotRequired[bool]


class CleanupStats(TypedDict):
    """What a cleanup has deleted, or with `dry_run` would delete."""
    sessions_cleaned: int
    archives_cleaned: int
    bytes_freed: int
    session_ids: list[str]
    dry_run: bool


class CompleteEvent(TypedDict):
    """Terminal: the run completed."""
    seq: int
    """Counts 1, 2, 3 … in one session."""
    time: str
    """When it was appended: RFC 3339, in UTC."""
    run_id: str
    type: Literal["complete"]
    finish_reason: str
    usage: NotRequired[Usage | None]
    model: NotRequired[str]
    """The model that answered, if the agent said so."""


class ConnectInput(TypedDict):
    """What a client sends to see a thread: RunAgentInput, of which only the thread counts."""
    threadId: str
    """The session."""
    runId: NotRequired[str | None]
    """Names the answer when the thread has had no run."""


class Connection(TypedDict):
    """An open stream."""
    connection_id: str
    session_id: str
    since: str
    position: str
    lag_events: int
    remote_address: str | None


class ConnectionPage(TypedDict):
    """The open streams of a session."""
    connections: list[Connection]
    next_cursor: str | None
    has_more: bool


class ConversationCreate(TypedDict):
    """A new conversation."""
    items: NotRequired[Any]
    """Messages that it begins with."""
    metadata: NotRequired[Any]
    """Up to 16 texts."""


class ConversationUpdate(TypedDict):
    """Changes of a conversation."""
    metadata: NotRequired[Any]
    """Replaces what there is."""


class CustomEvent(TypedDict):
    """Anything that an agent or a program tells its front end."""
    seq: int
    """Counts 1, 2, 3 … in one session."""
    time: str
    """When it was appended: RFC 3339, in UTC."""
    type: Literal["custom"]
    run_id: NotRequired[str]
    name: str
    value: Any


class Delivery(TypedDict):
    """One attempt to tell a receiver something."""
    message_id: str
    type: str
    session_id: str | None
    run_id: str | None
    attempt: int
    attempted_at: str
    duration_ms: int
    status: int | None
    """The status of the answer; null without one."""
    error: str | None
    """null: acknowledged. `status`, `timeout`, `unreachable`, `tls-failed`, `address-refused`,
    `broken`; `given-up`: there is no further attempt.
    """
    next_attempt_at: str | None


class DeliveryPage(TypedDict):
    """A page of attempts, the latest first."""
    deliveries: list[Delivery]
    next_cursor: str | None
    has_more: bool


class Diagnostics(TypedDict):
    """All checks; `status` is the worst of them."""
    status: Literal["ok", "warn", "fail"]
    checks: list[Check]


class Done(TypedDict):
    """One session that a bulk call has handled."""
    session_id: str
    bytes: int


class ErasedPart(TypedDict):
    """A part of what the gateway keeps, and when nothing of the user is in it any more."""
    store: str
    what: str
    gone: str
    """`now`, or under which condition."""


class ErrorEvent(TypedDict):
    """Terminal: the run failed. `code` is `interrupted` when the gateway stopped before it."""
    seq: int
    """Counts 1, 2, 3 … in one session."""
    time: str
    """When it was appended: RFC 3339, in UTC."""
    run_id: str
    type: Literal["error"]
    message: str
    code: str


class EventPage(TypedDict):
    """A page of events; the next page begins after `next`."""
    events: list[Event]
    next: str
    has_more: bool


class EventShare(TypedDict):
    """A share as the log has it; of a link with the digest of its token."""
    id: str
    user_id: str | None
    created_at: str
    expires_at: str | None
    scope: NotRequired[Literal["read", "answer"]]
    """Default: `"read"`."""
    token_sha256: NotRequired[str | None]


class EventsAppended(TypedDict):
    """The positions of the events; null for a streamed body without lines."""
    first: str | None
    last: str | None
    count: int


class ExportDocument(TypedDict):
    """A session, without loss. `bamboo_export` is the version of this format. With
    `include_metadata=false` it has neither `summary` nor `lineage`. With `branches` the
    messages are those of all branches, in the order of the log.
    """
    bamboo_export: Literal[1]
    session: ExportedSession
    summary: NotRequired[ExportedSummary | None]
    lineage: NotRequired[ExportedLineage | None]
    branches: NotRequired[ExportedBranches | None]
    messages: list[ExportedMessage]
    message_count: int
    """The last member: it is there when the document is whole."""


class ExportInput(TypedDict):
    """A file to write under `export_dir`."""
    format: NotRequired[Literal["markdown", "json", "yaml"]]
    """Default: `"markdown"`."""
    include_metadata: NotRequired[bool]
    """Default: `true`."""
    include_tool_calls: NotRequired[bool]
    """Default: `true`."""
    path: str


class Exported(TypedDict):
    """A file that was written under `export_dir`."""
    path: str
    bytes: int


class ExportedBranch(TypedDict):
    """A branch as it is exported."""
    branch_id: str
    parent_branch_id: str | None
    from_message_id: str | None
    created_at: str


class ExportedBranchSummary(TypedDict):
    """A summary that counts on the paths with `message_id`."""
    summary: str
    turn_count: int
    message_id: str | None
    created_at: str


class ExportedBranches(TypedDict):
    """The branches of a session that has several."""
    current: str
    branches: list[ExportedBranch]
    summaries: list[ExportedBranchSummary]


class ExportedLineage(TypedDict):
    """What `parent` does not say: all sessions it was forked from, and what was merged in."""
    ancestors: list[dict[str, Any]]
    merged_from: list[dict[str, Any]]
    usage_parts: NotRequired[UsageParts | None]
    """The usage of `session`, by agent and by model."""


class ExportedMessage(TypedDict):
    """A message as it is exported. With `include_metadata=false` it has no `metadata`, `model`,
    `usage` and `run_id`.
    """
    parent_id: NotRequired[str | None]
    """The message before it; null: it is the first one of its path."""
    branch_id: NotRequired[str]
    """The branch that it belongs to."""
    siblings: NotRequired[list[str]]
    """At a branching point: all messages with the same parent, itself included, oldest first. Only
    where messages are read, never in events.
    """
    tool_calls: NotRequired[list[ToolCall]]
    tool_call_id: NotRequired[str]
    run_id: NotRequired[str]
    usage: NotRequired[Usage | None]
    model: NotRequired[str]
    copied_from: NotRequired[str]
    """The message that a merge has copied it from."""
    id: str
    role: Literal["system", "user", "assistant", "tool"]
    content: str | list[TextPart | MediaPart | FilePart]
    status: Literal["complete", "incomplete"]
    created_at: str
    metadata: NotRequired[dict[str, Any]]


class ExportedSession(TypedDict):
    """A session as it is exported: without what holds only at the moment. With
    `include_metadata=false` it has only its id, title and times.
    """
    id: str
    title: str | None
    user_id: NotRequired[str | None]
    session_type: NotRequired[Literal["user", "sub_agent", "scheduled"]]
    """Default: `"user"`."""
    working_dir: NotRequired[str | None]
    created_at: str
    updated_at: str
    last_activity_at: str
    ttl_seconds: NotRequired[int | None]
    message_count: NotRequired[int]
    usage: NotRequired[Usage | None]
    metadata: NotRequired[dict[str, Any]]
    extension_data: NotRequired[dict[str, Any]]
    parent: NotRequired[Parent | None]
    position: NotRequired[str | None]
    open_requests: NotRequired[list[OpenRequest]]


class ExportedSummary(TypedDict):
    """A summary as it is exported. After an import positions belong to another log; a count of
    messages still holds.
    """
    session_id: str
    summary: str
    turn_count: int
    position: str
    message_id: NotRequired[str | None]
    """The last message that it covers; null: not known, or none."""
    created_at: str
    covers_messages: NotRequired[int]
    """How many messages, from the first, the summary covers."""


class ExtensionDataAnswer(TypedDict):
    """ExtensionData: which extensions are enabled, the todo list, and custom values."""
    enabled_extensions: list[ExtensionState]
    todo_state: TodoState | None
    custom: dict[str, Any]


class ExtensionDataInput(TypedDict):
    """ExtensionData, whole: members that are absent become empty."""
    enabled_extensions: NotRequired[list[NamedExtensionInput]]
    todo_state: NotRequired[TodoInput | None]
    custom: NotRequired[dict[str, Any]]


class ExtensionDataPatch(TypedDict):
    """A JSON merge patch of ExtensionData; lists are replaced whole."""
    enabled_extensions: NotRequired[list[NamedExtensionInput] | None]
    todo_state: NotRequired[dict[str, Any] | None]
    custom: NotRequired[dict[str, Any] | None]


class ExtensionState(TypedDict):
    """The state of one extension."""
    name: str
    config: dict[str, Any]
    enabled: bool


class ExtensionStateInput(TypedDict):
    """The state of one extension; its name is in the path or in the list's entry."""
    config: NotRequired[dict[str, Any]]
    enabled: NotRequired[bool]
    """Default: `true`."""


class ExtensionsUpdatedEvent(TypedDict):
    """The extension data has changed; all of it is here."""
    seq: int
    """Counts 1, 2, 3 … in one session."""
    time: str
    """When it was appended: RFC 3339, in UTC."""
    type: Literal["extensions_updated"]
    extension_data: dict[str, Any]


class FailedErasure(TypedDict):
    """A session that could not be deleted, or whose share could not be removed, for now."""
    session_id: str
    code: str


class File(TypedDict):
    """A file. Messages name it by its `file_id`; `url` has its content."""
    file_id: str
    name: str
    media_type: str
    bytes: int
    sha256: str
    created_at: str
    url: str


class FileList(TypedDict):
    """A page of files, the oldest first."""
    files: list[File]
    next_cursor: str | None
    has_more: bool


class FilePart(TypedDict):
    """An image or a file that was uploaded: `POST /files` answers its `file_id`. The gateway adds
    what it knows of the file (`name`, `media_type`, `bytes`); what a client sends of it is
    ignored. Its content is at `/files/{file_id}`.
    """
    type: Literal["image", "file"]
    file_id: str
    name: NotRequired[str | None]
    media_type: NotRequired[str | None]
    bytes: NotRequired[int | None]


class ForkInput(TypedDict):
    """Where the new session's history ends: at a message, or with everything."""
    from_message_id: NotRequired[str | None]
    from_message_index: NotRequired[int | None]
    """Counts from 0."""
    new_name: NotRequired[str | None]
    """Default: `<title> (fork)`."""
    new_id: NotRequired[str | None]
    metadata_strategy: NotRequired[Literal["inherit", "reset"]]
    """Default: `"inherit"`."""


class Forked(TypedDict):
    """The new session; `cut_moved` when the cut was moved to keep a tool exchange whole."""
    id: str
    title: str | None
    user_id: str | None
    session_type: Literal["user", "sub_agent", "scheduled"]
    state: Literal["active", "needs_input", "idle", "disconnected", "closed", "expired", "archived"]
    working_dir: str | None
    created_at: str
    updated_at: str
    last_activity_at: str
    expires_at: str | None
    ttl_seconds: int | None
    message_count: int
    preview: str | None
    """The first 120 characters of the last text that the user or the assistant said; whitespace is
    folded. Null: there is none, or none since an upgrade.
    """
    usage: Usage
    metadata: dict[str, Any]
    extension_data: dict[str, Any]
    parent: Parent | None
    position: str
    active_run_id: str | None
    open_requests: list[OpenRequest]
    stream_url: str
    cut_moved: NotRequired[bool]
    cut_message_id: NotRequired[str | None]
    detail: NotRequired[str]


class GoodbyeEvent(TypedDict):
    """The last event, when the gateway ends a stream. It is not in the log."""
    type: Literal["goodbye"]
    reason: Literal["shutdown", "superseded", "deleted", "closed", "slow", "lifetime", "unauthorized"]
    retry: bool
    """Whether a reconnect may succeed."""


class Health(TypedDict):
    """Whether the gateway lives, or is ready."""
    status: Literal["ok", "ready", "unavailable"]
    detail: str


class HeartbeatEvent(TypedDict):
    """Nothing has happened. Only with `heartbeat=event`; it is not in the log."""
    type: Literal["heartbeat"]


class ImportNote(TypedDict):
    """Something of an imported document that the gateway did not understand."""
    place: str
    what: str


class ImportedConversation(TypedDict):
    """One line of an import with `conversation=all`: the new session, or why there is none."""
    conversation: int
    """Counts from 1."""
    of: int
    """How many conversations the document has."""
    notes: list[ImportNote]
    session: NotRequired[Session | None]
    code: NotRequired[str]
    detail: NotRequired[str]


class ImportedSession(TypedDict):
    """The new session; `notes` names what the gateway did not understand of the document."""
    id: str
    title: str | None
    user_id: str | None
    session_type: Literal["user", "sub_agent", "scheduled"]
    state: Literal["active", "needs_input", "idle", "disconnected", "closed", "expired", "archived"]
    working_dir: str | None
    created_at: str
    updated_at: str
    last_activity_at: str
    expires_at: str | None
    ttl_seconds: int | None
    message_count: int
    preview: str | None
    """The first 120 characters of the last text that the user or the assistant said; whitespace is
    folded. Null: there is none, or none since an upgrade.
    """
    usage: Usage
    metadata: dict[str, Any]
    extension_data: dict[str, Any]
    parent: Parent | None
    position: str
    active_run_id: str | None
    open_requests: list[OpenRequest]
    stream_url: str
    notes: NotRequired[list[ImportNote]]


class InputClosedEvent(TypedDict):
    """A request has ended without an answer."""
    seq: int
    """Counts 1, 2, 3 … in one session."""
    time: str
    """When it was appended: RFC 3339, in UTC."""
    type: Literal["input_closed"]
    request_id: str
    reason: Literal["superseded", "cancelled", "expired"]


class InputGivenEvent(TypedDict):
    """A request was answered. The last answer's commit also starts the run that gets them all."""
    seq: int
    """Counts 1, 2, 3 … in one session."""
    time: str
    """When it was appended: RFC 3339, in UTC."""
    type: Literal["input_given"]
    request_id: str
    answer: Any
    user_id: str | None
    run_id: NotRequired[str]
    """The run that starts with it, if one does."""
    position: str
    """Just before the first answer of the commit."""


class InputRequiredEvent(TypedDict):
    """The run asks people for input, and ends with `finish_reason: "input_required"`."""
    seq: int
    """Counts 1, 2, 3 … in one session."""
    time: str
    """When it was appended: RFC 3339, in UTC."""
    run_id: str
    type: Literal["input_required"]
    request_id: str
    kind: Literal["approval", "question", "form"]
    prompt: str
    """The question, for people."""
    tool_call_id: NotRequired[str]
    """The call that it is about, which stays open."""
    schema: NotRequired[dict[str, Any]]
    """The JSON Schema of the answer."""
    expires_at: NotRequired[str]
    """When it ends without an answer."""
    options: NotRequired[dict[str, Any]]
    """Those of the run, for the run that gets the answers."""
    client_tools: NotRequired[list[dict[str, Any]]]
    """Those of the run, in its first request, for the run with the answers."""


class InputsAccepted(TypedDict):
    """The answers are stored. With `run_id` the run that gets them has started."""
    session_id: str
    run_id: str | None
    position: str
    stream_url: str


class InputsCompleted(TypedDict):
    """The run that got the answers has ended: how, and its last assistant message."""
    session_id: str
    run_id: str
    position: str
    stream_url: str
    status: Literal["completed", "failed", "cancelled", "interrupted"]
    usage: Usage | None
    error: RunError | None
    message: Message | None


class InputsInput(TypedDict):
    """Answers, by the id of their request. Of an approval: `{"approved": true}`."""
    answers: dict[str, Any]
    run_id: NotRequired[str | None]
    """The client's own name for the run that starts with the last answer."""
    options: NotRequired[dict[str, Any] | None]
    """Options for the agent of that run. Absent: those of the run that asked."""


class ItemsCreate(TypedDict):
    """Items for a conversation."""
    items: NotRequired[Any]
    """Messages, calls and their results."""


class JointStreamFrame(TypedDict):
    """One frame of a stream of several sessions. There is never an `event` line."""
    id: str
    """The positions in all sessions, as one text that a client sends back: in `Last-Event-ID`, or
    in `after`.
    """
    retry: NotRequired[int]
    """Milliseconds to wait before a reconnect; only in the first frame."""
    data: str
    """A `StreamEvent` as JSON, with the `session_id` of its session. Only a `heartbeat` has none."""


class MediaPart(TypedDict):
    """An image or a file: its address in `url`, or its content as Base64 in `data`."""
    type: Literal["image", "file"]
    url: NotRequired[str | None]
    data: NotRequired[str | None]
    media_type: str
    name: NotRequired[str | None]


class MergeInput(TypedDict):
    """The session to merge, and how."""
    source_id: str
    strategy: NotRequired[Literal["append", "interleave", "replace"]]
    """Default: `"append"`."""
    metadata_strategy: NotRequired[Literal["target", "source", "merge"]]
    """Default: `"target"`."""


class MergeSource(TypedDict):
    """The session that was merged in, and up to where."""
    session_id: str
    title: str | None
    position: str
    counted_usage: NotRequired[Usage | None]
    counted_parts: NotRequired[UsageParts | None]


class Merged(TypedDict):
    """The target; with `notes` when the merge has closed tool calls that had no result."""
    id: str
    title: str | None
    user_id: str | None
    session_type: Literal["user", "sub_agent", "scheduled"]
    state: Literal["active", "needs_input", "idle", "disconnected", "closed", "expired", "archived"]
    working_dir: str | None
    created_at: str
    updated_at: str
    last_activity_at: str
    expires_at: str | None
    ttl_seconds: int | None
    message_count: int
    preview: str | None
    """The first 120 characters of the last text that the user or the assistant said; whitespace is
    folded. Null: there is none, or none since an upgrade.
    """
    usage: Usage
    metadata: dict[str, Any]
    extension_data: dict[str, Any]
    parent: Parent | None
    position: str
    active_run_id: str | None
    open_requests: list[OpenRequest]
    stream_url: str
    notes: NotRequired[list[ImportNote]]


class Message(TypedDict):
    """A message of the history. Members that do not apply are absent."""
    parent_id: NotRequired[str | None]
    """The message before it; null: it is the first one of its path."""
    branch_id: NotRequired[str]
    """The branch that it belongs to."""
    siblings: NotRequired[list[str]]
    """At a branching point: all messages with the same parent, itself included, oldest first. Only
    where messages are read, never in events.
    """
    tool_calls: NotRequired[list[ToolCall]]
    tool_call_id: NotRequired[str]
    run_id: NotRequired[str]
    usage: NotRequired[Usage | None]
    model: NotRequired[str]
    copied_from: NotRequired[str]
    """The message that a merge has copied it from."""
    id: str
    role: Literal["system", "user", "assistant", "tool"]
    content: str | list[TextPart | MediaPart | FilePart]
    status: Literal["complete", "incomplete"]
    created_at: str
    metadata: dict[str, Any]


class MessageEvent(TypedDict):
    """A whole message: it replaces whatever deltas of `message_id` a client has shown."""
    seq: int
    """Counts 1, 2, 3 … in one session."""
    time: str
    """When it was appended: RFC 3339, in UTC."""
    type: Literal["message"]
    run_id: NotRequired[str]
    message_id: str
    message: Message


class MessageHiddenEvent(TypedDict):
    """The last message was taken back: the branch that began just before it is without it."""
    seq: int
    """Counts 1, 2, 3 … in one session."""
    time: str
    """When it was appended: RFC 3339, in UTC."""
    type: Literal["message_hidden"]
    message_id: str


class MessageInput(TypedDict):
    """A message as a client sends it. A tool message is the result of its `tool_call_id`."""
    role: Literal["system", "user", "assistant", "tool"]
    content: str | list[TextPart | MediaPart | FilePart]
    id: NotRequired[str | None]
    """Absent: the gateway makes one."""
    tool_calls: NotRequired[list[ToolCallInput] | None]
    tool_call_id: NotRequired[str | None]
    model: NotRequired[str | None]
    usage: NotRequired[UsageInput | None]
    metadata: NotRequired[dict[str, Any]]


class MessagePage(TypedDict):
    """A page of messages. Open `stream_url` after it, never `position`: nothing is missed."""
    messages: list[Message]
    next_cursor: str | None
    has_more: bool
    position: str
    stream_url: str


class MessagesAdded(TypedDict):
    """The messages of a list, as they are stored."""
    messages: list[Message]
    position: str


class NamedExtensionInput(TypedDict):
    """An entry of `enabled_extensions`."""
    config: NotRequired[dict[str, Any]]
    enabled: NotRequired[bool]
    """Default: `true`."""
    name: str


class NewShareAnswer(TypedDict):
    """The share that was just made."""
    id: str
    user_id: str | None
    created_at: str
    expires_at: str | None
    scope: NotRequired[Literal["read", "answer"]]
    """Default: `"read"`."""
    token: NotRequired[str]
    """The token of a link. Only this answer has it: it is not kept."""


class NewWebhookAnswer(TypedDict):
    """The webhook with its new secret."""
    id: str
    url: str
    events: list[Literal["run.ended", "input.required", "session.created", "session.deleted"]]
    user_id: str | None
    enabled: bool
    disabled_reason: str | None
    """`request`, `gone` (the receiver answered 410) or `failing` (it failed for
    `webhook_disable_after_days`).
    """
    failing_since: str | None
    """The first failure since the last success; null: the last attempt succeeded."""
    secrets: int
    """How many secrets sign now."""
    created_at: str
    updated_at: str
    secret: NotRequired[str]
    """Verifies requests: `whsec_…`. Only this answer has it."""


class NotDone(TypedDict):
    """One session that a bulk call could not handle, and why."""
    session_id: str
    code: str
    detail: str


class OpenAIConversation(TypedDict):
    """OpenAI's Conversation; a session."""
    id: str
    object: Literal["conversation"]
    created_at: int
    metadata: dict[str, Any]


class OpenAIDeleted(TypedDict):
    """What was deleted."""
    id: str
    object: str
    deleted: Literal[True]


class OpenAIError(TypedDict):
    """An error in OpenAI's form."""
    error: OpenAIErrorDetail


class OpenAIErrorDetail(TypedDict):
    """What was wrong."""
    message: str
    type: str
    param: str | None
    code: str | None


class OpenAIItem(TypedDict):
    """An item of a conversation."""
    id: str
    type: str


class OpenAIItems(TypedDict):
    """A page of items."""
    object: Literal["list"]
    data: list[dict[str, Any]]
    first_id: str | None
    last_id: str | None
    has_more: bool


class OpenAIModel(TypedDict):
    """OpenAI's Model; an agent."""
    id: str
    object: Literal["model"]
    created: int
    owned_by: str


class OpenAIModels(TypedDict):
    """All agents."""
    object: Literal["list"]
    data: list[OpenAIModel]


class OpenAIResponse(TypedDict):
    """OpenAI's Response; a run."""
    id: str
    object: Literal["response"]
    created_at: int
    status: str
    model: str
    output: list[dict[str, Any]]


class OpenEvent(TypedDict):
    """The first event of every stream: where it begins. It is not in the log."""
    type: Literal["open"]
    session_id: str
    connection_id: str
    """The connection's name, for `/reconnect`."""
    position: str
    active_run_id: str | None


class OpenInput(TypedDict):
    """A request for input that waits for an answer, with all that a form needs."""
    request_id: str
    kind: Literal["approval", "question", "form"]
    prompt: str
    run_id: str
    tool_call_id: str | None
    schema: dict[str, Any] | None
    """The JSON Schema of the answer, if it has one."""
    asked_at: str
    expires_at: str | None


class OpenInputs(TypedDict):
    """The open requests of a session, in the order in which they were asked."""
    inputs: list[OpenInput]


class OpenRequest(TypedDict):
    """A request for input that waits for an answer; `prompt` is the begin of the question."""
    request_id: str
    kind: Literal["approval", "question", "form"]
    prompt: str
    run_id: str
    tool_call_id: str | None
    asked_at: str
    expires_at: str | None


class OpenapiDocument(TypedDict):
    """An OpenAPI document."""
    openapi: str
    info: dict[str, Any]
    paths: dict[str, Any]


class Overview(TypedDict):
    """Statistics over all sessions; days are those of creation, in UTC."""
    sessions: int
    by_type: dict[str, int]
    by_state: dict[str, int]
    by_day: dict[str, int]
    total_messages: int
    tool_calls: int
    runs: int
    prompt_tokens: int
    completion_tokens: int
    cached_tokens: int
    reasoning_tokens: int
    total_tokens: int
    by_agent: dict[str, Usage]
    by_model: dict[str, Usage]
    oldest: SessionInBrief | None
    newest: SessionInBrief | None
    most_active: list[SessionInBrief]


class Parent(TypedDict):
    """Where a session was forked from."""
    session_id: str
    message_id: str | None
    position: str | None


class PostedCancelled(TypedDict):
    """Terminal: the run was cancelled."""
    run_id: str
    """An open external run."""
    type: Literal["cancelled"]
    reason: NotRequired[str]
    """Default: `"cancelled"`."""


class PostedComplete(TypedDict):
    """Terminal: the run completed."""
    run_id: str
    """An open external run."""
    type: Literal["complete"]
    usage: NotRequired[PostedUsage | None]
    finish_reason: NotRequired[str]
    """Default: `"stop"`."""
    model: NotRequired[str | None]


class PostedCustom(TypedDict):
    """Anything for the session's front ends; with `run_id` as part of an external run."""
    type: Literal["custom"]
    name: str
    value: NotRequired[Any]
    run_id: NotRequired[str | None]


class PostedError(TypedDict):
    """Terminal: the run failed. `message` is for people and holds no secret."""
    run_id: str
    """An open external run."""
    type: Literal["error"]
    message: str
    code: NotRequired[str]
    """Default: `"agent_error"`."""


class PostedInputRequired(TypedDict):
    """A request for input. The run ends with its terminal event, and the next one gets the
    answers. `expires_at` is an RFC 3339 time. Without a `request_id` the gateway makes one.
    """
    run_id: str
    """An open external run."""
    type: Literal["input_required"]
    prompt: str
    kind: NotRequired[Literal["approval", "question", "form"]]
    """Default: `"question"`."""
    tool_call_id: NotRequired[str | None]
    schema: NotRequired[dict[str, Any] | None]
    """The JSON Schema of the answer."""
    expires_at: NotRequired[str | None]
    request_id: NotRequired[str | None]


class PostedMessage(TypedDict):
    """A whole message: `role`, `content`, and what else a message may have."""
    run_id: str
    """An open external run."""
    type: Literal["message"]
    message: dict[str, Any]


class PostedThinking(TypedDict):
    """A delta of the assistant's reasoning."""
    run_id: str
    """An open external run."""
    type: Literal["thinking"]
    content: str


class PostedToken(TypedDict):
    """A delta of the assistant's text."""
    run_id: str
    """An open external run."""
    type: Literal["token"]
    content: str


class PostedToolComplete(TypedDict):
    """A tool call has its result."""
    run_id: str
    """An open external run."""
    type: Literal["tool_complete"]
    tool_call_id: str
    result: PostedToolResult


class PostedToolDelta(TypedDict):
    """A delta of a tool call's arguments or output."""
    run_id: str
    """An open external run."""
    type: Literal["tool_delta"]
    tool_call_id: str
    content: str


class PostedToolError(TypedDict):
    """A tool call has failed."""
    run_id: str
    """An open external run."""
    type: Literal["tool_error"]
    tool_call_id: str
    error: str


class PostedToolResult(TypedDict):
    """What a tool returned. `content` is text, or any JSON value."""
    success: bool
    content: Any


class PostedToolStart(TypedDict):
    """A tool call. A string of `arguments` that holds a JSON object is read as that object."""
    run_id: str
    """An open external run."""
    type: Literal["tool_start"]
    tool_call_id: str
    tool_name: str
    arguments: NotRequired[dict[str, Any] | str]


class PostedUsage(TypedDict):
    """What the run cost, in tokens of the model."""
    prompt_tokens: NotRequired[int]
    completion_tokens: NotRequired[int]
    total_tokens: NotRequired[int]
    cached_tokens: NotRequired[int]
    reasoning_tokens: NotRequired[int]


class Problem(TypedDict):
    """A problem document (RFC 9457). `code` is stable; further members depend on it."""
    type: str
    title: str
    status: int
    detail: str
    instance: str
    code: str
    retryable: bool
    errors: NotRequired[list[ProblemPlace]]


class ProblemPlace(TypedDict):
    """One thing that is wrong with a request, and where."""
    loc: list[str | int]
    msg: str


class Refusal(TypedDict):
    """A refused request: the protocol's RUN_ERROR, with the members of the gateway's problem."""
    type: Literal["RUN_ERROR"]
    message: str
    title: str
    status: int
    detail: str
    code: str
    """As in a problem of the gateway."""
    retryable: bool
    errors: NotRequired[list[dict[str, Any]]]


class RegenerateInput(TypedDict):
    """What is answered again, and how."""
    message_id: NotRequired[str | None]
    """An answer, or the user's message itself. Absent: the last message of the current branch."""
    agent: NotRequired[str | None]
    """Which configured agent answers."""
    options: NotRequired[dict[str, Any]]
    """Options for the agent: those that its `allow` names, within its bounds."""
    run_id: NotRequired[str | None]
    """The client's own name for the run."""
    on_busy: NotRequired[Literal["enqueue", "reject", "interrupt"]]
    """When a run is active: wait for its end, answer 409, or cancel it and go first. Default:
    `"enqueue"`.
    """


class Remaining(TypedDict):
    """What an erasure leaves, where, and until when."""
    where: str
    what: str
    until: str


class ReopenInput(TypedDict):
    """How long a reopened session lives."""
    ttl_seconds: NotRequired[int | None]
    """The new time to live. Absent: the present one, counted again; null: none."""


class Report(TypedDict):
    """A session for people: who, what, how long, how much."""
    session_id: str
    title: str | None
    user_id: str | None
    session_type: str
    state: str
    working_dir: str | None
    created_at: str
    last_activity_at: str
    parent: dict[str, Any] | None
    merged_from: list[dict[str, Any]]
    has_summary: bool
    statistics: Statistics


class ResetEvent(TypedDict):
    """The client's position cannot be served exactly. It is not in the log. Load `/messages`
    again. The stream goes on from `position` by itself.
    """
    type: Literal["reset"]
    reason: Literal["unknown_position", "epoch_changed"]
    position: str


class ResponseCreate(TypedDict):
    """A request for a response. Members that are not here are in the how-to page."""
    model: NotRequired[Any]
    """The name of an agent."""
    input: NotRequired[Any]
    """A text, or a list of items."""
    stream: NotRequired[Any]
    """Answer with the stream of the response."""
    background: NotRequired[Any]
    """Answer at once, without its end."""
    store: NotRequired[Any]
    """`false`: it cannot be retrieved."""
    previous_response_id: NotRequired[Any]
    """Go on behind this response."""
    conversation: NotRequired[Any]
    """Go on in this conversation."""
    instructions: NotRequired[Any]
    """Needs `allow=system` of the agent."""
    tools: NotRequired[Any]
    """Functions that the client runs."""
    metadata: NotRequired[Any]
    """Up to 16 texts that the response keeps."""


class Resumed(TypedDict):
    """The message that carries a conversation into a new context."""
    message: Message


class RotateInput(TypedDict):
    """How the secret is replaced."""
    overlap_seconds: NotRequired[int]
    """How long the present secret signs as well. Default: `86400`."""


class Run(TypedDict):
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
    usage: Usage | None
    finish_reason: str | None
    error: RunError | None
    stream_url: str


class RunAgentInput(TypedDict):
    """RunAgentInput of AG-UI 1.0."""
    threadId: str
    """The session."""
    runId: str
    """The run. A repeat with the same one starts no other."""
    state: NotRequired[Any]
    """Passed to agents that allow the option `state`; else ignored."""
    messages: NotRequired[list[SentMessage]]
    """The conversation. Known messages are ignored, new ones at its end appended."""
    tools: NotRequired[list[SentTool] | None]
    """Tools that the client runs."""
    context: NotRequired[list[SentContext] | None]
    """Passed to agents that allow the option `context`; else ignored."""
    forwardedProps: NotRequired[Any]
    """Members that are options which the agent allows are set; others ignored."""
    resume: NotRequired[list[SentAnswer] | None]
    """Answers to the interrupts of the run before."""


class RunCancelled(TypedDict):
    """A run. `cancel_requested` is true while its terminal event is not in the log yet."""
    run_id: str
    session_id: str
    agent: str
    status: Literal["queued", "running", "completed", "failed", "cancelled", "interrupted"]
    position: str
    message_ids: list[str]
    created_at: str
    started_at: str | None
    ended_at: str | None
    usage: Usage | None
    finish_reason: str | None
    error: RunError | None
    stream_url: str
    cancel_requested: NotRequired[bool]


class RunCounts(TypedDict):
    """Runs by status."""
    queued: int
    running: int
    completed: int
    failed: int
    cancelled: int
    interrupted: int


class RunError(TypedDict):
    """Why a run failed."""
    code: str
    message: str


class RunHiddenEvent(TypedDict):
    """A client has deleted the response of a run in a protocol that shows runs by themselves."""
    seq: int
    """Counts 1, 2, 3 … in one session."""
    time: str
    """When it was appended: RFC 3339, in UTC."""
    type: Literal["run_hidden"]
    run_id: str


class RunInput(TypedDict):
    """An external run to open."""
    agent: Literal["external"]
    run_id: NotRequired[str | None]
    """Absent: the gateway makes one."""


class RunPage(TypedDict):
    """A page of runs."""
    runs: list[Run]
    next_cursor: str | None
    has_more: bool


class RunQueuedEvent(TypedDict):
    """A run waits, with its input; the input becomes messages when the run starts."""
    seq: int
    """Counts 1, 2, 3 … in one session."""
    time: str
    """When it was appended: RFC 3339, in UTC."""
    run_id: str
    type: Literal["run_queued"]
    agent: str
    messages: list[Message]
    options: NotRequired[dict[str, Any]]
    client_tools: NotRequired[list[dict[str, Any]]]
    """The tools that the client brought, and runs."""
    front: NotRequired[bool]
    """The run goes before the others that wait."""
    branch_from: NotRequired[dict[str, Any]]
    """`message_id`: the run begins a branch behind that message."""


class RunStartEvent(TypedDict):
    """A run has started; `message_ids` is its input, or the message that it answers again."""
    seq: int
    """Counts 1, 2, 3 … in one session."""
    time: str
    """When it was appended: RFC 3339, in UTC."""
    run_id: str
    type: Literal["run_start"]
    agent: str
    message_ids: list[str]
    position: NotRequired[str]
    """Just before the run's first event; absent when it was queued."""
    model: NotRequired[str]
    """The model that answers, if that is known."""
    request_ids: NotRequired[list[str]]
    """The requests for input whose answers the run gets."""
    tool_call_ids: NotRequired[list[str]]
    """The open calls of the run that asked; this one goes on."""


class RunWaited(TypedDict):
    """A run. With `Prefer: wait`, once it has ended, also its last assistant message."""
    run_id: str
    session_id: str
    agent: str
    status: Literal["queued", "running", "completed", "failed", "cancelled", "interrupted"]
    position: str
    message_ids: list[str]
    created_at: str
    started_at: str | None
    ended_at: str | None
    usage: Usage | None
    finish_reason: str | None
    error: RunError | None
    stream_url: str
    message: NotRequired[Message | None]


class SearchResult(TypedDict):
    """A message that was found."""
    session_id: str
    title: str | None
    """The title of the session."""
    message_id: str
    role: Literal["system", "user", "assistant", "tool"]
    created_at: str
    position: str
    """The position of the message in its session."""
    snippet: str
    """Plain text: the part of the message around the first hit."""
    ranges: list[list[int]]
    """The hits in `snippet`: start and end, in code points."""


class SearchResults(TypedDict):
    """A page of found messages, the newest first."""
    results: list[SearchResult]
    next_cursor: str | None
    has_more: bool


class SentAnswer(TypedDict):
    """The answer to an interrupt."""
    interruptId: str
    status: Literal["resolved", "cancelled"]
    payload: NotRequired[Any]


class SentContext(TypedDict):
    """Something that the agent should know."""
    description: str
    value: str


class SentMessage(TypedDict):
    """A message of the client's conversation."""
    id: str
    role: Literal["user", "assistant", "system", "developer", "tool", "reasoning", "activity"]
    content: NotRequired[Any]
    toolCalls: NotRequired[list[dict[str, Any]] | None]
    toolCallId: NotRequired[str | None]


class SentTool(TypedDict):
    """A tool of the client's."""
    name: str
    description: NotRequired[str | None]
    parameters: NotRequired[Any]


class Session(TypedDict):
    """A conversation with its whole history."""
    id: str
    title: str | None
    user_id: str | None
    session_type: Literal["user", "sub_agent", "scheduled"]
    state: Literal["active", "needs_input", "idle", "disconnected", "closed", "expired", "archived"]
    working_dir: str | None
    created_at: str
    updated_at: str
    last_activity_at: str
    expires_at: str | None
    ttl_seconds: int | None
    message_count: int
    preview: str | None
    """The first 120 characters of the last text that the user or the assistant said; whitespace is
    folded. Null: there is none, or none since an upgrade.
    """
    usage: Usage
    metadata: dict[str, Any]
    extension_data: dict[str, Any]
    parent: Parent | None
    position: str
    active_run_id: str | None
    open_requests: list[OpenRequest]
    stream_url: str


class SessionCancelled(TypedDict):
    """The runs that cancelling a session has ended."""
    session_id: str
    runs: list[RunCancelled]


class SessionChanged(TypedDict):
    """A session has changed, and is now as described here."""
    type: Literal["session_changed"]
    session_id: str
    position: str
    """The end of its log."""
    state: Literal["active", "needs_input", "idle", "disconnected", "closed", "expired", "archived"]
    title: str | None
    preview: str | None
    """The beginning of its last message."""
    updated_at: str
    active_run_id: str | None


class SessionCreatedEvent(TypedDict):
    """The first event of every session: what it was created with."""
    seq: int
    """Counts 1, 2, 3 … in one session."""
    time: str
    """When it was appended: RFC 3339, in UTC."""
    type: Literal["session_created"]
    user_id: NotRequired[str | None]
    title: NotRequired[str | None]
    session_type: NotRequired[Literal["user", "sub_agent", "scheduled"]]
    """Default: `"user"`."""
    working_dir: NotRequired[str | None]
    metadata: NotRequired[dict[str, Any]]
    ttl_seconds: NotRequired[int | None]
    extension_data: NotRequired[dict[str, Any]]
    created_at: NotRequired[str]
    """Of an import: when it was first created."""
    parent: NotRequired[Parent | None]
    ancestors: NotRequired[list[dict[str, Any]]]
    merged_from: NotRequired[list[dict[str, Any]]]
    usage_total: NotRequired[Usage | None]
    usage_parts: NotRequired[UsageParts | None]


class SessionForkedEvent(TypedDict):
    """The session was forked; `message_id` is the last message that the child has."""
    seq: int
    """Counts 1, 2, 3 … in one session."""
    time: str
    """When it was appended: RFC 3339, in UTC."""
    type: Literal["session_forked"]
    child_id: str
    title: str | None
    message_id: str | None


class SessionGone(TypedDict):
    """The session was deleted, you may not read it any more, or it has left the filter."""
    type: Literal["session_gone"]
    session_id: str


class SessionIdsInput(TypedDict):
    """The sessions of a bulk call. The gateway handles each by itself."""
    session_ids: list[str]


class SessionInBrief(TypedDict):
    """A session as the overview names it."""
    session_id: str
    title: str | None
    created_at: str
    message_count: int


class SessionInput(TypedDict):
    """A session to create."""
    id: NotRequired[str | None]
    """Absent: the gateway makes one."""
    session_id: NotRequired[str | None]
    """The same as `id`; chat calls it so."""
    user_id: NotRequired[str | None]
    title: NotRequired[str | None]
    session_type: NotRequired[Literal["user", "sub_agent", "scheduled"]]
    """Default: `"user"`."""
    working_dir: NotRequired[str | None]
    metadata: NotRequired[dict[str, Any]]
    extension_data: NotRequired[dict[str, Any]]
    ttl_seconds: NotRequired[int | None]
    """Time to live after the last activity."""


class SessionMergedEvent(TypedDict):
    """Another session was merged in. Its `message_count` messages follow this event."""
    seq: int
    """Counts 1, 2, 3 … in one session."""
    time: str
    """When it was appended: RFC 3339, in UTC."""
    type: Literal["session_merged"]
    source: MergeSource
    strategy: Literal["append", "interleave", "replace"]
    message_count: int
    replaces: bool
    """The messages before count no more: only in logs of earlier versions."""
    metadata: NotRequired[dict[str, Any]]
    extension_data: NotRequired[dict[str, Any]]
    usage_total: NotRequired[Usage | None]
    usage_parts: NotRequired[UsageParts | None]


class SessionPage(TypedDict):
    """A page of sessions; with `total` unless `count=false`, with `offset` when that was given."""
    sessions: list[Session]
    next_cursor: str | None
    has_more: bool
    total: NotRequired[int]
    offset: NotRequired[int]


class SessionPatch(TypedDict):
    """A JSON merge patch (RFC 7396): null removes a member, also inside `metadata`."""
    title: NotRequired[str | None]
    working_dir: NotRequired[str | None]
    metadata: NotRequired[dict[str, Any] | None]
    ttl_seconds: NotRequired[int | None]
    session_type: NotRequired[Literal["user", "sub_agent", "scheduled"]]
    extension_data: NotRequired[dict[str, Any] | None]


class SessionSharedEvent(TypedDict):
    """The session was shared. A client may skip this event."""
    seq: int
    """Counts 1, 2, 3 … in one session."""
    time: str
    """When it was appended: RFC 3339, in UTC."""
    type: Literal["session_shared"]
    share: EventShare


class SessionUpdatedEvent(TypedDict):
    """The session was changed: the members that changed, with their new values. Clients change
    them, and the gateway gives a title to a session without one.
    """
    seq: int
    """Counts 1, 2, 3 … in one session."""
    time: str
    """When it was appended: RFC 3339, in UTC."""
    type: Literal["session_updated"]
    title: NotRequired[str | None]
    session_type: NotRequired[Literal["user", "sub_agent", "scheduled"]]
    working_dir: NotRequired[str | None]
    metadata: NotRequired[dict[str, Any]]
    ttl_seconds: NotRequired[int | None]
    extension_data: NotRequired[dict[str, Any]]


class SessionWithMessages(TypedDict):
    """A session; with `include_messages` also all of its messages."""
    id: str
    title: str | None
    user_id: str | None
    session_type: Literal["user", "sub_agent", "scheduled"]
    state: Literal["active", "needs_input", "idle", "disconnected", "closed", "expired", "archived"]
    working_dir: str | None
    created_at: str
    updated_at: str
    last_activity_at: str
    expires_at: str | None
    ttl_seconds: int | None
    message_count: int
    preview: str | None
    """The first 120 characters of the last text that the user or the assistant said; whitespace is
    folded. Null: there is none, or none since an upgrade.
    """
    usage: Usage
    metadata: dict[str, Any]
    extension_data: dict[str, Any]
    parent: Parent | None
    position: str
    active_run_id: str | None
    open_requests: list[OpenRequest]
    stream_url: str
    messages: NotRequired[list[Message] | None]


class Share(TypedDict):
    """A grant to read a session, or also to answer; without a `user_id` it is a link."""
    id: str
    user_id: str | None
    created_at: str
    expires_at: str | None
    scope: NotRequired[Literal["read", "answer"]]
    """Default: `"read"`."""


class ShareInput(TypedDict):
    """With whom to share: one user, or everyone who has the link."""
    user_id: NotRequired[str | None]
    link: NotRequired[bool]
    expires_in: NotRequired[int | None]
    """Seconds until the share ends; absent: until it is revoked."""
    scope: NotRequired[Literal["read", "answer"]]
    """`answer`: they may also answer the session's requests for input. Default: `"read"`."""


class SharePage(TypedDict):
    """The valid shares of a session."""
    shares: list[Share]
    next_cursor: str | None
    has_more: bool


class ShareRevokedEvent(TypedDict):
    """A share was revoked. A client may skip this event."""
    seq: int
    """Counts 1, 2, 3 … in one session."""
    time: str
    """When it was appended: RFC 3339, in UTC."""
    type: Literal["share_revoked"]
    share_id: str


StateChangeEvent = TypedDict("StateChangeEvent", {
    "seq": "int",
    "time": "str",
    "type": "Literal['state_change']",
    "from": "str",
    "to": "str",
})
"""The session was closed, reopened, archived or restored, or it has expired."""


class Statistics(TypedDict):
    """The counts of a session. They are exact, also when deltas have left the log."""
    session_id: str
    total_messages: int
    user_messages: int
    assistant_messages: int
    tool_messages: int
    tool_calls: int
    tool_errors: int
    runs: RunCounts
    prompt_tokens: int
    completion_tokens: int
    cached_tokens: int
    reasoning_tokens: int
    total_tokens: int
    by_agent: dict[str, Usage]
    by_model: dict[str, Usage]
    duration_seconds: float
    active_seconds: float
    first_message_at: str | None
    last_message_at: str | None


class Stopped(TypedDict):
    """The runs of a thread that were stopped."""
    stopped: bool
    """Whether there was one."""
    threadId: str
    runIds: list[str]


class StreamFrame(TypedDict):
    """One frame of a stream (Server-Sent Events). There is never an `event` line."""
    id: NotRequired[str]
    """A position: a client reconnects with the last one it has seen."""
    retry: NotRequired[int]
    """Milliseconds to wait before a reconnect; only in the first frame."""
    data: str
    """A `StreamEvent` as JSON."""


class Summary(TypedDict):
    """SummaryCacheData: a summary that replaces the session's events up to `position`."""
    session_id: str
    summary: str
    turn_count: int
    position: str
    message_id: NotRequired[str | None]
    """The last message that it covers; null: not known, or none."""
    created_at: str


class SummaryInput(TypedDict):
    """A summary of the current path up to `position` (default: the log's end)."""
    summary: str
    turn_count: NotRequired[int | None]
    position: NotRequired[str | None]


class SummaryPage(TypedDict):
    """A page of summaries."""
    summaries: list[Summary]
    next_cursor: str | None
    has_more: bool


class SummarySavedEvent(TypedDict):
    """A summary of everything up to `position` was saved; null: it was deleted."""
    seq: int
    """Counts 1, 2, 3 … in one session."""
    time: str
    """When it was appended: RFC 3339, in UTC."""
    type: Literal["summary_saved"]
    summary: str | None
    turn_count: int
    position: str
    message_id: NotRequired[str | None]
    """The last message that it covers."""
    message_seq: NotRequired[int]
    """The seq of that message, or 0."""
    created_at: NotRequired[str]


class TextPart(TypedDict):
    """Text; with the type `thinking`, the assistant's reasoning."""
    type: Literal["text", "thinking"]
    text: str


class ThinkingEvent(TypedDict):
    """A delta of the assistant's reasoning."""
    seq: int
    """Counts 1, 2, 3 … in one session."""
    time: str
    """When it was appended: RFC 3339, in UTC."""
    run_id: str
    message_id: str
    """The message that this becomes part of."""
    type: Literal["thinking"]
    content: str


class Ticket(TypedDict):
    """A ticket to one session."""
    ticket: str
    """Opens the session's reading routes as `?ticket=`."""
    expires_at: str
    """When the ticket ends."""
    stream_url: str
    """The session's stream, with the ticket."""


class TodoInput(TypedDict):
    """The todo list."""
    content: str


class TodoState(TypedDict):
    """The session's todo list, as its agent or its user writes it."""
    content: str


class TokenEvent(TypedDict):
    """A delta of the assistant's text."""
    seq: int
    """Counts 1, 2, 3 … in one session."""
    time: str
    """When it was appended: RFC 3339, in UTC."""
    run_id: str
    message_id: str
    """The message that this becomes part of."""
    type: Literal["token"]
    content: str


class ToolCall(TypedDict):
    """A tool call in a message. `arguments` is a string only when a model's text is not JSON."""
    id: str
    name: str
    arguments: dict[str, Any] | str


class ToolCallInput(TypedDict):
    """A tool call of an assistant message."""
    id: str
    name: str
    arguments: NotRequired[dict[str, Any]]


class ToolCompleteEvent(TypedDict):
    """A tool call has its result."""
    seq: int
    """Counts 1, 2, 3 … in one session."""
    time: str
    """When it was appended: RFC 3339, in UTC."""
    run_id: str
    message_id: str
    """The message that this becomes part of."""
    type: Literal["tool_complete"]
    tool_call_id: str
    result: ToolResult


class ToolDeltaEvent(TypedDict):
    """A delta of a tool call's arguments or output."""
    seq: int
    """Counts 1, 2, 3 … in one session."""
    time: str
    """When it was appended: RFC 3339, in UTC."""
    run_id: str
    message_id: str
    """The message that this becomes part of."""
    type: Literal["tool_delta"]
    tool_call_id: str
    content: str


class ToolErrorEvent(TypedDict):
    """A tool call has failed."""
    seq: int
    """Counts 1, 2, 3 … in one session."""
    time: str
    """When it was appended: RFC 3339, in UTC."""
    run_id: str
    message_id: str
    """The message that this becomes part of."""
    type: Literal["tool_error"]
    tool_call_id: str
    error: str


class ToolResult(TypedDict):
    """What a tool returned. `content` is text, or any JSON value."""
    success: bool
    content: Any


class ToolStartEvent(TypedDict):
    """A tool call. `arguments` is a string only when a model's text is not JSON."""
    seq: int
    """Counts 1, 2, 3 … in one session."""
    time: str
    """When it was appended: RFC 3339, in UTC."""
    run_id: str
    message_id: str
    """The message that this becomes part of."""
    type: Literal["tool_start"]
    tool_call_id: str
    tool_name: str
    arguments: dict[str, Any] | str


class Tree(TypedDict):
    """The whole tree from its root; `current` is the requested session."""
    session_id: str
    title: str | None
    state: Literal["active", "needs_input", "idle", "disconnected", "closed", "expired", "archived"] | Literal["deleted"]
    created_at: str | None
    forked_at: str | None
    merged_from: list[str]
    branches: list[TreeNode]
    current: str
    truncated: bool


class TreeNode(TypedDict):
    """A session in its branch tree. A deleted one is a stub, with the state `deleted`."""
    session_id: str
    title: str | None
    state: Literal["active", "needs_input", "idle", "disconnected", "closed", "expired", "archived"] | Literal["deleted"]
    created_at: str | None
    forked_at: str | None
    merged_from: list[str]
    branches: list[TreeNode]


class UiMessage(TypedDict):
    """A message of the AI SDK (`UIMessage`)."""
    id: NotRequired[str]
    role: Literal["system", "user", "assistant"]
    parts: list[dict[str, Any]]
    metadata: NotRequired[Any]


class UiMessageShown(TypedDict):
    """A message of the AI SDK. Its parts are those of the client's version."""
    id: str
    role: Literal["system", "user", "assistant"]
    parts: list[dict[str, Any]]
    metadata: NotRequired[dict[str, Any]]


class Usage(TypedDict):
    """Tokens of the model. In messages and events of earlier versions the details are absent."""
    prompt_tokens: int
    completion_tokens: int
    cached_tokens: NotRequired[int]
    """The part of `prompt_tokens` that came from the server's cache."""
    reasoning_tokens: NotRequired[int]
    """The part of `completion_tokens` that is reasoning."""
    total_tokens: int


class UsageInput(TypedDict):
    """What a message cost, in tokens."""
    prompt_tokens: NotRequired[int]
    completion_tokens: NotRequired[int]
    cached_tokens: NotRequired[int]
    reasoning_tokens: NotRequired[int]
    total_tokens: NotRequired[int]


class UsageParts(TypedDict):
    """The usage that was counted, by the agent and by the model that it was used for."""
    by_agent: NotRequired[dict[str, Usage]]
    by_model: NotRequired[dict[str, Usage]]


class UserErasure(TypedDict):
    """The receipt of an erasure: what of one user has gone, or with `dry_run` would go."""
    user_id: str
    dry_run: bool
    complete: bool
    """Whether everything has gone; else repeat the call."""
    sessions: int
    """The sessions deleted by this call, without archives."""
    archives: int
    """The archived sessions deleted by this call."""
    bytes_freed: int
    shares: int
    """The shares in other users' sessions that were ended."""
    keys: int
    """The keys that were removed, revoked ones too."""
    webhooks: int
    """The user's webhooks that were deleted."""
    files: int
    """The user's files that were removed."""
    exports: int
    """The files below `export_dir` that were removed."""
    sessions_left: int
    """The user's sessions that wait for the next call."""
    failed: list[FailedErasure]
    stores: list[ErasedPart]
    """Empty with `dry_run`."""
    remains: list[Remaining]
    """What the gateway cannot reach."""


class Webhook(TypedDict):
    """A webhook."""
    id: str
    url: str
    events: list[Literal["run.ended", "input.required", "session.created", "session.deleted"]]
    user_id: str | None
    enabled: bool
    disabled_reason: str | None
    """`request`, `gone` (the receiver answered 410) or `failing` (it failed for
    `webhook_disable_after_days`).
    """
    failing_since: str | None
    """The first failure since the last success; null: the last attempt succeeded."""
    secrets: int
    """How many secrets sign now."""
    created_at: str
    updated_at: str


class WebhookInput(TypedDict):
    """A webhook to create."""
    url: str
    """Where requests are sent: `https`, and a server of the internet."""
    events: list[Literal["run.ended", "input.required", "session.created", "session.deleted"]]
    """What the receiver is told of."""
    user_id: NotRequired[str | None]
    """Of whose sessions; absent: of all that the caller owns."""


class WebhookPage(TypedDict):
    """The caller's webhooks, the oldest first."""
    webhooks: list[Webhook]
    next_cursor: str | None
    has_more: bool


class WebhookPatch(TypedDict):
    """What changes; what is absent stays."""
    url: NotRequired[str]
    events: NotRequired[list[Literal["run.ended", "input.required", "session.created", "session.deleted"]]]
    user_id: NotRequired[str | None]
    enabled: NotRequired[bool]
    """`false`: nothing new is recorded, and what waits is kept; `true`: what waits is sent, and
    what happens from now on.
    """


class WriteSummaryInput(TypedDict):
    """The agent that writes the summary."""
    agent: NotRequired[str | None]



ChangeEvent = SessionChanged | SessionGone | ChangesReset | ChangesOpen | HeartbeatEvent | GoodbyeEvent
"""The `data` of one frame of a stream of changes."""

Event = MessageEvent | TokenEvent | ThinkingEvent | ToolStartEvent | ToolDeltaEvent | ToolCompleteEvent | ToolErrorEvent | RunQueuedEvent | RunStartEvent | CompleteEvent | ErrorEvent | CancelledEvent | InputRequiredEvent | InputGivenEvent | InputClosedEvent | StateChangeEvent | SessionCreatedEvent | SessionUpdatedEvent | SessionForkedEvent | SessionMergedEvent | SummarySavedEvent | BranchStartedEvent | BranchSelectedEvent | MessageHiddenEvent | RunHiddenEvent | ExtensionsUpdatedEvent | SessionSharedEvent | ShareRevokedEvent | CustomEvent
"""One event of a session's log. `type` says which; a client skips types it does not know."""

PostedEvent = PostedToken | PostedThinking | PostedToolStart | PostedToolDelta | PostedToolComplete | PostedToolError | PostedMessage | PostedInputRequired | PostedComplete | PostedError | PostedCancelled | PostedCustom
"""An event to append. All but `custom` belong to an open external run."""

StreamEvent = MessageEvent | TokenEvent | ThinkingEvent | ToolStartEvent | ToolDeltaEvent | ToolCompleteEvent | ToolErrorEvent | RunQueuedEvent | RunStartEvent | CompleteEvent | ErrorEvent | CancelledEvent | InputRequiredEvent | InputGivenEvent | InputClosedEvent | StateChangeEvent | SessionCreatedEvent | SessionUpdatedEvent | SessionForkedEvent | SessionMergedEvent | SummarySavedEvent | BranchStartedEvent | BranchSelectedEvent | MessageHiddenEvent | RunHiddenEvent | ExtensionsUpdatedEvent | SessionSharedEvent | ShareRevokedEvent | CustomEvent | OpenEvent | HeartbeatEvent | ResetEvent | GoodbyeEvent
"""The `data` of one frame of a stream: an event of the log, or one of the stream itself."""

UiMessageList = list[UiMessageShown]
"""The messages of a path, in order."""
