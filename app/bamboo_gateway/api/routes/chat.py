"""`POST /chat`: one turn of a conversation, answered in one of three ways."""

from collections.abc import Awaitable, Callable, Mapping
from functools import partial
from typing import Annotated, Any, Final, Literal

from fastapi import APIRouter, Body, Request
from starlette.responses import Response
from structlog.contextvars import bind_contextvars

from bamboo_gateway.api.accept import prefers
from bamboo_gateway.api.dependencies import Manager, Who
from bamboo_gateway.api.frames import NATIVE
from bamboo_gateway.api.long_requests import unless_disconnected
from bamboo_gateway.api.openapi.examples import conversation
from bamboo_gateway.api.openapi.responses import (
    BODY,
    EDGE,
    HEADERS,
    KEYED,
    NAMED,
    NEW,
    OPEN,
    TOOLS,
    WRITE,
    answer,
    problems,
    stream,
)
from bamboo_gateway.api.prefix import prefix_of
from bamboo_gateway.api.request_headers import Key, Prefer, Preference, SentJson, idempotency
from bamboo_gateway.api.responses import json_response, outcome_headers
from bamboo_gateway.api.routes.streams import remote_address, stream_response
from bamboo_gateway.api.schemas.chat import ChatAccepted, ChatCompleted, ChatInput
from bamboo_gateway.api.security.rights import SessionRoute
from bamboo_gateway.api.urls import chat_answer, run_url
from bamboo_gateway.domain.callers import Caller
from bamboo_gateway.domain.positions import parse_position
from bamboo_gateway.sessions.answers import ChatTurn, InputsTaken
from bamboo_gateway.sessions.commands import Chat, Outcome, StreamRequest
from bamboo_gateway.sessions.manager import SessionManager
from bamboo_gateway.sessions.streaming.hub import StreamPlace

Begun = Outcome[ChatTurn] | Outcome[InputsTaken]

router = APIRouter(prefix="/api/v1", tags=["chat"], route_class=SessionRoute)

COMPLETED: Final = answer(
    200,
    ChatCompleted,
    "`application/json` with `Prefer: wait`: the run has ended. `text/event-stream` with "
    "`Accept: text/event-stream`: the run's events, until its end.",
    conversation.CHAT_COMPLETED,
)
_STREAM = stream("", "Location", "Session-Id", "Run-Id", "Idempotency-Replayed")
COMPLETED[200]["content"] |= _STREAM["content"]
COMPLETED[200]["headers"] = _STREAM["headers"] | {
    "Preference-Applied": HEADERS["Preference-Applied"]
}


ACCEPTED: Final = answer(
    202,
    ChatAccepted,
    "The turn is stored and its run executes or waits, also when the client leaves. After "
    "`Prefer: wait`: the run has not ended in time.",
    conversation.CHAT_ACCEPTED,
    "Location",
    "Idempotency-Replayed",
    "Preference-Applied",
)


