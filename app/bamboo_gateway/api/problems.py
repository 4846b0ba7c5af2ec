"""Errors as RFC 9457 problem documents. The only place that knows HTTP status codes of errors.

`PROBLEMS` is the contract's list of codes. An error whose `code` is not in it is answered as the
nearest class of its family (`domain.errors`), so a new code cannot become a 500 by accident.
"""

from collections.abc import Mapping, Sequence
from typing import Any, Final, NamedTuple

from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.types import Scope

from bamboo_gateway.api.limits import DETAIL_CHARS_MAX, ERROR_TEXT_CHARS_MAX, ERRORS_MAX
from bamboo_gateway.domain.codec import encode
from bamboo_gateway.domain.errors import BambooError, InvalidInput

MEDIA_TYPE: Final = "application/problem+json"
PROBLEM: Final = "bamboo.problem"
"""Where the scope keeps the code of the problem that was answered."""

TYPE_PREFIX: Final = "urn:bamboo:problem:"
"""`type` names a problem and leads nowhere: a URN says so, where a relative URL would be a 404."""

RETRY_AFTER_SECONDS: Final = 1
"""When to come back from a 429 or 503 that knows no better: most pass within a commit or a run."""

_INSTANCE_CHARS_MAX: Final = 256


class Problem(NamedTuple):
    """What a code stands for. `example` is a `detail` as it may read."""

    status: int
    title: str
    example: str
    retryable: bool = False


