"""What clients send in a session's whole life: see `schemas`."""

import re
from typing import Annotated, Any, Final, Literal, Self

from pydantic import AfterValidator, Field, model_validator

from bamboo_gateway.api.limits import ITEMS_MAX, PATH_CHARS_MAX
from bamboo_gateway.api.schemas.messages import ExtensionData, Id, Input, Name, Title, UserId
from bamboo_gateway.domain.limits import SHARE_SECONDS_MAX
from bamboo_gateway.sessions.lifecycle.export import ExportOptions
from bamboo_gateway.sessions.lifecycle.fork import Fork
from bamboo_gateway.sessions.lifecycle.merge_plan import Merge
from bamboo_gateway.sessions.lifecycle.summaries import SUMMARY_CHARS_MAX
from bamboo_gateway.sessions.sharing import NewShare

# Of Unicode those, too, which end a line for some readers.
_NAME_WITHOUT: Final = r"\u0000-\u001f\u007f-\u009f\u2028\u2029"

Format = Literal["markdown", "json", "yaml"]
# Not `Id`: one bad id of many fails by itself.
SessionIds = Annotated[
    list[Annotated[str, Field(max_length=1000)]], Field(min_length=1, max_length=ITEMS_MAX)
]


class SessionIdsInput(Input):
    """Which sessions a bulk call is about; each is dealt with by itself."""

    session_ids: SessionIds


class _ExportFields(Input):
    format: Format = "markdown"
    include_metadata: bool = True
    include_tool_calls: bool = True

    def options(self) -> ExportOptions:
        """Gives the command's form."""
        return ExportOptions(self.format, self.include_metadata, self.include_tool_calls)


class ExportInput(_ExportFields):
    """A file to write under `export_dir`."""

    path: Annotated[str, Field(min_length=1, max_length=PATH_CHARS_MAX)]


class BulkExportInput(_ExportFields):
    """Sessions to write as one zip."""

    session_ids: SessionIds


class ShareInput(Input):
    """With whom to share: one user, or whoever has the link."""

    user_id: UserId | None = None
    link: bool = False
    expires_in: Annotated[int, Field(ge=1, le=SHARE_SECONDS_MAX)] | None = Field(
        None, description="Seconds after which it ends; absent: it does not by itself."
    )

    @model_validator(mode="after")
    def _one_of_both(self) -> Self:
        if (self.user_id is None) != self.link:
            raise ValueError("give `user_id`, or `link: true`")
        return self

    def to_new(self) -> NewShare:
        """Gives the command's form."""
        return NewShare(self.user_id, self.expires_in)


class ForkInput(Input):
    """Where the new session's history ends: at a message, or with everything."""

    from_message_id: Id | None = None
    from_message_index: Annotated[int, Field(ge=0, le=100_000_000)] | None = Field(
        None, description="Counts from 0."
    )
    new_name: Title | None = Field(None, description="Default: `<title> (fork)`.")
    new_id: Id | None = None
    metadata_strategy: Literal["inherit", "reset"] = "inherit"

    def to_fork(self) -> Fork:
        """Gives the command's form."""
        return Fork(
            self.from_message_id,
            self.from_message_index,
            self.new_name,
            self.new_id,
            self.metadata_strategy,
        )


class MergeInput(Input):
    """What is merged, and how."""

    source_id: Id
    strategy: Literal["append", "interleave", "replace"] = "append"
    metadata_strategy: Literal["target", "source", "merge"] = "target"

    def to_merge(self) -> Merge:
        """Gives the command's form."""
        return Merge(self.source_id, self.strategy, self.metadata_strategy)


class SummaryInput(Input):
    """A summary of all up to `position` (default: the log's end)."""

    summary: Annotated[str, Field(min_length=1, max_length=SUMMARY_CHARS_MAX)]
    turn_count: Annotated[int, Field(ge=0)] | None = None
    position: Annotated[str, Field(max_length=64)] | None = None


class WriteSummaryInput(Input):
    """Who writes the summary."""

    agent: Name | None = None


class CleanupInput(Input):
    """Which sessions are deleted."""

    before: Annotated[str, Field(max_length=64)] | None = Field(
        None,
        description="An RFC 3339 time: all without activity since then, whatever their retention.",
    )
    dry_run: bool = False


def _without_controls(name: str) -> str:
    if re.search(f"[{_NAME_WITHOUT}]", name):
        raise ValueError("an extension's name holds no control character, and no line end")
    return name


ExtensionName = Annotated[
    Name,
    AfterValidator(_without_controls),
    Field(json_schema_extra={"pattern": f"^[^{_NAME_WITHOUT}]+$"}),
]


class ExtensionStateInput(Input):
    """One extension's state, whose name the path or the list has."""

    config: ExtensionData = Field(default_factory=dict)
    enabled: bool = True


class NamedExtensionInput(ExtensionStateInput):
    """An entry of `enabled_extensions`."""

    name: ExtensionName


class TodoInput(Input):
    """The todo list."""

    content: Annotated[str, Field(max_length=100_000)]


class ExtensionDataInput(Input):
    """ExtensionData, whole: what is not given is emptied."""

    enabled_extensions: Annotated[list[NamedExtensionInput], Field(max_length=100)] = Field(
        default_factory=list
    )
    todo_state: TodoInput | None = None
    custom: ExtensionData = Field(default_factory=dict)


class ExtensionDataPatch(Input):
    """A JSON merge patch of ExtensionData; lists are replaced whole."""

    enabled_extensions: Annotated[list[NamedExtensionInput], Field(max_length=100)] | None = None
    todo_state: dict[str, Any] | None = None
    custom: dict[str, Any] | None = None
