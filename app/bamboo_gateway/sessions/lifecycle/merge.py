"""Merge: writes the messages of one session into another, each once.

Messages that both sessions have already (the same message under the same id, by a fork or an
earlier merge, or a copy of it) are left out, so that merging again adds nothing. `append` writes
behind the tip of the target's current path; a message whose id the target has already gets a new
one. `interleave` and `replace` write copies with new ids as a new branch, so that what the target
had stays. A message with a new id names the one it was copied from. Everything that is added is
published at once. The source does not change.

Both sessions are read in pages, twice: `merge_plan` plans what to write, and this module writes it.
The target accepts no other write meanwhile.
"""

from collections import deque
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import aclosing
from dataclasses import replace
from typing import Any

import anyio
from anyio import to_thread

from bamboo_gateway.domain.callers import Caller
from bamboo_gateway.domain.errors import InvalidInput
from bamboo_gateway.domain.events import Draft, Usage
from bamboo_gateway.domain.input_requests import check_not_asked
from bamboo_gateway.domain.message_assembler import message_draft
from bamboo_gateway.domain.messages import Message
from bamboo_gateway.domain.sessions import SessionHead
from bamboo_gateway.domain.tool_order import open_after, still_open
from bamboo_gateway.domain.usage_parts import UsageParts
from bamboo_gateway.observability.tracing import span
from bamboo_gateway.sessions.answers import Merged, Noted
from bamboo_gateway.sessions.commands import Idempotency, Outcome
from bamboo_gateway.sessions.context import Context
from bamboo_gateway.sessions.history import bulk_limiter
from bamboo_gateway.sessions.idempotency import RequestKey
from bamboo_gateway.sessions.lifecycle.bulk_creation import HistoryWriter
from bamboo_gateway.sessions.lifecycle.imports import closing_note
from bamboo_gateway.sessions.lifecycle.merge_plan import (
    NEW,
    SHARED,
    GroupClock,
    Merge,
    Plan,
    messages_of,
    plan_merge,
    theirs_of,
)
from bamboo_gateway.sessions.metadata import check_sizes, view_of
from bamboo_gateway.sessions.registry import SessionRegistry
from bamboo_gateway.sessions.runs.branching import check_room, root_branch
from bamboo_gateway.sessions.runs.factory import Maker
from bamboo_gateway.sessions.streaming.session_writer import SessionWriter
from bamboo_gateway.sessions.transaction import Transactions
from bamboo_gateway.storage.base import SessionStore


async def merge(
    context: Context,
    transactions: Transactions,
    maker: Maker,
    caller: Caller,
    target_id: str,
    wanted: Merge,
    idem: Idempotency | None,
) -> Outcome[Merged]:
    """Merge `wanted.source_id` into the target.

    Raises:
        InvalidInput: Source and target are the same.
        NotFound: There is no such source or target.
        RunActive: In the target a run is executing, queued, or about to start.
        Refused: The target waits for results of tool calls, or it has `max_branches`.
        TooLarge: There are more messages than `MERGE_MESSAGES_MAX`.
    """
    if wanted.source_id == target_id:
        raise InvalidInput("A session cannot be merged into itself.", code="self-merge")
    registry = transactions.registry

    async def write(writer: SessionWriter, key: RequestKey | None) -> Outcome[Merged]:
        async with registry.holding(writer):
            return await _merge(context, registry, maker, caller, writer, wanted, key)

    return await transactions.unless_answered(caller, target_id, idem, write)


async def _merge(
    context: Context,
    registry: SessionRegistry,
    maker: Maker,
    caller: Caller,
    writer: SessionWriter,
    wanted: Merge,
    key: RequestKey | None,
) -> Outcome[Merged]:
    target, store = writer.head, context.store
    context.states.check_writable(target)
    await context.quotas.stored.check_bytes(target.user_id)
    writer.check_not_busy("The target is executing a run; cancel it or wait for its end.")
    check_not_asked(target)

    async def look(head: SessionHead) -> tuple[SessionHead, Plan]:
        return head, await plan_merge(store, target, head, wanted)

    source, plan = await registry.read(caller, wanted.source_id, look)
    if plan.branches:
        check_room(target, context.settings.max_branches)
    now_ms, size_max = context.clock.now_ms(), context.settings.max_event_bytes
    history_writer = HistoryWriter(target.copy(), now_ms, size_max)
    async with store.extension(writer.id, writer.epoch, target.seq) as extension:
        async with aclosing(_drafts(store, maker, target, source, plan, wanted)) as pages:
            async for drafts in pages:
                events = await to_thread.run_sync(
                    history_writer.events, drafts, limiter=bulk_limiter
                )
                await extension.write(events)
        noted: Noted = {}
        if plan.closed:
            noted = {"notes": [closing_note(plan.calls_closed, plan.closed).to_json()]}
        answer: Merged = {**view_of(context, history_writer.head), **noted}
        if key is not None:
            await extension.write((), [history_writer.note(key, answer)])
        elif history_writer.head.seq == target.seq:
            return Outcome(answer)
        await context.files.keep(history_writer.head, target.files)
        count = history_writer.head.seq - target.seq
        with anyio.CancelScope(shield=True), span("commit", session_id=writer.id, events=count):
            # Also when the caller leaves: until this has ended, the session's head is unknown.
            await extension.publish(history_writer.head.copy())
            writer.grown(history_writer.head)
    return Outcome(answer)


async def _new(
    store: SessionStore, maker: Maker, source: SessionHead, plan: Plan
) -> AsyncGenerator[list[Message]]:
    """Yield the messages of the source that are written."""
    place = 0
    async with aclosing(theirs_of(store, source, plan)) as pages:
        async for page in pages:
            choices = plan.choices[place : place + len(page)]
            place += len(page)
            new = [
                one.message if choice == NEW else _copied(maker, one.message)
                for one, choice in zip(page, choices, strict=True)
                if choice != SHARED
            ]
            if new:
                yield new


