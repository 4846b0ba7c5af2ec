"""All routes: which there are, and the document that describes them."""

from collections.abc import Sequence
from functools import cache, lru_cache, partial
from typing import Any, Final

from fastapi import APIRouter, FastAPI

from bamboo_gateway.api.openapi.document import describe_routes, servers_of
from bamboo_gateway.api.routes import (
    about,
    agents,
    archive,
    branches,
    changes,
    chat,
    diagnostics,
    events,
    export,
    extensions,
    files,
    fork,
    health,
    inputs,
    joint_streams,
    login,
    maintenance,
    messages,
    runs,
    search,
    sessions,
    shares,
    statistics,
    streams,
    summaries,
    users,
    webhooks,
)
from bamboo_gateway.api.security.rights import GuardedRoute
from bamboo_gateway.domain.codec import encode

ROUTERS: Final[tuple[APIRouter, ...]] = (
    chat.router,
    agents.router,
    streams.router,
    joint_streams.router,
    changes.router,
    events.router,
    runs.router,
    inputs.router,
    messages.router,
    files.router,
    branches.router,
    sessions.router,
    search.router,
    archive.router,
    export.router,
    shares.router,
    webhooks.router,
    fork.router,
    summaries.router,
    statistics.router,
    extensions.router,
    maintenance.router,
    users.router,
    login.router,
    login.open_router,
    diagnostics.gateway_router,
    diagnostics.router,
    health.router,
    health.metrics_router,
    about.open_router,
    about.router,
)


def add_routes(app: FastAPI, wires: Sequence[APIRouter] = ()) -> None:
    """Add all routes to the app, with those of these wires."""
    app.router.routes.extend(guarded_routes(wires))


def guarded_routes(wires: Sequence[APIRouter] = ()) -> list[GuardedRoute]:
    """Return all routes, with those of these wires.

    Raises:
        TypeError: A route does not declare which right it needs.
    """
    routes = []
    for router in (*ROUTERS, *wires):
        for route in router.routes:
            if not isinstance(route, GuardedRoute):
                raise TypeError(
                    f"{route} needs a route_class of bamboo_gateway.api.security.rights"
                )
            routes.append(route)
    return routes


def create_openapi(wires: Sequence[APIRouter] = ()) -> dict[str, Any]:
    """Build the OpenAPI 3.1 document of all routes, with those of these wires."""
    return describe_routes(guarded_routes(wires))


class OpenapiJson:
    """The encoded OpenAPI document of a gateway behind a prefix."""

    def __init__(self, wires: Sequence[APIRouter] = ()) -> None:
        self._document = cache(partial(create_openapi, wires))
        # Few proxies are in front of one gateway; each document takes 1 MB.
        self._encoded = lru_cache(maxsize=4)(self._encode)

    def __call__(self, prefix: str) -> bytes:
        """Return the document for requests with a prefix; it is empty without one."""
        return self._encoded(prefix)

    def _encode(self, prefix: str) -> bytes:
        return encode({**self._document(), "servers": servers_of(prefix)})
