"""The routes of AG-UI: a run, seeing a thread again, and stopping it."""

from typing import Annotated, Any, Final

from fastapi import APIRouter, Body, Path, Request
from starlette.responses import Response
from structlog.contextvars import bind_contextvars

from bamboo_gateway.api.checks import checked_id
from bamboo_gateway.api.dependencies import Manager, Who
from bamboo_gateway.api.limits import NAME_CHARS_MAX
from bamboo_gateway.api.openapi.responses import (
    BODY,
    EDGE,
    HEADERS,
    KEYED,
    NAMED,
    NEW,
    OPEN,
    SESSION,
    TOOLS,
    WRITE,
    answer,
)
from bamboo_gateway.api.request_headers import Key, SentJson, idempotency
from bamboo_gateway.api.responses import json_response
from bamboo_gateway.api.routes.streams import remote_address, stream_response
from bamboo_gateway.api.security.rights import ReadRoute, SessionRoute
from bamboo_gateway.api.urls import API
from bamboo_gateway.wires.ag_ui import frames
from bamboo_gateway.wires.ag_ui.errors import refusals
from bamboo_gateway.wires.ag_ui.schemas import ConnectInput, RunAgentInput, Stopped
from bamboo_gateway.wires.ag_ui.threads import Shown, Threads
from bamboo_gateway.wires.base import WireRoute

PREFIX: Final = f"{API}/ag-ui"


class AgUiRoute(WireRoute, SessionRoute):
    """A route that changes a thread."""


class AgUiReadRoute(WireRoute, ReadRoute):
    """A route that only reads one, whatever its method."""


router = APIRouter(prefix=PREFIX, tags=["wires"], route_class=AgUiRoute)
reading = APIRouter(prefix=PREFIX, tags=["wires"], route_class=AgUiReadRoute)

_EXAMPLE: Final = (
    frames.run_started("s-1", "run-1")
    + frames.message_start("msg_1", "assistant")
    + frames.content_begin("token", "msg_1")
    + b"Hello!"
    + frames.CONTENT_END
    + frames.message_end("msg_1")
    + frames.run_finished("s-1", "run-1", {"type": "success"})
).decode()
_RUN_EXAMPLE: Final[dict[str, Any]] = {
    "threadId": "s-1",
    "runId": "run-1",
    "messages": [{"id": "u1", "role": "user", "content": "Hello!"}],
    "tools": [],
    "context": [],
}
_STREAM: Final[dict[int | str, dict[str, Any]]] = {
    200: {
        "description": "Events of AG-UI 1.0, from RUN_STARTED to the run's end.",
        "content": {
            "text/event-stream": {
                "schema": {"type": "string", "contentMediaType": "text/event-stream"},
                "example": _EXAMPLE,
            }
        },
        "headers": {
            name: HEADERS[name] for name in ("Connection-Id", "Run-Id", "Idempotency-Replayed")
        },
    }
}

_Agent = Annotated[
    str,
    Path(
        min_length=1,
        max_length=NAME_CHARS_MAX,
        description="The configured agent that answers.",
        openapi_examples={"agent": {"value": "default"}},
    ),
]
_ThreadId = Annotated[
    str,
    Path(
        alias="threadId",
        description="The session.",
        openapi_examples={"session": {"value": "s-1"}},
        json_schema_extra={"pattern": "^[A-Za-z0-9][A-Za-z0-9._-]{0,127}$"},
    ),
]


