"""What a RunAgentInput asks for: a client sends its whole conversation with every turn.

The messages behind the last one that the session knows are new. With new messages it is a chat.
Without, the same turn is meant again: a list that ends at an answered message of the user asks for
another answer, and any other shows the run that it is about once more (`Replay`). A run id that the
session knows is a repeat of its request.
"""

from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Any, Final

from bamboo_gateway.api.limits import ITEMS_MAX
from bamboo_gateway.domain.codec import encode, object_in
from bamboo_gateway.domain.errors import InvalidInput
from bamboo_gateway.sessions.commands import Chat, NewMessage, NewSession, Regenerate
from bamboo_gateway.sessions.runs.inputs import Inputs
from bamboo_gateway.wires.ag_ui.messages import METADATA
from bamboo_gateway.wires.ag_ui.schemas import RunAgentInput, SentAnswer, SentMessage, SentTool
from bamboo_gateway.wires.client_messages import (
    WrongMessage,
    approval,
    client_tool,
    guessed_media_type,
    new_message,
    stored_id,
)

SAID_ROLES: Final = frozenset({"user", "assistant", "tool"})
"""The roles of the conversation. Reasoning and activities are only shown, and instructions are an
option of the run."""

_INSTRUCTIONS: Final = frozenset({"system", "developer"})
_MEDIA: Final = frozenset({"image", "audio", "video", "document", "binary"})


@dataclass(frozen=True, slots=True)
class Replay:
    """A run that the client sees from its begin, perhaps once more; None: the last one."""

    run_id: str | None = None


@dataclass(frozen=True, slots=True)
class Cancelled:
    """The client cancels what the agent has asked, and says nothing else."""


Turn = Chat | Regenerate | Inputs | Replay | Cancelled


def said(messages: Iterable[SentMessage]) -> list[SentMessage]:
    """Return the messages of the conversation, each id once."""
    found: dict[str, SentMessage] = {}
    for message in messages:
        if message.role in SAID_ROLES:
            found.setdefault(stored_id(message.id), message)
    return list(found.values())


def instructions(messages: Iterable[SentMessage]) -> str:
    """Return the instructions that the client brings; empty: none."""
    texts = [_text(message.content) for message in messages if message.role in _INSTRUCTIONS]
    return "\n\n".join(text for text in texts if text)


def chat_of(
    given: RunAgentInput, agent: str, options: dict[str, Any], new: list[SentMessage]
) -> Chat:
    """Return the chat with the client's new messages.

    Raises:
        InvalidInput: A message or tool cannot be read, or there are too many new messages.
    """
    if len(new) > ITEMS_MAX:
        detail = f"{len(new)} messages are new; {ITEMS_MAX} are allowed at once."
        raise InvalidInput(detail, errors=[{"loc": ["body", "messages"], "msg": detail}])
    return Chat(
        NewSession(id=given.thread_id),
        [_message(message) for message in new],
        agent,
        options,
        given.run_id,
        client_tools=client_tools(given.tools),
    )


def regenerate_of(
    given: RunAgentInput, agent: str, options: dict[str, Any], last: SentMessage
) -> Regenerate:
    """Return the wish for another answer to a message."""
    return Regenerate(
        stored_id(last.id),
        agent,
        options,
        given.run_id,
        client_tools=client_tools(given.tools),
    )


def answers_of(given: RunAgentInput, kinds: dict[str, str]) -> Inputs | Cancelled | Replay:
    """Return the answers of `resume`, or that the client cancels instead of answering.

    An approval is denied then. What is cancelled and not open any more needs no answer.

    Args:
        given: What the client sent.
        kinds: The open requests, and the kind of each.
    """
    answers: dict[str, Any] = {}
    for one in given.resume or ():
        if one.status == "resolved":
            answers[one.interrupt_id] = one.payload
        elif kinds.get(one.interrupt_id) == "approval":
            answers[one.interrupt_id] = _denial(one)
        elif one.interrupt_id in kinds:
            return Cancelled()
    if not answers:
        return Replay()
    tools = client_tools(given.tools)
    return Inputs(answers, given.run_id, client_tools=tools or None)


def _denial(one: SentAnswer) -> dict[str, Any]:
    return approval(False, one.payload if isinstance(one.payload, str) else "cancelled")


def client_tools(tools: list[SentTool] | None) -> tuple[Any, ...]:
    """Return the tools that the client runs, as a command takes them."""
    return tuple(
        client_tool(tool.name, tool.description or None, tool.parameters) for tool in tools or ()
    )


# -- messages ---------------------------------------------------------------------------------


def _message(message: SentMessage) -> NewMessage:
    name = stored_id(message.id)
    shape: dict[str, Any] = {"role": message.role, "id": name, "content": _content(message)}
    if message.role == "assistant" and message.tool_calls:
        shape["tool_calls"] = [_call(call) for call in message.tool_calls]
    if message.role == "tool":
        shape["tool_call_id"] = message.tool_call_id
    try:
        new = new_message(shape)
    except WrongMessage as error:
        place = "".join(f"{part}." for part in error.place).removesuffix(".")
        raise _refused(message, f"{place}: {error.reason}" if place else error.reason) from error
    return new if name == message.id else replace(new, metadata={METADATA: {"id": message.id}})


def _content(message: SentMessage) -> str | list[dict[str, Any]]:
    if message.content is None and message.role in ("assistant", "tool"):
        return ""
    if isinstance(message.content, str):
        return message.content
    if not isinstance(message.content, list):
        raise _refused(message, "its content is neither a text nor a list of parts")
    parts = [_part(message, part) for part in message.content]
    if message.role != "user" and all(part["type"] == "text" for part in parts):
        return "".join(part["text"] for part in parts)
    return parts


def _part(message: SentMessage, part: Any) -> dict[str, Any]:
    kind = part.get("type") if isinstance(part, dict) else None
    if kind == "text":
        return {"type": "text", "text": part.get("text")}
    if kind not in _MEDIA:
        raise _refused(message, "a part of its content is of no known type")
    source = part.get("source")
    if not isinstance(source, dict):
        # The form of earlier versions.
        source = {"mimeType": part.get("mimeType")}
        for name, place in (("url", "url"), ("data", "data"), ("id", "file")):
            if part.get(name) is not None:
                source |= {"type": place, "value": part[name]}
    value, where = source.get("value"), source.get("type")
    media_type = source.get("mimeType")
    if where not in ("url", "data", "file") or not isinstance(value, str):
        raise _refused(message, f"the {kind} part has no source")
    if not isinstance(media_type, str) or not media_type:
        media_type = guessed_media_type(kind, value if where == "url" else None)
    is_image = kind == "image" or (kind == "binary" and media_type.startswith("image/"))
    shape: dict[str, Any] = {"type": "image" if is_image else "file"}
    if where == "file":
        return shape | {"file_id": value}
    return shape | {where: value, "media_type": media_type}


def _call(call: dict[str, Any]) -> dict[str, Any]:
    function = call.get("function")
    function = function if isinstance(function, dict) else {}
    text = function.get("arguments")
    arguments = object_in(text) if isinstance(text, str) else None
    return {
        "id": call.get("id"),
        "name": function.get("name"),
        "arguments": {} if arguments is None else arguments,
    }


def _text(content: Any) -> str:
    if isinstance(content, str):
        return content
    return "" if content is None else encode(content).decode()


def _refused(message: SentMessage, problem: str) -> InvalidInput:
    detail = f"The message {message.id[:128]!r} cannot be read: {problem}."
    return InvalidInput(detail, errors=[{"loc": ["body", "messages"], "msg": detail}])
