"""Diagnostics: checks of the running gateway, and bug reports."""

from typing import Any, Final

from fastapi import APIRouter
from starlette.responses import Response

from bamboo_gateway.api.dependencies import Manager, SessionId, Who
from bamboo_gateway.api.openapi.examples import lifecycle
from bamboo_gateway.api.openapi.responses import EDGE, SESSION, answer, bytes_of, problems
from bamboo_gateway.api.responses import DocumentResponse, json_response
from bamboo_gateway.api.schemas.maintenance import Diagnostics
from bamboo_gateway.api.security.rights import OperatorRoute, SessionRoute

router = APIRouter(prefix="/api/v1", tags=["maintenance"], route_class=SessionRoute)
gateway_router = APIRouter(prefix="/api/v1", tags=["maintenance"], route_class=OperatorRoute)

_ZIP: Final[dict[int | str, dict[str, Any]]] = {
    200: {
        "description": "The bug report, streamed.",
        "content": {
            "application/zip": bytes_of("PK\u0003\u0004"),
        },
    }
}


@gateway_router.get(
    "/diagnostics",
    summary="Check the gateway",
    responses={
        **answer(
            200, Diagnostics, "Each check: what it saw, and what to do.", lifecycle.DIAGNOSTICS
        ),
        **problems(*EDGE),
    },
)
async def get_diagnostics(manager: Manager, who: Who) -> Response:
    """Check disk, clock, journal, limits and agents; nothing is changed."""
    return json_response(await manager.diagnostics(who))


@router.get(
    "/sessions/{session_id}/diagnostics",
    summary="Get a bug report",
    response_class=Response,
    responses={**_ZIP, **problems(*EDGE, *SESSION)},
)
async def get_session_diagnostics(manager: Manager, who: Who, session_id: SessionId) -> Response:
    """Return a zip with the session, its statistics and its events, secrets masked.

    `masked.json` in it lists what was masked. Read the zip before you send it to anybody.
    """
    chunks = await manager.bug_report(who, session_id)
    disposition = f'attachment; filename="bamboo-{session_id}.zip"'
    return DocumentResponse(chunks, "application/zip", {"Content-Disposition": disposition})
