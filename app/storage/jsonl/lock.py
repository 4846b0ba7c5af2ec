"""LOCK: one process owns a data directory (R8), and says how it left it.

The lock is `flock`, which the kernel gives back however the process ends. The file's content tells
people and the next start: the owner's pid, the machine's boot, how durable commits were, the last
epoch, and whether the owner closed everything (`clean`).
"""

import fcntl
import os
from contextlib import suppress
from pathlib import Path
from typing import Any

from app.domain import codec
from app.storage.base import StoreBusy
from app.storage.jsonl.files import FileSystem

_BOOT_ID = Path("/proc/sys/kernel/random/boot_id")
_CONTENT_BYTES_MAX = 4096


def boot_id() -> str:
    """Names this boot of the machine; empty where that cannot be told."""
    with suppress(OSError):
        return _BOOT_ID.read_text(encoding="ascii").strip()
    return ""


class DirectoryLock:
    """The lock, held from `take` to `release`."""

    def __init__(self, fs: FileSystem, path: Path) -> None:
        self._fs = fs
        self._path = path
        self._fd: int | None = None
        self.previous: dict[str, Any] = {}

    def take(self) -> None:
        """Takes the lock; `previous` is then what the last owner wrote.

        Raises:
            StoreBusy: Another process has it.
        """
        fd = self._fs.open(self._path, os.O_RDWR | os.O_CREAT)
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            owner = _content(fd).get("pid", "unknown")
            self._fs.close(fd)
            raise StoreBusy(
                f"The data directory is in use by the process with pid {owner}; "
                "stop it, or choose another data_dir."
            ) from error
        self._fd = fd
        self.previous = _content(fd)
        # The pid alone changes now: boot and clean mark must outlive a crash during recovery.
        self.write({**self.previous, **self.owner()})

    def owner(self) -> dict[str, Any]:
        """Says who this is."""
        return {"pid": os.getpid()}

    def write(self, content: dict[str, Any]) -> None:
        """Writes and syncs what the file says, in one block."""
        if self._fd is None:
            return
        data = codec.encode(content) + b"\n"
        self._fs.pwrite(self._fd, data.ljust(_CONTENT_BYTES_MAX // 8, b" "), 0)
        self._fs.sync(self._fd)

    def release(self) -> None:
        """Gives the lock back. Idempotent."""
        fd, self._fd = self._fd, None
        if fd is not None:
            self._fs.close(fd)


def _content(fd: int) -> dict[str, Any]:
    try:
        content = codec.decode(os.pread(fd, _CONTENT_BYTES_MAX, 0))
    except ValueError:
        return {}
    return content if isinstance(content, dict) else {}
