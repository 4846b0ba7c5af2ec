"""The plan of a merge: what it writes, decided before anything is written.

Both sessions are read in pages, and memory keeps a digest of each message.
"""

from collections.abc import AsyncGenerator, Callable
from contextlib import aclosing
from dataclasses import dataclass, field
from hashlib import blake2b
from typing import Any, Literal, NamedTuple, TypeVar

from anyio import to_thread

from bamboo_gateway.domain.codec import canonical, decode
from bamboo_gateway.domain.errors import TooLarge
from bamboo_gateway.domain.messages import Message
from bamboo_gateway.domain.paths import Path, every_path, path_of
from bamboo_gateway.domain.sessions import SessionHead
from bamboo_gateway.domain.tool_order import Settler
from bamboo_gateway.sessions.history import bulk_limiter, history_page
from bamboo_gateway.sessions.lifecycle.fork import open_calls_at
from bamboo_gateway.storage.base import SessionStore
from bamboo_gateway.storage.commits import Record

MERGE_MESSAGES_MAX = 300_000
"""Different messages of both sessions together. Memory holds some 100 bytes of each, however long
it is. Larger conversations have to be exported and imported."""

_CALLS_TOLD = 3
"""How many closed tool calls an answer names."""

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Merge:
    """The merge to make.

    Attributes:
        source_id: The session whose messages are merged into the target.
        strategy: `append` them after the tip of the target's current path; `interleave` both by
            time, for which copies of both are written as a new branch; or `replace` the target's
            by a new branch of copies.
        metadata_strategy: Whose metadata and usage totals the target has afterwards: its own, the
            source's, or both (the source's metadata wins, usages are added).
    """

    source_id: str
    strategy: Literal["append", "interleave", "replace"] = "append"
    metadata_strategy: Literal["target", "source", "merge"] = "target"


@dataclass(slots=True)
class Plan:
    """What a merge writes.

    Attributes:
        before: The source's messages before this seq take part. A tool exchange at its end whose
            results are still missing does not.
        choices: What to do with each of them, and with each message that closes a passed-over call.
        written: How many messages are written.
        branches: Whether they are copies in a new branch.
        first_id: The first message of the target's current path.
        last_id: The last one.
        is_interleaved: Whether the target's messages are written among them.
        closed: How many of them close calls.
        calls_closed: The first of those calls.
    """

    before: int
    choices: bytearray = field(default_factory=bytearray)
    written: int = 0
    branches: bool = False
    first_id: str | None = None
    last_id: str | None = None
    is_interleaved: bool = False
    closed: int = 0
    calls_closed: list[str] = field(default_factory=list)


SHARED, NEW, COPIED = range(3)


class Theirs(NamedTuple):
    """A message of the source, or one that closes a call which the source has passed over."""

    message: Message
    is_closing: bool


async def plan_merge(
    store: SessionStore, target: SessionHead, source: SessionHead, wanted: Merge
) -> Plan:
    """Plan what a merge writes.

    Raises:
        TooLarge: There are more messages than `MERGE_MESSAGES_MAX`.
    """
    open_calls, called_at = await open_calls_at(store, source, path_of(source), source.seq)
    plan = Plan(called_at if open_calls else source.seq + 1)
    comparison = _Comparison(plan, wanted)
    if target.branches:
        every = every_path(target)
        async with aclosing(messages_of(store, target, target.seq + 1, every)) as logged:
            async for page in logged:
                await _in_thread(comparison.take_logged, page)
    async with aclosing(messages_of(store, target, target.seq + 1)) as ours:
        async for page in ours:
            await _in_thread(comparison.take_ours, page)
    async with aclosing(theirs_of(store, source, plan)) as theirs:
        async for page_of_theirs in theirs:
            await _in_thread(comparison.take_theirs, page_of_theirs)
    comparison.conclude()
    return plan


