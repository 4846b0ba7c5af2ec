"""Read ChatGPT's data export: `conversations.json`, an array of conversations.

A conversation has a `mapping`: a tree of nodes with one message each. Editing a question or asking
for another answer makes a branch. The conversation that is read is the path from the root to
`current_node`, as the site shows it. Tool calls have no ids: a message whose `recipient` is not
`all` calls that tool, and the following messages of the role `tool` are its result.

Pictures and files are beside `conversations.json` in the archive. The document has only their
names, which become their URLs here. Custom instructions, memories and hidden empty messages are
left out.
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
from bamboo_gateway.exporters.foreign.values import Part, arguments_of, text_part
from bamboo_gateway.exporters.imported import ImportedSession, Notes, NotUnderstood, quoted_value

ATTACHMENTS_MAX = 100
"""The most file names of a message that are kept; the site allows ten at once."""

_ASSETS = {
    "image_asset_pointer": ("image", "image/*"),
    "audio_asset_pointer": ("file", "audio/*"),
    "video_container_asset_pointer": ("file", "video/*"),
}


class ChatGptReader(ForeignReader):
    """Reads ChatGPT's `conversations.json`."""

    format: ClassVar[str] = "chatgpt"
    title: ClassVar[str] = "ChatGPT's conversations.json"

    @override
    def recognizes(self, source: Source) -> bool:
        return any(isinstance(found.get("mapping"), dict) for found in _conversations(source))

    @override
    def read(self, source: Source, notes: Notes, now_ms: int) -> list[ImportedSession]:
        if not self.recognizes(source):
            raise NotUnderstood("no conversation has a `mapping`")
        sessions = []
        for number, found in enumerate(_conversations(source), 1):
            place = f"conversation {number}"
            session = _Tree(self.format, place, found, notes).read(now_ms)
            if session is None:
                notes.add(place, "it holds no message; left out")
            else:
                sessions.append(session)
        return sessions


def _conversations(source: Source) -> list[Record]:
    value = source.value
    return [value] if isinstance(value, dict) else objects(value)


