"""Lifecycle records: what makes a change of a session's files one step that holds or does not.

The order is: new files written aside and synced → record synced → renames → directories synced (by
the next checkpoint, which only then drops the record). Whoever starts again in between repeats the
renames. Everything here runs on the committer's thread, between batches.
"""

import asyncio
from collections.abc import Callable, Iterable
from contextlib import suppress
from pathlib import Path
from typing import Any, TypeVar

from bamboo_gateway.domain import codec
from bamboo_gateway.domain.errors import StorageFull
from bamboo_gateway.storage.jsonl.files import FileSystem
from bamboo_gateway.storage.jsonl.journal.committer import Committer
from bamboo_gateway.storage.jsonl.journal.segments import RECORD_OVERHEAD_BYTES, Journal, pack

# What makes room may use the reserve; so may what takes a record back.
_FREEING = ("pack", "compact", "delete", "keep")

T = TypeVar("T")


class LifecycleRecords:
    """See the module."""

    def __init__(self, fs: FileSystem, journal: Journal, committer: Committer) -> None:
        self._fs = fs
        self._journal = journal
        self.committer = committer

    def record(
        self, kind: str, session_id: str, epoch: int, seq: int, size: int, about: dict[str, Any]
    ) -> None:
        """Write a record and sync it.

        Args:
            kind: What happens to the session's files.
            session_id: Whose.
            epoch: Of which life.
            seq: Its last event's.
            size: Its log's bytes after the change.
            about: What a replay needs to repeat it.

        Raises:
            StorageFull: There is no room.
            OSError: It is not durable.
        """
        journal = self._journal
        data = codec.encode(about) + b"\n"
        needed = RECORD_OVERHEAD_BYTES + len(data)
        if not journal.make_room(needed):
            if kind not in _FREEING:
                raise StorageFull("The disk is full: nothing can be written until there is space.")
            journal.make_reserve_room(needed)
        journal.lsn += 1
        line = pack(journal.lsn, journal.acked, session_id, epoch, seq + 1, kind, 0, size, data)
        try:
            journal.write(line, sync=True)
        except BaseException:
            journal.abandon()
            raise
        journal.last_epoch = max(journal.last_epoch, epoch)

    def revoke(self, undo: Callable[[], None], files: Iterable[Path]) -> None:
        """Take a durable record back whose renames failed: as if it had not been.

        `undo` writes the record that says so; a replay that misses the files aside comes to the
        same result, so one of the two is enough.
        """
        for path in files:
            with suppress(OSError):
                self._fs.unlink(path)
        with suppress(OSError, StorageFull):
            undo()

    async def carry_out(self, function: Callable[[], T], adopt: Callable[[T], None]) -> T:
        """Have a change made on the committer's thread; on the loop's thread.

        `adopt` takes the result into the catalog before any later commit's answer, even when
        nobody waits any more.
        """
        done: asyncio.Future[T] = asyncio.get_running_loop().create_future()

        def answer(result: T | Exception) -> None:
            if isinstance(result, Exception):
                done.set_exception(result)
            else:
                adopt(result)
                done.set_result(result)

        self.committer.change(function, answer)
        # Shielded: the change goes on whoever leaves.
        return await asyncio.shield(done)
