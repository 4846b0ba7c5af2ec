"""Reloader: loads a session's head again when the one in memory may be wrong.

Where several processes share the store, it also absorbs what the others have stored: the session's
readers get these events, and who waits for the end of a run learns of it. When the others were
faster again and again, it locks the session for the writer's next commit.
"""

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import NamedTuple

import anyio
import structlog

from bamboo_gateway.domain.codec import decode
from bamboo_gateway.domain.errors import BambooError, Conflict, StorageFailed
from bamboo_gateway.domain.events import TERMINAL_TYPES
from bamboo_gateway.domain.sessions import SessionHead
from bamboo_gateway.sessions.context import Context
from bamboo_gateway.sessions.streaming.absorbing import absorb_missing
from bamboo_gateway.sessions.streaming.session_writer import SessionWriter
from bamboo_gateway.storage.base import Done
from bamboo_gateway.storage.commits import Commit
from bamboo_gateway.storage.replicas import LockedSession, Replicas

log = structlog.get_logger(__name__)

_RELOAD_RETRY_SECONDS = 0.5
"""How long to wait before the store is asked again for a head that it could not load."""

_LOCK_SECONDS = 0.1
"""How long a session stays locked for a commit that nobody makes: the other processes wait."""


class _Handed(NamedTuple):
    """A commit for a locked session, and whom to answer."""

    commit: Commit
    done: Done


@dataclass(slots=True)
class _Outage:
    """The heads that the store could not load for one reason.

    Attributes:
        waiting: The sessions that are still waited for.
        sessions: How many there were in all.
        tries: How many times the store was asked in vain.
    """

    waiting: set[str] = field(default_factory=set)
    sessions: int = 0
    tries: int = 0


