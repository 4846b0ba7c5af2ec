"""Merge: the messages of one session into another, each once.

What both already share (the same messages under the same ids, by fork or by an earlier merge) is
left out, so merging again adds nothing. Another message under an id that the target has gets an id
derived from it. All that is added is published at once; the source stays as it is.

Both sessions are walked in pages, twice: to find out what is to be said, of which a digest of each
message is kept, and to write it. The target takes nothing else meanwhile.
"""

from collections import deque
from collections.abc import AsyncGenerator, AsyncIterator, Callable
from contextlib import aclosing
from dataclasses import dataclass, field
from hashlib import blake2b
from typing import Any, Literal, NamedTuple, TypeVar

import anyio
from anyio import to_thread

from bamboo_gateway.domain.callers import Caller
from bamboo_gateway.domain.codec import canonical, decode
from bamboo_gateway.domain.errors import InvalidInput, RunActive, TooLarge
from bamboo_gateway.domain.events import Draft, Usage
from bamboo_gateway.domain.message_assembler import message_draft
from bamboo_gateway.domain.messages import Message
from bamboo_gateway.domain.sessions import SessionHead
from bamboo_gateway.domain.tool_order import Settler, open_after, still_open
from bamboo_gateway.observability.tracing import span
from bamboo_gateway.sessions.commands import Idempotency, Outcome
from bamboo_gateway.sessions.history import bulk_limiter, history_page
from bamboo_gateway.sessions.idempotency import key_digest
from bamboo_gateway.sessions.lifecycle.bulk_creation import HistoryWriter
from bamboo_gateway.sessions.lifecycle.fork import open_calls_at
from bamboo_gateway.sessions.lifecycle.imports import closing_note
from bamboo_gateway.sessions.metadata import check_sizes, view_of
from bamboo_gateway.sessions.pool import SessionPool
from bamboo_gateway.sessions.streaming.session_writer import SessionWriter, Vanished
from bamboo_gateway.storage.base import Record

MERGE_MESSAGES_MAX = 300_000
"""Different messages of both sessions together: some 100 bytes of each are in memory, whatever they
say. More has to be exported and imported."""

_CALLS_TOLD = 3
"""How many of the tool calls that were closed an answer names."""

