"""SessionPool: which sessions are in memory, and how a call gets hold of one.

At most `max_active_sessions` are held; the least recently used one that nothing needs makes room,
first of all one without open streams. Readers need no place: they wait in the session's `Channel`,
which stays when the session leaves memory.
A session that is being created has its place here before its first commit is durable, so that two
calls cannot create it twice.
"""

from collections import OrderedDict
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Iterator
from contextlib import asynccontextmanager, contextmanager, suppress
from dataclasses import dataclass, field, replace
from typing import Any, TypeVar

import anyio
import structlog
from anyio.abc import TaskGroup

from bamboo_gateway.domain.callers import GATEWAY, Caller
from bamboo_gateway.domain.clock import Clock
from bamboo_gateway.domain.errors import (
    BambooError,
    Conflict,
    LimitReached,
    SessionClosed,
    SessionExpired,
    Unavailable,
)
from bamboo_gateway.domain.events import Draft
from bamboo_gateway.domain.limits import KEYS_IN_MEMORY_MAX
from bamboo_gateway.domain.sessions import SessionHead, SessionState
from bamboo_gateway.observability.tracing import span
from bamboo_gateway.sessions.access import (
    Need,
    check_access,
    check_made,
    check_may_make,
    scoped,
    unknown_session,
)
from bamboo_gateway.sessions.commands import Idempotency, Outcome
from bamboo_gateway.sessions.idempotency import (
    KeptAnswer,
    KeyCount,
    KeyLedger,
    check_same_body,
    key_digest,
    read_answer,
)
from bamboo_gateway.sessions.quotas import Quotas
from bamboo_gateway.sessions.streaming.channel import Channel
from bamboo_gateway.sessions.streaming.session_writer import SessionWriter, Vanished, Waiter
from bamboo_gateway.sessions.tally import Tally
from bamboo_gateway.settings import Settings
from bamboo_gateway.storage.base import SessionPage, SessionQuery, SessionStore

log = structlog.get_logger(__name__)

_RELOAD_RETRY_SECONDS = 0.5
"""How long to wait before a head that could not be loaded is asked for again."""

_TURN_HEADS = 250
"""How many sessions are gone through in one turn of the loop: some 5 ms of making their heads."""

_READ_TRIES = 3
"""How often a session may be deleted and made anew under one read before that is the answer."""

_READ_PASSED_OVER_MAX = 50
"""How many sessions with open streams are passed over in search of one without: at
most some 20 microseconds, however many there are."""

T = TypeVar("T")


@dataclass(slots=True)
class Decision:
    """What a verb decided: the events, the answer that goes with them, and what follows.

    `waiters` are called with the commit's end whether or not the caller still waits: what must
    happen once it is durable (a run starting) hangs on them and not on the caller.
    """

    drafts: list[Draft]
    answer: dict[str, Any]
    waiters: list[Waiter] = field(default_factory=list)


Decide = Callable[[SessionWriter], Decision]


