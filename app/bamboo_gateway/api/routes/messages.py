"""Messages: reading the history in pages, and adding to it without starting a run."""

from typing import Annotated

from fastapi import APIRouter, Body, Query, Request
from starlette.responses import Response

from bamboo_gateway.api.checks import checked_id, checked_message_cursor
from bamboo_gateway.api.dependencies import PAGE, Limit, Manager, Order, SessionId, Who
from bamboo_gateway.api.openapi.examples import conversation
from bamboo_gateway.api.openapi.responses import (
    ASKED,
    BODY,
    EDGE,
    KEYED,
    NAMED,
    OPEN,
    SESSION,
    TOOLS,
    WRITE,
    answer,
    answers,
    problems,
)
from bamboo_gateway.api.prefix import prefix_of
from bamboo_gateway.api.request_headers import Key, SentJson, idempotency
from bamboo_gateway.api.responses import bytes_response, joined, json_response, outcome_headers
from bamboo_gateway.api.schemas.messages import (
    Message,
    MessageInput,
    MessageOrList,
    MessagePage,
    MessagesAdded,
)
from bamboo_gateway.api.security.rights import SessionRoute, takes_ticket
from bamboo_gateway.api.security.url_credentials import with_url_credential
from bamboo_gateway.api.urls import stream_url

router = APIRouter(prefix="/api/v1", tags=["messages"], route_class=SessionRoute)

_Place = Annotated[
    str | None,
    Query(description="A message id, or the `next_cursor` of a page; not in the page itself."),
]

_Branch = Annotated[
    str | None,
    Query(
        description="A branch, or `all`. Absent: the current one.",
        json_schema_extra={"pattern": "^[A-Za-z0-9][A-Za-z0-9._-]{0,127}$"},
    ),
]

_ADDED = answers(
    201,
    Message,
    "For one message the message, for a list `{messages, position}`.",
    {
        "one": ("One message", conversation.USER_MESSAGE),
        "list": (
            "A list of messages",
            {"messages": [conversation.USER_MESSAGE], "position": conversation.POSITION},
        ),
    },
    "Idempotency-Replayed",
)
_ADDED[201]["model"] = Message | MessagesAdded


@router.get(
    "/sessions/{session_id}/messages",
    summary="Read the history",
    responses={
        **answer(
            200,
            MessagePage,
            "A page of messages.",
            {
                "messages": [conversation.USER_MESSAGE, conversation.ASSISTANT_MESSAGE],
                "next_cursor": None,
                "has_more": False,
                "position": conversation.POSITION,
                "stream_url": conversation.SESSION["stream_url"],
            },
        ),
        **problems(*EDGE, *SESSION, "message-not-found", "branch-not-found"),
    },
)
@takes_ticket
async def list_messages(
    request: Request,
    manager: Manager,
    who: Who,
    session_id: SessionId,
    limit: Limit = PAGE,
    before: _Place = None,
    after: _Place = None,
    order: Order = "asc",
    branch: _Branch = None,
) -> Response:
    """Return messages from the beginning, or with `order=desc` from the end.

    They are those of the current branch's path, or with `branch` of another one's; with
    `branch=all` every message, in the order of the log.

    To show a conversation, load it with `order=desc` and then open `stream_url`: nothing is missed.
    While a run is active, `stream_url` begins just before the run's first event, and otherwise at
    `position`, the end of the log. So a stream from `position` can miss an answer's beginning. The
    next page is `after=<next_cursor>`, with `order=desc` `before=<next_cursor>`. A request with a
    ticket or the token of a link gets it back in `stream_url`. A page ends at about 4 MiB, also
    with fewer than `limit` messages; `has_more` is true then.
    """
    checked_message_cursor(before, "before")
    checked_message_cursor(after, "after")
    page = await manager.messages(
        who,
        session_id,
        limit=limit,
        before=before,
        after=after,
        descending=order == "desc",
        branch=branch if branch is None else checked_id(branch, "branch id", ("query", "branch")),
    )
    rest = {
        "next_cursor": page.next_cursor,
        "has_more": page.has_more,
        "position": str(page.position),
        "stream_url": with_url_credential(
            request.scope,
            who,
            stream_url(session_id, page.stream_after, prefix_of(request.scope)),
        ),
    }
    return bytes_response(joined("messages", page.messages, rest))


@router.post(
    "/sessions/{session_id}/messages",
    status_code=201,
    summary="Add messages",
    responses={
        **_ADDED,
        **problems(
            *EDGE,
            *BODY,
            *SESSION,
            *OPEN,
            *WRITE,
            *KEYED,
            *NAMED,
            *TOOLS,
            *ASKED,
            "message-exists",
            "event-too-large",
            "metadata-too-large",
        ),
    },
)
async def add_messages(
    body: Annotated[MessageOrList, Body(openapi_examples=conversation.NEW_MESSAGES)],
    manager: Manager,
    who: Who,
    session_id: SessionId,
    key: Key,
    sent: SentJson,
) -> Response:
    """Add one message or a list, all or nothing, without starting a run.

    A message id of the client's has to be new in the session, else 409 `message-exists`. To repeat
    a request safely, use an `Idempotency-Key`.
    """
    single = isinstance(body, MessageInput)
    messages = [body] if isinstance(body, MessageInput) else body
    outcome = await manager.add_messages(
        who,
        session_id,
        [message.to_new() for message in messages],
        idempotency(key, "POST /messages", sent),
    )
    added = outcome.answer["messages"][0] if single else outcome.answer
    return json_response(added, 201, outcome_headers(outcome))
