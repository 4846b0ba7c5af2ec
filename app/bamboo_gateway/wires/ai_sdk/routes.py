"""The routes of one version: submit, resume, stop, and the messages that a page loads."""

from typing import Annotated, Any, Final

from fastapi import APIRouter, Body, Query, Request
from starlette.responses import Response
from structlog.contextvars import bind_contextvars

from bamboo_gateway.api.checks import checked_id
from bamboo_gateway.api.dependencies import Limit, Manager, SessionId, Who
from bamboo_gateway.api.limits import POSITION_CHARS_MAX
from bamboo_gateway.api.openapi.examples import conversation
from bamboo_gateway.api.openapi.responses import (
    BODY,
    EDGE,
    HEADERS,
    KEYED,
    NAMED,
    NEW,
    OPEN,
    SESSION,
    TEXT,
    TOOLS,
    WRITE,
    Responses,
    answer,
    nothing,
    problems,
)
from bamboo_gateway.api.prefix import prefix_of
from bamboo_gateway.api.request_headers import Key, SentJson, idempotency
from bamboo_gateway.api.responses import bytes_response, json_response, outcome_headers
from bamboo_gateway.api.routes.streams import remote_address, stream_response
from bamboo_gateway.api.schemas.runs import SessionCancelled
from bamboo_gateway.api.security.rights import SessionRoute
from bamboo_gateway.api.urls import run_answer
from bamboo_gateway.domain.callers import Caller
from bamboo_gateway.domain.codec import encode
from bamboo_gateway.domain.errors import InvalidInput, NotFound
from bamboo_gateway.domain.positions import Position, parse_position
from bamboo_gateway.sessions.commands import StreamRequest
from bamboo_gateway.sessions.manager import SessionManager
from bamboo_gateway.sessions.streaming.hub import StreamPlace
from bamboo_gateway.wires.ai_sdk import examples, parts
from bamboo_gateway.wires.ai_sdk.bodies import ChatRequest
from bamboo_gateway.wires.ai_sdk.folding import beside_loop, folded
from bamboo_gateway.wires.ai_sdk.resume import Resumed, resume
from bamboo_gateway.wires.ai_sdk.run_fold import RunFold
from bamboo_gateway.wires.ai_sdk.run_state import Run, RunState
from bamboo_gateway.wires.ai_sdk.schemas import UiMessageList
from bamboo_gateway.wires.ai_sdk.submits import Begun, Submit
from bamboo_gateway.wires.ai_sdk.versions import Version
from bamboo_gateway.wires.base import WireRoute
from bamboo_gateway.wires.folded_streams import EVENT_LINES, FoldedStream, FoldMemos
from bamboo_gateway.wires.places import Place

STREAM_HEADERS: Final = {"x-vercel-ai-ui-message-stream": "v1"}

TURNS_DEFAULT: Final = 100
"""How many turns a page loads: a chat that is longer is read backwards with `before`."""

_MEMOS: Final[FoldMemos[Place[RunState]]] = FoldMemos()

_NAMES: Final = {5: "aiSdk", 6: "aiSdkSix", 7: "aiSdkSeven"}
"""The begin of the operation ids of each version; they have no digits."""


class AiSdkRoute(WireRoute, SessionRoute):
    """A route of the protocol. Clients show the text of an error; it is the gateway's problem."""


def _frames(description: str, *headers: str) -> dict[str, Any]:
    return {
        "description": description,
        "content": {
            "text/event-stream": {
                "schema": {"type": "string", "contentMediaType": "text/event-stream"},
                "example": examples.FRAMES,
            }
        },
        "headers": {
            "x-vercel-ai-ui-message-stream": {"description": "`v1`.", **TEXT},
            **{name: HEADERS[name] for name in ("Connection-Id", *headers)},
        },
    }


