"""Routes that are declared with FastAPI and called without its machinery.

FastAPI makes the OpenAPI document of a route's declared parameters. For each request it would solve
them again: with exit stacks, a cache, overrides, and a coroutine for each dependency. No route uses
these. So a `DirectRoute` reads the declared parameters itself, with FastAPI's own fields and in
FastAPI's order, and reports the same errors.

FastAPI reads a declaration when its route is first called, or the document asked for. To read all
of them takes 0.12 s, an eighth of a start; of one route, 2 ms.

A route may declare path, query and header parameters, one JSON body, the request, and dependencies:
plain functions of the same, which run on the event loop and must not block.
"""

from collections.abc import Callable, Coroutine, Iterator, Mapping
from inspect import iscoroutinefunction
from threading import RLock
from typing import Any, Final, NamedTuple
from urllib.parse import parse_qsl

from fastapi._compat import ModelField
from fastapi.dependencies.models import Dependant
from fastapi.exceptions import RequestValidationError
from fastapi.routing import APIRoute
from starlette.requests import Request
from starlette.responses import Response
from typing_extensions import override

from bamboo_gateway.api.bodies import JsonRequest
from bamboo_gateway.api.limits import ERROR_TEXT_CHARS_MAX
from bamboo_gateway.domain.errors import InvalidInput

_CANNOT_READ: Final = (
    "cookie_params",
    "http_connection_param_name",
    "websocket_param_name",
    "background_tasks_param_name",
    "response_param_name",
    "security_scopes_param_name",
)
"""What a FastAPI route could declare and a `DirectRoute` cannot."""


FAMILY: Final = ".*"
"""The end of the alias of a family of query parameters: `metadata.*` takes `metadata.KEY=VALUE` for
each KEY, once. Its value is a list: each KEY, then its VALUE."""

_DECLARING: Final = RLock()
"""Held while FastAPI reads a declaration: the document is made in a thread."""


class DirectRoute(APIRoute):
    """A route that reads its own parameters, and whose endpoint returns the response.

    Raises:
        TypeError: It declares what a `DirectRoute` cannot read; raised when that is first needed.
    """

    def __init__(self, path: str, endpoint: Callable[..., Any], **declared: Any) -> None:
        # What finding a route and checking its right needs. `__getattr__` adds all the rest.
        self.path = path
        self.endpoint = endpoint
        self.name = declared.get("name") or endpoint.__name__
        self.methods = set(declared.get("methods") or ["GET"])
        self.include_in_schema = declared.get("include_in_schema", True)
        self._declared = declared

    def __getattr__(self, name: str) -> Any:
        """Have FastAPI read the declaration: an attribute is needed that it makes."""
        with _DECLARING:
            declared = self.__dict__.pop("_declared", None)
            if declared is not None:
                super().__init__(self.path, self.endpoint, **declared)
                self._read = _arguments_of(self.dependant)
                self._query_names = dict(_query_names(self.dependant))
                self._takes_body = self.body_field is not None
        return object.__getattribute__(self, name)

    @override
    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        return self.respond

    def query_of(self, raw: bytes, known: Mapping[str, bool]) -> dict[str, list[str]]:
        """Read the query (`read_query`). A route of another protocol may have its rules."""
        return read_query(raw, known)

    async def respond(self, request: Request) -> Response:
        """Return the response to a request for this route.

        Raises:
            InvalidInput: The query has unknown or repeated parameters.
            RequestValidationError: A parameter or the body does not fit its declaration.
            EdgeError, TooLarge, Malformed: As `JsonRequest.read`.
        """
        scope = request.scope
        raw_query: bytes = scope["query_string"]
        query = self.query_of(raw_query, self._query_names) if raw_query else {}
        if self._takes_body:
            request = await JsonRequest.read(request)
        # Of a header that is sent twice the first one counts, as everywhere in the framework.
        headers = dict(reversed(scope["headers"]))
        errors: list[Any] = []
        arguments = self._read(_Sent(request, scope["path_params"], query, headers), errors)
        if errors:
            raise RequestValidationError(errors)
        response: Response = await self.endpoint(**arguments)
        return response


class _Sent(NamedTuple):
    """What a client has sent, by the places where parameters can be."""

    request: Request
    path: Mapping[str, str]
    query: Mapping[str, list[str]]
    headers: Mapping[bytes, bytes]


_Reader = Callable[[_Sent, list[Any]], Any]
"""Reads one argument. It adds errors to the list; when it does, its result means nothing."""


def _arguments_of(dependant: Dependant) -> Callable[[_Sent, list[Any]], dict[str, Any]]:
    """Return a function that reads all arguments of an endpoint or dependency, by name."""
    for name in _CANNOT_READ:
        if getattr(dependant, name):
            raise TypeError(f"{dependant.call}: a DirectRoute cannot read {name}")
    # FastAPI's order: it is the order of the errors.
    readers: list[tuple[str, _Reader]] = [
        *((str(child.name), _dependency(child)) for child in dependant.dependencies),
        *((field.name, _path_parameter(field)) for field in dependant.path_params),
        *((field.name, _query_parameter(field)) for field in dependant.query_params),
        *((field.name, _header(field)) for field in dependant.header_params),
        *((field.name, _body(field)) for field in dependant.body_params),
    ]
    if dependant.request_param_name is not None:
        readers.append((dependant.request_param_name, lambda sent, _: sent.request))

    def read(sent: _Sent, errors: list[Any]) -> dict[str, Any]:
        return {name: reader(sent, errors) for name, reader in readers}

    return read


