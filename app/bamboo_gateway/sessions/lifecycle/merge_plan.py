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
        strategy: `append` them after the target's messages; `interleave` both by time, for which
            the target's messages are written again in their new order; or `replace` the target's.
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
        replaces: Whether they replace the target's messages.
        is_interleaved: Whether the target's messages are written among them.
        closed: How many of them close calls.
        calls_closed: The first of those calls.
    """

    before: int
    choices: bytearray = field(default_factory=bytearray)
    written: int = 0
    replaces: bool = False
    is_interleaved: bool = False
    closed: int = 0
    calls_closed: list[str] = field(default_factory=list)


SHARED, NEW, RENAMED = range(3)


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
    open_calls, called_at = await open_calls_at(store, source, source.seq)
    plan = Plan(called_at if open_calls else source.seq + 1)
    comparison = _Comparison(plan, wanted)
    async with aclosing(messages_of(store, target, target.seq + 1)) as ours:
        async for page in ours:
            await _in_thread(comparison.take_ours, page)
    async with aclosing(theirs_of(store, source, plan)) as theirs:
        async for page_of_theirs in theirs:
            await _in_thread(comparison.take_theirs, page_of_theirs)
    comparison.conclude()
    return plan


class _Comparison:
    """Compares both sessions, and keeps a digest of each message."""

    def __init__(self, plan: Plan, wanted: Merge) -> None:
        self._plan = plan
        self._strategy = wanted.strategy
        # Maps the digest of a message's id to the digest of its content. `_doubles` has further
        # messages with the same id, as sessions of earlier versions may hold. Two ids with the same
        # digest count as one id with two different messages, so nothing is lost by that.
        self._known: dict[int, int] = {}
        self._doubles: set[tuple[int, int]] = set()
        self._ours = _Sequence()
        self._all_theirs = _Sequence()
        self._distinct = Distinct()
        self._clock = GroupClock()
        self._first_new_at: str | None = None
        self._closings: list[list[str]] = [[], []]
        self._closing_counts = [0, 0]

    def take_ours(self, page: list[Message]) -> None:
        for message in page:
            key, content = _digest_of_id(message.id), _digest_of(message)
            self._learn(key, content)
            self._ours.add(key, content)
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
                one = self._distinct.take(message)
                self._all_theirs.add(_digest_of_id(one.id), _digest_of(one))

    def _choice(self, message: Message) -> int:
        key, content = _digest_of_id(message.id), _digest_of(message)
        if key not in self._known:
            self._learn(key, content)
            return NEW
        if self._known[key] == content or (key, content) in self._doubles:
            return SHARED
        renamed = _digest_of_id(message.renamed(()).id)
        if renamed in self._known:
            return SHARED  # an earlier merge has added it
        self._learn(renamed, content)
        return RENAMED

    def _learn(self, key: int, content: int) -> None:
        if self._known.setdefault(key, content) != content:
            self._doubles.add((key, content))
        if len(self._known) + len(self._doubles) > MERGE_MESSAGES_MAX:
            raise TooLarge(f"A merge takes at most {MERGE_MESSAGES_MAX} messages.")

    def conclude(self) -> None:
        """Complete the plan."""
        plan = self._plan
        ours, new = self._ours.count, len(plan.choices) - plan.choices.count(SHARED)
        said_all = False
        match self._strategy:
            case "append":
                plan.written = new
            case "interleave":
                # When every message keeps its place, nothing has to be written again.
                plan.is_interleaved = bool(
                    ours and self._first_new_at and self._first_new_at < self._clock.latest
                )
                plan.replaces = plan.is_interleaved
                plan.written = new + (ours if plan.is_interleaved else 0)
            case "replace" if self._ours.digest() != self._all_theirs.digest():
                said_all = plan.replaces = True
                plan.written = len(plan.choices)
            case "replace":
                plan.choices = bytearray(len(plan.choices))
        if said_all:
            plan.choices = bytearray([NEW]) * len(plan.choices)
        if plan.written:
            which = 0 if said_all else 1
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


class Distinct:
    """Makes ids distinct, as `domain.messages.distinct`, but message by message."""

    def __init__(self) -> None:
        self._seen: set[int] = set()

    def __contains__(self, message_id: object) -> bool:
        return _digest_of_id(str(message_id)) in self._seen

    def take(self, message: Message) -> Message:
        """Return the message, with a new id if its own occurred before."""
        one = message.renamed(self) if message.id in self else message
        self._seen.add(_digest_of_id(one.id))
        return one


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
    store: SessionStore, head: SessionHead, before: int
) -> AsyncGenerator[list[Message]]:
    """Yield the messages of a session before a seq, a page at a time."""
    after = head.history_from
    while page := await history_page(store, head, after=after, before=before):
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
