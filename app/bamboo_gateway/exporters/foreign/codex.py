"""Read rollouts of OpenAI's Codex: `~/.codex/sessions/…/rollout-*.jsonl`.

A line is `{timestamp, type, payload}`. The `response_item` lines are the conversation: items of
OpenAI's Responses API. (Before September 2025 the lines were the items themselves, after a first
line with the session.) `event_msg` lines repeat the conversation for the program's display; only
token counts and undone turns are read from them. `turn_context` names the model.

Items between two results become one assistant message, as everywhere in the gateway. A web search
has no result; its status is used as one. Encrypted reasoning is left out.
"""

from typing import Any, ClassVar

from typing_extensions import override

from bamboo_gateway.exporters.foreign.base import (
    ForeignReader,
    Record,
    Source,
    a_text,
    an_object,
    objects,
)
from bamboo_gateway.exporters.foreign.conversation import Conversation
from bamboo_gateway.exporters.foreign.values import Part, text_part, usage_of
from bamboo_gateway.exporters.imported import ImportedSession, Notes, NotUnderstood, quoted_value

_LINE_TYPES = ("session_meta", "response_item", "event_msg", "turn_context", "compacted")
_ITEM_TYPES = (
    "message", "reasoning", "function_call", "function_call_output", "custom_tool_call",
    "custom_tool_call_output", "local_shell_call", "web_search_call",
)  # fmt: skip
_INJECTED = ("<environment_context>", "<user_instructions>", "# AGENTS.md instructions", "<INSTR")
_ONE_ANSWER = "answer"


class CodexReader(ForeignReader):
    """Reads rollouts of Codex."""

    format: ClassVar[str] = "codex"
    title: ClassVar[str] = "a rollout of OpenAI Codex (JSONL)"

    @override
    def recognizes(self, source: Source) -> bool:
        if any(
            record.get("type") in _LINE_TYPES and isinstance(record.get("payload"), dict)
            for _, record in source.lines
        ):
            return True
        return bool(source.lines) and _is_old_head(source.lines[0][1])

    @override
    def read(self, source: Source, notes: Notes, now_ms: int) -> list[ImportedSession]:
        if not self.recognizes(source):
            raise NotUnderstood("no line is a `session_meta` or a `response_item`")
        for number in source.bad_lines:
            notes.add(f"line {number}", "not a JSON object; left out")
        rollout = _Rollout(self.format, source.lines, notes)
        session = rollout.read(now_ms)
        return [session] if session else []


def _is_old_head(record: Record) -> bool:
    return "type" not in record and {"id", "timestamp", "instructions"} <= record.keys()


