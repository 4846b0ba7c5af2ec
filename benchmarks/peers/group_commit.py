"""The bare limit of durability: appends gathered by one thread, one write and one fdatasync each.

The same promise as `SessionStore.append` (`done` on the loop, after the sync, whole batches at
once), and nothing else: no heads to check, no records, no logs, no index. The file is preallocated
and written from its beginning again when it is full, as a journal with recycled segments would be.
"""

import asyncio
import os
from collections.abc import Callable
from pathlib import Path
from queue import Empty, SimpleQueue
from threading import Thread

FILE_BYTES = 64 * 1024 * 1024
Done = Callable[[None], None]


class GroupCommit:
    """A file to which one thread appends. Call `append` on the loop; `close` waits for it."""

    def __init__(
        self, path: Path, loop: asyncio.AbstractEventLoop, file_bytes: int = FILE_BYTES
    ) -> None:
        self._file_bytes = file_bytes
        self._queue: SimpleQueue[tuple[bytes, Done] | None] = SimpleQueue()
        self._loop = loop
        self._fd = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
        # Written, not only allocated: turning unwritten extents into written ones costs a sync.
        os.write(self._fd, bytes(file_bytes))
        os.fsync(self._fd)
        self._thread = Thread(target=self._run)
        self._thread.start()
        self.batches = 0

    def append(self, data: bytes, done: Done) -> None:
        """Take bytes; `done(None)` is called on the loop once they are on the disk."""
        self._queue.put((data, done))

    def close(self) -> None:
        """End the thread."""
        self._queue.put(None)
        self._thread.join()
        os.close(self._fd)

    def _run(self) -> None:
        queue, at = self._queue, 0
        while (item := queue.get()) is not None:
            batch = [item]
            try:
                while (more := queue.get_nowait()) is not None:
                    batch.append(more)
            except Empty:
                more = item
            data = b"".join([part for part, _ in batch])
            if at + len(data) > self._file_bytes:
                at = 0
            os.pwrite(self._fd, data, at)
            os.fdatasync(self._fd)
            at += len(data)
            self.batches += 1
            self._loop.call_soon_threadsafe(_answer, [done for _, done in batch])
            if more is None:
                return


def _answer(dones: list[Done]) -> None:
    for done in dones:
        done(None)
