"""SessionWriter: the single writer of one session, while it is in memory.

It decides synchronously on `head`, which may be ahead of the disk. Others see only the events of
durable commits (R1). One commit is in flight at a time; decisions made meanwhile gather into the
next commit. When a commit fails, the writer undoes everything decided after the durable head: the
head is loaded again, and each waiting call gets the error.

Where several processes share the store, `head` may also be behind the disk. A commit names the
version that it was decided on, and the store refuses it when another process was faster. Then each
waiting call gets `HeadMoved`, and decides again on the head that is loaded; the writer itself
decides what the active run has said again, in the same order.

Durable events are published in the session's `Channel`, which stays while somebody reads. The
writer leaves memory once it has nothing to do.
"""

from asyncio import Future, Lock, get_running_loop
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from typing import Any, NamedTuple, Protocol

import anyio
from anyio.lowlevel import checkpoint

from bamboo_gateway.bus.base import Notice
from bamboo_gateway.domain.branch_folds import linked
from bamboo_gateway.domain.clock import Clock, format_ms
from bamboo_gateway.domain.codec import encode
from bamboo_gateway.domain.deltas import Delta, DeltaStem, joined
from bamboo_gateway.domain.errors import (
    BambooError,
    Conflict,
    InvalidEvent,
    RunActive,
    TooLarge,
    Unavailable,
)
from bamboo_gateway.domain.events import DELTA_TYPES, TERMINAL_TYPES, Draft, TerminalEvent
from bamboo_gateway.domain.limits import COALESCED_BYTES_MAX, RUN_AHEAD_BYTES_MAX
from bamboo_gateway.domain.message_assembler import MessageAssembler
from bamboo_gateway.domain.projections import fold
from bamboo_gateway.domain.sessions import ActiveRun, SessionHead
from bamboo_gateway.sessions.idempotency import KeptNote, KeyLedger
from bamboo_gateway.sessions.metrics import Tally
from bamboo_gateway.sessions.streaming.channel import Channel
from bamboo_gateway.sessions.streaming.rendering import GoodbyeReason
from bamboo_gateway.sessions.streaming.subscription import EndedRun
from bamboo_gateway.sessions.streaming.undone import undone_drafts
from bamboo_gateway.storage.base import Done, SessionStore
from bamboo_gateway.storage.commits import Commit, Event, Note
from bamboo_gateway.storage.replicas import Look

Waiter = Callable[[BambooError | None], None]
_MARKED_RUN_TYPES = TERMINAL_TYPES | {"run_queued", "run_start"}


_JOINED_TEXT_BYTES = 80
"""What a text that waits takes in memory beside its own bytes: two objects with their places in two
lists. Texts of a few bytes would run far ahead of the disk otherwise (R11)."""


_CONFLICTS_MAX = 2
"""How often in a row another process may be faster before the session is locked for a commit. A
second try gets through beside all but the busiest writers."""


OnChange = Callable[[Sequence[Event]], None]
"""Called with the events of a durable commit, or without events after any other change."""


Handover = Callable[[Commit, Done], None]
"""Called with one commit in place of `SessionStore.append`, while its session is locked."""


class Runner(Protocol):
    """The task of the active run, as the session writer sees it."""

    run_id: str

    def cancel(self, terminal: TerminalEvent) -> None:
        """End with this terminal event."""

    def broken(self, error: BambooError) -> None:
        """End the run: some of its events could not be stored."""

    def abandon(self) -> None:
        """End without a terminal event: the session is gone."""

    def is_making(self, message_id: str) -> bool:
        """Return whether the run has begun a message of this id and not finished it."""

    def executes(self, active: ActiveRun) -> bool:
        """Return whether the active run is this one, and no other process's."""

    def moved(self, last_seq: int) -> None:
        """Note that what the run said has other seqs now, up to this one: it was decided again."""

    def wished(self, terminal: dict[str, Any]) -> None:
        """End the run as another process wishes it to end (`ActiveRun.wish`)."""


class ExternalRun:
    """The unfinished messages of an open external run, as this process has them in memory.

    It is dropped whenever it may be ahead of the log, and then made again by replaying the log.
    """

    def __init__(self, run_id: str, assembler: MessageAssembler, now: float) -> None:
        self.run_id = run_id
        self.assembler = assembler
        self.last_event_at = now


class LookAgain(Exception):
    """Raised by a call that must look its session up again (`SessionRegistry.within`)."""


class Vanished(LookAgain):
    """Raised in a waiting call when the session was deleted or its creation failed."""