def _copied(maker: Maker, message: Message) -> Message:
    return replace(message, id=maker.message_id(), copied_from=message.origin_id)


async def _in_time_order(
    ours: AsyncIterator[list[Message]], theirs: AsyncIterator[list[Message]]
) -> AsyncGenerator[list[Message]]:
    """Interleave both sessions by time, the target first on a tie. It holds a page of each."""
    sides = (_Side(ours), _Side(theirs))
    while True:
        for side in sides:
            await side.fill()
        first, second = sides
        messages: list[Message] = []
        while (first.waiting or first.has_ended) and (second.waiting or second.has_ended):
            if not first.waiting and not second.waiting:
                break
            is_ours = first.waiting and (
                not second.waiting or first.waiting[0][0] <= second.waiting[0][0]
            )
            messages.append((first if is_ours else second).waiting.popleft()[1])
        if messages:
            yield messages
        else:
            return


class _Side:
    """The next messages of one of the two interleaved sessions, with their times."""

    def __init__(self, pages: AsyncIterator[list[Message]]) -> None:
        self.waiting: deque[tuple[str, Message]] = deque()
        self.has_ended = False
        self._pages = pages
        self._clock = GroupClock()

    async def fill(self) -> None:
        """Read the next page once the last one is used up."""
        if self.waiting or self.has_ended:
            return
        page = await anext(self._pages, None)
        if page is None:
            self.has_ended = True
        else:
            self.waiting.extend((self._clock.time_of(message), message) for message in page)


async def _drafts(
    store: SessionStore,
    maker: Maker,
    target: SessionHead,
    source: SessionHead,
    plan: Plan,
    wanted: Merge,
) -> AsyncGenerator[list[Draft]]:
    before = next(
        (one for one in reversed(target.merged_from) if one["session_id"] == source.id), None
    )
    if not plan.written and not plan.branches and before is not None:
        return
    begun = root_branch(maker, target, plan.first_id, plan.last_id) if plan.branches else []
    yield [_merged(target, source, before, plan, wanted), *begun]
    order = _Order(target.open_calls, plan)
    async with (
        aclosing(_new(store, maker, source, plan)) as new,
        aclosing(messages_of(store, target, target.seq + 1)) as ours,
        aclosing(_in_time_order(ours, new) if plan.is_interleaved else new) as pages,
    ):
        async for page in pages:
            order.take(page)
            messages = [_copied(maker, one) for one in page] if plan.is_interleaved else page
            yield [message_draft(message) for message in messages]
    order.end()


def _merged(
    target: SessionHead,
    source: SessionHead,
    before: dict[str, Any] | None,
    plan: Plan,
    wanted: Merge,
) -> Draft:
    source_ref: dict[str, Any] = {
        "session_id": source.id,
        # The lineage shows only the id of a session that belongs to another user.
        "title": source.title if source.user_id == target.user_id else None,
        "position": str(source.position),
    }
    fields: dict[str, Any] = {
        "source": source_ref,
        "strategy": wanted.strategy,
        "message_count": plan.written,
        # Only logs of earlier versions have merges after which what was there counts no more.
        "replaces": False,
    }
    counted = Usage.of(before.get("counted_usage")) if before else Usage()
    counted_parts = UsageParts.of(before.get("counted_parts")) if before else UsageParts()
    match wanted.metadata_strategy:
        case "target":
            pass
        case "source":
            counted, counted_parts = source.usage, source.usage_parts
            fields |= {"metadata": source.metadata, "extension_data": source.extension_data}
            fields["usage_total"] = source.usage.to_json()
            fields["usage_parts"] = source.usage_parts.to_json()
        case "merge":
            # An earlier merge of the same source has added a part of its usage already.
            usage = target.usage + (source.usage - counted)
            parts = target.usage_parts + (source.usage_parts - counted_parts)
            counted, counted_parts = source.usage, source.usage_parts
            fields |= {
                "metadata": target.metadata | source.metadata,
                "extension_data": target.extension_data | source.extension_data,
                "usage_total": usage.to_json(),
                "usage_parts": parts.to_json(),
            }
    if counted != Usage():
        source_ref["counted_usage"] = counted.to_json()
    if counted_parts != UsageParts():
        source_ref["counted_parts"] = counted_parts.to_json()
    check_sizes(fields)
    return Draft("session_merged", fields)


class _Order:
    """Refuses to write messages between tool calls of the target and their results."""

    def __init__(self, open_calls: list[str], plan: Plan) -> None:
        self._open_calls = open_calls
        self._plan = plan
        self._waiting = set(open_calls)
        self._is_leading = not plan.branches
        self._open: list[str] = []

    def take(self, page: list[Message]) -> None:
        """Check the next messages that are written.

        Raises:
            Refused: They would come after calls that wait for their results.
        """
        for message in page:
            if self._plan.is_interleaved:
                self._open = open_after(self._open, message.to_json())
            elif self._is_leading and message.role == "tool":
                self._waiting.discard(message.tool_call_id or "")
            elif self._is_leading:
                self._is_leading = False
                self._check_answered()

    def end(self) -> None:
        """Check the whole.

        Raises:
            Refused: Calls of the target would be passed over.
        """
        if self._plan.is_interleaved:
            if passed_over := set(self._open_calls) - set(self._open):
                raise still_open(sorted(passed_over))
        elif self._is_leading and self._plan.written:
            self._check_answered()

    def _check_answered(self) -> None:
        if self._waiting:
            raise still_open(sorted(self._waiting))
