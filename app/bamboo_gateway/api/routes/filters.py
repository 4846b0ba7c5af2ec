"""The filters, sorting and paging that all lists of sessions have."""

from collections.abc import Callable, Mapping, Sequence
from typing import Annotated, Any, Literal

from fastapi import Depends, Query
from starlette.responses import Response

from bamboo_gateway.api.checks import checked_id, checked_time
from bamboo_gateway.api.dependencies import PAGE, Cursor, Limit
from bamboo_gateway.api.direct_route import FAMILY
from bamboo_gateway.api.limits import (
    OFFSET_MAX,
    QUERY_TEXT_CHARS_MAX,
    USER_ID_CHARS_MAX,
)
from bamboo_gateway.api.responses import json_response
from bamboo_gateway.api.schemas.fields import SessionTypeName
from bamboo_gateway.domain.errors import InvalidInput
from bamboo_gateway.domain.search import QUERY_CHARS_MAX, parse
from bamboo_gateway.domain.sessions import SessionState
from bamboo_gateway.sessions.commands import (
    METADATA_FILTERS_MAX,
    AnswerT,
    SessionList,
    SessionQuery,
)

Time = Annotated[str | None, Query(description="An RFC 3339 time.")]


def _session_query(
    user_id: Annotated[str | None, Query(max_length=USER_ID_CHARS_MAX)] = None,
    state: SessionState | None = None,
    session_type: SessionTypeName | None = None,
    created_after: Time = None,
    created_before: Time = None,
    active_after: Time = None,
    title_contains: Annotated[
        str | None, Query(max_length=QUERY_TEXT_CHARS_MAX, description="Case is ignored.")
    ] = None,
    id_prefix: Annotated[
        str | None, Query(description="Only sessions whose ids begin with this.")
    ] = None,
    parent_id: str | None = None,
    q: Annotated[
        str | None,
        Query(
            min_length=1,
            max_length=QUERY_CHARS_MAX,
            description="Only sessions with a message that `GET /search` finds for this.",
        ),
    ] = None,
    metadata: Annotated[
        list[str] | None,
        Query(
            alias="metadata" + FAMILY,
            description="`metadata.KEY=VALUE`: only sessions whose metadata has KEY with this "
            "value. A text is compared as it is, a number, `true`, `false` and `null` by their "
            f"JSON. Up to {METADATA_FILTERS_MAX} keys; a session has all of them.",
        ),
    ] = None,
    sort_by: Literal[
        "last_activity_at", "created_at", "updated_at", "message_count", "title"
    ] = "last_activity_at",
    sort_order: Literal["asc", "desc"] = "desc",
    cursor: Cursor = None,
    offset: Annotated[
        int | None,
        Query(ge=0, le=OFFSET_MAX, description="How many entries to skip; in place of `cursor`."),
    ] = None,
    limit: Limit = PAGE,
    count: Annotated[
        bool, Query(description="`false`: without `total`, which saves counting.")
    ] = True,
) -> SessionQuery:
    if cursor is not None and offset is not None:
        raise InvalidInput(
            "Give `cursor` or `offset`, not both.",
            errors=[{"loc": ["query", "offset"], "msg": "not together with `cursor`"}],
        )
    if id_prefix is not None:
        checked_id(id_prefix, "session id", ("query", "id_prefix"))
    if parent_id is not None:
        checked_id(parent_id, "session id", ("query", "parent_id"))
    return SessionQuery(
        user_id=user_id,
        state=state,
        session_type=session_type,
        created_after=checked_time(created_after, "created_after"),
        created_before=checked_time(created_before, "created_before"),
        active_after=checked_time(active_after, "active_after"),
        title_contains=title_contains,
        terms=parse(q) if q is not None else (),
        id_prefix=id_prefix,
        parent_id=parent_id,
        metadata=_metadata_filters(metadata or ()),
        sort_by=sort_by,
        descending=sort_order == "desc",
        cursor=cursor,
        offset=offset,
        limit=limit,
        count=count,
    )


def _metadata_filters(given: Sequence[str]) -> tuple[tuple[str, str], ...]:
    """Return pairs of a key and a value.

    Raises:
        InvalidInput: There are too many, or one is too long.
    """
    pairs = tuple(zip(given[::2], given[1::2], strict=True))
    problem = None
    if len(pairs) > METADATA_FILTERS_MAX:
        problem = f"at most {METADATA_FILTERS_MAX} keys"
    elif any(max(map(len, pair)) > QUERY_TEXT_CHARS_MAX for pair in pairs):
        problem = f"a key or value is longer than {QUERY_TEXT_CHARS_MAX} characters"
    elif any("\0" in text for pair in pairs for text in pair):
        problem = "a key or value has a character that cannot be stored"
    if problem is not None:
        errors = [{"loc": ["query", "metadata.*"], "msg": problem}]
        raise InvalidInput(f"`metadata.KEY=VALUE`: {problem}.", errors=errors)
    return pairs


Filters = Annotated[SessionQuery, Depends(_session_query)]


def session_page(
    page: SessionList[AnswerT],
    query: SessionQuery,
    name: str,
    shown: Callable[[AnswerT], Mapping[str, Any]],
) -> Response:
    """Answer with a page of a list; its entries are the member `name`, as `shown` makes them."""
    body: dict[str, Any] = {
        name: [shown(entry) for entry in page.sessions],
        "next_cursor": page.next_cursor,
        "has_more": page.has_more,
    }
    if page.total is not None:
        body["total"] = page.total
    if query.offset is not None:
        body["offset"] = query.offset
    return json_response(body)
