"""The `input` of a request, and items of a conversation, as messages of the gateway.

Clients that keep the conversation themselves send all of it: reasoning, texts and calls of the
assistant that follow one another are one message again.
"""

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

from pydantic import ValidationError

from bamboo_gateway.api.schemas.messages import MessageInput
from bamboo_gateway.domain.codec import encode, object_in
from bamboo_gateway.domain.ids import is_id
from bamboo_gateway.sessions.commands import NewMessage
from bamboo_gateway.wires.client_messages import (
    approval,
    data_url,
    guessed_media_type,
    text_or_parts,
)
from bamboo_gateway.wires.openai.errors import unsupported, wrong
from bamboo_gateway.wires.openai.ids import APPROVAL

INPUT_ITEMS_MAX: Final = 1000
"""The most items of a request: as many messages as a native one may have."""

CONTENT_PARTS_MAX: Final = 1000
"""The most parts of one item."""

_TEXT_CHARS_MAX: Final = 256
"""The longest name or id that an item may have."""

_MEDIA_TYPE: Final = re.compile(r"[a-z0-9.+-]{1,64}/[a-z0-9.+-]{1,64}")
_ROLES: Final[Mapping[Any, Any]] = {
    "user": "user",
    "assistant": "assistant",
    "system": "system",
    "developer": "system",
}


@dataclass(slots=True)
class Input:
    """What the items of an input are.

    Attributes:
        messages: Messages of the conversation, in order.
        approvals: Answers to approvals, by the id of the request for input.
        instructed_by: The first item that is a system's or developer's message.
    """

    messages: list[NewMessage] = field(default_factory=list)
    approvals: dict[str, dict[str, Any]] = field(default_factory=dict)
    instructed_by: str | None = None


def read_input(given: Any, name: str = "input") -> Input:
    """Read the items of an input; a text is the message of a user.

    Raises:
        InvalidInput: An item is malformed, or of a type that the gateway does not have.
    """
    found = Input()
    if isinstance(given, str):
        found.messages.append(NewMessage("user", given))
        return found
    if not isinstance(given, list):
        raise wrong(name, "is neither a text nor a list of items.")
    if len(given) > INPUT_ITEMS_MAX:
        raise wrong(name, f"has more than {INPUT_ITEMS_MAX} items.")
    for at, item in enumerate(given):
        place = f"{name}[{at}]"
        if not isinstance(item, dict):
            raise wrong(place, "is not an object.")
        kind = item.get("type", "message" if "role" in item else None)
        reader = _READERS.get(kind) if isinstance(kind, str) else None
        if reader is None:
            raise unsupported(f"{place}.type", f"there are no items of the type {_short(kind)}.")
        reader(item, place, found)
    return found


def _message(item: Mapping[str, Any], place: str, found: Input) -> None:
    role = _ROLES.get(_text_of(item, "role", place))
    if role is None:
        raise wrong(f"{place}.role", "is none of user, assistant, system, developer.")
    if role == "system":
        found.instructed_by = found.instructed_by or place
    content = _content(item.get("content"), f"{place}.content")
    if role == "assistant":
        said = _assistant(found)
        if content:
            said.extend({"type": "text", "text": content} if isinstance(content, str) else content)
        return
    found.messages.append(NewMessage(role, content))


def _reasoning(item: Mapping[str, Any], place: str, found: Input) -> None:
    parts = [*_list_of(item, "summary", place), *_list_of(item, "content", place)]
    texts = [str(part.get("text") or "") for part in parts if isinstance(part, dict)]
    if text := "\n\n".join(texts):
        _assistant(found).extend({"type": "thinking", "text": text})


def _call(item: Mapping[str, Any], place: str, found: Input) -> None:
    arguments = item.get("arguments")
    read = object_in(arguments) if isinstance(arguments, str) else None
    if read is None:
        raise wrong(f"{place}.arguments", "is not the text of a JSON object.")
    call_id = _text_of(item, "call_id", place)
    call = {"id": call_id, "name": _text_of(item, "name", place), "arguments": read}
    _assistant(found).calls.append(call)


def _call_output(item: Mapping[str, Any], place: str, found: Input) -> None:
    output = item.get("output")
    content = output if isinstance(output, str) else _content(output, f"{place}.output")
    call_id = _text_of(item, "call_id", place)
    found.messages.append(NewMessage("tool", content, tool_call_id=call_id))


def _approval(item: Mapping[str, Any], place: str, found: Input) -> None:
    request_id = _text_of(item, "approval_request_id", place).removeprefix(APPROVAL)
    approve = item.get("approve")
    if not isinstance(approve, bool):
        raise wrong(f"{place}.approve", "is not a boolean.")
    found.approvals[request_id] = approval(approve, item.get("reason"))


def _shown_again(item: Mapping[str, Any], place: str, found: Input) -> None:
    """Leave out an item that only tells what the gateway or the agent did by itself."""


_READERS: Final[Mapping[str, Callable[[Mapping[str, Any], str, Input], None]]] = {
    "message": _message,
    "reasoning": _reasoning,
    "function_call": _call,
    "function_call_output": _call_output,
    "mcp_approval_response": _approval,
    "mcp_approval_request": _shown_again,
    "mcp_call": _shown_again,
    "mcp_list_tools": _shown_again,
}