class _Tree:
    """Reads one conversation."""

    def __init__(self, source: str, place: str, found: Record, notes: Notes) -> None:
        self._found = found
        self._place = place
        self._notes = notes
        self._nodes = an_object(found.get("mapping"))
        session_id = found.get("conversation_id") or found.get("id")
        self._conversation = Conversation(source, session_id, notes)
        self._conversation.title = a_text(found.get("title"))
        self._waiting: list[tuple[str, str]] = []
        self._answered: tuple[str, dict[str, Any]] | None = None

    def read(self, now_ms: int) -> ImportedSession | None:
        """Return the session; None if it has no message."""
        path = self._path()
        for node_id in path:
            message = an_object(an_object(self._nodes[node_id]).get("message"))
            if message:
                self._message(f"{self._place}, node {quoted_value(node_id)}", node_id, message)
        beside = sum(bool(an_object(node).get("message")) for node in self._nodes.values()) - sum(
            bool(an_object(self._nodes[name]).get("message")) for name in path
        )
        if beside:
            self._notes.add(self._place, f"messages of other branches ({beside}); left out")
        return self._conversation.finish(
            now_ms,
            created=self._found.get("create_time"),
            updated=self._found.get("update_time"),
            kept={"gizmo_id": self._found.get("gizmo_id")},
        )

    def _path(self) -> list[str]:
        """Return the ids from the root to the current node."""
        node_id = a_text(self._found.get("current_node"))
        if node_id not in self._nodes:
            node_id = self._last_leaf()
            self._notes.add(self._place, "no `current_node`; the latest branch is used")
        path: list[str] = []
        seen: set[str] = set()
        while node_id in self._nodes and node_id not in seen:
            seen.add(node_id)
            path.append(node_id)
            node_id = a_text(an_object(self._nodes[node_id]).get("parent"))
        return path[::-1]

    def _last_leaf(self) -> str:
        def said(node_id: str) -> float:
            time = an_object(an_object(self._nodes[node_id]).get("message")).get("create_time")
            return time if isinstance(time, int | float) else -1

        return max(reversed(self._nodes), key=said, default="")

    def _message(self, place: str, node_id: str, message: Record) -> None:
        author, metadata = an_object(message.get("author")), an_object(message.get("metadata"))
        parts = self._parts(place, an_object(message.get("content")))
        recipient = a_text(message.get("recipient")) or "all"
        hidden = metadata.get("is_visually_hidden_from_conversation") is True
        attached = [a_text(item.get("name")) for item in objects(metadata.get("attachments"))]
        extra = {
            "hidden": hidden or None,
            "injected": hidden or None,
            "attachments": attached[:ATTACHMENTS_MAX] or None,
        }
        at, message_id = message.get("create_time"), message.get("id") or node_id
        match author.get("role"):
            case "tool":
                self._result(place, a_text(author.get("name")), parts, message_id, at)
            case "assistant" if recipient != "all":
                text = "\n".join(part.get("text", "") for part in parts)
                arguments = arguments_of(text)
                if isinstance(arguments, str):
                    arguments = {"input": arguments}
                call = {"id": node_id, "name": recipient, "arguments": arguments}
                model = metadata.get("model_slug")
                said = self._conversation.say(
                    place, "assistant", (), calls=[call], message_id=message_id, at=at, model=model
                )
                if said is not None:
                    self._waiting.append((node_id, recipient))
            case "user" | "assistant" | "system" as role:
                model = metadata.get("model_slug") if role == "assistant" else None
                said = self._conversation.say(
                    place, role, parts, message_id=message_id, at=at, model=model, extra=extra
                )
                if said is not None and message.get("status") == "in_progress":
                    said["status"] = "incomplete"
            case role:
                self._notes.add(place, f"the role {quoted_value(role)} is not known; left out")

    def _result(self, place: str, name: str, parts: list[Part], message_id: Any, at: Any) -> None:
        tool = name.partition(".")[0]
        latest = self._conversation.messages[-1] if self._conversation.messages else None
        if self._answered and self._answered[0] == tool and self._answered[1] is latest:
            # A tool may send several messages; they are one result.
            latest["content"] += [part for part in parts if part.get("text", True)]
            return
        call = next(
            (call for call in reversed(self._waiting) if call[1].partition(".")[0] == tool), None
        )
        if call is not None:
            self._waiting.remove(call)
        call_id = call[0] if call else name
        said = self._conversation.result(place, call_id, parts, message_id=message_id, at=at)
        self._answered = (tool, said) if said else None

    def _parts(self, place: str, content: Record) -> list[Part]:
        match content.get("content_type"):
            case "text" | "multimodal_text":
                pieces = content.get("parts")
                pieces = pieces if isinstance(pieces, list) else []
                return [part for piece in pieces for part in self._piece(place, piece)]
            case "code" | "execution_output" | "system_error" | "tether_quote":
                return [text_part(content.get("text"))]
            case "tether_browsing_display":
                return [text_part(content.get("result"))]
            case "thoughts":
                return [text_part(_thought(item), "thinking")
                        for item in objects(content.get("thoughts"))]  # fmt: skip
            case "user_editable_context" | "model_editable_context":
                self._notes.count(place, "custom instructions and memories are left out")
            case "reasoning_recap":
                self._notes.count(place, "how long the model thought is left out")
            case kind:
                self._notes.add(place, f"content {quoted_value(kind)} is not known; left out")
        return []

    def _piece(self, place: str, piece: Any) -> list[Part]:
        if isinstance(piece, str):
            return [text_part(piece)]
        piece = an_object(piece)
        kind = a_text(piece.get("content_type"))
        if kind == "audio_transcription":
            return [text_part(piece.get("text"))]
        if kind == "real_time_user_audio_video_asset_pointer":
            return self._piece(place, piece.get("audio_asset_pointer"))
        if kind in _ASSETS and a_text(piece.get("asset_pointer")):
            part_type, media_type = _ASSETS[kind]
            self._notes.count(place, "a file that is not in the document; its name is kept")
            return [{"type": part_type, "url": piece["asset_pointer"], "media_type": media_type}]
        what = quoted_value(kind or encode(piece).decode())
        self._notes.add(place, f"content {what} is not known; left out")
        return []


def _thought(item: Record) -> str:
    return "\n".join(filter(None, (a_text(item.get("summary")), a_text(item.get("content")))))
