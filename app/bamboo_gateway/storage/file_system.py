"""The seam to the file system: every call that changes or syncs a file goes through `FileSystem`.

Tests replace it by one whose Nth call fails, or by one that remembers what was synced and drops
everything else, as a power loss does.
"""

import ctypes
import errno
import fcntl
import os
import stat
import sys
from collections.abc import Iterable
from pathlib import Path

from bamboo_gateway.domain.errors import StorageFailed, StorageFull, Unavailable

FULL_ERRNOS = frozenset({errno.ENOSPC, errno.EDQUOT})
# Small pieces of a new file are joined to this size: one call per line costs more than the writing.
WRITE_BYTES = 256 * 1024
# What an operating system or file system answers to a call that it does not support.
NOT_SUPPORTED_ERRNOS = frozenset({errno.EOPNOTSUPP, errno.ENOTSUP, errno.EINVAL, errno.ENOSYS})


class FileSystem:
    """The file system of this machine.

    All paths are absolute. New files get mode 0600, directories 0700. No call follows a symbolic
    link below the data directory: a planted link would make the gateway read, write or truncate a
    file elsewhere.
    """

    def open(self, path: Path, flags: int) -> int:
        """Open a file and return its descriptor."""
        try:
            return os.open(path, flags | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
        except OSError as error:
            if error.errno == errno.ELOOP:
                what = "a symbolic link is where a file should be"
                raise OSError(errno.ELOOP, what, str(path)) from error
            raise

    def close(self, fd: int) -> None:
        """Close a descriptor."""
        os.close(fd)

    def pread(self, fd: int, size: int, offset: int) -> bytes:
        """Read up to `size` bytes; fewer only at the end of the file."""
        data = os.pread(fd, size, offset)
        while 0 < len(data) < size:
            more = os.pread(fd, size - len(data), offset + len(data))
            if not more:
                break
            data += more
        return data

    def pwrite(self, fd: int, data: bytes, offset: int) -> None:
        """Write all of `data`, or raise; how much was written is then unknown."""
        done = os.pwrite(fd, data, offset)
        while done < len(data):
            done += os.pwrite(fd, memoryview(data)[done:], offset + done)

    def sync(self, fd: int) -> None:
        """Make the file's content (and size) durable."""
        if sys.platform == "darwin":  # fsync there stops at the drive's cache
            fcntl.fcntl(fd, fcntl.F_FULLFSYNC)
        else:
            os.fdatasync(fd)

    def pwrite_synced(self, fd: int, data: bytes, offset: int) -> None:
        """Write all of `data` and make it durable, without syncing anything written before.

        Use one system call where the system has it: after each wait for the disk a thread also
        waits for the interpreter, up to 5 ms while the event loop is busy.
        """
        if hasattr(os, "RWF_DSYNC"):
            done = 0
            try:
                while done < len(data):
                    rest = memoryview(data)[done:]
                    done += os.pwritev(fd, [rest], offset + done, os.RWF_DSYNC)
            except OSError as error:
                if error.errno not in NOT_SUPPORTED_ERRNOS:
                    raise
            else:
                return
        self.pwrite(fd, data, offset)
        self.sync(fd)

    def sync_all(self, fd: int) -> bool:
        """Sync the whole file system of `fd`; return False where the system has no such call."""
        if _syncfs is None:
            return False
        if _syncfs(fd) != 0:
            number = ctypes.get_errno()
            raise OSError(number, os.strerror(number))
        return True

    def sync_directory(self, path: Path) -> None:
        """Make the names in a directory durable: files created, renamed or removed there."""
        fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            os.fsync(fd)
        finally:
            os.close(fd)

    def allocate(self, fd: int, size: int) -> None:
        """Reserve space: writes within it cannot fail for lack of space or change the size."""
        if hasattr(os, "posix_fallocate"):
            os.posix_fallocate(fd, 0, size)

    def truncate(self, fd: int, size: int) -> None:
        """Truncate the file to `size` bytes."""
        os.ftruncate(fd, size)

    def rename(self, source: Path, target: Path) -> None:
        """Rename a file, replacing the target."""
        source.replace(target)

    def unlink(self, path: Path) -> None:
        """Remove a file; do nothing when there is none."""
        path.unlink(missing_ok=True)

    def make_directory(self, path: Path) -> None:
        """Create a directory and its missing parents; leave an existing one as it is.

        Raises:
            NotADirectoryError: A file or a symbolic link has that name.
        """
        for missing in [above for above in reversed(path.parents) if not above.exists()]:
            # Not by `parents=True`, which leaves their modes to the umask.
            missing.mkdir(mode=0o700, exist_ok=True)
        try:
            path.mkdir(mode=0o700)
        except FileExistsError as error:
            if not stat.S_ISDIR(path.lstat().st_mode):
                what = "a link or file is where a directory should be"
                raise NotADirectoryError(errno.ENOTDIR, what, str(path)) from error

    def lock_directory(self, path: Path) -> int | None:
        """Take the lock of a directory; closing the descriptor releases it.

        Returns:
            The descriptor; None when the directory does not exist, or the file system cannot lock
            directories (NFS cannot).

        Raises:
            BlockingIOError: Another process holds it.
        """
        try:
            fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        except FileNotFoundError:
            return None
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(fd)
            raise
        except OSError:
            os.close(fd)
            return None
        return fd

    # The calls below only look. Tests that fail the Nth call do not count them.

    def size(self, path: Path) -> int | None:
        """Return a file's size in bytes; None when there is no such file."""
        try:
            return path.lstat().st_size
        except FileNotFoundError:
            return None

    def identity(self, path: Path) -> tuple[int, int] | None:
        """Return what identifies the file or directory now at a path; None when there is none."""
        try:
            found = path.lstat()
        except OSError:
            return None
        return found.st_dev, found.st_ino

    def names(self, path: Path) -> list[str]:
        """Return the sorted names in a directory; none when the directory does not exist."""
        try:
            return sorted(os.listdir(path))  # noqa: PTH208 - names, not 100,000 Path objects
        except FileNotFoundError:
            return []

    def read(self, path: Path) -> bytes | None:
        """Read a whole small file; return None when it does not exist."""
        try:
            fd = self.open(path, os.O_RDONLY)
        except FileNotFoundError:
            return None
        try:
            return self.pread(fd, os.fstat(fd).st_size, 0)
        finally:
            self.close(fd)

    def write_aside(self, aside: Path, target: Path, data: bytes) -> None:
        """Replace a file as a whole: write and sync it as `aside`, then rename it."""
        self.write_new(aside, data)
        self.rename(aside, target)
        self.sync_directory(target.parent)

    def write_new(self, path: Path, data: bytes) -> None:
        """Write and sync a whole new file that nobody reads yet."""
        self.write_pieces(path, [data])

    def write_pieces(self, path: Path, pieces: Iterable[bytes]) -> int:
        """Write and sync a whole new file that nobody reads yet, piece by piece.

        Returns:
            Its size in bytes.
        """
        fd = self.open(path, os.O_RDWR | os.O_CREAT | os.O_TRUNC)
        size = pending_bytes = 0
        pending: list[bytes] = []
        try:
            for piece in pieces:
                pending.append(piece)
                pending_bytes += len(piece)
                if pending_bytes >= WRITE_BYTES:
                    self.pwrite(fd, b"".join(pending), size)
                    size += pending_bytes
                    pending, pending_bytes = [], 0
            if pending:
                self.pwrite(fd, b"".join(pending), size)
            self.sync(fd)
        finally:
            self.close(fd)
        return size + pending_bytes


def failure_of(error: OSError, doing: str) -> Unavailable:
    """Translate an operating system's error into the gateway's own."""
    if error.errno in FULL_ERRNOS:
        return StorageFull("The disk is full: nothing can be written until there is space again.")
    return StorageFailed(f"{doing} failed: {error.strerror or 'input/output error'}.")


def _find_syncfs() -> "ctypes._NamedFuncPointer | None":
    try:
        found = ctypes.CDLL(None, use_errno=True).syncfs
    except (OSError, AttributeError):
        return None
    found.argtypes = [ctypes.c_int]
    return found


_syncfs = _find_syncfs()
