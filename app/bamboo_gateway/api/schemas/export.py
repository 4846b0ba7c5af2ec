"""Export and import: the requests, and the exported document."""

from typing import Annotated, Any, Literal

from pydantic import ConfigDict, Field

from bamboo_gateway.api.limits import PATH_CHARS_MAX
from bamboo_gateway.api.schemas.fields import Described, Input, SessionIds, SessionTypeName
from bamboo_gateway.api.schemas.messages import Message, Usage, UsageParts
from bamboo_gateway.api.schemas.sessions import OpenRequest, Parent, Session
from bamboo_gateway.api.schemas.summaries import Summary
from bamboo_gateway.sessions.lifecycle.export import ExportOptions

Format = Literal["markdown", "json", "yaml"]


class _ExportFields(Input):
    format: Format = "markdown"
    include_metadata: bool = True
    include_tool_calls: bool = True

    def options(self) -> ExportOptions:
        """Return the options as the command takes them."""
        return ExportOptions(self.format, self.include_metadata, self.include_tool_calls)


class ExportInput(_ExportFields):
    """A file to write under `export_dir`."""

    path: Annotated[str, Field(min_length=1, max_length=PATH_CHARS_MAX)]


class BulkExportInput(_ExportFields):
    """Sessions to write as one zip."""

    session_ids: SessionIds


class Exported(Described):
    """A file that was written under `export_dir`."""

    path: str
    bytes: int


class ExportedSession(Described):
    """A session as it is exported: without what holds only at the moment.

    With `include_metadata=false` it has only its id, title and times.
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
    usage: Usage | None = None
    metadata: dict[str, Any] = {}
    extension_data: dict[str, Any] = {}
    parent: Parent | None = None
    position: str | None = None
    open_requests: list[OpenRequest] = []

    model_config = ConfigDict(extra="forbid")


class ExportedMessage(Message):
    """A message as it is exported.

    With `include_metadata=false` it has no `metadata`, `model`, `usage` and `run_id`.
    """

    metadata: dict[str, Any] = {}


class ExportedSummary(Summary):
    """A summary as it is exported.

    After an import positions belong to another log; a count of messages still holds.
    """

    covers_messages: Annotated[
        int, Field(description="How many messages, from the first, the summary covers.")
    ] = 0

    model_config = ConfigDict(extra="forbid")


class ExportedLineage(Described):
    """What `parent` does not say: all sessions it was forked from, and what was merged in."""

    ancestors: list[dict[str, Any]]
    merged_from: list[dict[str, Any]]
    usage_parts: Annotated[
        UsageParts | None, Field(description="The usage of `session`, by agent and by model.")
    ] = None


class ExportedBranch(Described):
    """A branch as it is exported."""

    branch_id: str
    parent_branch_id: str | None
    from_message_id: str | None
    created_at: str


class ExportedBranchSummary(Described):
    """A summary that counts on the paths with `message_id`."""

    summary: str
    turn_count: int
    message_id: str | None
    created_at: str


class ExportedBranches(Described):
    """The branches of a session that has several."""

    current: str
    branches: list[ExportedBranch]
    summaries: list[ExportedBranchSummary]


class ExportDocument(Described):
    """A session, without loss. `bamboo_export` is the version of this format.

    With `include_metadata=false` it has neither `summary` nor `lineage`. With `branches` the
    messages are those of all branches, in the order of the log.
    """

    bamboo_export: Literal[1]
    session: ExportedSession
    summary: ExportedSummary | None = None
    lineage: ExportedLineage | None = None
    branches: ExportedBranches | None = None
    messages: list[ExportedMessage]
    message_count: Annotated[
        int, Field(description="The last member: it is there when the document is whole.")
    ]

    model_config = ConfigDict(extra="forbid")


class ImportNote(Described):
    """Something of an imported document that the gateway did not understand."""

    place: str
    what: str


class ImportedConversation(Described):
    """One line of an import with `conversation=all`: the new session, or why there is none."""

    conversation: Annotated[int, Field(description="Counts from 1.")]
    of: Annotated[int, Field(description="How many conversations the document has.")]
    notes: list[ImportNote]
    session: Session | None = None
    code: str = ""
    detail: str = ""


class ImportedSession(Session):
    """The new session; `notes` names what the gateway did not understand of the document."""

    notes: list[ImportNote] = []

    model_config = ConfigDict(json_schema_serialization_defaults_required=False)