class HeadMoved(Unavailable, LookAgain):
    """Raised in a waiting call when another process has moved the head.

    Nothing of what was decided is stored. Whoever cannot look again treats it as `Unavailable`.
    """


class Wish(NamedTuple):
    """The wish that a run which another process executes ends.

    Attributes:
        run_id: The run.
        terminal: The terminal event that it is to end with.
    """

    run_id: str
    terminal: dict[str, Any]


class _Batch:
    """The events decided since the last commit was handed to the store.

    Attributes:
        stem: That of the last event, while further deltas may join it.
        joining: The texts that have joined it.
        room: How many bytes may still join it.
    """

    __slots__ = ("events", "extras", "joining", "reserve", "room", "size", "stem")

    def __init__(self) -> None:
        self.events: list[Event] = []
        self.extras: _Extras | None = None
        self.size = 0
        self.reserve = False
        self.stem: DeltaStem | None = None
        self.joining: list[bytes] = []
        self.room = 0

    def join(self, text: bytes) -> None:
        """Add a text to the last event."""
        self.joining.append(text)
        self.room -= len(text)
        self.size += len(text) + _JOINED_TEXT_BYTES

    def close_last(self) -> None:
        """Let no further delta join the last event."""
        self.stem = None
        if self.joining:
            seq, kind, body = self.events[-1]
            self.events[-1] = Event(seq, kind, joined(body, self.joining))
            self.joining = []

    def with_extras(self) -> "_Extras":
        """Return the extras; the first call makes them."""
        if self.extras is None:
            self.extras = _Extras()
        return self.extras


class _Extras:
    """What a batch has beside its events. Most batches are one delta of a run and have none."""

    __slots__ = (
        "answered",
        "closes",
        "executor",
        "has_wish",
        "message_ids",
        "notable",
        "notes",
        "waiters",
    )

    def __init__(self) -> None:
        # The first and last seq of each decision that a call waits for: it decides again itself.
        self.answered: list[tuple[int, int]] = []
        self.executor: str | None = None
        self.closes: str | None = None
        self.has_wish = False
        self.notes: list[Note] = []
        self.message_ids: list[str] = []
        self.notable: list[tuple[str, str | None, int]] = []
        self.waiters: list[Waiter] = []


