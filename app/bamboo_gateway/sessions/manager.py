"""SessionManager: the one door to sessions, for routes and for programs that embed the gateway.

Process-wide. Every verb names its caller; answers and errors are in the contract's shapes, without
any HTTP in them.
"""

from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import AsyncExitStack
from functools import partial
from types import TracebackType
from typing import Any, Literal, Self

import anyio
import structlog

from bamboo_gateway.agents.base import Agent
from bamboo_gateway.domain.callers import GATEWAY, Caller
from bamboo_gateway.domain.clock import Clock
from bamboo_gateway.domain.errors import Draining, StorageFull, Unavailable
from bamboo_gateway.domain.ids import IdMaker
from bamboo_gateway.domain.positions import After
from bamboo_gateway.domain.sessions import SessionHead
from bamboo_gateway.observability.audit import AuditLog
from bamboo_gateway.sessions import ingest, metadata
from bamboo_gateway.sessions.commands import (
    Chat,
    EventPage,
    Idempotency,
    MessagePage,
    NewMessage,
    NewSession,
    Outcome,
    RunList,
    RunWait,
    SessionDetail,
    SessionList,
    StreamRequest,
)
from bamboo_gateway.sessions.life import SessionLife
from bamboo_gateway.sessions.lifecycle import archive, retention
from bamboo_gateway.sessions.lifecycle.compaction import Compaction
from bamboo_gateway.sessions.measures import measure
from bamboo_gateway.sessions.pool import SessionPool
from bamboo_gateway.sessions.queries import (
    event_page,
    event_page_descending,
    find_run,
    message_page,
    message_pages,
    run_cursor,
    run_page,
)
from bamboo_gateway.sessions.runs.cancellation import Cancellation
from bamboo_gateway.sessions.runs.client_ids import ClientIds
from bamboo_gateway.sessions.runs.external import ExternalRuns
from bamboo_gateway.sessions.runs.factory import EXTERNAL, Agents, Maker
from bamboo_gateway.sessions.runs.recovery import Recovery
from bamboo_gateway.sessions.runs.scheduler import RunScheduler
from bamboo_gateway.sessions.streaming.hub import StreamHub
from bamboo_gateway.sessions.streaming.rendering import Renderer
from bamboo_gateway.sessions.streaming.session_writer import Vanished
from bamboo_gateway.sessions.streaming.subscription import Subscription, check_within
from bamboo_gateway.sessions.tally import Tally
from bamboo_gateway.settings import Settings
from bamboo_gateway.storage.base import SessionQuery, SessionStore

log = structlog.get_logger(__name__)

_HOUSEKEEPING_SECONDS = 1.0
"""How often idle sessions are looked for."""


