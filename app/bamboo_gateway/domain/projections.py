"""Folds over a session's log.

Only `fold` knows how an event changes a session's head. The session writer, the store's recovery
and `doctor` all use it, so they cannot disagree.
"""

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any, Literal

from bamboo_gateway.domain.branch_folds import (
    forget_branches,
    note_message,
    note_summary,
    select_branch,
    start_branch,
)
from bamboo_gateway.domain.clock import parse_ms
from bamboo_gateway.domain.events import (
    CODE_INTERRUPTED,
    DELTA_TYPES,
    REASON_INPUT,
    TERMINAL_TYPES,
    Usage,
)
from bamboo_gateway.domain.files import with_files
from bamboo_gateway.domain.limits import ENDED_SHARES_MAX
from bamboo_gateway.domain.positions import parse_position
from bamboo_gateway.domain.sessions import (
    ActiveRun,
    OpenRequest,
    QueuedRun,
    SessionHead,
    SettledRequest,
    Share,
    SummaryRef,
)
from bamboo_gateway.domain.short_text import preview_of
from bamboo_gateway.domain.tool_order import OPEN_CALLS_MAX, open_after
from bamboo_gateway.domain.usage_parts import UsageParts

SYSTEM_SEQS_MAX = 64
"""The most system messages that a head names. Agents that read only the end of a conversation get
these as well; of a session with more they read everything."""

_PROMPT_CHARS_MAX = 200
"""How much of a prompt a head keeps: lists show it, and each commit copies the head."""

RunEnd = Literal["completed", "failed", "cancelled", "interrupted"]

PATCHABLE = ("title", "working_dir", "metadata", "ttl_seconds", "session_type", "extension_data")


def fold(head: SessionHead, event: dict[str, Any], time_ms: int | None = None) -> None:
    """Apply one event of the log to `head`, in place.

    Args:
        head: The projection so far.
        event: The next event of the log, decoded.
        time_ms: The time of the event, if the caller knows it already.
    """
    kind = event["type"]
    head.seq = event["seq"]
    now = parse_ms(event["time"]) if time_ms is None else time_ms
    # The clock may step back, but the last activity never becomes older.
    head.last_activity_at = max(head.last_activity_at, now)
    if kind in DELTA_TYPES:
        return
    if kind != "state_change" or "archived" not in (event["from"], event["to"]):
        # A restored session has the dates that it had before it was archived.
        head.updated_at = max(head.updated_at, now)
    step = _STEPS.get(kind)
    if step is not None:
        step(head, event, now)


def _on_message(head: SessionHead, event: dict[str, Any], now: int) -> None:
    message = event["message"]
    note_message(head, message["id"])
    head.message_count += 1
    head.files = with_files(head.files, message.get("content"))
    head.preview = preview_of(message) or head.preview
    head.open_calls = open_after(head.open_calls, message)[:OPEN_CALLS_MAX]
    if message["role"] == "system" and len(head.system_seqs) < SYSTEM_SEQS_MAX:
        head.system_seqs = [*head.system_seqs, head.seq]
    counts = head.counts
    said_at = parse_ms(message["created_at"]) if message.get("created_at") else now
    head.counts = replace(
        counts,
        by_role=_plus_one(counts.by_role, message["role"]),
        tool_calls=counts.tool_calls + len(message.get("tool_calls") or ()),
        first_message_at=min(counts.first_message_at or said_at, said_at),
        last_message_at=max(counts.last_message_at or said_at, said_at),
    )


def _on_tool_error(head: SessionHead, event: dict[str, Any], now: int) -> None:
    del event, now
    head.counts = replace(head.counts, tool_errors=head.counts.tool_errors + 1)


def _on_run_start(head: SessionHead, event: dict[str, Any], now: int) -> None:
    run_id = event["run_id"]
    head.queue = [queued for queued in head.queue if queued.run_id != run_id]
    # The input messages are directly before it, in the same commit.
    before = head.seq - len(event["message_ids"]) - 1
    head.active = ActiveRun(run_id, event["agent"], head.seq, before, now, event.get("model"))
    # It has got the answers.
    head.settled_requests = []


