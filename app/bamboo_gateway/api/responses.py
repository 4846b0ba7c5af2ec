"""JSON responses. They join stored JSON as bytes and never parse and encode it again.

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

from bamboo_gateway.api.disconnect import run_until_disconnect, wait_for_disconnect
from bamboo_gateway.domain.codec import encode
from bamboo_gateway.sessions.commands import Outcome

JSON = "application/json"
_HEADERS = {
    # Browsers cache a response with an ETag, and would show an old state of a session.
    "Cache-Control": "no-store"
}


class DocumentResponse(StreamingResponse):
    """Send the pieces of a document, and close their generator whether or not the client reads all.

    Nothing of them stays in memory when the client disconnects in the middle (`api.disconnect`).
    The base class would send in a task that it cancels then, and would not close the generator.
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
                disconnected = partial(wait_for_disconnect, receive)
                await run_until_disconnect(self.stream_response(send), disconnected)


class JsonResponse(Response):
    """A response with encoded JSON, whose headers need no look at each other."""

    def __init__(
        self, body: bytes, status_code: int = 200, headers: Mapping[str, str] | None = None
    ) -> None:
        # The base class would search the headers for those that it adds.
        self.status_code = status_code
        self.background = None
        self.body = body
        self.raw_headers = [(b"cache-control", b"no-store")]
        if headers:
            self.raw_headers += [
                (name.lower().encode("latin-1"), value.encode("latin-1"))
                for name, value in headers.items()
            ]
        self.raw_headers += [
            (b"content-length", b"%d" % len(body)),
            (b"content-type", b"application/json"),
        ]


def json_response(
    value: object, status_code: int = 200, headers: Mapping[str, str] | None = None
) -> Response:
    """Return a response with an encoded value."""
    return JsonResponse(encode(value), status_code, headers)


def bytes_response(
    body: bytes, status_code: int = 200, headers: Mapping[str, str] | None = None
) -> Response:
    """Return a response with JSON that is encoded already."""
    return JsonResponse(body, status_code, headers)


async def streamed(
    chunks: AsyncGenerator[bytes], headers: Mapping[str, str] | None = None
) -> Response:
    """Return a response with encoded JSON in pieces, so that memory holds one piece at a time.

    Wait for the first piece: an error before it becomes a problem response.
    """
    first = await anext(chunks)
    return DocumentResponse(_from(first, chunks), JSON, headers or {})


async def _from(first: bytes, rest: AsyncGenerator[bytes]) -> AsyncGenerator[bytes]:
    async with aclosing(rest):
        yield first
        async for chunk in rest:
            yield chunk


def outcome_headers(outcome: Outcome[Any]) -> dict[str, str]:
    """Return the headers that tell a replayed answer from a first one."""
    return {"Idempotency-Replayed": "true"} if outcome.replayed else {}


def joined(name: str, items: Sequence[bytes], rest: Mapping[str, Any]) -> bytes:
    """Return `{"<name>": [items…], …rest}` around encoded items. `rest` must not be empty."""
    return b'{"%b":[%b],%b' % (name.encode(), b",".join(items), encode(rest)[1:])


async def with_list(
    value: Mapping[str, Any], name: str, pages: AsyncGenerator[Sequence[bytes]]
) -> AsyncGenerator[bytes]:
    """Yield `{…value, "<name>": [items…]}` around pages of encoded items, one piece per page.

    `value` must not be empty.
    """
    before = b'%b,"%b":[' % (encode(value)[:-1], name.encode())
    async with aclosing(pages):
        async for items in pages:
            yield before + b",".join(items)
            before = b","
    yield b"]}" if before == b"," else before + b"]}"


def etag_matches(header: str, etag: str) -> bool:
    """Return whether `If-None-Match` names this version (weak comparison, RFC 9110, 13.1.2)."""
    wanted = {part.strip().removeprefix("W/") for part in header.split(",")}
    return "*" in wanted or etag in wanted
