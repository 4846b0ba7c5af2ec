"""The examples of the OpenAPI document."""

from typing import Any, Final

from bamboo_gateway.api.openapi.examples import conversation

USER: Final[dict[str, Any]] = {
    "id": "u-1",
    "role": "user",
    "parts": [{"type": "text", "text": "Hello!"}],
}
ASSISTANT: Final[dict[str, Any]] = {
    "id": "msg_01kag8v3c0d6q0w1x2y3z4a5b6",
    "role": "assistant",
    "parts": [
        {"type": "step-start"},
        {"type": "text", "text": "Hello! How can I help?", "state": "done"},
    ],
}
REQUESTS: Final[dict[str, Any]] = {
    "submit": {
        "summary": "As `DefaultChatTransport` sends it",
        "value": {
            "id": conversation.SESSION_ID,
            "messages": [USER],
            "trigger": "submit-message",
        },
    },
    "last": {
        "summary": "The last message alone",
        "value": {"id": conversation.SESSION_ID, "message": USER | {"id": "u-2"}},
    },
    "regenerate": {
        "summary": "Another answer",
        "value": {
            "id": conversation.SESSION_ID,
            "messages": [USER],
            "trigger": "regenerate-message",
            "messageId": ASSISTANT["id"],
        },
    },
}
FRAMES: Final = (
    'data: {"type":"start","messageId":"msg_01kag8v3c0d6q0w1x2y3z4a5b6"}\n\n'
    'data: {"type":"start-step"}\n\n'
    'data: {"type":"text-start","id":"msg_01kag8v3c0d6q0w1x2y3z4a5b6"}\n\n'
    'data: {"type":"text-delta","id":"msg_01kag8v3c0d6q0w1x2y3z4a5b6","delta":"Hel"}\n\n'
)
