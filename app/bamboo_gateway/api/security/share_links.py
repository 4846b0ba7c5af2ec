"""The caller of a share link, `?share=<token>`: for pages that have no key to send."""

from typing import Final

from starlette.types import Scope

from bamboo_gateway.api.problems import EdgeError
from bamboo_gateway.api.security.url_credentials import SHARE
from bamboo_gateway.credentials.refusals import Refusal
from bamboo_gateway.domain.callers import Caller
from bamboo_gateway.sessions.manager import SessionManager, not_recovered

SHARED_PATHS: Final = frozenset(
    {
        "/api/v1/stream",
        "/api/v1/stream/{session_id}",
        "/api/v1/reconnect/{session_id}",
        "/api/v1/ds/{session_id}",
        "/api/v1/sessions/{session_id}",
        "/api/v1/sessions/{session_id}/messages",
        "/api/v1/sessions/{session_id}/events",
        "/api/v1/sessions/{session_id}/inputs",
        "/api/v1/sessions/{session_id}/export",
        "/api/v1/sessions/{session_id}/resume",
        "/api/v1/sessions/{session_id}/statistics",
        "/api/v1/sessions/{session_id}/tree",
        "/api/v1/files/{file_id}",
    }
)
"""Routes that a share link opens for GET, and for answers with the scope `answer`;
`sessions.access` decides each request."""


async def caller_by_share_link(scope: Scope) -> Caller | None:
    """Return the caller of a share link; None when the request has none.

    Raises:
        EdgeError: The link is wrong, expired or revoked.
        Unavailable: The gateway is recovering its sessions.
    """
    token: str | None = scope.get(SHARE)
    if token is None:
        return None
    manager: SessionManager | None = scope["app"].state.manager
    if manager is None:
        raise not_recovered()
    caller = await manager.link_caller(token)
    if caller is None:
        scope["app"].state.gate.refusals.note(Refusal("link", "opens_nothing"))
        raise EdgeError(
            "unauthorized",
            "This share link is not valid (any more). Ask its sender for a new one.",
            headers={"WWW-Authenticate": 'Bearer realm="bamboo"'},
        )
    return caller
