"""Searching all sessions for messages."""

from typing import Annotated, Literal

from fastapi import APIRouter, Query
from starlette.responses import Response

from bamboo_gateway.api.checks import checked_id, checked_time
from bamboo_gateway.api.dependencies import PAGE, Cursor, Limit, Manager, Who
from bamboo_gateway.api.limits import USER_ID_CHARS_MAX
from bamboo_gateway.api.openapi.examples import conversation
from bamboo_gateway.api.openapi.responses import EDGE, answer, problems
from bamboo_gateway.api.responses import json_response
from bamboo_gateway.api.routes.filters import Time
from bamboo_gateway.api.schemas.search import SearchResults
from bamboo_gateway.api.security.rights import SessionRoute
from bamboo_gateway.domain.search import QUERY_CHARS_MAX, parse
from bamboo_gateway.sessions.commands import SearchQuery

router = APIRouter(prefix="/api/v1", tags=["search"], route_class=SessionRoute)


@router.get(
    "/search",
    summary="Search messages",
    responses={
        **answer(200, SearchResults, "A page of messages.", conversation.FOUND),
        **problems(*EDGE, "invalid-id", "invalid-cursor", "storage-failed"),
    },
)
async def search(
    manager: Manager,
    who: Who,
    q: Annotated[
        str,
        Query(
            min_length=1,
            max_length=QUERY_CHARS_MAX,
            description="Up to 10 words, or phrases in quotes; a message has all of them. Case is "
            "ignored, and a word is found inside others.",
            openapi_examples=conversation.SEARCHED,
        ),
    ],
    user_id: Annotated[str | None, Query(max_length=USER_ID_CHARS_MAX)] = None,
    role: Annotated[
        Literal["system", "user", "assistant", "tool"] | None,
        Query(description="Results of tools are found with `tool` alone."),
    ] = None,
    session_id: str | None = None,
    created_after: Time = None,
    created_before: Time = None,
    archived: Annotated[
        Literal["exclude", "only", "include"], Query(description="Messages of archived sessions.")
    ] = "exclude",
    limit: Limit = PAGE,
    cursor: Cursor = None,
) -> Response:
    """Find messages by the words in them, the newest first.

    What is searched is the text: neither thinking nor the arguments of tool calls. A message is
    found some seconds after it was acknowledged, and never after its session was deleted. A page
    may have fewer messages than `limit`, or none, and still a `next_cursor` to go on from.
    """
    terms = parse(q)
    if session_id is not None:
        checked_id(session_id, "session id", ("query", "session_id"))
    query = SearchQuery(
        terms,
        user_id=user_id,
        role=role,
        session_id=session_id,
        created_after=checked_time(created_after, "created_after"),
        created_before=checked_time(created_before, "created_before"),
        archived=archived,
        cursor=cursor,
        limit=limit,
    )
    return json_response(await manager.search(who, query))
