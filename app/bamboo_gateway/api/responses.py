"""Answers: JSON bytes. What is stored as JSON is joined, never parsed and encoded again.

Documents are sent in pieces, as they are made.
"""

from collections.abc import AsyncGenerator, Mapping, Sequence
from contextlib import aclosing, suppress
from functools import partial
from typing import Any

from starlette.requests import ClientDisconnect
from starlette.responses import Response, StreamingResponse
from starlette.types import Receive, Scope, Send
from typing_extensions import override

from bamboo_gateway.api.presence import left, while_present
from bamboo_gateway.domain.codec import encode
from bamboo_gateway.sessions.commands import Outcome

JSON = "application/json"
_HEADERS = {
    # Browsers keep what has an ETag and show it again: a session's state would be an old one.
    "Cache-Control": "no-store"
}


class DocumentResponse(StreamingResponse):
    """Answers with the pieces of a document, and closes what makes them: read whole or left.

    Nothing of them stays when the client leaves in the middle; see `presence`. The base class
    sends in a task that it cancels then, and closes nothing.
    """

    def __init__(
        self, pieces: AsyncGenerator[bytes], media_type: str, headers: Mapping[str, str]
    ) -> None:
        super().__init__(pieces, headers={**_HEADERS, **headers}, media_type=media_type)
        self._pieces = pieces

    @override
    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async with aclosing(self._pieces):
            with suppress(ClientDisconnect):
                await while_present(self.stream_response(send), partial(left, receive))


def json_response(
    value: object, status_code: int = 200, headers: Mapping[str, str] | None = None
) -> Response:
    """Answers with a value."""
    return bytes_response(encode(value), status_code, headers)


def bytes_response(
    body: bytes, status_code: int = 200, headers: Mapping[str, str] | None = None
) -> Response:
    """Answers with encoded JSON."""
    return Response(body, status_code, {**_HEADERS, **(headers or {})}, media_type=JSON)


async def streamed(
    chunks: AsyncGenerator[bytes], headers: Mapping[str, str] | None = None
) -> Response:
    """Answers with encoded JSON that comes in pieces, so that memory holds one of them.

    The first is waited for: what is raised before it becomes an answer of its own.
    """
    first = await anext(chunks)
    return DocumentResponse(_from(first, chunks), JSON, headers or {})


async def _from(first: bytes, rest: AsyncGenerator[bytes]) -> AsyncGenerator[bytes]:
    async with aclosing(rest):
        yield first
        async for chunk in rest:
            yield chunk


def outcome_headers(outcome: Outcome) -> dict[str, str]:
    """Gives the headers that tell a repeat from a first answer."""
    return {"Idempotency-Replayed": "true"} if outcome.replayed else {}


def joined(name: str, items: Sequence[bytes], rest: Mapping[str, Any]) -> bytes:
    """Builds `{"<name>": [items…], …rest}` around encoded items. `rest` is not empty."""
    return b'{"%b":[%b],%b' % (name.encode(), b",".join(items), encode(rest)[1:])


async def with_list(
    value: Mapping[str, Any], name: str, pages: AsyncGenerator[Sequence[bytes]]
) -> AsyncGenerator[bytes]:
    """Builds `{…value, "<name>": [items…]}` around pages of encoded items, a piece for each page.

    `value` is not empty.
    """
    before = b'%b,"%b":[' % (encode(value)[:-1], name.encode())
    async with aclosing(pages):
        async for items in pages:
            yield before + b",".join(items)
            before = b","
    yield b"]}" if before == b"," else before + b"]}"


def etag_matches(header: str, etag: str) -> bool:
    """Tells whether an `If-None-Match` names this version (weak comparison, RFC 9110, 13.1.2)."""
    wanted = {part.strip().removeprefix("W/") for part in header.split(",")}
    return "*" in wanted or etag in wanted
