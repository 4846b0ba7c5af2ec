"""What clients of other protocols send, in the gateway's words: ids, messages, files, tools.

Each protocol names these differently, and means the same. Its own modules read its members; the
gateway's values are made here, so that all protocols accept, refuse and store the same.
"""

import mimetypes
import re
from collections.abc import Mapping
from hashlib import sha256
from typing import Any, Final, NamedTuple

from pydantic import ValidationError

from bamboo_gateway.api.schemas.messages import MessageInput
from bamboo_gateway.domain.ids import is_id
from bamboo_gateway.sessions.commands import NewMessage

# Made at the import: it reads the machine's files then, although its answers are Python's own list.
_MEDIA_TYPES: Final = mimetypes.MimeTypes()
_DATA_URL: Final = re.compile(r"data:([^;,]*)(?:;[^,;]*)*;base64,", re.IGNORECASE)


class WrongMessage(ValueError):
    """A message breaks a rule of the gateway's own API.

    Attributes:
        place: The member that is wrong, as the path to it.
        reason: What is wrong with it.
    """

    def __init__(self, place: tuple[str | int, ...], reason: str) -> None:
        super().__init__(reason)
        self.place = place
        self.reason = reason


class DataUrl(NamedTuple):
    """What a data URL has: its media type, which may be empty, and its content as Base64."""

    media_type: str
    data: str


def stored_id(client_id: str) -> str:
    """Return the id that a client's message has in the session: its own, if that can be one."""
    if is_id(client_id):
        return client_id
    return "msg_" + sha256(client_id.encode("utf-8", "surrogatepass")).hexdigest()[:32]


def new_message(shape: Mapping[str, Any]) -> NewMessage:
    """Return a message as a command takes it.

    Args:
        shape: The members of `MessageInput`.

    Raises:
        WrongMessage: It is none; the first problem counts.
    """
    try:
        return MessageInput.model_validate(shape).to_new()
    except ValidationError as error:
        found = error.errors(include_url=False, include_input=False, include_context=False)[0]
        # Tags of unions are no members.
        place = tuple(part for part in found["loc"] if not str(part).startswith("<"))
        raise WrongMessage(place, found["msg"]) from error


def text_or_parts(parts: list[dict[str, Any]]) -> str | list[dict[str, Any]]:
    """Return the content of a message: a single text without the list around it."""
    if len(parts) == 1 and parts[0]["type"] == "text" and parts[0]["text"]:
        text: str = parts[0]["text"]
        return text
    return parts


def data_url(url: str) -> DataUrl | None:
    """Return what a data URL in Base64 has; None for any other address."""
    found = _DATA_URL.match(url)
    return DataUrl(found[1].lower(), url[found.end() :]) if found is not None else None


def guessed_media_type(kind: str, url: str | None = None) -> str:
    """Return the media type of an image or file whose client does not say it."""
    guessed = _MEDIA_TYPES.guess_type(url)[0] if url is not None else None
    return guessed or ("image/*" if kind == "image" else "application/octet-stream")


def client_tool(name: object, description: object, parameters: object) -> Any:
    """Return a tool that the client runs, for `Chat.client_tools`, which checks it.

    Args:
        name: Its name.
        description: Its description; None: it has none.
        parameters: The JSON Schema of its arguments; None: it takes none.
    """
    no_parameters = {"type": "object", "properties": {}}
    tool = {"name": name, "parameters": no_parameters if parameters is None else parameters}
    return tool if description is None else {**tool, "description": description}


def approval(is_approved: bool, reason: object) -> dict[str, Any]:
    """Return the answer to an approval; a reason that is no text is left out."""
    answer: dict[str, Any] = {"approved": is_approved}
    return {**answer, "reason": reason} if isinstance(reason, str) else answer
