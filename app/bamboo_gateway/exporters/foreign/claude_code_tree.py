"""Find the conversation in the records of a Claude Code file: its latest branch."""

from bisect import bisect_left

from bamboo_gateway.exporters.foreign.base import Record, a_text, an_object, objects
from bamboo_gateway.exporters.imported import Notes

Line = tuple[int, Record]
"""A record and the number of its line."""


def is_message(record: Record) -> bool:
    """Return whether a record holds a message."""
    return record.get("type") in ("user", "assistant")


def last_branch(lines: list[Line], notes: Notes, *, with_sidechains: bool) -> list[Line]:
    """Return the messages of the branch that ends with the last message, in the file's order."""
    lines = [line for line in lines if with_sidechains or line[1].get("isSidechain") is not True]
    messages = [at for at, (_, record) in enumerate(lines) if is_message(record)]
    by_uuid: dict[str, int] = {}
    for at, (_, record) in enumerate(lines):
        if uuid := a_text(record.get("uuid")):
            by_uuid.setdefault(uuid, at)
    if not by_uuid:
        return [lines[at] for at in messages]
    kept: set[int] = set()
    next_at: int | None = messages[-1]
    while next_at is not None and next_at not in kept:
        at = next_at
        kept.add(at)
        number, record = lines[at]
        parent = a_text(record.get("parentUuid")) or a_text(record.get("logicalParentUuid"))
        if not parent and "parentUuid" in record:
            break
        next_at = by_uuid.get(parent)
        if next_at is None:
            notes.count(f"line {number}", "its parent is missing; the message before it is used")
            earlier = bisect_left(messages, at)
            next_at = messages[earlier - 1] if earlier else None
    kept |= _beside(lines, messages, kept)
    for at in messages:
        if at not in kept:
            notes.count(f"line {lines[at][0]}", "of a branch that was given up; left out")
    return [lines[at] for at in messages if at in kept]


def _beside(lines: list[Line], messages: list[int], kept: set[int]) -> set[int]:
    """Return other records of kept answers: further blocks, and results of their calls."""
    answers = {api_id(lines[at][1]) for at in kept} - {""}
    seen = {a_text(lines[at][1].get("uuid")) for at in kept}
    answered = {call_id for at in kept for call_id in _results(lines[at][1])}
    called: set[str] = set()
    beside: set[int] = set()
    for at in messages:
        record = lines[at][1]
        is_new = at not in kept and a_text(record.get("uuid")) not in seen
        if is_new and api_id(record) in answers:
            beside.add(at)
        elif is_new and (results := _results(record)) and results <= called - answered:
            beside.add(at)
            answered |= results
        if at in kept or at in beside:
            seen.add(a_text(record.get("uuid")))
            called |= {a_text(block.get("id")) for block in blocks_of(record)} - {""}
    return beside


def _results(record: Record) -> set[str]:
    return {a_text(block.get("tool_use_id")) for block in blocks_of(record)} - {""}


def api_id(record: Record) -> str:
    """Return the message id that all records of an answer share; an empty string if none."""
    is_answer = record.get("type") == "assistant"
    return a_text(an_object(record.get("message")).get("id")) if is_answer else ""


def blocks_of(record: Record) -> list[Record]:
    """Return the blocks of a record's message."""
    return objects(an_object(record.get("message")).get("content"))
