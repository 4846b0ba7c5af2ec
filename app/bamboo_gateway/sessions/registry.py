"""SessionRegistry: which sessions are in memory, and the only way to a session.

Every look-up names its caller, and the registry asks `access` before it hands anything out.

At most `max_active_sessions` sessions are in memory. When one more is needed, the registry evicts
the least recently used session that nothing needs, and prefers one without open streams. Readers
need no place in memory: they wait in the session's `Channel`, which stays when the session leaves.
A session that is being created has its place here before its first commit is durable, so that two
calls cannot create it twice.

Where several processes share the store, memory is a cache: before a call gets a session that memory
has, one look at the store confirms that no other process has moved it since.
"""

import asyncio
from collections import OrderedDict
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager, contextmanager, suppress
from dataclasses import replace
from typing import TypeVar

from anyio.lowlevel import checkpoint

from bamboo_gateway.domain.callers import GATEWAY, Caller
from bamboo_gateway.domain.errors import BambooError, Conflict, Unavailable
from bamboo_gateway.domain.limits import KEYS_IN_MEMORY_MAX
from bamboo_gateway.domain.sessions import Presence, SessionHead
from bamboo_gateway.sessions.access import (
    Need,
    check_access,
    check_may_make,
    scoped,
    scoped_search,
    unknown_session,
)
from bamboo_gateway.sessions.context import Context
from bamboo_gateway.sessions.idempotency import KeyCount, KeyLedger
from bamboo_gateway.sessions.reloader import Reloader
from bamboo_gateway.sessions.stored_quotas import DoubtfulError
from bamboo_gateway.sessions.streaming.absorbing import absorb_missing
from bamboo_gateway.sessions.streaming.channel import Channel
from bamboo_gateway.sessions.streaming.channels import Channels
from bamboo_gateway.sessions.streaming.session_writer import (
    HeadMoved,
    LookAgain,
    OnChange,
    SessionWriter,
    Vanished,
)
from bamboo_gateway.storage.replicas import Look
from bamboo_gateway.storage.reports import SearchPage, SearchQuery, SessionPage, SessionQuery

_PAGE_HEADS = 250
"""Heads that `each` makes before it yields to the event loop: some 5 ms of work."""

_READ_TRIES = 3
"""How often a session may be deleted and created again during one read before it gives up."""

_MOVED_MAX = 50
"""How often a call is made again because other processes were faster, before it is refused. From
the third time on the session is locked for it, so this is for a session that is written without an
end by many."""

_READ_PASSED_OVER_MAX = 50
"""How many sessions with open streams an eviction passes over in search of one without: at most
some 20 microseconds."""

T = TypeVar("T")