@router.post(
    "/chat",
    status_code=202,
    summary="Send a message and have it answered",
    responses={
        **ACCEPTED,
        **COMPLETED,
        **problems(
            *EDGE,
            *BODY,
            *OPEN,
            *WRITE,
            *KEYED,
            *NAMED,
            *TOOLS,
            "invalid-id",
            "session-not-found",
            "unknown-agent",
            "option-refused",
            "event-too-large",
            "metadata-too-large",
            "session-expired",
            "run-active",
            "run-exists",
            "message-exists",
            "message-not-found",
            "not-a-user-message",
            "too-many-branches",
            *NEW,
            "too-many-runs",
            "budget-reached",
            "too-many-queued-runs",
            "too-many-streams",
            "too-many-connections",
        ),
    },
)
async def chat(
    request: Request,
    body: Annotated[ChatInput, Body(openapi_examples=conversation.CHATS)],
    manager: Manager,
    who: Who,
    key: Key,
    prefer: Prefer,
    sent: SentJson,
) -> Response:
    """Store the message, and start a run that answers it, or queue one.

    There are three answers. By default 202 comes at once; its `stream_url` shows every event of the
    run whenever it is opened. With `Accept: text/event-stream` the answer is 200 and that stream
    itself, which ends with the run. With `Prefer: wait=N` the gateway waits up to N seconds for the
    run's end: 200 with the assistant's message, or 202 when the run has not ended by then.
    Closing the request never stops the run.

    With `edit_message_id` the message takes the place of that user's message, in a new branch that
    begins behind the message before it; the old message and all that followed stay in their branch.
    """
    command = Chat(
        session=body.session(),
        messages=body.messages(),
        agent=body.agent,
        options=body.options,
        run_id=body.run_id,
        on_busy=body.on_busy,
        edit_message_id=body.edit_message_id,
    )
    idem = idempotency(key, "POST /chat", sent)
    begin = partial(manager.chat, who, command, idem)
    return await run_response(request, manager, who, prefer, begin, chat_answer)


async def run_response(
    request: Request,
    manager: SessionManager,
    who: Caller,
    prefer: Preference,
    begin: Callable[[], Awaitable[Begun]],
    shown: Callable[[Mapping[str, Any], str], dict[str, Any]],
    need: Literal["own", "answer"] = "own",
) -> Response:
    """Begin a run, and answer in the way that the request asks for.

    202 at once, the run's stream, or with `Prefer: wait` its end. A command that starts no run
    (answers, while other requests are open) is answered with 202 in any case.

    Args:
        request: The request.
        manager: Runs the command.
        who: Who asks.
        prefer: The request's `Prefer`.
        begin: The command.
        shown: Makes the accepted answer of the command's, for a prefix.
        need: What waiting for the run needs of the session.
    """
    if prefers(request, "text/event-stream"):
        # Before the command: a client that gets no stream has not started a run either.
        with manager.reserve_stream(who) as place:
            outcome = await begin()
            if outcome.answer.get("run_id") is not None:
                return await _streamed(request, manager, who, outcome, place)
    else:
        outcome = await begin()
    prefix = prefix_of(request.scope)
    accepted, headers = shown(outcome.answer, prefix), _headers(outcome, prefix)
    session_id, run_id = accepted["session_id"], accepted["run_id"]
    if prefer.wait_seconds is None or run_id is None:
        return json_response(accepted, 202, headers)
    headers |= prefer.headers
    waited = await unless_disconnected(
        request, manager.wait_run(who, session_id, run_id, prefer.wait_seconds, need)
    )
    if not waited.ended:
        if "status" in accepted:
            accepted["status"] = waited.run["status"]
        return json_response(accepted, 202, headers)
    ending = {name: waited.run[name] for name in ("status", "usage", "error")}
    return json_response({**accepted, **ending, "message": waited.message}, 200, headers)


async def _streamed(
    request: Request, manager: SessionManager, who: Caller, outcome: Begun, place: StreamPlace
) -> Response:
    headers = _headers(outcome, prefix_of(request.scope))
    session_id, run_id = outcome.answer["session_id"], outcome.answer["run_id"]
    wanted = StreamRequest(
        after=parse_position(outcome.answer["position"]),
        until_complete=True,
        run_id=run_id,
        remote_address=remote_address(request),
    )
    connection = await manager.connect(who, session_id, wanted, NATIVE, place)
    headers |= {"Session-Id": session_id, "Run-Id": run_id}
    return stream_response(request, connection, headers)


def _headers(outcome: Begun, prefix: str) -> dict[str, str]:
    session_id, run_id = outcome.answer["session_id"], outcome.answer.get("run_id")
    bind_contextvars(session_id=session_id)
    headers = outcome_headers(outcome)
    if run_id is not None:
        bind_contextvars(run_id=run_id)
        headers["Location"] = run_url(session_id, run_id, prefix)
    return headers
