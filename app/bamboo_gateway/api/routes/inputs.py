"""Requests for input: which are open, and answering them."""

from functools import partial
from typing import Annotated

from fastapi import APIRouter, Body, Request
from starlette.responses import Response

from bamboo_gateway.api.dependencies import Manager, SessionId, Who
from bamboo_gateway.api.openapi.examples import conversation
from bamboo_gateway.api.openapi.responses import (
    BODY,
    EDGE,
    HEADERS,
    KEYED,
    OPEN,
    SESSION,
    WRITE,
    answer,
    problems,
    stream,
)
from bamboo_gateway.api.request_headers import Key, Prefer, SentJson, idempotency
from bamboo_gateway.api.responses import json_response
from bamboo_gateway.api.routes.chat import run_response
from bamboo_gateway.api.schemas.inputs import (
    InputsAccepted,
    InputsCompleted,
    InputsInput,
    OpenInputs,
)
from bamboo_gateway.api.security.rights import AnswerRoute
from bamboo_gateway.api.urls import inputs_answer

router = APIRouter(prefix="/api/v1", tags=["inputs"], route_class=AnswerRoute)

_MEMBERS = ("request_id", "kind", "prompt", "run_id", "tool_call_id", "schema")

_COMPLETED = answer(
    200,
    InputsCompleted,
    "`application/json` with `Prefer: wait`: the run that got the answers has ended. "
    "`text/event-stream` with `Accept: text/event-stream`: that run's events, until its end.",
    conversation.INPUTS_COMPLETED,
)
_STREAM = stream("", "Location", "Session-Id", "Run-Id", "Idempotency-Replayed")
_COMPLETED[200]["content"] |= _STREAM["content"]
_COMPLETED[200]["headers"] = _STREAM["headers"] | {
    "Preference-Applied": HEADERS["Preference-Applied"]
}


@router.get(
    "/sessions/{session_id}/inputs",
    summary="List the open requests for input",
    responses={
        **answer(200, OpenInputs, "The open requests.", {"inputs": [conversation.OPEN_INPUT]}),
        **problems(*EDGE, *SESSION),
    },
)
async def list_inputs(manager: Manager, who: Who, session_id: SessionId) -> Response:
    """List what the session waits for, with whole prompts and the schemas of the answers."""
    inputs = [
        {
            **{name: event.get(name) for name in _MEMBERS},
            "asked_at": event["time"],
            "expires_at": event.get("expires_at"),
        }
        for event in await manager.open_inputs(who, session_id)
    ]
    return json_response({"inputs": inputs})


@router.post(
    "/sessions/{session_id}/inputs",
    status_code=202,
    summary="Answer requests for input",
    responses={
        **answer(
            202,
            InputsAccepted,
            "The answers are stored. With a `run_id` the run that gets them all has started; null "
            "while other requests are open.",
            conversation.INPUTS_ACCEPTED,
            "Location",
            "Idempotency-Replayed",
            "Preference-Applied",
        ),
        **_COMPLETED,
        **problems(
            *EDGE,
            *BODY,
            *SESSION,
            *OPEN,
            *WRITE,
            *KEYED,
            "request-not-found",
            "already-answered",
            "input-closed",
            "run-active",
            "run-exists",
            "input-expired",
            "event-too-large",
            "invalid-answer",
            "option-refused",
            "too-many-runs",
            "too-many-streams",
            "too-many-connections",
        ),
    },
)
async def answer_inputs(
    request: Request,
    body: Annotated[InputsInput, Body(openapi_examples=conversation.INPUTS)],
    manager: Manager,
    who: Who,
    session_id: SessionId,
    key: Key,
    prefer: Prefer,
    sent: SentJson,
) -> Response:
    """Answer one or more requests, all or none. The last answer starts the run that gets them all.

    An answer counts once. The same answers again get the same 202, and another one is refused, so
    a client that is not sure sends its answers again. `Accept: text/event-stream` and
    `Prefer: wait` work as for a chat, when a run starts.
    """
    idem = idempotency(key, "POST /inputs", sent)
    begin = partial(manager.answer_inputs, who, session_id, body.to_command(), idem)
    return await run_response(request, manager, who, prefer, begin, inputs_answer, "answer")
