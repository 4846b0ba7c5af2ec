"""What a search answers."""

from typing import Annotated, Literal

from pydantic import Field

from bamboo_gateway.api.schemas.fields import Answer


class SearchResult(Answer):
    """A message that was found."""

    session_id: str
    title: str | None = Field(description="The title of the session.")
    message_id: str
    role: Literal["system", "user", "assistant", "tool"]
    created_at: str
    position: str = Field(description="The position of the message in its session.")
    snippet: str = Field(description="Plain text: the part of the message around the first hit.")
    ranges: list[Annotated[list[int], Field(min_length=2, max_length=2)]] = Field(
        description="The hits in `snippet`: start and end, in code points."
    )


class SearchResults(Answer):
    """A page of found messages, the newest first."""

    results: list[SearchResult]
    next_cursor: str | None
    has_more: bool
