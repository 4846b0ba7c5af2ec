"""Summaries, and resuming a conversation in a new context."""

from typing import Annotated

from fastapi import APIRouter, Body, Query
from starlette.responses import Response

from bamboo_gateway.api.dependencies import Manager, SessionId, Who
from bamboo_gateway.api.openapi.examples import conversation, lifecycle
from bamboo_gateway.api.openapi.responses import (
    BODY,
    EDGE,
    KEYED,
    OPEN,
    SESSION,
    WRITE,
    answer,
    nothing,
    problems,
)
from bamboo_gateway.api.request_headers import Key, SentJson, idempotency
from bamboo_gateway.api.responses import json_response, outcome_headers, streamed
from bamboo_gateway.api.routes.filters import Filters, session_page
from bamboo_gateway.api.schemas.summaries import (
    Resumed,
    Summary,
    SummaryInput,
    SummaryPage,
    WriteSummaryInput,
)
from bamboo_gateway.api.security.rights import SessionRoute
from bamboo_gateway.domain.positions import NOWHERE, parse_position

router = APIRouter(prefix="/api/v1", tags=["summaries"], route_class=SessionRoute)


@router.get(
    "/sessions/{session_id}/summary",
    summary="Read the summary",
    responses={
        **answer(200, Summary, "The summary.", lifecycle.SUMMARY),
        **problems(*EDGE, *SESSION, "summary-not-found"),
    },
)
async def get_summary(manager: Manager, who: Who, session_id: SessionId) -> Response:
    """Return the present summary, and the position up to which it goes."""
    return json_response(await manager.summary(who, session_id))


@router.put(
    "/sessions/{session_id}/summary",
    summary="Save a summary",
    responses={
        **answer(200, Summary, "The summary.", lifecycle.SUMMARY),
        **problems(*EDGE, *BODY, *SESSION, *OPEN, *WRITE, "invalid-position", "event-too-large"),
    },
)
async def save_summary(
    body: Annotated[SummaryInput, Body(openapi_examples=lifecycle.SUMMARIES)],
    manager: Manager,
    who: Who,
    session_id: SessionId,
) -> Response:
    """Save a summary of everything up to `position`. Agents get it in place of what it covers."""
    position = None
    if body.position is not None:
        position = parse_position(body.position) or NOWHERE
    outcome = await manager.save_summary(who, session_id, body.summary, body.turn_count, position)
    return json_response(outcome.answer)


@router.post(
    "/sessions/{session_id}/summary",
    status_code=201,
    summary="Have a summary written",
    responses={
        **answer(201, Summary, "The summary.", lifecycle.SUMMARY, "Idempotency-Replayed"),
        **problems(*EDGE, *BODY, *SESSION, *OPEN, *WRITE, *KEYED, "unknown-agent", "nothing-said",
                   "agent-failed", "event-too-large"),
    },
)  # fmt: skip
async def write_summary(
    manager: Manager,
    who: Who,
    session_id: SessionId,
    key: Key,
    sent: SentJson,
    body: Annotated[WriteSummaryInput | None, Body(openapi_examples=lifecycle.WRITE_SUMMARIES)] = (
        None
    ),
) -> Response:
    """Have an agent write the summary of everything so far, and save it."""
    outcome = await manager.write_summary(
        who, session_id, body.agent if body else None, idempotency(key, "POST /summary", sent)
    )
    return json_response(outcome.answer, 201, outcome_headers(outcome))


@router.delete(
    "/sessions/{session_id}/summary",
    status_code=204,
    summary="Delete the summary",
    responses={
        **nothing(204, "The summary is deleted."),
        **problems(*EDGE, *SESSION, *OPEN, *WRITE, "summary-not-found"),
    },
)
async def delete_summary(manager: Manager, who: Who, session_id: SessionId) -> Response:
    """Delete the present summary. Agents get the whole conversation again."""
    await manager.delete_summary(who, session_id)
    return Response(status_code=204)


@router.get(
    "/summaries",
    summary="List summaries",
    responses={
        **answer(
            200,
            SummaryPage,
            "A page of summaries.",
            {"summaries": [lifecycle.SUMMARY], "next_cursor": None, "has_more": False},
        ),
        **problems(*EDGE, "invalid-id", "invalid-cursor"),
    },
)
async def list_summaries(manager: Manager, who: Who, query: Filters) -> Response:
    """List summaries, with the filters of sessions. A page may be shorter than `limit`."""
    return session_page(await manager.list_summaries(who, query), query, "summaries", dict)


@router.get(
    "/sessions/{session_id}/resume",
    summary="Resume a conversation",
    responses={
        **answer(
            200,
            Resumed,
            "The message that carries the conversation.",
            {"message": conversation.USER_MESSAGE},
        ),
        **problems(*EDGE, *SESSION),
    },
)
async def resume_session(
    manager: Manager,
    who: Who,
    session_id: SessionId,
    interactive: Annotated[
        bool, Query(description="`false`: with the instruction to go on without asking.")
    ] = True,
) -> Response:
    """Return one message with the summary and every turn since, for a new context."""
    return await streamed(await manager.resume(who, session_id, interactive=interactive))
