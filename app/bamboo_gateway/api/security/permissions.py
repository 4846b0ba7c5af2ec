"""What a caller needs for each route: declared by the class of its router's routes.

`OpenRoute` asks for nothing, `ReadRoute` for `read`, `SessionRoute` for `read` to look and for
`write` to change something, `OperatorRoute` for `admin`. There is no route without such a class:
the app does not start, and no document is made of it. Who came for one session gets to few routes:
with a ticket to those that `takes_ticket` marks, by a link to `SHARED_PATHS`.
"""

from collections.abc import Callable, Coroutine, Set
from typing import Any, Final, TypeVar

from starlette.requests import Request
from starlette.responses import Response
from typing_extensions import override

from bamboo_gateway.api.bodies import JsonRoute
from bamboo_gateway.api.caller import CALLER
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
        "`scp` may name the rights, which are `read` and `write` otherwise.",
    },
    "cookie": {
        "type": "apiKey",
        "in": "cookie",
        "name": COOKIE,
        "description": "A login's cookie. What changes something needs an `Origin` that may call.",
    },
    "ticket": {
        "type": "apiKey",
        "in": "query",
        "name": "ticket",
        "description": "A ticket to the session, from `POST /sessions/{session_id}/ticket`.",
    },
    "link": {
        "type": "apiKey",
        "in": "query",
        "name": "share",
        "description": "The token of a link that a session is shared by.",
    },
}
"""How a caller may come in, for the OpenAPI document."""


_Endpoint = TypeVar("_Endpoint", bound=Callable[..., Any])
_TICKET_ENDPOINTS: Final[set[Callable[..., Any]]] = set()


def takes_ticket(endpoint: _Endpoint) -> _Endpoint:
    """Marks an endpoint about one session that a page with a ticket for it may read."""
    _TICKET_ENDPOINTS.add(endpoint)
    return endpoint


class GuardedRoute(JsonRoute):
    """A route that says which right it needs; it is asked for before anything is read or found."""

    @classmethod
    def right_for(cls, methods: Set[str]) -> Right | None:
        """Gives the right that a route with these methods needs; None: not even a credential."""
        raise NotImplementedError

    @property
    def right(self) -> Right | None:
        """The right that this route needs."""
        return self.right_for(self.methods or set())

    @property
    def takes_ticket(self) -> bool:
        """Whether who came for one session gets here, for that session."""
        return self.endpoint in _TICKET_ENDPOINTS

    @property
    def takes_link(self) -> bool:
        """Whether who came by a session's link gets here, for that session."""
        return self.path in SHARED_PATHS and self.right == "read"

    @override
    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        handle = super().get_route_handler()
        right = self.right
        if right is None:
            return handle
        takes_ticket, takes_link = self.takes_ticket, self.takes_link

        async def handler(request: Request) -> Response:
            caller: Caller = request.scope[CALLER]
            check_right(caller, right)
            takes = takes_ticket if caller.share_id is None else takes_link
            if caller.session_id is not None and not takes:
                raise Forbidden("What you came with opens one session, to read, and not this.")
            return await handle(request)

        return handler


class OpenRoute(GuardedRoute):
    """For whoever reaches the gateway."""

    @classmethod
    @override
    def right_for(cls, methods: Set[str]) -> Right | None:
        return None


class ReadRoute(GuardedRoute):
    """For users: what changes nothing of anybody's, whatever its method."""

    @classmethod
    @override
    def right_for(cls, methods: Set[str]) -> Right | None:
        return "read"


class SessionRoute(GuardedRoute):
    """For users: sessions and what is in them."""

    @classmethod
    @override
    def right_for(cls, methods: Set[str]) -> Right | None:
        return "read" if methods <= {"GET", "HEAD"} else "write"


class OperatorRoute(GuardedRoute):
    """For whoever runs the gateway."""

    @classmethod
    @override
    def right_for(cls, methods: Set[str]) -> Right | None:
        return "admin"


def check_right(caller: Caller, right: Right) -> None:
    """Refuses a caller whose credential does not allow it.

    Raises:
        Forbidden: It does not.
    """
    if right not in caller.rights:
        has = ", ".join(f"`{name}`" for name in sorted(caller.rights)) or "none"
        raise Forbidden(f"This needs the right `{right}`; the credential's rights: {has}.")


def security_of(route: GuardedRoute) -> list[dict[str, list[str]]]:
    """Gives the route's OpenAPI security: each scheme with the right that it has to bring."""
    right = route.right
    if right is None:
        return []
    # Without credentials configured no route needs one: the empty requirement says so.
    takes = {"ticket": route.takes_ticket, "link": route.takes_link}
    schemes = [name for name in SECURITY_SCHEMES if takes.get(name, True)]
    return [*({name: [str(right)]} for name in schemes), {}]
