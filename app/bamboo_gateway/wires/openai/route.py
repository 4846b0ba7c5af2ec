"""What all routes of the protocol share: how they read a query, and lists of items."""

from collections.abc import Mapping, Sequence
from typing import Annotated, Any, Final, Literal
from urllib.parse import parse_qsl

from fastapi import Path, Query
from typing_extensions import override

from bamboo_gateway.api.security.rights import SessionRoute
from bamboo_gateway.domain.errors import NotFound
from bamboo_gateway.wires.base import WireRoute
from bamboo_gateway.wires.openai.ids import run_of, session_of
from bamboo_gateway.wires.openai.items import Item

PREFIX: Final = "/api/v1/openai/v1"

LIST_DEFAULT: Final = 20
LIST_MAX: Final = 100
"""OpenAI's own sizes of a page of items."""

ResponseId = Annotated[
    str,
    Path(
        description="The response.",
        json_schema_extra={"pattern": "^resp_[A-Za-z0-9_-]{1,395}$"},
    ),
]
ConversationId = Annotated[
    str,
    Path(
        description="The conversation.",
        json_schema_extra={"pattern": "^conv_[A-Za-z0-9][A-Za-z0-9._-]{0,127}$"},
    ),
]
ItemId = Annotated[
    str,
    Path(
        description="The item.",
        json_schema_extra={"pattern": "^[A-Za-z0-9][A-Za-z0-9._~-]{0,143}$"},
    ),
]
ListLimit = Annotated[int, Query(ge=1, le=LIST_MAX, description="Items of one page.")]
ListOrder = Annotated[Literal["asc", "desc"], Query(description="`desc`: the latest first.")]
ListAfter = Annotated[str | None, Query(description="The last item of the page before.")]


class OpenAIRoute(WireRoute, SessionRoute):
    """A route of the protocol. Query parameters that it does not know say nothing."""

    @override
    def query_of(self, raw: bytes, known: Mapping[str, bool]) -> dict[str, list[str]]:
        query: dict[str, list[str]] = {}
        for name, value in parse_qsl(raw.decode("latin-1"), keep_blank_values=True):
            if name in known:
                query[name] = [value]
        return query


def named_run(response_id: str) -> tuple[str, str]:
    """Return the session and the run of a response.

    Raises:
        NotFound: It is no id of one.
    """
    found = run_of(response_id)
    if found is None:
        raise no_response()
    return found


def named_session(conversation_id: str) -> str:
    """Return the session of a conversation.

    Raises:
        NotFound: It is no id of one.
    """
    found = session_of(conversation_id)
    if found is None:
        raise NotFound("There is no such conversation.", code="session-not-found")
    return found


def no_response() -> NotFound:
    """Return the error for a response that there is not, or is not the caller's."""
    return NotFound("There is no such response.", code="run-not-found")


def no_item() -> NotFound:
    """Return the error for an item that there is not."""
    return NotFound("There is no such item.", code="message-not-found")


def page_of(items: Sequence[Item], has_more: bool) -> dict[str, Any]:
    """Return a list of the protocol."""
    return {
        "object": "list",
        "data": list(items),
        "first_id": items[0]["id"] if items else None,
        "last_id": items[-1]["id"] if items else None,
        "has_more": has_more,
    }


def behind(items: Sequence[Item], after: str | None) -> Sequence[Item]:
    """Return the items behind one of them.

    Raises:
        NotFound: It is none of them.
    """
    if after is None:
        return items
    places = [at for at, item in enumerate(items) if item["id"] == after]
    if not places:
        raise no_item()
    return items[places[0] + 1 :]
