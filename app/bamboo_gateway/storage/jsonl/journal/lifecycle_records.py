"""Lifecycle records: a change of a session's files happens as a whole or not at all.

The order is: write and sync the new files aside, sync the record, rename the files, sync the
directories. The next checkpoint does the last step, and only then drops the record. A start in
between repeats the renames. Everything here runs on the committer's thread, between batches.
"""

import asyncio
from collections.abc import Callable, Iterable
from contextlib import suppress
from pathlib import Path
from typing import Any, TypeVar

from bamboo_gateway.domain import codec
from bamboo_gateway.domain.errors import StorageFull
from bamboo_gateway.storage.file_system import FileSystem
from bamboo_gateway.storage.jsonl.journal.committer import Committer
from bamboo_gateway.storage.jsonl.journal.segments import RECORD_OVERHEAD_BYTES, Journal, pack

# Records that free space may use the reserve, and so may the record that revokes one.
_FREEING = ("pack", "compact", "delete", "keep")

T = TypeVar("T")


class LifecycleRecords:
    """Writes and revokes lifecycle records."""

    def __init__(self, fs: FileSystem, journal: Journal, committer: Committer) -> None:
        self._fs = fs
        self._journal = journal
        self.committer = committer

    def record(
        self, kind: str, session_id: str, epoch: int, seq: int, size: int, about: dict[str, Any]
    ) -> int:
        """Write a record and sync it; return its number.

        Args:
            kind: What happens to the session's files.
            session_id: The session.
            epoch: Its epoch.
            seq: The seq of its last event.
            size: The bytes of its log after the change.
            about: What a replay needs to repeat the change.

        Raises:
            StorageFull: There is no room for the record.
            OSError: The record is not durable.
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
        return journal.lsn

    def revoke(self, undo: Callable[[], object], files: Iterable[Path]) -> None:
        """Revoke a durable record whose renames failed, as if it had not been written.

        `undo` writes the record that revokes it. A replay that does not find the files comes to the
        same result, so it is enough that one of the two succeeds.
        """
        for path in files:
            with suppress(OSError):
                self._fs.unlink(path)
        with suppress(OSError, StorageFull):
            undo()

    async def carry_out(self, function: Callable[[], T], adopt: Callable[[T], None]) -> T:
        """Run a change on the committer's thread; call this on the loop's thread.

        `adopt` applies the result to the catalog before the answer of any later commit, even when
        the caller no longer waits.
        """
        done: asyncio.Future[T] = asyncio.get_running_loop().create_future()

        def answer(result: T | Exception) -> None:
            if isinstance(result, Exception):
                done.set_exception(result)
            else:
                adopt(result)
                done.set_result(result)

        # A caller who was cancelled never asks for the exception; asyncio would report it as lost.
        done.add_done_callback(lambda ended: ended.exception())
        self.committer.change(function, answer)
        # Shielded: the change goes on when the caller is cancelled.
        return await asyncio.shield(done)
