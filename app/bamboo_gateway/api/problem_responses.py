"""Responses for errors: RFC 9457 problem documents, or below a wire's path its own form.

An error whose `code` is not in `PROBLEMS` is answered as the nearest class of its family
(`domain.errors`), so that a new code cannot become a 500 by accident.
"""

from collections.abc import Mapping, Sequence
from typing import Any, Final

from fastapi.exceptions import RequestValidationError
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.types import Scope

from bamboo_gateway.api.error_forms import ErrorForms
from bamboo_gateway.api.limits import DETAIL_CHARS_MAX, ERRORS_MAX
from bamboo_gateway.api.misspelt_fields import no_such_field
from bamboo_gateway.api.prefix import prefix_of
from bamboo_gateway.api.problems import (
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
    return _response(document, headers, scope)


def internal_problem(scope: Scope, request_id: str) -> Response:
    """Return the response for an unexpected error; the log has its trace."""
    document = problem_document(
        "internal", PROBLEMS["internal"].example, instance=instance_of(scope)
    )
    document["request_id"] = request_id
    scope[PROBLEM] = "internal"
    scope["app"].state.problems["internal"] += 1
    return _response(document, {}, scope)


def error_response(error: Exception, request: Request) -> Response | None:
    """Return the response for an error of a route; None for one that nobody raised on purpose.

    The error no longer refers to anything of the request afterwards.
    """
    match error:
        case BambooError():
            refusal = error
        case RequestValidationError():
            refusal = _invalid_request(error, request)
        case ClientDisconnect():
            # Nobody reads it, but the server needs a response.
            refusal = EdgeError("malformed", "The request ended early.")
        case _:
            return None
    response = problem_response(refusal, request.scope)
    error.__traceback__ = None
    return response


def _invalid_request(error: RequestValidationError, request: Request) -> InvalidInput:
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
    return InvalidInput(shorten(f"{place}: {errors[0]['msg']}"), errors=errors)


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
    """Return the request's path as the client sent it, with the prefix that URLs have."""
    raw: bytes = scope.get("raw_path") or scope["path"].encode()
    return (prefix_of(scope) + raw.decode("latin-1"))[:_INSTANCE_CHARS_MAX]


def _classify(error: BambooError) -> tuple[str, Problem]:
    if error.code in PROBLEMS:
        return error.code, PROBLEMS[error.code]
    for cls in type(error).__mro__:
        code = str(getattr(cls, "code", ""))
        if code in PROBLEMS:
            return code, PROBLEMS[code]
    return "internal", PROBLEMS["internal"]


def _response(document: dict[str, Any], headers: dict[str, str], scope: Scope) -> Response:
    headers = {"Cache-Control": "no-store", **headers}
    forms: ErrorForms = scope["app"].state.error_forms
    form = forms.of(scope)
    if form is not None:
        return form(document, headers)
    return Response(encode(document), document["status"], headers, media_type=MEDIA_TYPE)
