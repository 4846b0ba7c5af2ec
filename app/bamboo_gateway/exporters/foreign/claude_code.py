"""Read sessions of Claude Code: `~/.claude/projects/<project>/<session>.jsonl`.

There is no published schema; this follows what the program writes (as of 2.1). A line is a record.
`user` and `assistant` records hold messages of Anthropic's API and form a tree by `uuid` and
`parentUuid`. The conversation is the branch that ends with the last message. Two kinds of records
are beside that branch and belong to it: an answer has one record per block, all with the same
`message.id`, and results of parallel calls have the record of their call as parent.

`metadata` keeps flags (`isMeta`, `isCompactSummary`, …). Left out are the signatures of thinking,
and `toolUseResult`, the program's own copy of a result.
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
from bamboo_gateway.exporters.foreign.claude_code_tree import (
    Line,
    api_id,
    is_message,
    last_branch,
)
from bamboo_gateway.exporters.foreign.conversation import Conversation
from bamboo_gateway.exporters.foreign.values import Call, Part, text_part, usage_of
from bamboo_gateway.exporters.imported import ImportedSession, Notes, NotUnderstood, quoted_value

_BOOKKEEPING = frozenset(
    [
        "agent-name", "ai-title", "attachment", "cost-state", "custom-title",
        "file-history-snapshot", "last-prompt", "mode", "permission-mode", "pr-link", "progress",
        "queue-operation", "summary", "system", "tag",
    ]
)  # fmt: skip
_TITLES = (("custom-title", "customTitle"), ("ai-title", "aiTitle"), ("summary", "summary"))
_FLAGS = ("isMeta", "isCompactSummary", "isApiErrorMessage", "isVisibleInTranscriptOnly")


class ClaudeCodeReader(ForeignReader):
    """Reads sessions of Claude Code."""

    format: ClassVar[str] = "claude-code"
    title: ClassVar[str] = "a session of Claude Code (JSONL)"

    @override
    def recognizes(self, source: Source) -> bool:
        return any(
            is_message(record) and isinstance(record.get("message"), dict)
            and ("uuid" in record or "sessionId" in record)
            for _, record in source.lines
        )  # fmt: skip

    @override
    def read(self, source: Source, notes: Notes, now_ms: int) -> list[ImportedSession]:
        lines = [line for line in source.lines if is_message(line[1])]
        if not lines:
            raise NotUnderstood("no line is a message of a user or an assistant")
        _note_others(source, notes)
        is_sub_agent = all(record.get("isSidechain") is True for _, record in lines)
        if not is_sub_agent:
            for number, record in lines:
                if record.get("isSidechain") is True:
                    notes.count(f"line {number}", "what a sub-agent said is left out")
        lines = last_branch(source.lines, notes, with_sidechains=is_sub_agent)
        first, last = lines[0][1], lines[-1][1]
        conversation = Conversation(self.format, last.get("sessionId"), notes)
        conversation.title = _title(source.lines)
        _say_all(conversation, lines, notes)
        session = conversation.finish(
            now_ms,
            working_dir=first.get("cwd"),
            session_type="sub_agent" if is_sub_agent else "user",
            kept={"version": last.get("version"), "git_branch": last.get("gitBranch")},
        )
        return [session] if session else []


def _note_others(source: Source, notes: Notes) -> None:
    for number in source.bad_lines:
        notes.add(f"line {number}", "not a JSON object; left out")
    for number, record in source.lines:
        kind = record.get("type")
        if isinstance(kind, str) and kind in _BOOKKEEPING:
            if kind not in ("custom-title", "ai-title", "summary"):
                notes.count(f"line {number}", f"`{kind}` says nothing in the conversation")
        elif not is_message(record):
            notes.add(f"line {number}", f"type {quoted_value(kind)} is not known; left out")


def _title(lines: list[Line]) -> str | None:
    uuids = {a_text(record.get("uuid")) for _, record in lines} - {""}
    for kind, member in _TITLES:
        for _, record in reversed(lines):
            # A file may hold summaries of other sessions; its own one names one of its messages.
            is_own = kind != "summary" or a_text(record.get("leafUuid")) in uuids
            if record.get("type") == kind and is_own and a_text(record.get(member)):
                return a_text(record[member])
    return None


def _say_all(conversation: Conversation, lines: list[Line], notes: Notes) -> None:
    for number, record in lines:
        place = f"line {number}"
        content = an_object(record.get("message")).get("content")
        blocks = [text_part(content)] if isinstance(content, str) else objects(content)
        extra = {flag: True for flag in _FLAGS if record.get(flag) is True}
        if record["type"] == "assistant":
            _say_answer(conversation, place, record, blocks, extra, notes)
        else:
            if extra.get("isMeta"):
                extra["injected"] = True
            _say_input(conversation, place, record, blocks, extra, notes)


def _say_answer(
    conversation: Conversation,
    place: str,
    record: Record,
    blocks: list[Record],
    extra: dict[str, Any],
    notes: Notes,
) -> None:
    message = an_object(record.get("message"))
    parts: list[Part] = []
    calls: list[Call] = []
    results: list[Record] = []
    for block in blocks:
        if "tool_use_id" in block:
            results.append(block)
        elif a_text(block.get("type")).endswith("tool_use"):
            calls.append(
                {"id": block.get("id"), "name": block.get("name"), "arguments": block.get("input")}
            )
        else:
            parts += _part(place, block, notes)
    model = message.get("model")
    conversation.say(
        place,
        "assistant",
        parts,
        calls=calls,
        message_id=record.get("uuid"),
        at=record.get("timestamp"),
        model=None if model == "<synthetic>" else model,
        usage=_usage(message),
        extra=extra,
        group=api_id(record) or None,
    )
    for block in results:
        _say_result(conversation, place, record, block, notes)


def _say_input(
    conversation: Conversation,
    place: str,
    record: Record,
    blocks: list[Record],
    extra: dict[str, Any],
    notes: Notes,
) -> None:
    parts: list[Part] = []
    for block in blocks:
        if "tool_use_id" in block:
            _say_result(conversation, place, record, block, notes)
        else:
            parts += _part(place, block, notes)
    conversation.say(
        place,
        "user",
        parts,
        message_id=record.get("uuid"),
        at=record.get("timestamp"),
        extra=extra,
    )


def _say_result(
    conversation: Conversation, place: str, record: Record, block: Record, notes: Notes
) -> None:
    content = block.get("content")
    inner = [text_part(content)] if isinstance(content, str) else objects(content)
    conversation.result(
        place,
        block["tool_use_id"],
        [part for item in inner for part in _part(place, item, notes)],
        message_id=record.get("uuid"),
        at=record.get("timestamp"),
        extra={"is_error": True} if block.get("is_error") is True else None,
    )


def _part(place: str, block: Record, notes: Notes) -> list[Part]:
    match block.get("type"):
        case "text":
            return [text_part(block.get("text"))]
        case "thinking":
            return [text_part(block.get("thinking"), "thinking")]
        case "redacted_thinking":
            notes.count(place, "thinking that only its maker can read is left out")
        case "image" | "document" as kind:
            source = an_object(block.get("source"))
            media_type = a_text(source.get("media_type")) or "application/octet-stream"
            part = {"type": "image" if kind == "image" else "file", "media_type": media_type}
            for name in ("data", "url"):
                if a_text(source.get(name)):
                    return [part | {name: source[name]}]
            notes.add(place, f"a block {quoted_value(kind)} without its data; left out")
        case kind:
            notes.add(place, f"a block of type {quoted_value(kind)} is not known; left out")
    return []


def _usage(message: Record) -> dict[str, int] | None:
    usage = an_object(message.get("usage"))
    names = ("input_tokens", "cache_creation_input_tokens", "cache_read_input_tokens")
    counts = [usage.get(name) for name in names]
    prompt = sum(count for count in counts if type(count) is int)
    return usage_of(prompt, usage.get("output_tokens"))
