"""The route of Durable Streams: HEAD, and GET as catch-up, `live=long-poll` and `live=sse`."""

from collections.abc import Mapping
from typing import Annotated, Any, Final
from urllib.parse import parse_qsl

from fastapi import APIRouter, Header, Query, Request
from starlette.responses import Response
from typing_extensions import override

from bamboo_gateway.api.dependencies import Manager, SessionId, Who
from bamboo_gateway.api.limits import PAGE_MAX
from bamboo_gateway.api.long_requests import unless_disconnected
from bamboo_gateway.api.middleware import IS_HEAD
from bamboo_gateway.api.openapi.examples import conversation
from bamboo_gateway.api.openapi.responses import EDGE, SESSION, TEXT, nothing, problems
from bamboo_gateway.api.problem_responses import error_response
from bamboo_gateway.api.problems import EdgeError
from bamboo_gateway.api.responses import bytes_response, etag_matches
from bamboo_gateway.api.routes.streams import remote_address, stream_response
from bamboo_gateway.api.security.rights import ReadRoute, takes_ticket
from bamboo_gateway.domain.callers import Caller
from bamboo_gateway.domain.codec import encode
from bamboo_gateway.domain.errors import InvalidInput, PositionGone
from bamboo_gateway.domain.positions import Position
from bamboo_gateway.sessions.commands import EventPage, StreamRequest
from bamboo_gateway.sessions.manager import SessionManager
from bamboo_gateway.sessions.streaming.rendering import CaughtUp
from bamboo_gateway.wires.base import WireRoute
from bamboo_gateway.wires.durable_streams.frames import FRAMES, DurableStreamFrames, ReturningFrames
from bamboo_gateway.wires.durable_streams.offsets import (
    NOW,
    START,
    cursor_at,
    offset_of,
    parse_cursor,
    parse_offset,
)

LONG_POLL_SECONDS: Final = 20.0
"""How long `live=long-poll` waits. The official Python client gives up after 30 seconds without a
byte, and proxies after 30 to 60."""

_NEXT_OFFSET: Final = "Stream-Next-Offset"
_UP_TO_DATE: Final = "Stream-Up-To-Date"
_CURSOR: Final = "Stream-Cursor"


class DurableStreamsRoute(WireRoute, ReadRoute):
    """A route of the protocol: a wrong request is 400, and unknown query parameters say nothing."""

    @override
    def query_of(self, raw: bytes, known: Mapping[str, bool]) -> dict[str, list[str]]:
        query: dict[str, list[str]] = {}
        for name, value in parse_qsl(raw.decode("latin-1"), keep_blank_values=True):
            if name in query:
                raise EdgeError("malformed", f"The query parameter `{name}` is given twice.")
            if name in known:
                query[name] = [value]
        return query

    @override
    def refusal(self, error: Exception, request: Request) -> Response | None:
        if isinstance(error, InvalidInput):
            error = EdgeError("malformed", error.detail)
        return error_response(error, request)

    @override
    def completed(self, response: Response) -> Response:
        # What a browser may do with an answer that somebody opens as a page (PROTOCOL.md, 10.7).
        response.headers["X-Content-Type-Options"] = "nosniff"
        response.headers["Cross-Origin-Resource-Policy"] = "same-origin"
        return response


router = APIRouter(prefix="/api/v1", tags=["wires"], route_class=DurableStreamsRoute)

_OFFSET_EXAMPLE: Final = "0001763661234567_0000000000000006"
_SSE_EXAMPLE: Final = (
    FRAMES.event(1763661234567, 6, encode(conversation.TOKEN_EVENT))
    + FRAMES.control(CaughtUp(Position(1763661234567, 6)))
).decode()
_HEADERS: Final[dict[str, Any]] = {
    _NEXT_OFFSET: {"description": "The offset behind what the answer has.", **TEXT},
    _UP_TO_DATE: {"description": "`true` when there is nothing behind it.", **TEXT},
    _CURSOR: {"description": "To be sent back as `cursor`; of live answers.", **TEXT},
    "ETag": {"description": "Names this part of the stream; only of catch-up reads.", **TEXT},
}


