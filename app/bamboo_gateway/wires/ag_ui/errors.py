"""Refused requests, in a form that AG-UI's clients show.

The protocol's own error is the event RUN_ERROR, and so is the body of a refusal; beside its
`message` and `code` it has the members of the gateway's problem. The official client takes any
status that is no 2xx for an error, and reads the body as JSON only when its type says so.
"""

from collections.abc import Mapping
from typing import Any

from starlette.responses import Response

from bamboo_gateway.api.openapi.responses import Responses, example_problem, problems
from bamboo_gateway.api.problems import MEDIA_TYPE
from bamboo_gateway.domain.codec import encode
from bamboo_gateway.wires.ag_ui.schemas import Refusal


def refusal_body(problem: Mapping[str, Any]) -> dict[str, Any]:
    """Return the RUN_ERROR for a problem of the gateway."""
    members = {name: value for name, value in problem.items() if name not in ("type", "instance")}
    return {"type": "RUN_ERROR", "message": problem["detail"], **members}


def refusal(problem: Mapping[str, Any], headers: Mapping[str, str]) -> Response:
    """Return the response for a problem of the gateway."""
    body = encode(refusal_body(problem))
    return Response(body, problem["status"], dict(headers), media_type="application/json")


def refusals(*codes: str) -> Responses:
    """Describe the refusals that a route may answer with, one response for each status."""
    responses = problems(*codes)
    for response in responses.values():
        examples = response["content"].pop(MEDIA_TYPE)["examples"]
        shown = {code: {"value": refusal_body(example_problem(code))} for code in examples}
        response["content"] = {"application/json": {"examples": shown}}
        response["model"] = Refusal
    return responses
