"""What a search answers: the found messages, each with the part of its text that has the words."""

from collections.abc import Sequence

from anyio import to_thread

from bamboo_gateway.domain.codec import decode
from bamboo_gateway.domain.messages import Message
from bamboo_gateway.domain.positions import Position
from bamboo_gateway.domain.search import searched_text, snippet
from bamboo_gateway.sessions.answers import SearchResult, SearchResults
from bamboo_gateway.sessions.history import bulk_limiter
from bamboo_gateway.storage.reports import SearchHit, SearchPage


async def search_results(page: SearchPage, terms: Sequence[str]) -> SearchResults:
    """Return the answer to a search for these folded terms."""
    # A page may have megabytes of text.
    results = await to_thread.run_sync(_results, page.hits, terms, limiter=bulk_limiter)
    return {"results": results, "next_cursor": page.next_cursor, "has_more": page.has_more}


def _results(hits: Sequence[SearchHit], terms: Sequence[str]) -> list[SearchResult]:
    return [_result(hit, terms) for hit in hits]


def _result(hit: SearchHit, terms: Sequence[str]) -> SearchResult:
    message = Message.of(decode(hit.body)["message"])
    text, ranges = snippet(searched_text(message), terms)
    return {
        "session_id": hit.session_id,
        "title": hit.title,
        "message_id": message.id,
        "role": message.role,
        "created_at": message.created_at,
        "position": str(Position(hit.epoch, hit.seq)),
        "snippet": text,
        "ranges": ranges,
    }
