"""Runs: listing, reading, awaiting and cancelling them, and opening external ones."""

from typing import Annotated

from fastapi import APIRouter, Body, Request
from starlette.responses import Response

from bamboo_gateway.api.dependencies import (
    PAGE,
    Cursor,
    Limit,
    Manager,
    Order,
    RunId,
    SessionId,
    Who,
)
from bamboo_gateway.api.long_requests import unless_disconnected
from bamboo_gateway.api.openapi.examples import conversation
from bamboo_gateway.api.openapi.responses import (
    ASKED,
    BODY,
    EDGE,
    KEYED,
    OPEN,
    SESSION,
    WRITE,
    answer,
    problems,
)
from bamboo_gateway.api.prefix import prefix_of
from bamboo_gateway.api.request_headers import Key, Prefer, SentJson, idempotency
from bamboo_gateway.api.responses import json_response, outcome_headers
from bamboo_gateway.api.schemas.runs import (
    Run,
    RunCancelled,
    RunInput,
    RunPage,
    RunWaited,
    SessionCancelled,
)
from bamboo_gateway.api.security.rights import SessionRoute
from bamboo_gateway.api.urls import run_answer, run_url

router = APIRouter(prefix="/api/v1", tags=["runs"], route_class=SessionRoute)


@router.get(
    "/sessions/{session_id}/runs",
    summary="List the runs of a session",
    responses={
        **answer(
            200,
            RunPage,
            "A page of runs.",
            {"runs": [conversation.RUN], "next_cursor": None, "has_more": False},
        ),
        **problems(*EDGE, *SESSION, "invalid-cursor"),
    },
)
async def list_runs(
    request: Request,
    manager: Manager,
    who: Who,
    session_id: SessionId,
    limit: Limit = PAGE,
    cursor: Cursor = None,
    order: Order = "asc",
) -> Response:
    """List queued, active and ended runs, in the order in which they were requested."""
    page = await manager.runs(
        who, session_id, limit=limit, cursor=cursor, descending=order == "desc"
    )
    prefix = prefix_of(request.scope)
    return json_response(
        {
            "runs": [run_answer(run, prefix) for run in page.runs],
            "next_cursor": page.next_cursor,
            "has_more": page.has_more,
        }
    )


@router.post(
    "/sessions/{session_id}/runs",
    status_code=201,
    summary="Open an external run",
    responses={
        **answer(
            201,
            Run,
            "The run is open.",
            conversation.EXTERNAL_RUN,
            "Location",
            "Idempotency-Replayed",
        ),
        **problems(
            *EDGE,
            *BODY,
            *SESSION,
            *OPEN,
            *WRITE,
            *KEYED,
            *ASKED,
            "run-active",
            "run-exists",
            "too-many-runs",
            "budget-reached",
        ),
    },
)
async def open_run(
    request: Request,
    body: Annotated[RunInput, Body(openapi_examples=conversation.NEW_RUNS)],
    manager: Manager,
    who: Who,
    session_id: SessionId,
    key: Key,
    sent: SentJson,
) -> Response:
    """Open a run whose events an external program posts to `/events`.

    The run takes the session's one slot and ends with a terminal event. When no event is posted for
    `external_run_timeout_seconds`, it ends as failed, with the code `timeout`.
    """
    outcome = await manager.open_run(
        who, session_id, body.run_id, idempotency(key, "POST /runs", sent)
    )
    prefix = prefix_of(request.scope)
    run = run_answer(outcome.answer, prefix)
    headers = {
        "Location": run_url(session_id, run["run_id"], prefix),
        **outcome_headers(outcome),
    }
    return json_response(run, 201, headers)


@router.get(
    "/sessions/{session_id}/runs/{run_id}",
    summary="Get a run, or wait for its end",
    responses={
        **answer(
            200,
            RunWaited,
            "The run. With `Prefer: wait`, once it has ended, also its last assistant message.",
            conversation.RUN,
            "Preference-Applied",
        ),
        **problems(*EDGE, *SESSION, "run-not-found"),
    },
)
async def get_run(
    request: Request,
    manager: Manager,
    who: Who,
    session_id: SessionId,
    run_id: RunId,
    prefer: Prefer,
) -> Response:
    """Return the run as it is now. `Prefer: wait=N` first waits up to N seconds for its end."""
    prefix = prefix_of(request.scope)
    if prefer.wait_seconds is None:
        return json_response(run_answer(await manager.run(who, session_id, run_id), prefix))
    waited = await unless_disconnected(
        request, manager.wait_run(who, session_id, run_id, prefer.wait_seconds)
    )
    body = run_answer(waited.run, prefix)
    if waited.ended:
        body["message"] = waited.message
    return json_response(body, headers=prefer.headers)


@router.post(
    "/sessions/{session_id}/runs/{run_id}/cancel",
    summary="Cancel a run",
    responses={
        **answer(
            200,
            RunCancelled,
            "The run as it has ended; with `cancel_requested` its end is not in the log yet.",
            conversation.RUN_CANCELLED,
            "Idempotency-Replayed",
        ),
        **problems(*EDGE, *SESSION, *WRITE, *KEYED, "run-not-found"),
    },
)
async def cancel_run(
    request: Request, manager: Manager, who: Who, session_id: SessionId, run_id: RunId, key: Key
) -> Response:
    """End the run and keep the messages so far.

    This is idempotent: for a run that has ended the answer says how. A queued run is cancelled
    without starting.
    """
    idem = idempotency(key, f"POST /runs/{run_id}/cancel", None)
    outcome = await manager.cancel_run(who, session_id, run_id, idem)
    shown = run_answer(outcome.answer, prefix_of(request.scope))
    return json_response(shown, headers=outcome_headers(outcome))


_CANCELLED = {
    **answer(
        200,
        SessionCancelled,
        "The runs that were cancelled.",
        {"session_id": conversation.SESSION_ID, "runs": [conversation.RUN_CANCELLED]},
        "Idempotency-Replayed",
    ),
    **problems(*EDGE, *SESSION, *WRITE, *KEYED),
}


@router.post(
    "/sessions/{session_id}/cancel",
    summary="Cancel all runs of a session",
    responses=_CANCELLED,
)
async def cancel_session(
    request: Request, manager: Manager, who: Who, session_id: SessionId, key: Key
) -> Response:
    """Cancel the active run and all queued ones."""
    outcome = await manager.cancel_session(who, session_id, idempotency(key, "POST /cancel", None))
    cancelled = outcome.answer
    prefix = prefix_of(request.scope)
    runs = [run_answer(run, prefix) for run in cancelled["runs"]]
    return json_response({**cancelled, "runs": runs}, headers=outcome_headers(outcome))


@router.post(
    "/stop/{session_id}", summary="Cancel all runs of a session (alias)", responses=_CANCELLED
)
async def stop_session(
    request: Request, manager: Manager, who: Who, session_id: SessionId, key: Key
) -> Response:
    """Cancel the active run and all queued ones, as `/sessions/{session_id}/cancel` does."""
    return await cancel_session(request, manager, who, session_id, key)
