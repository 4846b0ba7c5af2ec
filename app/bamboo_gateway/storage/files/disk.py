"""Contents as files of a directory: those of `jsonl:` and `sqlite:`.

    <directory>/<owner>/<digest>    a content
    <directory>/aside/<random>      one that is being written; emptied at the start

A content is written aside and synced, then renamed, then the directories are synced. No name comes
from a client. A content that somebody reads may be deleted: its bytes go when the reader closes it.
"""

import os
import secrets
from collections.abc import AsyncGenerator, Callable
from contextlib import suppress
from functools import partial
from hashlib import sha256
from pathlib import Path
from typing import TypeVar

import anyio
from anyio import to_thread
from typing_extensions import override

from bamboo_gateway.storage.file_system import FileSystem, failure_of
from bamboo_gateway.storage.files.base import (
    PIECE_BYTES,
    ContentLost,
    ContentName,
    ContentStore,
    ContentWriter,
    StoredContent,
)

_ASIDE = "aside"
_THREADS = 4
"""Threads for contents, apart from those of sessions: a disk that is slow with large files delays
no commit and no cold read (R7)."""

_OWNERS_MAX = 10_000
"""Owners that memory holds: 1 MB. A directory that is synced once more costs a millisecond."""

_HEX = frozenset("0123456789abcdef")

T = TypeVar("T")


class DiskContents(ContentStore):
    """Contents in a directory, which belongs to this process while the session store is open."""

    def __init__(self, directory: Path, fs: FileSystem | None = None) -> None:
        self._directory = directory
        self._fs = fs or FileSystem()
        self._limiter: anyio.CapacityLimiter | None = None
        # Owners whose directory this process has seen to be durable.
        self.durable_owners: set[str] = set()

    @override
    def open(self) -> None:
        # The directory itself is made with the first file: most gateways have none.
        with suppress(FileNotFoundError):
            for left in (self._directory / _ASIDE).iterdir():
                self._fs.unlink(left)

    @override
    def writer(self) -> ContentWriter:
        return _DiskWriter(self)

    @override
    async def size(self, name: ContentName) -> int | None:
        return await self.run(lambda: self._fs.size(self.path_of(name)), "Looking for a file")

    @override
    async def read(self, name: ContentName, start: int, end: int) -> AsyncGenerator[bytes]:
        fd = await self.run(lambda: self._open_to_read(self.path_of(name)), "Reading a file")
        try:
            place = start
            while place < end:
                read = partial(os.pread, fd, min(PIECE_BYTES, end - place), place)
                piece = await self.run(read, "Reading a file")
                if not piece:
                    raise ContentLost
                place += len(piece)
                yield piece
        finally:
            # Closing what was only read waits for nothing.
            os.close(fd)

    def _open_to_read(self, path: Path) -> int:
        try:
            return os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
        except FileNotFoundError:
            raise ContentLost from None

    @override
    async def delete(self, name: ContentName) -> int:
        def delete() -> int:
            path = self.path_of(name)
            # What `bamboo doctor` has set aside of it goes too.
            self._fs.unlink(set_aside_as(self._directory.parent / "quarantine", name))
            size = self._fs.size(path)
            if size is None:
                return 0
            self._fs.unlink(path)
            self._fs.sync_directory(path.parent)
            return size

        return await self.run(delete, "Deleting a file")

    @override
    async def contents(
        self, after: ContentName | None = None, limit: int = 1000
    ) -> list[StoredContent]:
        return await self.run(
            lambda: list_contents(self._directory, after, limit), "Listing the files"
        )

    def path_of(self, name: ContentName) -> Path:
        """Return the path of a content."""
        # A last guard: whoever makes a name of a client's text would find it out here.
        if not is_name(name):
            raise ValueError("a content's name has hexadecimal digits only")
        return self._directory / name.owner / name.digest

    async def run(self, function: Callable[[], T], doing: str) -> T:
        """Run blocking work in the threads of contents, and translate its errors."""
        if self._limiter is None:
            # Made here, in the event loop that it belongs to.
            self._limiter = anyio.CapacityLimiter(_THREADS)
        try:
            return await to_thread.run_sync(function, limiter=self._limiter)
        except OSError as error:
            raise failure_of(error, doing) from error


