"""How the routes describe their answers in the OpenAPI document, with examples."""

from typing import Any, Final

from bamboo_gateway.api.openapi.responses import TEXT, Responses, example_problem
from bamboo_gateway.api.problems import PROBLEMS
from bamboo_gateway.wires.openai.errors import openai_error_body
from bamboo_gateway.wires.openai.schemas import OpenAIError

RESPONSE_ID: Final = "resp_cy0xfnJ1bl8wMWthZzh2M2MwZDZxMHcxeDJ5M3o0YTViNg"
ITEM: Final[dict[str, Any]] = {
    "id": "msg_01kag8v3c0d6q0w1x2y3z4a5b7",
    "type": "message",
    "status": "completed",
    "role": "assistant",
    "content": [{"type": "output_text", "text": "Hello!", "annotations": [], "logprobs": []}],
}
RESPONSE: Final[dict[str, Any]] = {
    "id": RESPONSE_ID,
    "object": "response",
    "created_at": 1763661234,
    "status": "completed",
    "model": "default",
    "output": [ITEM],
}
ITEMS: Final[dict[str, Any]] = {
    "object": "list",
    "data": [ITEM],
    "first_id": ITEM["id"],
    "last_id": ITEM["id"],
    "has_more": False,
}
CONVERSATION: Final[dict[str, Any]] = {
    "id": "conv_s-1",
    "object": "conversation",
    "created_at": 1763661234,
    "metadata": {"topic": "greetings"},
}
MODEL: Final[dict[str, Any]] = {
    "id": "default",
    "object": "model",
    "created": 0,
    "owned_by": "bamboo",
}
STREAM: Final[dict[str, Any]] = {
    "schema": {"type": "string", "contentMediaType": "text/event-stream"},
    "example": "event: response.output_text.delta\n"
    'data: {"type":"response.output_text.delta","sequence_number":50000,"item_id":"msg_1",'
    '"output_index":0,"content_index":0,"logprobs":[],"delta":"Hel"}\n\n',
}


def refusals(*codes: str) -> Responses:
    """Describe the errors that a route may answer, one response for each status."""
    responses: Responses = {}
    for code in dict.fromkeys(codes):
        document = example_problem(code) | {"retryable": PROBLEMS[code].retryable}
        status, body = openai_error_body(document)
        response = responses.setdefault(
            status,
            {
                "description": "",
                "model": OpenAIError,
                "content": {"application/json": {"examples": {}}},
            },
        )
        parts = [part for part in (response["description"], f"`{body['error']['code']}`") if part]
        response["description"] = ", ".join(dict.fromkeys(parts))
        response["content"]["application/json"]["examples"][code] = {"value": body}
        if status in {429, 503}:
            response["headers"] = {
                "Retry-After": {
                    "description": "Seconds to wait before the next try.",
                    "schema": {"type": "integer"},
                }
            }
        if status == 401:
            response["headers"] = {
                "WWW-Authenticate": {"description": "How to authenticate.", **TEXT}
            }
    other = example_problem("not-found") | {"retryable": False}
    responses = dict(sorted(responses.items(), key=lambda item: int(item[0])))
    responses["default"] = {
        "description": "Any other error, in the same form.",
        "model": OpenAIError,
        "content": {
            "application/json": {"examples": {"other": {"value": openai_error_body(other)[1]}}}
        },
    }
    return responses
