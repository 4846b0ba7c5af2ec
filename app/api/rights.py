"""What a caller needs for each route: declared by the class of its router's routes.

`OpenRoute` asks for nothing, `SessionRoute` for `read` to look and for `write` to change something,
`OperatorRoute` for `admin`. There is no route without such a class: the app does not start, and no
document is made of it.
"""

from collections.abc import Callable, Coroutine, Set
from typing import Any, Final

from starlette.requests import Request
from starlette.responses import Response
from typing_extensions import override

from app.api.auth import CALLER
from app.api.bodies import JsonRoute
from app.domain.callers import Caller, Right
from app.domain.errors import Forbidden

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
}
"""How a caller may come in, for the OpenAPI document."""


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

    @override
    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        handle = super().get_route_handler()
        right = self.right
        if right is None:
            return handle

        async def handler(request: Request) -> Response:
            check_right(request.scope[CALLER], right)
            return await handle(request)

        return handler


class OpenRoute(GuardedRoute):
    """For whoever reaches the gateway."""

    @classmethod
    @override
    def right_for(cls, methods: Set[str]) -> Right | None:
        return None


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
    return [*({scheme: [str(right)]} for scheme in SECURITY_SCHEMES), {}]
