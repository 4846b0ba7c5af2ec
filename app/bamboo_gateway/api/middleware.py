"""The middleware around every route, as pure ASGI: two layers that make one check after another.

`RequestContext` gives the request its id, waits for the recovery, refuses foreign pages, and
answers errors that nothing else caught. `Admission` finds the caller, and refuses those that call
too often. The headers for foreign pages (CORS) come between the two, so that a page can read a 401.
A stream leaves all of it when its response has begun (`api.detached_response`).
"""

import asyncio
import re
from collections.abc import Callable, Set
from typing import Final

import anyio
import structlog
from starlette.responses import Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send
from structlog.contextvars import bind_contextvars, clear_contextvars

from bamboo_gateway.api.access_log import RequestLog, RequestRecord, route_of
from bamboo_gateway.api.audit import MORE_TARGETS, AuditTrail
from bamboo_gateway.api.body_memory import free_reservation
from bamboo_gateway.api.caller import CALLER, NOBODY
from bamboo_gateway.api.limits import REQUEST_ID_CHARS_MAX
from bamboo_gateway.api.prefix import PathPrefix
from bamboo_gateway.api.problem_responses import internal_problem, problem_response
from bamboo_gateway.api.security.authentication import OPEN_PATHS, Authentication
from bamboo_gateway.api.security.origins import OriginGuard
from bamboo_gateway.api.security.rate_limits import FailureLimit, RateLimit
from bamboo_gateway.api.security.url_credentials import take_credentials
from bamboo_gateway.domain.errors import BambooError, Draining
from bamboo_gateway.observability.tracing import request_span

log = structlog.get_logger(__name__)

REQUEST_ID: Final = "bamboo.request_id"
IS_HEAD: Final = "bamboo.is_head"

METRICS_PATHS: Final = frozenset({"/metrics", "/api/v1/metrics"})

_REQUEST_ID = re.compile(rb"[!-~]{1,%d}" % REQUEST_ID_CHARS_MAX)


class RequestContext:
    """Give the request an id, serve HEAD as GET without a body, and answer every error.

    This is the outermost middleware. It moves the credentials of a URL into the scope before
    anything can log them, and takes the prefix from the path before anything looks at that.

    Args:
        app: The next ASGI app.
        request_log: Counts and logs requests.
        audit: Records the audited requests; None without an audit log.
        make_id: Returns a new request id.
        recovered: Set when the sessions are recovered.
        path_prefix: Takes the prefix from the path of each request.
        origins: Refuses requests of foreign pages.
    """

    def __init__(
        self,
        app: ASGIApp,
        request_log: RequestLog,
        audit: AuditTrail | None,
        make_id: Callable[[], str],
        recovered: anyio.Event,
        path_prefix: PathPrefix,
        origins: OriginGuard,
    ) -> None:
        self._app = app
        self._request_log = request_log
        self._audit = audit
        self._make_id = make_id
        self._recovered = recovered
        self._path_prefix = path_prefix
        self._origins = origins

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handle one ASGI scope."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        take_credentials(scope)
        record = RequestRecord(scope["method"], self._request_id(scope), self._request_log.now())
        scope[REQUEST_ID] = record.request_id
        scope, refused = self._path_prefix.stripped(scope)
        if scope["method"] == "HEAD":
            # Every GET route answers HEAD (RFC 9110, 9.1); the server leaves the body out.
            scope = {**scope, "method": "GET", IS_HEAD: True}
        # The request before a pipelined one starts it, in its own context.
        clear_contextvars()
        bind_contextvars(request_id=record.request_id)

        async def send_named(message: Message) -> None:
            if message["type"] == "http.response.start":
                record.status = message["status"]
                message["headers"] = [
                    *message["headers"],
                    (b"x-request-id", record.request_id.encode("ascii")),
                ]
                if self._audit is not None:
                    await self._audit.record(scope, record)
            else:
                record.bytes += len(message.get("body", b""))
                if self._audit is not None and scope.pop(MORE_TARGETS, False):
                    await self._audit.record(scope, record)
            await send(message)

        with request_span(scope["headers"]) as span:
            try:
                await self._answer(scope, refused, receive, send_named)
            except asyncio.CancelledError:
                # Only the server cancels a request: when its time after the drain is over and it
                # still waits, or when the start fails. The task ends with this answer.
                if record.status is not None:
                    raise
                await problem_response(_cut_off(), scope)(scope, receive, send_named)
            except Exception:  # the boundary: a 500 without a trace, and the trace in the log
                if record.status is not None:
                    raise
                log.exception("a request failed", method=record.method, route=route_of(scope))
                await internal_problem(scope, record.request_id)(scope, receive, send_named)
            finally:
                free_reservation(scope)
                self._request_log.record(scope, record)
                if span is not None:
                    record.describe(span, route_of(scope))

    async def _answer(
        self, scope: Scope, refused: BambooError | None, receive: Receive, send: Send
    ) -> None:
        if not self._recovered.is_set():
            await self._wait_for_recovery(scope)
        if (refusal := self._refusal(scope, refused)) is not None:
            await refusal(scope, receive, send)
        else:
            await self._app(scope, receive, send)

    def _request_id(self, scope: Scope) -> str:
        for name, value in scope["headers"]:
            if name == b"x-request-id" and _REQUEST_ID.fullmatch(value):
                return str(value, "ascii")
        return self._make_id()

    async def _wait_for_recovery(self, scope: Scope) -> None:
        """Hold a request back until the sessions are recovered, but no health check or metrics.

        A 503 would be wrong: a browser's EventSource gives up for good at anything but 200.
        `max_tcp_connections` and the clients' own timeouts bound the requests that wait.
        """
        if scope["path"] not in OPEN_PATHS | METRICS_PATHS:
            await self._recovered.wait()

    def _refusal(self, scope: Scope, refused: BambooError | None) -> Response | None:
        try:
            self._origins.check(scope)
            if refused is not None:
                raise refused
        except BambooError as error:
            return problem_response(error, scope)
        return None


