"""Convert the messages of a session into those of AG-UI's RunAgentInput, and answers into `resume`.

Frameworks pass the conversation on to model servers, so it is repaired as for those: every call is
followed by one result, empty messages are left out. Reasoning is left out too: it belongs to the
turn that thought it. Calls that a person was asked about have no result yet, and are left open.
"""

from collections.abc import Iterable, Mapping
from typing import Any, Final

from bamboo_gateway.agents.base import Answer
from bamboo_gateway.domain.codec import encode
from bamboo_gateway.domain.messages import Message
from bamboo_gateway.domain.tool_order import INTERRUPTED

_HEX: Final = "x0."
"""What a request's id begins with when it is the encoded id of an interrupt."""


def agui_messages(
    messages: Iterable[Message], answers: Mapping[str, Answer]
) -> list[dict[str, Any]]:
    """Return the request's `messages`."""
    asked = {answer.request.tool_call_id for answer in answers.values()}
    request: list[dict[str, Any]] = []
    waiting: dict[str, dict[str, Any]] = {}
    for message in messages:
        if message.role == "tool":
            result = waiting.pop(message.tool_call_id or "", None)
            if result is not None:
                result |= {"id": message.id, "content": message.text}
            continue
        if message.role == "assistant":
            shape = _assistant(message)
            if shape is None:
                continue
            request.append(shape)
            for call in shape.get("toolCalls") or ():
                if call["id"] not in asked:
                    waiting[call["id"]] = _missing(message.id, call["id"])
                    request.append(waiting[call["id"]])
            continue
        content = _content(message)
        if content:
            request.append({"id": message.id, "role": message.role, "content": content})
    return request


def resume_of(answers: Mapping[str, Answer]) -> list[dict[str, Any]]:
    """Return the `resume` of the answers of a turn."""
    entries: list[dict[str, Any]] = []
    for request_id, answer in answers.items():
        entry: dict[str, Any] = {"interruptId": interrupt_id(request_id)}
        if answer.status == "answered":
            entry |= {"status": "resolved", "payload": answer.value}
        else:
            entry["status"] = "cancelled"
        entries.append(entry)
    return entries


def request_id_of(interrupt: str) -> str:
    """Return the request's id of an interrupt that has no id of the gateway's form.

    The interrupt's own id can be made of it, so that nothing has to be remembered.
    """
    return _HEX + interrupt.encode("utf-8", "surrogatepass").hex()


def interrupt_id(request_id: str) -> str:
    """Return the id of the interrupt that a request was made of."""
    if not request_id.startswith(_HEX):
        return request_id
    try:
        return bytes.fromhex(request_id[len(_HEX) :]).decode("utf-8", "surrogatepass")
    except ValueError:
        return request_id


def _missing(message_id: str, call_id: str) -> dict[str, Any]:
    return {
        "id": f"{message_id}-{call_id}",
        "role": "tool",
        "toolCallId": call_id,
        "content": INTERRUPTED,
    }


def _assistant(message: Message) -> dict[str, Any] | None:
    shape: dict[str, Any] = {"id": message.id, "role": "assistant"}
    if message.text:
        shape["content"] = message.text
    calls = {call["id"]: call for call in message.tool_calls or ()}
    if calls:
        shape["toolCalls"] = [
            {
                "id": call["id"],
                "type": "function",
                "function": {"name": call["name"], "arguments": _arguments(call.get("arguments"))},
            }
            for call in calls.values()
        ]
    return shape if len(shape) > 2 else None


def _arguments(value: Any) -> str:
    return value if isinstance(value, str) else encode(value or {}).decode()


def _content(message: Message) -> str | list[dict[str, Any]]:
    if isinstance(message.content, str) or message.role == "system":
        return message.text
    return [shape for part in message.content if (shape := _part(part)) is not None]


def _part(part: Mapping[str, Any]) -> dict[str, Any] | None:
    if part["type"] == "text":
        return {"type": "text", "text": part["text"]}
    if part["type"] not in ("image", "file"):
        return None
    media_type = str(part.get("media_type") or "")
    if "file_id" in part:
        # The service cannot fetch it: it is named in words.
        return {"type": "text", "text": f"[File: {part.get('name') or part['file_id']}]"}
    where = "url" if "url" in part else "data"
    source = {"type": where, "value": part[where], "mimeType": media_type}
    kind = media_type.partition("/")[0]
    is_known = kind in ("audio", "video")
    shown = "image" if part["type"] == "image" else kind if is_known else "document"
    return {"type": shown, "source": source}