class SessionRegistry:
    """Holds the sessions that are in memory, loads others, and evicts idle ones.

    Attributes:
        channels: The channels that have readers.
        on_slot_free: Called with each session whose slot for a run may have become free.
        on_change: Called with the events of each durable commit, and without events when a session
            changed in another way.
    """

    def __init__(self, context: Context, channels: Channels) -> None:
        self.channels = channels
        self.on_slot_free: list[Callable[[SessionWriter], None]] = []
        self.on_change: OnChange | None = None
        self._context = context
        self._store = context.store
        self._replicas = context.store.replicas
        self._settings = context.settings
        self._quotas = context.quotas
        self._key_count = KeyCount()
        self._writers: OrderedDict[str, SessionWriter] = OrderedDict()
        self._opening: dict[str, asyncio.Event] = {}
        self._reloader = Reloader(context, self.forget, self.slot_free)

    @property
    def sessions(self) -> list[SessionWriter]:
        """The sessions in memory, the least recently used first."""
        return list(self._writers.values())

    def get(self, session_id: str) -> SessionWriter | None:
        """Return the session if it is in memory, without a check of access."""
        return self._writers.get(session_id)

    # -- looking up -------------------------------------------------------------------------

    @asynccontextmanager
    async def use(
        self,
        caller: Caller,
        session_id: str,
        need: Need = "own",
        *,
        create: bool = False,
        place: bool = True,
    ) -> AsyncIterator[SessionWriter]:
        """Hold a session in memory for a call, ready for decisions.

        Args:
            caller: Who calls.
            session_id: The session's id.
            need: What the call needs of the session.
            create: Begin a session where there is none, as for `need="make"`.
            place: Whether the call counts toward the places in memory. Calls that only look, or
                delete, do not: they also work while all places are taken, and a session without a
                run then leaves memory with the call.

        Raises:
            NotFound: There is no such session for this caller, and none is to be created.
            SessionExists, Forbidden: The caller has no access (`access.check_access`).
            Unavailable: Busy sessions take all places.
            LimitReached: The session's user has `max_active_sessions_per_user` busy ones.
            Vanished: The session was deleted meanwhile.
        """
        writer = await self._find(caller, session_id, need, create or need == "make", place)
        with self._using(caller, writer, place=place):
            yield writer

    async def within(
        self,
        caller: Caller,
        session_id: str,
        work: Callable[[SessionWriter], Awaitable[T]],
        need: Need = "own",
        *,
        create: bool = False,
        place: bool = True,
    ) -> T:
        """Return what `work` returns for a session that `use` holds.

        `work` is called again, with the session as it is then, whenever it raises `LookAgain`:
        the session was deleted meanwhile, or what `work` saw of it was undone. So it is when it
        raises `DoubtfulError`: whether there is room for a new session has to be looked up again.

        Raises:
            BambooError: As `use`, and what `work` raises.
        """
        moved = 0
        while True:
            try:
                # As `use`, whose generator takes as long as a small decision.
                writer = await self._find(caller, session_id, need, create or need == "make", place)
                with self._using(caller, writer, place=place):
                    return await work(writer)
            except HeadMoved:
                moved += 1
                if moved == _MOVED_MAX:
                    raise
            except (LookAgain, DoubtfulError):
                continue

    @contextmanager
    def _using(self, caller: Caller, writer: SessionWriter, *, place: bool) -> Iterator[None]:
        """Hold a session for a call, right behind `_find`: what that has checked still holds."""
        self._writers.move_to_end(writer.id)
        with self.keeping(writer):
            if place:
                self._make_room()
                self._quotas.take_place(writer, within_share=caller is not GATEWAY)
            try:
                yield
            except Conflict as conflict:
                # The log has another epoch, or is gone: each call in this session looks again.
                writer.lost()
                raise Vanished from conflict

    @contextmanager
    def keeping(self, writer: SessionWriter) -> Iterator[None]:
        """Keep a session in memory for a call."""
        writer.enter()
        try:
            yield
        finally:
            writer.leave()
            if writer.gone:
                self.forget(writer)
            else:
                self._quotas.note(writer)
                if len(self._writers) > self._settings.max_active_sessions and writer.is_idle:
                    self._evict(writer)

    async def head(self, caller: Caller, session_id: str, need: Need = "own") -> SessionHead:
        """Return a durable head for reading, without taking a place in memory for it.

        Raises:
            NotFound: There is no such session for this caller.
            SessionExpired: The session has expired.
            Forbidden: The caller has no access (`access.check_access`).
        """
        while True:
            writer = self._writers.get(session_id)
            if writer is not None and self._replicas is not None:
                writer = writer if await self._is_current(writer) else None
            if writer is None or writer.gone or writer.is_held:
                head = await self._store.load(session_id)
            else:
                head = writer.head.copy()
                try:
                    await writer.settled()
                except BambooError:
                    continue  # the copy shows what was undone
            if head is None or head.seq == 0:
                raise unknown_session(session_id)
            self._check(caller, head, need)
            self._context.states.check_not_expired(head)
            return head

    async def read(
        self,
        caller: Caller,
        session_id: str,
        read: Callable[[SessionHead], Awaitable[T]],
        need: Need = "own",
    ) -> T:
        """Return what `read` makes of a durable head; all of it comes from one epoch of the log.

        Raises:
            NotFound, SessionExpired, Forbidden: As `head`.
        """
        for _ in range(_READ_TRIES):
            head = await self.head(caller, session_id, need)
            try:
                return await read(head)
            except Conflict:
                # Since the head was returned the session was deleted, or created again.
                writer = self._writers.get(session_id)
                if writer is not None and writer.epoch == head.epoch:
                    writer.lost()
        raise unknown_session(session_id)

    async def query(self, caller: Caller, query: SessionQuery) -> SessionPage:
        """Return a page of durable heads that the caller may see.

        Raises:
            InvalidInput: The cursor does not belong to this list.
            Forbidden: The caller's credential is for one session.
        """
        wanted = scoped(caller, query)
        if wanted is None:
            return SessionPage([], None, has_more=False, total=0 if query.count else None)
        if wanted.shared_with is not None and caller is not GATEWAY:
            wanted = replace(wanted, shared_at=self._context.clock.now_ms())
        # Only lists by state ask for more than the time: most queries copy nothing.
        states = self._context.states
        now = Presence(self._context.clock.now_ms())
        return await self._store.query(wanted, states.presence() if wanted.state else now)

    async def search(self, caller: Caller, query: SearchQuery) -> SearchPage:
        """Return a page of messages of the sessions that belong to the caller.

        Raises:
            InvalidInput: The cursor does not belong to a search.
            Forbidden: The caller's credential is for one session.
        """
        wanted = scoped_search(caller, query)
        if wanted is None:
            return SearchPage([], None, has_more=False)
        return await self._store.search(wanted)

    async def each(self, caller: Caller, query: SessionQuery) -> AsyncIterator[SessionHead]:
        """Iterate over all matches in order, yielding to the event loop after each page.

        Raises:
            InvalidInput, Forbidden: As `query`.
        """
        query = replace(query, limit=_PAGE_HEADS, count=False)
        while True:
            page = await self.query(caller, query)
            for head in page.heads:
                yield head
            if not page.has_more:
                return
            query = replace(query, cursor=page.next_cursor)
            # The store returns a list that is up to date without waiting for anything.
            await checkpoint()

    async def _find(
        self, caller: Caller, session_id: str, need: Need, create: bool, place: bool
    ) -> SessionWriter:
        """Return the session, ready for decisions, after the one check of access.

        The check comes before anything is done with the session: a caller without access cannot
        even keep it in memory.
        """
        is_miss = False
        confirmed: SessionWriter | None = None
        while True:
            writer = self._writers.get(session_id)
            if writer is None:
                is_miss = True
                if (opening := self._opening.get(session_id)) is not None:
                    await opening.wait()
                    continue
                writer = await self._load(caller, session_id, need, create, place)
            elif writer.gone:
                self.forget(writer)
                continue
            elif not writer.is_ready:
                # Nothing evicts it meanwhile.
                await self._ready(writer)
                continue
            elif self._replicas is not None and confirmed is not writer:
                if not await self._is_current(writer):
                    self._load_again(writer)
                    await self._ready(writer)
                confirmed = writer
                continue
            else:
                self._admit(caller, session_id, writer.head, need, create)
            if is_miss:
                self._context.tally.misses += 1
            else:
                self._context.tally.hits += 1
            return writer

    async def _ready(self, writer: SessionWriter) -> None:
        """Wait until a session is ready, or gone: the next look finds what there is instead."""
        try:
            await writer.ready()
        except Vanished:
            if self._replicas is None:
                raise

    async def confirm(self, writer: SessionWriter) -> None:
        """Make sure that memory has what a shared store had when this was called.

        When another process has moved the session, it is loaded again.

        Raises:
            Vanished: The session does not exist any more.
            BambooError: The store does not answer now.
        """
        if not await self._is_current(writer):
            self._load_again(writer)
            await writer.ready()

    def _load_again(self, writer: SessionWriter) -> None:
        # One that has left memory meanwhile must not touch the channel of the next one.
        if self._writers.get(writer.id) is writer:
            writer.lost()

    async def _is_current(self, writer: SessionWriter) -> bool:
        """Return whether the head in memory, which then can be used at once, is the store's."""
        assert self._replicas is not None  # its callers ask for that
        if writer.is_locked:
            return True
        looks = await self._replicas.look([writer.id])
        is_here = self._writers.get(writer.id) is writer and writer.is_ready
        return is_here and writer.is_current(looks.get(writer.id))

    def moved(self, session_id: str, look: Look | None) -> bool:
        """Take in what a shared store was seen to have of a session; None: there is none.

        A session that nothing needs in memory leaves it, when another process has moved it. Else
        it is loaded again, and its channel absorbs the events.

        Returns:
            Whether the session is in memory. If it is not, its channel has nobody who moves it.
        """
        writer = self._writers.get(session_id)
        if writer is None or writer.gone:
            return False
        if not writer.is_ready or writer.is_current(look):
            return True
        if writer.is_idle and look is not None and look.epoch == writer.epoch:
            self.forget(writer)
            writer.channel.rest()
            return False
        writer.lost()
        return True

    def touched(self, session_id: str, activity_ms: int) -> None:
        """Take in activity without an event that another process has seen (`Channels.touch`)."""
        writer = self._writers.get(session_id)
        if writer is not None and writer.head.last_activity_at < activity_ms:
            writer.head.last_activity_at = activity_ms

    def _admit(
        self, caller: Caller, session_id: str, head: SessionHead | None, need: Need, create: bool
    ) -> None:
        if head is not None and head.seq:
            self._check(caller, head, need)
        elif create:
            check_may_make(caller)
        else:
            raise unknown_session(session_id)

    def _check(self, caller: Caller, head: SessionHead, need: Need) -> None:
        check_access(caller, head, need, self._context.clock.now_ms())

    # -- loading ----------------------------------------------------------------------------

    async def _load(
        self, caller: Caller, session_id: str, need: Need, create: bool, place: bool
    ) -> SessionWriter:
        opened = self._opening[session_id] = asyncio.Event()
        try:
            head = await self._store.load(session_id)
            if self._replicas is not None:
                head = await self._absorbed(session_id, head)
            channel = self._channel_at(session_id, head)
            self._admit(caller, session_id, head, need, create)
            epoch = await self._store.take_epoch() if head is None else head.epoch
            if place or head is None or head.active or head.queue:
                self._make_room(1)
            if head is None:
                made = SessionHead(session_id, epoch)
                return self._add(made, session_id, channel, caller.user_id, exists=False)
            return self._add(head, session_id, channel, None, exists=True)
        finally:
            del self._opening[session_id]
            opened.set()

    def _add(
        self,
        head: SessionHead,
        session_id: str,
        channel: Channel | None,
        made_for: str | None,
        *,
        exists: bool,
    ) -> SessionWriter:
        settings = self._settings
        writer = SessionWriter(
            head,
            channel or Channel(head, self.channels.open, self._look_again),
            self._store,
            self._context.clock,
            self._context.tally,
            exists=exists,
            made_for=made_for,
            max_event_bytes=settings.max_event_bytes,
            keys=KeyLedger(
                settings.idempotency_keys_max, settings.idempotency_bytes_max, self._key_count
            ),
        )
        writer.when_broken(self._reloader.later)
        writer.when_counted(self._quotas.note)
        if self.on_change is not None:
            writer.when_changed(self.on_change)
        if self._context.bus is not None:
            writer.when_told(self._context.bus.publish)
        self._writers[session_id] = writer
        return writer

    async def _absorbed(self, session_id: str, head: SessionHead | None) -> SessionHead | None:
        """Return a head that the session's readers have all events of; load it again if need be."""
        while True:
            channel = self.channels.get(session_id)
            if channel is None or head is None or channel.epoch != head.epoch:
                return head
            if channel.durable_seq == head.seq:
                return head
            if channel.durable_seq < head.seq:
                with suppress(Conflict):
                    if await absorb_missing(self._store, channel, head):
                        continue
            head = await self._store.load(session_id)

    def _channel_at(self, session_id: str, head: SessionHead | None) -> Channel | None:
        """Return the channel in which readers wait, if it is still at the end of this log."""
        channel = self.channels.get(session_id)
        if channel is None:
            return None
        if head is not None and (channel.epoch, channel.durable_seq) == head.position:
            return channel
        # The log has another epoch: clients reconnect and get `reset`.
        channel.vanish("deleted" if head is None else "shutdown")
        return None

    async def reload_all(self) -> None:
        """Load every head again, because sessions have new epochs; their streams end."""
        writers = self.sessions
        for channel in self.channels.all():
            if channel.id not in self._writers:
                channel.vanish("shutdown")
        for writer in writers:
            writer.lost()
        for writer in writers:
            with suppress(Vanished, BambooError):
                await writer.ready()

    def _look_again(self, channel: Channel) -> None:
        writer = self._writers.get(channel.id)
        if writer is not None and writer.channel is channel:
            writer.lost()

    def holding(self, writer: SessionWriter) -> AbstractAsyncContextManager[None]:
        """Keep a session unchanged while a call writes to its log (`Reloader.holding`)."""
        return self._reloader.holding(writer)

    def slot_free(self, writer: SessionWriter) -> None:
        """Report that a run of the session may have ended, so that its next one may start."""
        for call in self.on_slot_free:
            call(writer)

    # -- leaving memory ---------------------------------------------------------------------

    def forget(self, writer: SessionWriter) -> None:
        """Take a session out of memory, unless another one has taken its id."""
        self._quotas.forget(writer)
        writer.keys.forget()
        if self._writers.get(writer.id) is writer:
            del self._writers[writer.id]

    def evict_idle(self) -> None:
        """Evict the sessions that nothing has needed for `idle_timeout_seconds`."""
        now = self._context.clock.monotonic()
        for writer in self.sessions:
            if now - writer.last_used >= self._settings.idle_timeout_seconds and writer.is_idle:
                self._evict(writer)
        self.channels.forget_old()

    def bound_keys(self) -> None:
        """Drop the idempotency keys of idle sessions while memory holds too many."""
        if self._key_count.keys <= KEYS_IN_MEMORY_MAX:
            return
        for writer in self.sessions:
            # During a call, its key may not be in the log yet, or may be decided next.
            if not writer.users and not writer.is_storing:
                writer.keys.forget()
                if self._key_count.keys <= KEYS_IN_MEMORY_MAX:
                    return

    def _make_room(self, places: int = 0) -> None:
        """Evict sessions that nothing needs, until this many more places are free.

        Raises:
            Unavailable: All other sessions are busy.
        """
        while len(self._writers) + places > self._settings.max_active_sessions:
            self._evict(self._least_needed())

    def _least_needed(self) -> SessionWriter:
        """Return the least recently used idle session, if possible one without open streams."""
        read: list[SessionWriter] = []
        for writer in self._writers.values():
            if not writer.is_idle:
                continue
            if not writer.channel.connections:
                return writer
            read.append(writer)
            if len(read) >= _READ_PASSED_OVER_MAX:
                break
        if read:
            return read[0]
        raise Unavailable(
            f"Limit reached: {self._settings.max_active_sessions} busy sessions "
            "(max_active_sessions). Retry in a moment.",
            code="too-many-active-sessions",
            retry_after_seconds=1,
        )

    def _evict(self, writer: SessionWriter) -> None:
        self._context.tally.evictions += 1
        self.forget(writer)
        writer.channel.rest()
        self._context.tasks.spawn(self._store.release, writer.id, name=f"release {writer.id}")
