"""Sharing: with whom, and the shares of a session."""

from typing import Annotated, Self

from pydantic import Field, model_validator

from bamboo_gateway.api.schemas.fields import Described, Input, UserId
from bamboo_gateway.domain.limits import SHARE_SECONDS_MAX
from bamboo_gateway.domain.sessions import ShareScope
from bamboo_gateway.sessions.sharing import NewShare


class ShareInput(Input):
    """With whom to share: one user, or everyone who has the link."""

    user_id: UserId | None = None
    link: bool = False
    expires_in: Annotated[int, Field(ge=1, le=SHARE_SECONDS_MAX)] | None = Field(
        None, description="Seconds until the share ends; absent: until it is revoked."
    )

    scope: ShareScope = Field(
        "read", description="`answer`: they may also answer the session's requests for input."
    )

    @model_validator(mode="after")
    def _one_of_both(self) -> Self:
        if (self.user_id is None) != self.link:
            raise ValueError("give `user_id`, or `link: true`")
        return self

    def to_new(self) -> NewShare:
        """Return the share as the command takes it."""
        return NewShare(self.user_id, self.expires_in, self.scope)


class Share(Described):
    """A grant to read a session, or also to answer; without a `user_id` it is a link."""

    id: str
    user_id: str | None
    created_at: str
    expires_at: str | None
    scope: ShareScope = "read"


class NewShareAnswer(Share):
    """The share that was just made."""

    token: str = Field(
        "", description="The token of a link. Only this answer has it: it is not kept."
    )


class SharePage(Described):
    """The valid shares of a session."""

    shares: list[Share]
    next_cursor: str | None
    has_more: bool
