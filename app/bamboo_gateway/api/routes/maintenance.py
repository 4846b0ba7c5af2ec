"""Maintenance: deleting sessions whose retention has passed."""

from typing import Annotated

from fastapi import APIRouter, Body, Request
from starlette.responses import Response

from bamboo_gateway.api.audit import name_targets
from bamboo_gateway.api.checks import checked_time
from bamboo_gateway.api.dependencies import Manager, Who
from bamboo_gateway.api.openapi.examples import conversation as examples
from bamboo_gateway.api.openapi.responses import BODY, EDGE, WRITE, answer, problems
from bamboo_gateway.api.responses import json_response
from bamboo_gateway.api.schemas.export import CleanupStats
from bamboo_gateway.api.schemas.extensions import CleanupInput
from bamboo_gateway.api.security.rights import SessionRoute

router = APIRouter(prefix="/api/v1", tags=["maintenance"], route_class=SessionRoute)


@router.post(
    "/cleanup",
    summary="Delete sessions whose retention has passed",
    responses={
        **answer(200, CleanupStats, "What was deleted.", examples.CLEANED),
        **problems(*EDGE, *BODY, *WRITE),
    },
)
async def clean_up(
    request: Request,
    manager: Manager,
    who: Who,
    body: Annotated[CleanupInput | None, Body(openapi_examples=examples.CLEANUPS)] = None,
) -> Response:
    """Deletes sessions that expired `cleanup_period_days` ago or earlier.

    Archived sessions are deleted `archive_retention_days` after they were archived; unless that is
    set, they stay. With `before`, all sessions without activity since then are deleted, archived
    ones and those without a time to live too. Sessions with a run or a reader stay. With `dry_run`
    nothing is deleted: the answer says what would be.

    It takes no `Idempotency-Key`, and needs none: a repeat deletes what is due by then and was not
    deleted yet, and its answer names that alone. With a `before` that has passed, nothing that was
    made or used since is touched, however often it is asked for.
    """
    wanted = body or CleanupInput()
    before_ms = checked_time(wanted.before, "before", "body")
    stats = await manager.clean(who, before_ms=before_ms, dry_run=wanted.dry_run)
    name_targets(request, stats["session_ids"] if not wanted.dry_run else ())
    return json_response(stats)
