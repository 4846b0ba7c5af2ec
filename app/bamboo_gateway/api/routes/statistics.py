"""Statistics and reports."""

from fastapi import APIRouter, Request
from starlette.responses import Response

from bamboo_gateway.api.accept import prefers
from bamboo_gateway.api.dependencies import Manager, SessionId, Who
from bamboo_gateway.api.openapi.examples import conversation as examples
from bamboo_gateway.api.openapi.responses import EDGE, SESSION, answer, problems
from bamboo_gateway.api.responses import json_response
from bamboo_gateway.api.schemas.export import Overview, Report, Statistics
from bamboo_gateway.api.security.rights import SessionRoute
from bamboo_gateway.sessions.statistics import report_markdown

router = APIRouter(prefix="/api/v1", tags=["statistics"], route_class=SessionRoute)

_MARKDOWN = "text/markdown"
_REPORT = answer(200, Report, "The report; Markdown by `Accept`.", examples.REPORT)
_REPORT[200]["content"][_MARKDOWN] = {"schema": {"type": "string"}, "example": "# My chat\n"}


@router.get(
    "/sessions/{session_id}/statistics",
    summary="Count what a session has come to",
    responses={
        **answer(200, Statistics, "The statistics.", examples.STATISTICS),
        **problems(*EDGE, *SESSION),
    },
)
async def session_statistics(manager: Manager, who: Who, session_id: SessionId) -> Response:
    """Gives counts that are kept as things happen: asking costs nothing."""
    return json_response(await manager.statistics(who, session_id))


@router.get(
    "/sessions/{session_id}/report",
    summary="Report on a session",
    responses={**_REPORT, **problems(*EDGE, *SESSION)},
)
async def session_report(
    request: Request, manager: Manager, who: Who, session_id: SessionId
) -> Response:
    """Gives a report for people, as JSON or with `Accept: text/markdown` as Markdown."""
    report = await manager.report(who, session_id)
    if prefers(request, _MARKDOWN):
        return Response(report_markdown(report), media_type=f"{_MARKDOWN}; charset=utf-8")
    return json_response(report)


@router.get(
    "/statistics",
    summary="Count over all sessions",
    responses={
        **answer(200, Overview, "The overview.", examples.OVERVIEW),
        **problems(*EDGE),
    },
)
async def overall_statistics(manager: Manager, who: Who) -> Response:
    """Adds up all sessions: by type, state and day; the oldest, newest and most active."""
    return json_response(await manager.overall_statistics(who))
