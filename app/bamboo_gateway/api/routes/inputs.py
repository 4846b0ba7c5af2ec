"""Requests for input: which are open, and answering them."""

from typing import Annotated

from fastapi import APIRouter, Body, Request
from starlette.responses import Response
from structlog.contextvars import bind_contextvars

from bamboo_gateway.api.accept import prefers
from bamboo_gateway.api.dependencies import Manager, SessionId, Who
from bamboo_gateway.api.frames import NATIVE
from bamboo_gateway.api.long_requests import unless_disconnected
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
from bamboo_gateway.api.prefix import prefix_of
from bamboo_gateway.api.request_headers import Key, Prefer, SentJson, idempotency
from bamboo_gateway.api.responses import json_response, outcome_headers
from bamboo_gateway.api.routes.streams import remote_address, stream_response
from bamboo_gateway.api.schemas.inputs import (
    InputsAccepted,
    InputsCompleted,
    InputsInput,
    OpenInputs,
)
from bamboo_gateway.api.security.rights import AnswerRoute
from bamboo_gateway.api.urls import inputs_answer, run_url
from bamboo_gateway.domain.callers import Caller
from bamboo_gateway.domain.positions import parse_position
from bamboo_gateway.sessions.answers import InputsTaken
from bamboo_gateway.sessions.commands import Idempotency, Outcome, StreamRequest
from bamboo_gateway.sessions.manager import SessionManager
from bamboo_gateway.sessions.runs.inputs import Inputs

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
    command = body.to_command()
    if prefers(request, "text/event-stream"):
        return await _streamed(request, manager, who, session_id, command, idem)
    outcome = await manager.answer_inputs(who, session_id, command, idem)
    prefix = prefix_of(request.scope)
    taken, headers = inputs_answer(outcome.answer, prefix), _headers(outcome, prefix)
    run_id = taken["run_id"]
    if prefer.wait_seconds is None or run_id is None:
        return json_response(taken, 202, headers)
    headers |= prefer.headers
    waited = await unless_disconnected(
        request, manager.wait_run(who, session_id, run_id, prefer.wait_seconds, "answer")
    )
    if not waited.ended:
        return json_response(taken, 202, headers)
    ending = {name: waited.run[name] for name in ("status", "usage", "error")}
    return json_response({**taken, **ending, "message": waited.message}, 200, headers)


async def _streamed(
    request: Request,
    manager: SessionManager,
    who: Caller,
    session_id: str,
    command: Inputs,
    idem: Idempotency | None,
) -> Response:
    # Before the answers: a client that gets no stream has answered nothing either.
    with manager.reserve_stream(who) as place:
        outcome = await manager.answer_inputs(who, session_id, command, idem)
        prefix = prefix_of(request.scope)
        run_id = outcome.answer.get("run_id")
        headers = _headers(outcome, prefix)
        if run_id is None:
            return json_response(inputs_answer(outcome.answer, prefix), 202, headers)
        wanted = StreamRequest(
            after=parse_position(outcome.answer["position"]),
            until_complete=True,
            run_id=run_id,
            remote_address=remote_address(request),
        )
        connection = await manager.connect(who, session_id, wanted, NATIVE, place)
        headers |= {"Session-Id": session_id, "Run-Id": run_id}
        return stream_response(request, connection, headers)


def _headers(outcome: Outcome[InputsTaken], prefix: str) -> dict[str, str]:
    headers = outcome_headers(outcome)
    run_id = outcome.answer.get("run_id")
    if run_id is not None:
        bind_contextvars(run_id=run_id)
        headers["Location"] = run_url(outcome.answer["session_id"], run_id, prefix)
    return headers
