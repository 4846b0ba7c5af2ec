"""Branches inside a session."""

from typing import Annotated

from pydantic import Field

from bamboo_gateway.api.schemas.fields import Answer


class Branch(Answer):
    """A branch of a conversation. Its path goes from the first message to its tip."""

    branch_id: Annotated[str, Field(description="That of the first branch is `main`.")]
    parent_branch_id: Annotated[
        str | None, Field(description="The branch that has `from_message_id`.")
    ]
    from_message_id: Annotated[
        str | None, Field(description="It begins behind this message; null: before the first one.")
    ]
    tip_message_id: Annotated[str | None, Field(description="The last message of its path.")]
    message_count: Annotated[int, Field(description="The messages of its path.")]
    created_at: str
    current: Annotated[bool, Field(description="Whether new messages go here.")]


class Branches(Answer):
    """All branches of a session, oldest first."""

    branches: list[Branch]


class BranchSelected(Branch):
    """The branch that is current now."""

    position: Annotated[str, Field(description="The end of the log.")]
