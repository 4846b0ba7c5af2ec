"""Sharing: read-only grants, to users and by link."""

from typing import Annotated

from fastapi import APIRouter, Body, Request
from starlette.responses import Response

from bamboo_gateway.api.dependencies import Manager, SessionId, ShareId, Who
from bamboo_gateway.api.openapi.examples import lifecycle
from bamboo_gateway.api.openapi.responses import (
    BODY,
    EDGE,
    KEYED,
    SESSION,
    WRITE,
    answer,
    nothing,
    problems,
)
from bamboo_gateway.api.prefix import prefix_of
from bamboo_gateway.api.request_headers import Key, SentJson, idempotency
from bamboo_gateway.api.responses import json_response, outcome_headers
from bamboo_gateway.api.schemas.shares import NewShareAnswer, ShareInput, SharePage
from bamboo_gateway.api.security.rights import SessionRoute
from bamboo_gateway.api.urls import share_url

router = APIRouter(prefix="/api/v1", tags=["sharing"], route_class=SessionRoute)


@router.post(
    "/sessions/{session_id}/shares",
    status_code=201,
    summary="Share a session",
    responses={
        **answer(201, NewShareAnswer, "The share.", lifecycle.LINK_SHARE, "Location",
                 "Idempotency-Replayed"),
        **problems(*EDGE, *BODY, *SESSION, *WRITE, *KEYED, "limit-reached"),
    },
)  # fmt: skip
async def share_session(
    request: Request,
    body: Annotated[ShareInput, Body(openapi_examples=lifecycle.SHARES)],
    manager: Manager,
    who: Who,
    session_id: SessionId,
    key: Key,
    sent: SentJson,
) -> Response:
    """Let one user, or everyone who has the link, read the session, now and as it grows.

    Only this answer has the `token` of a link; it goes into `?share=` of the routes that read. To
    share with the same user again replaces the share. A fork, an import or an export of the
    session is not shared.
    """
    outcome = await manager.share(
        who, session_id, body.to_new(), idempotency(key, "POST /shares", sent)
    )
    headers = {
        "Location": share_url(session_id, outcome.answer["id"], prefix_of(request.scope)),
        **outcome_headers(outcome),
    }
    return json_response(outcome.answer, 201, headers)


@router.get(
    "/sessions/{session_id}/shares",
    summary="List the shares of a session",
    responses={
        **answer(
            200,
            SharePage,
            "The valid shares.",
            {"shares": [lifecycle.SHARE], "next_cursor": None, "has_more": False},
        ),
        **problems(*EDGE, *SESSION),
    },
)
async def list_shares(manager: Manager, who: Who, session_id: SessionId) -> Response:
    """List the valid shares, the oldest first. One without a `user_id` is a link."""
    shares = await manager.shares(who, session_id)
    return json_response({"shares": shares, "next_cursor": None, "has_more": False})


@router.delete(
    "/sessions/{session_id}/shares/{share_id}",
    status_code=204,
    summary="Revoke a share",
    responses={
        **nothing(204, "The share is revoked."),
        **problems(*EDGE, *SESSION, *WRITE, "share-not-found"),
    },
)
async def revoke_share(
    manager: Manager, who: Who, session_id: SessionId, share_id: ShareId
) -> Response:
    """End the share at once. Streams that it allowed end with `goodbye unauthorized`."""
    await manager.revoke_share(who, session_id, share_id)
    return Response(status_code=204)
