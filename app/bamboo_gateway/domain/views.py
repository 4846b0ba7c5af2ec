"""What clients see of a session and of a run, made of a head and of a run's own events.

Times are RFC 3339 strings in UTC with milliseconds; positions are `<epoch>-<seq>`. No view has a
URL: only the API knows their form.
"""

from collections.abc import Sequence
from typing import Any, Literal, TypedDict

from bamboo_gateway.domain.clock import format_ms
from bamboo_gateway.domain.events import RequestKind, Usage, UsageCounts
from bamboo_gateway.domain.positions import Position
from bamboo_gateway.domain.projections import RunEnd, status_of
from bamboo_gateway.domain.sessions import OpenRequest, SessionHead, SessionState, SessionType


class OpenRequestView(TypedDict):
    """A request for input that has no answer yet, as lists show it.

    Attributes:
        prompt: The begin of the question; the event has all of it, and the schema of the answer.
        run_id: The run that asked.
        tool_call_id: The call that it is about.
        expires_at: When it ends without an answer.
    """

    request_id: str
    kind: RequestKind
    prompt: str
    run_id: str
    tool_call_id: str | None
    asked_at: str
    expires_at: str | None


class SessionView(TypedDict):
    """The Session of the API, without its `stream_url`.

    Attributes:
        state: The state when the view was made, also considering open streams and runs.
        expires_at: When the session expires, considering open streams and runs; None: never.
        ttl_seconds: The time to live after the last activity; None: without end.
        preview: The beginning of the last message with text, for lists.
        parent: The `session_id`, `message_id` and `position` that the session was forked from.
        position: The end of the log.
        open_requests: The requests for input that wait for an answer, in order.
        stream_after: A stream that begins after this position shows everything that is not in the
            messages yet.
    """

    id: str
    title: str | None
    user_id: str | None
    session_type: SessionType
    state: SessionState
    working_dir: str | None
    created_at: str
    updated_at: str
    last_activity_at: str
    expires_at: str | None
    ttl_seconds: int | None
    message_count: int
    preview: str | None
    usage: UsageCounts
    metadata: dict[str, Any]
    extension_data: dict[str, Any]
    parent: dict[str, Any] | None
    position: str
    active_run_id: str | None
    open_requests: list[OpenRequestView]
    stream_after: str


class RunError(TypedDict):
    """Why a run failed; `message` is for people."""

    code: str
    message: str


class RunView(TypedDict):
    """The Run of the API, without its `stream_url`.

    Attributes:
        position: The position just before the run's first event.
        message_ids: The ids of the input messages.
        started_at: When the run began; None while it is queued.
        ended_at: When the run ended; None until then.
        usage: What the run cost, if its agent said so.
        finish_reason: Why a completed run ended: `stop`, `tool_calls` …
        error: Why a failed or interrupted run ended.
    """

    run_id: str
    session_id: str
    agent: str
    status: Literal["queued", "running"] | RunEnd
    position: str
    message_ids: list[str]
    created_at: str
    started_at: str | None
    ended_at: str | None
    usage: UsageCounts | None
    finish_reason: str | None
    error: RunError | None


def session_view(head: SessionHead, state: SessionState, expires_at: int | None) -> SessionView:
    """Return what clients see of a session.

    Args:
        head: The projection of the log.
        state: The state as computed now.
        expires_at: When the session expires, in ms, considering open streams and runs.
    """
    begin = head.active.before_seq if head.active else head.seq
    return {
        "id": head.id,
        "title": head.title,
        "user_id": head.user_id,
        "session_type": head.session_type,
        "state": state,
        "working_dir": head.working_dir,
        "created_at": format_ms(head.created_at),
        "updated_at": format_ms(head.updated_at),
        "last_activity_at": format_ms(head.last_activity_at),
        "expires_at": format_ms(expires_at) if expires_at is not None else None,
        "ttl_seconds": head.ttl_seconds,
        "message_count": head.message_count,
        "preview": head.preview,
        "usage": head.usage.to_json(),
        "metadata": head.metadata,
        "extension_data": head.extension_data,
        "parent": head.parent,
        "position": str(head.position),
        "active_run_id": head.active.run_id if head.active else None,
        "open_requests": [_request_view(one) for one in head.open_requests],
        "stream_after": str(Position(head.epoch, begin)),
    }


def _request_view(request: OpenRequest) -> OpenRequestView:
    expires_at = request.expires_at
    return {
        "request_id": request.request_id,
        "kind": request.kind,
        "prompt": request.prompt,
        "run_id": request.run_id,
        "tool_call_id": request.tool_call_id,
        "asked_at": format_ms(request.asked_at),
        "expires_at": format_ms(expires_at) if expires_at is not None else None,
    }


def _input_of(queued: dict[str, Any]) -> list[str]:
    """Return the ids of a queued run's input; without any, of the message that it answers again."""
    again = queued.get("branch_from", {}).get("message_id")
    return [message["id"] for message in queued["messages"]] or ([again] if again else [])


def run_view(session_id: str, epoch: int, events: Sequence[dict[str, Any]]) -> RunView:
    """Return what clients see of a run.

    Args:
        session_id: The session of the run.
        epoch: The epoch of the session's log.
        events: The `run_queued`, `run_start` and terminal events of the run, as far as they exist;
            the first one is there.
    """
    first = events[0]
    was_queued = first["type"] == "run_queued"
    run: RunView = {
        "run_id": first["run_id"],
        "session_id": session_id,
        "agent": first["agent"],
        "status": "queued",
        "position": str(Position(epoch, first["seq"] - 1)) if was_queued else first["position"],
        "message_ids": _input_of(first) if was_queued else [],
        "created_at": first["time"],
        "started_at": None,
        "ended_at": None,
        "usage": None,
        "finish_reason": None,
        "error": None,
    }
    for event in events:
        kind = event["type"]
        if kind == "run_start":
            run["status"] = "running"
            run["agent"] = event["agent"]
            run["message_ids"] = event["message_ids"]
            run["started_at"] = event["time"]
        elif kind != "run_queued":
            run["ended_at"] = event["time"]
            given = event.get("usage")
            # Events of earlier versions have fewer counts.
            run["usage"] = Usage.of(given).to_json() if given else None
            run["finish_reason"] = event.get("finish_reason")
            run["status"] = status_of(event)
            if kind == "error":
                run["error"] = {"code": event["code"], "message": event["message"]}
    return run
