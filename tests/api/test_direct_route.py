"""Routes read what they declare as FastAPI would, and report the same errors."""

from concurrent.futures import ThreadPoolExecutor
from contextlib import AsyncExitStack
from inspect import iscoroutinefunction
from itertools import cycle, product
from types import SimpleNamespace
from typing import Annotated, Any

import pytest
from fastapi import APIRouter, Cookie, Depends
from fastapi.dependencies.utils import solve_dependencies
from fastapi.exceptions import RequestValidationError
from starlette.requests import Request
from starlette.responses import Response
from starlette.types import Message
from typing_extensions import override

from bamboo_gateway.api.body_memory import BodyMemory
from bamboo_gateway.api.caller import CALLER
from bamboo_gateway.api.direct_route import DirectRoute
from bamboo_gateway.api.routing import guarded_routes
from bamboo_gateway.api.security.rights import GuardedRoute
from bamboo_gateway.domain.callers import LOCAL_CALLER
from bamboo_gateway.domain.codec import decode
from bamboo_gateway.domain.errors import BambooError
from bamboo_gateway.settings import Settings

ROUTES = guarded_routes()
SETTINGS = Settings(storage_url="memory:")
GOOD: dict[str, str] = {"session_id": "s-1", "name": "a", "run_id": "run-1"}
BAD = dict.fromkeys(
    ["session_id", "name", "run_id", "connection_id", "share_id", "branch_id"], "-not an id!"
)
QUERIES = (
    b"",
    b"limit=10",
    b"limit=0&order=up&offset=x&wait=nan&include_messages=perhaps&from=end&until=never",
    b"after=1-1&order=desc&limit=1000&wait=0.5&type=token&type=message,custom&include_messages=1",
    b"before=&after=%F0%9F%8E%8B&lastEventId=7&heartbeat=event&from=start&until=complete",
)
HEADERS: tuple[list[tuple[bytes, bytes]], ...] = (
    [],
    [(b"idempotency-key", b"k-1"), (b"prefer", b"wait=5"), (b"if-match", b'"v1"')],
    [(b"idempotency-key", b"k-1"), (b"idempotency-key", b"k-2"), (b"last-event-id", b"1-1")],
    [(b"idempotency-key", b"\xe9"), (b"prefer", b"wait=5000")],
    [(b"last-event-id", b"1-1"), (b"last-event-id", b"1-2"), (b"if-none-match", b"\xff")],
)
BODIES = (
    b"",
    b"null",
    b"[]",
    b'"text"',
    b'{"message":"Hello","session_id":"s-1","options":{"a":1}}',
    b'{"message":{"role":"pilot","content":[{"type":"text"},{"type":"x"}]},"ttl_seconds":-1}',
    b'{"role":"user","content":"Hello","metadata":{"a":1}}',
    b'[{"role":"user","content":"one"},{"role":"user","content":[]}]',
    b'{"session_ids":["s-1"],"title":null,"extension_data":{"a":null},"unknown":1}',
)


def _route_id(route: GuardedRoute) -> str:
    return f"{min(route.methods or ())} {route.path}"


def _request(
    route: DirectRoute, query: bytes, headers: list[tuple[bytes, bytes]], body: bytes, **path: str
) -> Request:
    names = route.param_convertors
    app = SimpleNamespace(
        state=SimpleNamespace(manager=object(), settings=SETTINGS, body_memory=BodyMemory(SETTINGS))
    )

    async def receive() -> Message:
        return {"type": "http.request", "body": body, "more_body": False}

    return Request(
        {
            "type": "http",
            "method": min(route.methods or ()),
            "path": route.path,
            "app": app,
            "client": ("127.0.0.1", 1),
            "query_string": query,
            "headers": [*headers, (b"content-type", b"application/json")],
            "path_params": {name: path.get(name, "x") for name in names},
            "route": route,
            CALLER: LOCAL_CALLER,
        },
        receive,
    )


async def _as_fastapi(route: DirectRoute, request: Request, body: bytes) -> Any:
    """What FastAPI's own solver finds: the arguments, or the errors."""
    async with AsyncExitStack() as stack:
        request.scope["fastapi_inner_astack"] = request.scope["fastapi_function_astack"] = stack
        # FastAPI takes an absent body for its own mark of what is undefined.
        sent = {"body": decode(body)} if body and route.body_field is not None else {}
        solved = await solve_dependencies(
            request=request,
            dependant=route.dependant,
            async_exit_stack=stack,
            embed_body_fields=False,
            **sent,
        )
    return [_plain(error) for error in solved.errors] or solved.values


