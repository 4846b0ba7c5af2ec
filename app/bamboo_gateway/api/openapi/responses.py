"""How routes describe their answers in the OpenAPI document."""

from collections.abc import Mapping
from typing import Any, Final

from pydantic import BaseModel

from bamboo_gateway.api.openapi.examples.conversation import STREAM
from bamboo_gateway.api.problems import MEDIA_TYPE, PROBLEMS, problem_document

Responses = dict[int | str, dict[str, Any]]

PROBLEM_REF: Final = {"$ref": "#/components/schemas/Problem"}
POSTED_EVENT: Final = {"$ref": "#/components/schemas/PostedEvent"}

OPEN_EDGE: Final = (
    "host-not-allowed",
    "origin-not-allowed",
    "invalid",
    "internal",
    "too-many-tcp-connections",
)
"""Problems of every route, also of those that need no credential and have no rate limit."""

EDGE: Final = ("unauthorized", "forbidden", "invalid-id", "rate-limited", "unavailable", *OPEN_EDGE)
"""Problems of every other route; `unavailable` until the sessions are recovered."""

HELD: Final = ("too-large", "limit-reached")
"""Problems of a route that holds its whole body in memory."""

BODY: Final = ("malformed", "unsupported-media-type", *HELD)
"""Problems of a route with a JSON body."""

SESSION: Final = ("invalid-id", "session-not-found", "session-expired", "storage-failed")
"""Problems of a route about one session; the last when its files cannot be read."""

WRITE: Final = (
    "too-many-busy-sessions",
    "too-many-active-sessions",
    "draining",
    "storage-full",
    "storage-failed",
)
"""Problems of a route that changes something."""

STORED: Final = ("storage-quota-reached",)
"""Problems of a route that stores something new."""

OPEN: Final = ("session-closed", "session-archived", *STORED)
"""Problems of a route that adds to a session."""

NEW: Final = ("too-many-sessions", *STORED)
"""Problems of a route that creates a session."""

TOOLS: Final = ("open-tool-calls", "no-open-tool-call")
"""Problems of a route that takes messages: a tool call and its result belong together."""

ASKED: Final = ("input-required",)
"""Problems of a route that changes the conversation and is no answer to what an agent asks."""

KEYED: Final = ("idempotency-key-reused", "storage-failed")
"""Problems of a route that takes an `Idempotency-Key`."""

TEXT: Final = {"schema": {"type": "string"}}

EVENT_STREAM: Final[dict[str, Any]] = {
    "schema": {"type": "string", "contentMediaType": "text/event-stream"},
    "x-oai-itemSchema": {"$ref": "#/components/schemas/StreamFrame"},
    "example": STREAM,
}
"""Server-Sent Events. OpenAPI 3.1 knows only the schema of a whole body, which is a text. So
`x-oai-itemSchema` describes each frame: the registered name for OpenAPI 3.2's `itemSchema`."""


def lines_of(schema: Mapping[str, Any], example: str) -> dict[str, Any]:
    """Describe NDJSON: a text, in which each line is one JSON value of the schema."""
    return {
        "schema": {"type": "string", "contentMediaType": "application/x-ndjson"},
        "x-oai-itemSchema": dict(schema),
        "example": example,
    }


def bytes_of(example: str) -> dict[str, Any]:
    """Describe a binary body."""
    return {"schema": {"type": "string", "format": "binary"}, "example": example}


HEADERS: Final[Mapping[str, dict[str, Any]]] = {
    "Location": {"description": "The path of what was created.", **TEXT},
    "ETag": {"description": "The version; `If-Match` takes it.", **TEXT},
    "Idempotency-Replayed": {
        "description": "`true` on a repeat of an earlier answer.",
        **TEXT,
    },
    "Preference-Applied": {"description": "The preference that was honoured.", **TEXT},
    "Session-Id": {"description": "The session.", **TEXT},
    "Run-Id": {"description": "The run.", **TEXT},
    "Connection-Id": {"description": "The name of the connection, for `/reconnect`.", **TEXT},
}


def answer(
    status: int, model: type[BaseModel], description: str, example: Any, *headers: str
) -> Responses:
    """Describe a JSON answer with one example; `answers` takes several."""
    return answers(status, model, description, {"example": ("", example)}, *headers)


def answers(
    status: int,
    model: type[BaseModel],
    description: str,
    examples: Mapping[str, tuple[str, Any]],
    *headers: str,
) -> Responses:
    """Describe a JSON answer with named examples: `{name: (summary, value)}`."""
    shown = {
        name: {"summary": summary, "value": value} if summary else {"value": value}
        for name, (summary, value) in examples.items()
    }
    response: dict[str, Any] = {
        "model": model,
        "description": description,
        "content": {"application/json": {"examples": shown}},
    }
    if headers:
        response["headers"] = {name: HEADERS[name] for name in headers}
    return {status: response}


def nothing(status: int, description: str) -> Responses:
    """Describe an answer without a body."""
    return {status: {"description": description}}


def stream(description: str, *headers: str) -> dict[str, Any]:
    """Describe an event stream, as the whole response or to be put beside JSON."""
    return {
        "description": description,
        "content": {"text/event-stream": EVENT_STREAM},
        "headers": {name: HEADERS[name] for name in ("Connection-Id", *headers)},
    }


def problems(*codes: str) -> Responses:
    """Describe the problems that a route may answer, one response for each status."""
    responses: Responses = {}
    for code in dict.fromkeys(codes):
        problem = PROBLEMS[code]
        response = responses.setdefault(
            problem.status,
            {
                "description": "",
                "content": {MEDIA_TYPE: {"schema": PROBLEM_REF, "examples": {}}},
            },
        )
        parts = [part for part in (response["description"], f"`{code}`") if part]
        response["description"] = ", ".join(parts)
        example = {"$ref": f"#/components/examples/{code}"}
        response["content"][MEDIA_TYPE]["examples"][code] = example
        if problem.status in {429, 503}:
            response["headers"] = {
                "Retry-After": {
                    "description": "Seconds to wait before the next try.",
                    "schema": {"type": "integer"},
                }
            }
        if problem.status == 401:
            response["headers"] = {
                "WWW-Authenticate": {"description": "How to authenticate.", **TEXT}
            }
    return dict(sorted(responses.items(), key=lambda item: int(item[0])))


def example_problem(code: str) -> dict[str, Any]:
    """Return an example of a problem document."""
    problem = PROBLEMS[code]
    errors = (
        [{"loc": ["body", "title"], "msg": "Input should be a valid string"}]
        if code == "invalid"
        else [{"loc": [], "msg": problem.example}]
        if problem.status == 422
        else []
    )
    return problem_document(code, problem.example, instance="/api/v1/sessions/s-1", errors=errors)
