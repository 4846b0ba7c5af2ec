"""Markdown for people: messages with their authors and times, and tool calls with their results.

Only this module makes the structure of the document: a heading of level 1, and headings of level 2
for the summary and for each message. All text of sessions goes through `markdown_text`.
"""

from collections import deque
from collections.abc import Iterator, Sequence
from typing import Any, ClassVar

from typing_extensions import override

from bamboo_gateway.domain.codec import encode, encode_pretty
from bamboo_gateway.domain.limits import MiB
from bamboo_gateway.exporters.base import DocumentHead, Exporter, JsonObject
from bamboo_gateway.exporters.markdown_text import fenced, inline, quoted

_ROWS = (
    ("Session", "id"),
    ("Owner", "user_id"),
    ("Type", "session_type"),
    ("Working directory", "working_dir"),
    ("Created", "created_at"),
    ("Updated", "updated_at"),
    ("Messages", "message_count"),
)


HELD_BYTES_MAX = 4 * MiB
"""How many bytes of results are held back because an earlier call of their message has none yet. In
the usual order none are. Results beyond this are written after the message, with their ids."""


class MarkdownExporter(Exporter):
    """Writes CommonMark with GitHub's tables. Each result follows its call."""

    format: ClassVar[str] = "markdown"
    media_type: ClassVar[str] = "text/markdown; charset=utf-8"
    suffix: ClassVar[str] = ".md"

    def __init__(self) -> None:
        # The calls of the last message that are not written yet, in order. The first of them waits
        # for its result or for the next message. Results of the others that came first are kept.
        self._calls: deque[JsonObject] = deque()
        self._results: dict[str, JsonObject] = {}
        self._held_bytes = 0
        self._with_metadata = True

    @override
    def begin(self, head: DocumentHead) -> bytes:
        session = head.session
        self._with_metadata = head.include_metadata
        title = inline(session.get("title") or "") or f"Session {inline(str(session.get('id')))}"
        blocks = [[f"# {title}"]]
        if head.include_metadata:
            blocks.append(list(_table(head)))
            if session.get("extension_data"):
                blocks += _folded("Extension data", _json_block(session["extension_data"]))
        if head.summary is not None:
            blocks += [["## Summary"], quoted(str(head.summary.get("summary") or ""))]
        return _joined(blocks)

    @override
    def add(self, messages: Sequence[JsonObject]) -> bytes:
        blocks: list[list[str]] = []
        for message in messages:
            if self._take_result(message):
                blocks += self._answered()
            else:
                blocks += self._unanswered()
                blocks += self._message(message)
        return _joined(blocks)

    @override
    def end(self) -> bytes:
        return _joined(self._unanswered())

    def _take_result(self, message: JsonObject) -> bool:
        """Keep a result of a call that is not written yet; return whether the message is one."""
        call_id: Any = message.get("tool_call_id")
        if message.get("role") != "tool" or call_id in self._results:
            return False
        if all(call["id"] != call_id for call in self._calls):
            return False
        if call_id != self._calls[0]["id"]:
            self._held_bytes += len(encode(message))
            if self._held_bytes > HELD_BYTES_MAX:
                return False
        self._results[call_id] = message
        return True

    def _answered(self) -> list[list[str]]:
        """Return the first unwritten calls, as far as their results have come."""
        blocks: list[list[str]] = []
        while self._calls and self._calls[0]["id"] in self._results:
            blocks += self._next_call()
        return blocks

    def _unanswered(self) -> list[list[str]]:
        """Return all unwritten calls, with the results that have come."""
        blocks: list[list[str]] = []
        while self._calls:
            blocks += self._next_call()
        return blocks

    def _next_call(self) -> list[list[str]]:
        call = self._calls.popleft()
        result = self._results.get(call["id"])
        if result is None:
            return _call(call)
        if all(later["id"] != call["id"] for later in self._calls):
            del self._results[call["id"]]
        return [*_call(call), *_result(result, "Result")]

    def _message(self, message: JsonObject) -> list[list[str]]:
        heading = [str(message.get("role")).capitalize(), str(message.get("created_at") or "")]
        if message.get("status") == "incomplete":
            heading.append("incomplete")
        blocks = [["## " + " · ".join(inline(text) for text in heading if text)]]
        if self._with_metadata:
            blocks += _about(message)
        if message.get("role") == "tool":
            label = f"Result of {inline(str(message.get('tool_call_id')))}"
            return [*blocks, *_result(message, label)]
        self._calls.extend(message.get("tool_calls") or ())
        self._results, self._held_bytes = {}, 0
        return blocks + _content(message.get("content"))


