"""Statistics and reports, computed on request from what the heads have counted."""

from collections import Counter

from bamboo_gateway.domain.callers import Caller
from bamboo_gateway.domain.clock import format_ms
from bamboo_gateway.domain.events import Usage
from bamboo_gateway.domain.sessions import SessionHead
from bamboo_gateway.domain.usage_parts import UsageParts
from bamboo_gateway.sessions.answers import Overview, Report, RunCounts, SessionInBrief, Statistics
from bamboo_gateway.sessions.context import Context
from bamboo_gateway.sessions.registry import SessionRegistry
from bamboo_gateway.storage.reports import SessionQuery

_MOST_ACTIVE = 10
"""How many of the most active sessions the overview lists."""


def session_statistics(head: SessionHead) -> Statistics:
    """Return one session's statistics. They are exact, also after a compaction."""
    counts = head.counts
    runs: RunCounts = {
        "queued": len(head.queue),
        "running": 1 if head.active else 0,
        "completed": counts.runs.get("completed", 0),
        "failed": counts.runs.get("failed", 0),
        "cancelled": counts.runs.get("cancelled", 0),
        "interrupted": counts.runs.get("interrupted", 0),
    }
    first, last = counts.first_message_at, counts.last_message_at
    by_agent, by_model = head.usage_parts.shown(head.usage)
    return {
        "session_id": head.id,
        "total_messages": head.message_count,
        "user_messages": counts.by_role.get("user", 0),
        "assistant_messages": counts.by_role.get("assistant", 0),
        "tool_messages": counts.by_role.get("tool", 0),
        "tool_calls": counts.tool_calls,
        "tool_errors": counts.tool_errors,
        "runs": runs,
        **head.usage.to_json(),
        "by_agent": by_agent,
        "by_model": by_model,
        "duration_seconds": (last - first) / 1000 if first and last else 0.0,
        "active_seconds": counts.active_ms / 1000,
        "first_message_at": format_ms(first) if first else None,
        "last_message_at": format_ms(last) if last else None,
    }


def session_report(context: Context, head: SessionHead) -> Report:
    """Return a SessionSummary for people: who, what, how long, how much."""
    return {
        "session_id": head.id,
        "title": head.title,
        "user_id": head.user_id,
        "session_type": head.session_type,
        "state": context.states.state_of(head),
        "working_dir": head.working_dir,
        "created_at": format_ms(head.created_at),
        "last_activity_at": format_ms(head.last_activity_at),
        "parent": head.parent,
        "merged_from": head.merged_from,
        "has_summary": head.summary is not None,
        "statistics": session_statistics(head),
    }


def report_markdown(report: Report) -> str:
    """Return a report as Markdown. Values are escaped, so that none becomes structure."""
    statistics = report["statistics"]
    by_model = statistics["by_model"]
    rows = [
        ("Session", report["session_id"]),
        ("State", report["state"]),
        ("Type", report["session_type"]),
        ("User", report["user_id"]),
        ("Created", report["created_at"]),
        ("Last activity", report["last_activity_at"]),
        ("Messages", statistics["total_messages"]),
        ("of the user", statistics["user_messages"]),
        ("of the assistant", statistics["assistant_messages"]),
        ("Tool calls", statistics["tool_calls"]),
        ("Tool errors", statistics["tool_errors"]),
        ("Runs completed", statistics["runs"]["completed"]),
        ("Runs failed", statistics["runs"]["failed"]),
        ("Tokens", statistics["total_tokens"]),
        ("from a cache", statistics["cached_tokens"] or None),
        ("of reasoning", statistics["reasoning_tokens"] or None),
        *((f"Tokens of {name}", part["total_tokens"]) for name, part in by_model.items()),
        ("Duration", f"{statistics['duration_seconds']:.0f} s"),
        ("Active", f"{statistics['active_seconds']:.1f} s"),
    ]
    title = _plain(report["title"] or report["session_id"])
    lines = [f"# {title}", "", "| | |", "|---|---|"]
    lines += [f"| {_plain(name)} | {_plain(value)} |" for name, value in rows if value is not None]
    return "\n".join(lines) + "\n"


def _plain(value: object) -> str:
    text = " ".join(str(value).split())
    for mark in "\\`*_[]<>|#&":
        text = text.replace(mark, "\\" + mark)
    return text


async def overall_statistics(
    context: Context, registry: SessionRegistry, caller: Caller
) -> Overview:
    """Add up all sessions of the caller. The cost grows with the sessions, not the messages."""
    by_type: Counter[str] = Counter()
    by_state: Counter[str] = Counter()
    by_day: Counter[str] = Counter()
    totals: Counter[str] = Counter()
    usage, parts = Usage(), UsageParts()
    oldest: SessionHead | None = None
    newest: SessionHead | None = None
    most: list[SessionHead] = []
    async for head in registry.each(caller, SessionQuery(archived="include")):
        by_type[head.session_type] += 1
        by_state[context.states.state_of(head)] += 1
        by_day[format_ms(head.created_at)[:10]] += 1
        totals["total_messages"] += head.message_count
        totals["tool_calls"] += head.counts.tool_calls
        totals["runs"] += sum(head.counts.runs.values())
        usage += head.usage
        parts += head.usage_parts
        if oldest is None or head.created_at < oldest.created_at:
            oldest = head
        if newest is None or head.created_at > newest.created_at:
            newest = head
        most = sorted([*most, head], key=lambda one: (-one.message_count, one.id))[:_MOST_ACTIVE]
    by_agent, by_model = parts.shown(usage)
    return {
        "sessions": sum(by_type.values()),
        "by_type": dict(by_type),
        "by_state": dict(by_state),
        "by_day": dict(sorted(by_day.items())),
        "total_messages": totals["total_messages"],
        "tool_calls": totals["tool_calls"],
        "runs": totals["runs"],
        **usage.to_json(),
        "by_agent": by_agent,
        "by_model": by_model,
        "oldest": _brief(oldest) if oldest is not None else None,
        "newest": _brief(newest) if newest is not None else None,
        "most_active": [_brief(head) for head in most],
    }


def _brief(head: SessionHead) -> SessionInBrief:
    return {
        "session_id": head.id,
        "title": head.title,
        "created_at": format_ms(head.created_at),
        "message_count": head.message_count,
    }
