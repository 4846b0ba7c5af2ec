"""Authentication: from a request's credential to its caller."""

from typing import Final

from starlette.types import Scope

from bamboo_gateway.api.caller import unauthorized
from bamboo_gateway.api.security.origins import check_cookie_origin, values_of
from bamboo_gateway.api.security.share_links import caller_by_share_link
from bamboo_gateway.api.security.url_credentials import TICKET
from bamboo_gateway.credentials.gate import Gate
from bamboo_gateway.credentials.refusals import Refusal
from bamboo_gateway.domain.callers import LOCAL_CALLER, Caller
from bamboo_gateway.domain.errors import InvalidId
from bamboo_gateway.settings import Settings

COOKIE: Final = "bamboo_login"
"""The name of the login cookie."""

OPEN_PATHS: Final = frozenset(
    {
        "/",
        "/api/v1",
        "/health/live",
        "/health/ready",
        "/api/v1/health/live",
        "/api/v1/health/ready",
        "/api/v1/logout",
    }
)
"""Paths that need no credential: first visitors and monitoring have none, and at a logout it may be
invalid."""


class Authentication:
    """Find the caller of a request, and refuse credentials that are invalid.

    Of several credentials the most deliberate one counts: the header, else the ticket, else the
    share link, else the cookie. When that one is wrong the request is refused, even if another is
    valid.
    """

    def __init__(self, settings: Settings, gate: Gate) -> None:
        self._gate = gate
        self._origins = frozenset(settings.cors_origins)

    async def caller_of(self, scope: Scope) -> Caller:
        """Return the caller of a request whose path needs a credential.

        Raises:
            EdgeError: The request has no valid credential, or a page may not use its cookie.
            Forbidden, InvalidId, Unavailable: `Gate.bearer`, `Gate.prepare_bearer`,
                `Gate.check_loaded` and `caller_by_share_link` say when.
        """
        gate, acting_for = self._gate, None
        gate.check_loaded()
        if not gate.is_open:
            acting_for = _acting_for(scope)
            if sent := values_of(scope, b"authorization"):
                scheme, _, credential = sent[0].partition(b" ")
                is_bearer = len(sent) == 1 and scheme.lower() == b"bearer"
                if not is_bearer:
                    gate.refusals.note(Refusal("header", "no_bearer"))
                    return _known(None)
                credential = credential.strip()
                await gate.prepare_bearer(credential)
                return _known(gate.bearer(credential, acting_for))
        if (ticket := scope.get(TICKET)) is not None:
            return _known(gate.ticket(ticket, acting_for))
        if (caller := await caller_by_share_link(scope)) is not None:
            return caller
        if gate.is_open:
            return LOCAL_CALLER
        if has_cookie(scope):
            check_cookie_origin(scope, self._origins)
            return _known(caller_by_cookie(scope, gate, acting_for))
        raise unauthorized()


def has_cookie(scope: Scope) -> bool:
    """Return whether the request has a login cookie, valid or not."""
    return bool(_cookies(scope))


def caller_by_cookie(scope: Scope, gate: Gate, acting_for: str | None = None) -> Caller | None:
    """Return the caller of a login cookie; None when it is invalid, or one of several.

    Raises:
        Forbidden, InvalidId, Unavailable: `Gate.cookie` says when.
    """
    cookies = _cookies(scope)
    return gate.cookie(cookies[0], acting_for) if len(cookies) == 1 else None


def _known(caller: Caller | None) -> Caller:
    if caller is None:
        raise unauthorized(wrong=True)
    return caller


def _acting_for(scope: Scope) -> str | None:
    """Return the unchecked user of `X-User-Id`."""
    named = values_of(scope, b"x-user-id")
    if len(named) > 1:
        raise InvalidId("The request has more than one X-User-Id header.")
    return named[0].decode("latin-1") if named else None


def _cookies(scope: Scope) -> list[str]:
    """Return every login cookie. Two mean that another site set one beside the right one."""
    pairs = b";".join(values_of(scope, b"cookie")).decode("latin-1").split(";")
    named = [pair.strip().partition("=") for pair in pairs]
    return [value for name, _, value in named if name == COOKIE]
