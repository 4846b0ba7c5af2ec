"""Streamed lines: events that external programs post as NDJSON, stored while they arrive.

Each batch of lines is a commit of its own. The next batches are read and decided while it is in
flight; only the answer waits until everything is durable (R1). When a commit fails, so does
everything decided behind it, and the answer says how far the lines are stored.

Where several processes share the store, another one may be faster than a commit. Then the lines
that are not stored, which are kept until they are, are decided again on the new head. With a key
the log says first how many of them a repeat at another process has stored meanwhile.
"""

from asyncio import Lock
from collections import deque
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import suppress
from copy import copy
from dataclasses import replace
from functools import partial
from hashlib import sha256
from typing import TYPE_CHECKING, Any, Final, NamedTuple

import anyio

from bamboo_gateway.domain.callers import Caller
from bamboo_gateway.domain.codec import decode, encode
from bamboo_gateway.domain.errors import (
    BambooError,
    Conflict,
    IdempotencyKeyReused,
    LimitReached,
    Malformed,
    NotFound,
    RunEnded,
    TooLarge,
    Unavailable,
)
from bamboo_gateway.domain.limits import RUN_AHEAD_BYTES_MAX
from bamboo_gateway.domain.positions import Position
from bamboo_gateway.observability.tracing import span
from bamboo_gateway.sessions.access import unknown_session
from bamboo_gateway.sessions.answers import EventsAppended
from bamboo_gateway.sessions.commands import Idempotency, Outcome
from bamboo_gateway.sessions.context import Context
from bamboo_gateway.sessions.idempotency import KeptAnswer, RequestKey, request_key
from bamboo_gateway.sessions.named_files import known_files, with_known_files
from bamboo_gateway.sessions.runs.external import (
    ExternalRuns,
    OutsideEvent,
    PostedEvents,
    busy_with_another_post,
    can_feed,
    outside_event,
)
from bamboo_gateway.sessions.streaming.session_writer import (
    HeadMoved,
    LookAgain,
    SessionWriter,
    Vanished,
)
from bamboo_gateway.sessions.transaction import Decision, Transactions
from bamboo_gateway.storage.replicas import Presence, Replicas

if TYPE_CHECKING:
    from bamboo_gateway.domain.files import FileRecord

_GROWTH_MAX = 5
"""How much longer JSON may become when it is encoded again: `1e15` is `1000000000000000.0`."""

_LINES = "lines"
"""The body digest of each streamed request: its end is not known yet, so lines are compared."""

_ENVELOPE_BYTES = 256
"""The most that the gateway adds to a posted event: seq, time, run id and message id."""

_AHEAD_LINES_MAX = 1024
"""How many lines of a streamed request may be decided and not durable, besides their bytes
(`RUN_AHEAD_BYTES_MAX`): an event in memory takes some 600 bytes however short its line is."""

_FILE_ID: Final = b'"file_id"'
"""What a line has whose message names a file. One that hides it behind an escape is refused."""

_NOTHING: Final[EventsAppended] = {"first": None, "last": None, "count": 0}
"""The answer to a streamed request that has appended nothing."""


async def append_event_lines(
    context: Context,
    transactions: Transactions,
    external: ExternalRuns,
    caller: Caller,
    session_id: str,
    batches: AsyncIterator[list[bytes]],
    idem: Idempotency | None,
) -> Outcome[EventsAppended]:
    """Append NDJSON as it arrives. A repeat with the same key appends only what is missing.

    The session is looked up once for all batches.

    Raises:
        Malformed, InvalidEvent, TooLarge, RunEnded, LimitReached, Unavailable: A line is bad, there
            is no room for it, or it could not be stored; `extra` has its number (`line`) and what
            this request and its earlier tries have appended (`appended`).
    """
    key = request_key(caller, replace(idem, body_digest=_LINES) if idem is not None else None)

    async def take(writer: SessionWriter) -> Outcome[EventsAppended]:
        context.states.check_writable(writer.head)
        await context.quotas.stored.check_bytes(writer.head.user_id)
        post = partial(_Post, context, caller, transactions, external, writer, key)
        if key is None:
            return await post(None).run(batches)
        if (first_try := writer.streaming_keys.get(key.digest)) is not None:
            await first_try.wait()
            raise LookAgain
        with writer.streaming(key.digest):
            # The first answer does not end a repeat: it says which lines are stored already.
            kept = await transactions.first_answer(writer, key)
            return await post(kept).run(batches)

    return await transactions.registry.within(caller, session_id, take)


