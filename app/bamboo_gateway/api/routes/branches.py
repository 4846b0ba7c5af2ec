"""Branches inside a session: answering again, and going from one branch to another."""

from functools import partial
from typing import Annotated

from fastapi import APIRouter, Body, Request
from starlette.responses import Response

from bamboo_gateway.api.dependencies import BranchId, Manager, SessionId, Who
from bamboo_gateway.api.openapi.examples import conversation
from bamboo_gateway.api.openapi.responses import (
    BODY,
    EDGE,
    KEYED,
    OPEN,
    SESSION,
    WRITE,
    answer,
    problems,
)
from bamboo_gateway.api.request_headers import Key, Prefer, SentJson, idempotency
from bamboo_gateway.api.responses import json_response, outcome_headers
from bamboo_gateway.api.routes.chat import ACCEPTED, COMPLETED, run_response
from bamboo_gateway.api.schemas.branches import Branches, BranchSelected
from bamboo_gateway.api.schemas.chat import RegenerateInput
from bamboo_gateway.api.security.rights import SessionRoute
from bamboo_gateway.api.urls import chat_answer
from bamboo_gateway.sessions.commands import Regenerate

router = APIRouter(prefix="/api/v1", tags=["branches"], route_class=SessionRoute)


@router.post(
    "/sessions/{session_id}/regenerate",
    status_code=202,
    summary="Answer a message again",
    responses={
        **ACCEPTED,
        **COMPLETED,
        **problems(
            *EDGE,
            *BODY,
            *SESSION,
            *OPEN,
            *WRITE,
            *KEYED,
            "message-not-found",
            "nothing-to-answer",
            "unknown-agent",
            "option-refused",
            "event-too-large",
            "run-active",
            "run-exists",
            "too-many-branches",
            "too-many-runs",
            "too-many-queued-runs",
            "too-many-streams",
            "too-many-connections",
        ),
    },
)
async def regenerate(
    request: Request,
    manager: Manager,
    who: Who,
    session_id: SessionId,
    key: Key,
    prefer: Prefer,
    sent: SentJson,
    body: Annotated[
        RegenerateInput | None, Body(openapi_examples=conversation.REGENERATIONS)
    ] = None,
) -> Response:
    """Answer a user's message once more, in a new branch that is the current one at once.

    `message_id` is the user's message or anything that answered it: of several messages with tool
    calls in between, any. It may be on another branch. The first answer stays in its branch. What
    waits at the tip that is left (tool calls without a result) is closed. The answers are those of
    `POST /chat`; `message_ids` is the user's message.
    """
    given = body or RegenerateInput()
    wanted = Regenerate(given.message_id, given.agent, given.options, given.run_id, given.on_busy)
    idem = idempotency(key, "POST /regenerate", sent)
    begin = partial(manager.regenerate, who, session_id, wanted, idem)
    return await run_response(request, manager, who, prefer, begin, chat_answer)


@router.get(
    "/sessions/{session_id}/branches",
    summary="List the branches",
    responses={
        **answer(200, Branches, "All branches.", {"branches": conversation.BRANCHES}),
        **problems(*EDGE, *SESSION),
    },
)
async def list_branches(manager: Manager, who: Who, session_id: SessionId) -> Response:
    """Return all branches of a session, oldest first; there are at most `max_branches`.

    A session without further branches has one, `main`.
    """
    return json_response(await manager.branches(who, session_id))


@router.post(
    "/sessions/{session_id}/branches/{branch_id}/select",
    summary="Go to another branch",
    responses={
        **answer(
            200,
            BranchSelected,
            "The branch is the current one.",
            conversation.BRANCHES[0] | {"current": True, "position": conversation.POSITION},
            "Idempotency-Replayed",
        ),
        **problems(
            *EDGE,
            *SESSION,
            *OPEN,
            *WRITE,
            *KEYED,
            "branch-not-found",
            "run-active",
            "too-many-branches",
        ),
    },
)
async def select_branch(
    manager: Manager,
    who: Who,
    session_id: SessionId,
    branch_id: BranchId,
    key: Key,
) -> Response:
    """Make a branch the current one: the history, agents and new messages follow it.

    It is refused while a run is active or queued. What waits at the tip that is left (tool calls
    without a result) is closed. Open streams get `branch_selected`: their clients load the messages
    again.
    """
    idem = idempotency(key, f"POST /branches/{branch_id}/select", None)
    outcome = await manager.select_branch(who, session_id, branch_id, idem)
    return json_response(outcome.answer, headers=outcome_headers(outcome))
