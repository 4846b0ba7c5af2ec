"""The composition root: it makes an app of settings; the app's one lifespan owns all resources.

`create_app` also works as a factory for any ASGI server:
`uvicorn bamboo_gateway.main:create_app --factory`. `bamboo serve` adds what only a server can do
(`bamboo_gateway.server`): bounds of connections, heads and slow clients, an exit that waits for the
drain, and a start without keys only on a loopback address.
"""

import asyncio
import functools
import platform
import signal
import threading
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager
from types import FrameType
from typing import Final

import anyio
import structlog
from anyio import to_thread
from fastapi import FastAPI
from starlette.middleware import Middleware
from starlette.middleware.cors import CORSMiddleware

from bamboo_gateway import __version__
from bamboo_gateway.agents.factory import make_agent
from bamboo_gateway.api.access_log import RequestLog
from bamboo_gateway.api.audit import AuditTrail
from bamboo_gateway.api.body_memory import BodyMemory
from bamboo_gateway.api.dispatch import GatewayApp
from bamboo_gateway.api.middleware import Admission, RequestContext
from bamboo_gateway.api.prefix import PathPrefix
from bamboo_gateway.api.routing import OpenapiJson, add_routes, create_openapi
from bamboo_gateway.api.security.authentication import OPEN_PATHS, Authentication
from bamboo_gateway.api.security.origins import OriginGuard
from bamboo_gateway.api.security.rate_limits import FailureLimit, RateLimit
from bamboo_gateway.api.upload_limits import UploadCount
from bamboo_gateway.api.urls import session_answer, session_url
from bamboo_gateway.bus.factory import make_bus
from bamboo_gateway.console.factory import make_console
from bamboo_gateway.credentials.gate import Gate
from bamboo_gateway.domain.clock import Clock, SystemClock
from bamboo_gateway.domain.codec import encode_pretty
from bamboo_gateway.domain.ids import IdMaker
from bamboo_gateway.observability import tracing
from bamboo_gateway.observability.audit import AuditLog
from bamboo_gateway.observability.factory import make_spans
from bamboo_gateway.observability.logs import configure_logs
from bamboo_gateway.observability.metrics import Measures
from bamboo_gateway.sessions.manager import SessionManager
from bamboo_gateway.sessions.metrics import measure_recovery
from bamboo_gateway.sessions.runs.titling import check_titles
from bamboo_gateway.settings import Settings, load_settings
from bamboo_gateway.storage.base import StoreUnusable, SupportsSecret, deployment_of
from bamboo_gateway.storage.factory import make_store
from bamboo_gateway.storage.keys import SupportsKeys
from bamboo_gateway.storage.reports import RecoveryReport
from bamboo_gateway.webhooks.factory import make_sender
from bamboo_gateway.wires.factory import error_forms, wire_routers

log = structlog.get_logger(__name__)

_SDK_HEADERS: Final = (
    "Arch",
    "Custom-Poll-Interval",
    "Helper-Method",
    "Lang",
    "OS",
    "Package-Version",
    "Poll-Helper",
    "Retry-Count",
    "Runtime",
    "Runtime-Version",
    "Timeout",
)
"""What OpenAI's SDK says of itself in a browser, each behind `X-Stainless-`."""

_CORS_HEADERS = (
    "Authorization",
    "Cache-Control",  # the npm package eventsource, up to its version 2
    "Content-Type",
    "Idempotency-Key",
    "If-Match",
    "If-None-Match",
    "If-Range",
    "Last-Event-ID",
    "Prefer",
    "Range",
    "X-Request-Id",
    "X-User-Id",
    *(f"X-Stainless-{name}" for name in _SDK_HEADERS),
    "traceparent",
    "tracestate",
)
_CORS_EXPOSED = (
    "Accept-Ranges",
    "Connection-Id",
    "Content-Disposition",
    "Content-Range",
    "ETag",
    "Has-More",  # of the wire AI SDK, as `Stream-After`
    "Idempotency-Replayed",
    "Location",
    "Preference-Applied",
    "RateLimit",
    "RateLimit-Policy",
    "Retry-After",
    "Run-Id",
    "Session-Id",
    "Stream-After",
    "Stream-Cursor",  # of the wire Durable Streams, as the two below
    "Stream-Next-Offset",
    "Stream-Up-To-Date",
    "X-Request-Id",
    "X-Should-Retry",  # of the wire OpenAI
)

_BUILD: Final[Measures] = {"build_info": {(__version__, platform.python_version()): 1.0}}