class _Rollout:
    """Reads one rollout, line by line."""

    def __init__(self, source: str, lines: list[tuple[int, Record]], notes: Notes) -> None:
        heads = [
            an_object(record.get("payload")) if record.get("type") == "session_meta" else record
            for _, record in lines
            if record.get("type") == "session_meta" or _is_old_head(record)
        ]
        # A fork has, after its own head, the head of the session that it was forked from.
        self._head: Record = heads[0] if heads else {}
        self._conversation = Conversation(source, self._head.get("id"), notes)
        self._lines = lines
        self._notes = notes
        self._model: Any = None
        self._turns: list[int] = []
        self._total: Any = None

    def read(self, now_ms: int) -> ImportedSession | None:
        """Return the session; None if it has no message."""
        for number, record in self._lines:
            self._take(f"line {number}", record)
        git = an_object(self._head.get("git"))
        return self._conversation.finish(
            now_ms,
            created=self._head.get("timestamp"),
            working_dir=self._head.get("cwd"),
            kept={
                "version": self._head.get("cli_version"),
                "git_branch": git.get("branch"),
                "forked_from": self._head.get("forked_from_id"),
            },
        )

    def _take(self, place: str, record: Record) -> None:
        payload = an_object(record.get("payload"))
        match record.get("type"):
            case "response_item":
                self._item(place, payload, record.get("timestamp"))
            case "event_msg":
                self._event(place, payload)
            case "turn_context":
                self._model = payload.get("model") or self._model
            case "compacted":
                self._notes.count(place, "a summary made for the model; all it covers is kept")
            case "session_meta":
                pass
            case str() as kind if kind in _ITEM_TYPES:
                self._item(place, record, record.get("timestamp"))
            case kind:
                if not _is_old_head(record) and "record_type" not in record:
                    what = f"type {quoted_value(kind)} is not known; left out"
                    self._notes.add(place, what)

    def _item(self, place: str, item: Record, at: Any) -> None:
        match item.get("type"):
            case "message":
                self._message(place, item, at)
            case "reasoning":
                self._reasoning(place, item, at)
            case "function_call" | "custom_tool_call":
                arguments = item.get("arguments")
                if item["type"] == "custom_tool_call":
                    arguments = {"input": item.get("input")}
                self._call(place, item, at, item.get("call_id"), item.get("name"), arguments)
            case "local_shell_call":
                call_id = item.get("call_id") or item.get("id")
                self._call(place, item, at, call_id, "local_shell", item.get("action"))
            case "web_search_call":
                call_id = a_text(item.get("id")) or f"web_search_{place.removeprefix('line ')}"
                self._call(place, item, at, call_id, "web_search", item.get("action"))
                status = [text_part(item.get("status"))]
                self._conversation.result(place, call_id, status, at=at)
            case "function_call_output" | "custom_tool_call_output":
                output = self._output(place, item.get("output"))
                self._conversation.result(place, item.get("call_id"), output, at=at)
            case kind:
                self._notes.add(place, f"an item {quoted_value(kind)} is not known; left out")

    def _message(self, place: str, item: Record, at: Any) -> None:
        parts = [
            part for piece in objects(item.get("content")) for part in self._part(place, piece)
        ]
        match item.get("role"):
            case "assistant":
                self._answer(place, parts, at, item.get("id"))
            case "user" | "system" | "developer" as role:
                first = parts[0].get("text", "") if parts else ""
                injected = first.lstrip().startswith(_INJECTED) or role == "developer"
                if role == "user" and not injected:
                    self._turns.append(len(self._conversation.messages))
                self._conversation.say(
                    place,
                    "user" if role == "user" else "system",
                    parts,
                    message_id=item.get("id"),
                    at=at,
                    extra={"injected": True} if injected else None,
                )
            case role:
                self._notes.add(place, f"the role {quoted_value(role)} is not known; left out")

    def _reasoning(self, place: str, item: Record, at: Any) -> None:
        pieces = objects(item.get("summary")) + objects(item.get("content"))
        texts = [text for piece in pieces if (text := a_text(piece.get("text")))]
        if texts:
            self._answer(place, [text_part("\n\n".join(texts), "thinking")], at, item.get("id"))
        else:
            self._notes.count(place, "reasoning that only its maker can read is left out")

    def _answer(self, place: str, parts: list[Part], at: Any, message_id: Any) -> None:
        self._conversation.say(
            place,
            "assistant",
            parts,
            message_id=message_id,
            at=at,
            model=self._model,
            group=_ONE_ANSWER,
        )

    def _call(
        self, place: str, item: Record, at: Any, call_id: Any, name: Any, arguments: Any
    ) -> None:
        self._conversation.say(
            place,
            "assistant",
            (),
            calls=[{"id": call_id, "name": name, "arguments": arguments}],
            message_id=item.get("id"),
            at=at,
            model=self._model,
            group=_ONE_ANSWER,
        )

    def _output(self, place: str, output: Any) -> list[Part]:
        if isinstance(output, dict):  # before 2025: {content, success}
            output = output.get("content")
        if isinstance(output, str):
            return [text_part(output)]
        return [part for piece in objects(output) for part in self._part(place, piece)]

    def _part(self, place: str, piece: Record) -> list[Part]:
        match piece.get("type"):
            case "input_text" | "output_text" | "text":
                return [text_part(piece.get("text"))]
            case "input_image":
                url = a_text(piece.get("image_url"))
                kind, _, data = url.removeprefix("data:").partition(";base64,")
                if data:
                    return [{"type": "image", "data": data, "media_type": kind or "image/png"}]
                return [{"type": "image", "url": url, "media_type": "image/*"}] if url else []
            case kind:
                self._notes.add(place, f"content {quoted_value(kind)} is not known; left out")
                return []

    def _event(self, place: str, event: Record) -> None:
        match event.get("type"):
            case "token_count":
                info = an_object(event.get("info"))
                total, last = info.get("total_token_usage"), an_object(info.get("last_token_usage"))
                # Every change of the rate limits repeats the same count.
                if total != self._total:
                    self._total = total
                    self._count(usage_of(last.get("input_tokens"), last.get("output_tokens")))
            case "thread_rolled_back":
                turns = event.get("num_turns")
                if type(turns) is int and 0 < turns <= len(self._turns):
                    self._conversation.forget_from(self._turns[-turns])
                    del self._turns[-turns:]
                self._notes.add(
                    place, f"turns that were taken back ({quoted_value(turns)}); left out"
                )
            case _:
                pass

    def _count(self, usage: dict[str, int] | None) -> None:
        for message in reversed(self._conversation.messages):
            if message["role"] == "assistant":
                if usage is not None:
                    message.setdefault("usage", usage)
                return
