"""Statistics: of one session, and over all."""

from typing import Any

from bamboo_gateway.api.schemas.fields import Described
from bamboo_gateway.api.schemas.messages import Usage


class RunCounts(Described):
    """Runs by status."""

    queued: int
    running: int
    completed: int
    failed: int
    cancelled: int
    interrupted: int


class Statistics(Described):
    """The counts of a session. They are exact, also when deltas have left the log."""

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
    cached_tokens: int
    reasoning_tokens: int
    total_tokens: int
    by_agent: dict[str, Usage]
    by_model: dict[str, Usage]
    duration_seconds: float
    active_seconds: float
    first_message_at: str | None
    last_message_at: str | None


class Report(Described):
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


class SessionInBrief(Described):
    """A session as the overview names it."""

    session_id: str
    title: str | None
    created_at: str
    message_count: int


class Overview(Described):
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
    cached_tokens: int
    reasoning_tokens: int
    total_tokens: int
    by_agent: dict[str, Usage]
    by_model: dict[str, Usage]
    oldest: SessionInBrief | None
    newest: SessionInBrief | None
    most_active: list[SessionInBrief]
