"""Who comes by the link of a share: `?share=<token>`, for pages that have no key to send."""

from typing import Final

from starlette.types import Scope

from bamboo_gateway.api.problems import EdgeError
from bamboo_gateway.api.security.url_credentials import SHARE
from bamboo_gateway.domain.callers import Caller
from bamboo_gateway.sessions.manager import SessionManager, not_recovered

SHARED_PATHS: Final = frozenset(
    {
        "/api/v1/stream/{session_id}",
        "/api/v1/reconnect/{session_id}",
        "/api/v1/sessions/{session_id}",
        "/api/v1/sessions/{session_id}/messages",
        "/api/v1/sessions/{session_id}/events",
        "/api/v1/sessions/{session_id}/export",
        "/api/v1/sessions/{session_id}/resume",
        "/api/v1/sessions/{session_id}/statistics",
        "/api/v1/sessions/{session_id}/tree",
    }
)
"""What a link lets others GET; whether it does, `sessions.access` decides with each request."""


async def caller_by_link(scope: Scope) -> Caller | None:
    """Gives who comes by a link; None when the request has none.

    Raises:
        EdgeError: The link opens nothing (any more).
        Unavailable: The sessions are being recovered.
    """
    token: str | None = scope.get(SHARE)
    if token is None:
        return None
    manager: SessionManager | None = scope["app"].state.manager
    if manager is None:
        raise not_recovered()
    caller = await manager.life.link_caller(token)
    if caller is None:
        raise EdgeError(
            "unauthorized",
            "This link opens nothing: ask whom it came from for another.",
            headers={"WWW-Authenticate": 'Bearer realm="bamboo"'},
        )
    return caller
