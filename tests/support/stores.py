"""A store that fails, holds and delays on command, around one that works."""

import asyncio
from abc import update_abstractmethods
from collections import Counter
from collections.abc import Callable, Collection, Sequence
from typing import Any

import anyio
from typing_extensions import override

from bamboo_gateway.domain.errors import BambooError, StorageFailed, Unavailable
from bamboo_gateway.domain.limits import PAGE_BYTES_MAX
from bamboo_gateway.domain.sessions import Presence, SessionHead
from bamboo_gateway.storage.base import Done, SessionCreation, SessionStore, SupportsErasure
from bamboo_gateway.storage.commits import Commit, Found, MarkKind, Record
from bamboo_gateway.storage.files.base import ContentStore
from bamboo_gateway.storage.replicas import Replicas
from bamboo_gateway.storage.reports import (
    ChangePage,
    Erased,
    Expiry,
    RecoveryReport,
    SearchPage,
    SearchQuery,
    SessionPage,
    SessionQuery,
    StoredSize,
    StoreUsage,
    ValueChange,
)


class FaultyStore(SessionStore):
    """Passes everything on, except for what the test has ordered.

    Commits: `fail_append(n)` refuses the nth from now on (1 is the next); `hold_appends` keeps them
    from being stored until `release_appends`; `hold_acks` stores them and keeps the answers back.
    `known_refusal` is what the store says of itself, whatever it does with commits.
    Reads: `hold(name)` computes the answer at once and gives it only after `let_go(name)`, so that
    it is as old as can be; `fail(name, error)` lets the next ones fail, and `failed` counts them.
    """

    def __init__(self, inner: SessionStore) -> None:
        self.inner = inner
        self.commits: list[Commit] = []
        self._failures: dict[int, BambooError] = {}
        self._always: BambooError | None = None
        self._lies: set[int] = set()
        self._held: list[tuple[Commit, Done]] | None = None
        self._held_acks: list[Callable[[], None]] | None = None
        self._gates: dict[str, anyio.Event] = {}
        self._read_failures: dict[str, list[BambooError]] = {}
        self.failed: Counter[str] = Counter()
        self.known_refusal: Unavailable | None = None
        self.waiting: dict[str, int] = {}

    # -- orders -----------------------------------------------------------------------------

    def fail_append(self, nth: int = 1, error: BambooError | None = None) -> None:
        """Refuse the nth commit from now."""
        self._failures[len(self.commits) + nth] = error or StorageFailed("The disk is broken.")

    def fail_appends(self, error: BambooError | None = None) -> None:
        """Refuse every commit until `heal`."""
        self._always = error or StorageFailed("The disk is broken.")

    def lie_about_append(self, nth: int = 1) -> None:
        """Store the nth commit from now and say that it failed."""
        self._lies.add(len(self.commits) + nth)

    def heal(self) -> None:
        """Refuse no commit any more."""
        self._always = None
        self._failures.clear()

    def hold_appends(self) -> None:
        """Keep commits from being stored; those that are held already stay so."""
        if self._held is None:
            self._held = []

    @property
    def held(self) -> int:
        """How many commits or answers are being held."""
        return len(self._held or ()) + len(self._held_acks or ())

    def release_appends(self, error: BambooError | None = None) -> None:
        """Store what was held, in order, or refuses all of it."""
        held, self._held = self._held or [], None
        for commit, done in held:
            if error is None:
                self.inner.append(commit, done)
            else:
                asyncio.get_running_loop().call_soon(done, error)

    def hold_acks(self) -> None:
        """Store commits, and answer later; answers that are held already stay so."""
        if self._held_acks is None:
            self._held_acks = []

    def release_acks(self) -> None:
        """Return the answers that were held."""
        held, self._held_acks = self._held_acks or [], None
        for answer in held:
            answer()

    def hold(self, name: str) -> None:
        """Keep the answers of `read`, `find`, `load`, `delete` or `query` back.

        Also `append` and `ack`: see `hold_appends` and `hold_acks`.
        """
        if name == "append":
            self.hold_appends()
        elif name == "ack":
            self.hold_acks()
        else:
            self._gates[name] = anyio.Event()

    def let_go(self, name: str) -> None:
        """Return the answers that `hold` kept back."""
        if name == "append":
            self.release_appends()
        elif name == "ack":
            self.release_acks()
        else:
            self._gates.pop(name).set()

    def fail(self, name: str, *errors: BambooError) -> None:
        """Let the next calls of that name fail, one for each error."""
        self._read_failures.setdefault(name, []).extend(errors)

    def forgive(self) -> None:
        """Cancel the failures that have not happened yet."""
        self._read_failures.clear()

    # -- the store --------------------------------------------------------------------------

    @override
    def append(self, commit: Commit, done: Done) -> None:
        self.commits.append(commit)
        error = self._failures.pop(len(self.commits), None) or self._always
        if error is not None:
            asyncio.get_running_loop().call_soon(done, error)
        elif len(self.commits) in self._lies:
            self.inner.append(commit, lambda _: done(StorageFailed("The answer was lost.")))
        elif self._held is not None:
            self._held.append((commit, done))
        else:
            self.inner.append(commit, self._acknowledging(done))

    def _acknowledging(self, done: Done) -> Done:
        def answer(error: BambooError | None) -> None:
            if self._held_acks is None:
                done(error)
            else:
                self._held_acks.append(lambda: done(error))

        return answer

    async def _gated(self, name: str, call: Callable[[], Any]) -> Any:
        failures = self._read_failures.get(name)
        if failures:
            self.failed[name] += 1
            raise failures.pop(0)
        answer: Any = None
        error: BambooError | None = None
        try:
            answer = await call()
        except BambooError as raised:
            error = raised
        gate = self._gates.get(name)
        if gate is not None:
            self.waiting[name] = self.waiting.get(name, 0) + 1
            try:
                await gate.wait()
            finally:
                self.waiting[name] -= 1
        if error is not None:
            raise error
        return answer

    @override
    async def open(self) -> RecoveryReport:
        return await self.inner.open()

    @override
    async def aclose(self) -> None:
        await self.inner.aclose()

    @override
    def next_epoch(self) -> int:
        return self.inner.next_epoch()

    @override
    def creation(self, session_id: str, epoch: int) -> SessionCreation:
        return self.inner.creation(session_id, epoch)

    @override
    def extension(self, session_id: str, epoch: int, after: int) -> SessionCreation:
        return self.inner.extension(session_id, epoch, after)

    @override
    async def load(self, session_id: str) -> SessionHead | None:
        head: SessionHead | None = await self._gated("load", lambda: self.inner.load(session_id))
        return head

    @override
    async def delete(self, session_id: str, epoch: int, version: int | None = None) -> int:
        size: int = await self._gated(
            "delete", lambda: self.inner.delete(session_id, epoch, version)
        )
        return size

    @override
    async def read(
        self, session_id: str, epoch: int, after: int, *, limit: int, max_bytes: int
    ) -> list[Record]:
        records: list[Record] = await self._gated(
            "read",
            lambda: self.inner.read(session_id, epoch, after, limit=limit, max_bytes=max_bytes),
        )
        return records

    @override
    async def find(
        self,
        session_id: str,
        epoch: int,
        kind: MarkKind,
        *,
        key: str | None = None,
        after: int = 0,
        before: int | None = None,
        limit: int = 1000,
        max_bytes: int = PAGE_BYTES_MAX,
        reverse: bool = False,
    ) -> Found:
        records: Found = await self._gated(
            "find",
            lambda: self.inner.find(
                session_id,
                epoch,
                kind,
                key=key,
                after=after,
                before=before,
                limit=limit,
                max_bytes=max_bytes,
                reverse=reverse,
            ),
        )
        return records

    @override
    async def count_marks(
        self,
        session_id: str,
        epoch: int,
        kind: MarkKind,
        *,
        after: int = 0,
        before: int | None = None,
    ) -> int:
        return await self.inner.count_marks(session_id, epoch, kind, after=after, before=before)

    @override
    async def keys_in_use(
        self, session_id: str, epoch: int, kind: MarkKind, keys: Collection[str]
    ) -> set[str]:
        used: set[str] = await self._gated(
            "keys_in_use", lambda: self.inner.keys_in_use(session_id, epoch, kind, keys)
        )
        return used

    @override
    async def pack(self, session_id: str, epoch: int) -> None:
        await self._gated("pack", lambda: self.inner.pack(session_id, epoch))

    @override
    async def unpack(self, session_id: str, epoch: int) -> None:
        await self._gated("unpack", lambda: self.inner.unpack(session_id, epoch))

    @override
    async def compact(self, session_id: str, epoch: int, upto: int) -> int:
        freed: int = await self._gated(
            "compact", lambda: self.inner.compact(session_id, epoch, upto)
        )
        return freed

    @override
    async def delta_bytes(self, session_id: str) -> int:
        return await self.inner.delta_bytes(session_id)

    @override
    async def holding_deltas(self, bytes_min: int) -> dict[str, int]:
        return await self.inner.holding_deltas(bytes_min)

    @override
    async def unpacked_archives(self) -> list[str]:
        return await self.inner.unpacked_archives()

    @override
    async def size(self, session_id: str) -> StoredSize:
        return await self.inner.size(session_id)

    @override
    async def query(self, query: SessionQuery, presence: Presence) -> SessionPage:
        page: SessionPage = await self._gated("query", lambda: self.inner.query(query, presence))
        return page

    @override
    async def search(self, query: SearchQuery) -> SearchPage:
        page: SearchPage = await self._gated("search", lambda: self.inner.search(query))
        return page

    @override
    async def changes(self, feed: str, after: int, limit: int) -> ChangePage:
        page: ChangePage = await self._gated(
            "changes", lambda: self.inner.changes(feed, after, limit)
        )
        return page

    @override
    async def last_change(self) -> tuple[str, int]:
        last: tuple[str, int] = await self._gated("last_change", self.inner.last_change)
        return last

    @override
    async def expiries(self, after: tuple[int, str], until: int, limit: int) -> list[Expiry]:
        ends: list[Expiry] = await self._gated(
            "expiries", lambda: self.inner.expiries(after, until, limit)
        )
        return ends

    @override
    async def write_values(self, changes: Sequence[ValueChange]) -> None:
        await self._gated("write_values", lambda: self.inner.write_values(changes))

    @override
    async def value(self, kind: str, key: str) -> bytes | None:
        found: bytes | None = await self._gated("value", lambda: self.inner.value(kind, key))
        return found

    @override
    async def values(
        self, kind: str, *, prefix: str = "", after: str = "", limit: int = 1000
    ) -> list[tuple[str, bytes]]:
        return await self.inner.values(kind, prefix=prefix, after=after, limit=limit)

    @override
    async def value_kinds(self) -> list[str]:
        return await self.inner.value_kinds()

    @property
    @override
    def contents(self) -> ContentStore:
        return self.inner.contents

    @override
    async def usage(self, user_id: str | None = None) -> StoreUsage:
        usage: StoreUsage = await self._gated("usage", lambda: self.inner.usage(user_id))
        return usage

    @override
    def touch(self, session_id: str, epoch: int, activity_ms: int) -> None:
        self.inner.touch(session_id, epoch, activity_ms)

    @override
    async def unfinished(self) -> list[str]:
        return await self.inner.unfinished()

    @override
    async def release(self, session_id: str) -> None:
        await self.inner.release(session_id)

    @property
    @override
    def is_writing(self) -> bool:
        return self.inner.is_writing

    @property
    @override
    def replicas(self) -> Replicas | None:
        return self.inner.replicas

    @override
    async def is_spent(self, session_id: str, key: str) -> bool:
        spent: bool = await self._gated("is_spent", lambda: self.inner.is_spent(session_id, key))
        return spent

    @property
    @override
    def refusal(self) -> Unavailable | None:
        return self.known_refusal or self.inner.refusal

    @override
    async def stats(self) -> dict[str, Any]:
        return await self.inner.stats()

    async def remove_events(self, session_id: str, epoch: int, seqs: Collection[int]) -> None:
        assert isinstance(self.inner, SupportsErasure)
        inner = self.inner
        await self._gated("remove_events", lambda: inner.remove_events(session_id, epoch, seqs))

    async def vacuum(self) -> list[Erased]:
        assert isinstance(self.inner, SupportsErasure)
        return await self.inner.vacuum()


def _passing(name: str) -> Any:
    def pass_on(self: FaultyStore, *args: Any, **named: Any) -> Any:
        return getattr(self.inner, name)(*args, **named)

    return pass_on


# What the contract has besides: nothing goes wrong there on command, so it is passed on as it is.
for _name in FaultyStore.__abstractmethods__:
    setattr(FaultyStore, _name, _passing(_name))
update_abstractmethods(FaultyStore)
