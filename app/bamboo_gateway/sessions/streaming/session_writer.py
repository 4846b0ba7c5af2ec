"""SessionWriter: the single writer of one session, while it is in memory.

Decisions are made synchronously on `head`, which may be ahead of the disk; what others see comes
from commits that are durable (R1). One commit is in flight at a time; what is decided meanwhile
gathers into the next. When a commit fails, everything decided after the durable head is undone
together: the head is loaded again and each waiting call gets the error.

What is durable is published in the session's `Channel`, which stays while somebody reads; the
writer leaves memory once it has nothing to do.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Protocol

import anyio
from anyio.lowlevel import checkpoint

from bamboo_gateway.domain.clock import Clock, format_ms
from bamboo_gateway.domain.codec import encode
from bamboo_gateway.domain.errors import (
    BambooError,
    Conflict,
    InvalidEvent,
    TooLarge,
    Unavailable,
)
from bamboo_gateway.domain.events import DELTA_TYPES, TERMINAL_TYPES, Draft, TerminalEvent
from bamboo_gateway.domain.limits import RUN_AHEAD_BYTES_MAX
from bamboo_gateway.domain.message_assembler import MessageAssembler
from bamboo_gateway.domain.projections import fold
from bamboo_gateway.domain.sessions import SessionHead
from bamboo_gateway.sessions.idempotency import KeptNote, KeyLedger
from bamboo_gateway.sessions.metrics import Tally
from bamboo_gateway.sessions.streaming.channel import Channel
from bamboo_gateway.sessions.streaming.rendering import GoodbyeReason
from bamboo_gateway.sessions.streaming.subscription import EndedRun
from bamboo_gateway.storage.base import Commit, Event, Note, SessionStore

Waiter = Callable[[BambooError | None], None]
_MARKED_RUN_TYPES = TERMINAL_TYPES | {"run_queued", "run_start"}


class Runner(Protocol):
    """What the session tells the task of its active run."""

    def cancel(self, terminal: TerminalEvent) -> None:
        """End with this terminal event."""

    def broken(self, error: BambooError) -> None:
        """Events of the run could not be stored."""

    def abandon(self) -> None:
        """The session is gone; end without a word."""

    def is_making(self, message_id: str) -> bool:
        """Whether a message of that id has begun and is not said yet."""


class ExternalRun:
    """What this process holds of an open external run: its messages in the making.

    Dropped whenever it may be ahead of the log; it is then made again by replaying the log.
    """

    def __init__(self, run_id: str, assembler: MessageAssembler, now: float) -> None:
        self.run_id = run_id
        self.assembler = assembler
        self.last_event_at = now


class Vanished(Exception):
    """The session was deleted, or its creation failed, while a call waited for it."""


class _Batch:
    """What has been decided since the last commit was given to the store."""

    __slots__ = ("events", "extras", "reserve", "size")

    def __init__(self) -> None:
        self.events: list[Event] = []
        self.extras: _Extras | None = None
        self.size = 0
        self.reserve = False

    def with_extras(self) -> "_Extras":
        """Gives the extras, made at first use."""
        if self.extras is None:
            self.extras = _Extras()
        return self.extras


class _Extras:
    """What a batch has beside its events; most are a delta of a running agent, and have none."""

    __slots__ = ("message_ids", "notable", "notes", "waiters")

    def __init__(self) -> None:
        self.notes: list[Note] = []
        self.message_ids: list[str] = []
        self.notable: list[tuple[str, str | None, int]] = []
        self.waiters: list[Waiter] = []


class SessionWriter:
    """See the module.

    Attributes:
        head: What has been decided; its `seq` may be ahead of `durable_seq`.
        channel: Where its readers get what is durable.
        tally: Where what happens is counted.
        run: The task of the active run, when this process executes one.
        external: What is held of an open external run, if it has been asked for.
        packing: Held while its archived log is compressed, and while it is brought back.
        posting: The external run whose events a streamed request is posting.
        streaming_keys: Digests of keys whose streamed request is at work, and what says its end.
        keys: Answers kept for idempotency keys.
        users: Calls at work in this session; it stays in memory for them.
        waiting_message_ids: Of each queued run the ids of its input; what is missing is in the log.
        made_for: The user who is creating it, until it has an owner; None: no user.
        last_used: When it last had one, on the monotonic clock.
        gone: Deleted, or never came to be.
    """

    # More names than share one table; and each event of each session looks many of them up.
    __slots__ = (
        "_batch",
        "_clock",
        "_counted",
        "_exists",
        "_flying",
        "_flying_since",
        "_id_watchers",
        "_max_event_bytes",
        "_open_gate",
        "_reload_wanted",
        "_run_waiters",
        "_store",
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
        self.packing = anyio.Lock()
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
        self._clock = clock
        self._max_event_bytes = max_event_bytes
        self._exists = exists
        self._batch = _Batch()
        self._flying: _Batch | None = None
        self._flying_since = 0.0
        self._open_gate: anyio.Event | None = None
        self._reload_wanted: Callable[[SessionWriter], None] | None = None
        self._counted: Callable[[SessionWriter], None] | None = None
        self._run_waiters: dict[str, list[Callable[[], None]]] = {}
        self._id_watchers: list[Callable[[str], None]] = []

    # -- deciding ---------------------------------------------------------------------------

    async def ready(self) -> None:
        """Waits until decisions can be made: not while the head is being loaded again.

        Raises:
            Vanished: The session is not there any more.
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
    ) -> tuple[int, int]:
        """Gives the drafts their seqs and sends them on their way to the store, whole or not.

        Call only right after `ready`, without an await between. `note` is what is kept for an
        idempotency key in the same commit. `waiters` are called once each, with the commit's end,
        also when this raises.

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
        try:
            bodies = self._encoded(drafts, first, time)
        except BambooError as error:
            for waiter in waiters:
                waiter(error)
            raise
        batch = self._batch
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
        if note is not None:
            batch.with_extras().notes.append(Note(head.seq, *note))
            batch.size += len(note.body)
        if first == 1:
            self._count()
        if waiters:
            batch.with_extras().waiters += waiters
        batch.reserve = batch.reserve or reserve
        if self._flying is None and (batch.events or batch.extras):
            self._flush()
        return first, head.seq

    def _encoded(self, drafts: Sequence[Draft], first: int, time: str) -> list[bytes]:
        bodies: list[bytes] = []
        for seq, (kind, fields) in enumerate(drafts, first):
            try:
                body = encode({"type": kind, "seq": seq, "time": time, **fields})
            except TypeError as error:
                raise InvalidEvent(f"The event {kind!r} holds what JSON cannot.") from error
            if len(body) > self._max_event_bytes:
                raise TooLarge(
                    f"The event {kind!r} has {len(body)} bytes; max_event_bytes is "
                    f"{self._max_event_bytes}.",
                    code="event-too-large",
                )
            bodies.append(body)
        return bodies

    async def commit(
        self,
        drafts: Sequence[Draft],
        *,
        note: KeptNote | None = None,
        waiters: Sequence[Waiter] = (),
        reserve: bool = False,
    ) -> tuple[int, int]:
        """Decides, then waits until it is durable.

        Raises:
            BambooError: What failed; nothing of it is stored.
        """
        done = _Completion()
        places = self.decide(drafts, note=note, waiters=(*waiters, done), reserve=reserve)
        await done.wait()
        return places

    async def settled(self) -> None:
        """Waits until everything decided so far is durable.

        Raises:
            BambooError: It was undone.
        """
        batch = self._batch if self._batch.size else self._flying
        if batch is not None:
            done = _Completion()
            batch.with_extras().waiters.append(done)
            await done.wait()

    async def drained(self) -> None:
        """Holds a producer back that is too far ahead of the disk (R11)."""
        if self.is_ahead:
            done = _Completion()
            self._batch.with_extras().waiters.append(done)
            await done.wait()
        else:
            await checkpoint()

    @property
    def durable_seq(self) -> int:
        """The last event that readers may see."""
        return self.channel.durable_seq

    @property
    def is_ready(self) -> bool:
        """Whether `ready` would return at once: saves a coroutine where each event asks."""
        return self._open_gate is None and not self.gone

    @property
    def is_held(self) -> bool:
        """Whether `head` may say what is not true any more: only the store knows."""
        return self._open_gate is not None

    @property
    def is_unborn(self) -> bool:
        """Whether it does not exist yet: no event of it is durable."""
        return not self._exists

    @property
    def is_ahead(self) -> bool:
        """Whether what waits for the disk is over the bound of `drained`."""
        return self._batch.size > RUN_AHEAD_BYTES_MAX

    @property
    def is_storing(self) -> bool:
        """Whether something that was decided is not durable yet."""
        return self._flying is not None or bool(self._batch.size)

    @property
    def is_idle(self) -> bool:
        """Whether nothing needs it in memory. Readers do not: they wait in its channel."""
        return not (
            self.users
            or self.run
            or self.starting
            or self.head.active
            or self.is_storing
            or self._open_gate
            or self._run_waiters
        )

    # -- what is at work in it --------------------------------------------------------------

    def enter(self) -> None:
        """Count a call that is at work in this session; it stays in memory for it."""
        self.users += 1

    def leave(self) -> None:
        """End what `enter` began. A session that never came to be is then gone."""
        self.users -= 1
        self.touch()
        if self.is_unborn and self.is_idle:
            self.gone = True

    def touch(self) -> None:
        """Count the session as used now."""
        self.last_used = self._clock.monotonic()

    def claim_run(self, run: Runner) -> None:
        """Take note of the task that executes the active run."""
        self.run = run

    def release_run(self, run: Runner) -> None:
        """Take note that the task has ended, unless another one has taken its place."""
        if self.run is run:
            self.run = None
        self.touch()

    def claim_start(self) -> None:
        """Take note that a task is starting the next queued run."""
        self.starting = True

    def release_start(self) -> None:
        """Take note that this task has ended."""
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
        """Keep the messages in the making of the open external run."""
        self.external = run

    def drop_external(self, run: ExternalRun | None = None) -> None:
        """Drop them, or only those of `run`: they may be ahead of the log, or the run has ended."""
        if run is None or self.external is run:
            self.external = None

    def note_waiting(self, run_id: str, message_ids: frozenset[str]) -> None:
        """Remember the ids of the messages that are the input of a queued run."""
        self.waiting_message_ids[run_id] = message_ids

    # -- seeing -----------------------------------------------------------------------------

    def on_run_end(self, run_id: str, call: Callable[[], None]) -> Callable[[], None]:
        """Calls back once the run's terminal event is durable; gives what takes it back."""
        calls = self._run_waiters.setdefault(run_id, [])
        calls.append(call)

        def forget() -> None:
            if call in calls:
                calls.remove(call)
            if not calls and self._run_waiters.get(run_id) is calls:
                del self._run_waiters[run_id]

        return forget

    def on_message_id(self, call: Callable[[str], None]) -> Callable[[], None]:
        """Calls back with the id of each message from now on, at its decision; gives what ends it.

        At once with those whose decision is not durable yet, and also with those of input that is
        queued.
        """
        for batch in (self._flying, self._batch):
            if batch is not None and batch.extras is not None:
                for message_id in batch.extras.message_ids:
                    call(message_id)
        self._id_watchers.append(call)
        return lambda: self._id_watchers.remove(call)

    def is_making(self, message_id: str) -> bool:
        """Tells whether a run is making a message of that id; an external one has to be held."""
        if self.external is not None and self.external.assembler.is_making(message_id):
            return True
        return self.run is not None and self.run.is_making(message_id)

    @contextmanager
    def streaming(self, digest: str) -> Iterator[None]:
        """Marks a key's streamed request as being at work; a repeat waits for its end."""
        ended = self.streaming_keys[digest] = anyio.Event()
        try:
            yield
        finally:
            del self.streaming_keys[digest]
            ended.set()

    def vanish(self, reason: GoodbyeReason) -> None:
        """Ends everything that hangs on the session: it is deleted, or never came to be."""
        self.gone = True
        if self.run is not None:
            self.run.abandon()
        self._release_waiters()
        self.channel.vanish(reason)

    def born(self, head: SessionHead) -> None:
        """Takes over what was published under its name past this writer."""
        self.head = head
        self.channel.begin(head)
        self.keys.forget()
        self._exists = True
        self._count()

    def grown(self, head: SessionHead) -> None:
        """Takes over what was published behind its head past this writer: readers read the log."""
        self.head = head
        self.channel.begin(head)
        self.keys.forget()
        self.channel.wake()

    def hold(self) -> None:
        """Closes the gate: `ready` waits until `resume`."""
        if self._open_gate is None:
            self._open_gate = anyio.Event()

    def resume(self, head: SessionHead | None = None) -> None:
        """Opens the gate, with the durable head loaded again when one is given."""
        if head is not None:
            self.head = self.channel.head = head
            self.keys.forget()
            self.external = None
            self.waiting_message_ids = {}
            self._count()
            if head.seq != self.durable_seq:
                self._catch_up()
        if self._open_gate is not None:
            self._open_gate.set()
            self._open_gate = None

    def _catch_up(self) -> None:
        # The store has more than it has acknowledged: what was shown stands, the rest is news.
        self.channel.begin(self.head)
        self.channel.end_all("shutdown")
        self._release_waiters()

    def lost(self) -> None:
        """Has the head loaded again, the store having another one."""
        if not self.gone and self._open_gate is None and self._reload_wanted is not None:
            self.hold()
            self._reload_wanted(self)

    def when_broken(self, call: Callable[["SessionWriter"], None]) -> None:
        """Says who loads the head again after a failed commit."""
        self._reload_wanted = call

    def when_counted(self, call: Callable[["SessionWriter"], None]) -> None:
        """Says who keeps count of its runs, and of its being there; counts them now."""
        self._counted = call
        call(self)

    def _count(self) -> None:
        if self._counted is not None:
            self._counted(self)

    # -- the way to the store ---------------------------------------------------------------

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
        extras.notable.append((kind, fields.get("run_id"), place))

    def _tell_ids(self, *message_ids: str) -> None:
        for call in self._id_watchers:
            for message_id in message_ids:
                call(message_id)

    def _flush(self) -> None:
        batch, self._batch = self._batch, _Batch()
        count, extras = len(batch.events), batch.extras
        # Deltas move nothing in a head that the commit itself does not say.
        is_structural = not self._exists or (extras is not None and bool(extras.notable))
        commit = Commit(
            session_id=self.id,
            epoch=self.epoch,
            first_seq=self.head.seq - count + 1,
            events=batch.events,
            notes=extras.notes if extras is not None else (),
            head=self.head.copy() if is_structural else None,
            time_ms=self.head.last_activity_at,
            create=not self._exists,
            reserve=batch.reserve,
        )
        self._flying = batch
        self._flying_since = self._clock.monotonic()
        self._store.append(commit, self._committed)

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
        self.channel.extend([event.body for event in batch.events])
        if self._batch.size:
            self._flush()
        if batch.extras is not None:
            for waiter in batch.extras.waiters:
                waiter(None)
            self._announce(batch.extras)
        if batch.events:
            self.channel.wake()

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
            error = Unavailable("The session changed underneath; try again.")
        if self.run is not None:
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


class _Completion:
    """A waiter that one task awaits."""

    __slots__ = ("_error", "_event")

    def __init__(self) -> None:
        self._event = anyio.Event()
        self._error: BambooError | None = None

    def __call__(self, error: BambooError | None) -> None:
        self._error = error
        self._event.set()

    async def wait(self) -> None:
        await self._event.wait()
        if self._error is not None:
            raise self._error
