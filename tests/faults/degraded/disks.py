"""Disks that fail for longer than one call, and what a store on them guarantees."""

import errno
import os
from pathlib import Path

from typing_extensions import override

from bamboo_gateway.storage.base import SessionStore
from bamboo_gateway.storage.jsonl.doctor import check
from bamboo_gateway.storage.jsonl.store import JsonlStore
from tests.storage.faults import FaultyFileSystem, VolatileFileSystem
from tests.storage.writing import StepClock, everything


class BadFile(FaultyFileSystem):
    """One log on which some operations fail, for as long as `fails`."""

    def __init__(
        self, name: str, error: int = errno.EIO, operations: tuple[str, ...] = ("open", "write")
    ) -> None:
        super().__init__(self._fault)
        self.fails = True
        self._end = f"events/{name}.jsonl"
        self._error = error
        self._operations = operations

    def _fault(self, _: int, operation: str, path: str) -> int | None:
        if self.fails and path.endswith(self._end) and operation in self._operations:
            return self._error
        return None


class VolatileBadFile(VolatileFileSystem):
    """As `BadFile`, on a disk that can be stopped at every change."""

    fails = True

    def __init__(self, root: Path, name: str, crash_at: int | None = None) -> None:
        super().__init__(root, crash_at)
        self._bad = root / "events" / f"{name}.jsonl"

    @override
    def open(self, path: Path, flags: int) -> int:
        if self.fails and path == self._bad and flags & (os.O_CREAT | os.O_RDWR):
            raise OSError(errno.EIO, os.strerror(errno.EIO), str(path))
        return super().open(path, flags)


class FullDisk(FaultyFileSystem):
    """A disk without room while `is_full`: nothing gets longer; what there is can be overwritten.

    Segments of the journal are allocated, so writing to them does not need any.
    """

    def __init__(self) -> None:
        super().__init__(self._fault)
        self.is_full = False

    def _fault(self, _: int, operation: str, path: str) -> int | None:
        if self.is_full and operation == "allocate":
            return errno.ENOSPC
        return None

    @override
    def pwrite(self, fd: int, data: bytes, offset: int) -> None:
        is_journal = "journal-" in self._names.get(fd, "")
        if self.is_full and not is_journal and offset + len(data) > os.fstat(fd).st_size:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        super().pwrite(fd, data, offset)


async def ids(store: SessionStore, session_id: str) -> list[str]:
    """Return the ids of all messages by their marks, after comparing the log with them."""
    head = await store.load(session_id)
    assert head is not None
    found = await store.find(session_id, head.epoch, "message", limit=10_000)
    read = [r for r in await everything(store, session_id) if b'"type":"message"' in r.body[:20]]
    assert [record.body for record in found] == [record.body for record in read]
    assert head.message_count == len(found)
    return [record.body.split(b'"id":"')[1].split(b'"')[0].decode() for record in found]


def findings(root: Path) -> list[str]:
    """What `bamboo doctor` finds in a directory that nobody owns, notes left out."""
    return [f"{f.subject}: {f.problem}" for f in check(root, StepClock()) if f.severity != "note"]


async def turn(store: JsonlStore) -> None:
    """Wait until the committer has been through a turn."""
    for _ in range(3):
        await store._committer.send(lambda: None)
