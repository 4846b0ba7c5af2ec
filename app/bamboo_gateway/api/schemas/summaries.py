"""Summaries: saving one, and resuming a conversation."""

from typing import Annotated

from pydantic import Field

from bamboo_gateway.api.schemas.fields import Described, Input, Name
from bamboo_gateway.api.schemas.messages import Message
from bamboo_gateway.sessions.lifecycle.summaries import SUMMARY_CHARS_MAX


class SummaryInput(Input):
    """A summary of the current path up to `position` (default: the log's end)."""

    summary: Annotated[str, Field(min_length=1, max_length=SUMMARY_CHARS_MAX)]
    turn_count: Annotated[int, Field(ge=0)] | None = None
    position: Annotated[str, Field(max_length=64)] | None = None


class WriteSummaryInput(Input):
    """The agent that writes the summary."""

    agent: Name | None = None


class Summary(Described):
    """SummaryCacheData: a summary that replaces the session's events up to `position`."""

    session_id: str
    summary: str
    turn_count: int
    position: str
    message_id: Annotated[
        str | None, Field(description="The last message that it covers; null: not known, or none.")
    ] = None
    created_at: str


class SummaryPage(Described):
    """A page of summaries."""

    summaries: list[Summary]
    next_cursor: str | None
    has_more: bool


class Resumed(Described):
    """The message that carries a conversation into a new context."""

    message: Message