def _table(head: DocumentHead) -> Iterator[str]:
    session = head.session
    rows = [(label, session.get(name)) for label, name in _ROWS]
    rows.append(("Tokens", (session.get("usage") or {}).get("total_tokens")))
    rows.append(("Forked from", (session.get("parent") or {}).get("session_id")))
    rows += (session.get("metadata") or {}).items()
    yield "| | |"
    yield "|---|---|"
    for label, value in rows:
        if value is not None:
            text = value if isinstance(value, str) else encode(value).decode()
            yield f"| {inline(label)} | {inline(text)} |"


def _about(message: JsonObject) -> list[list[str]]:
    about = [inline(str(message["model"]))] if message.get("model") else []
    if message.get("usage"):
        about.append(_tokens(message["usage"]))
    blocks = [[f"*{' · '.join(about)}*"]] if about else []
    if message.get("metadata"):
        blocks += _folded("Metadata", _json_block(message["metadata"]))
    return blocks


def _tokens(usage: JsonObject) -> str:
    parts = (("cached_tokens", "cached"), ("reasoning_tokens", "reasoning"))
    named = [f"{count} {word}" for name, word in parts if (count := usage.get(name))]
    details = f" ({', '.join(named)})" if named else ""
    return f"{usage.get('total_tokens', 0)} tokens{details}"


def _content(content: Any) -> list[list[str]]:
    if isinstance(content, str):
        return [quoted(content)] if content else []
    return [block for part in content or () for block in _part(part)]


def _part(part: JsonObject) -> list[list[str]]:
    match part.get("type"):
        case "text":
            return _content(str(part.get("text")))
        case "thinking":
            return _folded("Thinking", quoted(str(part.get("text"))))
        case "image" | "file" as kind:
            return [[_media(str(kind), part)]]
        case _:
            return [_json_block(part)]


def _media(kind: str, part: JsonObject) -> str:
    # Never as an image: opening the document must not fetch anything.
    details = [part.get("name"), part.get("media_type"), part.get("url")]
    if part.get("data"):
        details.append(f"{len(part['data'])} characters of Base64, in the JSON export")
    return f"*{kind.capitalize()}:* " + ", ".join(inline(str(text)) for text in details if text)


def _call(call: JsonObject) -> list[list[str]]:
    arguments = call.get("arguments")
    shown = fenced(arguments) if isinstance(arguments, str) else _json_block(arguments)
    return [[f"**Tool call:** {inline(str(call.get('name')))}"], shown]


def _result(message: JsonObject, label: str) -> list[list[str]]:
    content = message.get("content")
    blocks = [[f"**{label}:**"]]
    if isinstance(content, str):
        # Output is not meant to be Markdown, so it is shown literally.
        return [*blocks, fenced(content)]
    for part in content or ():
        is_text = part.get("type") == "text"
        blocks += [fenced(str(part.get("text")))] if is_text else _part(part)
    return blocks


def _folded(label: str, lines: list[str]) -> list[list[str]]:
    return [["<details>", f"<summary>{label}</summary>"], lines, ["</details>"]]


def _json_block(value: Any) -> list[str]:
    return fenced(encode_pretty(value).decode(), "json")


def _joined(blocks: Sequence[Sequence[str]]) -> bytes:
    # An empty line after each block. Without it a quote would continue into the next paragraph.
    return "".join("\n".join(block) + "\n\n" for block in blocks).encode()
