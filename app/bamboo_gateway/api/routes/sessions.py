"""Sessions: creating, finding, changing, closing and deleting them."""

from dataclasses import replace
from functools import partial
from typing import Annotated

from fastapi import APIRouter, Body, Header, Query, Request
from starlette.responses import Response

from bamboo_gateway.api.dependencies import Manager, SessionId, Who
from bamboo_gateway.api.openapi.examples import conversation
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
from bamboo_gateway.api.prefix import prefix_of
from bamboo_gateway.api.request_headers import Key, SentJson, idempotency
from bamboo_gateway.api.responses import (
    etag_matches,
    json_response,
    outcome_headers,
    streamed,
    with_list,
)
from bamboo_gateway.api.routes.filters import Filters, session_page
from bamboo_gateway.api.schemas.sessions import (
    ReopenInput,
    Session,
    SessionInput,
    SessionPage,
    SessionPatch,
    SessionWithMessages,
)
from bamboo_gateway.api.security.rights import SessionRoute, takes_ticket
from bamboo_gateway.api.security.url_credentials import with_url_credential
from bamboo_gateway.api.urls import session_answer, session_url
from bamboo_gateway.domain.views import SessionView
from bamboo_gateway.sessions.commands import NewSession, Outcome

router = APIRouter(prefix="/api/v1", tags=["sessions"], route_class=SessionRoute)

_IfMatch = Annotated[
    str | None,
    Header(
        description="The `ETag` of the version to change; with another version the answer is 412."
    ),
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
            conversation.SESSION,
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
    request: Request,
    manager: Manager,
    who: Who,
    key: Key,
    sent: SentJson,
    body: Annotated[SessionInput | None, Body(openapi_examples=conversation.SESSIONS)] = None,
) -> Response:
    """Create a session without a message. `POST /chat` creates its session by itself."""
    outcome = await manager.create_session(
        who,
        body.to_new() if body else NewSession(),
        idempotency(key, "POST /sessions", sent),
    )
    prefix = prefix_of(request.scope)
    headers = {
        "Location": session_url(outcome.answer["id"], prefix),
        **outcome_headers(outcome),
    }
    return json_response(session_answer(outcome.answer, prefix), 201, headers)


@router.get(
    "/sessions",
    summary="List sessions",
    responses={
        **answer(
            200,
            SessionPage,
            "A page of sessions.",
            {
                "sessions": [conversation.SESSION],
                "next_cursor": None,
                "has_more": False,
                "total": 1,
            },
        ),
        **problems(*EDGE, "invalid-id", "invalid-cursor"),
    },
)
async def list_sessions(
    request: Request,
    manager: Manager,
    who: Who,
    query: Filters,
    shared: Annotated[
        bool,
        Query(description="`true`: the sessions that others share with you, in place of your own."),
    ] = False,
) -> Response:
    """List the sessions that match all filters.

    Pages by `cursor` neither repeat nor skip a session while others come and go; `offset` jumps to
    a place.
    """
    if shared:
        # Nothing is shared with the operator, who sees everything.
        query = replace(query, shared_with=who.user_id or "")
    page = await manager.list_sessions(who, query)
    shown = partial(session_answer, prefix=prefix_of(request.scope))
    return session_page(page, query, "sessions", shown)


@router.get(
    "/sessions/{session_id}",
    summary="Get a session",
    responses={
        **answer(200, SessionWithMessages, "The session.", conversation.SESSION, "ETag"),
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
    include_messages: Annotated[
        bool, Query(description="With all `messages`; the answer is streamed then.")
    ] = False,
    if_none_match: Annotated[
        str | None, Header(description="An `ETag`; ignored with `include_messages`.")
    ] = None,
) -> Response:
    """Return the session. The `ETag` covers what PATCH can change, and nothing else.

    A request with a ticket or the token of a link gets it back in `stream_url`.
    """
    view, etag, messages = await manager.get_session(who, session_id, include_messages)
    headers = {"ETag": etag}
    if if_none_match is not None and messages is None and etag_matches(if_none_match, etag):
        return Response(status_code=304, headers=headers)
    session = session_answer(view, prefix_of(request.scope))
    session["stream_url"] = with_url_credential(request.scope, who, session["stream_url"])
    if messages is not None:
        return await streamed(with_list(session, "messages", messages), headers)
    return json_response(session, headers=headers)


@router.patch(
    "/sessions/{session_id}",
    summary="Change a session",
    responses={
        **answer(200, Session, "The session, changed.", conversation.SESSION, "ETag"),
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
    request: Request,
    body: Annotated[SessionPatch, Body(openapi_examples=conversation.PATCHES)],
    manager: Manager,
    who: Who,
    session_id: SessionId,
    if_match: _IfMatch = None,
) -> Response:
    """Apply a JSON merge patch (RFC 7396): null removes a member, also inside `metadata`."""
    patch = body.model_dump(exclude_unset=True)
    session, etag, _ = await manager.update_session(who, session_id, patch, if_match)
    shown = session_answer(session, prefix_of(request.scope))
    return json_response(shown, headers={"ETag": etag})


@router.delete(
    "/sessions/{session_id}",
    status_code=204,
    summary="Delete a session",
    responses={
        **nothing(204, "The session is gone, with its files."),
        **problems(*EDGE, *SESSION[:2], *WRITE, "precondition-failed"),
    },
)
async def delete_session(
    manager: Manager,
    who: Who,
    session_id: SessionId,
    if_match: _IfMatch = None,
) -> Response:
    """Delete the session with everything in it. Its streams end with `goodbye deleted`."""
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
            conversation.SESSION | {"state": "closed"},
            "Idempotency-Replayed",
        ),
        **problems(*EDGE, *SESSION, *WRITE, *KEYED, "session-archived", "run-active"),
    },
)
async def close_session(
    request: Request, manager: Manager, who: Who, session_id: SessionId, key: Key
) -> Response:
    """Make the session read-only. Its streams end with `goodbye closed`."""
    closed = await manager.close_session(who, session_id, idempotency(key, "POST /close", None))
    return _changed(request, closed)


@router.post(
    "/sessions/{session_id}/reopen",
    summary="Reopen a closed or expired session",
    responses={
        **answer(200, Session, "The session.", conversation.SESSION, "Idempotency-Replayed"),
        **problems(*EDGE, *BODY, *SESSION[:2], *WRITE, *KEYED, "session-archived"),
    },
)
async def reopen_session(
    request: Request,
    manager: Manager,
    who: Who,
    session_id: SessionId,
    key: Key,
    sent: SentJson,
    body: Annotated[ReopenInput | None, Body(openapi_examples=conversation.REOPENS)] = None,
) -> Response:
    """Make a closed or expired session writable again.

    An expired session can be reopened for `cleanup_period_days` after it expired; then the gateway
    deletes it. `ttl_seconds` is the new time to live, counted from now. Without it the present one
    is counted again; null removes it, so that the session stays until somebody deletes it.
    """
    given = body.model_dump(exclude_unset=True) if body is not None else {}
    promise = idempotency(key, "POST /reopen", sent)
    reopened = await manager.reopen_session(
        who, session_id, promise, ttl_seconds=given.get("ttl_seconds", "keep")
    )
    return _changed(request, reopened)


def _changed(request: Request, outcome: Outcome[SessionView]) -> Response:
    shown = session_answer(outcome.answer, prefix_of(request.scope))
    return json_response(shown, headers=outcome_headers(outcome))