class _DiskWriter(ContentWriter):
    def __init__(self, store: DiskContents) -> None:
        self._store = store
        self._fs = store._fs  # noqa: SLF001 - of one module
        self._root = store._directory  # noqa: SLF001
        self._aside = self._root / _ASIDE / secrets.token_hex(16)
        self._digest = sha256()
        self._fd: int | None = None

    @override
    async def write(self, data: bytes) -> None:
        def write() -> None:
            fd = self._opened()
            self._fs.pwrite(fd, data, self.size)
            self._digest.update(data)

        await self._store.run(write, "Writing a file")
        self.size += len(data)

    def _opened(self) -> int:
        if self._fd is None:
            self._fs.make_directory(self._root)
            self._fs.make_directory(self._aside.parent)
            self._fd = self._fs.open(self._aside, os.O_RDWR | os.O_CREAT | os.O_EXCL)
        return self._fd

    @override
    async def finish(self) -> str:
        def finish() -> None:
            self._fs.sync(self._opened())

        await self._store.run(finish, "Writing a file")
        return self._digest.hexdigest()

    @override
    async def publish(self, owner: str) -> ContentName:
        name = ContentName(owner, self._digest.hexdigest())
        path = self._store.path_of(name)

        def publish() -> None:
            self._fs.make_directory(path.parent)
            self._fs.rename(self._aside, path)
            self._fs.sync_directory(path.parent)
            if owner in self._store.durable_owners:
                return
            # That the directory exists is not enough: whoever made it may not have synced it yet,
            # or have been killed before. The root itself may be new too.
            self._fs.sync_directory(self._root)
            self._fs.sync_directory(self._root.parent)
            if len(self._store.durable_owners) >= _OWNERS_MAX:
                self._store.durable_owners.clear()
            self._store.durable_owners.add(owner)

        await self._store.run(publish, "Storing a file")
        return name

    @override
    async def discard(self) -> None:
        def discard() -> None:
            fd, self._fd = self._fd, None
            if fd is None:
                return
            # A leftover goes at the next start.
            with suppress(OSError):
                self._fs.close(fd)
            with suppress(OSError):
                self._fs.unlink(self._aside)

        with anyio.CancelScope(shield=True):
            await self._store.run(discard, "Discarding a file")


def files_beside(database: Path) -> Path:
    """Return the directory of the files that belong to a database of one file.

    Beside it, and with its name: two databases in one directory have different files.
    """
    return database.with_name(database.name + "-files")


def set_aside_as(quarantine: Path, name: ContentName) -> Path:
    """Return where `bamboo doctor` puts a content that is damaged."""
    return quarantine / f"file-{name.owner}-{name.digest}"


def list_contents(
    directory: Path, after: ContentName | None = None, limit: int | None = None
) -> list[StoredContent]:
    """Return the contents of a directory that follow `after`, ordered by name. This blocks."""
    found: list[StoredContent] = []
    fs = FileSystem()
    for owner in _names(directory):
        if owner == _ASIDE or (after is not None and owner < after.owner):
            continue
        for digest in _names(directory / owner):
            name = ContentName(owner, digest)
            if (after is None or name > after) and is_name(name):
                size = fs.size(directory / owner / digest)
                if size is not None:
                    found.append(StoredContent(name, size))
                if limit is not None and len(found) >= limit:
                    return found
    return found


def is_name(name: ContentName) -> bool:
    """Return whether both parts of a name have the form that this gateway makes."""
    return (
        len(name.owner) == 32
        and len(name.digest) == 64
        and _HEX.issuperset(name.owner + name.digest)
    )


def _names(directory: Path) -> list[str]:
    try:
        return sorted(os.listdir(directory))  # noqa: PTH208 - names, not 100,000 Path objects
    except (FileNotFoundError, NotADirectoryError):
        return []
