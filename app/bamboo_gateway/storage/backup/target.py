"""Writes a backup: into a directory beside the target, which gets the target's name when whole."""

import fcntl
import os
import shutil
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from hashlib import sha256
from pathlib import Path
from types import TracebackType
from typing import Final, Self

from bamboo_gateway import __version__
from bamboo_gateway.domain.clock import Clock, format_ms
from bamboo_gateway.domain.errors import BambooError
from bamboo_gateway.storage.backup.manifest import NAME, BackupFile, Manifest

CHUNK_BYTES: Final = 1024 * 1024
"""The most of a file that is in memory at once."""

_SUFFIX: Final = ".unfinished"
_WRITE: Final = os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW


class BackupRefused(BambooError):
    """No backup can be made or restored there; `detail` says why and what to do."""

    code = "backup-refused"


class BackupTarget:
    """A new backup. Use it as `with BackupTarget(path, …) as target:`.

    Leaving it without `finish` removes what was written. A process that is killed leaves a
    directory `.NAME.unfinished`, which the next backup removes. It has a manifest only when the
    backup is whole and lacks nothing but its name.
    """

    def __init__(self, path: Path, store: str, clock: Clock) -> None:
        """Make the directory of an unfinished backup.

        Raises:
            BackupRefused: The target exists, or somebody else is making this backup.
            OSError: The directory cannot be made.
        """
        self.path = path.expanduser().absolute()
        self._store = store
        self._clock = clock
        self._began_ms = clock.now_ms()
        self._files: list[BackupFile] = []
        if os.path.lexists(self.path):
            raise BackupRefused(f"{path} exists already; name a new directory for each backup.")
        self.directory = self.path.with_name(f".{self.path.name}{_SUFFIX}")
        self.path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        with suppress(FileExistsError):
            self.directory.mkdir(mode=0o700)
        self._fd = os.open(
            self.directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC | os.O_NOFOLLOW
        )
        try:
            fcntl.flock(self._fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            os.close(self._fd)
            raise BackupRefused(f"Another process is making the backup {path}.") from error
        self._clear()

    def _clear(self) -> None:
        """Remove what a killed process left."""
        for entry in os.scandir(self.directory):
            if entry.is_dir(follow_symlinks=False):
                shutil.rmtree(entry.path)
            else:
                Path(entry.path).unlink()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self.directory != self.path:
            shutil.rmtree(self.directory, ignore_errors=True)
        os.close(self._fd)

    @contextmanager
    def new_file(self, path: str) -> Iterator["NewFile"]:
        """Write one file; it counts when `keep` was called, and is removed otherwise."""
        file = NewFile(self.directory / path)
        try:
            yield file
        finally:
            file.close()
        if file.kept is None:
            file.path.unlink(missing_ok=True)
        else:
            session_id, position = file.kept
            self._files.append(
                BackupFile(path, file.size, file.digest.hexdigest(), session_id, position)
            )

    @contextmanager
    def adopting(self, path: str) -> Iterator[Path]:
        """Yield the path of a file that something else writes; it counts when the block ends."""
        file = self.directory / path
        os.close(os.open(file, _WRITE | os.O_EXCL, 0o600))
        yield file
        digest, size = sha256(), 0
        with file.open("rb", buffering=0) as opened:
            while data := opened.read(CHUNK_BYTES):
                digest.update(data)
                size += len(data)
        self._files.append(BackupFile(path, size, digest.hexdigest()))

    def copy(self, source: Path, path: str, *, whole_lines: bool = False) -> bool:
        """Copy a file that changes only as a whole, or at its end; False when it does not exist.

        Args:
            source: The file.
            path: Its path in the backup.
            whole_lines: Leave out a last line without an end.
        """
        try:
            fd = os.open(source, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
        except FileNotFoundError:
            return False
        with os.fdopen(fd, "rb", buffering=0) as opened, self.new_file(path) as file:
            # What is appended meanwhile is not needed.
            left, rest = os.fstat(fd).st_size, b""
            while left > 0 and (data := opened.read(min(left, CHUNK_BYTES))):
                left -= len(data)
                data = rest + data
                end = data.rfind(b"\n") + 1 if whole_lines else len(data)
                file.write(data[:end])
                rest = data[end:]
            file.keep()
        return True

    @property
    def last_file(self) -> BackupFile:
        """The file that was copied last."""
        return self._files[-1]

    def finish(self, *, sessions: int, last_epoch: int) -> Manifest:
        """Sync everything, write the manifest, and give the directory the target's name.

        Raises:
            BackupRefused: Somebody else has made the target meanwhile.
            OSError: It could not be written.
        """
        manifest = Manifest(
            self._store,
            __version__,
            format_ms(self._began_ms),
            format_ms(self._clock.now_ms()),
            sessions,
            last_epoch,
            tuple(self._files),
        )
        sync_tree(self.directory)
        file = NewFile(self.directory / f"{NAME}{_SUFFIX}")
        try:
            file.write(manifest.encoded())
        finally:
            file.close()
        _sync(file.path)
        file.path.rename(self.directory / NAME)
        _sync(self.directory)
        try:
            # Refused when somebody has made it since, with a file in it.
            self.directory.rename(self.path)
        except OSError as error:
            if os.path.lexists(self.path):
                raise BackupRefused(f"{self.path} was made by somebody else meanwhile.") from error
            raise
        self.directory = self.path
        _sync(self.path.parent)
        return manifest


class NewFile:
    """A file of a backup while it is written."""

    def __init__(self, path: Path) -> None:
        path.parent.mkdir(mode=0o700, exist_ok=True)
        self.path = path
        self.size = 0
        self.digest = sha256()
        self.kept: tuple[str | None, str | None] | None = None
        self._fd: int | None = os.open(path, _WRITE | os.O_TRUNC, 0o600)

    def write(self, data: bytes | bytearray) -> None:
        """Append to the file."""
        assert self._fd is not None
        write_all(self._fd, data)
        self.digest.update(data)
        self.size += len(data)

    def keep(self, session_id: str | None = None, position: str | None = None) -> None:
        """Have the file stay and be listed."""
        self.kept = (session_id, position)

    def close(self) -> None:
        """Close the file. Idempotent."""
        fd, self._fd = self._fd, None
        if fd is not None:
            os.close(fd)


def write_all(fd: int, data: bytes | bytearray) -> None:
    """Write all of `data` at the file's place."""
    done = os.write(fd, data)
    while done < len(data):
        done += os.write(fd, memoryview(data)[done:])


def sync_tree(directory: Path, names: Iterable[str] | None = None) -> None:
    """Make the files in a directory, and their names, durable; or only some of them."""
    if names is not None:
        for name in names:
            _sync(directory / name)
    else:
        for where, _, files in os.walk(directory):
            for name in files:
                _sync(Path(where, name))
            _sync(Path(where))
    _sync(directory)


def _sync(path: Path) -> None:
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)
