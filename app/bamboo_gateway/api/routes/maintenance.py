"""Maintenance: deleting what is expired."""

from typing import Annotated

from fastapi import APIRouter, Body, Request
from starlette.responses import Response

from bamboo_gateway.api.audit import name_targets
from bamboo_gateway.api.dependencies import Manager, Who, checked_time
from bamboo_gateway.api.openapi.examples import conversation as examples
from bamboo_gateway.api.openapi.responses import BODY, EDGE, WRITE, answer, problems
from bamboo_gateway.api.responses import json_response
from bamboo_gateway.api.schemas.export import CleanupStats
from bamboo_gateway.api.schemas.extensions import CleanupInput
from bamboo_gateway.api.security.permissions import SessionRoute

router = APIRouter(prefix="/api/v1", tags=["maintenance"], route_class=SessionRoute)


@router.post(
    "/cleanup",
    summary="Delete what is expired",
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
    """Deletes sessions whose time to live has passed or that were inactive for too long.

    With `before`, all without activity since then. Sessions with a run or a reader stay. With
    `dry_run` nothing is deleted: the answer says what would be.

    It takes no `Idempotency-Key`, and needs none: a repeat deletes what is due by then and was not
    deleted yet, and its answer names that alone. With a `before` that has passed, nothing that was
    made or used since is touched, however often it is asked for.
    """
    wanted = body or CleanupInput()
    before_ms = checked_time(wanted.before, "before", "body")
    stats = await manager.life.clean(who, before_ms=before_ms, dry_run=wanted.dry_run)
    name_targets(request, stats["session_ids"] if not wanted.dry_run else ())
    return json_response(stats)
