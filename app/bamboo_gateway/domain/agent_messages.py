"""Whole messages that an agent yields: check them, and keep the members that the log takes."""

from typing import Any

from bamboo_gateway.domain.errors import InvalidEvent

_ROLES = ("system", "user", "assistant", "tool")
_OPTIONAL: dict[str, type] = {"model": str, "usage": dict, "metadata": dict}


def checked_message(shape: dict[str, Any]) -> dict[str, Any]:
    """Return the members of `shape` that the log takes; the gateway adds id, run and time.

    Raises:
        InvalidEvent: `shape` is not a Message of the API.
    """
    role, content = shape.get("role"), shape.get("content")
    if role not in _ROLES or not isinstance(content, str | list):
        raise InvalidEvent("message: `role` and `content` are needed")
    if isinstance(content, list) and not all(map(_is_part, content)):
        raise InvalidEvent("message: each part of `content` is an object with a `type`")
    kept: dict[str, Any] = {"role": role, "content": content}
    calls, call_id = shape.get("tool_calls"), shape.get("tool_call_id")
    if calls:
        if role != "assistant" or not isinstance(calls, list):
            raise InvalidEvent("message: `tool_calls` is a list, and of assistant messages only")
        kept["tool_calls"] = [_checked_call(call) for call in calls]
        if len({call["id"] for call in kept["tool_calls"]}) < len(calls):
            raise InvalidEvent("message: two of its tool calls have the same id")
    if role == "tool":
        if not isinstance(call_id, str):
            raise InvalidEvent("message: a tool's result needs its `tool_call_id`")
        kept["tool_call_id"] = call_id
    for name, kind in _OPTIONAL.items():
        if (value := shape.get(name)) is None:
            continue
        if not isinstance(value, kind):
            raise InvalidEvent(f"message: `{name}` is not of its type")
        kept[name] = value
    return kept


def _is_part(part: Any) -> bool:
    if not isinstance(part, dict) or not isinstance(part.get("type"), str):
        return False
    return part["type"] not in {"text", "thinking"} or isinstance(part.get("text"), str)


def _checked_call(call: Any) -> dict[str, Any]:
    if not isinstance(call, dict):
        raise InvalidEvent("message: a tool call is an object")
    call_id, name = call.get("id"), call.get("name")
    arguments = call.get("arguments", {})
    if not (isinstance(call_id, str) and isinstance(name, str)):
        raise InvalidEvent("message: a tool call needs its `id` and `name`")
    if not isinstance(arguments, dict | str):
        raise InvalidEvent("message: a tool call's `arguments` are an object")
    return {"id": call_id, "name": name, "arguments": arguments}
