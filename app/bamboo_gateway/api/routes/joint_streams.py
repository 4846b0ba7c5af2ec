"""Joint streams: one connection that follows several sessions."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Annotated, Final, Literal

from fastapi import APIRouter, Query, Request
from starlette.responses import Response

from bamboo_gateway.api.checks import checked_id
from bamboo_gateway.api.dependencies import Heartbeat, LastSeen, Manager, OwnConnectionId, Who
from bamboo_gateway.api.joint_cursor import CURSOR_CHARS_MAX, OtherList, read_cursor
from bamboo_gateway.api.joint_frames import JointFrames
from bamboo_gateway.api.limits import POSITION_CHARS_MAX
from bamboo_gateway.api.openapi.responses import EDGE, joint_stream, nothing, problems
from bamboo_gateway.api.routes.streams import remote_address, stream_response
from bamboo_gateway.api.security.rights import SessionRoute, takes_ticket
from bamboo_gateway.domain.errors import InvalidInput
from bamboo_gateway.domain.limits import JOINT_SESSIONS_MAX
from bamboo_gateway.domain.positions import NOWHERE, After, Position, parse_after
from bamboo_gateway.sessions.commands import StreamRequest

router = APIRouter(prefix="/api/v1", tags=["streams"], route_class=SessionRoute)

_PLACE: Final = ("query", "session_id")

Seen = Sequence[Position] | Literal["malformed"] | None
"""What a cursor says: the position of each session, nothing that can be served, or none given."""


@router.get(
    "/stream",
    summary="Follow several sessions",
    response_class=Response,
    responses={
        200: joint_stream("The events of all sessions, as they become durable."),
        **nothing(204, "None of the sessions can be read; EventSource stops on this."),
        **problems(
            *EDGE,
            "invalid-position",
            "storage-failed",
            "too-many-streams",
            "too-many-connections",
            "too-many-active-sessions",
        ),
    },
)
@takes_ticket
async def stream_sessions(
    request: Request,
    manager: Manager,
    who: Who,
    session_id: Annotated[
        list[str],
        Query(
            description=f"A session, or `<session>@<position>`: its events begin after that "
            f"position. 1 to {JOINT_SESSIONS_MAX} times.",
            openapi_examples={"sessions": {"value": ["s-1"]}},
        ),
    ],
    connection_id: OwnConnectionId,
    seen: LastSeen,
    after: Annotated[
        str | None,
        Query(description="The `id` of a frame of a stream with the same list of sessions."),
    ] = None,
    from_: Annotated[
        Literal["start"] | None,
        Query(alias="from", description="`start`: before the first event of each session."),
    ] = None,
    heartbeat: Heartbeat = None,
) -> Response:
    """Stream the events of up to 32 sessions over one connection (Server-Sent Events).

    `session_id` in each `data` says whose event it is. Events of one session come in order; no
    session waits for the burst of another one. The `id` of each frame stands for the positions in
    all sessions. A session that is unknown, deleted or not yours ends with its own `goodbye`, and
    the stream goes on for the others.
    """
    wanted = joint_requests(
        session_id,
        after,
        seen,
        StreamRequest(
            from_start=from_ is not None,
            connection_id=connection_id,
            heartbeat_events=heartbeat is not None,
            remote_address=remote_address(request),
        ),
    )
    frames = JointFrames([name for name, _ in wanted])
    comes_back = after is not None or bool(seen)
    stream = await manager.connect_joint(who, wanted, frames, comes_back=comes_back)
    return stream_response(request, stream)


def joint_requests(
    sessions: Sequence[str], after: str | None, last_event_id: str | None, rest: StreamRequest
) -> list[tuple[str, StreamRequest]]:
    """Return what is asked for each session of a joint stream.

    Args:
        sessions: The sessions, each perhaps with `@` and the position that it begins after.
        after: The cursor that the stream begins at.
        last_event_id: The last cursor that the client has seen.
        rest: What is asked for all of them.

    Raises:
        InvalidInput, InvalidId: A session or `after` is not valid.
    """
    named = _named(sessions)
    session_ids = [name for name, _ in named]
    begins = _read_after(after, session_ids)
    seen = _read_last_event_id(last_event_id, session_ids) if last_event_id else None
    wanted = []
    for place, (name, position) in enumerate(named):
        begin, last = position, _at(seen, place)
        if begins is not None and begins != "malformed":
            begin = begins[place]
        elif begins is not None or seen is not None:
            begin = None
            last = last or "malformed"
        wanted.append((name, replace(rest, after=begin, last_event_id=last)))
    return wanted


def _named(given: Sequence[str]) -> list[tuple[str, After | None]]:
    """Read the sessions, each with the position that the request names for it.

    Raises:
        InvalidInput, InvalidId: They are too many, one is given twice, or one is not valid.
    """
    if len(given) > JOINT_SESSIONS_MAX:
        raise _invalid(f"A stream follows at most {JOINT_SESSIONS_MAX} sessions.", "too many")
    named: dict[str, After | None] = {}
    for text in given:
        session_id, at, position = text.partition("@")
        checked_id(session_id, "session id", _PLACE)
        if session_id in named:
            raise _invalid(f"The session {session_id!r} is given more than once.", "given twice")
        named[session_id] = parse_after(position[: POSITION_CHARS_MAX + 1]) if at else None
    return list(named.items())


def _invalid(detail: str, msg: str) -> InvalidInput:
    return InvalidInput(detail, errors=[{"loc": list(_PLACE), "msg": msg}])


def _read_after(text: str | None, session_ids: Sequence[str]) -> Seen:
    if text is None:
        return None
    try:
        return read_cursor(text, session_ids)
    except OtherList:
        return "malformed"
    except ValueError:
        raise InvalidInput(
            "`after` must be the `id` of a frame of this stream.",
            code="invalid-position",
            errors=[{"loc": ["query", "after"], "msg": "not a cursor"}],
        ) from None


def _read_last_event_id(text: str, session_ids: Sequence[str]) -> Seen:
    try:
        return read_cursor(text[: CURSOR_CHARS_MAX + 1], session_ids)
    except ValueError:
        return "malformed"


def _at(seen: Seen, place: int) -> Position | Literal["malformed"] | None:
    if seen is None or seen == "malformed":
        return seen
    # A client that was told no position of a session has nothing that could be served.
    return seen[place] if seen[place] != NOWHERE else "malformed"
