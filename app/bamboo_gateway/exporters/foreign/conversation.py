"""Convert a foreign conversation into the shapes of the API.

The result is always valid, whatever the reader passes in: ids are valid and unique, every message
has a time, and a call has at most one result, after it. Missing ids and times are derived from the
document, so that reading it again makes the same ids, and a merge recognises them.
"""

from collections.abc import Iterable
from hashlib import sha256
from typing import Any

from bamboo_gateway.domain.clock import format_ms, parse_ms
from bamboo_gateway.domain.codec import encode
from bamboo_gateway.domain.messages import Message
from bamboo_gateway.exporters.foreign.values import (
    Call,
    Part,
    arguments_of,
    is_id,
    is_name,
    is_path,
    time_of,
)
from bamboo_gateway.exporters.imported import (
    TITLE_CHARS_MAX,
    ImportedSession,
    Notes,
    is_deep,
    quoted_value,
)

TITLE_MADE_CHARS_MAX = 80
"""The longest title made of the first words: it has to fit into one line of a list."""


class Conversation:
    """Builds one session from a foreign conversation.

    Args:
        source: The name of the format. `metadata` keeps, under this name, what a Session or Message
            has no member for.
        session_id: The id of the conversation in the document.
        notes: Collects what had to be left out.
    """

    def __init__(self, source: str, session_id: Any, notes: Notes) -> None:
        self.source = source
        self.session_id = session_id if isinstance(session_id, str) else ""
        self.title: str | None = None
        self.messages: list[dict[str, Any]] = []
        self._notes = notes
        self._ids: set[str] = set()
        self._waiting: set[str] = set()
        self._group: str | None = None
        self._counted: set[str | None] = set()
        self._last_ms: int | None = None

    def say(
        self,
        place: str,
        role: str,
        parts: Iterable[Part],
        *,
        calls: Iterable[Call] = (),
        message_id: Any = None,
        at: Any = None,
        model: Any = None,
        usage: dict[str, int] | None = None,
        extra: dict[str, Any] | None = None,
        group: str | None = None,
    ) -> dict[str, Any] | None:
        """Add a message, or continue the last one; return None if it has no content.

        Args:
            place: The place in the document, for notes.
            role: `system`, `user` or `assistant`.
            parts: The content, as parts of the API.
            calls: The tool calls.
            message_id: The id in the document.
            at: The time, as RFC 3339 or in (milli)seconds since 1970.
            model: The model that wrote it.
            usage: The usage of the message.
            extra: Further values to keep in `metadata`.
            group: Consecutive messages of the same group become one message. The usage of a group
                counts once, even if other messages are in between.
        """
        parts = [part for part in parts if part.get("text", True)]
        calls = self._known_calls(place, calls)
        if not parts and not calls:
            return None
        if group is not None and group == self._group:
            message = self.messages[-1]
            message["content"] += parts
            message["tool_calls"] += calls
            if usage is not None and "usage" in message:
                message["usage"] = usage
        else:
            message = self._new(place, role, parts, message_id, at, extra)
            message["tool_calls"] = calls
            if usage is not None and group not in self._counted:
                message["usage"] = usage
                self._counted |= {group} - {None}
            if is_name(model):
                message["model"] = model
        self._group = group
        self._waiting |= {call["id"] for call in calls}
        return message

    def result(
        self,
        place: str,
        call_id: Any,
        parts: Iterable[Part],
        *,
        message_id: Any = None,
        at: Any = None,
        extra: dict[str, Any] | None = None,
    ) -> dict[str, Any] | None:
        """Add the result of a tool; if no call waits for it, note it and leave it out."""
        if not isinstance(call_id, str) or call_id not in self._waiting:
            self._notes.add(place, f"a result without its call ({quoted_value(call_id)}); left out")
            return None
        self._waiting.discard(call_id)
        kept = [part for part in parts if part.get("text", True)]
        message = self._new(place, "tool", kept, message_id, at, extra)
        message["tool_call_id"] = call_id
        self._group = None
        return message

    def forget_from(self, index: int) -> None:
        """Remove the messages from `index` on."""
        for message in self.messages[index:]:
            self._waiting -= {call["id"] for call in message.get("tool_calls", ())}
        del self.messages[index:]
        self._group = None

    def finish(
        self,
        now_ms: int,
        *,
        created: Any = None,
        updated: Any = None,
        working_dir: Any = None,
        session_type: str = "user",
        kept: dict[str, object] | None = None,
    ) -> ImportedSession | None:
        """Return the session; None if it has no message.

        Args:
            now_ms: The time to use if the document has none.
            created: When the conversation began, if known.
            updated: When it was last changed, if known.
            working_dir: The working directory.
            session_type: The session type of the API.
            kept: Short texts to keep in the session's metadata; other values are left out.
        """
        if not self.messages:
            return None
        times = [message["created_at"] for message in self.messages if message["created_at"]]
        began = time_of(created) or (parse_ms(times[0]) if times else now_ms)
        last = format_ms(began)
        for message in self.messages:
            last = message["created_at"] = message["created_at"] or last
            _tidy(message)
        origin = {"id": self.session_id, **(kept or {})}
        origin = {name: value for name, value in origin.items() if is_name(value)}
        session: dict[str, Any] = {"id": self.session_id} if is_id(self.session_id) else {}
        session |= {
            "title": self._title(),
            "session_type": session_type,
            "working_dir": working_dir if is_path(working_dir) else None,
            "created_at": format_ms(began),
            "updated_at": format_ms(ms) if (ms := time_of(updated)) else last,
            "metadata": {"imported_from": {"format": self.source} | origin},
            "extension_data": {},
        }
        messages = [Message.of(message).to_json() for message in self.messages]
        return ImportedSession(session, messages)

    def _new(
        self,
        place: str,
        role: str,
        parts: list[Part],
        message_id: Any,
        at: Any,
        extra: dict[str, Any] | None,
    ) -> dict[str, Any]:
        known = {name: value for name, value in (extra or {}).items() if value is not None}
        if is_name(message_id) and not is_id(message_id):
            known["id"] = message_id
        ms = time_of(at)
        if ms is None and at is not None:
            self._notes.add(place, f"a time that cannot be read ({quoted_value(at)})")
        message = {
            "id": self._id(message_id, parts),
            "role": role,
            "content": parts,
            "status": "complete",
            "created_at": format_ms(ms) if ms is not None else None,
            "metadata": {self.source: known} if known else {},
        }
        self.messages.append(message)
        return message

    def _id(self, given: Any, parts: list[Part]) -> str:
        made: str = given if is_id(given) and given not in self._ids else ""
        if not made:
            seed = encode([self.source, self.session_id, len(self.messages), str(given), parts])
            made = "msg_" + sha256(seed).hexdigest()[:26]
        self._ids.add(made)
        return made

    def _known_calls(self, place: str, calls: Iterable[Call]) -> list[Call]:
        known: dict[str, Call] = {}
        for call in calls:
            if not is_name(call["id"]) or not is_name(call["name"]) or call["id"] in known:
                what = f"{quoted_value(call['id'])}, {quoted_value(call['name'])}"
                self._notes.add(place, f"a tool call without an id or a name ({what}); left out")
                continue
            arguments = arguments_of(call["arguments"])
            if is_deep(arguments):
                self._notes.add(place, "arguments that nest too deep; left out")
                arguments = {}
            known[call["id"]] = call | {"arguments": arguments}
        return list(known.values())

    def _title(self) -> str | None:
        if self.title and self.title.strip():
            return self.title.strip()[:TITLE_CHARS_MAX]
        for message in self.messages:
            if message["role"] == "user" and not message["metadata"].get(self.source, {}).get(
                "injected"
            ):
                words = " ".join(_text(message["content"]).split())
                if words:
                    cut = words[: TITLE_MADE_CHARS_MAX - 1]
                    return words if len(words) <= TITLE_MADE_CHARS_MAX else f"{cut}…"
        return None


def _tidy(message: dict[str, Any]) -> None:
    """Bring content and members into the form of the API: text alone becomes a string."""
    parts = message["content"]
    if not parts:
        message["content"] = ""
    elif len(parts) == 1 and parts[0]["type"] == "text":
        message["content"] = parts[0]["text"]
    elif message["role"] == "tool" and all(part["type"] == "text" for part in parts):
        message["content"] = "\n".join(part["text"] for part in parts)
    if not message.get("tool_calls"):
        message.pop("tool_calls", None)


def _text(content: str | list[Part]) -> str:
    if isinstance(content, str):
        return content
    return " ".join(part["text"] for part in content if part["type"] == "text")
