"""What clients send, and the gateway's messages that it becomes.

Clients send the whole history with each request, and members of their own. What the gateway does
not need is neither read nor refused.
"""

import re
from collections.abc import Mapping
from typing import Annotated, Any, Final, Literal

from pydantic import BaseModel, ConfigDict, Field

from bamboo_gateway.api.limits import ITEMS_MAX
from bamboo_gateway.api.schemas.fields import Id, Name, Options
from bamboo_gateway.domain.codec import encode
from bamboo_gateway.domain.errors import InvalidInput
from bamboo_gateway.sessions.commands import NewMessage
from bamboo_gateway.wires.ai_sdk import parts
from bamboo_gateway.wires.client_messages import (
    WrongMessage,
    approval,
    client_tool,
    data_url,
    new_message,
    stored_id,
    text_or_parts,
)

MESSAGES_MAX: Final = 10_000
"""The most UI messages in a request: clients send all that they have. The body is bounded too."""

_FILE_URL: Final = re.compile(r"(?:https?://[^/?#]+)?(?:/[^?#]*)?/api/v1/files/([A-Za-z0-9._-]+)")
_TOOL: Final = "tool-"
_DYNAMIC: Final = "dynamic-tool"


class _Open(BaseModel):
    """The base of what the protocol's clients send: unknown members say nothing."""

    model_config = ConfigDict(extra="ignore", strict=True)


class UiMessage(_Open):
    """A message of the AI SDK (`UIMessage`)."""

    id: Annotated[str, Field(max_length=1000)] = ""
    role: Literal["system", "user", "assistant"]
    parts: Annotated[list[dict[str, Any]], Field(max_length=ITEMS_MAX)]
    metadata: Any = None

    def calls(self) -> list[dict[str, Any]]:
        """Return the parts of tool calls."""
        return [
            part
            for part in self.parts
            if isinstance(part.get("toolCallId"), str)
            and (part.get("type") == _DYNAMIC or str(part.get("type")).startswith(_TOOL))
        ]


class ChatRequest(_Open):
    """A request of `DefaultChatTransport`, or of one that sends the last message alone."""

    id: Id = Field(description="The chat: the session, which is created when there is none.")
    messages: Annotated[list[UiMessage], Field(max_length=MESSAGES_MAX)] | None = Field(
        None, description="The client's messages. Those that the session has already count nothing."
    )
    message: UiMessage | None = Field(
        None, description="In the place of `messages`: the last one alone."
    )
    trigger: Literal["submit-message", "regenerate-message"] = "submit-message"
    messageId: str | None = Field(  # noqa: N815  the protocol's name
        None,
        description="With `submit-message` the user's message whose place the last one takes, or "
        "the assistant's message with results of tools or approvals. With `regenerate-message` "
        "the message that is answered again; absent: the last.",
    )
    agent: Name | None = Field(None, description="Which configured agent answers.")
    options: Options = Field(
        default_factory=dict,
        description="Options for the agent: those that its `allow` names, within its bounds.",
    )
    tools: list[dict[str, Any]] | dict[str, dict[str, Any]] | None = Field(
        None,
        description="Tools that the client runs: a list of `{name, description, parameters}`, or "
        "an object by name. `inputSchema` is read as `parameters`.",
    )

    def history(self) -> list[UiMessage]:
        """Return the messages; the last one is what the request is about.

        Raises:
            InvalidInput: There is none.
        """
        given = [self.message] if self.message is not None else list(self.messages or ())
        if not given and self.trigger == "submit-message":
            raise _invalid("`messages` or `message` is missing.", "messages")
        return given

    def client_tools(self) -> tuple[Any, ...]:
        """Return the tools that the client brings, as a command takes them."""
        given = self.tools
        if isinstance(given, dict):
            given = [{"name": name, **tool} for name, tool in given.items()]
        tools: list[Any] = []
        for tool in given or ():
            schema = tool.get("parameters", tool.get("inputSchema"))
            # `jsonSchema` is the member of a schema object of the AI SDK.
            if isinstance(schema, dict) and isinstance(schema.get("jsonSchema"), dict):
                schema = schema["jsonSchema"]
            tools.append(client_tool(tool.get("name"), tool.get("description"), schema or None))
        return tuple(tools)


def instructions_of(messages: list[UiMessage]) -> str | None:
    """Return the text of the system messages that a client brings; None: there are none."""
    texts = [
        str(part.get("text", ""))
        for message in messages
        if message.role == "system"
        for part in message.parts
        if part.get("type") == "text"
    ]
    return "\n\n".join(texts) if texts else None


def native_id(ui_id: str) -> str | None:
    """Return the id that the gateway gives to a message with this id; None: it makes one.

    Clients may make ids of any form.
    """
    return stored_id(ui_id) if ui_id else None


def users_message(message: UiMessage, *, is_edit: bool = False) -> NewMessage:
    """Return a user's message as a chat takes it.

    Args:
        message: The UI message.
        is_edit: It takes the place of the message with its id, so it gets another one, and is known
            to clients by its own.

    Raises:
        InvalidInput: It has nothing to say, or a part of it is not allowed.
    """
    message_id = None if is_edit else native_id(message.id)
    content = [given for part in message.parts if (given := _content_part(part)) is not None]
    if not content:
        raise _invalid("The user's message has no text and no file.", "parts")
    metadata: dict[str, Any] = {}
    if isinstance(message.metadata, dict):
        metadata |= {k: v for k, v in message.metadata.items() if not k.startswith("ai_sdk_")}
    elif message.metadata is not None:
        raise _invalid("`metadata` must be an object.", "metadata")
    if message.id and message_id != message.id:
        metadata[parts.ALIAS] = message.id
    shape: dict[str, Any] = {
        "role": "user",
        "content": text_or_parts(content),
        "metadata": metadata,
    }
    if message_id is not None:
        shape["id"] = message_id
    return _checked(shape)


