"""Messages of the gateway as messages of AG-UI.

An assistant message of the gateway has its reasoning, its text and its calls. AG-UI has reasoning
as messages of their own, so each run of `thinking` in a message becomes one: its id is the
message's, `-r` and the number of the part. A stream gives the same ids.
"""

from collections.abc import Iterable, Iterator, Mapping
from typing import Any, Final

from bamboo_gateway.domain.codec import encode
from bamboo_gateway.domain.messages import Message
from bamboo_gateway.wires.ag_ui.frames import present

METADATA: Final = "ag_ui"
"""The member of a message's metadata with what the gateway's own shape has no place for."""


def parts_of(content: str | list[dict[str, Any]]) -> list[tuple[str, str]]:
    """Return text and thinking of a message in order, as `token` and `thinking`; joined."""
    if isinstance(content, str):
        return [("token", content)] if content else []
    parts: list[tuple[str, str]] = []
    for part in content:
        if part["type"] not in ("text", "thinking") or not part["text"]:
            continue
        kind = "token" if part["type"] == "text" else "thinking"
        if parts and parts[-1][0] == kind:
            parts[-1] = (kind, parts[-1][1] + part["text"])
        else:
            parts.append((kind, part["text"]))
    return parts


def reasoning_id(message_id: str, number: int) -> str:
    """Return the id of the reasoning that is part `number` of a message."""
    return f"{message_id}-r{number}"


def client_id(message: Mapping[str, Any]) -> str:
    """Return the id that the client knows a message by."""
    named = (message.get("metadata") or {}).get(METADATA)
    given = named.get("id") if isinstance(named, dict) else None
    return given if isinstance(given, str) else message["id"]


def to_ag_ui(messages: Iterable[Mapping[str, Any]]) -> Iterator[bytes]:
    """Yield the AG-UI messages of a conversation, encoded, in the order of a client that saw it.

    A client puts results directly behind the message with their calls, before reasoning that came
    after its text.
    """
    late: list[bytes] = []
    for message in messages:
        name, role, content = client_id(message), message["role"], message["content"]
        if role != "tool":
            yield from late
            late = []
        if role == "assistant":
            before, own, late = _assistant(name, message)
            yield from (*before, *own)
            continue
        shape: dict[str, Any] = {"id": name, "role": role}
        if role == "tool":
            shape["toolCallId"] = message["tool_call_id"]
        shape["content"] = Message.text_of(content) if role == "system" else _content(content)
        yield encode(shape)
    yield from late


def _assistant(
    name: str, message: Mapping[str, Any]
) -> tuple[list[bytes], list[bytes], list[bytes]]:
    """Return the reasoning before a message's text, the message, and the reasoning behind that."""
    parts = parts_of(message["content"])
    texts = [number for number, (kind, _) in enumerate(parts) if kind == "token"]
    first = texts[0] if texts else len(parts)
    reasoning = [
        (number, encode({"id": reasoning_id(name, number), "role": "reasoning", "content": text}))
        for number, (kind, text) in enumerate(parts)
        if kind == "thinking"
    ]
    text = "".join(text for kind, text in parts if kind == "token")
    calls = [
        {
            "id": call["id"],
            "type": "function",
            "function": {"name": call["name"], "arguments": arguments_text(call["arguments"])},
        }
        for call in message.get("tool_calls") or ()
    ]
    members = {
        "id": name,
        "role": "assistant",
        "content": text or None,
        "toolCalls": calls or None,
    }
    own = [encode(present(members))] if text or calls else []
    return (
        [shape for number, shape in reasoning if number < first],
        own,
        [shape for number, shape in reasoning if number > first],
    )


def arguments_text(arguments: Any) -> str:
    """Return the arguments of a call as the text that AG-UI has."""
    return arguments if isinstance(arguments, str) else encode(arguments).decode()


def _content(content: str | list[dict[str, Any]]) -> str | list[dict[str, Any]]:
    if isinstance(content, str):
        return content
    return [shape for part in content if (shape := _part(part)) is not None]


def _part(part: Mapping[str, Any]) -> dict[str, Any] | None:
    if part["type"] == "text":
        return {"type": "text", "text": part["text"]}
    if part["type"] not in ("image", "file"):
        return None
    media_type: str = part.get("media_type") or ""
    if "file_id" in part:
        source = {"type": "file", "value": part["file_id"], "provider": "bamboo"}
    elif "url" in part:
        source = {"type": "url", "value": part["url"]}
    else:
        source = {"type": "data", "value": part["data"]}
    if media_type:
        source["mimeType"] = media_type
    kind = media_type.partition("/")[0]
    shown = "image" if part["type"] == "image" else kind if kind in _MEDIA else "document"
    return {"type": shown, "source": source}


_MEDIA: Final = frozenset({"audio", "video"})


def open_calls(messages: Iterable[Mapping[str, Any]]) -> list[str]:
    """Return the calls of a conversation's end that have no result."""
    waiting: list[str] = []
    for message in messages:
        if message["role"] == "assistant":
            waiting = [call["id"] for call in message.get("tool_calls") or ()]
        elif message["role"] == "tool" and message["tool_call_id"] in waiting:
            waiting.remove(message["tool_call_id"])
    return waiting
