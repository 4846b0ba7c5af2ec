"""Events that programs outside post: one, an array, or NDJSON as it arrives."""

from collections.abc import AsyncIterator
from dataclasses import replace
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
from bamboo_gateway.domain.events import TERMINAL_TYPES, AgentEvent, Draft
from bamboo_gateway.domain.positions import Position
from bamboo_gateway.sessions.access import unknown_session
from bamboo_gateway.sessions.commands import Idempotency, Outcome
from bamboo_gateway.sessions.idempotency import KeptAnswer, key_digest
from bamboo_gateway.sessions.pool import Decision, SessionPool
from bamboo_gateway.sessions.runs.external import (
    ExternalRuns,
    already_ended,
    busy_with_another_post,
    drafts_of,
    outside_event,
)
from bamboo_gateway.sessions.streaming.session_writer import SessionWriter, Vanished

_GROWTH_MAX = 5
"""How much longer JSON may become when it is written again: `1e15` is `1000000000000000.0`."""

OutsideEvent = tuple[str | None, AgentEvent]

_LINES = "lines"
"""What stands for the body's digest of a streamed request, whose end is not known yet."""

_ENVELOPE_BYTES = 256
"""What the gateway adds to a posted event at most: seq, time, run and message ids."""


async def append_events(
    pool: SessionPool,
    external: ExternalRuns,
    caller: Caller,
    session_id: str,
    values: list[Any],
    idem: Idempotency | None,
) -> Outcome:
    """Appends events of a program outside; see `SessionManager.append_events`."""
    events = []
    for number, value in enumerate(values):
        try:
            events.append(outside_event(value))
        except InvalidEvent as error:
            error.extra["index"] = number
            raise
    run_ids = {run_id for run_id, _ in events if run_id is not None}

    async def prepare(live: SessionWriter) -> None:
        await external.hold(live, run_ids)

    def decide(live: SessionWriter) -> Decision:
        held = live.external
        drafts, ends = _feed_all(live, events, pool.clock.monotonic())
        first = live.head.seq + 1
        answer = {
            "first": str(Position(live.epoch, first)) if drafts else None,
            "last": str(Position(live.epoch, first + len(drafts) - 1)) if drafts else None,
            "count": len(events),
        }

        def durable(error: BambooError | None) -> None:
            if error is not None and live.external is held:
                live.external = None
            if ends:
                pool.slot_free(live)

        return Decision(drafts, answer, [durable])

    return await pool.change(caller, session_id, decide, idem=idem, prepare=prepare)


def _feed_all(
    live: SessionWriter, events: list[OutsideEvent], now: float
) -> tuple[list[Draft], bool]:
    """Gives what the events become together, and whether a run ends with them; all or nothing."""
    drafts: list[Draft] = []
    ended: str | None = None
    for number, (run_id, event) in enumerate(events):
        try:
            if run_id is not None and run_id == live.posting:
                raise busy_with_another_post()
            if run_id is not None and run_id == ended:
                raise already_ended(run_id)
            drafts += drafts_of(live, run_id, event, now)
        except BambooError as error:
            # What was fed already is taken back: the log makes the run's state again.
            live.external = None
            error.extra["index"] = number
            raise
        if run_id is not None and event.type in TERMINAL_TYPES:
            ended = run_id
    return drafts, ended is not None


class _Lines:
    """How far one streamed request has come: what is stored, and what its key keeps of that.

    The key's note moves on with every commit: how many lines are stored, and a chained digest of
    them, so that a repeat knows what to skip and notices another body.
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
        """Gives what this request and its earlier tries have appended together."""
        return {"first": self._first, "last": self._last, "count": self._count}

    def store(self, first: int, drafts: int, events: int) -> None:
        """Counts events that are being committed, and the drafts that they became."""
        self._first = self._first or str(Position(self._epoch, first))
        self._last = str(Position(self._epoch, first + drafts - 1))
        self._count += events
        self.appended += events

    def take(self, line: bytes) -> OutsideEvent | None:
        """Reads the next line; None when it is empty, or stored by an earlier try.

        Raises:
            Malformed, InvalidEvent, TooLarge: The line is bad; it does not count.
            IdempotencyKeyReused: The lines stored under the key were others.
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
        """Refuses a body that ends before what an earlier try has stored of it.

        Raises:
            IdempotencyKeyReused: It is shorter, so it is another.
        """
        if self._kept is not None and self.line < self._kept.lines:
            raise _other_lines()

    def _read(self, line: bytes) -> OutsideEvent:
        if len(line) + _ENVELOPE_BYTES > self._line_bytes_max:
            raise self._too_large()
        try:
            value = decode(line)
        except ValueError as error:
            raise Malformed(f"The line is not JSON: {error}") from error
        size = len(line)
        if size * _GROWTH_MAX > self._line_bytes_max:
            size = len(encode(value))
        if size + _ENVELOPE_BYTES > self._line_bytes_max:
            raise self._too_large()
        return outside_event(value)

    def _too_large(self) -> TooLarge:
        return TooLarge(
            f"A line may have {self._line_bytes_max - _ENVELOPE_BYTES} bytes (max_event_bytes).",
            code="event-too-large",
        )


