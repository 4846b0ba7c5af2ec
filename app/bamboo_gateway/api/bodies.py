"""Request bodies: strict JSON that is read once and bounded, and NDJSON line by line."""

import re
from collections.abc import AsyncIterator
from typing import Any, Final

from starlette.requests import ClientDisconnect, Request

from bamboo_gateway.api.body_memory import reservation_of
from bamboo_gateway.api.caller import still_allowed, unauthorized
from bamboo_gateway.api.limits import BODY_BYTES_FREE, JSON_DEPTH_MAX, JSON_NODES_MAX
from bamboo_gateway.api.problems import EdgeError
from bamboo_gateway.domain.codec import decode, nests_deeper
from bamboo_gateway.domain.errors import Malformed, TooLarge
from bamboo_gateway.settings import Settings

NDJSON_TYPES: Final = frozenset({"application/x-ndjson", "application/ndjson"})

STREAMED_BODY: Final = "bamboo.streamed_body"
"""The scope's extension with which a route tells the server that it processes its body as it comes
and holds no more of it than a line. The media type cannot tell: any route could receive NDJSON."""

_STRING: Final = re.compile(rb'"(?:[^"\\]++|\\.)*+"?', re.DOTALL)
"""A JSON string, or the rest of one. The pattern looks at each byte once, whatever it is."""


class JsonRequest(Request):
    """A request whose body has been read and parsed.

    Attributes:
        has_json: Whether there was a body.
        sent_json: Its value, as the client sent it; None without a body.
    """

    has_json = False
    sent_json: Any = None

    @classmethod
    async def read(cls, request: Request) -> "JsonRequest":
        """Read and parse the body. The schema decides whether it may be empty.

        Raises:
            EdgeError: The media type is not JSON.
            TooLarge: The body is over `max_body_bytes`, or has too many parts.
            Malformed: The body is not JSON, or nested too deeply.
        """
        self = cls(request.scope, request.receive)
        body = await read_body(request)
        if body:
            if not is_json(media_type(request)):
                raise EdgeError("unsupported-media-type")
            self.has_json, self.sent_json = True, parse_json(body)
        return self


def media_type(request: Request) -> str:
    """Return the body's media type in lower case, without parameters."""
    return request.headers.get("content-type", "").partition(";")[0].strip().lower()


def is_json(name: str) -> bool:
    """Return whether a media type is `application/json` or has the suffix `+json`."""
    return name == "application/json" or (
        name.startswith("application/") and name.endswith("+json")
    )


async def read_json(request: Request) -> Any:
    """Read the whole JSON body of a route that also takes other media types.

    Raises:
        TooLarge, Malformed: As `JsonRequest.read`.
    """
    return parse_json(await read_body(request))


def parse_json(data: bytes) -> Any:
    """Parse a body.

    Raises:
        TooLarge: The body has more than `JSON_NODES_MAX` objects, arrays and members.
        Malformed: The body is not strict JSON in UTF-8, or nested too deeply.
    """
    if _has_many_nodes(data):
        raise TooLarge(
            f"The body has more than {JSON_NODES_MAX} objects, arrays and members. "
            "Split it into several requests."
        )
    try:
        value = decode(data)
    except ValueError as error:
        raise Malformed(f"The body is not JSON: {str(error)[:200]}") from error
    opened = data.count(b"[") + data.count(b"{")
    if opened > JSON_DEPTH_MAX and nests_deeper(value, JSON_DEPTH_MAX):
        raise Malformed(f"The body is nested deeper than {JSON_DEPTH_MAX} levels.")
    return value


async def ndjson_batches(request: Request) -> AsyncIterator[list[bytes]]:
    """Yield the lines of a streamed body; one batch has the lines that one chunk completed.

    The consumer bounds each line, and refuses a longer one by its number. Here only the line that
    is not complete yet is bounded, since memory holds it: beyond `max_event_bytes` it is yielded as
    the last line, cut one byte after the bound. A client that disconnects in the middle of a line
    has not sent that line.

    A caller holds `while_allowed` around it: here a credential that became invalid is noticed when
    lines come, and not while none do.

    Raises:
        ClientDisconnect: The client disconnected.
        EdgeError: The client's credential became invalid.
        LimitReached, Unavailable: There was no room for a long line (`BodyReservation.hold`).
    """
    line_max = _settings(request).max_event_bytes
    request.scope.setdefault("extensions", {})[STREAMED_BODY] = True
    reservation = reservation_of(request.scope)
    receive, is_allowed = request.receive, still_allowed(request)
    rest = b""
    more = True
    while more:
        message = await receive()
        if not is_allowed():
            raise unauthorized(wrong=True)
        if message["type"] == "http.disconnect":
            raise ClientDisconnect
        more = message.get("more_body", False)
        data = rest + message.get("body", b"")
        *lines, rest = data.split(b"\n")
        if lines:
            yield [*map(_without_cr, lines)] if b"\r" in data else lines
        if len(rest) > line_max:
            yield [rest[: line_max + 1]]
            return
        if reservation.size or len(rest) > BODY_BYTES_FREE:
            reservation.release(len(rest))
            await reservation.hold(len(rest))
    if rest:
        yield [_without_cr(rest)]


def _without_cr(line: bytes) -> bytes:
    return line.removesuffix(b"\r")


async def read_body(request: Request) -> bytes:
    """Read a whole body of any media type; wait first until there is room for it.

    Raises:
        TooLarge: The body is over `max_body_bytes`.
        LimitReached, Unavailable: There was no room (`BodyReservation.hold`).
    """
    size_max = _settings(request).max_body_bytes
    declared = request.headers.get("content-length", "")
    length = int(declared) if declared.isdecimal() else 0
    if length > size_max:
        raise _too_large(size_max)
    reservation = reservation_of(request.scope)
    await reservation.hold(length)
    chunks: list[bytes] = []
    size = 0
    async for chunk in request.stream():
        size += len(chunk)
        if size > size_max:
            raise _too_large(size_max)
        if size > length:
            await reservation.hold(size)
        chunks.append(chunk)
    return b"".join(chunks)


def _too_large(size_max: int) -> TooLarge:
    return TooLarge(
        f"The body is larger than {size_max} bytes (max_body_bytes). "
        "Split it into several requests."
    )


def _settings(request: Request) -> Settings:
    settings: Settings = request.app.state.settings
    return settings


def _has_many_nodes(data: bytes) -> bool:
    """Count before anything is parsed: bytes are cheap, objects are not."""
    if _nodes_at_most(data) <= JSON_NODES_MAX:
        return False
    # Strings may contain what was counted, as program code does. Remove the strings, unless there
    # are so many that it would take long: most have a quote at each end that is not escaped.
    if data.count(b'"') - data.count(b'\\"') > 4 * JSON_NODES_MAX:
        return True
    return _nodes_at_most(_STRING.sub(b"", data)) > JSON_NODES_MAX


def _nodes_at_most(data: bytes) -> int:
    return data.count(b"[") + data.count(b"{") + data.count(b":")
