"""Cleanup and diagnostics."""

from typing import Annotated, Literal

from pydantic import Field

from bamboo_gateway.api.schemas.fields import Described, Input


class CleanupInput(Input):
    """Which sessions to delete."""

    before: Annotated[str, Field(max_length=64)] | None = Field(
        None,
        description="An RFC 3339 time: all without activity since then, whatever their retention.",
    )
    dry_run: bool = False


class CleanupStats(Described):
    """What a cleanup has deleted, or with `dry_run` would delete."""

    sessions_cleaned: int
    archives_cleaned: int
    bytes_freed: int
    session_ids: list[str]
    dry_run: bool


class FailedErasure(Described):
    """A session that could not be deleted, or whose share could not be removed, for now."""

    session_id: str
    code: str


class ErasedPart(Described):
    """A part of what the gateway keeps, and when nothing of the user is in it any more."""

    store: str
    what: str
    gone: str = Field(description="`now`, or under which condition.")


class Remaining(Described):
    """What an erasure leaves, where, and until when."""

    where: str
    what: str
    until: str


class UserErasure(Described):
    """The receipt of an erasure: what of one user has gone, or with `dry_run` would go."""

    user_id: str
    dry_run: bool
    complete: bool = Field(description="Whether everything has gone; else repeat the call.")
    sessions: int = Field(description="The sessions deleted by this call, without archives.")
    archives: int = Field(description="The archived sessions deleted by this call.")
    bytes_freed: int
    shares: int = Field(description="The shares in other users' sessions that were ended.")
    keys: int = Field(description="The keys that were removed, revoked ones too.")
    webhooks: int = Field(description="The user's webhooks that were deleted.")
    files: int = Field(description="The user's files that were removed.")
    exports: int = Field(description="The files below `export_dir` that were removed.")
    sessions_left: int = Field(description="The user's sessions that wait for the next call.")
    failed: list[FailedErasure]
    stores: list[ErasedPart] = Field(description="Empty with `dry_run`.")
    remains: list[Remaining] = Field(description="What the gateway cannot reach.")


class Check(Described):
    """One check: what it saw, and what to do when it is not `ok`."""

    name: str
    status: Literal["ok", "warn", "fail"]
    seen: str
    action: str


class Diagnostics(Described):
    """All checks; `status` is the worst of them."""

    status: Literal["ok", "warn", "fail"]
    checks: list[Check]