def _on_run_queued(head: SessionHead, event: dict[str, Any], now: int) -> None:
    del now
    for message in event["messages"]:
        head.files = with_files(head.files, message.get("content"))
    queued = QueuedRun(event["run_id"], head.seq)
    head.queue = [queued, *head.queue] if event.get("front") else [*head.queue, queued]


def _on_terminal(head: SessionHead, event: dict[str, Any], now: int) -> None:
    run_id = event.get("run_id")
    active = head.active
    counts = replace(head.counts, runs=_plus_one(head.counts.runs, status_of(event)))
    if head.active and head.active.run_id == run_id:
        reason = event.get("finish_reason")
        if reason == REASON_INPUT:
            asked = {one.tool_call_id for one in head.open_requests}
            head.open_calls = [call_id for call_id in head.open_calls if call_id in asked]
        else:
            # What it asked gets no answer any more, also when the events that say so are lost.
            head.open_requests = []
            head.settled_requests = []
            if reason != "tool_calls":
                # The calls that it left open get no result any more; see `MessageAssembler.end`.
                head.open_calls = []
        counts = replace(counts, active_ms=counts.active_ms + max(0, now - head.active.started_at))
        head.active = None
    else:
        head.queue = [queued for queued in head.queue if queued.run_id != run_id]
    head.counts = counts
    if event.get("usage"):
        usage = Usage.of(event["usage"])
        agent = active.agent if active and active.run_id == run_id else None
        model = event.get("model") or (active.model if active and agent else None)
        head.usage += usage
        head.usage_parts = head.usage_parts.plus(usage, agent, model)


def _on_input_required(head: SessionHead, event: dict[str, Any], now: int) -> None:
    if head.active is None:
        return  # no gateway writes it outside of a run
    expires_at = event.get("expires_at")
    request = OpenRequest(
        event["request_id"],
        event["kind"],
        event["run_id"],
        head.active.agent,
        head.seq,
        now,
        event["prompt"][:_PROMPT_CHARS_MAX],
        event.get("tool_call_id"),
        parse_ms(expires_at) if expires_at else None,
    )
    head.open_requests = [*head.open_requests, request]


def _on_input_settled(head: SessionHead, event: dict[str, Any], now: int) -> None:
    del now
    name = event["request_id"]
    settled = [one for one in head.open_requests if one.request_id == name]
    head.open_requests = [one for one in head.open_requests if one.request_id != name]
    if event.get("reason") in ("superseded", "cancelled"):
        # The whole round has ended: no run gets the answers that were given in it.
        head.settled_requests = []
        return
    head.settled_requests = [
        *head.settled_requests,
        *(SettledRequest(name, one.seq, head.seq, one.tool_call_id) for one in settled),
    ]


def _on_created(head: SessionHead, event: dict[str, Any], now: int) -> None:
    head.created_at = parse_ms(event["created_at"]) if event.get("created_at") else now
    head.user_id = event.get("user_id")
    head.parent = event.get("parent")
    head.ancestors = event.get("ancestors", [])
    head.merged_from = event.get("merged_from", [])
    head.usage = Usage.of(event.get("usage_total"))
    head.usage_parts = UsageParts.of(event.get("usage_parts"))
    _on_patch(head, event, now)
    head.title_given = event.get("title") is not None


def _on_patch(head: SessionHead, event: dict[str, Any], now: int) -> None:
    del now
    for name in PATCHABLE:
        if name in event:
            setattr(head, name, event[name])
    if "title" in event:
        head.title_given = True


def _on_run_hidden(head: SessionHead, event: dict[str, Any], now: int) -> None:
    del now
    head.hidden_runs = [*head.hidden_runs, event["run_id"]]


