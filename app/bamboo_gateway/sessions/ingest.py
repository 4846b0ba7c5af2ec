"""Ingest: events that external programs post, as a list or as NDJSON while it arrives."""

from collections.abc import AsyncIterator
from dataclasses import replace
from functools import partial
from hashlib import sha256
from typing import Any

from bamboo_gateway.domain.callers import Caller
from bamboo_gateway.domain.codec import decode, encode
from bamboo_gateway.domain.errors import (
    BambooError,
    Conflict,
    IdempotencyKeyReused,
    InvalidEvent,
    LimitReached,
    Malformed,
    NotFound,
    RunEnded,
    TooLarge,
    Unavailable,
)
from bamboo_gateway.domain.events import AgentEvent
from bamboo_gateway.domain.positions import Position
from bamboo_gateway.sessions.access import unknown_session
from bamboo_gateway.sessions.commands import Idempotency, Outcome
from bamboo_gateway.sessions.context import Context
from bamboo_gateway.sessions.idempotency import KeptAnswer, RequestKey, request_key
from bamboo_gateway.sessions.runs.external import (
    ExternalRuns,
    PostedEvents,
    busy_with_another_post,
    outside_event,
)
from bamboo_gateway.sessions.streaming.session_writer import (
    LookAgain,
    SessionWriter,
    Vanished,
)
from bamboo_gateway.sessions.transaction import Decision, Transactions

_GROWTH_MAX = 5
"""How much longer JSON may become when it is encoded again: `1e15` is `1000000000000000.0`."""

OutsideEvent = tuple[str | None, AgentEvent]

_LINES = "lines"
"""The body digest of each streamed request: its end is not known yet, so lines are compared."""

_ENVELOPE_BYTES = 256
"""The most that the gateway adds to a posted event: seq, time, run id and message id."""


async def append_events(
    context: Context,
    transactions: Transactions,
    external: ExternalRuns,
    caller: Caller,
    session_id: str,
    values: list[Any],
    idem: Idempotency | None,
) -> Outcome:
    """Append events that an external program posts, all or none.

    Raises:
        InvalidEvent, NotFound, RunActive, RunEnded, Refused: An event is refused; `extra` has its
            `index` in the list.
    """
    events = []
    for number, value in enumerate(values):
        try:
            events.append(outside_event(value))
        except InvalidEvent as error:
            error.extra["index"] = number
            raise
    run_ids = {run_id for run_id, _ in events if run_id is not None}

    async def prepare(writer: SessionWriter) -> None:
        await external.hold(writer, run_ids)

    def decide(writer: SessionWriter) -> Decision:
        posted = _fed(writer, events)
        drafts = posted.drafts
        first = writer.head.seq + 1
        answer = {
            "first": str(Position(writer.epoch, first)) if drafts else None,
            "last": str(Position(writer.epoch, first + len(drafts) - 1)) if drafts else None,
            "count": len(events),
        }
        return Decision(drafts, answer, (posted.effect(external, context.clock.monotonic()),))

    return await transactions.run(caller, session_id, decide, prepare=prepare, idem=idem)


def _fed(writer: SessionWriter, events: list[OutsideEvent]) -> PostedEvents:
    """Feed all events or none."""
    posted = PostedEvents(writer)
    for number, (run_id, event) in enumerate(events):
        try:
            if run_id is not None and run_id == writer.posting:
                raise busy_with_another_post()
            posted.feed(run_id, event)
        except BambooError as error:
            # Events before this one were fed, and will not be stored.
            writer.drop_external()
            error.extra["index"] = number
            raise
    return posted


class _Lines:
    """The progress of one streamed request.

    With every commit the request's key keeps how many lines are stored, and a chained digest of
    them. So a repeat knows which lines to skip, and notices lines that differ.
    """

    def __init__(self, epoch: int, kept: KeptAnswer | None, line_bytes_max: int) -> None:
        self.line = 0
        self.chain = ""
        self.appended = 0
        self._epoch = epoch
        self._kept = kept
        self._line_bytes_max = line_bytes_max
        answer: dict[str, Any] = kept.answer if kept is not None else {"first": None, "count": 0}
        self._first: str | None = answer["first"]
        self._last: str | None = answer.get("last")
        self._count: int = answer["count"]

    def answer(self) -> dict[str, Any]:
        """Return what this request and its earlier tries have appended together."""
        return {"first": self._first, "last": self._last, "count": self._count}

    def store(self, first: int, drafts: int, events: int) -> None:
        """Count events that are being committed, and the drafts that they became."""
        self._first = self._first or str(Position(self._epoch, first))
        self._last = str(Position(self._epoch, first + drafts - 1))
        self._count += events
        self.appended += events

    def take(self, line: bytes) -> OutsideEvent | None:
        """Read the next line. Return None when it is empty, or an earlier try has stored it.

        Raises:
            Malformed, InvalidEvent, TooLarge: The line is bad; it does not count.
            IdempotencyKeyReused: Other lines are stored under the key.
        """
        chain = sha256(self.chain.encode() + line).hexdigest()[:32]
        number = self.line + 1
        event = None
        if self._kept is not None and number <= self._kept.lines:
            if number == self._kept.lines and chain != self._kept.chain:
                raise _other_lines()
        elif line.strip():
            event = self._read(line)
        self.line, self.chain = number, chain
        return event

    def check_end(self) -> None:
        """Refuse a body that is shorter than what an earlier try has stored of it.

        Raises:
            IdempotencyKeyReused: The body is shorter, so it is another one.
        """
        if self._kept is not None and self.line < self._kept.lines:
            raise _other_lines()

    def _read(self, line: bytes) -> OutsideEvent:
        size_max = self._line_bytes_max - _ENVELOPE_BYTES
        size = len(line)
        value = None
        if size <= size_max:
            try:
                value = decode(line)
            except ValueError as error:
                raise Malformed(f"The line is not JSON: {error}") from error
            if size * _GROWTH_MAX > self._line_bytes_max:
                size = len(encode(value))
        # The one check of a line's size. It names the line, which the session writer's check of the
        # whole commit could not.
        if size > size_max:
            raise TooLarge(
                f"The line is larger than {size_max} bytes (max_event_bytes).",
                code="event-too-large",
            )
        return outside_event(value)


