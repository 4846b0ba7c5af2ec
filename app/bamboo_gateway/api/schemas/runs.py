"""Runs: opening an external one, and what clients see of them."""

from typing import Literal

from pydantic import ConfigDict, Field

from bamboo_gateway.api.schemas.fields import Answer, Id, Input
from bamboo_gateway.api.schemas.messages import Message, Usage


class RunInput(Input):
    """An external run to open."""

    agent: Literal["external"]
    run_id: Id | None = Field(None, description="Absent: the gateway makes one.")


class RunError(Answer):
    """Why a run failed."""

    code: str
    message: str


class Run(Answer):
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


class RunWaited(Run):
    """A run. With `Prefer: wait`, once it has ended, also its last assistant message."""

    message: Message | None = None

    model_config = ConfigDict(json_schema_serialization_defaults_required=False)


class RunCancelled(Run):
    """A run. `cancel_requested` is true while its terminal event is not in the log yet."""

    cancel_requested: bool = False

    model_config = ConfigDict(json_schema_serialization_defaults_required=False)


class RunPage(Answer):
    """A page of runs."""

    runs: list[Run]
    next_cursor: str | None
    has_more: bool


class SessionCancelled(Answer):
    """The runs that cancelling a session has ended."""

    session_id: str
    runs: list[RunCancelled]
