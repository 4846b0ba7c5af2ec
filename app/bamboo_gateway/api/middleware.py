"""The middleware around every route, as pure ASGI.

`RequestContext` gives the request its id and answers errors that nothing else caught.
`WaitForRecovery` holds requests back until the sessions are recovered. `OriginGuard` keeps web
pages away from a gateway that asks for no credential. A stream leaves all of it when its response
has begun (`api.detached_response`).
"""

import re
from collections.abc import Callable
from ipaddress import IPv6Address, ip_address
from typing import Final

import anyio
import structlog
from starlette.types import ASGIApp, Message, Receive, Scope, Send
from structlog.contextvars import bind_contextvars, clear_contextvars

from bamboo_gateway.api.access_log import RequestLog, RequestRecord, route_of
from bamboo_gateway.api.audit import MORE_TARGETS, AuditTrail
from bamboo_gateway.api.body_memory import free_reservation
from bamboo_gateway.api.limits import REQUEST_ID_CHARS_MAX
from bamboo_gateway.api.problem_responses import internal_problem, problem_response
from bamboo_gateway.api.problems import EdgeError
from bamboo_gateway.api.security.authentication import OPEN_PATHS
from bamboo_gateway.api.security.origins import is_own_origin
from bamboo_gateway.api.security.url_credentials import take_credentials
from bamboo_gateway.credentials.gate import Gate
from bamboo_gateway.domain.errors import BambooError, InvalidId
from bamboo_gateway.observability.tracing import request_span
from bamboo_gateway.settings import Settings

log = structlog.get_logger(__name__)

REQUEST_ID: Final = "bamboo.request_id"
IS_HEAD: Final = "bamboo.is_head"

METRICS_PATHS: Final = frozenset({"/metrics", "/api/v1/metrics"})

_REQUEST_ID = re.compile(rb"[!-~]{1,%d}" % REQUEST_ID_CHARS_MAX)
_HOST = re.compile(r"(?P<name>\[[0-9A-Fa-f:.]+\]|[^\[\]:]+)(?::[0-9]{0,5})?")


class RequestContext:
    """Give the request an id, serve HEAD as GET without a body, and answer every error.

    This is the outermost middleware. It moves the credentials of a URL into the scope before
    anything can log them.

    Args:
        app: The next ASGI app.
        request_log: Counts and logs requests.
        audit: Records the audited requests; None without an audit log.
        make_id: Returns a new request id.
    """

    def __init__(
        self,
        app: ASGIApp,
        request_log: RequestLog,
        audit: AuditTrail | None,
        make_id: Callable[[], str],
    ) -> None:
        self._app = app
        self._request_log = request_log
        self._audit = audit
        self._make_id = make_id

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handle one ASGI scope."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        take_credentials(scope)
        record = RequestRecord(scope["method"], self._request_id(scope), self._request_log.now())
        scope[REQUEST_ID] = record.request_id
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
                await self._app(scope, receive, send_named)
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

    def _request_id(self, scope: Scope) -> str:
        for name, value in scope["headers"]:
            if name == b"x-request-id" and _REQUEST_ID.fullmatch(value):
                return str(value, "ascii")
        return self._make_id()


class WaitForRecovery:
    """Hold requests back until the sessions are recovered, except health checks and metrics.

    A 503 would be wrong: a browser's EventSource gives up for good at anything but 200.
    `max_tcp_connections` and the clients' own timeouts bound the requests that wait.

    Args:
        app: The next ASGI app.
        recovered: Set when the sessions are recovered.
    """

    def __init__(self, app: ASGIApp, recovered: anyio.Event) -> None:
        self._app = app
        self._recovered = recovered

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handle one ASGI scope."""
        is_early = not self._recovered.is_set() and scope["type"] == "http"
        if is_early and scope["path"] not in OPEN_PATHS | METRICS_PATHS:
            await self._recovered.wait()
        await self._app(scope, receive, send)


class OriginGuard:
    """Refuse requests that a web page of another origin makes a browser send.

    A gateway without credentials serves everyone who reaches its port. Therefore it closes two ways
    to it: a name that an attacker's DNS points at this machine (`Host`), and a page of another
    origin (`Origin`). With credentials a foreign page has none to send, and the gateway may run
    behind any name.

    `bamboo serve` refuses to listen on an address that other machines reach without credentials.
    Another server may do it, so this middleware refuses what came in by such an address.

    With `insecure` the address may be any, and the host may also be an IP address or a name without
    dots: DNS rebinding needs a name in the attacker's own DNS.
    """

    def __init__(self, app: ASGIApp, settings: Settings, gate: Gate) -> None:
        self._app = app
        self._gate = gate
        self._insecure = settings.insecure
        self._origins = frozenset(settings.cors_origins)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handle one ASGI scope."""
        if scope["type"] == "http":
            try:
                self._check(scope)
            except BambooError as error:
                await problem_response(error, scope)(scope, receive, send)
                return
        await self._app(scope, receive, send)

    def _check(self, scope: Scope) -> None:
        hosts = [value for name, value in scope["headers"] if name == b"host"]
        if len(hosts) > 1:
            raise EdgeError("malformed", "The request has more than one Host header.")
        if b"%2f" in scope["raw_path"].lower():
            # The server decodes the path: an id with a slash would match another route.
            raise InvalidId(
                "An id cannot contain a slash.",
                errors=[{"loc": ["path"], "msg": "%2F is not allowed"}],
            )
        if not self._gate.is_open:
            return
        if not (self._insecure or _is_local(scope)):
            raise EdgeError(
                "host-not-allowed",
                "This gateway asks for no credential, so it answers only on a loopback address.",
            )
        host = hosts[0].decode("latin-1") if hosts else ""
        if not self._is_own_name(host):
            raise EdgeError("host-not-allowed")
        for name, value in scope["headers"]:
            if name == b"origin" and not self._may_call(value.decode("latin-1"), host):
                raise EdgeError("origin-not-allowed")

    def _is_own_name(self, host: str) -> bool:
        match = _HOST.fullmatch(host)
        if match is None:
            return False
        name = match["name"].lower().removesuffix(".")
        if name == "localhost" or name.endswith(".localhost"):
            return True
        try:
            address = ip_address(name.strip("[]"))
        except ValueError:
            return self._insecure and "." not in name
        return address.is_loopback or self._insecure

    def _may_call(self, origin: str, host: str) -> bool:
        return origin in self._origins or "*" in self._origins or is_own_origin(origin, host)


def _is_local(scope: Scope) -> bool:
    """Return whether a request came in by a loopback address, or by no IP address at all."""
    host = (scope.get("server") or ("",))[0]
    try:
        address = ip_address(host.partition("%")[0])
    except ValueError:
        return True  # a Unix socket, or a test without a server
    mapped = address.ipv4_mapped if isinstance(address, IPv6Address) else None
    return (mapped or address).is_loopback
