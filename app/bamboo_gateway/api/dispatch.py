"""The app: FastAPI's declarations and document, with a dispatch of its own.

FastAPI and Starlette pass a request through eight layers of theirs before a route has it: for
mounted apps, forms, errors of debugging, telemetry, and resources that dependencies hold. The
gateway has none of these. Here a request goes through the gateway's own middleware, finds its route
in a table, and its response is sent.

A program that embeds the app may add routes of its own before the first request. A path that the
gateway does not have is left to FastAPI then.
"""

from collections.abc import Sequence

from fastapi import FastAPI
from starlette.requests import Request
from starlette.responses import Response
from starlette.types import ASGIApp, Receive, Scope, Send
from typing_extensions import override

from bamboo_gateway.api.detached_response import run_detached
from bamboo_gateway.api.prefix import put_back
from bamboo_gateway.api.problem_responses import error_response
from bamboo_gateway.api.problems import PROBLEMS, EdgeError
from bamboo_gateway.api.route_table import Found, RouteTable
from bamboo_gateway.api.security.rights import GuardedRoute


class GatewayApp(FastAPI):
    """The gateway's ASGI app. The gateway's routes are `GuardedRoute`s."""

    @override
    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await super().__call__(scope, receive, send)
            return
        scope["app"] = self
        if self.middleware_stack is None:
            self.middleware_stack = self.build_middleware_stack()
        await run_detached(self.middleware_stack, scope, receive, send)

    @override
    def build_middleware_stack(self) -> ASGIApp:
        own = [route for route in self.routes if isinstance(route, GuardedRoute)]
        layers, self.user_middleware = self.user_middleware, []
        others = super().build_middleware_stack() if len(own) < len(self.routes) else None
        self.user_middleware = layers
        app: ASGIApp = Dispatch(self.router, own, others)
        for layer, args, kwargs in reversed(layers):
            app = layer(app, *args, **kwargs)
        return app


class Dispatch:
    """Answer each request with the response of its route, or with a problem.

    Args:
        router: Takes what is no request, as the lifespan.
        routes: The gateway's routes.
        others: Takes requests of other paths; None when nobody has added routes.
    """

    def __init__(
        self, router: ASGIApp, routes: Sequence[GuardedRoute], others: ASGIApp | None = None
    ) -> None:
        self._router = router
        self._table = RouteTable(routes)
        self._others = others

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handle one ASGI scope."""
        if scope["type"] != "http":
            await self._router(scope, receive, send)
            return
        found = self._table.find(scope["method"], scope["path"])
        if found is None and self._others is not None:
            put_back(scope)
            await self._others(scope, receive, send)
            return
        request = Request(scope, receive, send)
        try:
            response = await self._respond(request, found)
        except Exception as error:
            answer = error_response(error, request)
            if answer is None:
                raise
            response = answer
        await response(scope, receive, send)

    async def _respond(self, request: Request, found: Found | None) -> Response:
        scope = request.scope
        if found is None:
            raise EdgeError("not-found", PROBLEMS["not-found"].example)
        scope["route"], scope["path_params"] = found.route, found.path_params
        if found.allowed is not None:
            raise EdgeError(
                "method-not-allowed",
                f"This route has no method {scope['method']}; the Allow header lists its methods.",
                headers={"Allow": ", ".join(found.allowed)},
            )
        return await found.route.respond(request)
