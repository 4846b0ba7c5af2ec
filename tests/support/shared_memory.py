"""One database in memory that several stores use, as several processes share a PostgreSQL.

A test makes a `SharedMemory`, opens one `store` for each process that it plays, and gives each to a
manager of its own. It decides itself who is dead, who leads and when a counter is renewed:

    memory = SharedMemory(clock)
    async with gateway(await memory.store("a"), clock=clock) as a:
        async with gateway(await memory.store("b"), clock=clock) as b:
            ...

Each store can also be held and fail as a `FaultyStore`.
"""

from __future__ import annotations

import asyncio
from collections import Counter, defaultdict, deque
from collections.abc import AsyncIterator, Callable, Collection
from contextlib import AbstractAsyncContextManager, asynccontextmanager

import anyio
import anyio.lowlevel
from typing_extensions import override

from bamboo_gateway.domain.clock import Clock
from bamboo_gateway.domain.errors import BambooError, Conflict, Unavailable
from bamboo_gateway.domain.sessions import SessionHead
from bamboo_gateway.storage.base import Done
from bamboo_gateway.storage.commits import Commit, Event, Note
from bamboo_gateway.storage.memory import MemoryStore, _Session
from bamboo_gateway.storage.replicas import DueWork, Look, Presence, Replicas
from bamboo_gateway.storage.reports import RecoveryReport
from tests.support.stores import FaultyStore


class SharedMemory:
    """The database, and what the test says of the processes that use it.

    Attributes:
        database: The sessions.
        counters: The counter of each executor that has a row.
        dead: The executors that are taken for dead.
        leader: The process that does what one of all does: the first one, until the test says so.
        conflicts: How many commits were refused, by session.
        deleted: The events of each session that was deleted.
    """

    def __init__(self, clock: Clock) -> None:
        self.database = _Database(clock, self)
        self.counters: dict[str, int] = {}
        self.dead: set[str] = set()
        self.leader: str | None = None
        self.presences: dict[tuple[str, str, str, str], Presence] = {}
        self.conflicts: Counter[str] = Counter()
        self.changing_value = anyio.Lock()
        self.deleted: list[list[bytes]] = []
        self._stores: dict[str, SharedStore] = {}

    async def store(self, executor: str) -> SharedStore:
        """Open the store of one more process."""
        if not self._stores:
            await self.database.open()
        self.counters[executor] = 1
        self.leader = self.leader or executor
        store = self._stores[executor] = SharedStore(self, executor)
        return store

    def kill(self, executor: str) -> None:
        """Let a process be dead: the others see so, and it stores nothing any more."""
        self.dead.add(executor)
        self._stores[executor].fail_appends(Unavailable("This process is dead."))

    def take_for_dead(self, executor: str) -> None:
        """Let the others take a process for dead that goes on, as after a long stop."""
        self.dead.add(executor)

    def renew(self) -> None:
        """Renew the counter of each living process, and call what waits for it."""
        for store in self._stores.values():
            executor = store.shared.executor
            if not self.is_gone(executor):
                self.counters[executor] += 1
                store.shared.renewed()

    def head(self, session_id: str) -> SessionHead:
        """Return a session's head as it is durable."""
        return self.database.session(session_id).head

    def is_gone(self, executor: str) -> bool:
        """Return whether an executor is dead or has no row."""
        return executor in self.dead or executor not in self.counters


