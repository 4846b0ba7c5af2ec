"""Gateways whose callers are users: a header names the user, in place of credentials."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import httpx
from fastapi import FastAPI
from starlette.middleware import Middleware
from starlette.types import ASGIApp, Receive, Scope, Send

from bamboo_gateway.api.caller import CALLER
from bamboo_gateway.domain.callers import ALL_RIGHTS, Caller
from tests.api.serving import Served, serving

_USER = b"x-test-user"
_ONLY_SESSION = b"x-test-only-session"


class _AsUser:
    """Puts the user that a header names in the place of the caller; without one it stays."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http":
            headers = dict(scope["headers"])
            if (user := headers.get(_USER)) is not None:
                only = headers.get(_ONLY_SESSION)
                scope[CALLER] = Caller(
                    f"user-{user.decode()}",
                    user_id=user.decode(),
                    rights=ALL_RIGHTS - {"admin"} if only is None else frozenset({"read"}),
                    session_id=only.decode() if only is not None else None,
                )
        await self._app(scope, receive, send)


@contextmanager
def serving_users(**settings: Any) -> Iterator[Served]:
    """Run a gateway; `user` gives clients of it."""

    def prepare(app: FastAPI) -> None:
        # The innermost: what authenticates has had its say.
        app.user_middleware.append(Middleware(_AsUser))

    with serving(prepare, **settings) as running:
        yield running


@contextmanager
def user(served: Served, name: str, only_session: str | None = None) -> Iterator[httpx.Client]:
    """A client of `/api/v1` that is this user; with `only_session` it came for that one alone."""
    headers = {_USER.decode(): name}
    if only_session is not None:
        headers[_ONLY_SESSION.decode()] = only_session
    with served.client(headers=headers) as client:
        yield client
