"""`POST /chat`: one turn of a conversation, answered in one of three ways."""

from typing import Annotated

from fastapi import APIRouter, Body, Request
from starlette.responses import Response
from structlog.contextvars import bind_contextvars

from bamboo_gateway.api.accept import prefers
from bamboo_gateway.api.dependencies import (
    Key,
    Manager,
    Prefer,
    SentJson,
    Who,
    idempotency,
    unless_disconnected,
)
from bamboo_gateway.api.frames import NATIVE
from bamboo_gateway.api.openapi.examples import conversation as examples
from bamboo_gateway.api.openapi.responses import (
    BODY,
    EDGE,
    HEADERS,
    KEYED,
    NEW,
    OPEN,
    TOOLS,
    WRITE,
    answer,
    problems,
    stream,
)
from bamboo_gateway.api.responses import json_response, outcome_headers
from bamboo_gateway.api.routes.streams import remote_address, stream_response
from bamboo_gateway.api.schemas.messages import ChatInput
from bamboo_gateway.api.schemas.sessions import ChatAccepted, ChatCompleted
from bamboo_gateway.api.security.rights import SessionRoute
from bamboo_gateway.domain.positions import parse_position
from bamboo_gateway.sessions.commands import Chat, StreamRequest

router = APIRouter(prefix="/api/v1", tags=["chat"], route_class=SessionRoute)

_COMPLETED = answer(
    200,
    ChatCompleted,
    "With `Prefer: wait`, the run's end. With `Accept: text/event-stream`, the stream itself.",
    examples.CHAT_COMPLETED,
)
_STREAM = stream("Location", "Session-Id", "Run-Id", "Idempotency-Replayed")
_COMPLETED[200]["content"] |= _STREAM["content"]
_COMPLETED[200]["headers"] = _STREAM["headers"] | {
    "Preference-Applied": HEADERS["Preference-Applied"]
}


@router.post(
    "/chat",
    status_code=202,
    summary="Say something and have it answered",
    responses={
        **answer(
            202,
            ChatAccepted,
            "The turn is durable and will run; it belongs to the session, not to this request.",
            examples.CHAT_ACCEPTED,
            "Location",
            "Idempotency-Replayed",
            "Preference-Applied",
        ),
        **_COMPLETED,
        **problems(
            *EDGE,
            *BODY,
            *OPEN,
            *WRITE,
            *KEYED,
            *TOOLS,
            "invalid-id",
            "session-not-found",
            "unknown-agent",
            "event-too-large",
            "metadata-too-large",
            "session-expired",
            "run-active",
            "run-exists",
            "message-exists",
            *NEW,
            "too-many-runs",
            "too-many-queued-runs",
            "too-many-streams",
            "too-many-connections",
        ),
    },
)
async def chat(
    request: Request,
    body: Annotated[ChatInput, Body(openapi_examples=examples.CHATS)],
    manager: Manager,
    who: Who,
    key: Key,
    prefer: Prefer,
    sent: SentJson,
) -> Response:
    """Stores the message, and starts a run that answers it, or queues one.

    The answer comes at once (202) with a `stream_url` that shows every event of the run whenever it
    is opened. `Accept: text/event-stream` answers with that stream itself and ends with the run;
    `Prefer: wait=N` waits for the run's end. Closing the request never stops the run.
    """
    command = Chat(
        session=body.session(),
        messages=body.messages(),
        agent=body.agent,
        options=body.options,
        run_id=body.run_id,
        on_busy=body.on_busy,
    )
    is_streamed = prefers(request, "text/event-stream")
    if is_streamed:
        manager.check_room_for_stream(who)
    outcome = await manager.chat(who, command, idempotency(key, "POST /chat", sent))
    turn = outcome.answer
    session_id, run_id = turn["session_id"], turn["run_id"]
    bind_contextvars(session_id=session_id, run_id=run_id)
    headers = {
        "Location": f"/api/v1/sessions/{session_id}/runs/{run_id}",
        **outcome_headers(outcome),
    }
    if is_streamed:
        wanted = StreamRequest(
            after=parse_position(turn["position"]),
            until_complete=True,
            run_id=run_id,
            remote_address=remote_address(request),
        )
        connection = await manager.connect(who, session_id, wanted, NATIVE)
        headers |= {"Session-Id": session_id, "Run-Id": run_id}
        return stream_response(request, connection, headers)
    if prefer.wait_seconds is None:
        return json_response(turn, 202, headers)
    headers |= prefer.headers
    waited = await unless_disconnected(
        request, manager.wait_run(who, session_id, run_id, prefer.wait_seconds)
    )
    if not waited.ended:
        return json_response({**turn, "status": waited.run["status"]}, 202, headers)
    ending = {name: waited.run[name] for name in ("status", "usage", "error")}
    return json_response({**turn, **ending, "message": waited.message}, 200, headers)