class _Stored(NamedTuple):
    """How much of a streamed request is decided, or durable.

    Attributes:
        line: How many lines.
        size: Their bytes.
        events: How many events were appended; earlier tries do not count.
        first_seq: The seq of the first one, or 0.
        last_seq: The seq of the last one, or 0.
    """

    line: int = 0
    size: int = 0
    events: int = 0
    first_seq: int = 0
    last_seq: int = 0


class _Place(NamedTuple):
    """How far a streamed request has come: the lines taken, their bytes, and their digest."""

    line: int
    size: int
    chain: str


class _Unstored(NamedTuple):
    """Lines that are decided and not durable yet, and the place before them."""

    before: _Place
    lines: list[bytes]


class _Post:
    """One streamed request that is writing to a session."""

    def __init__(
        self,
        context: Context,
        caller: Caller,
        transactions: Transactions,
        external: ExternalRuns,
        writer: SessionWriter,
        key: RequestKey | None,
        kept: KeptAnswer | None,
    ) -> None:
        self._context = context
        self._caller = caller
        self._files: dict[str, FileRecord] = {}
        self._transactions = transactions
        self._external = external
        self._writer = writer
        self._key = key
        self._kept = kept
        self._run_id: str | None = None
        # The run that this request alone posts to among all processes, where there are others.
        self._claimed: str | None = None
        self._lines = _Lines(kept, context.settings.max_event_bytes, is_keyed=key is not None)
        self._decided = self._durable = _Stored()
        self._in_flight = 0
        self._answered: anyio.Event | None = None
        self._failure: BambooError | None = None
        self._reading = anyio.CancelScope()
        self._todo: deque[list[bytes]] = deque()
        self._taking = Lock()
        # None where no other process can be faster.
        self._unstored: deque[_Unstored] | None = deque() if context.store.replicas else None
        self._has_moved = False
        self._has_appended = False
        self._bad_again: BambooError | None = None
        self._error_again: BambooError | LookAgain | None = None
        self._is_over = False

    async def run(self, batches: AsyncIterator[list[bytes]]) -> Outcome[EventsAppended]:
        """Store the batches as they come; each is one commit."""
        bad: BambooError | None = None
        try:
            with self._reading:
                bad = await self._take_all(batches)
            # A refusal says what was appended, so it waits like any other answer.
            with span("commit", session_id=self._writer.id, events=self._decided.events):
                await self._until(lambda: self._is_settled)
            if self._error_again is not None:
                raise self._error_again
            if self._failure is not None:
                raise self._placed(copy(self._failure), self._durable.line + 1)
            bad = self._bad_again or bad
            if bad is not None:
                bad = await self._reason(bad)
                raise self._placed(bad, self._lines.line + 1)
        except (Vanished, Conflict) as error:
            # Another session has the id now: these lines are not meant for it.
            raise unknown_session(self._writer.id) from error
        finally:
            self._is_over = True
            if self._run_id is not None:
                self._writer.release_posting(self._run_id)
            await self._unclaim()
        self._lines.check_end()
        replayed = self._kept is not None and not self._has_appended
        return Outcome(self._answer(self._durable), replayed=replayed)

    async def _take_all(self, batches: AsyncIterator[list[bytes]]) -> BambooError | None:
        """Decide all batches, up to the first bad line. Return what is wrong with that line."""
        try:
            quotas = self._context.quotas.stored
            async for lines in batches:
                if quotas.limits_bytes:
                    await quotas.check_bytes(self._writer.head.user_id)
                async with self._taking:
                    self._todo.append(lines)
                    if (bad := await self._take_todo()) is not None:
                        return bad
                if self._failure is not None:
                    break  # nothing may be stored behind it
                if self._is_ahead:
                    await self._until(lambda: not self._is_ahead)
        except (LimitReached, Unavailable) as full:  # there is no room for the line
            return full
        return None

    async def _take_todo(self) -> BambooError | None:
        """Decide the batches that were read, and those again that were not stored.

        Return what is wrong with a line.
        """
        while (self._todo or self._has_moved) and self._failure is None and not self._is_over:
            if self._has_moved:
                await self._go_back()
                continue
            lines = self._todo[0]
            if any(_FILE_ID in line for line in lines):
                await self._look_up_files(lines)
            if self._claimed is None and self._context.store.replicas is not None:
                await self._claim(lines, self._context.store.replicas)
            if not self._can_decide:
                with suppress(HeadMoved):
                    await self._prepare()
            elif (bad := self._take(self._todo.popleft())) is not None:
                return bad
        return None

    async def _go_back(self) -> None:
        """Take back the lines that were not stored because another process was faster."""
        # All that is on its way was decided on the same head, and is refused with it.
        await self._until(lambda: not self._in_flight)
        self._has_moved = False
        unstored = self._unstored
        if self._failure is not None or not unstored:
            return
        self._lines.go_back(unstored[0].before)
        self._todo.extendleft(one.lines for one in reversed(unstored))
        unstored.clear()
        await self._writer.ready()
        if self._key is not None:
            kept = await self._transactions.first_answer(self._writer, self._key)
            if kept is not None:
                self._kept = kept
                self._lines.see_kept(kept)
                # The answer for the key has these events.
                self._durable = self._durable._replace(events=0, first_seq=0, last_seq=0)
        self._decided = self._durable

    async def _take_again(self) -> None:
        """Decide the lines again that were not stored, while the next ones are waited for."""
        try:
            async with self._taking:
                self._bad_again = await self._take_todo()
        except (LimitReached, Unavailable) as full:
            self._bad_again = full
        except (BambooError, LookAgain) as error:
            self._error_again = error
        finally:
            if self._bad_again is not None or self._error_again is not None:
                self._reading.cancel()
            if self._answered is not None:
                self._answered.set()

    async def _look_up_files(self, lines: list[bytes]) -> None:
        """Look up the files that messages name; a line that names another one is refused."""
        events = []
        for line in lines:
            with suppress(BambooError, ValueError):
                if _FILE_ID in line:
                    events.append(outside_event(decode(line))[1])
        self._files = await known_files(self._context, self._caller, self._writer, events)

    async def _claim(self, lines: list[bytes], replicas: Replicas) -> None:
        """Claim the run of these lines among all processes; all events are of one run."""
        for line in lines:
            with suppress(BambooError, ValueError):
                run_id, _ = outside_event(decode(line))
                if run_id is not None:
                    if await self._has_claim(run_id, replicas):
                        self._claimed = run_id
                    return

    async def _has_claim(self, run_id: str, replicas: Replicas) -> bool:
        """Claim a run. A repeat takes it over from an earlier try, which may be cut off."""
        body = encode({"key": self._key.digest if self._key is not None else None})
        mine = Presence(self._writer.id, "posting", run_id, replicas.executor, body)
        if await replicas.claim(mine):
            return True
        others = await replicas.present("posting", [self._writer.id])
        return self._key is not None and all(
            other.body == body for other in others if other.name == run_id
        )

    async def _unclaim(self) -> None:
        replicas = self._context.store.replicas
        if replicas is not None and self._claimed is not None:
            with anyio.CancelScope(shield=True):
                await replicas.unclaim(self._writer.id, "posting", self._claimed)

    @property
    def _is_settled(self) -> bool:
        """Whether each line that was taken is durable or refused."""
        if self._in_flight or self._taking.locked():
            return False
        return not self._has_moved or self._failure is not None

    @property
    def _can_decide(self) -> bool:
        return can_feed(self._writer) and (self._key is None or self._writer.keys.is_loaded)

    async def _prepare(self) -> None:
        writer = self._writer
        active = writer.head.active
        # A run that has ended while this waited may be another one than that of the lines.
        with suppress(RunEnded):
            await self._external.hold(writer, {active.run_id} if active else set())
        if self._key is not None and not writer.keys.is_loaded:
            await writer.keys.load(self._context.store, writer.id, writer.epoch)

    def _take(self, lines: list[bytes]) -> BambooError | None:
        """Decide a batch up to its first bad line. Return what is wrong with that line."""
        self._context.states.check_writable(self._writer.head)
        posted = self._external.posted(self._writer)
        bad: BambooError | None = None
        before = self._lines.place
        try:
            for line in lines:
                if (event := self._lines.read(line)) is not None:
                    run_id, said = event
                    if run_id is not None and run_id != self._run_id:
                        self._hold_run(run_id)
                    posted.feed(run_id, with_known_files(said, self._files))
                self._lines.take(line)
        except BambooError as error:
            bad = error
        if self._unstored is not None and (posted.drafts or self._unstored):
            taken = self._lines.line - before.line
            self._unstored.append(_Unstored(before, lines[:taken]))
        if posted.drafts:
            self._hand_over(posted)
        return bad

    def _hold_run(self, run_id: str) -> None:
        """Make this request the only producer of the run."""
        # Also when this request holds another run: all its events are of one run.
        is_elsewhere = self._context.store.replicas is not None and run_id != self._claimed
        if is_elsewhere or not self._writer.claim_posting(run_id):
            raise busy_with_another_post()
        self._run_id = run_id

    def _hand_over(self, posted: PostedEvents) -> None:
        lines, before = self._lines, self._decided
        first_seq = self._writer.head.seq + 1
        decided = self._decided = _Stored(
            lines.line,
            lines.size,
            before.events + posted.count,
            before.first_seq or first_seq,
            first_seq + len(posted.drafts) - 1,
        )
        answer: Mapping[str, Any] = self._answer(decided) if self._key is not None else {}
        self._in_flight += 1
        with suppress(BambooError):  # `_note` has it
            self._transactions.hand_over(
                self._writer,
                Decision(posted.drafts, answer, (posted,)),
                self._key,
                partial(self._note, decided),
                lines=lines.line,
                chain=lines.chain,
            )

    def _note(self, decided: _Stored, error: BambooError | None) -> None:
        """Note the outcome of a commit, and stop reading when it failed."""
        self._in_flight -= 1
        if error is None:
            self._durable = decided
            self._has_appended = True
            while self._unstored and self._unstored[0].before.line < decided.line:
                self._unstored.popleft()
        elif isinstance(error, HeadMoved):
            if not self._has_moved:
                self._has_moved = True
                name = f"lines again {self._writer.id}"
                self._context.tasks.spawn(self._take_again, name=name)
        elif self._failure is None:
            self._failure = error
            self._reading.cancel()
        if self._answered is not None:
            self._answered.set()

    @property
    def _is_ahead(self) -> bool:
        """Whether too much is decided and not durable (R11)."""
        decided, durable = self._decided, self._durable
        return (
            decided.line - durable.line > _AHEAD_LINES_MAX
            or decided.size - durable.size > RUN_AHEAD_BYTES_MAX
        )

    async def _until(self, holds: Callable[[], bool]) -> None:
        """Wait for commits to be answered until the condition holds."""
        while not holds():
            self._answered = anyio.Event()
            await self._answered.wait()

    async def _reason(self, bad: BambooError) -> BambooError:
        """Return why a line is bad: a run that is not open may have ended."""
        if isinstance(bad, NotFound) and self._run_id is not None:
            try:
                await self._external.hold(self._writer, {self._run_id})
            except RunEnded as ended:
                return ended
        return bad

    def _placed(self, bad: BambooError, line: int) -> BambooError:
        bad.extra = {**bad.extra, "line": line, "appended": self._answer(self._durable)}
        return bad

    def _answer(self, stored: _Stored) -> EventsAppended:
        """Return what this request and its earlier tries have appended together."""
        epoch = self._writer.epoch
        earlier = self._kept.answer if self._kept is not None else _NOTHING
        first, last = earlier["first"], earlier.get("last")
        if stored.events:
            first = first or str(Position(epoch, stored.first_seq))
            last = str(Position(epoch, stored.last_seq))
        return {"first": first, "last": last, "count": earlier["count"] + stored.events}


