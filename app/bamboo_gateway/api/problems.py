"""The contract's problems: each code with its status, title and an example (RFC 9457).

This module alone knows the HTTP status codes of errors; `problem_responses` makes the responses.
"""

from collections.abc import Mapping, Sequence
from typing import Any, Final, NamedTuple

from bamboo_gateway.api.limits import ERROR_TEXT_CHARS_MAX, ERRORS_MAX
from bamboo_gateway.domain.errors import BambooError

MEDIA_TYPE: Final = "application/problem+json"
PROBLEM: Final = "bamboo.problem"
"""The scope's key of the code of the problem that was answered."""

TYPE_PREFIX: Final = "urn:bamboo:problem:"
"""`type` names a problem and has no page: a URN shows that; a relative URL would be a 404."""

RETRY_AFTER_SECONDS: Final = 1
"""The `Retry-After` of a 429 or 503 without its own: most pass within a commit or a run."""


class Problem(NamedTuple):
    """The answer for a code. `example` is an example of a `detail`."""

    status: int
    title: str
    example: str
    retryable: bool = False

    @property
    def has_retry_after(self) -> bool:
        """Whether every response has a `Retry-After`."""
        return self.status in {429, 503}


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
        "This gateway asks for no credential, so the Host header must be a loopback name, like "
        "127.0.0.1 or localhost.",
    ),
    "origin-not-allowed": Problem(
        403,
        "Origin not allowed",
        "Web pages of this origin may not call the gateway (cors_origins).",
    ),
    "forbidden": Problem(
        403, "Not allowed", "This request needs the right `write`; the credential has `read`."
    ),
    "not-found": Problem(404, "Not found", "There is no such route."),
    "session-not-found": Problem(404, "No such session", "No session 's-1'."),
    "run-not-found": Problem(404, "No such run", "No run 'run_1' in this session."),
    "message-not-found": Problem(404, "No such message", "No message 'msg_1' in this session."),
    "branch-not-found": Problem(404, "No such branch", "No branch 'branch_1' in this session."),
    "connection-not-found": Problem(404, "No such connection", "No connection 'c_1'."),
    "summary-not-found": Problem(404, "No summary", "The session has no summary; PUT one first."),
    "extension-not-found": Problem(404, "No such extension", "No extension 'x' in this session."),
    "request-not-found": Problem(404, "No such request for input", "No request for input 'req_1'."),
    "share-not-found": Problem(404, "No such share", "No share 'share_1' of this session."),
    "webhook-not-found": Problem(404, "No such webhook", "No webhook 'wh_1'."),
    "file-not-found": Problem(404, "No such file", "No file 'file_1'."),
    "todo-not-found": Problem(404, "No todo list", "The session has no todo list; PUT one first."),
    "archive-not-found": Problem(404, "No such archive", "No archived session 's-1'."),
    "method-not-allowed": Problem(
        405,
        "Method not allowed",
        "This route has no method PUT; the Allow header lists its methods.",
    ),
    "upload-timeout": Problem(
        408, "The upload took too long", "The upload took longer than upload_timeout_seconds.", True
    ),
    "file-in-use": Problem(
        409, "A message names the file", "A message names this file. It goes with its session."
    ),
    "too-many-files": Problem(
        409, "Too many files", "A session names at most 500 files. Begin another session."
    ),
    "conflict": Problem(
        409, "Not possible now", "The state of the session or run does not allow this request."
    ),
    "session-exists": Problem(
        409, "The session exists", "A session 's-1' exists already. Choose another id."
    ),
    "message-exists": Problem(
        409, "The message exists", "The session already has a message 'msg_1'."
    ),
    "session-closed": Problem(
        409, "The session is closed", "The session is closed and read-only. Reopen it first."
    ),
    "session-archived": Problem(
        409,
        "The session is archived",
        "The session is archived and read-only. Restore it first.",
    ),
    "not-archived": Problem(409, "The session is not archived", "The session is not archived."),
    "run-exists": Problem(409, "The run exists", "The session already has a run 'run_1'."),
    "run-active": Problem(
        409, "A run is active", "The session has an active run. Wait for its end, or cancel it."
    ),
    "too-many-branches": Problem(
        409,
        "Too many branches",
        "Limit reached: 200 branches in this session (max_branches), or 2000 changes between them. "
        "Fork the session to go on.",
    ),
    "open-tool-calls": Problem(
        409, "Tool calls are open", "The session waits for the results of 1 tool calls: call_1."
    ),
    "no-open-tool-call": Problem(409, "No such open tool call", "No open tool call 'call_1'."),
    "input-required": Problem(
        409,
        "The session waits for an answer",
        "The session waits for an answer. Answer it, cancel it, or chat instead.",
    ),
    "already-answered": Problem(
        409, "Answered already", "The request 'req_1' has another answer already."
    ),
    "input-closed": Problem(
        409, "Nobody waits for it", "Nobody waits for an answer to 'req_1' any more."
    ),
    "not-the-last-message": Problem(
        400,
        "Not the last message",
        "The message 'msg_1' is not the last one of the conversation.",
    ),
    "too-many-hidden-runs": Problem(
        409, "Too many hidden runs", "Limit reached: 1000 hidden runs in this session."
    ),
    "append-in-progress": Problem(
        409, "Another request appends", "Another request is appending events of this run."
    ),
    "run-ended": Problem(
        409, "The run has ended", "The run has its terminal event. No event can follow it."
    ),
    "gone": Problem(410, "Gone", "This existed once and will not come back."),
    "position-gone": Problem(
        410,
        "The position is gone",
        "The log does not have this position. Load the messages and open their `stream_url`.",
    ),
    "input-expired": Problem(
        410, "The request has expired", "The request for input 'req_1' has expired."
    ),
    "session-expired": Problem(
        410,
        "The session has expired",
        "The session's time to live has passed. Reopen the session, with a new `ttl_seconds` if "
        "you like, or delete it.",
    ),
    "file-damaged": Problem(
        410,
        "The file is damaged",
        "The content of the file 'file_1' is damaged. Upload the same content again: that repairs "
        "it.",
    ),
    "precondition-failed": Problem(
        412, "Changed meanwhile", "If-Match names another version. Read the session again."
    ),
    "file-too-large": Problem(
        413,
        "The file is too large",
        "The file is larger than 20971520 bytes (max_file_bytes).",
    ),
    "too-large": Problem(
        413,
        "Too large",
        "The body is larger than 16777216 bytes (max_body_bytes). Split it into several requests.",
    ),
    "event-too-large": Problem(
        413,
        "The event is too large",
        "The event 'custom' is larger than 1048576 bytes (max_event_bytes).",
    ),
    "metadata-too-large": Problem(
        413, "The metadata is too large", "`metadata` is larger than 65536 bytes as JSON."
    ),
    "unsupported-media-type": Problem(
        415, "Not JSON", "Send the body as JSON, with `Content-Type: application/json`."
    ),
    "range-not-satisfiable": Problem(
        416, "No such range", "The range begins behind the end of the file."
    ),
    "invalid": Problem(422, "Invalid request", "body.title: Input should be a valid string"),
    "invalid-id": Problem(
        422,
        "Invalid id",
        "A session id has 1 to 128 characters of [A-Za-z0-9._-] and begins with a letter or digit.",
    ),
    "invalid-event": Problem(
        422, "Invalid event", "Not a valid event: custom.name: Field required"
    ),
    "invalid-answer": Problem(
        422,
        "The answer does not fit",
        'The answer req_1.approved does not fit: the value is not of type "boolean".',
    ),
    "invalid-client-tools": Problem(
        422,
        "The client's tools are refused",
        "Tool 0: `parameters` is not a JSON Schema.",
    ),
    "invalid-position": Problem(
        422,
        "Invalid position",
        "`after` must be a position that the gateway sent, `<epoch>-<seq>`.",
    ),
    "invalid-extension-data": Problem(
        422, "Invalid extension data", "`todo_state` must be an object or null."
    ),
    "invalid-path": Problem(
        422,
        "Invalid path",
        "`path` must be a relative path below export_dir, like reports/a.md.",
    ),
    "no-export-dir": Problem(
        422, "No export directory", "This gateway has no export_dir. Leave out `path`."
    ),
    "several-conversations": Problem(
        422,
        "Several conversations",
        "The document has 3 conversations. Choose one with `conversation`, counted from 1.",
    ),
    "nothing-said": Problem(422, "No messages", "The session has no messages to summarize."),
    "nothing-to-answer": Problem(
        422,
        "Nothing to answer again",
        "There is no user's message to answer again. Send one with POST /chat.",
    ),
    "not-a-user-message": Problem(
        422,
        "Not a user's message",
        "The message 'msg_1' is not a user's: only those can be edited.",
    ),
    "self-merge": Problem(422, "Merge with itself", "A session cannot be merged into itself."),
    "invalid-cursor": Problem(
        422, "Invalid cursor", "The cursor belongs to another list or sort order."
    ),
    "webhook-url-refused": Problem(
        422, "The URL is refused", "The URL of a webhook begins with https://."
    ),
    "unknown-file": Problem(
        422,
        "No such file",
        "A message names the file 'file_1', which does not exist or is not yours. Upload it first.",
    ),
    "not-an-image": Problem(
        422,
        "No image",
        "The content is no picture, although its media type is image/png. Send its real media "
        "type.",
    ),
    "unknown-agent": Problem(422, "Unknown agent", "No agent 'bob' is configured."),
    "option-refused": Problem(
        422,
        "An option is refused",
        "Option 'model': clients may not set this option. Clients may set: temperature, top_p.",
    ),
    "idempotency-key-reused": Problem(
        422,
        "The idempotency key was used before",
        "This Idempotency-Key was used before with another body. Use a new key.",
    ),
    "limit-reached": Problem(429, "Limit reached", "A limit is reached.", True),
    "rate-limited": Problem(
        429,
        "Too many requests",
        "Limit reached: 1000 requests in 1 s per caller (rate_limit_per_caller). Retry in 1 s.",
        True,
    ),
    "too-many-runs": Problem(
        429,
        "Too many runs",
        "Limit reached: 100 (max_active_runs_per_user). Wait for a run to end, or cancel one, and "
        "retry.",
        True,
    ),
    "budget-reached": Problem(
        429,
        "Token budget reached",
        "Limit reached: 1000000 tokens a day (max_tokens_per_user_day). Retry when the next day "
        "begins, in UTC.",
        True,
    ),
    "too-many-busy-sessions": Problem(
        429,
        "Too many busy sessions",
        "Limit reached: 250 (max_active_sessions_per_user). Wait for a run or a request to end and "
        "retry.",
        True,
    ),
    "too-many-streams": Problem(
        429,
        "Too many streams",
        "Limit reached: 1000 (max_connections_per_user). Close a stream and retry.",
        True,
    ),
    "too-many-uploads": Problem(
        429,
        "Too many uploads",
        "Limit reached: 20 uploads at a time per caller (max_uploads_per_caller).",
        True,
    ),
    "storage-quota-reached": Problem(
        429,
        "Storage quota reached",
        "Limit reached: 1000000 (max_stored_bytes_per_user). Delete or archive sessions and retry.",
        True,
    ),
    "too-many-queued-runs": Problem(
        429,
        "Too many queued runs",
        "Limit reached: 100 queued runs in this session (max_queued_runs). "
        "Wait for a run to end and retry.",
        True,
    ),
    "too-many-sessions": Problem(
        429,
        "Too many sessions",
        "Limit reached: 1000 sessions (max_sessions). Delete a session and retry.",
        True,
    ),
    "too-many-webhooks": Problem(
        429,
        "Too many webhooks",
        "Limit reached: 10 webhooks (max_webhooks_per_user). Delete a webhook and retry.",
        True,
    ),
    "internal": Problem(
        500,
        "Internal error",
        "The request failed. The gateway's log has the reason under this request_id.",
    ),
    "too-many-uploads-in-all": Problem(
        503, "Too many uploads", "Limit reached: 100 uploads at a time (max_uploads).", True
    ),
    "unavailable": Problem(
        503, "Unavailable", "The gateway cannot answer this request now. Retry later.", True
    ),
    "too-many-active-sessions": Problem(
        503,
        "Too many active sessions",
        "Limit reached: 1000 busy sessions (max_active_sessions). Retry in a moment.",
        True,
    ),
    "too-many-tcp-connections": Problem(
        503,
        "Too many TCP connections",
        "Limit reached: 25000 TCP connections (max_tcp_connections, or the limit of open files). "
        "Retry later.",
        True,
    ),
    "too-many-connections": Problem(
        503,
        "Too many streams",
        "Limit reached: 20000 open streams (max_connections). Retry in a moment.",
        True,
    ),
    "agent-failed": Problem(
        503, "The agent failed", "The agent did not write a summary in time.", True
    ),
    "draining": Problem(
        503, "Shutting down", "The gateway is shutting down and accepts no new work.", True
    ),
    "storage-full": Problem(
        503,
        "The storage is full",
        "The disk is full: the gateway refuses writes and serves reads.",
        True,
    ),
    "storage-failed": Problem(
        503,
        "The storage failed",
        "A write failed. The gateway stored nothing of the request, unless `detail` says that this "
        "is unknown.",
        True,
    ),
}


class EdgeError(BambooError):
    """A refusal for a reason that only HTTP has: authentication, Host, Origin, media type, method.

    Attributes:
        headers: Further headers of the response.
    """

    def __init__(
        self, code: str, detail: str | None = None, *, headers: Mapping[str, str] | None = None
    ) -> None:
        super().__init__(detail or PROBLEMS[code].example, code=code)
        self.headers = dict(headers or {})


def problem_document(
    code: str,
    detail: str,
    *,
    instance: str,
    errors: Sequence[Mapping[str, Any]] = (),
) -> dict[str, Any]:
    """Return a problem's members in the contract's order."""
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
            {"loc": [shorten(part) for part in item["loc"]], "msg": shorten(item["msg"])}
            for item in errors[:ERRORS_MAX]
        ]
    return document


def shorten(part: Any) -> Any:
    """Return a client's text cut to `ERROR_TEXT_CHARS_MAX`, and anything else unchanged."""
    if isinstance(part, str) and len(part) > ERROR_TEXT_CHARS_MAX:
        return part[: ERROR_TEXT_CHARS_MAX - 1] + "…"
    return part
