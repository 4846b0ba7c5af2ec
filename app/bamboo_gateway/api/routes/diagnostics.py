"""Diagnostics: checks of the running gateway, and bug reports."""

from typing import Any, Final

from fastapi import APIRouter
from starlette.requests import Request
from starlette.responses import Response

from bamboo_gateway.api.dependencies import Manager, SessionId, Who
from bamboo_gateway.api.openapi.examples import lifecycle
from bamboo_gateway.api.openapi.responses import EDGE, SESSION, answer, bytes_of, problems
from bamboo_gateway.api.responses import DocumentResponse, json_response
from bamboo_gateway.api.schemas.maintenance import Diagnostics
from bamboo_gateway.api.security.rights import OperatorRoute, SessionRoute
from bamboo_gateway.credentials.remote_keys import RemoteKeys
from bamboo_gateway.sessions.answers import CheckResult

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
async def get_diagnostics(request: Request, manager: Manager, who: Who) -> Response:
    """Check disk, clock, journal, limits, agents and identity provider; nothing is changed."""
    found = await manager.diagnostics(who)
    remote = request.app.state.gate.remote_keys
    if remote is not None:
        check = _identity_provider(remote)
        found["checks"].append(check)
        if check["status"] == "fail" or found["status"] == "ok":
            found["status"] = check["status"]
    return json_response(found)


def _identity_provider(keys: RemoteKeys) -> CheckResult:
    name, age = "identity provider", keys.age_seconds
    action = "see that the provider answers at jwks_url"
    if not keys.value:
        seen = f"no keys: {keys.problem or 'not read yet'}; tokens are refused"
        return {"name": name, "status": "fail", "seen": seen, "action": action}
    if keys.problem is not None:
        seen = f"keys of {age:.0f} s ago: {keys.problem}"
        return {"name": name, "status": "warn", "seen": seen, "action": action}
    return {"name": name, "status": "ok", "seen": f"{len(keys.value)} keys", "action": ""}


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
