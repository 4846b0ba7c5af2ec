"""The table in which a request's route is found.

The framework tries the patterns of all routes one after the other. The table walks the path once,
segment by segment, however many routes there are.
"""

from collections.abc import Iterable
from typing import NamedTuple

from bamboo_gateway.api.security.rights import GuardedRoute


class _End(NamedTuple):
    """A route at the end of its path."""

    order: int
    route: GuardedRoute
    methods: frozenset[str]
    parameters: list[tuple[str, int]]
    """The names of the parameters, and which segments they are."""


class _Node:
    """A place in the tree of all paths.

    Attributes:
        fixed: The next nodes, by their segment.
        any: The next node of paths with a parameter here.
        ends: The routes whose path ends here.
    """

    __slots__ = ("any", "ends", "fixed")

    def __init__(self) -> None:
        self.fixed: dict[str, _Node] = {}
        self.any: _Node | None = None
        self.ends: list[_End] = []


class Found(NamedTuple):
    """The route of a path and a method.

    Attributes:
        route: The first route that matches; one of another method when `allowed` is not None.
        path_params: Its parameters in the path.
        allowed: The methods that the path takes, if the request's is none of them.
    """

    route: GuardedRoute
    path_params: dict[str, str]
    allowed: list[str] | None


class RouteTable:
    """All routes, by path and method. Of several that match the one that was declared first counts.

    Args:
        routes: The routes in the order of their declaration. A parameter is a whole segment.
    """

    def __init__(self, routes: Iterable[GuardedRoute]) -> None:
        self._root = _Node()
        for order, route in enumerate(routes):
            self._add(order, route)

    def find(self, method: str, path: str) -> Found | None:
        """Return the route of a request; None when no route has this path."""
        segments = path.split("/")
        nodes = [self._root]
        for segment in segments:
            nodes = [
                following
                for node in nodes
                for following in (node.fixed.get(segment), node.any if segment else None)
                if following is not None
            ]
            if not nodes:
                return None
        ends = [end for node in nodes for end in node.ends]
        if not ends:
            return None
        ends.sort(key=_order)
        for end in ends:
            if method in end.methods:
                return Found(end.route, _path_params(end, segments), None)
        allowed = {name for end in ends for name in end.methods}
        if "GET" in allowed:
            allowed.add("HEAD")
        return Found(ends[0].route, _path_params(ends[0], segments), sorted(allowed))

    def _add(self, order: int, route: GuardedRoute) -> None:
        node = self._root
        parameters: list[tuple[str, int]] = []
        for place, segment in enumerate(route.path.split("/")):
            if segment.startswith("{"):
                parameters.append((segment.strip("{}"), place))
                node.any = node.any or _Node()
                node = node.any
            else:
                node = node.fixed.setdefault(segment, _Node())
        node.ends.append(_End(order, route, frozenset(route.methods or ()), parameters))


def _order(end: _End) -> int:
    return end.order


def _path_params(end: _End, segments: list[str]) -> dict[str, str]:
    return {name: segments[place] for name, place in end.parameters}
