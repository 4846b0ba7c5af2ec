"""The routes of responses: create, retrieve, cancel, delete, and their input."""

from typing import Annotated, Final

from fastapi import APIRouter, Body, Query, Request
from starlette.responses import Response
from structlog.contextvars import bind_contextvars

from bamboo_gateway.api.dependencies import Manager, Who
from bamboo_gateway.api.long_requests import unless_disconnected
from bamboo_gateway.api.openapi.responses import (
    ASKED,
    BODY,
    EDGE,
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
from bamboo_gateway.api.routes.streams import remote_address
from bamboo_gateway.api.sse import StreamResponse
from bamboo_gateway.domain.callers import Caller
from bamboo_gateway.domain.errors import NotFound
from bamboo_gateway.domain.positions import parse_position
from bamboo_gateway.sessions.commands import StreamRequest
from bamboo_gateway.sessions.manager import SessionManager
from bamboo_gateway.sessions.run_records import RunRecord
from bamboo_gateway.sessions.streaming.hub import StreamPlace
from bamboo_gateway.wires.folded_streams import EVENT_LINES, Folded, FoldedStream, FoldMemos
from bamboo_gateway.wires.openai import answers
from bamboo_gateway.wires.openai.answers import refusals
from bamboo_gateway.wires.openai.creating import Creation, is_kept
from bamboo_gateway.wires.openai.errors import wrong
from bamboo_gateway.wires.openai.items import approval_answer, stored_items
from bamboo_gateway.wires.openai.response_fold import ResponseFold
from bamboo_gateway.wires.openai.response_state import ResponsePlace, RunState
from bamboo_gateway.wires.openai.responses import response_of
from bamboo_gateway.wires.openai.route import (
    LIST_DEFAULT,
    PREFIX,
    ListAfter,
    ListLimit,
    ListOrder,
    OpenAIRoute,
    ResponseId,
    behind,
    named_run,
    no_response,
    page_of,
)
from bamboo_gateway.wires.openai.schemas import (
    OpenAIDeleted,
    OpenAIItems,
    OpenAIResponse,
    ResponseCreate,
)
from bamboo_gateway.wires.places import Place

WAIT_SECONDS: Final = 300.0
"""How long one look at a run waits for its end; it is looked at again as long as the client is
there. The SDKs give up after ten minutes."""

_MEMOS: Final[FoldMemos[ResponsePlace]] = FoldMemos()

router = APIRouter(prefix=PREFIX, tags=["wires"], route_class=OpenAIRoute)

_ONE: Final = answer(200, OpenAIResponse, "The response.", answers.RESPONSE)
_ONE_OR_STREAM: Final = answer(
    200,
    OpenAIResponse,
    "The response; with `stream` its events, until its end (Server-Sent Events).",
    answers.RESPONSE,
)
_ONE_OR_STREAM[200]["content"]["text/event-stream"] = answers.STREAM
_STREAMS: Final = ("too-many-streams", "too-many-connections", "too-many-active-sessions")
_CREATES: Final = (
    *EDGE,
    *BODY,
    *SESSION,
    *OPEN,
    *WRITE,
    *KEYED,
    *NAMED,
    *NEW,
    *TOOLS,
    *ASKED,
    *_STREAMS,
    "option-refused",
    "unknown-agent",
    "invalid-client-tools",
    "event-too-large",
    "too-many-branches",
    "too-many-runs",
    "budget-reached",
    "too-many-queued-runs",
    "request-not-found",
    "already-answered",
    "input-closed",
    "input-expired",
    "invalid-answer",
    "run-active",
)


@router.post(
    "/responses",
    summary="Create a response (OpenAI)",
    responses={**_ONE_OR_STREAM, **refusals(*_CREATES)},
)
async def create_openai_response(
    request: Request,
    body: Annotated[
        ResponseCreate,
        Body(openapi_examples={"text": {"value": {"model": "default", "input": "Hello!"}}}),
    ],
    manager: Manager,
    who: Who,
    key: Key,
    sent: SentJson,
) -> Response:
    """Begin a run that answers the input, and answer with OpenAI's Response.

    The answer comes with the run's end; with `stream` as a stream; with `background` at once. The
    run goes on when the client leaves. A repeat by an SDK, or with the same `Idempotency-Key`, gets
    the run of the first try.
    """
    del body  # read by hand
    creation = Creation(sent, key, _tries(request), request.app.state.clock.now_ms())
    if sent.get("stream") is True:
        # Before the command: a client that gets no stream has not started a run either.
        with manager.reserve_stream(who) as place:
            begun = await creation.begin(manager, who)
            record = await manager.run_record(who, begun.session_id, begun.run_id)
            return await _stream(request, manager, who, record, -1, place)
    begun = await creation.begin(manager, who)
    bind_contextvars(session_id=begun.session_id, run_id=begun.run_id)
    if sent.get("background") is not True:
        is_over = False
        while not is_over:
            waited = await unless_disconnected(
                request,
                manager.wait_run(who, begun.session_id, begun.run_id, WAIT_SECONDS, "answer"),
            )
            is_over = waited.ended
    record = await manager.run_record(who, begun.session_id, begun.run_id)
    return json_response(response_of(record))


@router.get(
    "/responses/{response_id}",
    summary="Retrieve a response (OpenAI)",
    responses={
        **_ONE_OR_STREAM,
        **refusals(*EDGE, *SESSION, *_STREAMS, "run-not-found"),
    },
)
async def get_openai_response(
    request: Request,
    manager: Manager,
    who: Who,
    response_id: ResponseId,
    stream: Annotated[
        bool, Query(description="`true`: its events, from the first one to its end.")
    ] = False,
    starting_after: Annotated[
        int | None, Query(description="With `stream`: behind this `sequence_number`.")
    ] = None,
) -> Response:
    """Return a response, or stream its events, for as long as its session is there."""
    record = await _record(manager, who, response_id)
    if not stream:
        return json_response(response_of(record))
    return await _stream(
        request, manager, who, record, -1 if starting_after is None else starting_after
    )


@router.post(
    "/responses/{response_id}/cancel",
    summary="Cancel a response (OpenAI)",
    responses={**_ONE, **refusals(*EDGE, *SESSION, *WRITE, *KEYED, "run-not-found")},
)
async def cancel_openai_response(
    manager: Manager, who: Who, response_id: ResponseId, key: Key
) -> Response:
    """End the run of a response; one that has ended stays as it is.

    Who may not read gets it without its output.
    """
    session_id, run_id = named_run(response_id)
    await _record(manager, who, response_id)
    idem = idempotency(key, "POST /openai/v1/responses/{id}/cancel", run_id)
    await manager.cancel_run(who, session_id, run_id, idem)
    record = await manager.run_record(who, session_id, run_id)
    return json_response(response_of(record, None if "read" in who.rights else []))


@router.delete(
    "/responses/{response_id}",
    summary="Delete a response (OpenAI)",
    responses={
        **answer(
            200,
            OpenAIDeleted,
            "It cannot be retrieved any more.",
            {"id": answers.RESPONSE_ID, "object": "response", "deleted": True},
        ),
        **refusals(
            *EDGE,
            *SESSION,
            *OPEN,
            *WRITE,
            "run-not-found",
            "run-active",
            "too-many-hidden-runs",
        ),
    },
)
async def delete_openai_response(manager: Manager, who: Who, response_id: ResponseId) -> Response:
    """Hide a response in this protocol. Its messages stay in the conversation."""
    session_id, run_id = named_run(response_id)
    await _record(manager, who, response_id)
    await manager.hide_run(who, session_id, run_id)
    return json_response({"id": response_id, "object": "response", "deleted": True})


@router.get(
    "/responses/{response_id}/input_items",
    summary="List the input of a response (OpenAI)",
    responses={
        **answer(200, OpenAIItems, "The items.", answers.ITEMS),
        **refusals(*EDGE, *SESSION, "run-not-found", "message-not-found"),
    },
)
async def list_openai_input_items(
    manager: Manager,
    who: Who,
    response_id: ResponseId,
    limit: ListLimit = LIST_DEFAULT,
    order: ListOrder = "desc",
    after: ListAfter = None,
) -> Response:
    """Return the items that the request of the response had, the latest first."""
    record = await _record(manager, who, response_id)
    answers_given = (approval_answer(one.settled or {}) for one in record.answered)
    items = [*stored_items(record.input), *filter(None, answers_given)]
    left = behind(items[::-1] if order == "desc" else items, after)
    return json_response(page_of(left[:limit], len(left) > limit))


async def _record(manager: SessionManager, who: Caller, response_id: str) -> RunRecord:
    session_id, run_id = named_run(response_id)
    bind_contextvars(session_id=session_id, run_id=run_id)
    record = await manager.run_record(who, session_id, run_id)
    if not is_kept(record):
        raise no_response()
    return record


async def _stream(
    request: Request,
    manager: SessionManager,
    who: Caller,
    record: RunRecord,
    after: int,
    place: StreamPlace | None = None,
) -> Response:
    run = record.run
    begin = parse_position(run["position"])
    assert begin is not None  # the gateway wrote it
    if after < -1:
        raise wrong("starting_after", "is no number of an event.")
    wanted = StreamRequest(
        after=begin,
        until_complete=True,
        run_id=run["run_id"],
        remote_address=remote_address(request),
    )
    connection = await manager.connect(who, run["session_id"], wanted, EVENT_LINES, place)
    if connection is None or connection.start.reset is not None:
        if connection is not None:
            connection.aclose()
        raise NotFound("There is no such response.", code="run-not-found")
    fold = ResponseFold(begin.seq, record)
    memo = _MEMOS.of((id(manager), run["session_id"], begin.epoch, run["run_id"]), lambda: fold)

    async def complete(state: ResponsePlace) -> Folded[ResponsePlace]:
        ended = await manager.run_record(who, run["session_id"], run["run_id"])
        return fold.ended(state, ended)

    stream = FoldedStream(connection, memo, Place(RunState(), after), complete)
    return StreamResponse(stream, request.app.state.clock)


def _tries(request: Request) -> int | None:
    """Return how often an SDK has sent a request before."""
    given = request.headers.get("x-stainless-retry-count", "")
    return int(given) if given.isascii() and given.isdigit() and len(given) < 6 else None