def _on_merged(head: SessionHead, event: dict[str, Any], now: int) -> None:
    _on_patch(head, event, now)
    source = event["source"]
    # A source that is merged several times is listed once, as of the last time.
    others = [one for one in head.merged_from if one["session_id"] != source["session_id"]]
    head.merged_from = [*others, source]
    if event.get("replaces"):
        # The event comes first in its commit; the messages that count from now on follow it.
        # Earlier versions wrote such merges; today they begin a branch.
        head.history_from = head.seq
        forget_branches(head)
        head.message_count = 0
        head.preview = None
        head.open_calls = []
        head.open_requests = []
        head.settled_requests = []
        head.system_seqs = []
        head.summary = None
        head.counts = replace(
            head.counts, by_role={}, tool_calls=0, first_message_at=None, last_message_at=None
        )
    if "usage_total" in event:
        head.usage = Usage.of(event["usage_total"])
        head.usage_parts = UsageParts.of(event.get("usage_parts"))


def _on_summary(head: SessionHead, event: dict[str, Any], now: int) -> None:
    del now
    if event["summary"] is None:
        note_summary(head, None)
        return
    covered = parse_position(event["position"])
    assert covered is not None  # the gateway wrote it
    message_seq = event.get("message_seq")
    note_summary(head, SummaryRef(head.seq, covered.seq, event["turn_count"], message_seq))


def _on_state_change(head: SessionHead, event: dict[str, Any], now: int) -> None:
    to = event["to"]
    head.logged_state = to if to in ("closed", "expired", "archived") else None
    head.archived_at = now if to == "archived" else None


def _on_shared(head: SessionHead, event: dict[str, Any], now: int) -> None:
    given = event["share"]
    expires_at = given.get("expires_at")
    share = Share(
        given["id"],
        given.get("user_id"),
        parse_ms(given["created_at"]),
        parse_ms(expires_at) if expires_at else None,
        given.get("token_sha256"),
        given.get("scope", "read"),
    )
    # A share for a user replaces that user's earlier one. One that has ended is kept by the user's
    # name: an erasure of the user has to find this log.
    others = [
        one
        for one in head.shares
        if (one.holds_at(now) if one.user_id is None else one.user_id != share.user_id)
    ]
    ended = [one for one in others if not one.holds_at(now)]
    for oldest in ended[: max(0, len(ended) - ENDED_SHARES_MAX)]:
        others.remove(oldest)
    head.shares = [*others, share]


def _on_share_revoked(head: SessionHead, event: dict[str, Any], now: int) -> None:
    # A share with a user only ends, and stays as in `_on_shared`. The erasure of the user revokes
    # it again, which removes it.
    shares: list[Share] = []
    for share in head.shares:
        if share.id != event["share_id"]:
            shares.append(share)
        elif share.user_id is not None and share.holds_at(now):
            shares.append(replace(share, expires_at=now))
    head.shares = shares


_STEPS: dict[str, Callable[[SessionHead, dict[str, Any], int], None]] = {
    "message": _on_message,
    "tool_error": _on_tool_error,
    "run_start": _on_run_start,
    "run_queued": _on_run_queued,
    **dict.fromkeys(TERMINAL_TYPES, _on_terminal),
    "input_required": _on_input_required,
    "input_given": _on_input_settled,
    "input_closed": _on_input_settled,
    "session_created": _on_created,
    "session_updated": _on_patch,
    "extensions_updated": _on_patch,
    "session_merged": _on_merged,
    "summary_saved": _on_summary,
    "branch_started": start_branch,
    "branch_selected": select_branch,
    "run_hidden": _on_run_hidden,
    "state_change": _on_state_change,
    "session_shared": _on_shared,
    "share_revoked": _on_share_revoked,
}


def _plus_one(counts: dict[str, int], name: str) -> dict[str, int]:
    return counts | {name: counts.get(name, 0) + 1}


def status_of(terminal: Mapping[str, Any]) -> RunEnd:
    """Return the status of a run that ended with this event."""
    if terminal["type"] == "complete":
        return "completed"
    if terminal["type"] == "cancelled":
        return "cancelled"
    return "interrupted" if terminal["code"] == CODE_INTERRUPTED else "failed"