class _Comparison:
    """Compares both sessions, and keeps digests of each message.

    A message is the same in both when its content and its origin are: its own id, or that of the
    message that it was first copied from.
    """

    def __init__(self, plan: Plan, wanted: Merge) -> None:
        self._plan = plan
        self._strategy = wanted.strategy
        # The ids of the target's log, on any branch. Two ids with the same digest count as one id
        # that is taken, so nothing is lost by that.
        self._taken: set[int] = set()
        # What is on the target's current path: a digest of each origin with its content.
        self._said: set[int] = set()
        self._ours = _Sequence()
        self._all_theirs = _Sequence()
        self._clock = GroupClock()
        self._first_new_at: str | None = None
        self._closings: list[list[str]] = [[], []]
        self._closing_counts = [0, 0]

    def take_logged(self, page: list[Message]) -> None:
        for message in page:
            self._learn(_digest_of_id(message.id))

    def take_ours(self, page: list[Message]) -> None:
        for message in page:
            origin, content = _digest_of_id(message.origin_id), _digest_of(message)
            self._plan.first_id = self._plan.first_id or message.id
            self._plan.last_id = message.id
            self._learn(_digest_of_id(message.id))
            self._said.add(origin ^ content)
            # Merges of earlier versions gave a derived id, and no origin.
            self._said.add(_digest_of_id(message.id) ^ content)
            self._ours.add(origin, content)
            self._clock.time_of(message)

    def take_theirs(self, page: list[Theirs]) -> None:
        for message, is_closing in page:
            choice = self._choice(message)
            self._plan.choices.append(choice)
            if choice != SHARED:
                self._first_new_at = self._first_new_at or message.created_at
            if is_closing:
                for which in (0, 1) if choice != SHARED else (0,):
                    self._closing_counts[which] += 1
                    if len(self._closings[which]) < _CALLS_TOLD:
                        self._closings[which].append(str(message.tool_call_id))
            if self._strategy == "replace":
                self._all_theirs.add(_digest_of_id(message.origin_id), _digest_of(message))

    def _choice(self, message: Message) -> int:
        key, content = _digest_of_id(message.id), _digest_of(message)
        origin = _digest_of_id(message.origin_id)
        if key ^ content in self._said or origin ^ content in self._said:
            return SHARED
        is_taken = key in self._taken
        if is_taken and _digest_of_id(message.renamed(()).id) ^ content in self._said:
            return SHARED  # a merge of an earlier version has added it
        self._said.add(origin ^ content)
        self._learn(key)
        return COPIED if is_taken else NEW

    def _learn(self, key: int) -> None:
        self._taken.add(key)
        if len(self._taken) > MERGE_MESSAGES_MAX:
            raise TooLarge(f"A merge takes at most {MERGE_MESSAGES_MAX} messages.")

    def conclude(self) -> None:
        """Complete the plan."""
        plan = self._plan
        ours, new = self._ours.count, len(plan.choices) - plan.choices.count(SHARED)
        says_all = False
        match self._strategy:
            case "append":
                plan.written = new
            case "interleave":
                # When every message keeps its place, nothing has to be written again.
                plan.is_interleaved = plan.branches = bool(
                    ours and self._first_new_at and self._first_new_at < self._clock.latest
                )
                plan.written = new + (ours if plan.is_interleaved else 0)
            case "replace" if not ours:
                plan.written = new
            case "replace" if self._ours.digest() != self._all_theirs.digest():
                says_all = plan.branches = True
                plan.written = len(plan.choices)
                plan.choices = bytearray([COPIED]) * len(plan.choices)
            case "replace":
                plan.choices = bytearray(len(plan.choices))
        if plan.written:
            which = 0 if says_all else 1
            plan.closed, plan.calls_closed = self._closing_counts[which], self._closings[which]


class _Sequence:
    """A sequence of messages, as one digest."""

    def __init__(self) -> None:
        self.count = 0
        self._digest = blake2b()

    def add(self, key: int, content: int) -> None:
        self.count += 1
        self._digest.update(b"%d %d " % (key, content))

    def digest(self) -> bytes:
        return self._digest.digest()


class GroupClock:
    """Returns the time that a message is sorted by.

    A tool exchange (calls with their results) stays together. Within one session the order stays,
    even if its clock went backwards: no message is earlier than the one before it.
    """

    def __init__(self) -> None:
        self.latest = ""
        self._has_begun = False

    def time_of(self, message: Message) -> str:
        """Return the time that the next message of the session is sorted by."""
        if message.role != "tool" or not self._has_begun:
            self._has_begun = True
            self.latest = max(self.latest, message.created_at)
        return self.latest


def _digest_of_id(message_id: str) -> int:
    return int.from_bytes(blake2b(message_id.encode(), digest_size=8).digest(), "big")


def _digest_of(message: Message) -> int:
    # The same members as `Message.says_the_same` compares.
    content = [message.role, message.content, message.tool_calls, message.tool_call_id]
    return int.from_bytes(blake2b(canonical(content), digest_size=8).digest(), "big")


async def _in_thread(function: Callable[[Any], T], page: Any) -> T:
    return await to_thread.run_sync(function, page, limiter=bulk_limiter)


async def messages_of(
    store: SessionStore, head: SessionHead, before: int, path: Path | None = None
) -> AsyncGenerator[list[Message]]:
    """Yield the messages of a path before a seq, a page at a time; by default the current one."""
    after = head.history_from
    while page := await history_page(store, head, after=after, before=before, path=path):
        after = page[-1].seq
        yield await _in_thread(_decoded, page)


def _decoded(page: list[Record]) -> list[Message]:
    return [Message.of(decode(body)["message"]) for _, body in page]


async def theirs_of(
    store: SessionStore, source: SessionHead, plan: Plan
) -> AsyncGenerator[list[Theirs]]:
    """Yield the messages of the source that take part, with passed-over calls closed."""
    settler = Settler()
    async with aclosing(messages_of(store, source, plan.before)) as pages:
        async for page in pages:
            found: list[Theirs] = []
            for message in page:
                found += [Theirs(closing, is_closing=True) for closing in settler.take(message)]
                found.append(Theirs(message, is_closing=False))
            yield found
