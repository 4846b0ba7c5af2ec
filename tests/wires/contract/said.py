"""What was said in a conversation, in a form in which clients of all protocols can be compared.

A list of tuples, in order:

    ("user", text, ((media_type, data), …))      what a person said, with its files
    ("thinking", text)    ("text", text)         what the assistant thought and said
    ("call", id, name, arguments, result)        a tool call with its result's text, or None

Each protocol cuts an answer into messages in its own way, so the cuts do not show: neighbours of
one kind are one, and a result stands at its call.
"""

import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

Said = list[tuple[Any, ...]]


NO_RESULT = object()


class Telling:
    """Collects what was said."""

    def __init__(self) -> None:
        self.said: Said = []
        self._calls: dict[str, int] = {}

    def user(self, text: str, files: Sequence[tuple[str, str]] = ()) -> None:
        self.said.append(("user", text, tuple(files)))

    def words(self, kind: str, text: str) -> None:
        """Add text or thinking of the assistant."""
        if not text:
            return
        if self.said and self.said[-1][0] == kind:
            text = self.said.pop()[1] + text
        self.said.append((kind, text))

    def call(self, call_id: str, name: str, arguments: Any, result: Any = NO_RESULT) -> None:
        self._calls[call_id] = len(self.said)
        self.said.append(("call", call_id, name, arguments, as_text(result)))

    def has(self, call_id: str) -> bool:
        """Return whether a call was said."""
        return call_id in self._calls

    def result(self, call_id: str, result: Any) -> None:
        at = self._calls[call_id]
        self.said[at] = (*self.said[at][:4], as_text(result))


def as_text(result: Any) -> str | None:
    """Return a result as `/messages` shows it; None where there is none."""
    if result is NO_RESULT:
        return None
    if isinstance(result, str):
        return result
    return json.dumps(result, ensure_ascii=False, separators=(",", ":"))


def said_in(messages: Iterable[Mapping[str, Any]], content_of: Callable[[str], str] = str) -> Said:
    """Return what the messages of the native API say.

    Args:
        messages: The messages, in order.
        content_of: Returns the content of a stored file, as base64.
    """
    telling = Telling()
    for message in messages:
        parts = parts_of(message["content"])
        if message["role"] == "user":
            words = "".join(part["text"] for part in parts if part["type"] == "text")
            files = [
                (part["media_type"], file_of(part, content_of))
                for part in parts
                if part["type"] in {"image", "file"}
            ]
            telling.user(words, files)
        elif message["role"] == "tool":
            telling.result(message["tool_call_id"], "".join(part["text"] for part in parts))
        else:
            for part in parts:
                telling.words(part["type"], part["text"])
            for one in message.get("tool_calls") or ():
                telling.call(one["id"], one["name"], one["arguments"])
    return telling.said


def parts_of(content: str | list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return the content of a native message as parts."""
    return [{"type": "text", "text": content}] if isinstance(content, str) else content


def file_of(part: Mapping[str, Any], content_of: Callable[[str], str]) -> str:
    """Return the content of a file as base64, or its address."""
    if file_id := part.get("file_id"):
        return content_of(file_id)
    url = str(part.get("url") or "")
    return url.partition(",")[2] if url.startswith("data:") else str(part.get("data") or url)