_SUBMITTED: Final[Responses] = {
    200: _frames("The run's part of the UI message, until its end.", "Session-Id", "Run-Id"),
    **nothing(204, "The session was closed meanwhile."),
    **problems(
        *EDGE,
        *BODY,
        *OPEN,
        *WRITE,
        *KEYED,
        *NAMED,
        *TOOLS,
        *NEW,
        "session-not-found",
        "session-expired",
        "unknown-agent",
        "option-refused",
        "invalid-client-tools",
        "event-too-large",
        "metadata-too-large",
        "run-active",
        "message-exists",
        "message-not-found",
        "not-a-user-message",
        "nothing-to-answer",
        "already-answered",
        "input-closed",
        "input-expired",
        "too-many-branches",
        "too-many-runs",
        "budget-reached",
        "too-many-queued-runs",
        "too-many-streams",
        "too-many-connections",
    ),
}
_RESUMED: Final[Responses] = {
    200: _frames("The whole UI message that is being made, from `start`, until its run's end."),
    **nothing(204, "No run is active; also when there is no such session (yet)."),
    **problems(
        *EDGE,
        "session-expired",
        "storage-failed",
        "too-large",
        "invalid-position",
        "too-many-streams",
        "too-many-connections",
        "too-many-active-sessions",
    ),
}


def router_of(version: Version) -> APIRouter:
    """Return the routes for the clients of a version."""
    router = APIRouter(prefix="/api/v1", tags=["wires"], route_class=AiSdkRoute)
    name, client = _NAMES[version.number], f"AI SDK {version.number}"

    @router.post(
        version.path,
        operation_id=f"{name}Chat",
        summary=f"Chat ({client})",
        response_class=Response,
        responses=_SUBMITTED,
    )
    async def chat(
        request: Request,
        body: Annotated[ChatRequest, Body(openapi_examples=examples.REQUESTS)],
        manager: Manager,
        who: Who,
        key: Key,
        sent: SentJson,
    ) -> Response:
        """Take a message, an edit, results of tools or approvals, and stream the run that answers.

        A message whose id the session has already is not taken again: the answer is the stream of
        its run, from the begin. Closing the request never stops the run.
        """
        checked_id(body.id, "session id", ("body", "id"))
        bind_contextvars(session_id=body.id)
        idem = idempotency(key, f"POST {version.path}", sent)
        submit = Submit(manager, who, version, body, idem)
        # Before the command: a client that gets no stream has not started a run either.
        with manager.reserve_stream(who) as place:
            begun = await submit.begin()
            return await _streamed(request, manager, who, version, body.id, begun, place)

    @router.get(
        f"{version.path}/{{session_id}}/stream",
        operation_id=f"{name}Stream",
        summary=f"Resume the stream ({client})",
        response_class=Response,
        responses=_RESUMED,
    )
    async def stream(
        request: Request,
        manager: Manager,
        who: Who,
        session_id: SessionId,
        after: Annotated[
            str | None,
            Query(
                description="The `Stream-After` of the messages that the page has loaded: an "
                "answer that has ended since then is streamed too."
            ),
        ] = None,
    ) -> Response:
        """Stream the UI message that is being made: what it has so far, and all that follows.

        Without `after` a page misses an answer that ends between its two requests, and shows it
        when it is loaded again.
        """
        loaded = _position(after)
        prefix = prefix_of(request.scope)
        try:
            found = await resume(manager, who, session_id, version, prefix, loaded)
        except NotFound:
            return Response(status_code=204)  # a page of a chat that has no message yet
        if found is None:
            return Response(status_code=204)
        return await _followed(request, manager, who, version, session_id, found)

    @router.post(
        f"{version.path}/{{session_id}}/stop",
        operation_id=f"{name}Stop",
        summary=f"Stop the run ({client})",
        responses={
            **answer(
                200,
                SessionCancelled,
                "The runs that were cancelled.",
                {"session_id": conversation.SESSION_ID, "runs": [conversation.RUN_CANCELLED]},
                "Idempotency-Replayed",
            ),
            **problems(*EDGE, *SESSION, *WRITE, *KEYED),
        },
    )
    async def stop(
        request: Request, manager: Manager, who: Who, session_id: SessionId, key: Key
    ) -> Response:
        """Cancel the active run and all that wait. What was said so far is kept.

        The client's own `stop()` only closes its request, which stops nothing here.
        """
        idem = idempotency(key, "POST /cancel", None)
        outcome = await manager.cancel_session(who, session_id, idem)
        prefix = prefix_of(request.scope)
        runs = [run_answer(run, prefix) for run in outcome.answer["runs"]]
        return json_response({**outcome.answer, "runs": runs}, headers=outcome_headers(outcome))

    @router.get(
        f"{version.path}/{{session_id}}/messages",
        operation_id=f"{name}Messages",
        summary=f"Load the messages ({client})",
        responses={
            **answer(200, UiMessageList, "The messages.", [examples.USER, examples.ASSISTANT]),
            **problems(*EDGE, *SESSION, "message-not-found", "too-large"),
        },
    )
    async def messages(
        request: Request,
        manager: Manager,
        who: Who,
        session_id: SessionId,
        limit: Limit = TURNS_DEFAULT,
        before: Annotated[
            str | None,
            Query(description="The id of a user's message: only turns before it."),
        ] = None,
    ) -> Response:
        """Return the current path as UI messages: the last `limit` turns, in order.

        While a run is active the list ends with the user's message: the answer comes from
        `/stream`, whole, so that nothing is there twice.
        """
        if before is not None:
            known = await manager.users_message(who, session_id, before, parts.ALIAS)
            before = known.id if known is not None else before
        turns = await manager.turns(who, session_id, limit=limit, before=before)
        prefix, is_whole = prefix_of(request.scope), before is not None or turns.active is None

        def encoded() -> bytes:
            ui = folded(turns.events, version, prefix)
            is_being_made = not is_whole and ui.assistant is not None
            return encode(ui.messages[:-1] if is_being_made else ui.messages)

        headers = {
            "Has-More": "true" if turns.has_more else "false",
            "Stream-After": str(turns.position),
        }
        body = await beside_loop(turns.events, encoded)
        return bytes_response(body, headers=headers)

    return router