PROBLEMS: Final[Mapping[str, Problem]] = {
    "malformed": Problem(
        400, "The request cannot be read", "The body is not JSON: unexpected end of data."
    ),
    "unauthorized": Problem(
        401,
        "Not authenticated",
        "Send a key or token of this gateway as `Authorization: Bearer <key>`.",
    ),
    "host-not-allowed": Problem(
        403,
        "Host not allowed",
        "Without credentials the Host must be a loopback name, like 127.0.0.1 or localhost.",
    ),
    "origin-not-allowed": Problem(
        403,
        "Origin not allowed",
        "Web pages of this origin may not call; cors_origins lists those that may.",
    ),
    "forbidden": Problem(
        403, "Not allowed", "This needs the right `write`; the credential's rights: `read`."
    ),
    "not-found": Problem(404, "Not found", "There is no such route."),
    "session-not-found": Problem(404, "No such session", "No session 's-1'."),
    "run-not-found": Problem(404, "No such run", "No run 'run_1' in this session."),
    "message-not-found": Problem(404, "No such message", "No message 'msg_1' in this session."),
    "connection-not-found": Problem(404, "No such connection", "No connection 'c_1'."),
    "summary-not-found": Problem(404, "No summary", "The session has no summary; PUT one first."),
    "extension-not-found": Problem(404, "No such extension", "No extension 'x' in this session."),
    "share-not-found": Problem(404, "No such share", "No share 'share_1' of this session."),
    "todo-not-found": Problem(404, "No todo list", "The session has no todo list; PUT one first."),
    "archive-not-found": Problem(404, "No such archive", "No archived session 's-1'."),
    "method-not-allowed": Problem(
        405, "Method not allowed", "This route does not take PUT; see the Allow header."
    ),
    "conflict": Problem(
        409, "Not possible now", "The state of the session or run does not allow this."
    ),
    "session-exists": Problem(
        409, "The session exists", "There is a session 's-1' already; choose another id."
    ),
    "message-exists": Problem(
        409, "The message exists", "The session has a message 'msg_1' already."
    ),
    "session-closed": Problem(
        409, "The session is closed", "The session is closed and read-only; reopen it first."
    ),
    "session-archived": Problem(
        409,
        "The session is archived",
        "The session is archived and read-only; restore it first.",
    ),
    "not-archived": Problem(409, "The session is not archived", "The session is not archived."),
    "run-exists": Problem(409, "The run exists", "The session has a run 'run_1' already."),
    "run-active": Problem(
        409, "A run is active", "The session is busy with a run; wait for it or cancel it."
    ),
    "open-tool-calls": Problem(
        409, "Tool calls wait", "1 tool calls wait for their results first: call_1."
    ),
    "no-open-tool-call": Problem(
        409, "No such tool call waits", "No tool call 'call_1' waits for a result."
    ),
    "append-in-progress": Problem(
        409, "Another request appends", "Another request is posting events of this run."
    ),
    "run-ended": Problem(
        409, "The run has ended", "The run has its terminal event; nothing can follow it."
    ),
    "gone": Problem(410, "Gone", "What was asked for was there once and will not come back."),
    "position-gone": Problem(
        410,
        "The position is gone",
        "This position is not in the log; load the messages and go on from their position.",
    ),
    "session-expired": Problem(
        410,
        "The session has expired",
        "The session's time to live has passed. Reopen the session, with a new `ttl_seconds` if "
        "you like, or delete it.",
    ),
    "precondition-failed": Problem(
        412, "Changed meanwhile", "If-Match names another version; read the session again."
    ),
    "too-large": Problem(
        413, "Too large", "The body is over max_body_bytes, 16777216 bytes; send less at once."
    ),
    "event-too-large": Problem(
        413, "The event is too large", "The event 'custom' is over max_event_bytes, 1048576 bytes."
    ),
    "metadata-too-large": Problem(
        413, "The metadata is too large", "`metadata` may have 65536 bytes as JSON."
    ),
    "unsupported-media-type": Problem(
        415, "Not JSON", "Send the body as JSON, with `Content-Type: application/json`."
    ),
    "invalid": Problem(422, "Invalid request", "body.title: Input should be a valid string"),
    "invalid-id": Problem(
        422,
        "Invalid id",
        "A session id is 1 to 128 characters of [A-Za-z0-9._-] and begins with a letter or digit.",
    ),
    "invalid-event": Problem(
        422, "Invalid event", "Not a valid event: custom.name: Field required"
    ),
    "invalid-position": Problem(
        422, "Invalid position", "`after` is a position, `<epoch>-<seq>`, as the gateway gave it."
    ),
    "invalid-extension-data": Problem(
        422, "Invalid extension data", "`todo_state` is an object, or null."
    ),
    "invalid-path": Problem(
        422,
        "Invalid path",
        "`path` is a relative path of plain names below export_dir, like reports/a.md.",
    ),
    "no-export-dir": Problem(
        422, "No export directory", "No export_dir is set; set it, or export to the response."
    ),
    "several-conversations": Problem(
        422,
        "Several conversations",
        "The document holds 3 conversations; name one with `conversation`, counted from 1.",
    ),
    "nothing-said": Problem(422, "Nothing was said", "The session has no messages to summarize."),
    "self-merge": Problem(422, "Merged into itself", "A session cannot be merged into itself."),
    "invalid-cursor": Problem(
        422, "Invalid cursor", "The cursor is none of this list, or of another sort order."
    ),
    "unknown-agent": Problem(422, "Unknown agent", "No agent 'bob' is configured."),
    "idempotency-key-reused": Problem(
        422,
        "The idempotency key was used before",
        "This Idempotency-Key was used before with another body; use a new key.",
    ),
    "limit-reached": Problem(429, "A limit is reached", "A named limit is reached.", True),
    "rate-limited": Problem(
        429,
        "Too many requests",
        "A caller may make 1000 requests in 1 s (rate_limit_per_caller); wait 1 s, or raise it.",
        True,
    ),
    "too-many-runs": Problem(
        429,
        "Too many runs",
        "max_active_runs_per_user is 100, and that is reached; wait for a run to end, or cancel "
        "one, or raise it.",
        True,
    ),
    "too-many-busy-sessions": Problem(
        429,
        "Too many busy sessions",
        "max_active_sessions_per_user is 250, and that is reached; wait for a run or a request to "
        "end, or raise it.",
        True,
    ),
    "too-many-streams": Problem(
        429,
        "Too many streams",
        "max_connections_per_user is 1000, and that is reached; close one that is not needed, or "
        "raise it.",
        True,
    ),
    "storage-quota-reached": Problem(
        429,
        "The storage quota is reached",
        "max_stored_bytes_per_user is 1000000, and that is reached; delete or archive sessions, "
        "or raise it.",
        True,
    ),
    "too-many-queued-runs": Problem(
        429, "Too many queued runs", "The session has 100 runs waiting, max_queued_runs.", True
    ),
    "too-many-sessions": Problem(
        429,
        "Too many sessions",
        "There are 1000 sessions, which is max_sessions; delete some or raise it.",
        True,
    ),
    "internal": Problem(
        500,
        "Internal error",
        "Something went wrong; the gateway's log has it under this request_id.",
    ),
    "unavailable": Problem(503, "Unavailable", "The gateway cannot do it now; try again.", True),
    "too-many-active-sessions": Problem(
        503,
        "Too many active sessions",
        "All 1000 places for active sessions are taken; try again soon.",
        True,
    ),
    "too-many-tcp-connections": Problem(
        503,
        "Too many TCP connections",
        "max_tcp_connections, or what the limit of open files leaves of it, is 25000, and that is "
        "reached; try again, or raise it.",
        True,
    ),
    "too-many-connections": Problem(
        503, "Too many connections", "All 20000 streams are open, max_connections.", True
    ),
    "agent-failed": Problem(
        503, "The agent failed", "The agent did not write a summary: it took too long.", True
    ),
    "draining": Problem(
        503, "Shutting down", "The gateway is shutting down and starts nothing new.", True
    ),
    "storage-full": Problem(
        503, "The storage is full", "No space is left: writes are refused, reads go on.", True
    ),
    "storage-failed": Problem(
        503, "The storage failed", "A write failed; nothing of the request is stored.", True
    ),
}

