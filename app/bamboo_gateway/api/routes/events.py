"""Events: reading the log in pages, and appending to it."""

from typing import Annotated, Any, Final

from fastapi import APIRouter, Query, Request
from starlette.responses import Response

from bamboo_gateway.api.access_log import MAY_WAIT
from bamboo_gateway.api.bodies import NDJSON_TYPES, is_json, media_type, ndjson_batches, read_json
from bamboo_gateway.api.caller import while_allowed
from bamboo_gateway.api.checks import read_after
from bamboo_gateway.api.dependencies import PAGE, Limit, Manager, Order, SessionId, Who
from bamboo_gateway.api.limits import EVENT_WAIT_SECONDS_MAX, ITEMS_MAX
from bamboo_gateway.api.long_requests import unless_disconnected
from bamboo_gateway.api.openapi.examples import conversation
from bamboo_gateway.api.openapi.responses import (
    BODY,
    EDGE,
    KEYED,
    NAMED,
    OPEN,
    POSTED_EVENT,
    SESSION,
    WRITE,
    answer,
    lines_of,
    problems,
)
from bamboo_gateway.api.problems import EdgeError
from bamboo_gateway.api.request_headers import Key, idempotency
from bamboo_gateway.api.responses import bytes_response, joined, json_response, outcome_headers
from bamboo_gateway.api.schemas.events import EventPage, EventsAppended
from bamboo_gateway.api.security.rights import SessionRoute, takes_ticket
from bamboo_gateway.domain.errors import InvalidInput
from bamboo_gateway.domain.events import EVENT_TYPES
from bamboo_gateway.sessions.commands import Idempotency

router = APIRouter(prefix="/api/v1", tags=["events"], route_class=SessionRoute)

_BODY: Final[dict[str, Any]] = {
    "requestBody": {
        "required": True,
        "content": {
            "application/json": {
                "schema": {
                    "oneOf": [
                        POSTED_EVENT,
                        {
                            "type": "array",
                            "items": POSTED_EVENT,
                            "minItems": 1,
                            "maxItems": ITEMS_MAX,
                        },
                    ]
                },
                "examples": {
                    "custom": {"summary": "One event", "value": conversation.CUSTOM_EVENT},
                    "run": {
                        "summary": "Events of an external run, all or nothing",
                        "value": [
                            {"type": "token", "run_id": conversation.RUN_ID, "content": "Hel"},
                            {"type": "complete", "run_id": conversation.RUN_ID},
                        ],
                    },
                },
            },
            "application/x-ndjson": lines_of(
                POSTED_EVENT, '{"type":"custom","name":"a"}\n{"type":"custom","name":"b"}\n'
            ),
        },
    }
}


@router.get(
    "/sessions/{session_id}/events",
    summary="Read the log",
    responses={
        **answer(
            200,
            EventPage,
            "A page of events; `next` goes into the next `after`.",
            {"events": [conversation.TOKEN_EVENT], "next": "1763661234567-6", "has_more": True},
        ),
        **problems(*EDGE, *SESSION, "invalid-position", "position-gone"),
    },
)
@takes_ticket
async def list_events(
    request: Request,
    manager: Manager,
    who: Who,
    session_id: SessionId,
    after: Annotated[
        str | None,
        Query(description="A position: the page begins after it. A bare seq is one of this epoch."),
    ] = None,
    limit: Limit = PAGE,
    type: Annotated[  # noqa: A002 - the contract's name
        list[str] | None,
        Query(description="Only these types; give several, or separate them with commas."),
    ] = None,
    wait: Annotated[
        float,
        Query(
            ge=0,
            le=EVENT_WAIT_SECONDS_MAX,
            allow_inf_nan=False,
            description="Seconds to wait for a first event (long poll).",
        ),
    ] = 0.0,
    order: Order = "asc",
) -> Response:
    """Return events in order. `wait` is a long poll, for networks that buffer streams.

    A page ends after about 4 MiB of the log, also with fewer than `limit` events, and with `type`
    perhaps without any; `has_more` is true then.
    """
    reading = manager.events(
        who,
        session_id,
        after=read_after(after),
        limit=limit,
        types=_types(type),
        wait_seconds=wait,
        descending=order == "desc",
    )
    page = await (unless_disconnected(request, reading) if wait else reading)
    rest = {"next": str(page.next), "has_more": page.has_more}
    return bytes_response(joined("events", page.events, rest))


@router.post(
    "/sessions/{session_id}/events",
    status_code=201,
    summary="Append events",
    responses={
        **answer(
            201,
            EventsAppended,
            "The positions of the events.",
            conversation.EVENTS_APPENDED,
            "Idempotency-Replayed",
        ),
        **problems(
            *EDGE,
            *BODY,
            *SESSION,
            *OPEN,
            *WRITE,
            *KEYED,
            *NAMED,
            "invalid-event",
            "event-too-large",
            "run-not-found",
            "run-active",
            "run-ended",
            "append-in-progress",
        ),
    },
    openapi_extra=_BODY,
)
async def append_events(
    request: Request, manager: Manager, who: Who, session_id: SessionId, key: Key
) -> Response:
    """Append one event, a list (all or nothing), or lines as they arrive.

    A `custom` event may always be appended. With the `run_id` of an open external run every event
    may be appended that an agent may yield. Of streamed NDJSON the gateway appends each line as it
    arrives. The problem for a line that is bad or could not be stored has its number in `line` and
    the positions before it in `appended`; with an `Idempotency-Key` a repeat appends only the lines
    that are missing.
    """
    kind = media_type(request)
    if kind in NDJSON_TYPES:
        request.scope[MAY_WAIT] = True
        # A streamed body has no digest before its end: its lines are compared.
        idem = Idempotency(key, "POST /events", "") if key is not None else None
        lines = ndjson_batches(request)
        with while_allowed(request):
            outcome = await manager.append_event_lines(who, session_id, lines, idem)
    elif is_json(kind):
        body = await read_json(request)
        outcome = await manager.append_events(
            who, session_id, _event_list(body), idempotency(key, "POST /events", body)
        )
    else:
        raise EdgeError(
            "unsupported-media-type",
            "Send events as `application/json`, or a line each as `application/x-ndjson`.",
        )
    return json_response(outcome.answer, 201, outcome_headers(outcome))


def _event_list(body: Any) -> list[dict[str, Any]]:
    events = body if isinstance(body, list) else [body]
    if not 1 <= len(events) <= ITEMS_MAX:
        hint = f"a list of events must have 1 to {ITEMS_MAX} entries"
        raise InvalidInput(f"In one request {hint}.", errors=[{"loc": ["body"], "msg": hint}])
    for number, event in enumerate(events):
        if not isinstance(event, dict):
            loc = ["body", number] if isinstance(body, list) else ["body"]
            raise InvalidInput(
                "An event must be a JSON object.", errors=[{"loc": loc, "msg": "not an object"}]
            )
    return events


def _types(given: list[str] | None) -> frozenset[str] | None:
    if given is None:
        return None
    types = frozenset(name.strip() for text in given for name in text.split(","))
    unknown = sorted(types - EVENT_TYPES)
    if unknown:
        raise InvalidInput(
            "`type` must name event types.",
            errors=[
                {"loc": ["query", "type"], "msg": f"no event type: {name}"} for name in unknown
            ],
        )
    return types
