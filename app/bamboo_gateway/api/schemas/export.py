"""What clients get of a session's whole life: see `shapes`."""

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from bamboo_gateway.api.schemas.messages import SessionTypeName
from bamboo_gateway.api.schemas.sessions import Message, ParentShape, Session, UsageShape


class ArchivedSession(BaseModel):
    """An archived session and what it takes on the disk, compressed and before."""

    session: Session
    archived_at: str
    bytes: int
    original_bytes: int


class ArchivePage(BaseModel):
    """A page of archived sessions."""

    archives: list[ArchivedSession]
    next_cursor: str | None
    has_more: bool
    total: int = 0
    offset: int = 0


class ShareShape(BaseModel):
    """A grant to read a session; without a `user_id` it is a link."""

    id: str
    user_id: str | None
    created_at: str
    expires_at: str | None


class NewShareShape(ShareShape):
    """A share that was just made."""

    token: str = Field("", description="A link's, this once: it is not kept.")


class SharePage(BaseModel):
    """The shares of a session that hold."""

    shares: list[ShareShape]
    next_cursor: str | None
    has_more: bool


class Done(BaseModel):
    """One session that a bulk call dealt with."""

    session_id: str
    bytes: int


class NotDone(BaseModel):
    """One session that a bulk call could not deal with, and why."""

    session_id: str
    code: str
    detail: str


class BulkArchived(BaseModel):
    """What archiving many came to."""

    archived: list[Done]
    failed: list[NotDone]


class BulkRestored(BaseModel):
    """What restoring many came to."""

    restored: list[Done]
    failed: list[NotDone]


class Exported(BaseModel):
    """A file that was written under `export_dir`."""

    path: str
    bytes: int


class Summary(BaseModel):
    """SummaryCacheData: what stands for the session's events up to `position`."""

    session_id: str
    summary: str
    turn_count: int
    position: str
    created_at: str


class ExportedSession(BaseModel):
    """A session as it is exported: without what holds only at the moment.

    With `include_metadata=false` it has its id, title and times and nothing else.
    """

    id: str
    title: str | None
    user_id: str | None = None
    session_type: SessionTypeName = "user"
    working_dir: str | None = None
    created_at: str
    updated_at: str
    last_activity_at: str
    ttl_seconds: int | None = None
    message_count: int = 0
    usage: UsageShape | None = None
    metadata: dict[str, Any] = {}
    extension_data: dict[str, Any] = {}
    parent: ParentShape | None = None
    position: str | None = None

    model_config = ConfigDict(extra="forbid")


class ExportedMessage(Message):
    """A message as it is exported.

    With `include_metadata=false` it has no `metadata`, `model`, `usage` and `run_id`.
    """

    metadata: dict[str, Any] = {}


class ExportedSummary(Summary):
    """A summary as it is exported: positions are another log's after an import, a count holds."""

    covers_messages: Annotated[int, Field(description="The first so many are in the summary.")] = 0

    model_config = ConfigDict(extra="forbid")


class ExportedLineage(BaseModel):
    """What a session's `parent` does not say: all it was forked from, and what was merged in."""

    ancestors: list[dict[str, Any]]
    merged_from: list[dict[str, Any]]


class ExportDocument(BaseModel):
    """A session, without loss. `bamboo_export` is the version of this shape.

    With `include_metadata=false` it has neither `summary` nor `lineage`.
    """

    bamboo_export: Literal[1]
    session: ExportedSession
    summary: ExportedSummary | None = None
    lineage: ExportedLineage | None = None
    messages: list[ExportedMessage]
    message_count: Annotated[int, Field(description="Says that the document is whole.")]

    model_config = ConfigDict(extra="forbid")


class ImportNote(BaseModel):
    """Something of an imported document that was not understood."""

    place: str
    what: str


class ImportedSessionShape(Session):
    """The session that was made, and what of the document was not understood."""

    notes: list[ImportNote] = []

    model_config = ConfigDict(json_schema_serialization_defaults_required=False)


class Merged(Session):
    """The target; `notes` when calls without a result were closed on the way."""

    notes: list[ImportNote] = []

    model_config = ConfigDict(json_schema_serialization_defaults_required=False)


class Forked(Session):
    """The new session; `cut_moved` when the cut was moved to keep a tool exchange whole."""

    cut_moved: bool = False
    cut_message_id: str | None = None
    detail: str = ""

    model_config = ConfigDict(json_schema_serialization_defaults_required=False)


class TreeNode(BaseModel):
    """A session in its branch tree. One that was deleted is a stub, with the state `deleted`."""

    session_id: str
    title: str | None
    state: Literal["active", "idle", "disconnected", "closed", "expired", "archived", "deleted"]
    created_at: str | None
    forked_at: str | None
    merged_from: list[str]
    branches: list["TreeNode"]


class Tree(TreeNode):
    """The whole tree from its root; `current` is the session that was asked for."""

    current: str
    truncated: bool


class SummaryPage(BaseModel):
    """A page of summaries."""

    summaries: list[Summary]
    next_cursor: str | None
    has_more: bool


class Resumed(BaseModel):
    """The message that carries a conversation into a new context."""

    message: Message


class RunCounts(BaseModel):
    """Runs by status."""

    queued: int
    running: int
    completed: int
    failed: int
    cancelled: int
    interrupted: int


class Statistics(BaseModel):
    """What a session has come to. Exact, also when deltas have left the log."""

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
    total_tokens: int
    duration_seconds: float
    active_seconds: float
    first_message_at: str | None
    last_message_at: str | None


class Report(BaseModel):
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


class SessionInBrief(BaseModel):
    """A session as the overview names it."""

    session_id: str
    title: str | None
    created_at: str
    message_count: int


class Overview(BaseModel):
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
    total_tokens: int
    oldest: SessionInBrief | None
    newest: SessionInBrief | None
    most_active: list[SessionInBrief]


class CleanupStats(BaseModel):
    """What a cleanup deleted, or with `dry_run` would delete."""

    sessions_cleaned: int
    archives_cleaned: int
    bytes_freed: int
    session_ids: list[str]
    dry_run: bool


class ExtensionState(BaseModel):
    """One extension's state."""

    name: str
    config: dict[str, Any]
    enabled: bool


class TodoState(BaseModel):
    """The session's todo list, as its agent or its user writes it."""

    content: str


class ExtensionDataShape(BaseModel):
    """ExtensionData: which extensions are enabled, the todo list, and custom values."""

    enabled_extensions: list[ExtensionState]
    todo_state: TodoState | None
    custom: dict[str, Any]


class CheckShape(BaseModel):
    """One check: what was seen, and what to do when it is not `ok`."""

    name: str
    status: Literal["ok", "warn", "fail"]
    seen: str
    action: str


class Diagnostics(BaseModel):
    """All checks; `status` is the worst of them."""

    status: Literal["ok", "warn", "fail"]
    checks: list[CheckShape]
