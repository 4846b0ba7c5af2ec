"""The console's routes, or none. Its module is imported only when the gateway serves it."""

from collections.abc import Sequence
from typing import NamedTuple

from fastapi import APIRouter


class Console(NamedTuple):
    """What an app needs for the console.

    Attributes:
        routers: The routes.
        open_paths: The paths that need no credential: a page that asks for a login has none yet.
    """

    routers: Sequence[APIRouter]
    open_paths: frozenset[str]


def make_console(*, enabled: bool) -> Console:
    """Return the console, or one without routes."""
    if not enabled:
        return Console((), frozenset())
    from bamboo_gateway.console.routes import OPEN_PATHS, router

    return Console((router,), OPEN_PATHS)
