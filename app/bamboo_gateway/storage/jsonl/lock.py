"""LOCK: one process owns a data directory (R8) and records how it left it.

The lock is `flock`, which the kernel releases however the process ends. The store takes it twice.
The lock on the directory `index/` still holds when somebody deletes LOCK. The lock on the file LOCK
is for file systems that cannot lock directories, and for older gateways, which know only this one.
The store does not lock the data directory itself: the commands that change the keys file take that
lock, also while a gateway is running. The content of LOCK is for people and for the next start: the
owner's pid, the id of the machine's boot, the durability mode, the last epoch, and whether the
owner closed everything (`clean`).

The store opens files by path. So the owner also checks that the path still leads to its own
`index/`: when a directory was moved or removed, another gateway's may have taken its place.
"""

import errno
import fcntl
import os
from contextlib import suppress
from pathlib import Path
from typing import Any

from bamboo_gateway.domain import codec
from bamboo_gateway.storage.base import StoreBusy
from bamboo_gateway.storage.file_system import FULL_ERRNOS, FileSystem
from bamboo_gateway.storage.jsonl.paths import Paths

_BOOT_ID = Path("/proc/sys/kernel/random/boot_id")
_CONTENT_BYTES_MAX = 4096


def boot_id() -> str:
    """Return the id of the machine's current boot; empty on systems without one."""
    with suppress(OSError):
        return _BOOT_ID.read_text(encoding="ascii").strip()
    return ""


class DirectoryLock:
    """The lock of a data directory, held from `take` to `release`."""

    def __init__(self, fs: FileSystem, paths: Paths) -> None:
        self._fs = fs
        self._path = paths.lock
        self._directory = paths.index
        self._fd: int | None = None
        self._directory_fd: int | None = None
        self._identity: tuple[int, int] | None = None
        self.previous: dict[str, Any] = {}

    def take(self) -> None:
        """Take the lock, and read what the last owner wrote into `previous`.

        Raises:
            StoreBusy: Another process holds it.
        """
        try:
            self._directory_fd = self._fs.lock_directory(self._directory)
            fd = self._fd = self._fs.open(self._path, os.O_RDWR | os.O_CREAT)
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            owner = _owner_in(_content(self._fs.read(self._path)))
            self.release()
            raise StoreBusy(
                f"The data directory is in use by {owner}; stop it, or choose another data_dir."
            ) from error
        self._identity = self._fs.identity(self._directory)
        self.previous = _content(os.pread(fd, _CONTENT_BYTES_MAX, 0))
        # Only the pid changes now: boot id and clean mark must survive a crash during recovery.
        self.write({**self.previous, **self.owner()})

    def owner(self) -> dict[str, Any]:
        """Return the members of the content that name this process."""
        return {"pid": os.getpid()}

    def write(self, content: dict[str, Any]) -> None:
        """Write and sync the content, in one block."""
        if self._fd is None:
            return
        data = codec.encode(content) + b"\n"
        try:
            self._fs.pwrite(self._fd, data.ljust(_CONTENT_BYTES_MAX // 8, b" "), 0)
            self._fs.sync(self._fd)
        except OSError as error:
            # Some file systems need space even to overwrite. The old content then stays, and only
            # makes the next start more careful: it trusts a clean mark of its own boot alone.
            if error.errno not in FULL_ERRNOS:
                raise

    def check(self) -> None:
        """Check that the path still leads to the locked directory; may run on any thread.

        Raises:
            OSError: The path leads elsewhere, or nowhere.
        """
        if self._identity is None or self._fs.identity(self._directory) != self._identity:
            directory = str(self._path.parent)
            raise OSError(
                errno.ESTALE, "the data directory was moved, removed or replaced", directory
            )

    def release(self) -> None:
        """Release the lock. Idempotent."""
        fd, self._fd = self._fd, None
        if fd is not None:
            self._fs.close(fd)
        directory_fd, self._directory_fd = self._directory_fd, None
        if directory_fd is not None:
            os.close(directory_fd)


def _content(data: bytes | None) -> dict[str, Any]:
    try:
        content = codec.decode(data or b"")
    except ValueError:
        return {}
    return content if isinstance(content, dict) else {}


def _owner_in(content: dict[str, Any]) -> str:
    pid = content.get("pid")
    return "another process" if pid is None else f"the process with pid {pid}"