class Reloader:
    """Loads heads again, after a failed commit or a call that wrote past the session writer.

    Args:
        context: Has the store and the background tasks.
        on_gone: Called with a session that was deleted, or whose log has another epoch.
        on_loaded: Called with a session that is ready again.
    """

    def __init__(
        self,
        context: Context,
        on_gone: Callable[[SessionWriter], None],
        on_loaded: Callable[[SessionWriter], None],
    ) -> None:
        self._context = context
        self._replicas = context.store.replicas
        self._on_gone = on_gone
        self._on_loaded = on_loaded
        self._reloading: set[SessionWriter] = set()
        self._outages: dict[str, _Outage] = {}

    @asynccontextmanager
    async def holding(self, writer: SessionWriter) -> AsyncIterator[None]:
        """Keep a session unchanged while a call writes to its log without its writer.

        Call it only when the session is ready, without an await between. All that was decided is
        durable when the block begins, and nothing is decided until it ends.
        """
        writer.hold()
        try:
            await writer.settled()
            yield
        except BaseException:
            # Also when the call was cancelled: only the store knows the true head now.
            self.later(writer)
            raise
        writer.resume()

    def later(self, writer: SessionWriter) -> None:
        """Load the head in a background task. The session's gate is closed until then.

        When the store cannot load it, requests get the error instead of waiting for the next try.
        """
        if writer not in self._reloading:
            self._reloading.add(writer)
            self._context.tasks.spawn(self._reload, writer, name=f"reload {writer.id}")

    async def _reload(self, writer: SessionWriter) -> None:
        if self._replicas is not None:
            # What is on its way decides which head the next decision is made on.
            await writer.stilled()
            if writer.has_failed and writer.has_undone:
                # The store refuses commits for a while, and may answer reads: no faster than this.
                await anyio.sleep(_RELOAD_RETRY_SECONDS)
            if writer.is_contended and await self._reload_locked(self._replicas, writer):
                return
        head = await self._load_patiently(writer)
        self._reloading.discard(writer)
        if head is None or head.epoch != writer.epoch:
            self._end(writer, head)
            return
        # What has only moved is looked at by the process that moved it.
        is_told = self._replicas is None or writer.has_failed
        writer.resume(head)
        if is_told:
            self._on_loaded(writer)

    def _end(self, writer: SessionWriter, head: SessionHead | None) -> None:
        # The log has another epoch: clients reconnect and get `reset`.
        writer.vanish("deleted" if head is None else "shutdown")
        self._on_gone(writer)
        writer.resume()

    async def _load_patiently(self, writer: SessionWriter) -> SessionHead | None:
        while True:
            try:
                head = await self._context.store.load(writer.id)
                if self._replicas is not None and not await self._absorb(writer, head):
                    continue
            except BambooError as error:
                self._note_failure(writer.id, error.code)
                writer.not_loaded(error)
                await anyio.sleep(_RELOAD_RETRY_SECONDS)
            else:
                self._note_success(writer.id)
                return head

    # -- what other processes have stored ---------------------------------------------------

    async def _absorb(self, writer: SessionWriter, head: SessionHead | None) -> bool:
        """Let the session's readers, and who waits for runs, have all events up to a head.

        Returns:
            Whether it worked; else the head has to be loaded again.
        """
        if head is None or head.epoch != writer.epoch:
            return True
        try:
            before = writer.durable_seq
            ended = await self._ended(writer, before) if before < head.seq else []
            if not await absorb_missing(self._context.store, writer.channel, head):
                return False
        except Conflict:
            return False  # deleted since, perhaps created again
        writer.ends_seen(ended)
        return True

    async def _ended(self, writer: SessionWriter, after: int) -> list[str]:
        """Return the runs that somebody waits for and that have ended behind a seq."""
        awaited, ended = set(writer.awaited_runs), []
        while awaited and (
            page := await self._context.store.find(writer.id, writer.epoch, "run", after=after)
        ):
            events = [decode(record.body) for record in page]
            ended += [
                event["run_id"]
                for event in events
                if event["type"] in TERMINAL_TYPES and event["run_id"] in awaited
            ]
            after = page[-1].seq
        return ended

    async def _reload_locked(self, replicas: Replicas, writer: SessionWriter) -> bool:
        """Load the head of a locked session, and give its writer the lock for one commit.

        Returns:
            False when the session could not be locked; it has to be loaded without.
        """
        is_loaded = False
        try:
            async with replicas.locked(writer.id) as locked:
                head = locked.head
                if head is None or head.epoch != writer.epoch:
                    return False
                if not await self._absorb(writer, head):
                    return False
                self._reloading.discard(writer)
                is_loaded = True
                await self._hand_lock(writer, locked, head)
        except BambooError:
            return is_loaded
        return True

    async def _hand_lock(
        self, writer: SessionWriter, locked: LockedSession, head: SessionHead
    ) -> None:
        handed: list[_Handed] = []
        is_handed = anyio.Event()

        def take(commit: Commit, done: Done) -> None:
            handed.append(_Handed(commit, done))
            is_handed.set()

        writer.resume(head, take)
        with anyio.move_on_after(_LOCK_SECONDS):
            await is_handed.wait()
        writer.withdraw(take)
        if not handed:
            return
        [(commit, done)] = handed
        error: BambooError | None = None
        try:
            await locked.append(commit)
        except BambooError as refused:
            error = refused
        except BaseException:
            done(StorageFailed("The answer to a commit was lost."))
            raise
        done(error)

    def _note_failure(self, session_id: str, code: str) -> None:
        """Log the first failure of an outage; count the others, which come twice a second."""
        outage = self._outages.get(code)
        if outage is None:
            outage = self._outages[code] = _Outage()
            log.warning("heads not loaded, trying again", code=code, session_id=session_id)
        if session_id not in outage.waiting:
            outage.waiting.add(session_id)
            outage.sessions += 1
        outage.tries += 1

    def _note_success(self, session_id: str) -> None:
        """Log the end of each outage in which this session was the last one that waited."""
        for code, outage in list(self._outages.items()):
            if session_id in outage.waiting:
                outage.waiting.remove(session_id)
                if not outage.waiting:
                    del self._outages[code]
                    counts = {"sessions": outage.sessions, "tries": outage.tries}
                    log.info("heads loaded again", code=code, **counts)