class _Said:
    """The message of the assistant at the end of the input."""

    def __init__(self, message: NewMessage) -> None:
        assert isinstance(message.content, list)
        assert message.tool_calls is not None
        self._parts = message.content
        self.calls = message.tool_calls

    def extend(self, parts: dict[str, Any] | list[dict[str, Any]]) -> None:
        """Add parts."""
        self._parts.extend(parts if isinstance(parts, list) else [parts])


def _assistant(found: Input) -> _Said:
    """Return the message of the assistant that goes on; a new one behind anything else."""
    if not found.messages or found.messages[-1].role != "assistant":
        found.messages.append(NewMessage("assistant", [], tool_calls=[]))
    return _Said(found.messages[-1])


def finished(found: Input, name: str = "input") -> list[NewMessage]:
    """Return the messages of an input, by the rules of the gateway's own API.

    Raises:
        InvalidInput: A message breaks one.
    """
    return [_checked(message, name) for message in _joined(found, name)]


def _checked(message: NewMessage, name: str) -> NewMessage:
    shape = {
        member: value
        for member in ("role", "content", "tool_calls", "tool_call_id")
        if (value := getattr(message, member)) is not None
    }
    try:
        return MessageInput.model_validate(shape).to_new()
    except ValidationError as error:
        found = error.errors(include_url=False, include_input=False, include_context=False)[0]
        place = ".".join(str(part) for part in found["loc"] if not str(part).startswith("<"))
        raise wrong(name, f"has a message that cannot be taken: {place}: {found['msg']}") from error


def _joined(found: Input, name: str) -> list[NewMessage]:
    done: list[NewMessage] = []
    for message in found.messages:
        if message.role != "assistant":
            done.append(message)
            continue
        parts, calls = message.content, message.tool_calls
        content: str | list[dict[str, Any]] = parts
        if isinstance(parts, list) and all(part["type"] == "text" for part in parts):
            content = "".join(part["text"] for part in parts)
        if not content and not calls:
            raise wrong(name, "has an empty message of the assistant.")
        done.append(NewMessage("assistant", content, tool_calls=calls or None))
    return done


def _content(given: Any, place: str) -> str | list[dict[str, Any]]:
    if isinstance(given, str):
        return given
    if not isinstance(given, list) or not given:
        raise wrong(place, "is neither a text nor a list of parts.")
    if len(given) > CONTENT_PARTS_MAX:
        raise wrong(place, f"has more than {CONTENT_PARTS_MAX} parts.")
    return text_or_parts([_part(part, f"{place}[{at}]") for at, part in enumerate(given)])


def _part(part: Any, place: str) -> dict[str, Any]:
    kind = part.get("type") if isinstance(part, dict) else None
    match kind:
        case "input_text" | "output_text" | "text" | "summary_text" | "reasoning_text":
            return {"type": "text", "text": _any_text_of(part, "text", place)}
        case "refusal":
            return {"type": "text", "text": _any_text_of(part, "refusal", place)}
        case "input_image":
            return _media("image", part, place, "image_url")
        case "input_file":
            source = "file_url" if part.get("file_url") else "file_data"
            return _media("file", part, place, source)
        case _:
            raise unsupported(f"{place}.type", f"there are no parts of the type {_short(kind)}.")


def _media(kind: str, part: Mapping[str, Any], place: str, source: str) -> dict[str, Any]:
    name = part.get("filename")
    named = {"name": name[:_TEXT_CHARS_MAX]} if isinstance(name, str) and name else {}
    file_id = part.get("file_id")
    if file_id is not None:
        if not isinstance(file_id, str) or not is_id(file_id):
            raise wrong(f"{place}.file_id", "is no id of a file.")
        return {"type": kind, "file_id": file_id}
    given = part.get(source)
    if not isinstance(given, str) or not given:
        raise wrong(f"{place}.{source}", "is missing.")
    found = data_url(given)
    if found is not None and _MEDIA_TYPE.fullmatch(found.media_type):
        return {"type": kind, "data": found.data, "media_type": found.media_type, **named}
    if not given.startswith(("https://", "http://")):
        raise wrong(f"{place}.{source}", "is neither a web address nor a data URL in Base64.")
    return {"type": kind, "url": given, "media_type": guessed_media_type(kind, given), **named}


def _list_of(item: Mapping[str, Any], name: str, place: str) -> Sequence[Any]:
    given = item.get(name) or []
    if not isinstance(given, list):
        raise wrong(f"{place}.{name}", "is not a list.")
    return given


def _any_text_of(item: Mapping[str, Any], name: str, place: str) -> str:
    text = item.get(name)
    if not isinstance(text, str):
        raise wrong(f"{place}.{name}", "is not a text.")
    return text


def _text_of(item: Mapping[str, Any], name: str, place: str) -> str:
    text = _any_text_of(item, name, place)
    if not 0 < len(text) <= _TEXT_CHARS_MAX:
        raise wrong(f"{place}.{name}", f"has not 1 to {_TEXT_CHARS_MAX} characters.")
    return text


def _short(value: object) -> str:
    return encode(value if isinstance(value, str) else None).decode()[:80]
