"""Changes: which sessions of a caller have changed."""

from typing import Annotated, Any

from fastapi import APIRouter, Query, Request
from starlette.responses import Response

from bamboo_gateway.api.accept import prefers
from bamboo_gateway.api.change_frames import (
    RESET,
    ChangeFrames,
    read_change_cursor,
    write_change_cursor,
)
from bamboo_gateway.api.checks import checked_id
from bamboo_gateway.api.dependencies import PAGE, Heartbeat, LastSeen, Limit, Manager, Who
from bamboo_gateway.api.limits import EVENT_WAIT_SECONDS_MAX, USER_ID_CHARS_MAX
from bamboo_gateway.api.long_requests import unless_disconnected
from bamboo_gateway.api.openapi.examples import conversation
from bamboo_gateway.api.openapi.responses import EDGE, answer, change_stream, problems
from bamboo_gateway.api.responses import json_response
from bamboo_gateway.api.routes.streams import stream_response
from bamboo_gateway.api.schemas.changes import ChangePage
from bamboo_gateway.api.security.rights import SessionRoute
from bamboo_gateway.domain.errors import InvalidInput
from bamboo_gateway.domain.sessions import SessionType
from bamboo_gateway.sessions.changes.page import ChangeCursor, ChangeFilter
from bamboo_gateway.sessions.changes.stream import ChangesRequest

router = APIRouter(prefix="/api/v1", tags=["streams"], route_class=SessionRoute)

_EVENT_STREAM = "text/event-stream"


def _responses() -> dict[int | str, dict[str, Any]]:
    responses = {
        **answer(200, ChangePage, "The changes after the cursor.", conversation.CHANGES),
        **problems(
            *EDGE,
            "invalid-id",
            "invalid-cursor",
            "storage-failed",
            "too-many-streams",
            "too-many-connections",
        ),
    }
    responses[200]["content"] |= change_stream("")["content"]
    return responses


@router.get("/changes", summary="Follow which sessions change", responses=_responses())
async def list_changes(
    request: Request,
    manager: Manager,
    who: Who,
    seen: LastSeen,
    after: Annotated[
        str | None,
        Query(description="The `next` of the answer before, or the `id` of a frame; absent: now."),
    ] = None,
    wait: Annotated[
        float,
        Query(
            ge=0,
            le=EVENT_WAIT_SECONDS_MAX,
            allow_inf_nan=False,
            description="Seconds to wait for a first change (long poll).",
        ),
    ] = 0.0,
    limit: Limit = PAGE,
    user_id: Annotated[str | None, Query(max_length=USER_ID_CHARS_MAX)] = None,
    session_type: SessionType | None = None,
    parent_id: str | None = None,
    heartbeat: Heartbeat = None,
) -> Response:
    """Tell which of the caller's sessions have changed after a cursor, each as it is now.

    A change is anything that is committed but a delta, the end of a session's time to live, and a
    share that is given or ends. Several changes of one session are told as one. With
    `Accept: text/event-stream` the answer is a stream that goes on. When the cursor cannot be
    served, the only change is a `reset`: list the sessions again, and go on from `next`.
    """
    if parent_id is not None:
        checked_id(parent_id, "session id", ("query", "parent_id"))
    wanted = ChangeFilter(user_id, session_type, parent_id)
    cursor = _read_after(after)
    if prefers(request, _EVENT_STREAM):
        is_malformed = False
        if seen:
            try:
                cursor = read_change_cursor(seen)
            except ValueError:
                is_malformed = True
        wished = ChangesRequest(wanted, cursor, is_malformed, heartbeat is not None)
        return stream_response(request, await manager.follow_changes(who, wished, ChangeFrames()))
    reading = manager.changes(who, wanted, cursor, limit, wait)
    page = await (unless_disconnected(request, reading) if wait else reading)
    changes = [RESET] if page.is_reset else [entry.view for entry in page.entries]
    shown = {
        "changes": changes,
        "next": write_change_cursor(page.next),
        "has_more": page.has_more,
    }
    return json_response(shown)


def _read_after(after: str | None) -> ChangeCursor | None:
    if after is None:
        return None
    try:
        return read_change_cursor(after)
    except ValueError:
        raise InvalidInput(
            "`after` must be the `next` of an earlier answer of this route.",
            code="invalid-cursor",
            errors=[{"loc": ["query", "after"], "msg": "not a cursor of this route"}],
        ) from None
