"""Read sessions of goose: `goose session export --format json`, and its older `.jsonl` files.

The export is one object with the session's members and `conversation`, a list of messages. The
older file has the session (`working_dir`, `description`) in its first line and a message in each
other line. A message is `{role, created, content: […]}`. Calls and results are parts of the
content, and results are in messages of the user.

Messages that goose hides from people or from the model are kept; `metadata` keeps the flags
(`userVisible`, `agentVisible`).
"""

from typing import Any, ClassVar

from typing_extensions import override

from bamboo_gateway.domain.codec import encode
from bamboo_gateway.exporters.foreign.base import (
    ForeignReader,
    Record,
    Source,
    a_text,
    an_object,
    objects,
)
from bamboo_gateway.exporters.foreign.conversation import Conversation
from bamboo_gateway.exporters.foreign.values import Call, Part, text_part
from bamboo_gateway.exporters.imported import ImportedSession, Notes, NotUnderstood, quoted_value

_NOT_SAID = frozenset(
    [
        "actionRequired", "contextLengthExceeded", "conversationCompacted", "redactedThinking",
        "summarizationRequested", "systemNotification", "toolConfirmationRequest",
    ]
)  # fmt: skip
_SESSION_TYPES = {"scheduled": "scheduled", "sub_agent": "sub_agent"}


class GooseReader(ForeignReader):
    """Reads sessions of goose."""

    format: ClassVar[str] = "goose"
    title: ClassVar[str] = "a session export of goose (JSON or JSONL)"

    @override
    def recognizes(self, source: Source) -> bool:
        return self._parts(source) is not None

    @override
    def read(self, source: Source, notes: Notes, now_ms: int) -> list[ImportedSession]:
        found = self._parts(source)
        if found is None:
            raise NotUnderstood("it has no `conversation` and no messages of goose in its lines")
        head, messages = found
        if not isinstance(source.value, dict):
            for number in source.bad_lines:
                notes.add(f"line {number}", "not a JSON object; left out")
        if head.get("extension_data"):
            notes.add("session", "the data of goose's own extensions is left out")
        conversation = Conversation(self.format, head.get("id"), notes)
        conversation.title = a_text(head.get("name")) or a_text(head.get("description"))
        for place, message in messages:
            _say(conversation, place, message, notes)
        session = conversation.finish(
            now_ms,
            created=head.get("created_at"),
            updated=head.get("updated_at"),
            working_dir=head.get("working_dir"),
            session_type=_SESSION_TYPES.get(a_text(head.get("session_type")), "user"),
            kept={"schedule_id": head.get("schedule_id")},
        )
        return [session] if session else []

    def _parts(self, source: Source) -> tuple[Record, list[tuple[str, Record]]] | None:
        """Return the session's members and its messages with places; None if it is no session."""
        value = source.value
        if isinstance(value, dict):
            messages = value.get("conversation", value.get("messages"))
            if isinstance(messages, list) and "working_dir" in value:
                return value, [
                    (f"message {number}", message)
                    for number, message in enumerate(objects(messages), 1)
                ]
        lines = source.lines
        if lines and "working_dir" in lines[0][1] and "message_count" in lines[0][1]:
            head, lines = lines[0][1], lines[1:]
        elif lines and _is_message(lines[0][1]):
            head = {}
        else:
            return None
        return head, [(f"line {number}", record) for number, record in lines]


def _is_message(record: Record) -> bool:
    return {"role", "created", "content"} <= record.keys() and isinstance(record["content"], list)


def _say(conversation: Conversation, place: str, message: Record, notes: Notes) -> None:
    role, at = message.get("role"), message.get("created")
    if role not in ("user", "assistant"):
        notes.add(place, f"the role {quoted_value(role)} is not known; left out")
        return
    visible = an_object(message.get("metadata"))
    extra = {
        name: False for name in ("userVisible", "agentVisible") if visible.get(name) is False
    } | ({"injected": True} if visible.get("userVisible") is False else {})
    parts: list[Part] = []
    calls: list[Call] = []
    for item in objects(message.get("content")):
        kind = item.get("type")
        if kind == "toolResponse":
            result, failed = _result(place, item, notes)
            flags = {"is_error": True} if failed else None
            message_id = message.get("id")
            conversation.result(
                place, item.get("id"), result, message_id=message_id, at=at, extra=flags
            )
        elif kind in ("toolRequest", "frontendToolRequest"):
            calls += _call(place, item, notes)
        else:
            parts += _part(place, item, notes)
    conversation.say(
        place, str(role), parts, calls=calls, message_id=message.get("id"), at=at, extra=extra
    )


def _call(place: str, item: Record, notes: Notes) -> list[Call]:
    call = an_object(item.get("toolCall"))
    value = an_object(call.get("value"))
    if call.get("status") != "success":
        notes.add(place, f"a tool call that was not valid ({quoted_value(call.get('error'))})")
        return []
    return [{"id": item.get("id"), "name": value.get("name"), "arguments": value.get("arguments")}]


def _result(place: str, item: Record, notes: Notes) -> tuple[list[Part], bool]:
    result = an_object(item.get("toolResult"))
    if result.get("status") != "success":
        return [text_part(result.get("error"))], True
    value = result.get("value")  # a list until 2025, an object since
    content = value if isinstance(value, list) else an_object(value).get("content")
    parts = [part for piece in objects(content) for part in _part(place, piece, notes)]
    return parts, an_object(value).get("isError") is True


def _part(place: str, item: Record, notes: Notes) -> list[Part]:
    match item.get("type"):
        case "text":
            return [text_part(item.get("text"))]
        case "thinking" | "reasoning":
            return [text_part(item.get("thinking") or item.get("text"), "thinking")]
        case "image" if a_text(item.get("data")):
            media_type = a_text(item.get("mimeType")) or "image/png"
            return [{"type": "image", "data": item["data"], "media_type": media_type}]
        case "resource":
            return [_resource(an_object(item.get("resource")))]
        case str() as kind if kind in _NOT_SAID:
            notes.count(place, f"`{kind}` says nothing in the conversation")
        case kind:
            notes.add(place, f"content {quoted_value(kind)} is not known; left out")
    return []


def _resource(resource: Record) -> Part:
    if a_text(resource.get("text")):
        return text_part(resource["text"])
    if a_text(resource.get("blob")):
        media_type = a_text(resource.get("mimeType")) or "application/octet-stream"
        return {"type": "file", "data": resource["blob"], "media_type": media_type}
    return text_part(encode(_plain(resource)).decode())


def _plain(resource: Record) -> dict[str, Any]:
    return {name: value for name, value in resource.items() if isinstance(value, str)}