def _cut_off() -> Draining:
    """Return the answer to a request that the end of the process cuts off."""
    return Draining(
        "The gateway ended before this request was answered. It may have been carried out. "
        "Repeat it, with the same Idempotency-Key."
    )


class Admission:
    """Put the caller into the scope, and admit its request or refuse it with a problem.

    Args:
        app: The next ASGI app.
        failures: Refuses addresses that guess; None without that limit.
        authentication: Finds the caller.
        rates: Refuses callers that ask too often; None without such limits.
        open_paths: Paths that need no credential.
    """

    def __init__(
        self,
        app: ASGIApp,
        failures: FailureLimit | None,
        authentication: Authentication,
        rates: RateLimit | None,
        open_paths: Set[str] = OPEN_PATHS,
    ) -> None:
        self._app = app
        self._open_paths = open_paths
        self._failures = failures
        self._authentication = authentication
        self._rates = rates

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handle one ASGI scope."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
        elif scope["path"] in self._open_paths:
            scope[CALLER] = NOBODY
            await self._app(scope, receive, send)
        else:
            await self._admit(scope, receive, send)

    async def _admit(self, scope: Scope, receive: Receive, send: Send) -> None:
        failures, rates = self._failures, self._rates
        refusal: BambooError | None = None
        try:
            if failures is not None:
                failures.check(scope)
                send = failures.counting(scope, send)
            caller = scope[CALLER] = await self._authentication.caller_of(scope)
            if rates is not None:
                fields, refusal = await rates.count(caller)
                send = _with_fields(send, fields) if fields else send
        except BambooError as error:
            refusal = error
        if refusal is not None:
            response = problem_response(refusal, scope)
            refusal = None  # its traceback had this frame
            await response(scope, receive, send)
        else:
            await self._app(scope, receive, send)


def _with_fields(send: Send, fields: list[tuple[bytes, bytes]]) -> Send:
    async def send_with_fields(message: Message) -> None:
        if message["type"] == "http.response.start":
            message["headers"] = [*message["headers"], *fields]
        await send(message)

    return send_with_fields