T = TypeVar("T")


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
        TooLarge: There are more messages than `MERGE_MESSAGES_MAX`.
    """
    if wanted.source_id == target_id:
        raise InvalidInput("A session cannot be merged into itself.", code="self-merge")
    while True:
        try:
            async with pool.use(caller, target_id) as live:
                if idem is not None:
                    digest = key_digest(caller, idem)
                    if kept := await pool.kept_answer(live, digest, idem):
                        return Outcome(kept.answer, replayed=True)
                async with pool.holding(live):
                    return await _merge(pool, caller, live, wanted, idem)
        except Vanished:
            continue


async def _merge(
    pool: SessionPool,
    caller: Caller,
    live: SessionWriter,
    wanted: Merge,
    idem: Idempotency | None,
) -> Outcome:
    target = live.head
    pool.check_writable(target)
    _check_not_busy(target)

    async def look(head: SessionHead) -> tuple[SessionHead, "_Plan"]:
        return head, await _plan(pool, target, head, wanted)

    source, plan = await pool.read(caller, wanted.source_id, look)
    writer = HistoryWriter(target.copy(), pool.clock.now_ms(), pool.settings.max_event_bytes)
    async with pool.store.extension(live.id, live.epoch, target.seq) as extension:
        async with aclosing(_drafts(pool, target, source, plan, wanted)) as pages:
            async for drafts in pages:
                events = await to_thread.run_sync(writer.events, drafts, limiter=bulk_limiter)
                await extension.write(events)
        answer = view_of(pool, writer.head)
        if plan.closed:
            answer["notes"] = [closing_note(plan.calls_closed, plan.closed).to_json()]
        if idem is not None:
            await extension.write((), [writer.note(caller, idem, answer)])
        elif writer.head.seq == target.seq:
            return Outcome(answer)
        count = writer.head.seq - target.seq
        with anyio.CancelScope(shield=True), span("commit", session_id=live.id, events=count):
            # Waited for, whoever leaves: while it is on its way nobody knows the session's head.
            await extension.publish(writer.head.copy())
            live.grown(writer.head)
    return Outcome(answer)


def _check_not_busy(head: SessionHead) -> None:
    if head.active or head.queue:
        raise RunActive(
            "The target is executing a run; cancel it or wait for its end.",
            extra={"active_run_id": head.active.run_id if head.active else None},
        )


# -- what is to be said -----------------------------------------------------------------------


@dataclass(slots=True)
class _Plan:
    """What a merge says, found out before anything of it is written.

    Attributes:
        before: The source's messages before this seq take part: an exchange at its end whose
            results are still to come does not.
        choices: Of each of them, closings of passed-over calls included, what becomes of it.
        said: How many messages are said.
        replaces: Whether they take the place of the target's.
        is_interleaved: Whether the target's messages are among them.
        closed: How many of them close calls, and
        calls_closed: the first of those.
    """

    before: int
    choices: bytearray = field(default_factory=bytearray)
    said: int = 0
    replaces: bool = False
    is_interleaved: bool = False
    closed: int = 0
    calls_closed: list[str] = field(default_factory=list)


_SHARED, _NEW, _RENAMED = range(3)


class _Theirs(NamedTuple):
    """A message of the source, or one that closes a call that it has passed over."""

    message: Message
    is_closing: bool


async def _plan(
    pool: SessionPool, target: SessionHead, source: SessionHead, wanted: Merge
) -> _Plan:
    open_calls, called_at = await open_calls_at(pool, source, source.seq)
    plan = _Plan(called_at if open_calls else source.seq + 1)
    comparison = _Comparison(plan, wanted)
    async with aclosing(_messages(pool, target, target.seq + 1)) as ours:
        async for page in ours:
            await _in_thread(comparison.take_ours, page)
    async with aclosing(_theirs(pool, source, plan)) as theirs:
        async for page_of_theirs in theirs:
            await _in_thread(comparison.take_theirs, page_of_theirs)
    comparison.conclude()
    return plan


class _Comparison:
    """Compares both sessions; keeps a digest of each message."""

    def __init__(self, plan: _Plan, wanted: Merge) -> None:
        self._plan = plan
        self._strategy = wanted.strategy
        # By the digest of its id what a message says, as a digest too; beside it what others say
        # that have the same id, in sessions of earlier versions. Ids whose digests are the same
        # take each other for another message under their id, so nothing is lost by it.
        self._known: dict[int, int] = {}
        self._doubles: set[tuple[int, int]] = set()
        self._ours = _Sequence()
        self._all_theirs = _Sequence()
        self._distinct = _Distinct()
        self._clock = _GroupClock()
        self._first_new_at: str | None = None
        self._closings: list[list[str]] = [[], []]
        self._closing_counts = [0, 0]

    def take_ours(self, page: list[Message]) -> None:
        for message in page:
            key, said = _digest_of_id(message.id), _digest_of(message)
            self._learn(key, said)
            self._ours.add(key, said)
            self._clock.time_of(message)

    def take_theirs(self, page: list[_Theirs]) -> None:
        for message, is_closing in page:
            choice = self._choice(message)
            self._plan.choices.append(choice)
            if choice != _SHARED:
                self._first_new_at = self._first_new_at or message.created_at
            if is_closing:
                for which in (0, 1) if choice != _SHARED else (0,):
                    self._closing_counts[which] += 1
                    if len(self._closings[which]) < _CALLS_TOLD:
                        self._closings[which].append(str(message.tool_call_id))
            if self._strategy == "replace":
                one = self._distinct.take(message)
                self._all_theirs.add(_digest_of_id(one.id), _digest_of(one))

    def _choice(self, message: Message) -> int:
        key, said = _digest_of_id(message.id), _digest_of(message)
        if key not in self._known:
            self._learn(key, said)
            return _NEW
        if self._known[key] == said or (key, said) in self._doubles:
            return _SHARED
        renamed = _digest_of_id(message.renamed(()).id)
        if renamed in self._known:
            return _SHARED  # an earlier merge brought it
        self._learn(renamed, said)
        return _RENAMED

    def _learn(self, key: int, said: int) -> None:
        if self._known.setdefault(key, said) != said:
            self._doubles.add((key, said))
        if len(self._known) + len(self._doubles) > MERGE_MESSAGES_MAX:
            raise TooLarge(f"A merge takes at most {MERGE_MESSAGES_MAX} messages.")

    def conclude(self) -> None:
        """Says in the plan what comes of it."""
        plan = self._plan
        ours, new = self._ours.count, len(plan.choices) - plan.choices.count(_SHARED)
        said_all = False
        match self._strategy:
            case "append":
                plan.said = new
            case "interleave":
                # Where nothing has another place than before, it need not be said again.
                plan.is_interleaved = bool(
                    ours and self._first_new_at and self._first_new_at < self._clock.latest
                )
                plan.replaces = plan.is_interleaved
                plan.said = new + (ours if plan.is_interleaved else 0)
            case "replace" if self._ours.digest() != self._all_theirs.digest():
                said_all = plan.replaces = True
                plan.said = len(plan.choices)
            case "replace":
                plan.choices = bytearray(len(plan.choices))
        if said_all:
            plan.choices = bytearray([_NEW]) * len(plan.choices)
        if plan.said:
            which = 0 if said_all else 1
            plan.closed, plan.calls_closed = self._closing_counts[which], self._closings[which]


class _Sequence:
    """Messages in their order, as one digest."""

    def __init__(self) -> None:
        self.count = 0
        self._digest = blake2b()

    def add(self, key: int, said: int) -> None:
        self.count += 1
        self._digest.update(b"%d %d " % (key, said))

    def digest(self) -> bytes:
        return self._digest.digest()


class _Distinct:
    """As `messages.distinct`, message by message, with digests of the ids so far."""

    def __init__(self) -> None:
        self._seen: set[int] = set()

    def __contains__(self, message_id: object) -> bool:
        return _digest_of_id(str(message_id)) in self._seen

    def take(self, message: Message) -> Message:
        one = message.renamed(self) if message.id in self else message
        self._seen.add(_digest_of_id(one.id))
        return one


class _GroupClock:
    """Gives each message the time that it is put in order by.

    Exchanges (a call with its results) stay whole. And within one session the order stays, whatever
    its clock said: nothing is earlier than what stands before it.
    """

    def __init__(self) -> None:
        self.latest = ""
        self._has_begun = False

    def time_of(self, message: Message) -> str:
        if message.role != "tool" or not self._has_begun:
            self._has_begun = True
            self.latest = max(self.latest, message.created_at)
        return self.latest


def _digest_of_id(message_id: str) -> int:
    return int.from_bytes(blake2b(message_id.encode(), digest_size=8).digest(), "big")


def _digest_of(message: Message) -> int:
    # What `Message.says_the_same` compares.
    said = [message.role, message.content, message.tool_calls, message.tool_call_id]
    return int.from_bytes(blake2b(canonical(said), digest_size=8).digest(), "big")


# -- walking ----------------------------------------------------------------------------------


async def _in_thread(function: Callable[[Any], T], page: Any) -> T:
    return await to_thread.run_sync(function, page, limiter=bulk_limiter)


async def _messages(
    pool: SessionPool, head: SessionHead, before: int
) -> AsyncGenerator[list[Message]]:
    after = head.history_from
    while page := await history_page(pool.store, head, after=after, before=before):
        after = page[-1].seq
        yield await _in_thread(_decoded, page)


def _decoded(page: list[Record]) -> list[Message]:
    return [Message.of(decode(body)["message"]) for _, body in page]


async def _theirs(
    pool: SessionPool, source: SessionHead, plan: _Plan
) -> AsyncGenerator[list[_Theirs]]:
    """Gives what of the source takes part, passed-over calls closed."""
    settler = Settler()
    async with aclosing(_messages(pool, source, plan.before)) as pages:
        async for page in pages:
            found: list[_Theirs] = []
            for message in page:
                found += [_Theirs(closing, is_closing=True) for closing in settler.take(message)]
                found.append(_Theirs(message, is_closing=False))
            yield found


async def _new(
    pool: SessionPool, source: SessionHead, plan: _Plan
) -> AsyncGenerator[list[Message]]:
    """Gives what of the source is said."""
    place = 0
    async with aclosing(_theirs(pool, source, plan)) as pages:
        async for page in pages:
            choices = plan.choices[place : place + len(page)]
            place += len(page)
            new = [
                one.message if choice == _NEW else one.message.renamed(())
                for one, choice in zip(page, choices, strict=True)
                if choice != _SHARED
            ]
            if new:
                yield new


async def _in_time_order(
    ours: AsyncIterator[list[Message]], theirs: AsyncIterator[list[Message]]
) -> AsyncGenerator[list[Message]]:
    """Interleaves by time, ours first on a tie; holds a page of each."""
    sides = (_Side(ours), _Side(theirs))
    while True:
        for side in sides:
            await side.fill()
        first, second = sides
        said: list[Message] = []
        while (first.waiting or first.has_ended) and (second.waiting or second.has_ended):
            if not first.waiting and not second.waiting:
                break
            is_ours = first.waiting and (
                not second.waiting or first.waiting[0][0] <= second.waiting[0][0]
            )
            said.append((first if is_ours else second).waiting.popleft()[1])
        if said:
            yield said
        else:
            return


class _Side:
    """One of the sessions that are interleaved: its next messages, with their times."""

    def __init__(self, pages: AsyncIterator[list[Message]]) -> None:
        self.waiting: deque[tuple[str, Message]] = deque()
        self.has_ended = False
        self._pages = pages
        self._clock = _GroupClock()

    async def fill(self) -> None:
        """Has the next page waiting, unless there is none or the last one still is."""
        if self.waiting or self.has_ended:
            return
        page = await anext(self._pages, None)
        if page is None:
            self.has_ended = True
        else:
            self.waiting.extend((self._clock.time_of(message), message) for message in page)


# -- writing ----------------------------------------------------------------------------------


async def _drafts(
    pool: SessionPool, target: SessionHead, source: SessionHead, plan: _Plan, wanted: Merge
) -> AsyncGenerator[list[Draft]]:
    before = next(
        (one for one in reversed(target.merged_from) if one["session_id"] == source.id), None
    )
    if not plan.said and not plan.replaces and before is not None:
        return
    yield [_merged(target, source, before, plan, wanted)]
    order = _Order(target.open_calls, plan)
    distinct = _Distinct()
    async with (
        aclosing(_new(pool, source, plan)) as new,
        aclosing(_messages(pool, target, target.seq + 1)) as ours,
        aclosing(_in_time_order(ours, new) if plan.is_interleaved else new) as pages,
    ):
        async for page in pages:
            said = [distinct.take(message) for message in page] if plan.replaces else page
            order.take(said)
            yield [message_draft(message) for message in said]
    order.end()


def _merged(
    target: SessionHead,
    source: SessionHead,
    before: dict[str, Any] | None,
    plan: _Plan,
    wanted: Merge,
) -> Draft:
    source_ref: dict[str, Any] = {
        "session_id": source.id,
        # Of a session of another user's the lineage knows the id, and nothing else.
        "title": source.title if source.user_id == target.user_id else None,
        "position": str(source.position),
    }
    fields: dict[str, Any] = {
        "source": source_ref,
        "strategy": wanted.strategy,
        "message_count": plan.said,
        "replaces": plan.replaces,
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
    return Draft("session_merged", fields)


class _Order:
    """Refuses to put messages between calls of the target and their results."""

    def __init__(self, open_calls: list[str], plan: _Plan) -> None:
        self._open_calls = open_calls
        self._plan = plan
        self._waiting = set(open_calls)
        self._is_leading = not plan.replaces
        self._open: list[str] = []

    def take(self, page: list[Message]) -> None:
        """Looks at the next messages that are said.

        Raises:
            Refused: They would stand behind calls that wait for their results.
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
        """Looks at the whole.

        Raises:
            Refused: Calls of the target are passed over.
        """
        if self._plan.is_interleaved:
            if passed_over := set(self._open_calls) - set(self._open):
                raise still_open(sorted(passed_over))
        elif self._is_leading and self._plan.said:
            self._check_answered()

    def _check_answered(self) -> None:
        if self._waiting:
            raise still_open(sorted(self._waiting))


def _more(usage: Usage, counted: Usage) -> Usage:
    return Usage(
        max(0, usage.prompt_tokens - counted.prompt_tokens),
        max(0, usage.completion_tokens - counted.completion_tokens),
        max(0, usage.total_tokens - counted.total_tokens),
    )
