"""Who is asking: the credential of a request, and the caller that comes with it."""

from typing import Final

from starlette.types import ASGIApp, Receive, Scope, Send

from bamboo_gateway.api.caller import CALLER, NOBODY, unauthorized
from bamboo_gateway.api.problems import problem_response
from bamboo_gateway.api.security.origins import check_cookie_origin, values_of
from bamboo_gateway.api.security.share_links import caller_by_link
from bamboo_gateway.api.security.url_credentials import TICKET
from bamboo_gateway.credentials.gate import Gate
from bamboo_gateway.domain.callers import LOCAL_CALLER, Caller
from bamboo_gateway.domain.errors import BambooError, InvalidId
from bamboo_gateway.settings import Settings

COOKIE: Final = "bamboo_login"
"""The name of a login's cookie."""

OPEN_PATHS: Final = frozenset(
    {
        "/health/live",
        "/health/ready",
        "/api/v1/health/live",
        "/api/v1/health/ready",
        "/api/v1/logout",
    }
)
"""What needs no credential: who watches the gateway has none, who leaves may have none left."""


class Authentication:
    """Puts the caller into the scope, or answers 401; 403 when it may not be who it says.

    Of several credentials the one that was sent on purpose counts: the header, else the ticket,
    else the link, else the cookie. A wrong one is refused and never passed over.
    """

    def __init__(self, app: ASGIApp, settings: Settings, gate: Gate) -> None:
        self._app = app
        self._gate = gate
        self._origins = frozenset(settings.cors_origins)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """See the ASGI specification."""
        if scope["type"] == "http":
            try:
                scope[CALLER] = await self._caller(scope)
            except BambooError as error:
                await problem_response(error, scope)(scope, receive, send)
                return
        await self._app(scope, receive, send)

    async def _caller(self, scope: Scope) -> Caller:
        if scope["path"] in OPEN_PATHS:
            return NOBODY
        gate, acting_for = self._gate, None
        if not gate.is_open:
            acting_for = _acting_for(scope)
            if sent := values_of(scope, b"authorization"):
                scheme, _, credential = sent[0].partition(b" ")
                is_bearer = len(sent) == 1 and scheme.lower() == b"bearer"
                return _known(gate.bearer(credential.strip(), acting_for) if is_bearer else None)
        if (ticket := scope.get(TICKET)) is not None:
            return _known(gate.ticket(ticket, acting_for))
        if (by_link := await caller_by_link(scope)) is not None:
            return by_link
        if gate.is_open:
            return LOCAL_CALLER
        if has_cookie(scope):
            check_cookie_origin(scope, self._origins)
            return _known(caller_by_cookie(scope, gate, acting_for))
        raise unauthorized()


def has_cookie(scope: Scope) -> bool:
    """Tells whether a login's cookie came, good or not."""
    return bool(_cookies(scope))


def caller_by_cookie(scope: Scope, gate: Gate, acting_for: str | None = None) -> Caller | None:
    """Gives who comes with a login's cookie; None when it is not good, or one of several.

    Raises:
        Forbidden, InvalidId, Unavailable: As `Gate.cookie`.
    """
    cookies = _cookies(scope)
    return gate.cookie(cookies[0], acting_for) if len(cookies) == 1 else None


def _known(caller: Caller | None) -> Caller:
    if caller is None:
        raise unauthorized(wrong=True)
    return caller


def _acting_for(scope: Scope) -> str | None:
    """Gives the user that the caller says to act for, unchecked."""
    named = values_of(scope, b"x-user-id")
    if len(named) > 1:
        raise InvalidId("The request has more than one X-User-Id header.")
    return named[0].decode("latin-1") if named else None


def _cookies(scope: Scope) -> list[str]:
    """Gives every login's cookie there is: two are somebody's who put one beside the right one."""
    pairs = b";".join(values_of(scope, b"cookie")).decode("latin-1").split(";")
    named = [pair.strip().partition("=") for pair in pairs]
    return [value for name, _, value in named if name == COOKIE]