def _dependency(dependant: Dependant) -> _Reader:
    call = dependant.call
    if call is None or iscoroutinefunction(call):
        raise TypeError(f"{call}: a dependency has to be a plain function")
    arguments = _arguments_of(dependant)

    def read(sent: _Sent, errors: list[Any]) -> Any:
        errors_before = len(errors)
        found = arguments(sent, errors)
        return call(**found) if len(errors) == errors_before else None

    return read


def _path_parameter(field: ModelField) -> _Reader:
    return _parameter(field, "path", lambda sent: sent.path.get(field.alias))


def _query_parameter(field: ModelField) -> _Reader:
    if field.alias.endswith(FAMILY):
        return _parameter(field, "query", lambda sent: _members_of(field.alias, sent.query))
    if _takes_many(field):
        return _parameter(field, "query", lambda sent: sent.query.get(field.alias))

    def find(sent: _Sent) -> str | None:
        values = sent.query.get(field.alias)
        return values[-1] if values is not None else None

    return _parameter(field, "query", find)


def _header(field: ModelField) -> _Reader:
    name = field.alias.encode("ascii")

    def find(sent: _Sent) -> str | None:
        value = sent.headers.get(name)
        return value.decode("latin-1") if value is not None else None

    return _parameter(field, "header", find)


def _parameter(field: ModelField, place: str, find: Callable[[_Sent], Any]) -> _Reader:
    loc, is_required, default = (place, field.alias), field.field_info.is_required(), field.default

    def read(sent: _Sent, errors: list[Any]) -> Any:
        value = find(sent)
        if value is None:
            if is_required:
                errors.append(_missing(loc))
            return default
        return _validated(field, value, loc, errors)

    return read


def _body(field: ModelField) -> _Reader:
    is_required, default = field.field_info.is_required(), field.default

    def read(sent: _Sent, errors: list[Any]) -> Any:
        request = sent.request
        assert isinstance(request, JsonRequest)  # the route has a body field
        if not request.has_json:
            if is_required:
                errors.append(_missing(("body",)))
            return default
        return _validated(field, request.sent_json, ("body",), errors)

    return read


def _validated(field: ModelField, value: Any, loc: tuple[str, ...], errors: list[Any]) -> Any:
    validated, found = field.validate(value, loc=loc)
    errors += found
    return validated


def _missing(loc: tuple[str, ...]) -> dict[str, Any]:
    return {"type": "missing", "loc": loc, "msg": "Field required", "input": None}


def read_query(raw: bytes, known: Mapping[str, bool]) -> dict[str, list[str]]:
    """Return the values of each query parameter.

    Refuse unknown parameters, since a misspelt `until` would open an endless stream, and repeated
    ones that take one value.

    Args:
        raw: The query as it was sent.
        known: The route's parameters, and whether each may be repeated.

    Raises:
        InvalidInput: `errors` names each wrong parameter.
    """
    query: dict[str, list[str]] = {}
    errors: list[dict[str, Any]] = []
    for name, value in parse_qsl(raw.decode("latin-1"), keep_blank_values=True):
        is_known = name in known
        if not is_known and not _is_in_family(name, known):
            errors.append({"loc": ["query", name], "msg": "no such parameter"})
        elif name in query and not (is_known and known[name]):
            errors.append({"loc": ["query", name], "msg": "given more than once"})
        query.setdefault(name, []).append(value)
    if errors:
        name, msg = errors[0]["loc"][1][:ERROR_TEXT_CHARS_MAX], errors[0]["msg"]
        there_are = f"this route has {', '.join(sorted(known)) or 'none'}"
        raise InvalidInput(f"Query parameter {name!r}: {msg}; {there_are}.", errors=errors)
    return query


def _is_in_family(name: str, known: Mapping[str, bool]) -> bool:
    prefix, dot, member = name.partition(".")
    return bool(dot and member) and prefix + FAMILY in known


def _members_of(alias: str, query: Mapping[str, list[str]]) -> list[str] | None:
    """Return the members of a family with their values, in turn: each member, then its value."""
    prefix = alias.removesuffix("*")
    found = [
        part
        for name, values in query.items()
        if name.startswith(prefix)
        for part in (name.removeprefix(prefix), values[-1])
    ]
    return found or None


def _query_names(dependant: Dependant) -> Iterator[tuple[str, bool]]:
    for field in dependant.query_params:
        yield field.alias, _takes_many(field) and not field.alias.endswith(FAMILY)
    for child in dependant.dependencies:
        yield from _query_names(child)


def _takes_many(field: ModelField) -> bool:
    return "list[" in str(field.field_info.annotation)
