"""File systems that fail on purpose, through the seam `FileSystem`."""

import os
import random
import shutil
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from threading import RLock
from typing import NamedTuple

from typing_extensions import override

from bamboo_gateway.storage.file_system import FileSystem
from bamboo_gateway.storage.jsonl.store import JsonlStore

PAGE_BYTES = 512


class FaultyFileSystem(FileSystem):
    """Count the calls that change something; fail those that `should_fail` selects.

    `should_fail(number, operation, path)` returns an errno, or None for a call that succeeds.
    One call at a time holds `lock`; a test that holds it sees the files unchanged.
    """

    def __init__(
        self, should_fail: Callable[[int, str, str], int | None] = lambda *_: None
    ) -> None:
        self.should_fail = should_fail
        self.calls = 0
        self.lock = RLock()
        self._names: dict[int, str] = {}

    def _count(self, operation: str, path: object) -> None:
        self.calls += 1
        number = self.should_fail(self.calls, operation, str(path))
        if number is not None:
            raise OSError(number, os.strerror(number))

    @override
    def open(self, path: Path, flags: int) -> int:
        with self.lock:
            if flags & (os.O_CREAT | os.O_RDWR):
                self._count("open", path)
            fd = super().open(path, flags)
            self._names[fd] = str(path)
            return fd

    @override
    def pwrite(self, fd: int, data: bytes, offset: int) -> None:
        with self.lock:
            try:
                self._count("write", self._names.get(fd))
            except OSError:
                # Half of it arrives, as half-done writes do.
                super().pwrite(fd, data[: len(data) // 2], offset)
                raise
            super().pwrite(fd, data, offset)

    @override
    def sync(self, fd: int) -> None:
        with self.lock:
            self._count("sync", self._names.get(fd))

    @override
    def pwrite_synced(self, fd: int, data: bytes, offset: int) -> None:
        # Either half of it may be what fails.
        self.pwrite(fd, data, offset)
        self.sync(fd)

    @override
    def sync_all(self, fd: int) -> bool:
        with self.lock:
            self._count("sync_all", "")
        return True

    @override
    def sync_directory(self, path: Path) -> None:
        with self.lock:
            self._count("sync_directory", path)

    @override
    def allocate(self, fd: int, size: int) -> None:
        with self.lock:
            self._count("allocate", self._names.get(fd))

    @override
    def truncate(self, fd: int, size: int) -> None:
        with self.lock:
            self._count("truncate", self._names.get(fd))
            super().truncate(fd, size)

    @override
    def rename(self, source: Path, target: Path) -> None:
        with self.lock:
            self._count("rename", target)
            super().rename(source, target)

    @override
    def unlink(self, path: Path) -> None:
        with self.lock:
            self._count("unlink", path)
            super().unlink(path)


class _Node:
    """A file, and the part of its content that survives a power loss."""

    def __init__(self) -> None:
        self.durable = b""


class Kept(NamedTuple):
    """A file of an image: its identity, its synced content, and its current content."""

    node: _Node
    durable: bytes
    current: bytes


class Image:
    """All files at one moment: as the kernel had them, and as the disk had them."""

    def __init__(self, current: dict[Path, Kept], durable: dict[Path, Kept]) -> None:
        self.current = current
        self.durable = durable

    def restore(self, root: Path, *, power_lost: bool, chance: random.Random | None = None) -> None:
        """Restore the files as `kill -9` or a power loss would leave them.

        With `chance`, some of the unsynced names and file pages survive too.
        """
        if not power_lost:
            content = {path: kept.current for path, kept in self.current.items()}
        elif chance is None:
            content = {path: kept.durable for path, kept in self.durable.items()}
        else:
            content = self._in_parts(chance)
        for path in list(root.rglob("*")):
            if path.is_file():
                path.unlink()
        for path, data in content.items():
            path.write_bytes(data)

    def _in_parts(self, chance: random.Random) -> dict[Path, bytes]:
        content: dict[Path, bytes] = {}
        for path in sorted({*self.durable, *self.current}):
            durable, now = self.durable.get(path), self.current.get(path)
            if durable is not None and now is not None and now.node is durable.node:
                content[path] = _mixed(durable.durable, now.current, chance)
            elif chance.random() < 0.5:
                # The name is as it was when its directory was synced.
                if durable is not None:
                    content[path] = durable.durable
            elif now is not None:
                content[path] = _mixed(now.durable, now.current, chance)
        return content


def files_of(root: Path) -> frozenset[tuple[Path, bytes]]:
    """Return all files below a directory: two images that leave the same prove the same."""
    return frozenset((path, path.read_bytes()) for path in root.rglob("*") if path.is_file())


def _mixed(durable: bytes, current: bytes, chance: random.Random) -> bytes:
    size = chance.choice([len(durable), len(current), chance.randint(0, len(current))])
    size = max(size, min(len(durable), len(current)))
    mixed = bytearray(durable[:size].ljust(size, b"\0"))
    for start in range(0, size, PAGE_BYTES):
        if chance.random() < 0.6:
            mixed[start : start + PAGE_BYTES] = current[start : min(start + PAGE_BYTES, size)]
    return bytes(mixed)


class VolatileFileSystem(FileSystem):
    """Record what was synced; take an `Image` before the Nth change, or when asked.

    `before_change` is called before every change.

    It does not really sync, so it is also fast.
    """

    def __init__(self, root: Path, crash_at: int | None = None) -> None:
        root.mkdir(parents=True, exist_ok=True)
        self.root = root
        self.crash_at = crash_at
        self.changes = 0
        self.image: Image | None = None
        self.on_crash: Callable[[], None] = lambda: None
        self.before_change: Callable[[], None] = lambda: None
        self._lock = RLock()
        self._names: dict[Path, _Node] = {}
        self._durable_names: dict[Path, _Node] = {}
        self._by_fd: dict[int, tuple[_Node, Path]] = {}
        for path in root.rglob("*"):
            if path.is_file():
                node = self._names[path] = self._durable_names[path] = _Node()
                node.durable = path.read_bytes()

    def take_image(self) -> Image:
        """Take an image now."""
        with self._lock:
            contents = {
                id(node): path.read_bytes() for path, node in self._names.items() if path.exists()
            }
            current = {
                path: Kept(node, node.durable, contents[id(node)])
                for path, node in self._names.items()
                if id(node) in contents
            }
            durable = {
                path: Kept(node, node.durable, b"") for path, node in self._durable_names.items()
            }
            return Image(current, durable)

    def _change(self) -> None:
        self.changes += 1
        if self.changes == self.crash_at:
            self.image = self.take_image()
            self.on_crash()
        self.before_change()

    @override
    def open(self, path: Path, flags: int) -> int:
        with self._lock:
            if flags & os.O_CREAT:
                self._change()
            fd = super().open(path, flags)
            node = self._names.get(path)
            if node is None:
                node = self._names[path] = _Node()
            self._by_fd[fd] = (node, path)
            return fd

    @override
    def pwrite(self, fd: int, data: bytes, offset: int) -> None:
        with self._lock:
            self._change()
            if len(data) > 1:
                # Also between two halves of one write.
                half = len(data) // 2
                super().pwrite(fd, data[:half], offset)
                self._change()
            super().pwrite(fd, data, offset)

    @override
    def sync(self, fd: int) -> None:
        with self._lock:
            self._change()
            node, _ = self._by_fd[fd]
            node.durable = os.pread(fd, os.fstat(fd).st_size, 0)

    @override
    def pwrite_synced(self, fd: int, data: bytes, offset: int) -> None:
        with self._lock:
            self.pwrite(fd, data, offset)
            self._change()
            node, _ = self._by_fd[fd]
            before, after = node.durable[:offset], node.durable[offset + len(data) :]
            node.durable = before.ljust(offset, b"\0") + data + after

    @override
    def sync_all(self, fd: int) -> bool:
        with self._lock:
            self._change()
            for path, node in self._names.items():
                with suppress(FileNotFoundError):
                    node.durable = path.read_bytes()
            self._durable_names = dict(self._names)
        return True

    @override
    def sync_directory(self, path: Path) -> None:
        with self._lock:
            self._change()
            kept = {p: n for p, n in self._durable_names.items() if p.parent != path}
            named = {p: n for p, n in self._names.items() if p.parent == path}
            self._durable_names = {**kept, **named}

    @override
    def allocate(self, fd: int, size: int) -> None:
        return

    @override
    def truncate(self, fd: int, size: int) -> None:
        with self._lock:
            self._change()
            super().truncate(fd, size)

    @override
    def rename(self, source: Path, target: Path) -> None:
        with self._lock:
            self._change()
            super().rename(source, target)
            self._names[target] = self._names.pop(source)

    @override
    def unlink(self, path: Path) -> None:
        with self._lock:
            self._change()
            super().unlink(path)
            self._names.pop(path, None)


async def write_out(store: JsonlStore) -> None:
    """Write the pending lines of every log, so that a test can look at its file."""
    lagging = store._committer._write_behind

    def bring_up() -> None:
        while lagging:
            lagging.write_oldest()

    await store._committer.send(bring_up)


async def abandon(store: JsonlStore) -> None:
    """Abandon a store without closing it: finish queued requests, make no checkpoint."""
    store._is_open = False
    await store._committer.send(lambda: None)
    running = store._maintenance._running
    if running is not None:
        await running
    store._committer.stop()
    await store._in_thread(store._committer.join)
    await store._in_thread(store._maintenance.close)
    # A process that was killed writes nothing later: neither a write of the index that goes on in
    # its thread, nor SQLite, when the connection is collected.
    index = store._search_index
    index._is_closed = True
    await store._in_thread(index._pool.shutdown)
    if index._database is not None:
        await store._in_thread(index._database.close)
    store._close_files()


def copy_of(source: Path, target: Path) -> Path:
    """Copy a data directory."""
    shutil.copytree(source, target)
    return target
