"""Request bodies: read once, bounded, strict JSON; and NDJSON line by line.

`JsonRoute` is the class of every route. It refuses query parameters that the route does not have (a
misspelt `until` would open an endless stream), reads the body under `max_body_bytes`, checks its
media type, size and nesting, and hands the framework the parsed value.
"""

import re
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator
from typing import Any, Final

from fastapi.dependencies.models import Dependant
from fastapi.routing import APIRoute
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from typing_extensions import override

from bamboo_gateway.api.body_memory import held_body
from bamboo_gateway.api.caller import receive_while_allowed
from bamboo_gateway.api.limits import JSON_DEPTH_MAX, JSON_NODES_MAX
from bamboo_gateway.api.problems import EdgeError
from bamboo_gateway.domain.codec import decode, nests_deeper
from bamboo_gateway.domain.errors import InvalidInput, Malformed, TooLarge
from bamboo_gateway.settings import Settings

NDJSON_TYPES: Final = frozenset({"application/x-ndjson", "application/ndjson"})

STREAMED_BODY: Final = "bamboo.streamed_body"
"""The scope's extension with which a route tells the server that it takes its body as it comes and
holds no more of it than a line. The body's type does not: any route could be sent one of NDJSON."""

_STRING: Final = re.compile(rb'"(?:[^"\\]++|\\.)*+"?', re.DOTALL)
"""A string of JSON, or what is left of one: each byte is looked at once, whatever it is."""


class JsonRequest(Request):
    """A request whose body has been read, bounded and parsed."""

    @classmethod
    async def read(cls, request: Request) -> "JsonRequest":
        """Reads the body; one that is empty is for the schema to judge.

        Raises:
            EdgeError: Its media type is not JSON.
            TooLarge: It is over `max_body_bytes`, or has too many parts.
            Malformed: It is not JSON, or nested too deeply.
        """
        self = cls(request.scope, request.receive)
        self._body = await read_body(request)
        if self._body:
            if not is_json(media_type(request)):
                raise EdgeError("unsupported-media-type")
            self._json = parse_json(self._body)
        return self


class JsonRoute(APIRoute):
    """See the module."""

    @override
    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        handle = super().get_route_handler()
        known = dict(_query_names(self.dependant))
        takes_body = self.body_field is not None

        async def handler(request: Request) -> Response:
            if request.scope["query_string"]:
                check_query(request, known)
            if takes_body:
                request = await JsonRequest.read(request)
            return await handle(request)

        return handler


def check_query(request: Request, known: dict[str, bool]) -> None:
    """Refuses parameters that are not known, or given twice though they have one value.

    Args:
        request: The request.
        known: The names, and whether a name may come more than once.

    Raises:
        InvalidInput: `errors` names each.
    """
    errors = []
    seen: set[str] = set()
    for name, _ in request.query_params.multi_items():
        if name not in known:
            errors.append({"loc": ["query", name], "msg": "no such parameter"})
        elif name in seen and not known[name]:
            errors.append({"loc": ["query", name], "msg": "given more than once"})
        seen.add(name)
    if errors:
        raise InvalidInput(f"Query parameter: {errors[0]['msg']}.", errors=errors)


def media_type(request: Request) -> str:
    """Gives the body's media type in lower case, without parameters."""
    return request.headers.get("content-type", "").partition(";")[0].strip().lower()


def is_json(name: str) -> bool:
    """Tells whether a media type is JSON: `application/json`, or a type built on it."""
    return name == "application/json" or (
        name.startswith("application/") and name.endswith("+json")
    )


async def read_json(request: Request) -> Any:
    """Reads a whole JSON body of a route that takes other types too.

    Raises:
        TooLarge, Malformed: As `JsonRequest.read`.
    """
    return parse_json(await read_body(request))


def parse_json(data: bytes) -> Any:
    """Parses a body.

    Raises:
        TooLarge: It has more than `JSON_NODES_MAX` objects, arrays and members.
        Malformed: It is not strict JSON in UTF-8, or nested too deeply.
    """
    if _has_many_nodes(data):
        raise TooLarge(
            f"The body has more than {JSON_NODES_MAX} objects, arrays and members; "
            "send less at once."
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
    """Gives the lines of a streamed body, those that one chunk completed together.

    A line over `max_event_bytes` is the last one given, cut one byte behind the bound, so that who
    counts the lines can refuse it by its number. A client that goes away in the middle of a line
    has not sent that line.

    Raises:
        ClientDisconnect: The client went away.
        EdgeError: The client's right has ended meanwhile.
        LimitReached, Unavailable: There was no room for a long line, as `HeldBody.hold`.
    """
    line_max = _settings(request).max_event_bytes
    request.scope.setdefault("extensions", {})[STREAMED_BODY] = True
    held = held_body(request.scope)
    rest = b""
    more = True
    while more:
        message = await receive_while_allowed(request)
        if message["type"] == "http.disconnect":
            raise ClientDisconnect
        more = message.get("more_body", False)
        *lines, rest = (rest + message.get("body", b"")).split(b"\n")
        for number, line in enumerate(lines):
            if len(line) > line_max:
                yield [*map(_without_cr, lines[:number]), line[: line_max + 1]]
                return
        if lines:
            yield [*map(_without_cr, lines)]
        if len(rest) > line_max:
            yield [rest[: line_max + 1]]
            return
        held.release(len(rest))
        await held.hold(len(rest))
    if rest:
        yield [_without_cr(rest)]


def _without_cr(line: bytes) -> bytes:
    return line.removesuffix(b"\r")


async def read_body(request: Request) -> bytes:
    """Reads a whole body of any kind; waits first until there is room for it.

    Raises:
        TooLarge: It is over `max_body_bytes`.
        LimitReached, Unavailable: There was no room, as `HeldBody.hold`.
    """
    size_max = _settings(request).max_body_bytes
    declared = request.headers.get("content-length", "")
    length = int(declared) if declared.isdecimal() else 0
    if length > size_max:
        raise _too_large(size_max)
    held = held_body(request.scope)
    await held.hold(length)
    chunks: list[bytes] = []
    size = 0
    async for chunk in request.stream():
        size += len(chunk)
        if size > size_max:
            raise _too_large(size_max)
        if size > length:
            await held.hold(size)
        chunks.append(chunk)
    return b"".join(chunks)


def _too_large(size_max: int) -> TooLarge:
    return TooLarge(f"The body is over max_body_bytes, {size_max} bytes; send less at once.")


def _settings(request: Request) -> Settings:
    settings: Settings = request.app.state.settings
    return settings


def _has_many_nodes(data: bytes) -> bool:
    """Counts before anything is parsed: bytes are cheap, objects are not."""
    if _nodes_at_most(data) <= JSON_NODES_MAX:
        return False
    # What was counted may stand in strings, like code. These are taken out, unless there are so
    # many that it would take long: most have a quote at each end that is not escaped.
    if data.count(b'"') - data.count(b'\\"') > 4 * JSON_NODES_MAX:
        return True
    return _nodes_at_most(_STRING.sub(b"", data)) > JSON_NODES_MAX


def _nodes_at_most(data: bytes) -> int:
    return data.count(b"[") + data.count(b"{") + data.count(b":")


def _query_names(dependant: Dependant) -> Iterator[tuple[str, bool]]:
    for field in dependant.query_params:
        yield field.alias, "list[" in str(field.field_info.annotation)
    for child in dependant.dependencies:
        yield from _query_names(child)