class SessionWriter:
    """The single writer of one session's log.

    Attributes:
        head: The head after everything decided; its `seq` may be ahead of `durable_seq`.
        channel: Where durable events are published for readers.
        tally: The counters of the process.
        run: The task of the active run, when this process executes one.
        external: The unfinished messages of an open external run, once they were needed.
        packing: Locked while the archived log is compressed or decompressed.
        posting: The external run whose events a streamed request is posting.
        streaming_keys: The digest of each key whose streamed request is active, with the event that
            is set when the request ends.
        keys: The answers kept for idempotency keys.
        users: How many calls use the session; it stays in memory while there are any.
        waiting_message_ids: For each queued run the message ids of its input. The input of a run
            that is missing here is in the log.
        made_for: The user who is creating the session, until it has an owner; None: no user.
        last_used: When the last call ended, on the monotonic clock.
        gone: The session was deleted, or its creation failed.
    """

    # The attributes are too many for a shared key table, and each event reads many of them.
    __slots__ = (
        "_batch",
        "_changed",
        "_clock",
        "_conflicts",
        "_counted",
        "_exists",
        "_flying",
        "_flying_since",
        "_handover",
        "_has_failed",
        "_id_watchers",
        "_joined_bytes_max",
        "_load_error",
        "_max_event_bytes",
        "_open_gate",
        "_reload_wanted",
        "_replicas",
        "_run_waiters",
        "_store",
        "_told",
        "_undone",
        "channel",
        "epoch",
        "external",
        "gone",
        "head",
        "id",
        "keys",
        "last_used",
        "made_for",
        "packing",
        "posting",
        "run",
        "starting",
        "streaming_keys",
        "tally",
        "users",
        "waiting_message_ids",
    )

    def __init__(
        self,
        head: SessionHead,
        channel: Channel,
        store: SessionStore,
        clock: Clock,
        tally: Tally,
        *,
        exists: bool,
        made_for: str | None = None,
        max_event_bytes: int,
        keys: KeyLedger,
    ) -> None:
        self.id = head.id
        self.epoch = head.epoch
        self.head = channel.head = head
        self.channel = channel
        self.run: Runner | None = None
        self.external: ExternalRun | None = None
        self.posting: str | None = None
        self.packing = Lock()
        self.streaming_keys: dict[str, anyio.Event] = {}
        self.keys = keys
        self.starting = False
        self.users = 0
        self.made_for = made_for
        self.last_used = clock.monotonic()
        self.gone = False
        self.waiting_message_ids: dict[str, frozenset[str]] = {}
        self.tally = tally
        self._store = store
        self._replicas = store.replicas
        self._conflicts = 0
        self._handover: Handover | None = None
        self._has_failed = False
        self._undone: list[Draft] = []
        self._clock = clock
        self._max_event_bytes = max_event_bytes
        self._joined_bytes_max = min(max_event_bytes, COALESCED_BYTES_MAX)
        self._exists = exists
        self._batch = _Batch()
        self._flying: _Batch | None = None
        self._flying_since = 0.0
        self._open_gate: anyio.Event | None = None
        self._load_error: BambooError | None = None
        self._reload_wanted: Callable[[SessionWriter], None] | None = None
        self._changed: OnChange = _ignore
        self._counted: Callable[[SessionWriter], None] | None = None
        self._told: Callable[[Notice], None] | None = None
        self._run_waiters: dict[str, list[Callable[[], None]]] = {}
        self._id_watchers: list[Callable[[str], None]] = []

    # -- deciding ---------------------------------------------------------------------------

    async def ready(self) -> None:
        """Wait until decisions can be made: not while the head is being loaded again.

        Raises:
            Vanished: The session does not exist any more.
            BambooError: The store could not load the head. It is asked again and again.
        """
        while self._open_gate is not None:
            if self._load_error is not None:
                raise self._load_error.with_traceback(None)
            await self._open_gate.wait()
        if self.gone:
            raise Vanished

    async def ready_at_last(self) -> None:
        """Wait as `ready`, for as long as the store cannot load the head: for runs, not requests.

        Raises:
            Vanished: The session does not exist any more.
        """
        while self._open_gate is not None:
            await self._open_gate.wait()
        if self.gone:
            raise Vanished

    def decide(
        self,
        drafts: Sequence[Draft],
        *,
        note: KeptNote | None = None,
        waiters: Sequence[Waiter] = (),
        reserve: bool = False,
        wish: Wish | None = None,
        closes: str | None = None,
    ) -> tuple[int, int]:
        """Give the drafts their seqs and hand them to the store, all of them or none.

        Call only right after `ready`, without an await between.

        Args:
            drafts: The events, without seq and time.
            note: What is kept for an idempotency key in the same commit.
            waiters: Each is called once with the outcome of the commit, also when this raises.
                Without any, the drafts are what the run of this process says: after a conflict the
                writer decides them again.
            reserve: Whether the commit may use the space kept back for endings.
            wish: How the active run of another process is to end.
            closes: The dead process whose run the drafts end.

        Returns:
            The first and last seq (`last = first - 1` without drafts).

        Raises:
            TooLarge: An event is over `max_event_bytes`; nothing was decided.
            InvalidEvent: An event holds what JSON cannot; nothing was decided.
        """
        head = self.head
        now_ms = self._clock.now_ms()
        time = format_ms(now_ms)
        first = head.seq + 1
        drafts = linked(head, drafts)
        try:
            bodies = self._encoded(drafts, first, time)
        except BambooError as error:
            for waiter in waiters:
                waiter(error)
            raise
        batch = self._batch
        batch.close_last()
        for place, ((kind, fields), body) in enumerate(zip(drafts, bodies, strict=True), first):
            if kind in DELTA_TYPES:
                head.seq = place
            else:
                active = head.active
                fold(head, {"type": kind, "seq": place, "time": time, **fields}, now_ms)
                if active is not None and head.active is None:
                    self.channel.last_run = EndedRun(active.before_seq, place)
                self._mark(kind, fields, place)
                if kind in _MARKED_RUN_TYPES:
                    counter = self.tally.when_stored(kind, fields, active, now_ms)
                    batch.with_extras().waiters.append(counter)
                    self._count()
            batch.events.append(Event(place, kind, body))
            batch.size += len(body)
        if bodies and now_ms > head.last_activity_at:
            head.last_activity_at = now_ms
        if note is not None or waiters:
            self._attach(note, waiters, first)
        if first == 1:
            self._count()
        if wish is not None or closes is not None:
            is_alone = not bodies and note is None
            self._note_ending(wish, closes, now_ms, is_alone=is_alone)
        batch.reserve = batch.reserve or reserve
        if self._flying is None and (batch.events or batch.extras):
            self._flush()
        return first, head.seq

    def _attach(self, note: KeptNote | None, waiters: Sequence[Waiter], first: int) -> None:
        """Add what a decision has beside its events, which begin at `first`."""
        batch, seq = self._batch, self.head.seq
        extras = batch.with_extras()
        if note is not None:
            extras.notes.append(Note(seq, *note))
            batch.size += len(note.body)
        if waiters:
            extras.waiters += waiters
            extras.answered.append((first, seq))

    def _note_executor(self, run_id: str, executor: str) -> None:
        """Note that this process executes the run that begins, if it does."""
        active = self.head.active
        if active is not None and self.run is not None and self.run.run_id == run_id:
            active.executor = executor
            self._batch.with_extras().executor = executor

    def _note_ending(
        self, wish: Wish | None, closes: str | None, now_ms: int, *, is_alone: bool
    ) -> None:
        """Note that the batch ends the run of another process, or wishes its end."""
        active, extras = self.head.active, self._batch.with_extras()
        extras.closes = closes
        if wish is None:
            return
        if active is not None and active.run_id == wish.run_id:
            active.wish = wish.terminal
        extras.has_wish = True
        if is_alone:
            # So that the commit can be looked up when its answer is lost.
            key = f"wish:{wish.run_id}"
            body = encode({"note": "wish", "key": key, "time": now_ms})
            extras.notes.append(Note(self.head.seq, key, body))
            self._batch.size += len(body)

    def decide_delta(self, delta: Delta, *, may_join: bool) -> int:
        """Give a delta of the active run its seq and hand it to the store, as `decide`.

        While a commit is in flight, a delta may join the last event instead, if that is a delta of
        the same text. No one has seen that event: it gets its place in the log with the next
        commit. So nothing waits while the store is idle, and the busier it is, the fewer events
        there are (adaptive coalescing).

        Args:
            delta: The delta.
            may_join: Whether it may join another one.

        Returns:
            The seq of the delta, or of the event that it has joined.

        Raises:
            TooLarge: The event is over `max_event_bytes`; nothing was decided.
        """
        batch, head, text = self._batch, self.head, delta.text
        if may_join and batch.stem is delta.stem and len(text) <= batch.room:
            batch.join(text)
            return head.seq
        now_ms = self._clock.now_ms()
        kind, seq = delta.stem.type, head.seq + 1
        body = delta.stem.body(seq, format_ms(now_ms), text)
        size = len(body)
        if size > self._max_event_bytes:
            raise self._too_large(kind)
        batch.close_last()
        head.seq = seq
        if now_ms > head.last_activity_at:
            head.last_activity_at = now_ms
        batch.events.append(Event(seq, kind, body))
        batch.size += size
        if self._flying is None:
            self._flush()
        else:
            batch.stem = delta.stem
            batch.room = self._joined_bytes_max - size
        return seq

    def _encoded(self, drafts: Sequence[Draft], first: int, time: str) -> list[bytes]:
        bodies: list[bytes] = []
        for seq, (kind, fields) in enumerate(drafts, first):
            try:
                body = encode({"type": kind, "seq": seq, "time": time, **fields})
            except TypeError as error:
                raise InvalidEvent(f"The event {kind!r} cannot be written as JSON.") from error
            if len(body) > self._max_event_bytes:
                raise self._too_large(kind)
            bodies.append(body)
        return bodies

    def _too_large(self, kind: str) -> TooLarge:
        return TooLarge(
            f"The event {kind!r} is larger than {self._max_event_bytes} bytes (max_event_bytes).",
            code="event-too-large",
        )

    async def commit(
        self,
        drafts: Sequence[Draft],
        *,
        note: KeptNote | None = None,
        waiters: Sequence[Waiter] = (),
        reserve: bool = False,
        wish: Wish | None = None,
        closes: str | None = None,
    ) -> tuple[int, int]:
        """Decide, and wait until the commit is durable.

        Raises:
            HeadMoved: Another process was faster. Decide again.
            BambooError: The commit failed; nothing of it is stored.
        """
        done = _Completion()
        places = self.decide(
            drafts,
            note=note,
            waiters=(*waiters, done),
            reserve=reserve,
            wish=wish,
            closes=closes,
        )
        await done.wait()
        return places

    async def settled(self) -> None:
        """Wait until everything decided so far is durable.

        Raises:
            BambooError: A commit failed, and what was decided is undone.
        """
        if (batch := self._last_batch) is not None:
            done = _Completion()
            batch.with_extras().waiters.append(done)
            await done.wait()

    async def stilled(self) -> None:
        """Wait until nothing is on its way to the store, whatever comes of it."""
        while self.is_storing:
            with suppress(BambooError):
                await self.settled()

    def when_settled(self, call: Callable[[], None]) -> None:
        """Call back once everything decided so far is durable or undone; now, if it is."""
        if (batch := self._last_batch) is not None:
            batch.with_extras().waiters.append(lambda _: call())
        else:
            call()

    @property
    def _last_batch(self) -> _Batch | None:
        return self._batch if self._batch.size else self._flying

    async def drained(self) -> None:
        """Wait while the producer is too far ahead of the disk (R11)."""
        if self.is_ahead:
            done = _Completion()
            self._batch.with_extras().waiters.append(done)
            try:
                await done.wait()
            except BambooError as error:
                if not self.keeps_said(error):
                    raise
        else:
            await checkpoint()

    def check_not_busy(self, detail: str) -> None:
        """Refuse what a session does not accept during a run.

        Args:
            detail: What the refusal says.

        Raises:
            RunActive: A run is executing, queued, or about to start.
        """
        if self.is_busy:
            raise RunActive(detail, extra={"active_run_id": self.active_run_id})

    def keeps_said(self, error: BambooError) -> bool:
        """Return whether what a run has said is decided again after a commit that failed so.

        It is in a shared store: another process was faster, or the store does not answer and has
        nothing of the commit. It comes back, and the run goes on; other failures end the run.
        """
        if self._replicas is None:
            return False
        return isinstance(error, HeadMoved) or type(error) is Unavailable

    @property
    def durable_seq(self) -> int:
        """The seq of the last event that readers may see."""
        return self.channel.durable_seq

    @property
    def is_ready(self) -> bool:
        """Whether `ready` would return at once. It saves a coroutine for each event."""
        return self._open_gate is None and not self.gone

    @property
    def is_held(self) -> bool:
        """Whether `head` may be wrong because it is being loaded again; ask the store."""
        return self._open_gate is not None

    @property
    def is_unborn(self) -> bool:
        """Whether the session does not exist yet: none of its events is durable."""
        return not self._exists

    @property
    def is_ahead(self) -> bool:
        """Whether more bytes wait for the disk than `drained` lets pass."""
        return self._batch.size > RUN_AHEAD_BYTES_MAX

    @property
    def is_busy(self) -> bool:
        """Whether a run is executing, queued, or about to start.

        A task that is about to start a run counts also when the run has left the queue: until the
        task has ended, the log may get the run's events.
        """
        return self.head.active is not None or bool(self.head.queue) or self.starting

    @property
    def active_run_id(self) -> str | None:
        """The run that is executing."""
        return self.head.active.run_id if self.head.active else None

    @property
    def is_storing(self) -> bool:
        """Whether something decided is not durable yet."""
        return self._flying is not None or bool(self._batch.size)

    def is_current(self, look: Look | None) -> bool:
        """Return whether `head` has all that the store had when it was looked at.

        A commit on its way may be what the look shows. If that is another process's instead, the
        commit is refused, and what was decided on this head is undone.
        """
        if look is None:
            return not self._exists
        is_flying = self._flying is not None
        return look.epoch == self.epoch and look.version <= self.head.version + is_flying

    @property
    def is_locked(self) -> bool:
        """Whether the session is locked for this writer's next commit: the head is the store's."""
        return self._handover is not None

    @property
    def is_contended(self) -> bool:
        """Whether others were faster again and again, so that a lock is needed to get through."""
        return self._conflicts >= _CONFLICTS_MAX

    @property
    def has_failed(self) -> bool:
        """Whether the head is loaded again because a commit failed, and not because it moved."""
        return self._has_failed

    @property
    def has_undone(self) -> bool:
        """Whether a run of this process has said what is to be decided again."""
        return bool(self._undone)

    @property
    def is_idle(self) -> bool:
        """Whether nothing needs the writer in memory. Readers do not: they have the channel."""
        return not (
            self.users
            or self.run
            or self.starting
            or (self.head.active and self._replicas is None)
            or self.is_storing
            or self._open_gate
            or self._run_waiters
        )

    # -- calls and tasks that use it --------------------------------------------------------

    def enter(self) -> None:
        """Count a call that uses this session. The session stays in memory for the call."""
        self.users += 1

    def leave(self) -> None:
        """End what `enter` began. A session that was not created is then gone."""
        self.users -= 1
        self.touch()
        if self.is_unborn and self.is_idle:
            self.gone = True

    def touch(self) -> None:
        """Count the session as used now."""
        self.last_used = self._clock.monotonic()

    def claim_run(self, run: Runner) -> None:
        """Register the task that executes the active run."""
        self.run = run

    def release_run(self, run: Runner) -> None:
        """Unregister the task, unless another one has taken its place."""
        if self.run is run:
            self.run = None
        self.touch()

    def claim_start(self) -> None:
        """Register that a task is starting the next queued run."""
        self.starting = True

    def release_start(self) -> None:
        """Unregister this task."""
        self.starting = False

    def claim_posting(self, run_id: str) -> bool:
        """Make one streamed request the only producer of an external run.

        Returns:
            False when another request is posting events in this session.
        """
        if self.posting is not None:
            return False
        self.posting = run_id
        return True

    def release_posting(self, run_id: str) -> None:
        """End what `claim_posting` began."""
        if self.posting == run_id:
            self.posting = None

    def hold_external(self, run: ExternalRun) -> None:
        """Keep the unfinished messages of the open external run."""
        self.external = run

    def drop_external(self, run: ExternalRun | None = None) -> None:
        """Drop the unfinished messages, or only those of `run`.

        They may be ahead of the log, or the run has ended.
        """
        if run is None or self.external is run:
            self.external = None

    def note_waiting(self, run_id: str, message_ids: frozenset[str]) -> None:
        """Remember the ids of the messages that are the input of a queued run."""
        self.waiting_message_ids[run_id] = message_ids

    # -- observing --------------------------------------------------------------------------

    def on_run_end(self, run_id: str, call: Callable[[], None]) -> Callable[[], None]:
        """Register a callback for when the run's terminal event is durable.

        Returns:
            A function that removes the callback.
        """
        calls = self._run_waiters.setdefault(run_id, [])
        calls.append(call)

        def forget() -> None:
            if call in calls:
                calls.remove(call)
            if not calls and self._run_waiters.get(run_id) is calls:
                del self._run_waiters[run_id]

        return forget

    def on_message_id(self, call: Callable[[str], None]) -> Callable[[], None]:
        """Register a callback for the id of each message, called when the message is decided.

        Messages of queued input count too. The callback is called at once for the messages that
        are decided and not durable yet.

        Returns:
            A function that removes the callback.
        """
        for batch in (self._flying, self._batch):
            if batch is not None and batch.extras is not None:
                for message_id in batch.extras.message_ids:
                    call(message_id)
        self._id_watchers.append(call)
        return lambda: self._id_watchers.remove(call)

    def is_making(self, message_id: str) -> bool:
        """Return whether a run has an unfinished message of this id.

        An external run counts only while its messages are in memory (`external`).
        """
        if self.external is not None and self.external.assembler.is_making(message_id):
            return True
        return self.run is not None and self.run.is_making(message_id)

    @contextmanager
    def streaming(self, digest: str) -> Iterator[None]:
        """Mark a key's streamed request as active; a repeat waits for its end."""
        ended = self.streaming_keys[digest] = anyio.Event()
        try:
            yield
        finally:
            del self.streaming_keys[digest]
            ended.set()

    def vanish(self, reason: GoodbyeReason) -> None:
        """End the run, the streams and the waits: the session was deleted or never created."""
        self.gone = True
        if self.run is not None:
            self.run.abandon()
        self._release_waiters()
        self.channel.vanish(reason)
        self._changed(())

    def born(self, head: SessionHead) -> None:
        """Adopt a session that was published under this id without going through this writer."""
        head.version = 1
        self.head = head
        self.channel.begin(head)
        self.keys.forget()
        self._exists = True
        self._tell_to_look()
        self._count()
        self._changed(())

    def deleted(self) -> None:
        """Leave, after this process has deleted the session."""
        if self._told is not None:
            self._told(Notice(self.id, 0, 0, 0, None))
        self.vanish("deleted")

    def grown(self, head: SessionHead) -> None:
        """Adopt events that were published without going through this writer.

        They are not in the event queue, so readers read them from the log.
        """
        head.version = self.head.version + 1
        self.head = head
        self._tell_to_look()
        self.channel.begin(head)
        self.keys.forget()
        self.channel.wake()
        self._changed(())

    def _tell_to_look(self) -> None:
        """Tell other processes that the session has more than they know."""
        if self._told is not None:
            self._told(Notice(self.id, self.epoch, 0, 0, None))

    def hold(self) -> None:
        """Close the gate: `ready` waits until `resume`."""
        if self._open_gate is None:
            self._open_gate = anyio.Event()

    def not_loaded(self, error: BambooError) -> None:
        """Let everybody in `ready` fail with this error, from now until `resume`."""
        self._load_error = error
        if self._open_gate is not None:
            self._open_gate.set()
            self._open_gate = anyio.Event()

    def resume(self, head: SessionHead | None = None, handover: Handover | None = None) -> None:
        """Open the gate.

        Args:
            head: The durable head, when it was loaded again. Of a shared session the channel has
                absorbed all its events before.
            handover: Takes the next commit instead of the store: the session is locked for it.
        """
        if head is not None:
            self.head = self.channel.head = head
            self.keys.forget()
            self.external = None
            self.waiting_message_ids = {}
            self._count()
            if head.seq != self.durable_seq:
                self._catch_up()
            if self._replicas is not None:
                self._handover = handover
                self._has_failed = False
                self._go_on()
        self._load_error = None
        if self._open_gate is not None:
            self._open_gate.set()
            self._open_gate = None

    def _go_on(self) -> None:
        """Let the run of this process go on with the head that was loaded, if it may."""
        undone, self._undone = self._undone, []
        run, active = self.run, self.head.active
        if run is None:
            return
        if active is None or not run.executes(active):
            run.abandon()  # others have ended it
            return
        if undone:
            try:
                _, last_seq = self.decide(undone)
            except BambooError as error:  # a greater seq has made an event too large
                run.moved(self.durable_seq + 1)
                run.broken(error)
            else:
                run.moved(last_seq)
        if active.wish is not None:
            run.wished(active.wish)

    def withdraw(self, handover: Handover) -> None:
        """Give the next commit to the store again, if it was not handed over."""
        if self._handover is handover:
            self._handover = None

    def ends_seen(self, run_ids: Sequence[str]) -> None:
        """Tell those who wait for a run that its end, of another process, is durable."""
        for run_id in run_ids:
            for call in self._run_waiters.pop(run_id, ()):
                call()

    @property
    def awaited_runs(self) -> list[str]:
        """The runs whose end somebody waits for."""
        return list(self._run_waiters)

    def _catch_up(self) -> None:
        # The store has more than it has acknowledged. What readers saw is valid; they reconnect
        # for the rest.
        self.channel.begin(self.head)
        self.channel.end_all("shutdown")
        self._release_waiters()

    def lost(self) -> None:
        """Request that the head is loaded again, because the store has another one."""
        if not self.gone and self._open_gate is None and self._reload_wanted is not None:
            self.hold()
            self._reload_wanted(self)

    def when_broken(self, call: Callable[["SessionWriter"], None]) -> None:
        """Register the callback that loads the head again after a failed commit."""
        self._reload_wanted = call

    def when_changed(self, call: OnChange) -> None:
        """Register the callback for durable commits, and without events for all other changes."""
        self._changed = call

    def when_told(self, call: Callable[[Notice], None]) -> None:
        """Register what tells other processes of each durable commit, also of notes alone."""
        self._told = call

    def when_counted(self, call: Callable[["SessionWriter"], None]) -> None:
        """Register the callback that counts the session and its runs, and call it once now."""
        self._counted = call
        call(self)

    def _count(self) -> None:
        if self._counted is not None:
            self._counted(self)

    # -- committing ---------------------------------------------------------------

    def _mark(self, kind: str, fields: dict[str, Any], place: int) -> None:
        extras = self._batch.with_extras()
        if kind == "message":
            extras.message_ids.append(fields["message_id"])
            self._tell_ids(fields["message_id"])
        elif kind in _MARKED_RUN_TYPES:
            if kind == "run_queued":
                ids = frozenset(message["id"] for message in fields["messages"])
                self.waiting_message_ids[fields["run_id"]] = ids
                self._tell_ids(*ids)
            else:
                self.waiting_message_ids.pop(fields["run_id"], None)
                if kind == "run_start" and self._replicas is not None:
                    self._note_executor(fields["run_id"], self._replicas.executor)
        extras.notable.append((kind, fields.get("run_id"), place))

    def _tell_ids(self, *message_ids: str) -> None:
        for call in self._id_watchers:
            for message_id in message_ids:
                call(message_id)

    def _flush(self) -> None:
        batch, self._batch = self._batch, _Batch()
        batch.close_last()
        count, extras = len(batch.events), batch.extras
        # A commit of deltas needs no head: it moves only the seq and the time, which it has.
        is_structural = not self._exists
        executor = closes = None
        if extras is not None:
            is_structural = is_structural or bool(extras.notable) or extras.has_wish
            executor, closes = extras.executor, extras.closes
        head = self.head
        is_shared = self._replicas is not None
        # Without names: they would cost a microsecond, and every delta of an idle store comes here.
        commit = Commit(
            self.id,
            self.epoch,
            head.seq - count + 1,
            batch.events,
            extras.notes if extras is not None else (),
            head.copy() if is_structural else None,
            head.last_activity_at,
            not self._exists,
            batch.reserve,
            head.version if is_shared and self._exists else None,
            executor,
            closes,
        )
        self._flying = batch
        self._flying_since = self._clock.monotonic()
        if self._handover is None:
            self._store.append(commit, self._committed)
        else:
            handover, self._handover = self._handover, None
            handover(commit, self._committed)

    def _committed(self, error: BambooError | None) -> None:
        batch, self._flying = self._flying, None
        assert batch is not None  # the store answers each commit once
        if error is not None:
            self._fail(batch, error)
            return
        self.tally.commit_seconds.observe(self._clock.monotonic() - self._flying_since)
        if not self._exists:
            self._exists = True
            self._count()
        if self._replicas is not None:
            self.head.version += 1
            self._conflicts = 0
        self.channel.extend([event.body for event in batch.events])
        if self._told is not None:
            # Before the next commit is handed over: a local Redis is as fast as a local database.
            self._told(self._notice(batch))
        if self._batch.size:
            self._flush()
        if batch.extras is not None:
            for waiter in batch.extras.waiters:
                waiter(None)
            self._announce(batch.extras)
        if batch.events:
            self.channel.wake()
            self._changed(batch.events)

    def _notice(self, batch: _Batch) -> Notice:
        bodies = tuple([event.body for event in batch.events])
        first_seq = self.durable_seq - len(bodies) + 1
        return Notice(self.id, self.epoch, self.head.version, first_seq, bodies)

    def _announce(self, extras: _Extras) -> None:
        connections = self.channel.connections
        for kind, run_id, place in extras.notable:
            if kind in TERMINAL_TYPES and run_id is not None:
                for connection in connections.values():
                    connection.run_ended(run_id, place)
                for call in self._run_waiters.pop(run_id, ()):
                    call()
            elif kind == "run_start" and run_id is not None:
                for connection in connections.values():
                    connection.run_started(run_id)
            elif kind == "state_change" and self.head.logged_state is not None:
                for connection in connections.values():
                    connection.end("closed", after_rest=True)

    def _fail(self, batch: _Batch, error: BambooError) -> None:
        undone, self._batch = self._batch, _Batch()
        self.hold()
        self.head.seq = self.durable_seq
        if isinstance(error, Conflict):
            if self._replicas is None:
                error = Unavailable("The session changed underneath; try again.")
            else:
                error = HeadMoved("The session changed underneath; try again.")
                self._conflicts += 1
        self._has_failed = not isinstance(error, HeadMoved)
        if self.keeps_said(error):
            # Also while no run is claimed: a waiter of the run's end may claim it again.
            undone.close_last()
            self._undone += _said_in(batch) + _said_in(undone)
        elif self.run is not None:
            self.run.broken(error)
        if not self._exists:
            self.vanish("deleted")
            self.resume()
        elif self._reload_wanted is not None:
            self._reload_wanted(self)
        for failed in (batch.extras, undone.extras):
            for waiter in failed.waiters if failed is not None else ():
                waiter(error)

    def _release_waiters(self) -> None:
        waiting = [call for calls in self._run_waiters.values() for call in calls]
        self._run_waiters = {}
        for call in waiting:
            call()


def _said_in(batch: _Batch) -> list[Draft]:
    """Return what the run of this process has said in a batch that was not stored."""
    answered = batch.extras.answered if batch.extras is not None else ()
    return undone_drafts(batch.events, answered)


def _ignore(_: Sequence[Event]) -> None:
    """Do nothing: nobody asks for changes."""


class _Completion:
    """A waiter for one task. A future: each `anyio.Event` looks up which library runs."""

    __slots__ = ("_outcome",)

    def __init__(self) -> None:
        self._outcome: Future[BambooError | None] = get_running_loop().create_future()

    def __call__(self, error: BambooError | None) -> None:
        if not self._outcome.done():  # the task was not cancelled meanwhile
            self._outcome.set_result(error)

    async def wait(self) -> None:
        error = await self._outcome
        if error is not None:
            raise error