def create_app(settings: Settings | None = None, clock: Clock | None = None) -> FastAPI:
    """Return the gateway's app. It opens nothing before its lifespan begins.

    Args:
        settings: The settings. Without them the app is the whole program of another server's
            process: it reads the environment's `BAMBOO_…`, configures the log, and begins the drain
            at SIGTERM or SIGINT.
        clock: The source of the time; the system's clock by default.

    Raises:
        SettingsError: A setting of the environment is wrong.
        StoreUnusable, BusUnusable, AgentConfigError, CredentialsUnusable, TracingUnavailable: A
            setting names something that cannot be used.
    """
    is_whole_program = settings is None
    if settings is None:
        settings = load_settings()
        configure_logs(settings.log_format, settings.log_level)
    clock = clock or SystemClock()
    ids = IdMaker()
    request_log = RequestLog(
        clock, slow_seconds=settings.slow_request_seconds, access_log=settings.access_log
    )
    audit = AuditLog(settings.audit_path) if settings.audit_path is not None else None
    spans = make_spans(settings.otel_endpoint) if settings.otel_endpoint else None
    session_of = functools.partial(session_answer, prefix=settings.root_path)
    agents = {
        name: make_agent(name, url, settings, session_of) for name, url in settings.agents.items()
    }
    check_titles(settings.titles, agents)
    store = make_store(settings, clock)
    bus = make_bus(settings, clock, functools.partial(deployment_of, store))
    counts = bus.counts if bus is not None else None
    rates = None
    if settings.rate_limit_per_caller or settings.rate_limit_in_all:
        rates = RateLimit(settings, clock, counts)
    gate = Gate(
        settings,
        clock,
        store.keep_secret if isinstance(store, SupportsSecret) else None,
        store.api_keys
        if settings.keeps_keys_in_store and isinstance(store, SupportsKeys)
        else None,
    )
    console = make_console(enabled=settings.console)
    recovered = anyio.Event()

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        async with AsyncExitStack() as stack:
            if spans is not None:
                tracing.switch(spans)
                stack.push_async_callback(to_thread.run_sync, tracing.closing(spans))
            stack.push_async_callback(store.aclose)
            report = await store.open()
            await to_thread.run_sync(_make_data_dir, settings)
            _log_recovery(report)
            _log_retention(settings)
            app.state.start = {**_BUILD, **measure_recovery(report)}
            await stack.enter_async_context(gate)
            if bus is not None:
                await stack.enter_async_context(bus)
            for agent in agents.values():
                stack.push_async_callback(agent.aclose)
            app.state.manager = await stack.enter_async_context(
                SessionManager(
                    store,
                    agents,
                    settings,
                    clock,
                    gate.is_live,
                    audit,
                    gate.forget_keys_of,
                    make_sender(settings),
                    functools.partial(
                        session_url, prefix=settings.public_url or settings.root_path
                    ),
                    bus,
                )
            )
            recovered.set()
            if is_whole_program:
                await stack.enter_async_context(_drain_on_signals(app.state.manager))
            yield

    app = GatewayApp(
        title="Bamboo Gateway",
        version=__version__,
        lifespan=lifespan,
        openapi_url=None,  # `routes.about` serves the document and its page
        redirect_slashes=False,
        middleware=[
            Middleware(
                RequestContext,
                request_log=request_log,
                audit=AuditTrail(audit, clock) if audit is not None else None,
                make_id=lambda: ids.make("req_", clock.now_ms()),
                recovered=recovered,
                path_prefix=PathPrefix(settings),
                origins=OriginGuard(settings, gate),
            ),
            *_cors(settings),
            Middleware(
                Admission,
                failures=FailureLimit(settings, clock, counts)
                if settings.auth_failures_per_address
                else None,
                authentication=Authentication(settings, gate),
                rates=rates,
                open_paths=OPEN_PATHS | console.open_paths,
            ),
        ],
    )
    app.state.manager = None  # until the lifespan begins: requests may come before
    app.state.settings = settings
    app.state.gate = gate
    app.state.clock = clock
    app.state.rates = rates
    app.state.request_log = request_log
    app.state.body_memory = BodyMemory(settings)
    app.state.uploads = UploadCount()
    app.state.problems = request_log.problems
    app.state.error_forms = error_forms(settings.wires)
    app.state.audit = audit
    app.state.start = _BUILD
    wires = wire_routers(settings.wires)
    add_routes(app, [*wires, *console.routers])
    app.state.openapi_json = OpenapiJson(wires)
    app.openapi = functools.partial(create_openapi, wires)  # type: ignore[method-assign] # FastAPI's documented way
    return app


