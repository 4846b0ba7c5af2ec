"""Maintenance: the cleanup."""

from typing import Annotated

from fastapi import APIRouter, Body, Request
from starlette.responses import Response

from bamboo_gateway.api.audit import name_targets
from bamboo_gateway.api.checks import checked_time
from bamboo_gateway.api.dependencies import Manager, Who
from bamboo_gateway.api.openapi.examples import lifecycle
from bamboo_gateway.api.openapi.responses import BODY, EDGE, WRITE, answer, problems
from bamboo_gateway.api.responses import json_response
from bamboo_gateway.api.schemas.maintenance import CleanupInput, CleanupStats
from bamboo_gateway.api.security.rights import SessionRoute

router = APIRouter(prefix="/api/v1", tags=["maintenance"], route_class=SessionRoute)


@router.post(
    "/cleanup",
    summary="Delete sessions whose retention has passed",
    responses={
        **answer(200, CleanupStats, "The sessions that were deleted.", lifecycle.CLEANED),
        **problems(*EDGE, *BODY, *WRITE),
    },
)
async def clean_up(
    request: Request,
    manager: Manager,
    who: Who,
    body: Annotated[CleanupInput | None, Body(openapi_examples=lifecycle.CLEANUPS)] = None,
) -> Response:
    """Delete sessions that expired `cleanup_period_days` ago or earlier.

    Archived sessions are deleted `archive_retention_days` after they were archived; without that
    setting they stay. With `before`, all sessions without activity since then are deleted: also
    archived ones, and those without a time to live. Sessions with a run or a reader stay. With
    `dry_run` nothing is deleted; the answer lists what would be.

    This route takes no `Idempotency-Key`, and needs none: a repeat deletes what has become due
    since, and lists only that. A `before` in the past never touches a session that was created or
    used after it, however often the request is repeated.
    """
    wanted = body or CleanupInput()
    before_ms = checked_time(wanted.before, "before", "body")
    stats = await manager.clean(who, before_ms=before_ms, dry_run=wanted.dry_run)
    name_targets(request, stats["session_ids"] if not wanted.dry_run else ())
    return json_response(stats)
