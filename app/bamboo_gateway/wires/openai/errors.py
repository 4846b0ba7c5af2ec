"""Errors in OpenAI's form.

    {"error": {"message": "…", "type": "invalid_request_error", "param": "input", "code": "…"}}

`code` is OpenAI's where it has one, and otherwise the gateway's, with underscores. `x-should-retry`
tells the SDKs whether to send the same request again; by themselves they would repeat every 409.
"""

from collections.abc import Mapping, Sequence
from typing import Any, Final

from starlette.responses import Response

from bamboo_gateway.domain.codec import encode
from bamboo_gateway.domain.errors import InvalidInput

_CODES: Final[Mapping[str, str]] = {
    "unauthorized": "invalid_api_key",
    "unknown-agent": "model_not_found",
    "option-refused": "unsupported_parameter",
    "invalid": "invalid_value",
    "malformed": "invalid_json",
    "rate-limited": "rate_limit_exceeded",
    "budget-reached": "insufficient_quota",
    "internal": "server_error",
}
_PARAMS: Final[Mapping[str, str]] = {
    "agent": "model",
    "system": "instructions",
    "max_tokens": "max_output_tokens",
    "max_completion_tokens": "max_output_tokens",
    "reasoning_effort": "reasoning.effort",
    "response_format": "text.format",
    "messages": "input",
    "client_tools": "tools",
}
"""What the gateway calls differently."""


def unsupported(param: str, reason: str) -> InvalidInput:
    """Return the refusal of a parameter that the gateway does not have, or not with this value."""
    return InvalidInput(
        f"Unsupported parameter: '{param}' {reason}",
        code="option-refused",
        errors=[{"loc": ["body", *_place(param)], "msg": reason}],
    )


def wrong(param: str, reason: str) -> InvalidInput:
    """Return the refusal of a value."""
    return InvalidInput(
        f"Invalid '{param}': {reason}", errors=[{"loc": ["body", *_place(param)], "msg": reason}]
    )


def error_body(
    message: str, kind: str, code: str | None, param: str | None = None
) -> dict[str, Any]:
    """Return the body of an error."""
    return {"error": {"message": message, "type": kind, "param": param, "code": code}}


def openai_error_body(problem: Mapping[str, Any]) -> tuple[int, dict[str, Any]]:
    """Return the status and the body of a problem in OpenAI's form.

    Wrong values are 400 there, and not 422.
    """
    status = 400 if problem["status"] == 422 else problem["status"]
    code = problem["code"]
    body = error_body(
        problem["detail"],
        _kind(status),
        _CODES.get(code, code.replace("-", "_")),
        _param(problem.get("errors") or ()),
    )
    return status, body


def openai_error(problem: Mapping[str, Any], headers: Mapping[str, str]) -> Response:
    """Return the response for a problem of the gateway."""
    status, body = openai_error_body(problem)
    retry = "true" if problem["retryable"] else "false"
    return Response(
        encode(body),
        status,
        {**headers, "X-Should-Retry": retry},
        media_type="application/json",
    )


def _kind(status: int) -> str:
    if status == 429:
        return "rate_limit_error"
    if status in {401, 403}:
        return "authentication_error" if status == 401 else "permission_error"
    return "invalid_request_error" if status < 500 else "server_error"


def _place(param: str) -> list[str | int]:
    parts = param.replace("[", ".[").split(".")
    return [int(part[1:-1]) if part.startswith("[") else part for part in parts]


def _param(errors: Sequence[Mapping[str, Any]]) -> str | None:
    """Return the name of the first wrong parameter, as `input[0].content`."""
    if not errors or not errors[0]["loc"]:
        return None
    place = list(errors[0]["loc"])
    if place[0] in {"body", "query", "path", "header"}:
        place = place[1:]
    if place and place[0] == "options":
        place = place[1:]
    name = ""
    for part in place:
        if isinstance(part, int):
            name += f"[{part}]"
        else:
            name += f".{part}" if name else _PARAMS.get(part, part)
    return name or None