class _Database(MemoryStore):
    """A memory store with the conditions of a commit that shared stores have."""

    def __init__(self, clock: Clock, memory: SharedMemory) -> None:
        super().__init__(clock)
        self._memory = memory
        self._tombstones: dict[str, int] = {}
        self._spent: defaultdict[str, set[str]] = defaultdict(set)
        self._behind_lock: dict[str, deque[tuple[Commit, Done]]] = {}

    def session(self, session_id: str) -> _Session:
        return self._sessions[session_id]

    def look(self, session_id: str) -> Look | None:
        session = self._sessions.get(session_id)
        if session is None:
            return None
        return Look(session.head.epoch, session.head.version, session.head.seq)

    def is_spent_key(self, session_id: str, key: str) -> bool:
        return key in self._spent[session_id]

    def is_locked(self, session_id: str) -> bool:
        return session_id in self._behind_lock

    def lock(self, session_id: str) -> None:
        self._apply_waiting()
        self._behind_lock[session_id] = deque()

    def unlock(self, session_id: str) -> None:
        for commit, done in self._behind_lock.pop(session_id, ()):
            self.append(commit, done)

    def apply_now(self, commit: Commit) -> BambooError | None:
        return self._apply(commit)

    @override
    def append(self, commit: Commit, done: Done) -> None:
        if (behind := self._behind_lock.get(commit.session_id)) is not None:
            behind.append((commit, done))
        else:
            super().append(commit, done)

    @override
    def _apply(self, commit: Commit) -> BambooError | None:
        memory = self._memory
        session = self._sessions.get(commit.session_id)
        version = session.head.version if session is not None else 0
        error: BambooError | None = None
        if commit.executor is not None and memory.is_gone(commit.executor):
            return Unavailable("The other processes have taken this one for dead.")
        if commit.closes is not None and not memory.is_gone(commit.closes):
            error = Conflict("That process is alive.", head=None)
        elif commit.create and commit.epoch <= self._tombstones.get(commit.session_id, 0):
            error = Conflict("The session of that epoch was deleted.", head=None)
        elif (
            not commit.create
            and session is not None
            and commit.epoch == session.head.epoch
            and commit.version not in (None, version)
        ):
            error = Conflict("The version has moved.", head=session.head.seq)
        error = error or super()._apply(commit)
        if error is not None:
            memory.conflicts[commit.session_id] += 1
            return error
        if commit.executor is not None:
            memory.counters[commit.executor] += 1
        head = self._sessions[commit.session_id].head
        head.version = version + 1
        self._tombstones[commit.session_id] = head.epoch
        return None

    @override
    def _publish(self, session: _Session) -> None:
        if session.head.epoch <= self._tombstones.get(session.head.id, 0):
            raise Conflict("The session of that epoch was deleted.", head=None)
        super()._publish(session)
        session.head.version = 1
        self._tombstones[session.head.id] = session.head.epoch

    @override
    def _extend(self, added: _Session) -> None:
        version = self._session(added.head.id, added.head.epoch).head.version
        super()._extend(added)
        self._sessions[added.head.id].head.version = version + 1

    @override
    async def delete(self, session_id: str, epoch: int, version: int | None = None) -> int:
        self._apply_waiting()
        session = self._session(session_id, epoch)
        if version not in (None, session.head.version):
            raise Conflict("The version has moved.", head=session.head.seq)
        self._memory.deleted.append([one.body for one in session.entries if isinstance(one, Event)])
        notes = (entry for entry in session.entries if isinstance(entry, Note))
        self._spent[session_id] |= {note.key for note in notes}
        return await super().delete(session_id, epoch)

    @override
    async def pack(self, session_id: str, epoch: int) -> None:
        session = self._session(session_id, epoch)
        session.head.version += not session.packed
        await super().pack(session_id, epoch)

    @override
    async def unpack(self, session_id: str, epoch: int) -> None:
        session = self._session(session_id, epoch)
        session.head.version += session.packed
        await super().unpack(session_id, epoch)

    @override
    async def compact(self, session_id: str, epoch: int, upto: int) -> int:
        freed = await super().compact(session_id, epoch, upto)
        if freed:
            self._sessions[session_id].head.version += 1
        return freed


class SharedStore(FaultyStore):
    """The store of one process.

    Attributes:
        shared: What the process knows of the others.
    """

    def __init__(self, memory: SharedMemory, executor: str) -> None:
        super().__init__(memory.database)
        self.shared = SharedReplicas(memory, executor)
        self._is_open = True

    @property
    @override
    def replicas(self) -> SharedReplicas:
        return self.shared

    @override
    async def is_spent(self, session_id: str, key: str) -> bool:
        await anyio.lowlevel.checkpoint()
        return self.shared.memory.database.is_spent_key(session_id, key)

    @override
    async def change_value(
        self, kind: str, key: str, change: Callable[[bytes | None], bytes | None]
    ) -> bytes | None:
        # One at a time: the memory store gives way between its read and its write.
        async with self.shared.memory.changing_value:
            return await super().change_value(kind, key, change)

    @override
    def append(self, commit: Commit, done: Done) -> None:
        if self._is_open:
            super().append(commit, done)
        else:
            asyncio.get_running_loop().call_soon(done, Unavailable("The store is closed."))

    @override
    async def open(self) -> RecoveryReport:
        self._is_open = True
        return RecoveryReport(sessions=0)

    @override
    async def aclose(self) -> None:
        """Leave the database, as a process that ends properly does. The others go on."""
        self._is_open = False
        self.shared.memory.counters.pop(self.shared.executor, None)


