"""LOCK: one process owns a data directory (R8), and says how it left it.

The lock is `flock`, which the kernel gives back however the process ends. It is taken on a
directory, so it holds when somebody deletes LOCK, and on the file, which is all that file systems
without locks of directories and earlier gateways know. The directory is `index/`: the lock of the
data directory itself is taken by whoever changes the keys file, also beside a gateway at work. The
file's content tells people and the next start: the owner's pid, the machine's boot, how durable
commits were, the last epoch, and whether the owner closed everything (`clean`).

Files are opened by path, so the owner also makes sure that the path still leads to his `index/`: in
the place of a directory that was moved or removed there may be another gateway's.
"""

import errno
import fcntl
import os
from contextlib import suppress
from pathlib import Path
from typing import Any

from bamboo_gateway.domain import codec
from bamboo_gateway.storage.base import StoreBusy
from bamboo_gateway.storage.jsonl.files import FULL_ERRNOS, FileSystem
from bamboo_gateway.storage.jsonl.paths import Paths

_BOOT_ID = Path("/proc/sys/kernel/random/boot_id")
_CONTENT_BYTES_MAX = 4096


def boot_id() -> str:
    """Name this boot of the machine; empty where that cannot be told."""
    with suppress(OSError):
        return _BOOT_ID.read_text(encoding="ascii").strip()
    return ""


class DirectoryLock:
    """The lock, held from `take` to `release`."""

    def __init__(self, fs: FileSystem, paths: Paths) -> None:
        self._fs = fs
        self._path = paths.lock
        self._directory = paths.index
        self._fd: int | None = None
        self._directory_fd: int | None = None
        self._identity: tuple[int, int] | None = None
        self.previous: dict[str, Any] = {}

    def take(self) -> None:
        """Take the lock; `previous` is then what the last owner wrote.

        Raises:
            StoreBusy: Another process has it.
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
        # The pid alone changes now: boot and clean mark must outlive a crash during recovery.
        self.write({**self.previous, **self.owner()})

    def owner(self) -> dict[str, Any]:
        """Return how the lock file names this process."""
        return {"pid": os.getpid()}

    def write(self, content: dict[str, Any]) -> None:
        """Write and sync what the file says, in one block."""
        if self._fd is None:
            return
        data = codec.encode(content) + b"\n"
        try:
            self._fs.pwrite(self._fd, data.ljust(_CONTENT_BYTES_MAX // 8, b" "), 0)
            self._fs.sync(self._fd)
        except OSError as error:
            # There are file systems that need room to overwrite. What is then said of the owner
            # before only makes the next start more careful: see how it takes a clean mark.
            if error.errno not in FULL_ERRNOS:
                raise

    def check(self) -> None:
        """Make sure that the path still leads to the directory that was taken; on any thread.

        Raises:
            OSError: It does not.
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