async def append_event_lines(
    pool: SessionPool,
    external: ExternalRuns,
    caller: Caller,
    session_id: str,
    batches: AsyncIterator[list[bytes]],
    idem: Idempotency | None,
) -> Outcome:
    """Appends NDJSON as it arrives; see `SessionManager.append_event_lines`.

    Raises:
        Malformed, InvalidEvent, TooLarge, RunEnded, LimitReached, Unavailable: A bad line, or one
            without room; `extra` has its number (`line`) and what this request and its earlier
            tries have appended (`appended`).
    """
    digest = None
    if idem is not None:
        idem = replace(idem, body_digest=_LINES)
        digest = key_digest(caller, idem)
    while True:
        try:
            async with pool.use(caller, session_id) as live:
                pool.check_writable(live.head)
                if digest is None or idem is None:
                    return await _Post(pool, external, live, None, None).run(batches)
                if (first_try := live.streaming_keys.get(digest)) is not None:
                    await first_try.wait()
                    continue
                with live.streaming(digest):
                    kept = await pool.kept_answer(live, digest, idem)
                    return await _Post(pool, external, live, digest, kept).run(batches)
        except Vanished:
            continue


def _other_lines() -> IdempotencyKeyReused:
    return IdempotencyKeyReused(
        "This Idempotency-Key was used before with other lines; use a new key."
    )


class _Post:
    """One streamed request at work in a session."""

    def __init__(
        self,
        pool: SessionPool,
        external: ExternalRuns,
        live: SessionWriter,
        digest: str | None,
        kept: KeptAnswer | None,
    ) -> None:
        self._pool = pool
        self._external = external
        self._live = live
        self._digest = digest
        self._kept = kept
        self._run_id: str | None = None
        self._lines = _Lines(live.epoch, kept, pool.settings.max_event_bytes)

    async def run(self, batches: AsyncIterator[list[bytes]]) -> Outcome:
        """Takes the batches as they come; each is one commit."""
        live = self._live
        try:
            while (lines := await self._next(batches)) is not None:
                try:
                    bad = await self._take(lines)
                except (Vanished, Conflict) as error:
                    # What is under this id now is another session: these lines were not meant.
                    raise unknown_session(live.id) from error
                if bad is not None:
                    raise self._placed(bad)
        finally:
            if self._run_id is not None and live.posting == self._run_id:
                live.posting = None
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
        """Stores a batch up to its first bad line; gives what is wrong with that."""
        live, pool = self._live, self._pool
        while True:
            active = live.head.active
            await self._external.hold(live, {active.run_id} if active else set())
            if self._digest is None or live.keys.is_loaded:
                break
            await live.keys.load(pool.store, live.id, live.epoch)
        try:
            pool.check_writable(live.head)
        except LimitReached as full:
            return full
        drafts: list[Draft] = []
        events = 0
        bad: BambooError | None = None
        ends = False
        for line in lines:
            before = self._lines.line, self._lines.chain
            try:
                taken = self._lines.take(line)
                if taken is None:
                    continue
                self._hold_run(taken[0])
                drafts += drafts_of(live, *taken, pool.clock.monotonic())
            except BambooError as error:
                self._lines.line, self._lines.chain = before
                bad = error
                break
            events += 1
            ends = ends or (taken[0] is not None and taken[1].type in TERMINAL_TYPES)
        if drafts:
            await self._commit(drafts, events, ends=ends)
        if isinstance(bad, NotFound) and self._run_id is not None:
            try:
                await self._external.hold(live, {self._run_id})
            except RunEnded as ended:
                return ended
        return bad

    def _hold_run(self, run_id: str | None) -> None:
        """Makes this request the one producer of the run."""
        if run_id is None or run_id == self._run_id:
            return
        if self._live.posting is not None:
            raise busy_with_another_post()
        if self._run_id is not None:
            raise InvalidEvent("One request posts events of one run.")
        self._run_id = self._live.posting = run_id

    async def _commit(self, drafts: list[Draft], events: int, *, ends: bool) -> None:
        live, pool = self._live, self._pool
        self._lines.store(live.head.seq + 1, len(drafts), events)
        note, take_back = None, None
        if self._digest is not None:
            state = self._lines
            kept = KeptAnswer(_LINES, state.answer(), pool.clock.now_ms(), state.line, state.chain)
            note, take_back = live.keys.put(self._digest, kept)

        def durable(_: BambooError | None) -> None:
            if ends:
                self._pool.slot_free(live)

        try:
            await live.commit(drafts, note=note, waiters=[durable])
        except BambooError:
            if take_back is not None:
                take_back()
            live.external = None
            raise
