"""Convert the messages of a session into those of a Chat Completions request.

A model server must never reject the history, because a session whose history is rejected is dead.
So this repairs, in the request only, what a server would refuse:

* Every tool call is followed by exactly one result. A late result is moved up, a missing one is
  replaced by a text that says so, and one without its call is left out.
* Arguments that are no JSON object are wrapped into one, since servers parse them.
* Empty messages are left out.
* Consecutive messages of one role are joined, and so are the leading system messages: the templates
  of many models require alternating turns and one system message.
"""

from collections.abc import Iterable, Mapping
from typing import Any

from bamboo_gateway.agents.media_urls import ANYWHERE, may_lead_to
from bamboo_gateway.domain.codec import decode, encode
from bamboo_gateway.domain.messages import Message
from bamboo_gateway.domain.tool_order import INTERRUPTED


def to_openai(
    messages: Iterable[Message],
    system: str | None = None,
    media_origins: str = ANYWHERE,
    images: Mapping[str, str] | None = None,
) -> list[dict[str, Any]]:
    """Return the request's `messages`.

    Args:
        messages: The messages of the session.
        system: A system message to put before all others.
        media_origins: The origins from which the server may fetch images.
        images: The data URLs of uploaded pictures, by file id; others are named in words. None:
            only the length of the request matters, and every picture counts as one.
    """
    request: list[dict[str, Any]] = []
    waiting: dict[str, dict[str, Any]] = {}
    if system:
        request.append({"role": "system", "content": system})
    for message in messages:
        match message.role:
            case "system":
                _append(request, {"role": "system", "content": message.text})
            case "user":
                content = _user_content(message.content, media_origins, images)
                _append(request, {"role": "user", "content": content})
            case "assistant":
                _append_assistant(request, waiting, message)
            case "tool":
                # Later turns may use a call id again: a result belongs to the latest call.
                result = waiting.pop(message.tool_call_id or "", None)
                if result is not None:
                    result["content"] = message.text
    return request


def _append_assistant(
    request: list[dict[str, Any]], waiting: dict[str, dict[str, Any]], message: Message
) -> None:
    # An id that occurs twice in one message would need two results of one id.
    calls = {call["id"]: call for call in message.tool_calls or ()}
    if not calls:
        _append(request, {"role": "assistant", "content": message.text})
        return
    request.append(
        {
            "role": "assistant",
            "content": message.text or None,
            "tool_calls": [_call(call) for call in calls.values()],
        }
    )
    for call_id in calls:
        waiting[call_id] = {"role": "tool", "tool_call_id": call_id, "content": INTERRUPTED}
        request.append(waiting[call_id])


def _append(request: list[dict[str, Any]], message: dict[str, Any]) -> None:
    if not message["content"]:
        return
    last = request[-1] if request else None
    if last is None or last["role"] != message["role"] or "tool_calls" in last:
        request.append(message)
        return
    before, after = last["content"], message["content"]
    if isinstance(before, str) and isinstance(after, str):
        last["content"] = f"{before}\n\n{after}"
    else:
        last["content"] = [*_as_parts(before), *_as_parts(after)]


def _as_parts(content: str | list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [{"type": "text", "text": content}] if isinstance(content, str) else content


def _call(call: dict[str, Any]) -> dict[str, Any]:
    function = {"name": call["name"], "arguments": _arguments(call.get("arguments"))}
    return {"id": call["id"], "type": "function", "function": function}


def _arguments(value: Any) -> str:
    if isinstance(value, str):
        try:
            if isinstance(decode(value), dict):
                return value
        except ValueError:
            pass
        value = {"input": value}
    return encode(value or {}).decode()


def _user_content(
    content: str | list[dict[str, Any]], media_origins: str, images: Mapping[str, str] | None
) -> str | list[dict[str, Any]]:
    if isinstance(content, str):
        return content
    parts = [part for given in content if (part := _part(given, media_origins, images)) is not None]
    if all(part["type"] == "text" for part in parts):
        # Every server accepts a plain string.
        return "".join(part["text"] for part in parts)
    return parts


def _part(
    part: dict[str, Any], media_origins: str, images: Mapping[str, str] | None
) -> dict[str, Any] | None:
    match part["type"]:
        case "image" | "file" if isinstance(part.get("file_id"), str):
            return _stored(part, images)
        case "text" if part.get("text"):
            return {"type": "text", "text": part["text"]}
        case "image" if part.get("url") and not may_lead_to(part["url"], media_origins):
            # Without its URL, which a model with tools might fetch.
            return {"type": "text", "text": "[an image, whose address is not allowed here]"}
        case "image":
            return {"type": "image_url", "image_url": {"url": _url(part)}}
        case "file" if "data" in part:
            file = {"filename": part.get("name") or "file", "file_data": _url(part)}
            return {"type": "file", "file": file}
        case "file":
            # The API has no links to files; the model is told that there is one.
            return {"type": "text", "text": f"[file {part.get('name') or ''}: {part.get('url')}]"}
        case _:
            return None


def _stored(part: dict[str, Any], images: Mapping[str, str] | None) -> dict[str, Any]:
    """Return the part of an uploaded file: a picture with its content, others in words."""
    if part["type"] == "image":
        url = "data:," if images is None else images.get(part["file_id"])
        if url is not None:
            return {"type": "image_url", "image_url": {"url": url}}
    name, size, kind = part.get("name", ""), part.get("bytes", 0), part.get("media_type", "")
    # The API has no links to files; the model is told that there is one.
    return {"type": "text", "text": f"[{part['type']} {name}: {kind}, {size} bytes]"}


def _url(part: dict[str, Any]) -> str:
    if part.get("url"):
        return str(part["url"])
    media_type = part.get("media_type") or "application/octet-stream"
    return f"data:{media_type};base64,{part.get('data', '')}"
