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