class _Lines:
    """Reads the lines of one streamed request.

    With every commit the request's key keeps how many lines are stored, and a chained digest of
    them. So a repeat knows which lines to skip, and notices lines that differ.

    Attributes:
        line: How many lines were taken.
        size: Their bytes.
        chain: The chained digest of them; empty without a key.
    """

    def __init__(self, kept: KeptAnswer | None, line_bytes_max: int, *, is_keyed: bool) -> None:
        self.line = 0
        self.size = 0
        self.chain = ""
        self._kept = kept
        self._is_keyed = is_keyed
        self._line_bytes_max = line_bytes_max
        self._size_max = line_bytes_max - _ENVELOPE_BYTES
        self._chain_after = ""

    @property
    def place(self) -> _Place:
        """How far the request has come."""
        return _Place(self.line, self.size, self.chain)

    def go_back(self, place: _Place) -> None:
        """Go on from a place before."""
        self.line, self.size, self.chain = place

    def see_kept(self, kept: KeptAnswer) -> None:
        """Take in what is stored for the key by now."""
        self._kept = kept

    def read(self, line: bytes) -> OutsideEvent | None:
        """Read the next line. Return None when it is empty, or an earlier try has stored it.

        Raises:
            Malformed, InvalidEvent, TooLarge: The line is bad.
            IdempotencyKeyReused: Other lines are stored under the key.
        """
        if self._is_keyed:
            self._chain_after = sha256(self.chain.encode() + line).hexdigest()[:32]
            if (kept := self._kept) is not None and self.line < kept.lines:
                if self.line + 1 == kept.lines and self._chain_after != kept.chain:
                    raise _other_lines()
                return None
        return self._event(line) if line.strip() else None

    def take(self, line: bytes) -> None:
        """Count the line that was read last."""
        self.line += 1
        self.size += len(line)
        self.chain = self._chain_after

    def check_end(self) -> None:
        """Refuse a body that is shorter than what an earlier try has stored of it.

        Raises:
            IdempotencyKeyReused: The body is shorter, so it is another one.
        """
        if self._kept is not None and self.line < self._kept.lines:
            raise _other_lines()

    def _event(self, line: bytes) -> OutsideEvent:
        size = len(line)
        value = None
        if size <= self._size_max:
            try:
                value = decode(line)
            except ValueError as error:
                raise Malformed(f"The line is not JSON: {error}") from error
            if size * _GROWTH_MAX > self._line_bytes_max:
                size = len(encode(value))
        # The one check of a line's size. It names the line, which the session writer's check of the
        # whole commit could not.
        if size > self._size_max:
            raise TooLarge(
                f"The line is larger than {self._size_max} bytes (max_event_bytes).",
                code="event-too-large",
            )
        return outside_event(value)


def _other_lines() -> IdempotencyKeyReused:
    return IdempotencyKeyReused(
        "This Idempotency-Key was used before with other lines. Use a new key."
    )