@router.post(
    "/{agent}",
    summary="Run an agent over AG-UI",
    response_class=Response,
    responses={
        **_STREAM,
        **refusals(
            *EDGE,
            *BODY,
            *SESSION,
            *OPEN,
            *WRITE,
            *KEYED,
            *NAMED,
            *TOOLS,
            *NEW,
            "unknown-agent",
            "option-refused",
            "invalid-client-tools",
            "nothing-to-answer",
            "event-too-large",
            "message-exists",
            "run-exists",
            "run-active",
            "request-not-found",
            "already-answered",
            "input-closed",
            "input-expired",
            "invalid-answer",
            "too-many-branches",
            "too-many-runs",
            "budget-reached",
            "too-many-queued-runs",
            "too-many-streams",
            "too-many-connections",
        ),
    },
)
async def run_ag_ui_agent(
    request: Request,
    agent: _Agent,
    body: Annotated[RunAgentInput, Body(openapi_examples={"run": {"value": _RUN_EXAMPLE}})],
    manager: Manager,
    who: Who,
    key: Key,
    sent: SentJson,
) -> Response:
    """Store the client's new messages, and answer with the events of the run that answers them.

    The thread is the session of that id. Messages that it knows are ignored, so a client may send
    its whole conversation; without a new one, an answered message of the user is answered again,
    and the same `runId` shows the same run again. `resume` answers all open interrupts. Closing
    the request does not stop the run.
    """
    bind_contextvars(session_id=body.thread_id)
    idem = idempotency(key, f"POST /ag-ui/{agent}", sent)
    # Before the command: a client that gets no stream has not started a run either.
    with manager.reserve_stream(who) as place:
        threads = Threads(manager, who, place, remote_address(request))
        return _response(request, await threads.run(agent, body, idem))


@reading.post(
    "/{agent}/connect",
    summary="See an AG-UI thread again",
    response_class=Response,
    responses={
        **_STREAM,
        **refusals(
            *EDGE,
            *BODY,
            *SESSION,
            "too-many-streams",
            "too-many-connections",
            "too-many-active-sessions",
        ),
    },
)
async def connect_ag_ui_thread(
    request: Request,
    agent: _Agent,
    body: Annotated[
        ConnectInput, Body(openapi_examples={"thread": {"value": {"threadId": "s-1"}}})
    ],
    manager: Manager,
    who: Who,
) -> Response:
    """Answer with the thread's messages, and then the run that executes or waits, from its begin.

    The resume that AG-UI lacks: a page that was loaded again, or has lost its connection in the
    middle of an answer, has the same messages at the end as one that has not. `agent` says nothing
    here.
    """
    del agent
    bind_contextvars(session_id=body.thread_id)
    with manager.reserve_stream(who) as place:
        threads = Threads(manager, who, place, remote_address(request))
        return _response(request, await threads.connect(body.thread_id, body.run_id))


@router.post(
    "/{agent}/stop/{threadId}",
    summary="Stop an AG-UI thread",
    responses={
        **answer(
            200,
            Stopped,
            "What was stopped.",
            {"stopped": True, "threadId": "s-1", "runIds": ["run-1"]},
            "Idempotency-Replayed",
        ),
        **refusals(*EDGE, *SESSION, *WRITE, *KEYED),
    },
)
async def stop_ag_ui_thread(
    agent: _Agent, thread_id: _ThreadId, manager: Manager, who: Who, key: Key
) -> Response:
    """Cancel the run that executes and those that wait. Its stream ends with RUN_FINISHED."""
    del agent
    checked_id(thread_id, "session id", ("path", "threadId"))
    bind_contextvars(session_id=thread_id)
    idem = idempotency(key, "POST /ag-ui/stop", None)
    outcome = await manager.cancel_session(who, thread_id, idem)
    run_ids = [run["run_id"] for run in outcome.answer["runs"]]
    return json_response(
        {"stopped": bool(run_ids), "threadId": thread_id, "runIds": run_ids},
        headers={"Idempotency-Replayed": "true"} if outcome.replayed else {},
    )


def _response(request: Request, shown: Shown) -> Response:
    headers: dict[str, str] = {}
    if shown.run_id is not None:
        bind_contextvars(run_id=shown.run_id)
        headers["Run-Id"] = shown.run_id
    if shown.is_replayed:
        headers["Idempotency-Replayed"] = "true"
    if shown.stream is not None:
        return stream_response(request, shown.stream, headers)
    headers["Cache-Control"] = "no-cache, no-transform"
    return Response(shown.whole, headers=headers, media_type="text/event-stream")
