"""Merge: the messages of one session into another, each once.

What both already share (the same messages under the same ids, by fork or by an earlier merge) is
left out, so merging again adds nothing. Another message under an id that the target has gets an id
derived from it. The whole is one commit of the target; the source stays as it is.
"""

from dataclasses import dataclass
from typing import Any, Literal

from anyio import to_thread

from app.domain.assembly import message_draft
from app.domain.callers import Caller
from app.domain.codec import decode
from app.domain.errors import InvalidInput, RunActive, TooLarge
from app.domain.events import Draft, Usage
from app.domain.messages import Message, distinct
from app.domain.sessions import SessionHead
from app.domain.tool_order import open_after, settled, still_open
from app.sessions.commands import Idempotency, Outcome
from app.sessions.creation import bulk_limiter
from app.sessions.importing import closing_note
from app.sessions.live import LiveSession
from app.sessions.pool import Decision, SessionPool
from app.sessions.reading import messages_between
from app.sessions.writing import answer_after, check_sizes

MERGE_BYTES_MAX = 64 * 1024 * 1024
"""A merge is one commit, and stands in memory whole: more has to be exported and imported."""


@dataclass(frozen=True, slots=True)
class Merge:
    """What is merged, and how.

    `strategy`: `append` after the target's messages; `interleave` by time, for which the target's
    own messages are said again in their new order; `replace` the target's messages.
    `metadata_strategy`: whose metadata and usage totals hold: the target's, the source's, or both
    (the source's metadata wins, usages are added).
    """

    source_id: str
    strategy: Literal["append", "interleave", "replace"] = "append"
    metadata_strategy: Literal["target", "source", "merge"] = "target"


async def merge(
    pool: SessionPool, caller: Caller, target_id: str, wanted: Merge, idem: Idempotency | None
) -> Outcome:
    """Merges `wanted.source_id` into the target.

    Raises:
        InvalidInput: Source and target are the same.
        NotFound: One of them is not there.
        RunActive: The target is executing a run.
        Refused: The target waits for results of tool calls.
        TooLarge: The messages are over `MERGE_BYTES_MAX`.
    """
    if wanted.source_id == target_id:
        raise InvalidInput("A session cannot be merged into itself.", code="self-merge")
    ours: list[Message] = []
    theirs: list[Message] = []
    closed: list[Message] = []
    source = SessionHead(wanted.source_id, 0)
    ours_seq = -1

    async def read_source(head: SessionHead) -> tuple[SessionHead, list[Message]]:
        said, closed[:] = settled(_without_open_calls(await _messages(pool, head)), at_end=False)
        return head, said

    async def prepare(live: LiveSession) -> None:
        nonlocal ours, ours_seq, source, theirs
        source, theirs = await pool.read(caller, wanted.source_id, read_source)
        while True:
            await live.ready()
            head = live.head.copy()
            _check_not_busy(head)
            await live.settled()
            ours = await _messages(pool, head)
            await live.ready()
            if live.head.seq == head.seq:
                ours_seq = head.seq
                return

    def decide(live: LiveSession) -> Decision:
        _check_not_busy(live.head)
        assert live.head.seq == ours_seq  # `prepare` ends without an await in between
        drafts = _drafts(live.head, source, ours, theirs, wanted)
        decision = answer_after(pool, live, drafts)
        said = {fields["message_id"] for kind, fields in drafts if kind == "message"}
        if told := [message for message in closed if message.id in said]:
            decision.answer["notes"] = [closing_note(told).to_json()]
        return decision

    return await pool.change(caller, target_id, decide, idem=idem, prepare=prepare)


def _without_open_calls(messages: list[Message]) -> list[Message]:
    """Leaves out an exchange at the end whose results are still to come."""
    answered: set[str | None] = set()
    for index in range(len(messages) - 1, -1, -1):
        message = messages[index]
        if message.role == "tool":
            answered.add(message.tool_call_id)
            continue
        calls = {call["id"] for call in message.tool_calls or ()}
        return messages if calls <= answered else messages[:index]
    return messages


def _check_not_busy(head: SessionHead) -> None:
    if head.active or head.queue:
        raise RunActive(
            "The target is executing a run; cancel it or wait for its end.",
            extra={"active_run_id": head.active.run_id if head.active else None},
        )


async def _messages(pool: SessionPool, head: SessionHead) -> list[Message]:
    bodies = await messages_between(
        pool.store, head.id, head.epoch, head.history_from, head.seq + 1
    )
    if sum(map(len, bodies)) > MERGE_BYTES_MAX:
        raise TooLarge(f"A merge takes at most {MERGE_BYTES_MAX} bytes of messages.")

    def parse() -> list[Message]:
        return [Message.of(decode(body)["message"]) for body in bodies]

    return await to_thread.run_sync(parse, limiter=bulk_limiter)


