"""What passes the edge, counted: requests, and connections that the gateway cut."""

from collections import Counter, defaultdict
from typing import Final, Literal, get_args

from starlette.types import Scope

from app.api.problems import PROBLEMS
from app.domain.clock import Clock
from app.observability.histogram import REQUEST_SECONDS, Histogram
from app.observability.metrics import Measures

UNMATCHED: Final = "unmatched"
"""Stands for the route of requests that reached none."""

_METHODS: Final = frozenset({"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"})


CutReason = Literal[
    "too_many",
    "too_many_of_address",
    "unused",
    "idle",
    "head_late",
    "head_too_large",
    "body_stalled",
    "body_slow",
    "mid_answer",
]
"""Why the gateway ended a TCP connection; see `protocol`."""


class Traffic:
    """Plain numbers for /metrics, with labels that no client can choose.

    Attributes:
        problems: How often each problem was answered, by its code.
        cut: TCP connections that the gateway ended, by reason.
    """

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        # At 0 from the start: Prometheus does not see the step from no number to 1.
        self.problems = Counter[str](dict.fromkeys(PROBLEMS, 0))
        self.cut = Counter[CutReason](dict.fromkeys(get_args(CutReason), 0))
        self._requests = Counter[tuple[str, ...]]()
        self._seconds = defaultdict[tuple[str, ...], Histogram](lambda: Histogram(REQUEST_SECONDS))

    def began(self) -> float:
        """Gives what `answered` wants to know of a request's beginning."""
        return self._clock.monotonic()

    def answered(self, method: str, scope: Scope, status: int | None, began: float) -> None:
        """Counts a request that is answered, or whose stream has begun.

        Args:
            method: As the client sent it.
            scope: The request's, after its route was looked for.
            status: What was answered; None when there was nobody left to answer.
            began: What `began` gave.
        """
        method = method if method in _METHODS else "other"
        route = route_of(scope)
        self._requests[method, route, f"{status // 100}xx" if status else "none"] += 1
        self._seconds[method, route].observe(self._clock.monotonic() - began)

    def measures(self) -> Measures:
        """Gives the families of `observability.metrics` that the edge has."""
        return {
            "requests_total": dict(self._requests),
            "request_seconds": dict(self._seconds),
            "problems_total": {(code,): count for code, count in self.problems.items()},
            "connections_cut_total": {(reason,): count for reason, count in self.cut.items()},
        }


def route_of(scope: Scope) -> str:
    """Gives the template of the route that a request has reached."""
    route = scope.get("route")
    return route.path if route is not None else UNMATCHED
