"""Credentials for web pages: tickets for streams, and the cookie of a login."""

from contextlib import suppress
from typing import Final

from fastapi import APIRouter, Request
from starlette.responses import Response

from bamboo_gateway.api.caller import CALLER, NOBODY, unauthorized
from bamboo_gateway.api.dependencies import Manager, SessionId, Who
from bamboo_gateway.api.openapi.examples import conversation
from bamboo_gateway.api.openapi.responses import EDGE, OPEN_EDGE, SESSION, answer, problems
from bamboo_gateway.api.prefix import prefix_of
from bamboo_gateway.api.responses import json_response
from bamboo_gateway.api.schemas.access import Ticket
from bamboo_gateway.api.security.authentication import COOKIE, caller_by_cookie, has_cookie
from bamboo_gateway.api.security.origins import check_cookie_origin, values_of
from bamboo_gateway.api.security.rights import OpenRoute, ReadRoute
from bamboo_gateway.api.urls import session_answer
from bamboo_gateway.credentials.gate import Gate
from bamboo_gateway.credentials.signing import is_made
from bamboo_gateway.domain.clock import format_ms
from bamboo_gateway.domain.errors import Unavailable

router = APIRouter(prefix="/api/v1", tags=["access"], route_class=ReadRoute)
open_router = APIRouter(prefix="/api/v1", tags=["access"], route_class=OpenRoute)

_SET_COOKIE: Final = {
    "Set-Cookie": {"description": "The cookie of the login.", "schema": {"type": "string"}}
}


@router.post(
    "/sessions/{session_id}/ticket",
    status_code=201,
    summary="Make a ticket for a stream",
    responses={
        **answer(201, Ticket, "The ticket.", conversation.TICKET),
        **problems(*EDGE, *SESSION),
    },
)
async def create_ticket(
    request: Request, manager: Manager, who: Who, session_id: SessionId
) -> Response:
    """Create a short-lived ticket, for an EventSource, which can send no headers.

    Until `expires_at` it gives read access, as `?ticket=`, to this session, its stream, its
    messages and its events. A stream that was opened with it goes on for as long as the credential
    that made the ticket is good. To reconnect later, make a new ticket.
    """
    detail = await manager.get_session(who, session_id)
    gate: Gate = request.app.state.gate
    ticket = gate.make_ticket(who, session_id)
    url = session_answer(detail.session, prefix_of(request.scope))["stream_url"]
    made = {
        "ticket": ticket.text,
        "expires_at": format_ms(ticket.expires_at),
        "stream_url": f"{url}&ticket={ticket.text}",
    }
    return json_response(made, 201)


@router.post(
    "/login",
    status_code=204,
    summary="Log in with a cookie",
    responses={
        204: {"description": "The cookie is set.", "headers": _SET_COOKIE},
        **problems(*EDGE),
    },
)
async def log_in(request: Request, who: Who) -> Response:
    """Return a cookie for the key or token in `Authorization`, so that a page need not keep that.

    No script can read the cookie and no other site sends it (`HttpOnly`, `SameSite=Strict`).
    Requests with it that change something are accepted only from pages of the gateway's own origin
    and of `cors_origins`. It ends after `login_ttl_seconds`, and with the credential.
    """
    response = Response(status_code=204, headers={"Cache-Control": "no-store"})
    gate: Gate = request.app.state.gate
    if gate.is_open:
        return response  # the gateway is open: nobody needs a cookie
    if is_made(who):
        # Otherwise a stolen cookie could be renewed without end.
        raise unauthorized()
    cookie = gate.make_cookie(who)
    seconds = max(0, cookie.expires_at - request.app.state.clock.now_ms()) // 1000
    _set_cookie(request, response, cookie.text, seconds)
    return response


@open_router.post(
    "/logout",
    status_code=204,
    summary="Log out",
    responses={
        204: {"description": "The cookie is removed.", "headers": _SET_COOKIE},
        **problems(*OPEN_EDGE),
    },
)
async def log_out(request: Request) -> Response:
    """Remove the cookie from the browser. A copy of it ends with its time, or with its key."""
    with suppress(Unavailable):  # logging out works also while the gateway is not ready
        request.scope[CALLER] = caller_by_cookie(request.scope, request.app.state.gate) or NOBODY
    if values_of(request.scope, b"origin") or has_cookie(request.scope):
        check_cookie_origin(request.scope, frozenset(request.app.state.settings.cors_origins))
    response = Response(status_code=204, headers={"Cache-Control": "no-store"})
    _set_cookie(request, response, "", 0)
    return response


def _set_cookie(request: Request, response: Response, text: str, seconds: int) -> None:
    """Set the cookie for the paths of this gateway, or remove it after 0 seconds."""
    path = prefix_of(request.scope) or "/"
    values = [(path, text, seconds)]
    if path != "/" and has_cookie(request.scope):
        # It may be one of the time before the prefix: a browser would send it as well.
        values.append(("/", "", 0))
    for path, value, age in values:
        response.set_cookie(
            COOKIE,
            value,
            max_age=age,
            path=path,
            httponly=True,
            samesite="strict",
            secure=_is_https(request),
        )


def _is_https(request: Request) -> bool:
    """Return whether the browser uses TLS, also when that ends at a proxy in front.

    A client that claims TLS wrongly only keeps the cookie from its own requests.
    """
    said = (request.headers.get("x-forwarded-proto", ""), request.headers.get("origin", ""))
    return request.url.scheme == "https" or any(text.startswith("https") for text in said)
