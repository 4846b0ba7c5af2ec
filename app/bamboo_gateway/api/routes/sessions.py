"""Sessions: making, finding, changing, closing and deleting them."""

from dataclasses import replace
from typing import Annotated

from fastapi import APIRouter, Body, Header, Query, Request
from starlette.responses import Response

from bamboo_gateway.api.dependencies import Manager, SessionId, Who
from bamboo_gateway.api.openapi.examples import conversation as examples
from bamboo_gateway.api.openapi.responses import (
    BODY,
    EDGE,
    KEYED,
    NEW,
    SESSION,
    STORED,
    WRITE,
    answer,
    nothing,
    problems,
)
from bamboo_gateway.api.request_headers import Key, SentJson, idempotency
from bamboo_gateway.api.responses import (
    etag_matches,
    json_response,
    outcome_headers,
    streamed,
    with_list,
)
from bamboo_gateway.api.routes.filters import Filters, session_page
from bamboo_gateway.api.schemas.messages import ReopenInput, SessionInput, SessionPatch
from bamboo_gateway.api.schemas.sessions import Session, SessionPageShape, SessionWithMessages
from bamboo_gateway.api.security.rights import SessionRoute, takes_ticket
from bamboo_gateway.api.security.url_credentials import with_url_credential
from bamboo_gateway.api.urls import session_answer, session_url
from bamboo_gateway.sessions.commands import NewSession, Outcome

router = APIRouter(prefix="/api/v1", tags=["sessions"], route_class=SessionRoute)

_IfMatch = Annotated[
    str | None, Header(description="The `ETag` that this is meant for; any other is 412.")
]


@router.post(
    "/sessions",
    status_code=201,
    summary="Create a session",
    responses={
        **answer(
            201,
            Session,
            "The session.",
            examples.SESSION,
            "Location",
            "Idempotency-Replayed",
        ),
        **problems(
            *EDGE,
            *BODY,
            *WRITE,
            *KEYED,
            "invalid-id",
            "session-exists",
            "metadata-too-large",
            *NEW,
        ),
    },
)
async def create_session(
    manager: Manager,
    who: Who,
    key: Key,
    sent: SentJson,
    body: Annotated[SessionInput | None, Body(openapi_examples=examples.SESSIONS)] = None,
) -> Response:
    """Creates a session without saying anything in it yet. `POST /chat` makes its own."""
    outcome = await manager.create_session(
        who,
        body.to_new() if body else NewSession(),
        idempotency(key, "POST /sessions", sent),
    )
    headers = {
        "Location": session_url(outcome.answer["id"]),
        **outcome_headers(outcome),
    }
    return json_response(session_answer(outcome.answer), 201, headers)


@router.get(
    "/sessions",
    summary="List sessions",
    responses={
        **answer(
            200,
            SessionPageShape,
            "A page of sessions.",
            {"sessions": [examples.SESSION], "next_cursor": None, "has_more": False, "total": 1},
        ),
        **problems(*EDGE, "invalid-id", "invalid-cursor"),
    },
)
async def list_sessions(
    manager: Manager,
    who: Who,
    query: Filters,
    shared: Annotated[
        bool, Query(description="`true`: those that others share with you, in place of your own.")
    ] = False,
) -> Response:
    """Lists sessions that match all filters.

    `cursor` pages neither repeat nor skip while other sessions come and go; `offset` jumps.
    """
    if shared:
        # With the operator nothing is shared: it sees all.
        query = replace(query, shared_with=who.user_id or "")
    page = await manager.list_sessions(who, query)
    return session_page(page, query, "sessions", session_answer)


