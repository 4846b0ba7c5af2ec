"""Bulk appends: many events that a session gets at once, all of them or none.

Up to `COMMIT_BYTES_MAX` they are one normal commit. Beyond it the log is copied aside, the events
are appended to the copy as they come, and one record swaps the files (see `file_swap`). So memory
holds the events of one call, and other sessions' commits do not wait.
"""

import asyncio
from collections.abc import Callable, Sequence
from contextlib import AbstractAsyncContextManager, AsyncExitStack

import anyio
from typing_extensions import override

from bamboo_gateway.domain.errors import BambooError, Conflict
from bamboo_gateway.domain.sessions import SessionHead
from bamboo_gateway.storage.base import Done, SessionCreation
from bamboo_gateway.storage.commits import Commit, Event, Note
from bamboo_gateway.storage.jsonl.bulk_threads import BulkThreads
from bamboo_gateway.storage.jsonl.file_swap import FileSwapper
from bamboo_gateway.storage.jsonl.index.catalog import Entry
from bamboo_gateway.storage.jsonl.log.log import Log
from bamboo_gateway.storage.jsonl.log_copy import LogCopy
from bamboo_gateway.storage.lines import stored_lines

COMMIT_BYTES_MAX = 1024 * 1024
"""The most that goes through the journal: a commit is in memory several times, and others wait for
it. More than that is worth a copy of the log, which costs its size on the disk."""


class BulkAppend(SessionCreation):
    """One bulk append to one session.

    Args:
        commit: An empty commit of the session and epoch, which begins behind the head.
        append: Appends a commit.
        copying: Locks the session's files against other swaps, and opens a copy of the log;
            raises `Conflict` when there is no such session any more.
        failing: Translates errors of files into those of the contract.
        swapper: Swaps the files.
        bulk: The threads that write files.
    """

    def __init__(
        self,
        commit: Commit,
        append: Callable[[Commit, Done], None],
        copying: Callable[[], AbstractAsyncContextManager[LogCopy]],
        failing: Callable[[Entry], AbstractAsyncContextManager[None]],
        swapper: FileSwapper,
        bulk: BulkThreads,
    ) -> None:
        self._commit = commit
        self._append = append
        self._copying = copying
        self._failing = failing
        self._swapper = swapper
        self._bulk = bulk
        self._held = AsyncExitStack()
        self._copy: LogCopy | None = None
        self._events: list[Event] = []
        self._notes: list[Note] = []
        self._bytes = 0
        self._is_over = False

    @override
    async def write(self, events: Sequence[Event], notes: Sequence[Note] = ()) -> None:
        assert not self._is_over, "it has been published or discarded"
        if self._copy is None:
            self._events += events
            self._notes += notes
            self._bytes += sum(len(event.body) for event in events)
            self._bytes += sum(len(note.body) for note in notes)
            if self._bytes <= COMMIT_BYTES_MAX:
                return
            copy = await self._held.enter_async_context(self._copying())
            self._check(copy.swap.head.seq)
            self._copy = copy
            async with self._failing(copy.swap.entry):
                await self._bulk.run(copy.begin)
            events, self._events = self._events, []
            notes, self._notes = self._notes, []
        copy = self._copy
        async with self._failing(copy.swap.entry):
            await self._bulk.run(lambda: copy.add(stored_lines(events, notes)))

    @override
    async def publish(self, head: SessionHead) -> None:
        assert not self._is_over, "it has been published or discarded"
        copy = self._copy
        if copy is None:
            self._is_over = True
            await self._publish_commit(head)
            return
        before = copy.swap.head.seq
        copy.swap.head = head.copy()

        def refuse_more(log: Log) -> None:
            if log.seq != before or log.size != copy.covered:
                raise Conflict("The session has been appended to.", head=log.seq)

        async with self._failing(copy.swap.entry):
            await self._bulk.run(copy.finish)
            # From here on the committer owns the files, also when this call is cancelled.
            self._copy = None
            await self._swapper.carry_out(copy.swap, refuse_more)

    async def _publish_commit(self, head: SessionHead) -> None:
        commit = self._commit._replace(
            events=self._events,
            notes=self._notes,
            head=head.copy() if self._events else None,
            time_ms=head.last_activity_at,
        )
        answered: asyncio.Future[BambooError | None] = asyncio.get_running_loop().create_future()

        def done(error: BambooError | None) -> None:
            if not answered.done():
                answered.set_result(error)

        self._append(commit, done)
        if (error := await answered) is not None:
            raise error

    def _check(self, seq: int) -> None:
        if seq != self._commit.first_seq - 1:
            raise Conflict("The session has been appended to.", head=seq)

    @override
    async def discard(self) -> None:
        with anyio.CancelScope(shield=True):
            copy, self._copy = self._copy, None
            if copy is not None:
                await self._bulk.run(copy.discard)
            self._is_over, self._events, self._notes = True, [], []
            await self._held.aclose()
