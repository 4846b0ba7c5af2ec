"""Reads a backup, and compares each byte with the manifest while it is read."""

import os
from collections.abc import Callable, Iterator
from hashlib import sha256
from pathlib import Path

from bamboo_gateway.storage.backup.manifest import NAME, BackupDamaged, BackupFile, Manifest
from bamboo_gateway.storage.backup.target import CHUNK_BYTES, BackupRefused

Progress = Callable[[int, int], None]


class BackupSource:
    """A backup that is read.

    Attributes:
        path: The directory.
        manifest: What it has.
    """

    def __init__(self, path: Path) -> None:
        """Read the manifest, and compare the names of all files with it.

        Raises:
            BackupRefused: There is no whole backup at this path.
            BackupDamaged: The manifest was changed, a file is missing, or there is one too many.
        """
        self.path = path.expanduser().absolute()
        try:
            data = (self.path / NAME).read_bytes()
        except (FileNotFoundError, NotADirectoryError) as error:
            raise BackupRefused(
                f"{path} is no whole backup: it has no {NAME}, which is written last."
            ) from error
        self.manifest = Manifest.parse(data)
        listed = {file.path for file in self.manifest.files}
        found = set(_files_below(self.path)) - {NAME}
        if missing := listed - found:
            raise BackupDamaged(f"{min(missing)} is missing in the backup.")
        if extra := found - listed:
            raise BackupDamaged(f"{min(extra)} does not belong to the backup.")

    def pieces(self, file: BackupFile) -> Iterator[bytes]:
        """Yield the content of a file; raise at its end if it is not what was written.

        Raises:
            BackupDamaged: The file's size or digest is another.
        """
        digest, size = sha256(), 0
        fd = os.open(self.path / file.path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
        with os.fdopen(fd, "rb", buffering=0) as opened:
            while data := opened.read(CHUNK_BYTES):
                digest.update(data)
                size += len(data)
                if size > file.bytes:
                    break
                yield data
        if size != file.bytes or digest.hexdigest() != file.sha256:
            raise BackupDamaged(f"{file.path} was changed: its size or digest does not match.")

    def verify(self, progress: Progress | None = None) -> None:
        """Read every file.

        Raises:
            BackupDamaged: One of them is not what was written.
        """
        done = 0
        for file in self.manifest.files:
            for piece in self.pieces(file):
                done += len(piece)
                if progress is not None:
                    progress(done, self.manifest.total_bytes)


def _files_below(directory: Path) -> Iterator[str]:
    """Yield the paths of everything that is no directory, also of links and sockets."""
    for where, directories, files in os.walk(directory):
        above = Path(where)
        links = [name for name in directories if (above / name).is_symlink()]
        for name in [*files, *links]:
            yield str((above / name).relative_to(directory))
