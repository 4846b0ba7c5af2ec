"""Statistics and reports."""

from fastapi import APIRouter, Request
from starlette.responses import Response

from bamboo_gateway.api.accept import prefers
from bamboo_gateway.api.dependencies import Manager, SessionId, Who
from bamboo_gateway.api.openapi.examples import lifecycle
from bamboo_gateway.api.openapi.responses import EDGE, SESSION, answer, problems
from bamboo_gateway.api.responses import json_response
from bamboo_gateway.api.schemas.statistics import Overview, Report, Statistics
from bamboo_gateway.api.security.rights import SessionRoute
from bamboo_gateway.sessions.statistics import report_markdown

router = APIRouter(prefix="/api/v1", tags=["statistics"], route_class=SessionRoute)

_MARKDOWN = "text/markdown"
_REPORT = answer(200, Report, "The report; Markdown by `Accept`.", lifecycle.REPORT)
_REPORT[200]["content"][_MARKDOWN] = {"schema": {"type": "string"}, "example": "# My chat\n"}


@router.get(
    "/sessions/{session_id}/statistics",
    summary="Get the statistics of a session",
    responses={
        **answer(200, Statistics, "The statistics.", lifecycle.STATISTICS),
        **problems(*EDGE, *SESSION),
    },
)
async def get_session_statistics(manager: Manager, who: Who, session_id: SessionId) -> Response:
    """Return the counts of a session. They are kept as things happen, so reading them is cheap."""
    return json_response(await manager.statistics(who, session_id))


@router.get(
    "/sessions/{session_id}/report",
    summary="Get a report on a session",
    responses={**_REPORT, **problems(*EDGE, *SESSION)},
)
async def get_session_report(
    request: Request, manager: Manager, who: Who, session_id: SessionId
) -> Response:
    """Return a report for people, as JSON or with `Accept: text/markdown` as Markdown."""
    report = await manager.report(who, session_id)
    if prefers(request, _MARKDOWN):
        return Response(report_markdown(report), media_type=f"{_MARKDOWN}; charset=utf-8")
    return json_response(report)


@router.get(
    "/statistics",
    summary="Get the statistics of all sessions",
    responses={
        **answer(200, Overview, "The overview.", lifecycle.OVERVIEW),
        **problems(*EDGE),
    },
)
async def get_statistics(manager: Manager, who: Who) -> Response:
    """Add up all sessions: by type, state and day; the oldest, newest and most active."""
    return json_response(await manager.overall_statistics(who))
