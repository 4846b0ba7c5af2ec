"""Streams: following a session, reconnecting to it, and listing its connections."""

import re
from dataclasses import replace
from typing import Annotated, Literal

from fastapi import APIRouter, Depends, Query, Request
from starlette.responses import Response

from bamboo_gateway.api.checks import checked_id, read_after
from bamboo_gateway.api.dependencies import (
    PAGE,
    ConnectionId,
    Cursor,
    Heartbeat,
    LastSeen,
    Limit,
    Manager,
    OwnConnectionId,
    SessionId,
    Who,
)
from bamboo_gateway.api.frames import NATIVE
from bamboo_gateway.api.limits import POSITION_CHARS_MAX
from bamboo_gateway.api.openapi.examples import conversation
from bamboo_gateway.api.openapi.responses import EDGE, SESSION, answer, nothing, problems, stream
from bamboo_gateway.api.responses import json_response
from bamboo_gateway.api.schemas.streams import ConnectionPage
from bamboo_gateway.api.security.rights import SessionRoute, takes_ticket
from bamboo_gateway.api.sse import OpenStream, StreamResponse
from bamboo_gateway.domain.clock import Clock
from bamboo_gateway.domain.errors import InvalidCursor
from bamboo_gateway.domain.positions import Position, parse_position
from bamboo_gateway.sessions.answers import Connection
from bamboo_gateway.sessions.commands import StreamRequest

router = APIRouter(prefix="/api/v1", tags=["streams"], route_class=SessionRoute)

_CURSOR = re.compile(r"([0-9TZ:.-]{24})_([A-Za-z0-9._-]{1,128})")
"""The list's order: when the last connection of a page began, and its id."""


def remote_address(request: Request) -> str | None:
    """Return `host:port` of the client."""
    client = request.client
    if client is None:
        return None
    host = f"[{client.host}]" if ":" in client.host else client.host
    return f"{host}:{client.port}"


def _wanted(
    request: Request,
    connection_id: OwnConnectionId,
    seen: LastSeen,
    after: Annotated[
        str | None,
        Query(description="A position: the stream begins after it. A bare seq works too."),
    ] = None,
    from_: Annotated[
        Literal["start"] | None,
        Query(alias="from", description="`start`: before the first event."),
    ] = None,
    until: Annotated[
        Literal["complete"] | None,
        Query(description="`complete`: the stream ends right after the terminal event of the run."),
    ] = None,
    run_id: Annotated[
        str | None,
        Query(description="The run that `until` means; absent: the active run, else the next."),
    ] = None,
    heartbeat: Heartbeat = None,
) -> StreamRequest:
    """Return what a request to either stream route asks for."""
    if run_id is not None:
        checked_id(run_id, "run id", ("query", "run_id"))
    return StreamRequest(
        after=read_after(after),
        from_start=from_ is not None,
        last_event_id=_last_event_id(seen) if seen else None,
        until_complete=until is not None,
        run_id=run_id,
        connection_id=connection_id,
        heartbeat_events=heartbeat is not None,
        remote_address=remote_address(request),
    )


def _last_event_id(text: str) -> Position | Literal["malformed"]:
    """Read the last position that a client has seen."""
    return parse_position(text[:POSITION_CHARS_MAX]) or "malformed"


_Wanted = Annotated[StreamRequest, Depends(_wanted)]

RESPONSES = {
    200: stream("The events, as they become durable, until the stream's end."),
    **nothing(204, "There is nothing to wait for; EventSource stops on this."),
    **problems(
        *EDGE,
        *SESSION,
        "invalid-position",
        "too-many-streams",
        "too-many-connections",
        "too-many-active-sessions",
    ),
}


@router.get(
    "/stream/{session_id}",
    summary="Follow a session",
    response_class=Response,
    responses=RESPONSES,
)
@takes_ticket
async def stream_session(
    request: Request, manager: Manager, who: Who, session_id: SessionId, wanted: _Wanted
) -> Response:
    """Stream the session's events as they become durable (Server-Sent Events).

    The stream begins at the latest of `after`, `from` and `Last-Event-ID`; without any, just before
    the first event of the active run, or now. Whatever ends it, a client that reconnects with its
    last id gets every later event, once, in order. Opening a stream never starts a run.
    """
    return stream_response(request, await manager.connect(who, session_id, wanted, NATIVE))


@router.get(
    "/reconnect/{session_id}",
    summary="Reconnect to a stream",
    response_class=Response,
    responses=RESPONSES,
)
@takes_ticket
async def reconnect_session(
    request: Request, manager: Manager, who: Who, session_id: SessionId, wanted: _Wanted
) -> Response:
    """Stream the session's events to a client that has lost its stream.

    With the old `connection_id` and no position, the stream begins at the start of the run that was
    active when the old connection was last written to, so that nothing can be missing. An unknown
    connection id names a new connection.
    """
    wanted = replace(wanted, reconnect=True)
    return stream_response(request, await manager.connect(who, session_id, wanted, NATIVE))


@router.get(
    "/sessions/{session_id}/connections",
    summary="List the open streams of a session",
    responses={
        **answer(
            200,
            ConnectionPage,
            "The open streams.",
            {"connections": [conversation.CONNECTION], "next_cursor": None, "has_more": False},
        ),
        **problems(*EDGE, *SESSION, "invalid-cursor"),
    },
)
async def list_connections(
    manager: Manager,
    who: Who,
    session_id: SessionId,
    limit: Limit = PAGE,
    cursor: Cursor = None,
) -> Response:
    """List the open streams of the session, the oldest first."""
    connections = sorted(await manager.connections(who, session_id), key=_place_of)
    if cursor is not None:
        begin = _read_cursor(cursor)
        connections = [each for each in connections if _place_of(each) > begin]
    shown = connections[:limit]
    has_more = len(connections) > limit
    next_cursor = "_".join(_place_of(shown[-1])) if has_more else None
    return json_response({"connections": shown, "next_cursor": next_cursor, "has_more": has_more})


def _place_of(connection: Connection) -> tuple[str, str]:
    return connection["since"], connection["connection_id"]


def _read_cursor(cursor: str) -> tuple[str, str]:
    match = _CURSOR.fullmatch(cursor)
    if match is None:
        raise InvalidCursor
    return match[1], match[2]


@router.delete(
    "/sessions/{session_id}/connections/{connection_id}",
    status_code=204,
    summary="Disconnect one stream",
    responses={
        **nothing(204, "The stream is disconnected."),
        **problems(*EDGE, *SESSION, "connection-not-found"),
    },
)
async def disconnect(
    manager: Manager, who: Who, session_id: SessionId, connection_id: ConnectionId
) -> Response:
    """End one stream. Other streams and runs go on."""
    await manager.disconnect(who, session_id, connection_id)
    return Response(status_code=204)


def stream_response(
    request: Request, connection: OpenStream | None, headers: dict[str, str] | None = None
) -> Response:
    """Answer with a connection's stream, or 204 when there is nothing to wait for."""
    if connection is None:
        return Response(status_code=204, headers=headers)
    clock: Clock = request.app.state.clock
    return StreamResponse(connection, clock, headers)
