"""Responses for errors: RFC 9457 problem documents, and the app's exception handlers.

An error whose `code` is not in `PROBLEMS` is answered as the nearest class of its family
(`domain.errors`), so that a new code cannot become a 500 by accident.
"""

from collections.abc import Mapping, Sequence
from typing import Any, Final

from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.types import Scope

from bamboo_gateway.api.limits import DETAIL_CHARS_MAX, ERRORS_MAX
from bamboo_gateway.api.misspelt_fields import no_such_field
from bamboo_gateway.api.problems import (
    CODE_OF_STATUS,
    MEDIA_TYPE,
    PROBLEM,
    PROBLEMS,
    RETRY_AFTER_SECONDS,
    EdgeError,
    Problem,
    problem_document,
    shorten,
)
from bamboo_gateway.domain.codec import encode
from bamboo_gateway.domain.errors import BambooError, InvalidInput

_INSTANCE_CHARS_MAX: Final = 256


def problem_response(error: BambooError, scope: Scope) -> Response:
    """Return the response for an error that was raised on purpose.

    The error no longer refers to anything of the request afterwards.
    """
    _forget_frames(error)
    code, problem = _classify(error)
    errors: Sequence[Mapping[str, Any]] = ()
    if isinstance(error, InvalidInput):
        # A 422 always has `errors`; one without a place is about the request as a whole.
        errors = error.errors or [{"loc": [], "msg": error.detail}]
    headers = dict(error.headers) if isinstance(error, EdgeError) else {}
    if problem.has_retry_after or error.retry_after_seconds is not None:
        headers["Retry-After"] = str(error.retry_after_seconds or RETRY_AFTER_SECONDS)
    detail = error.detail[:DETAIL_CHARS_MAX]
    document = problem_document(code, detail, instance=instance_of(scope), errors=errors)
    document["retryable"] = error.retryable or problem.retryable
    scope[PROBLEM] = code
    scope["app"].state.problems[code] += 1
    for name, value in error.extra.items():
        document.setdefault(name, value)
    return _response(document, headers)


def internal_problem(scope: Scope, request_id: str) -> Response:
    """Return the response for an unexpected error; the log has its trace."""
    document = problem_document(
        "internal", PROBLEMS["internal"].example, instance=instance_of(scope)
    )
    document["request_id"] = request_id
    scope[PROBLEM] = "internal"
    scope["app"].state.problems["internal"] += 1
    return _response(document, {})


async def on_bamboo_error(request: Request, error: Exception) -> Response:
    """Answer an error of the domain."""
    assert isinstance(error, BambooError)  # registered for nothing else
    return problem_response(error, request.scope)


async def on_invalid_request(request: Request, error: Exception) -> Response:
    """Answer a request that its schema refuses."""
    assert isinstance(error, RequestValidationError)  # registered for nothing else
    errors = [
        {
            "loc": [part for part in item["loc"] if not str(part).startswith("<")],
            "msg": _message(item, request),
        }
        for item in error.errors()[:ERRORS_MAX]
    ]
    for item in error.errors():
        _forget_frames(item.get("ctx", {}).get("error"))
    place = ".".join(shorten(part) for part in map(str, errors[0]["loc"]))
    return problem_response(
        InvalidInput(shorten(f"{place}: {errors[0]['msg']}"), errors=errors), request.scope
    )


async def on_http_exception(request: Request, error: Exception) -> Response:
    """Answer the errors that the framework raises: unknown routes and methods."""
    assert isinstance(error, HTTPException)  # registered for nothing else
    code = CODE_OF_STATUS.get(error.status_code, "internal")
    headers = dict(error.headers or {})
    match code:
        case "method-not-allowed":
            detail = (
                f"This route has no method {request.method}; the Allow header lists its methods."
            )
            # The framework lists the methods of the first route of this path only.
            headers["Allow"] = ", ".join(request.app.state.methods_of(request.scope["path"]))
        case "not-found":
            detail = PROBLEMS["not-found"].example
        case _:
            detail = str(error.detail)
    return problem_response(EdgeError(code, detail, headers=headers), request.scope)


async def on_client_gone(request: Request, error: Exception) -> Response:
    """Answer a client that has disconnected: nobody reads it, but the server needs a response."""
    del error
    return problem_response(EdgeError("malformed", "The request ended early."), request.scope)


EXCEPTION_HANDLERS: Final[dict[int | type[Exception], Any]] = {
    BambooError: on_bamboo_error,
    RequestValidationError: on_invalid_request,
    HTTPException: on_http_exception,
    ClientDisconnect: on_client_gone,
}


def _message(item: Mapping[str, Any], request: Request) -> str:
    """Return an error of a schema in words for a client."""
    if item["type"] == "extra_forbidden" and item["loc"][0] == "body":
        return no_such_field(_body_schema(request), item["loc"][1:])
    msg: str = item["msg"]
    return msg.removeprefix("Value error, ")


def _body_schema(request: Request) -> Any:
    body = request.scope["route"].body_field
    return body.field_info.annotation if body is not None else None


def _forget_frames(error: object) -> None:
    """Remove the tracebacks of a handled error and of the errors that caused it.

    The traceback of an error refers to a frame that has the error in a local variable, and so the
    frame stays in memory with the request and its body until the garbage collector runs.
    """
    waiting = [error]
    while waiting:
        found = waiting.pop()
        if isinstance(found, BaseException) and found.__traceback__ is not None:
            found.__traceback__ = None
            waiting += [found.__cause__, found.__context__]
            if isinstance(found, BaseExceptionGroup):
                waiting += found.exceptions


def instance_of(scope: Scope) -> str:
    """Return the request's path as the client sent it."""
    raw: bytes = scope.get("raw_path") or scope["path"].encode()
    return raw.decode("latin-1")[:_INSTANCE_CHARS_MAX]


def _classify(error: BambooError) -> tuple[str, Problem]:
    if error.code in PROBLEMS:
        return error.code, PROBLEMS[error.code]
    for cls in type(error).__mro__:
        code = str(getattr(cls, "code", ""))
        if code in PROBLEMS:
            return code, PROBLEMS[code]
    return "internal", PROBLEMS["internal"]


def _response(document: dict[str, Any], headers: dict[str, str]) -> Response:
    return Response(
        encode(document),
        document["status"],
        {"Cache-Control": "no-store", **headers},
        media_type=MEDIA_TYPE,
    )