async def append_event_lines(
    context: Context,
    transactions: Transactions,
    external: ExternalRuns,
    caller: Caller,
    session_id: str,
    batches: AsyncIterator[list[bytes]],
    idem: Idempotency | None,
) -> Outcome:
    """Append NDJSON as it arrives. A repeat with the same key appends only what is missing.

    Each batch is a transaction of its own. The session is looked up once for all of them.

    Raises:
        Malformed, InvalidEvent, TooLarge, RunEnded, LimitReached, Unavailable: A line is bad, or
            there is no room for it; `extra` has its number (`line`) and what this request and its
            earlier tries have appended (`appended`).
    """
    key = request_key(caller, replace(idem, body_digest=_LINES) if idem is not None else None)

    async def take(writer: SessionWriter) -> Outcome:
        context.states.check_writable(writer.head)
        post = partial(_Post, context, transactions, external, writer, key)
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


def _other_lines() -> IdempotencyKeyReused:
    return IdempotencyKeyReused(
        "This Idempotency-Key was used before with other lines. Use a new key."
    )


class _Post:
    """One streamed request that is writing to a session."""

    def __init__(
        self,
        context: Context,
        transactions: Transactions,
        external: ExternalRuns,
        writer: SessionWriter,
        key: RequestKey | None,
        kept: KeptAnswer | None,
    ) -> None:
        self._context = context
        self._transactions = transactions
        self._external = external
        self._writer = writer
        self._key = key
        self._kept = kept
        self._run_id: str | None = None
        self._lines = _Lines(writer.epoch, kept, context.settings.max_event_bytes)

    async def run(self, batches: AsyncIterator[list[bytes]]) -> Outcome:
        """Store the batches as they come; each is one commit."""
        writer = self._writer
        try:
            while (lines := await self._next(batches)) is not None:
                try:
                    bad = await self._take(lines)
                except (Vanished, Conflict) as error:
                    # Another session has the id now: these lines are not meant for it.
                    raise unknown_session(writer.id) from error
                if bad is not None:
                    raise self._placed(bad)
        finally:
            if self._run_id is not None:
                writer.release_posting(self._run_id)
        self._lines.check_end()
        replayed = self._kept is not None and not self._lines.appended
        return Outcome(self._lines.answer(), replayed=replayed)

    async def _next(self, batches: AsyncIterator[list[bytes]]) -> list[bytes] | None:
        try:
            return await anext(batches, None)
        except (LimitReached, Unavailable) as full:  # there is no room for the line
            self._placed(full)
            raise

    def _placed(self, bad: BambooError) -> BambooError:
        bad.extra |= {"line": self._lines.line + 1, "appended": self._lines.answer()}
        return bad

    async def _take(self, lines: list[bytes]) -> BambooError | None:
        """Store a batch up to its first bad line. Return what is wrong with that line."""
        writer = self._writer
        while True:
            active = writer.head.active
            await self._external.hold(writer, {active.run_id} if active else set())
            if self._key is None or writer.keys.is_loaded:
                break
            await writer.keys.load(self._context.store, writer.id, writer.epoch)
        try:
            self._context.states.check_writable(writer.head)
        except LimitReached as full:
            return full
        posted = PostedEvents(writer)
        bad: BambooError | None = None
        for line in lines:
            before = self._lines.line, self._lines.chain
            try:
                taken = self._lines.take(line)
                if taken is None:
                    continue
                self._hold_run(taken[0])
                posted.feed(*taken)
            except BambooError as error:
                self._lines.line, self._lines.chain = before
                bad = error
                break
        if posted.drafts:
            await self._commit(posted)
        if isinstance(bad, NotFound) and self._run_id is not None:
            try:
                await self._external.hold(writer, {self._run_id})
            except RunEnded as ended:
                return ended
        return bad

    def _hold_run(self, run_id: str | None) -> None:
        """Make this request the only producer of the run."""
        if run_id is None or run_id == self._run_id:
            return
        # Also when this request holds another run: all its events are of one run.
        if not self._writer.claim_posting(run_id):
            raise busy_with_another_post()
        self._run_id = run_id

    async def _commit(self, posted: PostedEvents) -> None:
        writer, lines = self._writer, self._lines
        lines.store(writer.head.seq + 1, len(posted.drafts), posted.count)
        follows = posted.effect(self._external, self._context.clock.monotonic())
        await self._transactions.commit(
            writer,
            Decision(posted.drafts, lines.answer(), (follows,)),
            self._key,
            lines=lines.line,
            chain=lines.chain,
        )
