"""Marks a data directory while a backup is restored into it, so that no store opens a part."""

import os
from pathlib import Path
from typing import Final

from bamboo_gateway.storage.base import StoreUnusable

NAME: Final = "RESTORE-UNFINISHED"
_TEXT: Final = (
    b"A backup is being restored into this directory, or a restore was killed.\n"
    b"Run `bamboo restore` again: it begins anew. Nothing in here is whole.\n"
)


def mark(directory: Path) -> Path:
    """Mark a directory durably, before the first file is written; return the mark."""
    path = directory / NAME
    fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
    try:
        os.write(fd, _TEXT)
        os.fsync(fd)
    finally:
        os.close(fd)
    return path


def is_marked(directory: Path) -> bool:
    """Return whether a restore into this directory has begun and not ended."""
    return os.path.lexists(directory / NAME)


def check_whole(directory: Path) -> None:
    """Refuse a directory that a restore has begun to fill.

    Raises:
        StoreUnusable: A restore has not ended there.
    """
    if is_marked(directory):
        raise StoreUnusable(
            f"A restore into {directory} was not finished, so the sessions in it are not whole. "
            "Run `bamboo restore` again."
        )
