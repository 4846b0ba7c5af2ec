"""The table finds the route that the framework's own matching finds."""

import pytest
from starlette.routing import Match

from bamboo_gateway.api.route_table import RouteTable
from bamboo_gateway.api.routing import guarded_routes
from bamboo_gateway.api.security.rights import GuardedRoute
from bamboo_gateway.wires.factory import wire_routers

ROUTES = guarded_routes(wire_routers())
TABLE = RouteTable(ROUTES)
METHODS = ("GET", "POST", "PUT", "PATCH", "DELETE", "OPTIONS")
PATHS = sorted(
    {
        path
        for route in ROUTES
        for name in ("s-1", "restore", "a%b", "é")
        for path in (
            route.path.replace("{session_id}", name).replace("{run_id}", name),
            route.path.replace("{session_id}", "") + "/",
            route.path + "/more",
        )
    }
    | {"", "//", "/api", "/api/v1//sessions", "/api/v2/sessions", "x"}
)


def _first_match(method: str, path: str) -> tuple[GuardedRoute, dict[str, str], bool] | None:
    """What Starlette's router does: the first full match, else the first of another method."""
    other = None
    for route in ROUTES:
        match, scope = route.matches({"type": "http", "method": method, "path": path})
        if match is Match.FULL:
            return route, scope["path_params"], True
        if match is Match.PARTIAL and other is None:
            other = route, scope["path_params"], False
    return other


@pytest.mark.parametrize("method", METHODS)
def test_the_table_agrees_with_the_routes_own_patterns(method: str) -> None:
    for path in PATHS:
        found, expected = TABLE.find(method, path), _first_match(method, path)
        if found is None or expected is None:
            assert (found, expected) == (None, None), path
        else:
            route, path_params, is_full = expected
            assert (found.route, found.path_params) == (route, path_params), path
            assert (found.allowed is None) is is_full, path


def test_a_path_of_other_methods_names_all_that_it_takes() -> None:
    found = TABLE.find("PUT", "/api/v1/sessions/s-1")
    assert found is not None
    assert found.allowed == ["DELETE", "GET", "HEAD", "PATCH"]


def test_a_path_that_is_longer_by_a_line_end_is_no_route() -> None:
    assert TABLE.find("GET", "/health/live\n") is None