def results_of(message: UiMessage, call_ids: list[str]) -> list[NewMessage]:
    """Return the results that a message of the assistant has for these calls."""
    found: dict[str, NewMessage] = {}
    for part in message.calls():
        call_id = part["toolCallId"]
        if call_id in call_ids and (given := _result(part)) is not None:
            found[call_id] = given
    return [found[call_id] for call_id in call_ids if call_id in found]


def approvals_of(message: UiMessage) -> dict[str, dict[str, Any]]:
    """Return the answers to approvals in a message of the assistant, by the id of the request."""
    found: dict[str, dict[str, Any]] = {}
    for part in message.calls():
        given = part.get("approval")
        if isinstance(given, dict) and isinstance(given.get("approved"), bool):
            found[str(given.get("id"))] = approval(given["approved"], given.get("reason"))
    return found


def imported(messages: list[UiMessage]) -> list[NewMessage]:
    """Return the history that a client brings to a new session, in the gateway's messages.

    Raises:
        InvalidInput: A part or an id is not allowed, or there are too many messages.
    """
    said: list[NewMessage] = []
    for message in messages:
        check_count(len(said))
        if message.role == "user":
            said.append(users_message(message))
        elif message.role == "assistant":
            said += _assistants(message)
    check_count(len(said))
    return said


def check_count(count: int) -> None:
    """Check how many messages a request adds: as many as a native one may have.

    Raises:
        InvalidInput: There are too many.
    """
    if count > ITEMS_MAX:
        raise _invalid(
            f"More than {ITEMS_MAX} messages are new; so many are allowed at once.", "messages"
        )


def _assistants(message: UiMessage) -> list[NewMessage]:
    """Return the messages of a UI message of the assistant: one for each step, and the results."""
    said: list[NewMessage] = []
    name = native_id(message.id)
    for step in _steps(message):
        content: list[dict[str, Any]] = []
        calls: list[dict[str, Any]] = []
        results: list[NewMessage] = []
        for part in step:
            kind = part.get("type")
            if kind in {"text", "reasoning"} and part.get("text"):
                kind = "text" if kind == "text" else "thinking"
                content.append({"type": kind, "text": part["text"]})
            elif isinstance(part.get("toolCallId"), str):
                given = _result(part)
                if given is None:
                    continue  # nobody answers it any more
                tool = part.get("toolName") or str(kind).removeprefix(_TOOL)
                arguments = part.get("input")
                arguments = arguments if isinstance(arguments, dict) else {}
                calls.append({"id": part["toolCallId"], "name": tool, "arguments": arguments})
                results.append(given)
        if not content and not calls:
            continue
        shape: dict[str, Any] = {"role": "assistant", "content": text_or_parts(content) or ""}
        if calls:
            shape["tool_calls"] = calls
        if name is not None:
            shape["id"], name = name, None
        said += [_checked(shape), *results]
    return said


def _steps(message: UiMessage) -> list[list[dict[str, Any]]]:
    steps: list[list[dict[str, Any]]] = [[]]
    for part in message.parts:
        if part.get("type") == "step-start":
            steps.append([])
        else:
            steps[-1].append(part)
    return steps


def _result(part: Mapping[str, Any]) -> NewMessage | None:
    state, call_id = part.get("state"), str(part["toolCallId"])
    if state == "output-error":
        text = part.get("errorText")
        words = text if isinstance(text, str) and text else "The call failed."
        return _checked(_tool(call_id, words, {parts.ERROR_OUTPUT: True}))
    if state != "output-available":
        return None
    output = part.get("output")
    if isinstance(output, str):
        is_json = parts.is_structured(output)
        return _checked(_tool(call_id, output, {parts.JSON_OUTPUT: False} if is_json else {}))
    return _checked(_tool(call_id, encode(output).decode(), {parts.JSON_OUTPUT: True}))


def _tool(call_id: str, content: str, metadata: dict[str, Any]) -> dict[str, Any]:
    return {"role": "tool", "content": content, "tool_call_id": call_id, "metadata": metadata}


def _content_part(part: Mapping[str, Any]) -> dict[str, Any] | None:
    """Return a part of a user's message; None for one that says nothing to an agent."""
    kind = part.get("type")
    if kind == "text":
        return {"type": "text", "text": part.get("text")}
    if kind != "file":
        return None
    url, media_type = part.get("url"), part.get("mediaType")
    if not isinstance(url, str) or not isinstance(media_type, str):
        raise _invalid("A part `file` needs `url` and `mediaType`.", "parts")
    shown = {"type": "image" if media_type.startswith("image/") else "file"}
    if (stored := _FILE_URL.fullmatch(url)) is not None:
        return shown | {"file_id": stored[1]}
    shown["media_type"] = media_type
    if isinstance(part.get("filename"), str) and part["filename"]:
        shown["name"] = part["filename"]
    if (found := data_url(url)) is not None:
        return shown | {"data": found.data}
    return shown | {"url": url}


def _checked(shape: dict[str, Any]) -> NewMessage:
    """Return a message by the rules of the gateway's own API.

    Raises:
        InvalidInput: It breaks one; `errors` has the place.
    """
    try:
        return new_message(shape)
    except WrongMessage as error:
        raise InvalidInput(
            f"A message cannot be taken: {error.reason}.",
            errors=[{"loc": ["body", "messages", *error.place], "msg": error.reason}],
        ) from error


def _invalid(detail: str, member: str) -> InvalidInput:
    return InvalidInput(detail, errors=[{"loc": ["body", member], "msg": detail}])