@router.get(
    "/ds/{session_id}",
    summary="Read a session as a Durable Stream",
    response_class=Response,
    responses={
        200: {
            "description": "Events of the log, as JSON messages of the protocol.",
            "headers": _HEADERS,
            "content": {
                "application/json": {
                    "schema": {"type": "array", "items": {"$ref": "#/components/schemas/Event"}},
                    "examples": {"events": {"value": [conversation.TOKEN_EVENT]}},
                },
                "text/event-stream": {
                    "schema": {"type": "string", "contentMediaType": "text/event-stream"},
                    "example": _SSE_EXAMPLE,
                },
            },
        },
        **nothing(204, "A long poll has waited in vain; its headers are those of 200."),
        **nothing(304, "`If-None-Match` names what the answer would have."),
        **problems(
            *EDGE,
            *SESSION,
            "malformed",
            "position-gone",
            "too-many-streams",
            "too-many-connections",
            "too-many-active-sessions",
        ),
    },
)
@takes_ticket
async def read_durable_stream(
    request: Request,
    manager: Manager,
    who: Who,
    session_id: SessionId,
    offset: Annotated[
        str | None,
        Query(
            description="Begin behind this offset, which an answer has named; `-1`, or absent: "
            "before the first event; `now`: behind the last one. Required with `live`.",
            json_schema_extra={"pattern": "^(-1|now|[0-9]{16}_[0-9]{16})$"},
            openapi_examples={"start": {"value": "-1"}, "offset": {"value": _OFFSET_EXAMPLE}},
        ),
    ] = None,
    live: Annotated[
        str | None,
        Query(
            description="`long-poll`: wait 20 seconds for the first event; `sse`: Server-Sent "
            "Events. Absent: what there is, up to 1000 events.",
            json_schema_extra={"enum": ["long-poll", "sse"]},
        ),
    ] = None,
    cursor: Annotated[
        str | None, Query(description="The `Stream-Cursor` of the answer before.")
    ] = None,
    if_none_match: Annotated[
        str | None, Header(description="The `ETag` of a catch-up read: 304 when nothing is new.")
    ] = None,
) -> Response:
    """Read the log in the protocol Durable Streams, for its clients.

    The stream is the session's log, one JSON message per event. It is read only and never closed.
    Offsets are positions in another spelling, so they stay valid as long: across restarts,
    compaction, archive and restore. An offset of another life of the session is 410.
    """
    if IS_HEAD in request.scope:
        return _page(b"", await manager.log_end(who, session_id), is_up_to_date=None)
    after = _position(offset)
    if live not in {None, "long-poll", "sse"}:
        raise EdgeError("malformed", "`live` is `long-poll` or `sse`.")
    if live is not None and offset is None:
        raise EdgeError("malformed", f"`live={live}` needs an `offset`; `-1` is the begin.")
    if offset == NOW:
        after = await manager.log_end(who, session_id)
        if live is None:
            return _page(b"[]", after, is_up_to_date=True)
    if live == "sse":
        seen = parse_cursor(cursor)
        frames = FRAMES if seen is None else ReturningFrames(seen)
        return await _live_stream(request, manager, who, session_id, after, frames)
    if live == "long-poll":
        page = await _wait(request, manager, who, session_id, after)
        return _polled(page, parse_cursor(cursor))
    page = await manager.events(who, session_id, after=after, limit=PAGE_MAX)
    # Weak: compaction may remove deltas in between, which says the same.
    etag = f'"{offset or START}:{offset_of(page.next)}"'
    named, is_up_to_date = {"ETag": f"W/{etag}"}, not page.has_more
    if if_none_match is not None and etag_matches(if_none_match, etag):
        return _page(None, page.next, named, is_up_to_date=is_up_to_date, status=304)
    return _page(_messages(page), page.next, named, is_up_to_date=is_up_to_date)


def _position(offset: str | None) -> Position | None:
    """Return the position of an offset; None for the begin, and for `now`.

    Raises:
        EdgeError: It is malformed.
    """
    if offset is None or offset in {START, NOW}:
        return None
    position = parse_offset(offset)
    if position is None:
        raise EdgeError(
            "malformed",
            f"`offset` must be `{START}`, `{NOW}` or what an answer had as `{_NEXT_OFFSET}`.",
        )
    return position


async def _wait(
    request: Request,
    manager: SessionManager,
    who: Caller,
    session_id: str,
    after: Position | None,
) -> EventPage:
    """Return the events behind a position; wait for the first one when there is none."""
    reading = manager.events(
        who, session_id, after=after, limit=PAGE_MAX, wait_seconds=LONG_POLL_SECONDS
    )
    return await unless_disconnected(request, reading)


def _polled(page: EventPage, seen: int | None) -> Response:
    cursor = {_CURSOR: str(cursor_at(page.next, seen))}
    if not page.events:
        return _page(None, page.next, cursor, is_up_to_date=True, status=204)
    return _page(_messages(page), page.next, cursor, is_up_to_date=not page.has_more)


async def _live_stream(
    request: Request,
    manager: SessionManager,
    who: Caller,
    session_id: str,
    after: Position | None,
    frames: DurableStreamFrames,
) -> Response:
    """Answer with Server-Sent Events.

    A closed or archived session has no stream at its end, and the protocol no word for that: the
    session may be reopened. The answer then waits as a long poll does, so that a client which comes
    back at once does so every 20 seconds.

    Raises:
        PositionGone: The log does not have the position.
    """
    wanted = StreamRequest(
        after=after, from_start=after is None, remote_address=remote_address(request)
    )
    connection = await manager.connect(who, session_id, wanted, frames)
    if connection is None and after is not None:
        await _wait(request, manager, who, session_id, after)
        connection = await manager.connect(who, session_id, wanted, frames)
    if connection is None:
        end = after or await manager.log_end(who, session_id)
        return _event_stream(Response(frames.control(CaughtUp(end))))
    if connection.start.reset is not None:
        connection.aclose()
        raise PositionGone(
            "The log does not have this offset: the session is another one now. Read it from its "
            f"begin, `offset={START}`."
        )
    return _event_stream(stream_response(request, connection))


def _event_stream(response: Response) -> Response:
    response.headers["Content-Type"] = "text/event-stream"
    response.headers["Cache-Control"] = "no-store, no-cache, no-transform"
    return response


def _messages(page: EventPage) -> bytes:
    return b"[%b]" % b",".join(page.events)


def _page(
    body: bytes | None,
    end: Position,
    further: Mapping[str, str] | None = None,
    *,
    is_up_to_date: bool | None,
    status: int = 200,
) -> Response:
    """Return an answer that ends at a position; without a body 204 or 304."""
    headers = {_NEXT_OFFSET: offset_of(end), **(further or {})}
    if is_up_to_date:
        headers[_UP_TO_DATE] = "true"
    if body is None:
        return Response(status_code=status, headers={"Cache-Control": "no-store", **headers})
    return bytes_response(body, status, headers)