def _make_data_dir(settings: Settings) -> None:
    """Make the directory of keys, ticket secret and audit log, if the store lies elsewhere.

    Raises:
        StoreUnusable: It cannot be made.
    """
    if settings.storage.scheme == "memory":
        return  # nothing is kept
    directory = settings.data_dir.expanduser()
    try:
        directory.mkdir(mode=0o700, parents=True, exist_ok=True)
    except OSError as error:
        raise StoreUnusable(
            f"The data directory {directory} cannot be used: {error.strerror}."
        ) from error


@asynccontextmanager
async def _drain_on_signals(manager: SessionManager) -> AsyncIterator[None]:
    """Begin the drain when a signal ends the process, beside the server's own handler.

    Servers end the lifespan only after all connections have ended, and a stream ends only with the
    drain.
    """
    loop = asyncio.get_running_loop()
    is_ending = anyio.Event()

    async def drain() -> None:
        await is_ending.wait()
        await manager.drain()

    async with anyio.create_task_group() as group:
        group.start_soon(drain, name="drain")
        with _before_signal_handlers(lambda: loop.call_soon_threadsafe(is_ending.set)):
            yield
        # The manager's own end drains too, or goes on with this drain.
        group.cancel_scope.cancel()


@contextmanager
def _before_signal_handlers(call: Callable[[], object]) -> Iterator[None]:
    """Call a function at SIGTERM and SIGINT before the handlers that are installed now."""
    if threading.current_thread() is not threading.main_thread():
        yield  # only the main thread may install handlers
        return
    before = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)}

    def handle(number: int, frame: FrameType | None) -> None:
        call()
        handler = before[signal.Signals(number)]
        if callable(handler):
            handler(number, frame)

    for number, handler in before.items():
        if callable(handler):  # a signal without a handler ends the process, or is ignored
            signal.signal(number, handle)
    try:
        yield
    finally:
        for number, handler in before.items():
            if signal.getsignal(number) is handle:
                signal.signal(number, handler)


def openapi_document() -> bytes:
    """Return the OpenAPI document as it is committed."""
    return encode_pretty(create_openapi(wire_routers()))


def _cors(settings: Settings) -> list[Middleware]:
    if not settings.cors_origins:
        return []
    return [
        Middleware(
            CORSMiddleware,
            allow_origins=settings.cors_origins,
            # Cookies are sent only to pages that the operator named, never to all pages.
            allow_credentials="*" not in settings.cors_origins,
            allow_methods=("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE"),
            allow_headers=_CORS_HEADERS,
            expose_headers=_CORS_EXPOSED,
        )
    ]


def _log_recovery(report: RecoveryReport) -> None:
    """Log one line about what opening the store found."""
    found = {
        "sessions": report.sessions,
        "clean": report.clean,
        "journal_records": report.journal_records,
        "replayed_events": report.replayed_events,
        "torn_bytes": report.torn_bytes,
        "damaged": report.damaged,
        "quarantined": report.quarantined,
        "catalog_rebuilt": report.catalog_rebuilt,
        "new_epochs": report.new_epochs,
        "mended_indexes": report.mended_indexes,
        "unwritten": report.unwritten,
        "disk_full": report.disk_full,
        "seconds": round(report.seconds, 3),
    }
    losses = report.damaged or report.quarantined or report.mended_indexes
    bad = losses or report.unwritten or report.disk_full
    (log.warning if bad else log.info)("recovered", **found)


def _log_retention(settings: Settings) -> None:
    """Log which sessions the gateway deletes by itself, so that no deletion is a surprise."""
    log.info(
        "retention in force",
        default_ttl_seconds=settings.default_ttl_seconds,
        cleanup_period_days=settings.cleanup_period_days,
        archive_retention_days=settings.archive_retention_days,
        note=_retention_in_words(settings),
    )


def _retention_in_words(settings: Settings) -> str:
    ttl, archived = settings.default_ttl_seconds, settings.archive_retention_days
    return "; ".join(
        (
            "sessions without a time to live stay until they are deleted"
            if ttl is None
            else f"sessions expire {ttl} s after their last activity unless they say otherwise",
            f"expired ones are deleted after {settings.cleanup_period_days} days",
            "archived ones stay"
            if archived is None
            else f"archived ones are deleted after {archived} days",
        )
    )