class SharedReplicas(Replicas):
    """One process among those of a `SharedMemory`.

    Attributes:
        memory: The database.
        looks: How often sessions were looked at.
        locks: How often a session was locked.
    """

    def __init__(self, memory: SharedMemory, executor: str) -> None:
        self.memory = memory
        self.looks = 0
        self.locks = 0
        self._executor = executor
        self._when_renewed: list[Callable[[], None]] = []
        self._when_lost: list[Callable[[], None]] = []

    @property
    @override
    def executor(self) -> str:
        return self._executor

    @property
    @override
    def is_leader(self) -> bool:
        return self.memory.leader == self._executor

    @override
    def is_dead(self, executor: str) -> bool:
        return self.memory.is_gone(executor)

    @override
    async def look(self, session_ids: Collection[str]) -> dict[str, Look]:
        self.looks += 1
        looks = {name: self.memory.database.look(name) for name in session_ids}
        await anyio.lowlevel.checkpoint()
        return {name: look for name, look in looks.items() if look is not None}

    @override
    async def due(self, silent_before_ms: int, now_ms: int) -> DueWork:
        await anyio.lowlevel.checkpoint()
        work = DueWork([], [], [], [], [])
        for session in self.memory.database._sessions.values():
            head, active = session.head, session.head.active
            if active is None:
                if head.queue:
                    work.queued.append(head.id)
            elif active.executor is None:
                if head.last_activity_at < silent_before_ms:
                    work.silent.append(head.id)
            elif active.executor == self._executor:
                work.mine.append(head.id)
            elif self.memory.is_gone(active.executor):
                work.abandoned.append(head.id)
            expires_at = head.request_expires_at
            if expires_at is not None and expires_at <= now_ms:
                work.asking.append(head.id)
        return work

    @override
    def when_renewed(self, call: Callable[[], None]) -> None:
        self._when_renewed.append(call)

    @override
    def when_lost(self, call: Callable[[], None]) -> None:
        self._when_lost.append(call)

    def renewed(self) -> None:
        """Report that this process has renewed its counter."""
        for call in self._when_renewed:
            call()

    def lose(self, executor: str) -> None:
        """Let this process find that the others have taken it for dead: it is another one now."""
        self.memory.counters.pop(self._executor, None)
        self.memory.counters[executor] = 1
        self._executor = executor
        for call in self._when_lost:
            call()

    @override
    def locked(self, session_id: str) -> AbstractAsyncContextManager[_Locked]:
        return self._lock(session_id)

    @asynccontextmanager
    async def _lock(self, session_id: str) -> AsyncIterator[_Locked]:
        database = self.memory.database
        await anyio.lowlevel.checkpoint()
        if database.is_locked(session_id):
            raise Unavailable("Another process has locked the session.")
        self.locks += 1
        database.lock(session_id)
        try:
            yield _Locked(database, session_id, await database.load(session_id))
        finally:
            database.unlock(session_id)

    @override
    async def claim(self, one: Presence) -> bool:
        await anyio.lowlevel.checkpoint()
        for other in self._named(one.session_id, one.kind, one.name):
            if other.executor == self._executor:
                continue
            if one.kind != "stream":
                return False
            self.memory.presences[other[:4]] = other._replace(wish="superseded")
        self.memory.presences[one[:4]] = one
        return True

    @override
    async def unclaim(self, session_id: str, kind: str, name: str) -> None:
        await anyio.lowlevel.checkpoint()
        self.memory.presences.pop((session_id, kind, name, self._executor), None)

    @override
    async def present(self, kind: str, session_ids: Collection[str] | None) -> list[Presence]:
        await anyio.lowlevel.checkpoint()
        return [
            one
            for one in self._living()
            if one.kind == kind and (session_ids is None or one.session_id in session_ids)
        ]

    @override
    async def wish(self, session_id: str, kind: str, name: str, wish: str) -> bool:
        await anyio.lowlevel.checkpoint()
        found = [
            one for one in self._named(session_id, kind, name) if one.executor != self._executor
        ]
        for one in found:
            self.memory.presences[one[:4]] = one._replace(wish=wish)
        return bool(found)

    @override
    async def wishes(self) -> list[Presence]:
        await anyio.lowlevel.checkpoint()
        found = [one for one in self._living() if one.wish and one.executor == self._executor]
        for one in found:
            self.memory.presences[one[:4]] = one._replace(wish=None)
        return found

    def _living(self) -> list[Presence]:
        return [
            one for one in self.memory.presences.values() if not self.memory.is_gone(one.executor)
        ]

    def _named(self, session_id: str, kind: str, name: str) -> list[Presence]:
        return [one for one in self._living() if one[:3] == (session_id, kind, name)]


class _Locked:
    """A locked session: the other processes' commits wait until it is unlocked."""

    def __init__(self, database: _Database, session_id: str, head: SessionHead | None) -> None:
        self.head = head
        self._database = database
        self._id = session_id

    async def append(self, commit: Commit) -> None:
        await anyio.lowlevel.checkpoint()
        error = self._database.apply_now(commit)
        self._database.unlock(self._id)
        if error is not None:
            raise error
