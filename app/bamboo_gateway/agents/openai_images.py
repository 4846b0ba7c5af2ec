"""Pictures of the gateway's own for a model server: read, and written as data URLs.

Servers cannot fetch from a gateway that asks for a credential, so the request has the content. The
latest pictures come first; when they are too large together, earlier ones are named in words.
"""

from base64 import b64encode
from collections.abc import Mapping, Sequence
from contextlib import aclosing
from typing import Final

from anyio import to_thread

from bamboo_gateway.agents.base import Turn
from bamboo_gateway.agents.turn_files import TurnFile
from bamboo_gateway.domain.errors import BambooError
from bamboo_gateway.domain.limits import MiB
from bamboo_gateway.domain.messages import Message

IMAGES_BYTES_MAX: Final = 20 * MiB
"""The pictures of one request together. It is in memory as a whole, in Base64 and encoded."""

Images = Mapping[str, str]
"""Data URLs, by file id."""


async def images_of(turn: Turn, image_bytes_max: int) -> Images:
    """Return the pictures that the messages name and that fit into a request.

    A picture that is gone or damaged is left out: a session whose history is refused is dead.
    """
    found: dict[str, str] = {}
    left = IMAGES_BYTES_MAX
    for file_id, size in _named(turn.messages):
        if size > min(image_bytes_max, left) or file_id in found:
            continue
        try:
            file = await turn.open_file(file_id)
            url = await _data_url(file)
        except BambooError:
            continue
        found[file_id] = url
        left -= size
    return found


def _named(messages: Sequence[Message]) -> list[tuple[str, int]]:
    return [
        (part["file_id"], part.get("bytes", 0))
        for message in reversed(messages)
        if message.role == "user" and isinstance(message.content, list)
        for part in message.content
        if part.get("type") == "image" and isinstance(part.get("file_id"), str)
    ]


async def _data_url(file: TurnFile) -> str:
    async with aclosing(file.pieces()) as pieces:
        content = [piece async for piece in pieces]
    encoded = await to_thread.run_sync(lambda: b64encode(b"".join(content)).decode())
    return f"data:{file.media_type};base64,{encoded}"
