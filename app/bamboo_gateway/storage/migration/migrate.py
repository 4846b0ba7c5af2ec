"""Copies all sessions of a store into an empty one, and compares both afterwards.

It knows only the contract, so it works between any two stores. Everything is kept: ids, epochs and
positions (also the gaps of compacted logs), so that a client which has a cursor goes on; heads with
their times and shares; notes, which keep the answers to idempotency keys; and which archives are
packed.

Each session is published whole or not at all. So a migration that was interrupted goes on when it
is called again: what the target has by then is kept where its head is right. The comparison finds
what is not, since it reads every entry of both sides.
"""

from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable
from contextlib import aclosing, asynccontextmanager
from dataclasses import dataclass, field
from hashlib import sha256
from typing import Final, Literal

import anyio

from bamboo_gateway.domain.errors import BambooError, Conflict, StorageFailed
from bamboo_gateway.domain.sessions import SessionHead
from bamboo_gateway.storage.base import SessionStore, StoreUnusable, SupportsMigration
from bamboo_gateway.storage.migration.reading import (
    READ_TRIES,
    LogReader,
    SessionDigest,
    sessions_of,
)
from bamboo_gateway.storage.migration.values import ValuesDigest, copy_values, values_digest

_AT_ONCE: Final = 8
"""Sessions that are copied at once: a store makes several durable with one sync."""

_NAMED: Final = 5
"""How many sessions a failure names."""

Progress = Callable[[Literal["copying", "comparing"], int, int], None]
"""Called with the step, the number of sessions done, and their total."""

MakeStore = Callable[[], SessionStore]


@dataclass(slots=True)
class Migrated:
    """What a migration did, or would do.

    Attributes:
        sessions: The sessions.
        archives: How many of them are packed.
        notes: The answers that are kept for idempotency keys.
        stored_bytes: The bytes that the source takes for the sessions.
        events: The events; 0 before they were counted.
        values: The values that the gateway keeps beside the sessions.
        kept: How many sessions an interrupted migration had copied before.
        beside: The files that were copied besides (`beside`).
        digests: The digest of each session, by id: the same on both sides.
        sha256: The digest of these digests, and of the values if there are any.
    """

    sessions: int = 0
    archives: int = 0
    notes: int = 0
    stored_bytes: int = 0
    events: int = 0
    values: int = 0
    kept: int = 0
    beside: list[str] = field(default_factory=list)
    digests: list[SessionDigest] = field(default_factory=list)
    sha256: str = ""


class MigrationFailed(BambooError):
    """The two sides differ after copying; `detail` names sessions."""

    code = "migration-failed"


async def survey(source: SessionStore) -> Migrated:
    """Return what a migration would copy, without reading the logs. The source is open."""
    found = Migrated(stored_bytes=(await source.usage()).stored_bytes)
    reader = LogReader(source)
    await reader.refresh()
    async with aclosing(sessions_of(source)) as heads:
        async for head in heads:
            found.sessions += 1
            found.archives += reader.is_packed(head)
            found.notes += await reader.note_count(head)
    found.values = (await values_digest(source)).values
    return found


async def migrate(
    source: SessionStore, make_target: MakeStore, origin: str, progress: Progress | None = None
) -> Migrated:
    """Copy everything, compare both sides, and make the target a store like others.

    Args:
        source: The store to copy; it is open, and nobody else uses it.
        make_target: Returns the target, not open. It is called twice: the second one compares, and
            sees what a new process would see.
        origin: What the source is, without a password.
        progress: Told how far it is.

    Raises:
        StoreBusy, StoreUnusable: The target cannot be used (`SupportsMigration.begin_migration`).
        StorageFull, StorageFailed, Unavailable: A side failed. The target stays unfinished, and the
            same call goes on.
        MigrationFailed: The sides differ. The target stays unfinished.
    """
    steps = _Migration(source, progress or (lambda _step, _done, _total: None))
    async with _target(make_target, origin) as (target, _):
        await steps.copy(target)
    async with _target(make_target, origin) as (target, unfinished):
        done = await steps.compare(target)
        await unfinished.end_migration(source.next_epoch())
    return done


@asynccontextmanager
async def _target(
    make: MakeStore, origin: str
) -> AsyncIterator[tuple[SessionStore, SupportsMigration]]:
    store = make()
    if not isinstance(store, SupportsMigration):
        raise StoreUnusable("Sessions cannot be copied into a store of this kind.")
    await store.begin_migration(origin)
    try:
        yield store, store
    finally:
        with anyio.CancelScope(shield=True):
            await store.aclose()