_CODE_OF_STATUS: Final = {
    400: "malformed",
    401: "unauthorized",
    404: "not-found",
    405: "method-not-allowed",
    413: "too-large",
    415: "unsupported-media-type",
}


class EdgeError(BambooError):
    """A refusal that only HTTP knows: authentication, Host, Origin, media type, method.

    Attributes:
        headers: Further headers of the answer.
    """

    def __init__(
        self, code: str, detail: str | None = None, *, headers: Mapping[str, str] | None = None
    ) -> None:
        super().__init__(detail or PROBLEMS[code].example, code=code)
        self.headers = dict(headers or {})


def problem_response(error: BambooError, scope: Scope) -> Response:
    """Gives the answer for an error raised on purpose, which keeps nothing of the request then."""
    _forget_frames(error)
    code, problem = _classify(error)
    errors: Sequence[Mapping[str, Any]] = ()
    if isinstance(error, InvalidInput):
        # 422 always says where; an error without a place is about the request as a whole.
        errors = error.errors or [{"loc": [], "msg": error.detail}]
    headers = dict(error.headers) if isinstance(error, EdgeError) else {}
    if problem.status in {429, 503} or error.retry_after_seconds is not None:
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
    """Gives the answer for an error nobody meant; the log has what it was."""
    document = problem_document(
        "internal", PROBLEMS["internal"].example, instance=instance_of(scope)
    )
    document["request_id"] = request_id
    scope[PROBLEM] = "internal"
    scope["app"].state.problems["internal"] += 1
    return _response(document, {})


def problem_document(
    code: str,
    detail: str,
    *,
    instance: str,
    errors: Sequence[Mapping[str, Any]] = (),
) -> dict[str, Any]:
    """Gives a problem's members, in the contract's order."""
    problem = PROBLEMS.get(code) or PROBLEMS["internal"]
    document: dict[str, Any] = {
        "type": TYPE_PREFIX + code,
        "title": problem.title,
        "status": problem.status,
        "detail": detail,
        "instance": instance,
        "code": code,
        "retryable": problem.retryable,
    }
    if errors:
        document["errors"] = [
            {"loc": [_short(part) for part in item["loc"]], "msg": _short(item["msg"])}
            for item in errors[:ERRORS_MAX]
        ]
    return document


async def on_bamboo_error(request: Request, error: Exception) -> Response:
    """Answers an error of the domain."""
    assert isinstance(error, BambooError)  # it is registered for nothing else
    return problem_response(error, request.scope)


async def on_invalid_request(request: Request, error: Exception) -> Response:
    """Answers a request that the schemas refuse."""
    assert isinstance(error, RequestValidationError)  # it is registered for nothing else
    errors = [
        {
            "loc": [part for part in item["loc"] if not str(part).startswith("<")],
            "msg": item["msg"].removeprefix("Value error, "),
        }
        for item in error.errors()[:ERRORS_MAX]
    ]
    for item in error.errors():
        _forget_frames(item.get("ctx", {}).get("error"))
    place = ".".join(_short(part) for part in map(str, errors[0]["loc"]))
    return problem_response(
        InvalidInput(_short(f"{place}: {errors[0]['msg']}"), errors=errors), request.scope
    )


async def on_http_exception(request: Request, error: Exception) -> Response:
    """Answers what the framework raises by itself: unknown routes and methods."""
    assert isinstance(error, HTTPException)  # it is registered for nothing else
    code = _CODE_OF_STATUS.get(error.status_code, "internal")
    headers = dict(error.headers or {})
    match code:
        case "method-not-allowed":
            detail = f"This route does not take {request.method}; see the Allow header."
            # The framework names the methods of the first route of this path, and not of all.
            headers["Allow"] = ", ".join(request.app.state.methods_of(request.scope["path"]))
        case "not-found":
            detail = PROBLEMS["not-found"].example
        case _:
            detail = str(error.detail)
    return problem_response(EdgeError(code, detail, headers=headers), request.scope)


async def on_client_gone(request: Request, error: Exception) -> Response:
    """Nobody is left to read an answer; the server still wants one."""
    del error
    return problem_response(EdgeError("malformed", "The request ended early."), request.scope)


EXCEPTION_HANDLERS: Final[dict[int | type[Exception], Any]] = {
    BambooError: on_bamboo_error,
    RequestValidationError: on_invalid_request,
    HTTPException: on_http_exception,
    ClientDisconnect: on_client_gone,
}


def _forget_frames(error: object) -> None:
    """Takes the tracebacks off an error that is dealt with, and off those that led to it.

    A frame that has the error in a local variable is kept by the error's traceback, and keeps all
    that it knew: the request with its body, until the garbage collector runs.
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
    """Gives the path that was asked for, as it was sent."""
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


def _short(part: Any) -> Any:
    if isinstance(part, str) and len(part) > ERROR_TEXT_CHARS_MAX:
        return part[: ERROR_TEXT_CHARS_MAX - 1] + "…"
    return part
