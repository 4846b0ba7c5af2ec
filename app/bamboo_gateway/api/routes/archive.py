"""The archive: sessions that are out of the lists, read-only and compressed, and back."""

from functools import partial
from typing import Annotated, Final

from fastapi import APIRouter, Body, Request
from starlette.responses import Response

from bamboo_gateway.api.audit import name_bulk_targets
from bamboo_gateway.api.dependencies import Manager, SessionId, Who
from bamboo_gateway.api.openapi.examples import conversation, lifecycle
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
from bamboo_gateway.api.routes.filters import Filters, session_page
from bamboo_gateway.api.schemas.archive import (
    ArchivedSession,
    ArchivePage,
    BulkArchived,
    BulkRestored,
)
from bamboo_gateway.api.schemas.fields import SessionIdsInput
from bamboo_gateway.api.schemas.sessions import Session
from bamboo_gateway.api.security.rights import SessionRoute
from bamboo_gateway.api.urls import archived_answer, session_answer

router = APIRouter(prefix="/api/v1", tags=["archive"], route_class=SessionRoute)

_ARCHIVED: Final = ("archive-not-found", *SESSION)


@router.post(
    "/sessions/{session_id}/archive",
    summary="Archive a session",
    responses={
        **answer(
            200,
            ArchivedSession,
            "The session is archived.",
            lifecycle.ARCHIVED,
            "Idempotency-Replayed",
        ),
        **problems(*EDGE, *SESSION, *WRITE, *KEYED, "run-active"),
    },
)
async def archive_session(
    request: Request, manager: Manager, who: Who, session_id: SessionId, key: Key
) -> Response:
    """Take the session out of the lists, make it read-only and compress it.

    It can still be read, exported and forked. Its streams end with `goodbye closed`.
    """
    outcome = await manager.archive(who, session_id, idempotency(key, "POST /archive", None))
    shown = archived_answer(outcome.answer, prefix_of(request.scope))
    return json_response(shown, headers=outcome_headers(outcome))


@router.post(
    "/sessions/{session_id}/restore",
    summary="Restore an archived session",
    responses={
        **answer(
            200, Session, "The session is back.", conversation.SESSION, "Idempotency-Replayed"
        ),
        **problems(*EDGE, *SESSION, *WRITE, *KEYED, "not-archived"),
    },
)
async def restore_session(
    request: Request, manager: Manager, who: Who, session_id: SessionId, key: Key
) -> Response:
    """Bring the session back: with the same id, dates, links, events and positions."""
    outcome = await manager.restore(who, session_id, idempotency(key, "POST /restore", None))
    shown = session_answer(outcome.answer, prefix_of(request.scope))
    return json_response(shown, headers=outcome_headers(outcome))


@router.post(
    "/archive",
    summary="Archive many sessions",
    responses={
        **answer(
            200,
            BulkArchived,
            "The sessions that are done, and those that failed.",
            {
                "archived": [{"session_id": conversation.SESSION_ID, "bytes": 2_410}],
                "failed": [lifecycle.FAILED],
            },
            "Idempotency-Replayed",
        ),
        **problems(*EDGE, *BODY, *KEYED, "draining"),
    },
)
async def archive_sessions(
    request: Request,
    body: Annotated[SessionIdsInput, Body(openapi_examples=lifecycle.BULK_IDS)],
    manager: Manager,
    who: Who,
    key: Key,
    sent: SentJson,
) -> Response:
    """Archive each session by itself: one that fails does not hold up the others."""
    idem = idempotency(key, "POST /archive", sent)
    outcome = await manager.archive_each(who, body.session_ids, idem)
    name_bulk_targets(request, outcome.answer, "archived")
    return json_response(outcome.answer, headers=outcome_headers(outcome))


@router.post(
    "/archive/restore",
    summary="Restore many sessions",
    responses={
        **answer(
            200,
            BulkRestored,
            "The sessions that are done, and those that failed.",
            {
                "restored": [{"session_id": conversation.SESSION_ID, "bytes": 18_204}],
                "failed": [],
            },
            "Idempotency-Replayed",
        ),
        **problems(*EDGE, *BODY, *KEYED, "draining"),
    },
)
async def restore_sessions(
    request: Request,
    body: Annotated[SessionIdsInput, Body(openapi_examples=lifecycle.BULK_IDS)],
    manager: Manager,
    who: Who,
    key: Key,
    sent: SentJson,
) -> Response:
    """Restore each session by itself."""
    idem = idempotency(key, "POST /archive/restore", sent)
    outcome = await manager.restore_each(who, body.session_ids, idem)
    name_bulk_targets(request, outcome.answer, "restored")
    return json_response(outcome.answer, headers=outcome_headers(outcome))


@router.get(
    "/archive",
    summary="List archived sessions",
    responses={
        **answer(
            200,
            ArchivePage,
            "A page of archived sessions.",
            {
                "archives": [lifecycle.ARCHIVED],
                "next_cursor": None,
                "has_more": False,
                "total": 1,
            },
        ),
        **problems(*EDGE, "invalid-id", "invalid-cursor"),
    },
)
async def list_archived_sessions(
    request: Request, manager: Manager, who: Who, query: Filters
) -> Response:
    """List the archived sessions, with the filters and paging of sessions."""
    page = await manager.list_archived(who, query)
    shown = partial(archived_answer, prefix=prefix_of(request.scope))
    return session_page(page, query, "archives", shown)


@router.get(
    "/archive/{session_id}",
    summary="Get an archived session",
    responses={
        **answer(200, ArchivedSession, "The archived session.", lifecycle.ARCHIVED),
        **problems(*EDGE, *_ARCHIVED),
    },
)
async def get_archived_session(
    request: Request, manager: Manager, who: Who, session_id: SessionId
) -> Response:
    """Return the session, and how many bytes it has on the disk."""
    archived = await manager.archived(who, session_id)
    return json_response(archived_answer(archived, prefix_of(request.scope)))


@router.delete(
    "/archive/{session_id}",
    status_code=204,
    summary="Delete an archived session",
    responses={
        **nothing(204, "The session is gone, with its files."),
        **problems(*EDGE, *_ARCHIVED, *WRITE),
    },
)
async def delete_archived_session(manager: Manager, who: Who, session_id: SessionId) -> Response:
    """Delete the session with everything in it."""
    await manager.delete_archived(who, session_id)
    return Response(status_code=204)
