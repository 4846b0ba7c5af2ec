"""What every request passes before its route: pure ASGI.

`RequestContext` names the request and catches what nobody caught; `Guard` keeps web pages away from
a gateway that asks for no credential. Streams pay for none of it once they have begun: see `stage`.
"""

import re
from collections.abc import Callable
from ipaddress import ip_address
from typing import Final

import anyio
import structlog
from starlette.types import ASGIApp, Message, Receive, Scope, Send
from structlog.contextvars import bind_contextvars, clear_contextvars

from bamboo_gateway.api.access_log import RequestRecord, Traffic, route_of
from bamboo_gateway.api.audit import MORE_TARGETS, AuditTrail
from bamboo_gateway.api.body_memory import release_body
from bamboo_gateway.api.limits import REQUEST_ID_CHARS_MAX
from bamboo_gateway.api.problems import EdgeError, internal_problem, problem_response
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
    """The outermost room: a request id, HEAD as GET without a body, no error without an answer.

    What is secret in a URL is taken out of it here, before anything can write it down.

    Args:
        app: What comes next.
        traffic: Where requests are counted, and told to the log.
        audit: What records the requests that are audited; None where nothing is.
        make_id: Makes a request id.
    """

    def __init__(
        self, app: ASGIApp, traffic: Traffic, audit: AuditTrail | None, make_id: Callable[[], str]
    ) -> None:
        self._app = app
        self._traffic = traffic
        self._audit = audit
        self._make_id = make_id

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """See the ASGI specification."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        take_credentials(scope)
        exchange = RequestRecord(scope["method"], self._request_id(scope), self._traffic.now())
        scope[REQUEST_ID] = exchange.request_id
        if scope["method"] == "HEAD":
            # Every GET answers HEAD (RFC 9110, 9.1); the server itself leaves the body out.
            scope = {**scope, "method": "GET", IS_HEAD: True}
        # A pipelined request is begun by the one before it, and in its context.
        clear_contextvars()
        bind_contextvars(request_id=exchange.request_id)

        async def send_named(message: Message) -> None:
            if message["type"] == "http.response.start":
                exchange.status = message["status"]
                message["headers"] = [
                    *message["headers"],
                    (b"x-request-id", exchange.request_id.encode("ascii")),
                ]
                if self._audit is not None:
                    await self._audit.record(scope, exchange)
            else:
                exchange.bytes += len(message.get("body", b""))
                if self._audit is not None and scope.pop(MORE_TARGETS, False):
                    await self._audit.record(scope, exchange)
            await send(message)

        with request_span(scope["headers"]) as span:
            try:
                await self._app(scope, receive, send_named)
            except Exception:  # the boundary: an answer without a trace, and the trace in the log
                if exchange.status is not None:
                    raise
                log.exception("a request failed", method=exchange.method, route=route_of(scope))
                await internal_problem(scope, exchange.request_id)(scope, receive, send_named)
            finally:
                release_body(scope)
                self._traffic.ended(scope, exchange)
                if span is not None:
                    exchange.describe(span, route_of(scope))

    def _request_id(self, scope: Scope) -> str:
        for name, value in scope["headers"]:
            if name == b"x-request-id" and _REQUEST_ID.fullmatch(value):
                return str(value, "ascii")
        return self._make_id()


class UntilRecovered:
    """Lets requests wait until the sessions are recovered, all but those that ask how it stands.

    Not answered with 503: a browser's EventSource gives up for good at anything but 200. What waits
    is bounded by `max_tcp_connections`, and by its own patience.

    Args:
        app: What comes next.
        recovered: Set when all is there.
    """

    def __init__(self, app: ASGIApp, recovered: anyio.Event) -> None:
        self._app = app
        self._recovered = recovered

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """See the ASGI specification."""
        is_early = not self._recovered.is_set() and scope["type"] == "http"
        if is_early and scope["path"] not in OPEN_PATHS | METRICS_PATHS:
            await self._recovered.wait()
        await self._app(scope, receive, send)


class Guard:
    """Refuses what only a web page or a confused client sends.

    Without credentials whoever reaches the port is served, so two ways in are closed: a name that
    an attacker's DNS points at this machine (`Host`), and a page of another origin (`Origin`). With
    credentials a page has none to send, and the gateway may stand behind any name.

    With `insecure` the host may also be an IP address or a name without dots: rebinding needs a
    name in the attacker's own DNS, and these are none.
    """

    def __init__(self, app: ASGIApp, settings: Settings, gate: Gate) -> None:
        self._app = app
        self._gate = gate
        self._insecure = settings.insecure
        self._origins = frozenset(settings.cors_origins)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """See the ASGI specification."""
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
            # The server hands the path over decoded: an id with a slash would become another route.
            raise InvalidId(
                "No id holds a slash.", errors=[{"loc": ["path"], "msg": "%2F is not allowed"}]
            )
        if not self._gate.is_open:
            return
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
