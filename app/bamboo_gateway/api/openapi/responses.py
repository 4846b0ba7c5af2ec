"""How routes describe their answers in the OpenAPI document."""

from collections.abc import Mapping
from typing import Any, Final

from pydantic import BaseModel

from bamboo_gateway.api.openapi.examples.conversation import STREAM
from bamboo_gateway.api.problems import MEDIA_TYPE, PROBLEMS, problem_document

Responses = dict[int | str, dict[str, Any]]

PROBLEM_REF: Final = {"$ref": "#/components/schemas/Problem"}

OPEN_EDGE: Final = (
    "host-not-allowed",
    "origin-not-allowed",
    "invalid",
    "internal",
    "too-many-tcp-connections",
)
"""What any route may answer, also one that everybody may ask as often as they like."""

EDGE: Final = ("unauthorized", "forbidden", "invalid-id", "rate-limited", "unavailable", *OPEN_EDGE)
"""What any other route may answer; `unavailable` until the sessions are recovered."""

HELD: Final = ("too-large", "limit-reached")
"""What a route that holds its body as a whole may answer."""

BODY: Final = ("malformed", "unsupported-media-type", *HELD)
"""What a route with a JSON body may answer."""

SESSION: Final = ("invalid-id", "session-not-found", "session-expired", "storage-failed")
"""What a route about one session may answer; the last when its files cannot be read."""

WRITE: Final = (
    "too-many-busy-sessions",
    "too-many-active-sessions",
    "draining",
    "storage-full",
    "storage-failed",
)
"""What a route that changes something may answer."""

STORED: Final = ("storage-quota-reached",)
"""What a route that adds to what is stored may answer."""

OPEN: Final = ("session-closed", "session-archived", *STORED)
"""What a route that adds to a session may answer."""

NEW: Final = ("too-many-sessions", *STORED)
"""What a route that makes a session may answer."""

TOOLS: Final = ("open-tool-calls", "no-open-tool-call")
"""What a route that takes messages may answer: a call and its result belong together."""

KEYED: Final = ("idempotency-key-reused", "storage-failed")
"""What a route that takes an `Idempotency-Key` may answer."""

_TEXT: Final = {"schema": {"type": "string"}}
HEADERS: Final[Mapping[str, dict[str, Any]]] = {
    "Location": {"description": "Where what was made is found.", **_TEXT},
    "ETag": {"description": "The version that `If-Match` takes.", **_TEXT},
    "Idempotency-Replayed": {"description": "`true` when this repeats a first answer.", **_TEXT},
    "Preference-Applied": {"description": "The preference that was honoured.", **_TEXT},
    "Session-Id": {"description": "The session.", **_TEXT},
    "Run-Id": {"description": "The run.", **_TEXT},
    "Connection-Id": {"description": "The connection's name, for `/reconnect`.", **_TEXT},
}


def answer(
    status: int, model: type[BaseModel], description: str, example: Any, *headers: str
) -> Responses:
    """Describes one JSON answer. `example` is one value; use `answers` for several."""
    return answers(status, model, description, {"example": ("", example)}, *headers)


def answers(
    status: int,
    model: type[BaseModel],
    description: str,
    examples: Mapping[str, tuple[str, Any]],
    *headers: str,
) -> Responses:
    """Describes a JSON answer with named examples: `{name: (summary, value)}`."""
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
    """Describes an answer without a body."""
    return {status: {"description": description}}


def stream(*headers: str) -> dict[str, Any]:
    """Describes an event stream, to be put beside or instead of JSON."""
    return {
        "description": "The events, as they become durable, until the stream's end.",
        "content": {"text/event-stream": {**_TEXT, "example": STREAM}},
        "headers": {name: HEADERS[name] for name in ("Connection-Id", *headers)},
    }


def problems(*codes: str) -> Responses:
    """Describes the problems a route may answer with, one response per status."""
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
                    "description": "Seconds to wait before trying again.",
                    "schema": {"type": "integer"},
                }
            }
        if problem.status == 401:
            response["headers"] = {
                "WWW-Authenticate": {"description": "How to authenticate.", **_TEXT}
            }
    return dict(sorted(responses.items(), key=lambda item: int(item[0])))


def example_problem(code: str) -> dict[str, Any]:
    """Gives a problem document as it may come."""
    problem = PROBLEMS[code]
    errors = (
        [{"loc": ["body", "title"], "msg": "Input should be a valid string"}]
        if code == "invalid"
        else [{"loc": [], "msg": problem.example}]
        if problem.status == 422
        else []
    )
    return problem_document(code, problem.example, instance="/api/v1/sessions/s-1", errors=errors)
