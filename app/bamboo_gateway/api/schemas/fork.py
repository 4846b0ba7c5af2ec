"""Branches: fork, merge, and the tree of sessions."""

from typing import Annotated, Literal

from pydantic import ConfigDict, Field

from bamboo_gateway.api.schemas.export import ImportNote
from bamboo_gateway.api.schemas.fields import Described, Id, Input, StateName, Title
from bamboo_gateway.api.schemas.sessions import Session
from bamboo_gateway.sessions.lifecycle.fork import Fork
from bamboo_gateway.sessions.lifecycle.merge_plan import Merge


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
        """Return the fork as the command takes it."""
        return Fork(
            self.from_message_id,
            self.from_message_index,
            self.new_name,
            self.new_id,
            self.metadata_strategy,
        )


class MergeInput(Input):
    """The session to merge, and how."""

    source_id: Id
    strategy: Literal["append", "interleave", "replace"] = "append"
    metadata_strategy: Literal["target", "source", "merge"] = "target"

    def to_merge(self) -> Merge:
        """Return the merge as the command takes it."""
        return Merge(self.source_id, self.strategy, self.metadata_strategy)


class Forked(Session):
    """The new session; `cut_moved` when the cut was moved to keep a tool exchange whole."""

    cut_moved: bool = False
    cut_message_id: str | None = None
    detail: str = ""

    model_config = ConfigDict(json_schema_serialization_defaults_required=False)


class Merged(Session):
    """The target; with `notes` when the merge has closed tool calls that had no result."""

    notes: list[ImportNote] = []

    model_config = ConfigDict(json_schema_serialization_defaults_required=False)


class TreeNode(Described):
    """A session in its branch tree. A deleted one is a stub, with the state `deleted`."""

    session_id: str
    title: str | None
    state: StateName | Literal["deleted"]
    created_at: str | None
    forked_at: str | None
    merged_from: list[str]
    branches: list["TreeNode"]


class Tree(TreeNode):
    """The whole tree from its root; `current` is the requested session."""

    current: str
    truncated: bool
