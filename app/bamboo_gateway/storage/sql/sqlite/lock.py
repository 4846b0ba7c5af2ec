"""The lock on a database, which makes one process its owner (R8).

The file `…-lock` beside the database is flock'ed for as long as it is open. Its content is for
people and for the next start: the owner's pid, the id of the machine's boot, the durability mode,
and whether the owner closed everything (`clean`).
"""

import fcntl
import os
from contextlib import suppress
from pathlib import Path
from typing import Any

from bamboo_gateway.domain import codec
from bamboo_gateway.storage.base import StoreBusy

_BOOT_ID = Path("/proc/sys/kernel/random/boot_id")
_CONTENT_BYTES = 512


class DatabaseLock:
    """The lock, held from `take` to `release`."""

    def __init__(self, database: Path) -> None:
        self._database = database
        self.path = database.with_name(database.name + "-lock")
        self._fd: int | None = None
        self.previous: dict[str, Any] = {}

    def take(self) -> None:
        """Take the lock, and read what the last owner wrote into `previous`.

        Raises:
            StoreBusy: Another process holds it.
            OSError: The file cannot be opened.
        """
        fd = os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            pid = _content(fd).get("pid")
            os.close(fd)
            owner = "another process" if pid is None else f"the process with pid {pid}"
            raise StoreBusy(
                f"The database {self._database} is in use by {owner}; stop it, or choose another "
                "storage_url."
            ) from error
        except OSError:
            os.close(fd)
            raise
        self._fd = fd
        self.previous = _content(fd)

    @property
    def is_after_power_loss(self) -> bool:
        """Whether the last owner's machine failed before commits that were not synced were."""
        before = self.previous
        return (
            before.get("durability") == "os"
            and not before.get("clean", True)
            and before.get("boot") != boot_id()
        )

    def write(self, durability: str, *, clean: bool) -> None:
        """Write and sync the content, in one block."""
        assert self._fd is not None
        content = {"pid": os.getpid(), "boot": boot_id(), "durability": durability, "clean": clean}
        os.pwrite(self._fd, (codec.encode(content) + b"\n").ljust(_CONTENT_BYTES), 0)
        os.fsync(self._fd)

    def release(self) -> None:
        """Release the lock. Idempotent."""
        fd, self._fd = self._fd, None
        if fd is not None:
            os.close(fd)


def boot_id() -> str:
    """Return the id of the machine's current boot; empty on systems without one."""
    with suppress(OSError):
        return _BOOT_ID.read_text(encoding="ascii").strip()
    return ""


def _content(fd: int) -> dict[str, Any]:
    try:
        content = codec.decode(os.pread(fd, 4096, 0))
    except (OSError, ValueError):
        return {}
    return content if isinstance(content, dict) else {}