class SessionPool:
    """See the module. `tasks` is the owner's task group."""

    def __init__(
        self,
        store: SessionStore,
        settings: Settings,
        clock: Clock,
        tasks: TaskGroup,
        tally: Tally,
    ) -> None:
        self.store = store
        self.settings = settings
        self.clock = clock
        self.tally = tally
        self.draining = False
        self.on_slot_free: list[Callable[[SessionWriter], None]] = []
        self.quotas = Quotas(store, settings)
        self.evictions = 0
        self._tasks = tasks
        self._key_count = KeyCount()
        self._closed = False
        self._live: OrderedDict[str, SessionWriter] = OrderedDict()
        self._channels: dict[str, Channel] = {}
        self._opening: dict[str, anyio.Event] = {}
        self._reloading: set[SessionWriter] = set()
        self._disconnected_at: OrderedDict[str, float] = OrderedDict()

    @property
    def sessions(self) -> list[SessionWriter]:
        """Those in memory, the least recently used first."""
        return list(self._live.values())

    def spawn(self, call: Callable[..., Coroutine[Any, Any, None]], *args: Any, name: str) -> None:
        """Starts a child of the gateway; not once it ends, when a late commit may still ask."""
        if not self._closed:
            self._tasks.start_soon(call, *args, name=name)

    def close(self) -> None:
        """Starts no children any more."""
        self._closed = True

    @property
    def channels(self) -> list[Channel]:
        """Those that somebody reads; their writers need not be in memory."""
        return list(self._channels.values())

    def get(self, session_id: str) -> SessionWriter | None:
        """Gives the session if it is in memory."""
        return self._live.get(session_id)

    def channel(self, session_id: str) -> Channel | None:
        """Gives the session's channel if somebody reads it."""
        return self._channels.get(session_id)

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
        """Holds a session in memory for a call, ready for decisions.

        With `create`, or where a new one is needed, one that is not there is begun. Calls that only
        look, or delete, take no `place`: a session without a run is then held also where all
        places are taken, and leaves memory again with the call.

        Raises:
            NotFound: There is none (for this caller), and it is not to be created.
            SessionExists, Forbidden: See `access.check_access`.
            Unavailable: All places are taken by busy sessions.
            LimitReached: Creating it would go over `max_sessions`, or its user has
                `max_active_sessions_per_user` at work.
            Vanished: It was deleted meanwhile.
        """
        create = create or need == "make"
        live = self._live.get(session_id)
        if live is None:
            self.tally.misses += 1
            live = await self._open(caller, session_id, need, create, place)
        else:
            self.tally.hits += 1
            if live.head.seq:
                # Before anything is done with it: others cannot even keep it in memory.
                self._check(caller, live.head, need)
        self._live.move_to_end(session_id)
        with self.keeping(live):
            if place:
                self._make_room()
                self.quotas.take_place(live, within_share=caller is not GATEWAY)
            try:
                await live.ready()
                if live.head.seq:
                    self._check(caller, live.head, need)
                elif create:
                    check_may_make(caller)
                else:
                    raise unknown_session(session_id)
                yield live
            except Conflict as conflict:
                # The log has another life, or none: whoever holds this one looks again.
                live.lost()
                raise Vanished from conflict

    @contextmanager
    def keeping(self, live: SessionWriter) -> Iterator[None]:
        """Keeps a session in memory for a call."""
        live.users += 1
        try:
            yield
        finally:
            live.users -= 1
            live.last_used = self.clock.monotonic()
            if live.is_unborn and live.is_idle:
                live.gone = True
            if live.gone:
                self.forget(live)
            else:
                self.quotas.note(live)
                if len(self._live) > self.settings.max_active_sessions and live.is_idle:
                    self._evict(live)

    async def head(self, caller: Caller, session_id: str, need: Need = "own") -> SessionHead:
        """Gives a durable head for reading, without taking a place in memory for it.

        Raises:
            NotFound, SessionExpired: It is not there (for this caller), or not any more.
            Forbidden: See `access.check_access`.
        """
        while True:
            live = self._live.get(session_id)
            if live is None or live.gone or live.is_held:
                head = await self.store.load(session_id)
            else:
                head = live.head.copy()
                try:
                    await live.settled()
                except BambooError:
                    continue  # what the copy shows was undone
            if head is None or head.seq == 0:
                raise unknown_session(session_id)
            self._check(caller, head, need)
            self.check_not_expired(head)
            return head

    async def read(
        self,
        caller: Caller,
        session_id: str,
        read: Callable[[SessionHead], Awaitable[T]],
        need: Need = "own",
    ) -> T:
        """Gives what `read` makes of a durable head, of one life of the log and no two.

        Raises:
            NotFound, SessionExpired, Forbidden: As `head`.
        """
        for _ in range(_READ_TRIES):
            head = await self.head(caller, session_id, need)
            try:
                return await read(head)
            except Conflict:
                # Deleted, or made anew, since the head was given.
                live = self._live.get(session_id)
                if live is not None and live.epoch == head.epoch:
                    live.lost()
        raise unknown_session(session_id)

    async def query(self, caller: Caller, query: SessionQuery) -> SessionPage:
        """Lists durable heads of what the caller may see.

        Raises:
            InvalidInput: The cursor is none of this list's.
            Forbidden: The caller came for one session.
        """
        wanted = scoped(caller, query)
        if wanted is None:
            return SessionPage([], None, has_more=False, total=0 if query.count else None)
        if wanted.shared_with is not None:
            wanted = replace(wanted, shared_at=self.clock.now_ms())
        return await self.store.query(wanted, PoolStates(self))

    async def each(self, caller: Caller, query: SessionQuery) -> AsyncIterator[SessionHead]:
        """Goes through all that `query` lists, in its order, letting others on between its turns.

        Raises:
            InvalidInput, Forbidden: As `query`.
        """
        query = replace(query, limit=_TURN_HEADS, count=False)
        while True:
            page = await self.query(caller, query)
            for head in page.heads:
                yield head
            if not page.has_more:
                return
            query = replace(query, cursor=page.next_cursor)
            # A list that is up to date is read without waiting for anything.
            await anyio.lowlevel.checkpoint()

    async def change(
        self,
        caller: Caller,
        session_id: str,
        decide: Decide,
        need: Need = "own",
        *,
        create: bool = False,
        idem: Idempotency | None = None,
        closed_too: bool = False,
        expired_too: bool = False,
        read_only_too: bool = False,
        prepare: Callable[[SessionWriter], Awaitable[None]] | None = None,
    ) -> Outcome:
        """Makes a decision durable and gives its answer, once for each idempotency key.

        `prepare` is awaited right before `decide` and ends with the session ready for it.

        Raises:
            BambooError: What `decide` refused, or what kept it from being stored.
        """
        while True:
            try:
                async with self.use(caller, session_id, need, create=create) as live:
                    digest = None
                    if idem is not None:
                        digest = key_digest(caller, idem)
                        if kept := await self.kept_answer(live, digest, idem):
                            return Outcome(kept.answer, replayed=True)
                    if read_only_too:
                        self.check_not_expired(live.head)
                    elif live.head.seq and need != "make":
                        self.check_writable(
                            live.head, closed_too=closed_too, expired_too=expired_too
                        )
                    if prepare is not None:
                        await prepare(live)
                        if digest is not None and not self._is_first(live, digest):
                            continue
                    try:
                        decision = decide(live)
                    except BambooError as refusal:
                        await self._confirm(live, refusal)
                        continue
                    if live.head.seq == 0 and decision.drafts:
                        check_made(caller, decision.drafts[0].fields.get("user_id"))
                    # An archived log takes nothing, also no note.
                    is_archived = live.head.logged_state == "archived"
                    if not decision.drafts and (idem is None or is_archived):
                        await live.settled()
                        return Outcome(decision.answer)
                    return await self._commit(live, decision, idem, digest)
            except Vanished:
                continue

    def _is_first(self, live: SessionWriter, digest: str) -> bool:
        """Tells whether a key still has no answer, after something was waited for."""
        return live.keys.is_loaded and live.keys.get(digest, self.clock.now_ms()) is None

    async def _commit(
        self,
        live: SessionWriter,
        decision: Decision,
        idem: Idempotency | None,
        digest: str | None,
    ) -> Outcome:
        note, take_back = None, None
        if idem is not None and digest is not None:
            kept = KeptAnswer(idem.body_digest, decision.answer, self.clock.now_ms())
            note, take_back = live.keys.put(digest, kept)
            self._bound_keys()
        try:
            with span("commit", session_id=live.id, events=len(decision.drafts)):
                await live.commit(decision.drafts, note=note, waiters=decision.waiters)
        except BambooError:
            if take_back is not None:
                take_back()
            raise
        return Outcome(decision.answer)

    async def _confirm(self, live: SessionWriter, refusal: BambooError) -> None:
        """Raises a refusal once what it stands on is durable (R1); returns when that was undone."""
        try:
            await live.settled()
        except BambooError:
            return
        raise refusal

    async def kept(
        self, caller: Caller, session_id: str, idem: Idempotency | None, need: Need = "own"
    ) -> Outcome | None:
        """Gives the first answer to a key, if there is one."""
        while idem is not None:
            try:
                async with self.use(caller, session_id, need) as live:
                    kept = await self.kept_answer(live, key_digest(caller, idem), idem)
                    return Outcome(kept.answer, replayed=True) if kept else None
            except Vanished:
                continue
        return None

    async def once(
        self,
        caller: Caller,
        session_id: str,
        idem: Idempotency | None,
        work: Callable[[], Awaitable[dict[str, Any]]],
    ) -> Outcome:
        """Does what is no decision of its own, and keeps the answer for the key behind it.

        So a crash in between leaves work that a repeat does again: for what may be done twice.
        """
        if kept := await self.kept(caller, session_id, idem):
            return kept
        answer = await work()
        if idem is not None:
            # It is done, whether or not there is room to remember it.
            with suppress(BambooError):
                return await self.change(
                    caller,
                    session_id,
                    lambda _: Decision([], answer),
                    idem=idem,
                    read_only_too=True,
                )
        return Outcome(answer)

    async def kept_answer(
        self, live: SessionWriter, digest: str, idem: Idempotency
    ) -> KeptAnswer | None:
        """Looks for a first answer; one that is not durable yet is waited for.

        Afterwards decisions can be made at once, without another await.

        Raises:
            IdempotencyKeyReused: The key was used for another body.
            StorageFailed: There is one, and it cannot be read.
        """
        while True:
            if not live.keys.is_loaded:
                if live.is_unborn:
                    live.keys.start_empty()
                else:
                    await live.keys.load(self.store, live.id, live.epoch)
                    self._bound_keys()
                    await live.ready()
                continue
            known = live.keys.get(digest, self.clock.now_ms())
            if known is None:
                return None
            check_same_body(known, idem)
            try:
                await live.settled()
            except BambooError:
                await live.ready()
                continue
            return await read_answer(self.store, live.id, live.epoch, digest)

    def _bound_keys(self) -> None:
        """Drops the keys of sessions that no call is at work in, the least recently used first."""
        if self._key_count.keys <= KEYS_IN_MEMORY_MAX:
            return
        for live in self.sessions:
            # Of any other, what is in flight is not in the log yet, or about to be decided.
            if not live.users and not live.is_storing:
                live.keys.forget()
                if self._key_count.keys <= KEYS_IN_MEMORY_MAX:
                    return

    def _check(self, caller: Caller, head: SessionHead, need: Need) -> None:
        check_access(caller, head, need, self.clock.now_ms())

    def check_writable(
        self, head: SessionHead, *, closed_too: bool = False, expired_too: bool = False
    ) -> None:
        """Refuse what a closed, archived or expired session does not take, or a full quota.

        Raises:
            SessionClosed: The session is closed or archived.
            SessionExpired: Its time to live has passed.
            LimitReached: Its user, or the gateway, has stored as many bytes as allowed.
        """
        if not expired_too:
            self.check_not_expired(head)
        if head.logged_state == "archived":
            raise SessionClosed(
                "The session is archived and read-only; restore it first.", code="session-archived"
            )
        if head.logged_state == "closed" and not closed_too:
            raise SessionClosed("The session is closed and read-only; reopen it first.")
        if not closed_too:
            self.quotas.check_stored(head.user_id)

    def check_not_expired(self, head: SessionHead) -> None:
        """Refuse a session whose time to live has passed.

        Raises:
            SessionExpired: It has.
        """
        if self.state_of(head) == "expired":
            raise SessionExpired(
                "The session's time to live has passed. Reopen the session, with a new "
                "`ttl_seconds` if you like, or delete it."
            )

    def state_of(self, head: SessionHead) -> SessionState:
        """Computes the state as of now.

        A closed session expires like any other; an archived one has a retention of its own.
        """
        if head.logged_state == "archived":
            return "archived"
        channel = self._channels.get(head.id)
        watched = channel is not None and bool(channel.connections)
        if head.logged_state is None and (head.active or watched):
            return "active"
        expires_at = head.expires_at
        if expires_at is not None and expires_at <= self.clock.now_ms() and not head.queue:
            return "expired"
        if head.logged_state is not None:
            return head.logged_state
        ended = self._disconnected_at.get(head.id)
        retention = self.settings.disconnect_retention_seconds
        if ended is not None and self.clock.monotonic() - ended < retention:
            return "disconnected"
        return "idle"

    def noted(self) -> set[str]:
        """Gives the sessions whose state takes more than their heads to tell."""
        connected = (channel.id for channel in self._channels.values() if channel.connections)
        return {*connected, *self._disconnected_at}

    def expires_at(self, head: SessionHead) -> int | None:
        """Gives when it will have expired if nothing more happens; an open stream is activity."""
        if head.ttl_seconds is None or head.logged_state == "archived":
            return None
        if self.state_of(head) == "active":
            return self.clock.now_ms() + head.ttl_seconds * 1000
        return head.expires_at

    def slot_free(self, live: SessionWriter) -> None:
        """Says that a run may have ended, and the next may start."""
        for call in self.on_slot_free:
            call(live)

    def note_disconnect(self, channel: Channel) -> None:
        """Remembers that the session's last stream has ended."""
        self._disconnected_at[channel.id] = self.clock.monotonic()
        self._disconnected_at.move_to_end(channel.id)
        self.touch(channel)

    def touch(self, channel: Channel) -> None:
        """Moves the session's last activity to now, without an event."""
        now_ms = self.clock.now_ms()
        channel.head.last_activity_at = max(channel.head.last_activity_at, now_ms)
        self.store.touch(channel.id, channel.epoch, now_ms)

    def forget(self, live: SessionWriter) -> None:
        """Takes it out of memory, as far as it is still the one of its id."""
        self.quotas.forget(live)
        live.keys.forget()
        if self._live.get(live.id) is live:
            del self._live[live.id]

    async def delete(
        self,
        caller: Caller,
        session_id: str,
        only_if: Callable[[SessionHead], bool] | None = None,
        *,
        spare_used: bool = False,
    ) -> int | None:
        """Deletes a session with everything that hangs on it (R9).

        Args:
            caller: Who wants it gone.
            session_id: Which.
            only_if: Asked at the last moment; it may also raise.
            spare_used: Leave it while another call is at work in it.

        Returns:
            The bytes that its records took, or None when it was to be left.

        Raises:
            NotFound: There is none.
            StorageFailed: It is still there, whole.
        """
        try:
            # Without a place: what frees memory and the disk is not refused where they are full.
            async with self.use(caller, session_id, place=False) as live:
                if (spare_used and live.users > 1) or (only_if and not only_if(live.head)):
                    return None
                async with self.holding(live):
                    freed = await self.store.delete(session_id, live.epoch)
                    live.vanish("deleted")
                self._disconnected_at.pop(session_id, None)
                return freed
        except Vanished:
            raise unknown_session(session_id) from None

    @asynccontextmanager
    async def holding(self, live: SessionWriter) -> AsyncIterator[None]:
        """Keeps a session as it is, for what changes it past its writer.

        Call only right after `ready`, without an await between. What was decided is durable when
        this begins, and nothing is decided until it ends.
        """
        live.hold()
        try:
            await live.settled()
            yield
        except BaseException:
            # Also when cancelled: what is true now is for the store to say.
            self._reload_later(live)
            raise
        live.resume()

    def evict_idle(self) -> None:
        """Lets sessions go that nothing has needed for `idle_timeout`."""
        now = self.clock.monotonic()
        for live in self.sessions:
            if now - live.last_used < self.settings.idle_timeout_seconds:
                continue
            if live.is_idle:
                self._evict(live)
        retention = self.settings.disconnect_retention_seconds
        while self._disconnected_at:
            session_id, ended = next(iter(self._disconnected_at.items()))
            if now - ended < retention:
                break
            del self._disconnected_at[session_id]

    async def _open(
        self, caller: Caller, session_id: str, need: Need, create: bool, place: bool
    ) -> SessionWriter:
        while True:
            if (opening := self._opening.get(session_id)) is not None:
                await opening.wait()
            if (live := self._live.get(session_id)) is not None:
                return live
            if session_id not in self._opening:
                break
        opened = self._opening[session_id] = anyio.Event()
        try:
            head = await self.store.load(session_id)
            exists = head is not None
            channel = self._channel_at(session_id, head)
            if head is not None:
                self._check(caller, head, need)
            elif create:
                check_may_make(caller)
            else:
                raise unknown_session(session_id)
            if place or head is None or head.active or head.queue:
                self._make_room(1)
            if head is None:
                self._check_count()
                head = SessionHead(session_id, self.store.next_epoch())
            live = SessionWriter(
                head,
                channel or Channel(head, self._channels, self._look_again),
                self.store,
                self.clock,
                self.tally,
                exists=exists,
                max_event_bytes=self.settings.max_event_bytes,
                keys=KeyLedger(
                    self.settings.idempotency_keys_max,
                    self.settings.idempotency_bytes_max,
                    self._key_count,
                ),
            )
            if not exists:
                live.made_for = caller.user_id
            live.when_broken(self._reload_later)
            live.when_counted(self.quotas.note)
            self._live[session_id] = live
            return live
        finally:
            del self._opening[session_id]
            opened.set()

    def _channel_at(self, session_id: str, head: SessionHead | None) -> Channel | None:
        """Gives the channel that readers of a session at rest wait in, if it is still its own."""
        channel = self._channels.get(session_id)
        if channel is None:
            return None
        if head is not None and (channel.epoch, channel.durable_seq) == head.position:
            return channel
        # Another life of the log: clients come back, and are told so by `reset`.
        channel.vanish("deleted" if head is None else "shutdown")
        return None

    def _look_again(self, channel: Channel) -> None:
        live = self._live.get(channel.id)
        if live is not None and live.channel is channel:
            live.lost()

    def _make_room(self, places: int = 0) -> None:
        """Evicts sessions that nothing needs, until so many places more are free.

        Raises:
            Unavailable: All others are busy.
        """
        while len(self._live) + places > self.settings.max_active_sessions:
            self._evict(self._least_needed())

    def _least_needed(self) -> SessionWriter:
        """Gives the least recently used that nothing needs, rather one without open streams."""
        read: list[SessionWriter] = []
        for live in self._live.values():
            if not live.is_idle:
                continue
            if not live.channel.connections:
                return live
            read.append(live)
            if len(read) >= _READ_PASSED_OVER_MAX:
                break
        if read:
            return read[0]
        raise Unavailable(
            f"All {self.settings.max_active_sessions} places for active sessions are taken; "
            "try again soon or raise max_active_sessions.",
            code="too-many-active-sessions",
            retry_after_seconds=1,
        )

    def _check_count(self) -> None:
        limit = self.settings.max_sessions
        if limit is None:
            return
        unborn = sum(live.is_unborn for live in self._live.values())
        if self.store.count() + unborn >= limit:
            raise LimitReached(
                f"There are {limit} sessions, which is max_sessions; delete some or raise it.",
                code="too-many-sessions",
                retry_after_seconds=60,
            )

    def _evict(self, live: SessionWriter) -> None:
        self.evictions += 1
        self.forget(live)
        live.channel.rest()
        self.spawn(self.store.release, live.id, name=f"release {live.id}")

    def _reload_later(self, live: SessionWriter) -> None:
        if live not in self._reloading:
            self._reloading.add(live)
            self.spawn(self._reload, live, name=f"reload {live.id}")

    async def _reload(self, live: SessionWriter) -> None:
        head = await self._load_patiently(live.id)
        self._reloading.discard(live)
        if head is None or head.epoch != live.epoch:
            # Another life of the log: clients come back, and are told so by `reset`.
            live.vanish("deleted" if head is None else "shutdown")
            self.forget(live)
            live.resume()
            return
        live.resume(head)
        self.slot_free(live)

    async def _load_patiently(self, session_id: str) -> SessionHead | None:
        while True:
            try:
                return await self.store.load(session_id)
            except BambooError as error:
                log.warning("head not loaded, trying again", session_id=session_id, code=error.code)
                await anyio.sleep(_RELOAD_RETRY_SECONDS)


class PoolStates:
    """How a store that lists by state asks the pool (`storage.base.SupportsNoted`)."""

    def __init__(self, pool: SessionPool) -> None:
        self._pool = pool

    def __call__(self, head: SessionHead) -> SessionState:
        """Computes the state as of now."""
        return self._pool.state_of(head)

    def noted(self) -> set[str]:
        """Gives the sessions of which the pool knows more than their heads say."""
        return self._pool.noted()
