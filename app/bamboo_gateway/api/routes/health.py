"""Health and metrics, for service managers and monitoring; also at the root."""

from anyio import to_thread
from fastapi import APIRouter
from starlette.requests import Request
from starlette.responses import Response

from bamboo_gateway.api.dependencies import Manager
from bamboo_gateway.api.openapi.responses import EDGE, OPEN_EDGE, answer, problems
from bamboo_gateway.api.responses import json_response
from bamboo_gateway.api.schemas.about import Health
from bamboo_gateway.api.security.rights import OpenRoute, OperatorRoute
from bamboo_gateway.observability.audit import AuditLog
from bamboo_gateway.observability.factory import render_metrics
from bamboo_gateway.observability.logs import HandOver
from bamboo_gateway.observability.metrics import CONTENT_TYPE, Measure
from bamboo_gateway.sessions.manager import SessionManager
from bamboo_gateway.settings import Settings

router = APIRouter(tags=["health"], route_class=OpenRoute)
metrics_router = APIRouter(tags=["health"], route_class=OperatorRoute)


@router.get(
    "/health/live",
    summary="Check that the process answers",
    operation_id="getLiveAtRoot",
    responses={
        **answer(200, Health, "Yes.", {"status": "ok", "detail": "alive"}),
        **problems(*OPEN_EDGE),
    },
)
@router.get(
    "/api/v1/health/live",
    summary="Check that the process answers",
    responses={
        **answer(200, Health, "Yes.", {"status": "ok", "detail": "alive"}),
        **problems(*OPEN_EDGE),
    },
)
async def get_live() -> Response:
    """Answer as long as the event loop runs. This says nothing about the storage."""
    return json_response({"status": "ok", "detail": "alive"})


@router.get(
    "/health/ready",
    summary="Check that the gateway takes work",
    operation_id="getReadyAtRoot",
    responses={
        **answer(200, Health, "Yes.", {"status": "ready", "detail": "ready"}),
        **problems(*OPEN_EDGE, "unavailable", "draining"),
    },
)
@router.get(
    "/api/v1/health/ready",
    summary="Check that the gateway takes work",
    responses={
        **answer(200, Health, "Yes.", {"status": "ready", "detail": "ready"}),
        **problems(*OPEN_EDGE, "unavailable", "draining"),
    },
)
async def get_ready(manager: Manager) -> Response:
    """Answer 503 while recovering, while shutting down, and when nothing can be stored.

    The problem's `check` says which: `recovery`, `drain` or `storage`. With a full disk the gateway
    is ready, since reads and streams go on; `detail` begins with `read-only` then.
    """
    return json_response({"status": "ready", "detail": manager.check_ready()})


_METRICS = {
    200: {
        "description": "The metrics, as text.",
        "content": {
            "text/plain": {"schema": {"type": "string"}, "example": "bamboo_sessions 2.0\n"}
        },
    },
    **problems(*EDGE),
}


@metrics_router.get(
    "/metrics",
    summary="Get the metrics",
    operation_id="getMetricsAtRoot",
    response_class=Response,
    responses=_METRICS,
)
@metrics_router.get(
    "/api/v1/metrics",
    summary="Get the metrics",
    response_class=Response,
    responses=_METRICS,
)
async def get_metrics(request: Request) -> Response:
    """Return the gateway's metrics in Prometheus's text format."""
    state = request.app.state
    manager: SessionManager | None = state.manager
    inside = await manager.stats() if manager is not None else {"ready": 0.0}  # it is recovering
    audit: AuditLog | None = state.audit
    losses: dict[str, Measure] = {
        "log_lines_lost_total": HandOver.lost,
        "audit_failures_total": audit.failures if audit is not None else 0,
    }
    remote = state.gate.remote_keys
    if remote is not None:
        losses["jwks_fetches_total"] = {(end,): count for end, count in remote.fetches.items()}
    edge = {**state.request_log.measures(), **state.body_memory.measures()}
    measures = {**state.start, **inside, **edge, **losses}
    settings: Settings = state.settings
    # In a thread: the process's own numbers are read from files (R12).
    text = await to_thread.run_sync(render_metrics, measures, settings.storage_dir)
    return Response(
        text,
        headers={"Cache-Control": "no-store", "Content-Type": CONTENT_TYPE},
    )