@router.get(
    "/sessions/{session_id}",
    summary="Look at a session",
    responses={
        **answer(200, SessionWithMessages, "The session.", examples.SESSION, "ETag"),
        **nothing(304, "`If-None-Match` names this version."),
        **problems(*EDGE, *SESSION),
    },
)
@takes_ticket
async def get_session(
    request: Request,
    manager: Manager,
    who: Who,
    session_id: SessionId,
    include_messages: Annotated[bool, Query(description="Adds all `messages`; streamed.")] = False,
    if_none_match: Annotated[
        str | None, Header(description="An `ETag`; ignored with `include_messages`.")
    ] = None,
) -> Response:
    """Gives the session. The `ETag` covers what PATCH can change, and nothing else.

    Its `stream_url` has the ticket, or the token of the link, that it was asked for with.
    """
    view, etag, messages = await manager.get_session(who, session_id, include_messages)
    headers = {"ETag": etag}
    if if_none_match is not None and messages is None and etag_matches(if_none_match, etag):
        return Response(status_code=304, headers=headers)
    session = session_answer(view)
    session["stream_url"] = with_url_credential(request.scope, who, session["stream_url"])
    if messages is not None:
        return await streamed(with_list(session, "messages", messages), headers)
    return json_response(session, headers=headers)


@router.patch(
    "/sessions/{session_id}",
    summary="Change a session",
    responses={
        **answer(200, Session, "The session, changed.", examples.SESSION, "ETag"),
        **problems(
            *EDGE,
            *BODY,
            *SESSION,
            *WRITE,
            *STORED,
            "session-archived",
            "metadata-too-large",
            "precondition-failed",
        ),
    },
)
async def update_session(
    body: Annotated[SessionPatch, Body(openapi_examples=examples.PATCHES)],
    manager: Manager,
    who: Who,
    session_id: SessionId,
    if_match: _IfMatch = None,
) -> Response:
    """Applies a JSON merge patch (RFC 7396): null takes away, also inside `metadata`."""
    patch = body.model_dump(exclude_unset=True)
    session, etag, _ = await manager.update_session(who, session_id, patch, if_match)
    return json_response(session_answer(session), headers={"ETag": etag})


@router.delete(
    "/sessions/{session_id}",
    status_code=204,
    summary="Delete a session",
    responses={
        **nothing(204, "It is gone, with its files."),
        **problems(*EDGE, *SESSION[:2], *WRITE, "precondition-failed"),
    },
)
async def delete_session(
    manager: Manager,
    who: Who,
    session_id: SessionId,
    if_match: _IfMatch = None,
) -> Response:
    """Deletes the session with everything in it; its streams end with `goodbye deleted`."""
    await manager.delete_session(who, session_id, if_match)
    return Response(status_code=204)


@router.post(
    "/sessions/{session_id}/close",
    summary="Close a session",
    responses={
        **answer(
            200,
            Session,
            "The session, closed.",
            examples.SESSION | {"state": "closed"},
            "Idempotency-Replayed",
        ),
        **problems(*EDGE, *SESSION, *WRITE, *KEYED, "session-archived", "run-active"),
    },
)
async def close_session(manager: Manager, who: Who, session_id: SessionId, key: Key) -> Response:
    """Makes the session read-only. Its streams end with `goodbye closed`."""
    return _changed(
        await manager.close_session(who, session_id, idempotency(key, "POST /close", None))
    )


@router.post(
    "/sessions/{session_id}/reopen",
    summary="Reopen a closed or expired session",
    responses={
        **answer(200, Session, "The session.", examples.SESSION, "Idempotency-Replayed"),
        **problems(*EDGE, *BODY, *SESSION[:2], *WRITE, *KEYED, "session-archived"),
    },
)
async def reopen_session(
    manager: Manager,
    who: Who,
    session_id: SessionId,
    key: Key,
    sent: SentJson,
    body: Annotated[ReopenInput | None, Body(openapi_examples=examples.REOPENS)] = None,
) -> Response:
    """Makes a closed or expired session writable again.

    An expired session can be reopened for `cleanup_period_days` after it expired; then the gateway
    deletes it. `ttl_seconds` is the new time to live, counted from now. Without it the present one
    is counted again; null takes it away, so that the session stays until somebody deletes it.
    """
    given = body.model_dump(exclude_unset=True) if body is not None else {}
    promise = idempotency(key, "POST /reopen", sent)
    return _changed(
        await manager.reopen_session(
            who, session_id, promise, ttl_seconds=given.get("ttl_seconds", "keep")
        )
    )


def _changed(outcome: Outcome) -> Response:
    return json_response(session_answer(outcome.answer), headers=outcome_headers(outcome))