def _plain(error: dict[str, Any]) -> Any:
    return error["type"], tuple(error["loc"]), error["msg"]


@pytest.mark.parametrize("route", ROUTES, ids=_route_id)
async def test_a_route_gets_the_arguments_and_errors_that_fastapi_would_find(
    route: GuardedRoute, monkeypatch: pytest.MonkeyPatch
) -> None:
    called: list[dict[str, Any]] = []

    async def endpoint(**arguments: Any) -> Response:
        called.append(arguments)
        return Response()

    assert (
        route.dependant is not None
    )  # read with its own endpoint: other tests call the route as well
    monkeypatch.setattr(route, "endpoint", endpoint)
    # Names that the route does not have are refused before either reads anything.
    monkeypatch.setattr(route, "_query_names", _AnyName())
    bodies = BODIES if route.body_field is not None else BODIES[:1]
    cases = list(zip(product((GOOD, BAD), QUERIES, HEADERS), cycle(bodies), strict=False))
    for (path, query, headers), body in cases:
        request = _request(route, query, headers, body, **path)
        called.clear()
        try:
            await DirectRoute.respond(route, request)
            found: Any = called[0]
        except (BambooError, RequestValidationError) as error:
            found = _errors(error)
        request = _request(route, query, headers, body, **path)
        try:
            expected = await _as_fastapi(route, request, body)
        except BambooError as error:
            expected = _errors(error)
        assert _comparable(found) == _comparable(expected), (query, headers, body)


def _errors(error: BambooError | RequestValidationError) -> list[Any]:
    if isinstance(error, RequestValidationError):
        return [_plain(each) for each in error.errors()]
    return [type(error), error.detail, getattr(error, "errors", None)]


class _AnyName(dict[str, bool]):
    """The names of a route that knows every query parameter, each of which may be repeated."""

    @override
    def __contains__(self, name: object) -> bool:
        return True

    @override
    def __getitem__(self, name: str) -> bool:
        return True


def _comparable(found: Any) -> Any:
    if isinstance(found, dict):
        # Each has a request and a manager of its own; what was sent is read from the request.
        return {
            name: value
            for name, value in found.items()
            if name not in {"request", "manager", "sent"}
        }
    return found


@pytest.mark.parametrize("route", ROUTES, ids=_route_id)
def test_every_endpoint_is_a_coroutine_function_that_returns_a_response(
    route: GuardedRoute,
) -> None:
    assert iscoroutinefunction(route.endpoint)
    assert issubclass(route.endpoint.__annotations__["return"], Response)


async def test_what_a_direct_route_cannot_read_is_refused_when_it_is_first_called() -> None:
    router = APIRouter(route_class=DirectRoute)

    async def waits() -> int:
        return 1

    async def with_cookie(a: Annotated[str, Cookie()]) -> Response:
        return Response(a)

    async def with_coroutine(a: Annotated[int, Depends(waits)]) -> Response:
        return Response(str(a))

    router.get("/a")(with_cookie)
    router.get("/b")(with_coroutine)
    cookie, coroutine = router.routes
    assert isinstance(cookie, DirectRoute)
    assert isinstance(coroutine, DirectRoute)
    with pytest.raises(TypeError, match="with_cookie"):
        await cookie.respond(_request(cookie, b"", [], b""))
    with pytest.raises(TypeError, match="waits"):
        await coroutine.respond(_request(coroutine, b"", [], b""))


def test_a_declaration_that_two_threads_need_is_read_once() -> None:
    def read(routes: list[DirectRoute]) -> list[Any]:
        return [(route.dependant, route._read, route.path_format) for route in routes]

    router = APIRouter(route_class=DirectRoute)

    async def endpoint(a: int, b: str = "") -> Response:
        return Response(f"{a}{b}")

    for number in range(50):
        router.get(f"/{number}")(endpoint)
    routes = [route for route in router.routes if isinstance(route, DirectRoute)]
    with ThreadPoolExecutor(4) as pool:
        read_by = list(pool.map(read, [routes] * 4))
    for found in zip(*read_by, strict=True):
        assert all(each[0] is found[0][0] and each[1] is found[0][1] for each in found)


def test_an_attribute_that_a_route_does_not_have_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="no_such_thing"):
        ROUTES[0].no_such_thing  # noqa: B018
