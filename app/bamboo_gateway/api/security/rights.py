"""The right that a caller needs for each route: the class of its router's routes declares it.

`OpenRoute` needs none, `ReadRoute` needs `read`, `SessionRoute` needs `read` for GET and `write`
for everything else, `AnswerRoute` needs `answer` instead of `write`, `OperatorRoute` needs `admin`.
With a route without such a class the app does not start. A caller whose credential is for one
session reaches few routes: with a ticket those that `takes_ticket` marks, with a share link those
of `SHARED_PATHS`.
"""

from collections.abc import Callable, Set
from functools import cached_property
from typing import Any, Final, TypeVar

from starlette.requests import Request
from starlette.responses import Response
from typing_extensions import override

from bamboo_gateway.api.caller import CALLER
from bamboo_gateway.api.direct_route import DirectRoute
from bamboo_gateway.api.security.authentication import COOKIE
from bamboo_gateway.api.security.share_links import SHARED_PATHS
from bamboo_gateway.domain.callers import Caller, Right
from bamboo_gateway.domain.errors import Forbidden

SECURITY_SCHEMES: Final[dict[str, Any]] = {
    "key": {
        "type": "http",
        "scheme": "bearer",
        "description": "An API key: one of `api_keys`, or one that `bamboo keys create` printed. "
        "An operator's or service's key acts for the user that `X-User-Id` names.",
    },
    "token": {
        "type": "http",
        "scheme": "bearer",
        "bearerFormat": "JWT",
        "description": "A JSON Web Token of the configured issuer. `sub` is the user; `scope` or "
        "`scp` may name the rights (`answer` is one too), which are `read` and `write` otherwise.",
    },
    "cookie": {
        "type": "apiKey",
        "in": "cookie",
        "name": COOKIE,
        "description": "A login's cookie. A request that changes something needs an `Origin` that "
        "may call.",
    },
    "ticket": {
        "type": "apiKey",
        "in": "query",
        "name": "ticket",
        "description": "A ticket for the session, from `POST /sessions/{session_id}/ticket`.",
    },
    "link": {
        "type": "apiKey",
        "in": "query",
        "name": "share",
        "description": "The token of the session's share link.",
    },
}
"""The credentials of the OpenAPI document."""


_Endpoint = TypeVar("_Endpoint", bound=Callable[..., Any])
_TICKET_ENDPOINTS: Final[set[Callable[..., Any]]] = set()


def takes_ticket(endpoint: _Endpoint) -> _Endpoint:
    """Mark an endpoint of one session that a ticket for the session opens."""
    _TICKET_ENDPOINTS.add(endpoint)
    return endpoint


class GuardedRoute(DirectRoute):
    """A route that checks the caller's right before it reads the body or looks anything up."""

    @classmethod
    def right_for(cls, methods: Set[str]) -> Right | None:
        """Return the right that a route with these methods needs; None: not even a credential."""
        raise NotImplementedError

    @cached_property
    def right(self) -> Right | None:
        """The right that this route needs."""
        return self.right_for(self.methods or set())

    @property
    def takes_ticket(self) -> bool:
        """Whether a ticket opens this route for its session."""
        return self.endpoint in _TICKET_ENDPOINTS

    @property
    def takes_share_link(self) -> bool:
        """Whether a share link opens this route for its session."""
        return self.path in SHARED_PATHS and self.right in {"read", "answer"}

    @override
    async def respond(self, request: Request) -> Response:
        right = self.right
        if right is not None:
            caller: Caller = request.scope[CALLER]
            check_right(caller, right)
            if caller.session_id is not None:
                takes = self.takes_ticket if caller.share_id is None else self.takes_share_link
                if not takes:
                    raise Forbidden(
                        "A ticket or share link opens its own session for reading, or answering, "
                        "and not this route."
                    )
        return await super().respond(request)


class OpenRoute(GuardedRoute):
    """Routes for everyone, without a credential."""

    @classmethod
    @override
    def right_for(cls, methods: Set[str]) -> Right | None:
        return None


class ReadRoute(GuardedRoute):
    """Routes for users that change nothing, whatever their method."""

    @classmethod
    @override
    def right_for(cls, methods: Set[str]) -> Right | None:
        return "read"


class SessionRoute(GuardedRoute):
    """Routes for users about sessions and their contents."""

    @classmethod
    @override
    def right_for(cls, methods: Set[str]) -> Right | None:
        return "read" if methods <= {"GET", "HEAD"} else "write"


class AnswerRoute(SessionRoute):
    """Routes about requests for input: GET needs `read`, everything else `answer`."""

    @classmethod
    @override
    def right_for(cls, methods: Set[str]) -> Right | None:
        return "read" if methods <= {"GET", "HEAD"} else "answer"


class OperatorRoute(GuardedRoute):
    """Routes for the operator."""

    @classmethod
    @override
    def right_for(cls, methods: Set[str]) -> Right | None:
        return "admin"


def check_right(caller: Caller, right: Right) -> None:
    """Refuse a caller whose credential lacks a right.

    Raises:
        Forbidden: The credential lacks the right.
    """
    if right not in caller.rights and not (right == "answer" and "write" in caller.rights):
        has = ", ".join(f"`{name}`" for name in sorted(caller.rights)) or "no right"
        raise Forbidden(f"This request needs the right `{right}`; the credential has {has}.")


def security_of(route: GuardedRoute) -> list[dict[str, list[str]]]:
    """Return the route's OpenAPI security: each scheme with the right that it needs."""
    right = route.right
    if right is None:
        return []
    # A gateway without credentials needs none for any route: the empty requirement says so.
    takes = {"ticket": route.takes_ticket, "link": route.takes_share_link}
    schemes = [name for name in SECURITY_SCHEMES if takes.get(name, True)]
    return [*({name: [str(right)]} for name in schemes), {}]