class _Migration:
    def __init__(self, source: SessionStore, progress: Progress) -> None:
        self._source = source
        self._reader = LogReader(source)
        self._progress = progress
        # Sessions that the target had: only their heads were compared.
        self._kept: set[str] = set()

    async def copy(self, target: SessionStore) -> None:
        """Copy what the target does not have, and remove what the source does not have."""
        await self._reader.refresh()
        await self._remove_strays(target)
        total, done = (await self._source.usage()).sessions, 0

        async def one(head: SessionHead) -> None:
            nonlocal done
            await self._bring(target, head)
            done += 1
            self._progress("copying", done, total)

        self._progress("copying", 0, total)
        await _each(sessions_of(self._source), one)
        await copy_values(self._source, target)

    async def compare(self, target: SessionStore) -> Migrated:
        """Read both sides completely.

        A session that the target had before is copied again if it differs: the source may have
        been used since.

        Raises:
            MigrationFailed: They differ.
        """
        usage = await self._source.usage()
        found = Migrated(stored_bytes=usage.stored_bytes)
        theirs = LogReader(target)
        await theirs.refresh()
        wrong: list[str] = []

        async def one(head: SessionHead) -> None:
            digest = await self._reader.digest(head.id)
            if digest is None or await theirs.digest(head.id) != digest:
                wrong.append(head.id)
            if digest is not None:
                found.digests.append(digest)
            self._progress("comparing", len(found.digests), usage.sessions)

        self._progress("comparing", 0, usage.sessions)
        await _each(sessions_of(self._source), one)
        for session_id in self._kept.intersection(wrong):
            await self._copy_again(target, theirs, session_id)
            if await theirs.digest(session_id) == await self._reader.digest(session_id):
                wrong.remove(session_id)
                self._kept.discard(session_id)
        there = (await target.usage()).sessions
        if wrong or there != len(found.digests):
            raise _differing(sorted(wrong), len(found.digests), there)
        values = await values_digest(self._source)
        if await values_digest(target) != values:
            raise MigrationFailed(
                "The values beside the sessions differ between source and target. The target stays "
                "unfinished: run the same command again."
            )
        return self._summed(found, values)

    async def _remove_strays(self, target: SessionStore) -> None:
        """Remove what an interrupted migration has copied and the source has no more."""
        async with aclosing(sessions_of(target)) as heads:
            async for head in heads:
                if await self._source.load(head.id) is None:
                    await target.delete(head.id, head.epoch)

    async def _bring(self, target: SessionStore, head: SessionHead) -> None:
        there = await target.load(head.id)
        if there is not None and there == head:
            # A commit of notes alone leaves the head as it is.
            ours = await self._reader.note_count(head)
            if ours == await LogReader(target).note_count(head):
                self._kept.add(head.id)
                if self._reader.is_packed(head):
                    await target.pack(head.id, head.epoch)
                return
        await self._copy(target, head, there)

    async def _copy(
        self, target: SessionStore, head: SessionHead, there: SessionHead | None
    ) -> None:
        if there is not None:
            await target.delete(head.id, there.epoch)
        for _ in range(READ_TRIES):
            try:
                async with target.creation(head.id, head.epoch) as creation:
                    async with aclosing(self._reader.entries(head)) as pages:
                        async for events, notes in pages:
                            await creation.write(events, notes)
                    await creation.publish(head.copy())
            except Conflict:
                # The source has repaired the log, under another epoch.
                fresh = await self._source.load(head.id)
                if fresh is None or fresh.epoch == head.epoch:
                    raise
                head = fresh
                continue
            if self._reader.is_packed(head):
                await target.pack(head.id, head.epoch)
            return
        raise StorageFailed(f"Session {head.id} changes while it is read.")

    async def _copy_again(self, target: SessionStore, theirs: LogReader, session_id: str) -> None:
        head = await self._source.load(session_id)
        if head is not None:
            await self._copy(target, head, await target.load(session_id))
            await theirs.refresh()

    def _summed(self, found: Migrated, values: ValuesDigest) -> Migrated:
        digests = sorted(found.digests, key=lambda digest: digest.session_id)
        found.digests, found.sessions, found.kept = digests, len(digests), len(self._kept)
        for digest in digests:
            found.events += digest.events
            found.notes += digest.notes
            found.archives += digest.is_packed
        found.values = values.values
        sums = [digest.sha256 for digest in digests] + ([values.sha256] if values.values else [])
        found.sha256 = sha256("".join(sums).encode()).hexdigest()
        return found


async def _each(
    heads: AsyncGenerator[SessionHead], work: Callable[[SessionHead], Awaitable[None]]
) -> None:
    """Do the work for all sessions, some at once. The first failure ends the others."""
    limiter = anyio.Semaphore(_AT_ONCE)
    failure: BambooError | None = None

    async def one(head: SessionHead) -> None:
        nonlocal failure
        try:
            await work(head)
        except BambooError as error:
            failure = failure or error
            tasks.cancel_scope.cancel()
        finally:
            limiter.release()

    async with aclosing(heads), anyio.create_task_group() as tasks:
        async for head in heads:
            await limiter.acquire()
            tasks.start_soon(one, head, name=f"migrate {head.id}")
    if failure is not None:
        raise failure


def _differing(wrong: list[str], ours: int, theirs: int) -> MigrationFailed:
    if not wrong:
        return MigrationFailed(
            f"The source has {ours} sessions and the target {theirs}. The target stays unfinished."
        )
    named = ", ".join(wrong[:_NAMED]) + (" …" if len(wrong) > _NAMED else "")
    return MigrationFailed(
        f"{len(wrong)} sessions differ between source and target: {named}. The target stays "
        "unfinished."
    )