async def _streamed(
    request: Request,
    manager: SessionManager,
    who: Caller,
    version: Version,
    session_id: str,
    begun: Begun,
    place: StreamPlace,
) -> Response:
    """Answer a submit with the frames of its run."""
    opening = parts.start(begun.begin.message_id) if begun.begin.message_id else b""
    if begun.run_id is None:
        # Other requests for input are open: nothing follows yet.
        body = opening + parts.finish(version, "input_required") + parts.DONE
        return Response(body, media_type="text/event-stream", headers=STREAM_HEADERS)
    bind_contextvars(run_id=begun.run_id)
    stream = await _stream(request, manager, who, version, session_id, begun, opening, place)
    headers = {**STREAM_HEADERS, "Session-Id": session_id, "Run-Id": begun.run_id}
    return stream_response(request, stream, headers)


async def _followed(
    request: Request,
    manager: SessionManager,
    who: Caller,
    version: Version,
    session_id: str,
    found: Resumed,
) -> Response:
    bind_contextvars(run_id=found.run_id)
    opening = b"".join(found.opening)
    stream = await _stream(request, manager, who, version, session_id, found, opening)
    return stream_response(request, stream, STREAM_HEADERS)


def _position(text: str | None) -> Position | None:
    """Return the position of `after`.

    Raises:
        InvalidInput: It is none.
    """
    if text is None:
        return None
    position = parse_position(text[:POSITION_CHARS_MAX])
    if position is None:
        raise InvalidInput(
            "`after` must be the `Stream-After` of loaded messages.",
            code="invalid-position",
            errors=[{"loc": ["query", "after"], "msg": "not a position"}],
        )
    return position


async def _stream(
    request: Request,
    manager: SessionManager,
    who: Caller,
    version: Version,
    session_id: str,
    shown: Begun | Resumed,
    opening: bytes,
    place: StreamPlace | None = None,
) -> FoldedStream[Place[RunState]] | None:
    """Return the stream of a run; None: there is nothing to wait for."""
    run_id, position, begin = shown.run_id, shown.position, shown.begin
    assert run_id is not None
    wanted = StreamRequest(
        after=position, until_complete=True, run_id=run_id, remote_address=remote_address(request)
    )
    connection = await manager.connect(who, session_id, wanted, EVENT_LINES, place)
    if connection is None:
        return None
    prefix = prefix_of(request.scope)
    # What the frames depend on.
    key = (id(manager), session_id, position, run_id, version.number, prefix, *begin.calls)
    run = Run(run_id, version, begin.calls, prefix)
    memo = _MEMOS.of((*key, begin.message_id), lambda: RunFold(run))
    return FoldedStream(connection, memo, RunState.of(begin), opening=opening)
