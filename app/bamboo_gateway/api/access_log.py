"""What passes the edge: counted, and told to the log in one line a request.

A stream counts when it has begun; its end is told by `sessions.streams`. Nothing of a line or a
label is the client's choice but the id it may give to its request.
"""

from collections import Counter, defaultdict
from typing import Final, Literal, get_args

import structlog
from starlette.types import Scope

from bamboo_gateway.api.caller import CALLER
from bamboo_gateway.api.problems import PROBLEM, PROBLEMS
from bamboo_gateway.api.security.authentication import OPEN_PATHS
from bamboo_gateway.domain.callers import Caller
from bamboo_gateway.domain.clock import Clock
from bamboo_gateway.observability.histogram import REQUEST_SECONDS, Histogram
from bamboo_gateway.observability.metrics import Measures
from bamboo_gateway.observability.tracing import Span

log = structlog.get_logger(__name__)

UNMATCHED: Final = "unmatched"
"""Stands for the route of requests that reached none."""

MAY_WAIT: Final = "bamboo.may_wait"
"""Where the scope says that a request is meant to take long: it asked to wait, or streams."""

_METHODS: Final = frozenset({"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"})

_QUIET_PATHS: Final = OPEN_PATHS | {"/metrics", "/api/v1/metrics"}
"""Asked for every few seconds for ever: told at the level `debug`, as long as all is well."""

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
    "unread",
]
"""Why the gateway ended a TCP connection; see `protocol`."""


class RequestRecord:
    """A request and its answer, as far as it has come.

    Attributes:
        method: As the client sent it.
        request_id: Its name in answers and in the log.
        began: When, on the monotonic clock.
        status: What was answered; None as long as nothing was.
        bytes: How much of a body was answered.
    """

    __slots__ = ("began", "bytes", "method", "request_id", "status")

    def __init__(self, method: str, request_id: str, began: float) -> None:
        self.method = method if method in _METHODS else "other"
        self.request_id = request_id
        self.began = began
        self.status: int | None = None
        self.bytes = 0

    def describe(self, span: Span, route: str) -> None:
        """Says of a span what it was about, in OpenTelemetry's words for HTTP."""
        attributes = {
            "http.request.method": self.method,
            "http.route": route,
            "http.response.status_code": self.status or 0,
            "bamboo.request_id": self.request_id,
        }
        span.answered(f"{self.method} {route}", attributes, failed=(self.status or 500) >= 500)


class Traffic:
    """Plain numbers for /metrics, with labels that no client can choose, and the access log.

    Args:
        clock: Where the time comes from.
        slow_seconds: Requests that take longer are told as a warning.
        access_log: Whether the others are told at all.

    Attributes:
        problems: How often each problem was answered, by its code.
        cut: TCP connections that the gateway ended, by reason.
    """

    def __init__(self, clock: Clock, *, slow_seconds: float, access_log: bool) -> None:
        self._clock = clock
        self._slow_seconds = slow_seconds
        self._access_log = access_log
        # At 0 from the start: Prometheus does not see the step from no number to 1.
        self.problems = Counter[str](dict.fromkeys(PROBLEMS, 0))
        self.cut = Counter[CutReason](dict.fromkeys(get_args(CutReason), 0))
        self._requests = Counter[tuple[str, ...]]()
        self._seconds = defaultdict[tuple[str, ...], Histogram](lambda: Histogram(REQUEST_SECONDS))

    def now(self) -> float:
        """Gives what an exchange begins with."""
        return self._clock.monotonic()

    def ended(self, scope: Scope, exchange: RequestRecord) -> None:
        """Counts and tells a request that is answered, or whose stream has begun.

        Args:
            scope: The request's, after its route was looked for.
            exchange: What became of it.
        """
        method, status, route = exchange.method, exchange.status, route_of(scope)
        seconds = self._clock.monotonic() - exchange.began
        self._requests[method, route, f"{status // 100}xx" if status else "none"] += 1
        self._seconds[method, route].observe(seconds)
        is_slow = seconds > self._slow_seconds and MAY_WAIT not in scope
        if not (is_slow or self._access_log):
            return
        if is_slow:
            tell = log.warning
        elif scope["path"] in _QUIET_PATHS and status == 200:
            tell = log.debug
        else:
            tell = log.info
        caller: Caller | None = scope.get(CALLER)
        problem = {"code": scope[PROBLEM]} if PROBLEM in scope else {}
        tell(
            "slow request" if is_slow else "request",
            method=method,
            route=route,
            status=status,
            ms=round(seconds * 1000, 1),
            bytes=exchange.bytes,
            caller=caller.id if caller else None,
            **problem,
        )

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