def _drafts(
    target: SessionHead,
    source: SessionHead,
    ours: list[Message],
    theirs: list[Message],
    wanted: Merge,
) -> list[Draft]:
    said, replaces = _said(ours, theirs, wanted)
    before = next(
        (one for one in reversed(target.merged_from) if one["session_id"] == source.id), None
    )
    if not said and not replaces and before is not None:
        return []
    if not replaces:
        _check_answered(target.open_calls, said)
    elif wanted.strategy == "interleave":
        _check_still_last(target.open_calls, said)
    source_ref: dict[str, Any] = {
        "session_id": source.id,
        # Of a session of another user's the lineage knows the id, and nothing else.
        "title": source.title if source.user_id == target.user_id else None,
        "position": str(source.position),
    }
    fields: dict[str, Any] = {
        "source": source_ref,
        "strategy": wanted.strategy,
        "message_count": len(said),
        "replaces": replaces,
    }
    counted = Usage.of(before.get("counted_usage")) if before else Usage()
    match wanted.metadata_strategy:
        case "target":
            pass
        case "source":
            counted = source.usage
            fields |= {"metadata": source.metadata, "extension_data": source.extension_data}
            fields["usage_total"] = source.usage.to_json()
        case "merge":
            # What an earlier merge has added is not added again.
            usage = target.usage + _more(source.usage, counted)
            counted = source.usage
            fields |= {
                "metadata": target.metadata | source.metadata,
                "extension_data": target.extension_data | source.extension_data,
                "usage_total": usage.to_json(),
            }
    if counted != Usage():
        source_ref["counted_usage"] = counted.to_json()
    check_sizes(fields)
    return [Draft("session_merged", fields), *(message_draft(message) for message in said)]


def _said(ours: list[Message], theirs: list[Message], wanted: Merge) -> tuple[list[Message], bool]:
    """Gives the messages to be said, and whether they replace the target's."""
    new = _not_shared(ours, theirs)
    said, replaces = new, False
    match wanted.strategy:
        case "append":
            pass
        case "interleave":
            said, replaces = _in_time_order(ours, new), bool(new and ours)
        case "replace":
            theirs = distinct(theirs)
            said, replaces = ([], False) if _are_the_same(ours, theirs) else (theirs, True)
    if said[: len(ours)] == ours and ours:
        # Nothing has another place than before: it need not be said again.
        return said[len(ours) :], False
    return (distinct(said), True) if replaces else (said, False)


def _not_shared(ours: list[Message], theirs: list[Message]) -> list[Message]:
    """Gives what the target does not have yet, each under an id that it can have there."""
    known: dict[str, list[Message]] = {}
    for message in ours:
        known.setdefault(message.id, []).append(message)
    new: list[Message] = []
    for message in theirs:
        same_id = known.get(message.id, [])
        if any(message.says_the_same(one) for one in same_id):
            continue
        one = message.renamed(()) if same_id else message
        if same_id and one.id in known:
            continue  # an earlier merge brought it
        known.setdefault(one.id, []).append(one)
        new.append(one)
    return new


def _are_the_same(ours: list[Message], theirs: list[Message]) -> bool:
    return len(ours) == len(theirs) and all(
        one.id == other.id and one.says_the_same(other)
        for one, other in zip(ours, theirs, strict=True)
    )


def _check_answered(open_calls: list[str], said: list[Message]) -> None:
    """Refuses to put messages between calls of the target and their results."""
    waiting = set(open_calls)
    for message in said:
        if message.role != "tool":
            break
        waiting.discard(message.tool_call_id or "")
    if waiting and said:
        raise still_open(sorted(waiting))


def _check_still_last(open_calls: list[str], said: list[Message]) -> None:
    """Refuses an order in which something follows calls that wait for their results."""
    waiting: list[str] = []
    for message in said:
        waiting = open_after(waiting, message.to_json())
    if passed_over := set(open_calls) - set(waiting):
        raise still_open(sorted(passed_over))


def _more(usage: Usage, counted: Usage) -> Usage:
    return Usage(
        max(0, usage.prompt_tokens - counted.prompt_tokens),
        max(0, usage.completion_tokens - counted.completion_tokens),
        max(0, usage.total_tokens - counted.total_tokens),
    )


def _in_time_order(ours: list[Message], theirs: list[Message]) -> list[Message]:
    """Interleaves by time; exchanges (a call with its results) stay whole, ours first on a tie."""
    groups = [(group[0].created_at, 0, number, group) for number, group in _groups(ours)]
    groups += [(group[0].created_at, 1, number, group) for number, group in _groups(theirs)]
    # Within one side the order stays, whatever its clock said: a group is never earlier than
    # the one before it.
    groups = _monotonic(groups)
    groups.sort(key=lambda group: group[:3])
    return [message for *_, group in groups for message in group]


_Group = tuple[str, int, int, list[Message]]


def _groups(messages: list[Message]) -> list[tuple[int, list[Message]]]:
    groups: list[list[Message]] = []
    for message in messages:
        if message.role == "tool" and groups:
            groups[-1].append(message)
        else:
            groups.append([message])
    return list(enumerate(groups))


def _monotonic(groups: list[_Group]) -> list[_Group]:
    latest = {0: "", 1: ""}
    result = []
    for time, side, number, group in groups:
        latest[side] = max(latest[side], time)
        result.append((latest[side], side, number, group))
    return result
