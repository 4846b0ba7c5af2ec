"""Health and metrics, for whatever starts and watches the gateway; also at the root."""

from anyio import to_thread
from fastapi import APIRouter
from starlette.requests import Request
from starlette.responses import Response

from bamboo_gateway.api.dependencies import Manager
from bamboo_gateway.api.openapi.responses import EDGE, OPEN_EDGE, answer, problems
from bamboo_gateway.api.responses import json_response
from bamboo_gateway.api.schemas.sessions import Health
from bamboo_gateway.api.security.rights import OpenRoute, OperatorRoute
from bamboo_gateway.observability.audit import AuditLog
from bamboo_gateway.observability.logs import HandOver
from bamboo_gateway.observability.metrics import CONTENT_TYPE, render_metrics
from bamboo_gateway.sessions.manager import SessionManager
from bamboo_gateway.settings import Settings

router = APIRouter(tags=["health"], route_class=OpenRoute)
metrics_router = APIRouter(tags=["health"], route_class=OperatorRoute)


@router.get(
    "/health/live",
    summary="Whether the process answers",
    operation_id="live_at_root",
    responses={
        **answer(200, Health, "It does.", {"status": "ok", "detail": "alive"}),
        **problems(*OPEN_EDGE),
    },
)
@router.get(
    "/api/v1/health/live",
    summary="Whether the process answers",
    operation_id="live",
    responses={
        **answer(200, Health, "It does.", {"status": "ok", "detail": "alive"}),
        **problems(*OPEN_EDGE),
    },
)
async def live() -> Response:
    """Answers as long as the event loop turns; says nothing about the storage."""
    return json_response({"status": "ok", "detail": "alive"})


@router.get(
    "/health/ready",
    summary="Whether it takes work",
    operation_id="ready_at_root",
    responses={
        **answer(200, Health, "It does.", {"status": "ready", "detail": "ready"}),
        **problems(*OPEN_EDGE, "unavailable", "draining"),
    },
)
@router.get(
    "/api/v1/health/ready",
    summary="Whether it takes work",
    operation_id="ready",
    responses={
        **answer(200, Health, "It does.", {"status": "ready", "detail": "ready"}),
        **problems(*OPEN_EDGE, "unavailable", "draining"),
    },
)
async def ready(manager: Manager) -> Response:
    """503 while recovering, from the beginning of a shutdown, and when nothing can be stored.

    The problem's `check` names which: `recovery`, `drain` or `storage`. A full disk is none of
    them, since reads and streams go on: then `detail` begins with `read-only`.
    """
    return json_response({"status": "ready", "detail": manager.check_ready()})


_METRICS = {
    200: {
        "description": "Prometheus text.",
        "content": {
            "text/plain": {"schema": {"type": "string"}, "example": "bamboo_sessions 2.0\n"}
        },
    },
    **problems(*EDGE),
}


@metrics_router.get(
    "/metrics",
    summary="Metrics",
    operation_id="metrics_at_root",
    response_class=Response,
    responses=_METRICS,
)
@metrics_router.get(
    "/api/v1/metrics",
    summary="Metrics",
    operation_id="metrics",
    response_class=Response,
    responses=_METRICS,
)
async def metrics(request: Request) -> Response:
    """Gives the gateway's numbers in Prometheus's text format."""
    state = request.app.state
    manager: SessionManager | None = state.manager
    inside = manager.stats() if manager is not None else {"ready": 0.0}  # it is recovering
    audit: AuditLog | None = state.audit
    told = {
        "log_lines_lost_total": HandOver.lost,
        "audit_failures_total": audit.failures if audit is not None else 0,
    }
    edge = {**state.request_log.measures(), **state.body_memory.measures()}
    measures = {**state.start, **inside, **edge, **told}
    settings: Settings = state.settings
    on_disk = settings.storage_url.startswith("jsonl")
    # In a thread: the process's own numbers are read from files (R12).
    text = await to_thread.run_sync(
        render_metrics, measures, settings.data_dir.expanduser() if on_disk else None
    )
    return Response(
        text,
        headers={"Cache-Control": "no-store", "Content-Type": CONTENT_TYPE},
    )