class SessionManager:
    """Creates, finds, changes and streams sessions; owns the runs in them.

    An async context manager: entering recovers what the last process left, leaving stops what is
    still at work. The store has to be open already, and is closed by its owner afterwards.

    Args:
        store: Where everything is kept.
        agents: Who answers, by name.
        settings: Bounds and times.
        clock: Where the time comes from.
        may_stay: Asked every second for each open stream: whether its caller's right has not ended.
        audit: Where scheduled work is recorded that somebody may ask about; None: nowhere.

    Attributes:
        life: The verbs beyond the main job: archive, export, fork, merge, summaries, cleanup …
    """

    life: SessionLife

    def __init__(
        self,
        store: SessionStore,
        agents: Mapping[str, Agent],
        settings: Settings,
        clock: Clock,
        may_stay: Callable[[Caller], bool] = lambda _: True,
        audit: AuditLog | None = None,
    ) -> None:
        self._store = store
        self._agents = agents
        self._settings = settings
        self._clock = clock
        self._may_stay = may_stay
        self._audit = audit
        self._ids = IdMaker()
        self._is_ready = False
        self._stack = AsyncExitStack()

    async def __aenter__(self) -> Self:
        async with AsyncExitStack() as stack:
            tasks = await stack.enter_async_context(anyio.create_task_group())
            stack.callback(tasks.cancel_scope.cancel)
            tally = Tally((*self._agents, EXTERNAL))
            self._pool = SessionPool(self._store, self._settings, self._clock, tasks, tally)
            stack.callback(self._pool.close)
            self._maker = Maker(self._ids, self._clock, self._settings)
            self._external = ExternalRuns(self._pool, self._maker)
            agents = Agents(self._agents)
            self._turns = RunScheduler(self._pool, agents, self._maker, self._external)
            stack.callback(self._turns.give_up)
            self._endings = Cancellation(self._pool, self._external)
            self.life = SessionLife(self._pool, agents, self._maker)
            self._streams = StreamHub(self._pool, self._ids, self._may_stay)
            self._compaction = Compaction(self._pool)
            closed = await Recovery(self._pool, self._maker).recover()
            if closed:
                log.info("closed runs that were interrupted", runs=closed)
            tasks.start_soon(self._streams.watch, name="stream clock")
            tasks.start_soon(self._keep_house, name="housekeeping")
            tasks.start_soon(self._compaction.run, name="compaction")
            tasks.start_soon(
                retention.schedule, self._pool, GATEWAY, self._audit, name="scheduled cleanup"
            )
            tasks.start_soon(archive.pack_left_over, self._pool, name="packing archives")
            self._is_ready = True
            self._stack = stack.pop_all()
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if kind is None:
            await self.drain()
        self._is_ready = False
        await self._stack.__aexit__(kind, error, traceback)

    # -- sessions ---------------------------------------------------------------------------

    async def create_session(
        self, caller: Caller, new: NewSession, idem: Idempotency | None = None
    ) -> Outcome:
        """Creates a session.

        Raises:
            SessionExists: Its id is taken.
            LimitReached: There are `max_sessions`.
        """

        async def create(session_id: str) -> Outcome:
            return await metadata.create(self._pool, caller, session_id, new, idem)

        if new.id is not None:
            return await create(new.id)
        return await self._maker.under_new_id(caller, idem, create)

    async def get_or_create_session(self, caller: Caller, new: NewSession) -> dict[str, Any]:
        """Gives the session of that id, creating it if there is none."""
        session_id = new.id or self._maker.new_session_id()
        return await metadata.get_or_create(self._pool, caller, session_id, new)

    async def get_session(
        self, caller: Caller, session_id: str, include_messages: bool = False
    ) -> SessionDetail:
        """Gives a session, with all its messages, as they are read, if asked for.

        Raises:
            NotFound, SessionExpired: There is none, or not any more; also while messages are read.
        """
        head = await self._pool.head(caller, session_id, "read")
        view = metadata.view_of(self._pool, head)
        messages = message_pages(self._pool, head) if include_messages else None
        return SessionDetail(view, metadata.etag_of(head), messages)

    async def list_sessions(self, caller: Caller, query: SessionQuery) -> SessionList:
        """Lists sessions by filters, sorted and in pages."""
        page = await self._pool.query(caller, query)
        views = [metadata.view_of(self._pool, head) for head in page.heads]
        return SessionList(views, page.next_cursor, page.has_more, page.total)

    async def update_session(
        self, caller: Caller, session_id: str, patch: dict[str, Any], if_match: str | None = None
    ) -> SessionDetail:
        """Applies a JSON merge patch (RFC 7396).

        Raises:
            PreconditionFailed: `if_match` is not the present ETag.
        """
        await metadata.update(self._pool, caller, session_id, patch, if_match)
        return await self.get_session(caller, session_id)

    async def delete_session(
        self, caller: Caller, session_id: str, if_match: str | None = None
    ) -> None:
        """Deletes a session; its streams get `goodbye deleted`, its run ends without a word.

        Raises:
            NotFound: There is none.
            PreconditionFailed: `if_match` is not the present ETag.
        """

        def is_meant(head: SessionHead) -> bool:
            metadata.check_match(head, if_match)
            return True

        await self._pool.delete(caller, session_id, is_meant)

    async def close_session(
        self, caller: Caller, session_id: str, idem: Idempotency | None = None
    ) -> Outcome:
        """Makes a session read-only.

        Raises:
            RunActive: A run is executing or queued.
        """
        return await metadata.close(self._pool, caller, session_id, idem)

    async def reopen_session(
        self,
        caller: Caller,
        session_id: str,
        idem: Idempotency | None = None,
        *,
        ttl_seconds: int | Literal["keep"] | None = "keep",
    ) -> Outcome:
        """Make a closed or expired session writable again.

        Args:
            caller: Who asks.
            session_id: Which session.
            idem: The client's idempotency key.
            ttl_seconds: The new time to live, counted from now; None takes it away, `keep` counts
                the present one again.

        Raises:
            NotFound: There is no such session, or it has been cleaned.
            SessionClosed: It is archived.
        """
        return await metadata.reopen(self._pool, caller, session_id, idem, ttl_seconds)

    # -- messages and events ----------------------------------------------------------------

    async def messages(
        self,
        caller: Caller,
        session_id: str,
        *,
        limit: int = 100,
        before: str | None = None,
        after: str | None = None,
        descending: bool = False,
    ) -> MessagePage:
        """Reads a page of messages.

        Raises:
            NotFound: No such session, or `before` or `after` is no message of it.
        """
        read = partial(
            message_page,
            self._store,
            limit=limit,
            before=before,
            after=after,
            descending=descending,
        )
        return await self._pool.read(caller, session_id, read, "read")

    async def add_messages(
        self,
        caller: Caller,
        session_id: str,
        messages: list[NewMessage],
        idem: Idempotency | None = None,
    ) -> Outcome:
        """Appends messages, all or none, without starting a run.

        Raises:
            MessageExists: The session has a message of an id that the caller names.
            InvalidInput: Two of them have the same id.
            Refused: Tool calls are open and these are not their results, or the other way round.
        """
        ids = [message.id for message in messages]
        names = ClientIds(self._store, self._external.hold, message_ids=ids)
        made = [self._maker.new_message(message) for message in messages]
        close = self._maker.close_passed_over
        return await metadata.add_messages(self._pool, caller, session_id, made, names, close, idem)

    async def events(
        self,
        caller: Caller,
        session_id: str,
        *,
        after: After | None = None,
        limit: int = 100,
        types: frozenset[str] | None = None,
        wait_seconds: float = 0,
        descending: bool = False,
    ) -> EventPage:
        """Reads a page of events; with `wait_seconds` waits for the first one that matches.

        Raises:
            PositionGone: `after` is of another epoch or beyond the end.
        """

        async def read(after: After | None, head: SessionHead) -> EventPage:
            place = None
            if after is not None:
                place = check_within(after, head.epoch, head.seq)
            if descending:
                before = head.seq + 1 if place is None else place
                return await event_page_descending(
                    self._store, head, before=before, limit=limit, types=types
                )
            return await event_page(self._store, head, after=place or 0, limit=limit, types=types)

        page = await self._pool.read(caller, session_id, partial(read, after), "read")
        if descending or page.events or page.has_more or wait_seconds <= 0:
            return page
        with anyio.move_on_after(wait_seconds):
            while not page.events and not self._pool.draining:
                await self._next_change(caller, session_id, page.next.seq)
                page = await self._pool.read(caller, session_id, partial(read, page.next), "read")
        return page

    async def _next_change(self, caller: Caller, session_id: str, seq: int) -> None:
        try:
            async with self._pool.use(caller, session_id, "read", place=False) as live:
                if live.durable_seq != seq or self._pool.draining:
                    return
                changed = anyio.Event()
                # The session may leave memory meanwhile: its channel stays.
                forget = live.channel.on_change(changed.set)
        except Vanished:
            return
        try:
            await changed.wait()
        finally:
            forget()

    async def append_events(
        self,
        caller: Caller,
        session_id: str,
        events: list[dict[str, Any]],
        idem: Idempotency | None = None,
    ) -> Outcome:
        """Appends events of a program outside, all or none."""
        return await ingest.append_events(
            self._pool, self._external, caller, session_id, events, idem
        )

    async def append_event_lines(
        self,
        caller: Caller,
        session_id: str,
        batches: AsyncIterator[list[bytes]],
        idem: Idempotency | None = None,
    ) -> Outcome:
        """Appends NDJSON as it arrives; a repeat with the key appends only what is missing."""
        return await ingest.append_event_lines(
            self._pool, self._external, caller, session_id, batches, idem
        )

    # -- runs -------------------------------------------------------------------------------

    async def chat(self, caller: Caller, chat: Chat, idem: Idempotency | None = None) -> Outcome:
        """Begins a turn, or queues it; see `RunScheduler.chat`."""
        return await self._turns.chat(caller, chat, idem)

    async def open_run(
        self,
        caller: Caller,
        session_id: str,
        run_id: str | None = None,
        idem: Idempotency | None = None,
    ) -> Outcome:
        """Opens a run whose events a program outside posts; see `ExternalRuns.open`."""
        return await self._external.open(caller, session_id, run_id, idem)

    async def run(self, caller: Caller, session_id: str, run_id: str) -> dict[str, Any]:
        """Gives one run.

        Raises:
            NotFound: No such session or run.
        """
        return await self._pool.read(
            caller,
            session_id,
            lambda head: find_run(self._store, session_id, head.epoch, run_id),
        )

    async def runs(
        self,
        caller: Caller,
        session_id: str,
        *,
        limit: int = 100,
        cursor: str | None = None,
        descending: bool = False,
    ) -> RunList:
        """Lists the runs of a session in the order they were asked for."""

        async def read(head: SessionHead) -> RunList:
            seq = run_cursor(cursor)
            return await run_page(self._store, head, limit=limit, cursor=seq, descending=descending)

        return await self._pool.read(caller, session_id, read)

    async def wait_run(
        self, caller: Caller, session_id: str, run_id: str, seconds: float
    ) -> RunWait:
        """Waits for a run's end, up to so many seconds."""
        await self.run(caller, session_id, run_id)
        return await self._endings.wait_run(caller, session_id, run_id, seconds)

    async def cancel_run(
        self, caller: Caller, session_id: str, run_id: str, idem: Idempotency | None = None
    ) -> Outcome:
        """Cancels a run; idempotent. See `Cancellation.cancel_run`."""
        work = partial(self._endings.cancel_run, caller, session_id, run_id)
        return await self._pool.once(caller, session_id, idem, work)

    async def cancel_session(
        self, caller: Caller, session_id: str, idem: Idempotency | None = None
    ) -> Outcome:
        """Cancels the active run and everything queued; a repeat spares what began since."""
        work = partial(self._endings.cancel_session, caller, session_id)
        return await self._pool.once(caller, session_id, idem, work)

    # -- connections ------------------------------------------------------------------------

    async def connect(
        self, caller: Caller, session_id: str, request: StreamRequest, renderer: Renderer
    ) -> Subscription | None:
        """Opens a stream, or None when nothing will ever come; see `StreamHub.connect`."""
        return await self._streams.connect(caller, session_id, request, renderer)

    def check_room_for_stream(self, caller: Caller) -> None:
        """Refuses before anything is begun what `connect` would refuse after it."""
        self._streams.check_room(caller)

    async def connections(self, caller: Caller, session_id: str) -> list[dict[str, Any]]:
        """Lists the open streams of a session."""
        return await self._streams.connections(caller, session_id)

    async def disconnect(self, caller: Caller, session_id: str, connection_id: str) -> None:
        """Ends one stream of a session and no other."""
        await self._streams.disconnect(caller, session_id, connection_id)

    # -- the process ------------------------------------------------------------------------

    def check_ready(self) -> str:
        """Checks that the gateway takes work; the error's `check` names what it does not for.

        Returns:
            What somebody should know who sends work: `ready`, or that the disk is full. Then reads,
            streams and deletions go on, and only what would be written is refused.

        Raises:
            Unavailable: It does not: `recovery`, `drain` or `storage`.
        """
        if not self._is_ready:
            raise not_recovered()
        if self._pool.draining:
            raise Draining(
                "The gateway is shutting down; its successor will answer.",
                extra={"check": "drain"},
            )
        if not self._store.is_writing:
            raise Unavailable(
                "The store's writer has ended: nothing can be kept before a restart.",
                extra={"check": "storage"},
            )
        refusal = self._store.refusal
        if isinstance(refusal, StorageFull):
            return f"read-only: {refusal.detail}"
        if refusal is not None:
            raise Unavailable(refusal.detail, extra={"check": "storage"})
        return "ready"

    @property
    def is_ready(self) -> bool:
        """Whether the gateway takes work."""
        try:
            self.check_ready()
        except Unavailable:
            return False
        return True

    def begin_drain(self) -> None:
        """Refuses what is new and says goodbye to streams that wait for nothing."""
        if self._is_ready and not self._pool.draining:
            self._pool.draining = True
            self._streams.farewell()
            for channel in self._pool.channels:
                channel.wake_waiters()

    async def drain(self) -> None:
        """Ends runs within `drain_timeout_seconds`, and every stream after its run. Idempotent."""
        self.begin_drain()
        await self._turns.finish(self._settings.drain_timeout_seconds)
        self._streams.farewell(runs_are_over=True)

    def stats(self) -> dict[str, Any]:
        """Gives the counters and levels of the application and of the store, for /metrics."""
        measures = measure(self._pool, self._streams, self._compaction)
        return {"ready": float(self.is_ready), **measures}

    async def _keep_house(self) -> None:
        while True:
            await anyio.sleep(_HOUSEKEEPING_SECONDS)
            self._pool.evict_idle()
            self._external.end_silent()


def not_recovered() -> Unavailable:
    """What is answered before all is recovered."""
    return Unavailable(
        "The gateway recovers its sessions and will serve them soon.", extra={"check": "recovery"}
    )
