"""One log line and one count for every request.

A stream counts when its response has begun; `sessions.streaming` logs its end. No label and no
part of a line is the client's choice, except the id that a client may give its request.
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
"""The route label of requests that matched no route."""

MAY_WAIT: Final = "bamboo.may_wait"
"""In the scope of a request that is meant to take long: it asked to wait, or it streams."""

_METHODS: Final = frozenset({"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"})

_QUIET_PATHS: Final = OPEN_PATHS | {"/metrics", "/api/v1/metrics"}
"""Monitoring asks for these every few seconds: a 200 is logged at the level `debug`."""

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
"""Why the gateway closed a TCP connection; `server.http1` has each bound and its reason."""


class RequestRecord:
    """A request and what is known of its response.

    Attributes:
        method: The request's method; `other` when HTTP does not define it.
        request_id: Its id in answers and in the log.
        began: When it began, in seconds on the monotonic clock.
        status: The status of the response; None before the response begins.
        bytes: Bytes of the response's body so far.
    """

    __slots__ = ("began", "bytes", "method", "request_id", "status")

    def __init__(self, method: str, request_id: str, began: float) -> None:
        self.method = method if method in _METHODS else "other"
        self.request_id = request_id
        self.began = began
        self.status: int | None = None
        self.bytes = 0

    def describe(self, span: Span, route: str) -> None:
        """Set a span's attributes, with OpenTelemetry's names for HTTP."""
        attributes = {
            "http.request.method": self.method,
            "http.route": route,
            "http.response.status_code": self.status or 0,
            "bamboo.request_id": self.request_id,
        }
        span.answered(f"{self.method} {route}", attributes, failed=(self.status or 500) >= 500)


class RequestLog:
    """Write the access log, and count requests for /metrics with labels no client can choose.

    Args:
        clock: The source of the time.
        slow_seconds: Requests that take longer are logged as a warning.
        access_log: Whether the other requests are logged at all.

    Attributes:
        problems: How often each problem was answered, by its code.
        connections_cut: TCP connections that the gateway closed, by reason.
    """

    def __init__(self, clock: Clock, *, slow_seconds: float, access_log: bool) -> None:
        self._clock = clock
        self._slow_seconds = slow_seconds
        self._access_log = access_log
        # At 0 from the start: Prometheus does not see the step from no number to 1.
        self.problems = Counter[str](dict.fromkeys(PROBLEMS, 0))
        self.connections_cut = Counter[CutReason](dict.fromkeys(get_args(CutReason), 0))
        self._requests = Counter[tuple[str, ...]]()
        self._seconds = defaultdict[tuple[str, ...], Histogram](lambda: Histogram(REQUEST_SECONDS))

    def now(self) -> float:
        """Return the monotonic time, for `RequestRecord.began`."""
        return self._clock.monotonic()

    def record(self, scope: Scope, record: RequestRecord) -> None:
        """Count and log a request that is answered, or whose stream has begun.

        Args:
            scope: The request's scope, after routing.
            record: The request and its response.
        """
        method, status, route = record.method, record.status, route_of(scope)
        seconds = self._clock.monotonic() - record.began
        self._requests[method, route, f"{status // 100}xx" if status else "none"] += 1
        self._seconds[method, route].observe(seconds)
        is_slow = seconds > self._slow_seconds and MAY_WAIT not in scope
        if not (is_slow or self._access_log):
            return
        if is_slow:
            write = log.warning
        elif scope["path"] in _QUIET_PATHS and status == 200:
            write = log.debug
        else:
            write = log.info
        caller: Caller | None = scope.get(CALLER)
        problem = {"code": scope[PROBLEM]} if PROBLEM in scope else {}
        write(
            "slow request" if is_slow else "request",
            method=method,
            route=route,
            status=status,
            ms=round(seconds * 1000, 1),
            bytes=record.bytes,
            caller=caller.id if caller else None,
            **problem,
        )

    def measures(self) -> Measures:
        """Return the metric families about requests and connections."""
        return {
            "requests_total": dict(self._requests),
            "request_seconds": dict(self._seconds),
            "problems_total": {(code,): count for code, count in self.problems.items()},
            "connections_cut_total": {
                (reason,): count for reason, count in self.connections_cut.items()
            },
        }


def route_of(scope: Scope) -> str:
    """Return the template of the route that a request matched."""
    route = scope.get("route")
    return route.path if route is not None else UNMATCHED
