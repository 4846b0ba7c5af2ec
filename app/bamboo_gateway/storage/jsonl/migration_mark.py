"""MIGRATION: the file that a data directory has while `bamboo migrate data` copies into it.

It names where the sessions come from. It is written before the first session, and removed after the
last one is durable and everything was compared. A gateway does not open a directory that has it.
"""

import os
from contextlib import suppress

from bamboo_gateway.domain import codec
from bamboo_gateway.storage.file_system import FileSystem
from bamboo_gateway.storage.jsonl.paths import Paths
from bamboo_gateway.storage.migration.unfinished import check_target, unfinished


class MigrationMark:
    """The mark of one data directory; used while its lock is held."""

    def __init__(self, fs: FileSystem, paths: Paths) -> None:
        self._fs = fs
        self._paths = paths

    def check_absent(self) -> None:
        """Refuse a directory that has the mark.

        Raises:
            StoreUnusable: It has.
        """
        if self._fs.size(self._paths.migration) is not None:
            raise unfinished(f"The data directory {self._paths.root}", self._origin())

    def check_vacant(self, origin: str) -> None:
        """Refuse a directory that has sessions and not the mark of this migration; change nothing.

        A session that is in the journal alone is not seen.

        Raises:
            StoreUnusable: It has.
        """
        paths = self._paths
        sessions = sum(len(list(path.glob("*.*"))) for path in (paths.events, paths.archive))
        self._check(origin, sessions)

    def set(self, origin: str, sessions: int) -> None:
        """Mark the directory, durably.

        Raises:
            StoreUnusable: It has another mark, or sessions without a mark.
        """
        fs, path = self._fs, self._paths.migration
        if self._check(origin, sessions):
            return
        aside = self._paths.aside / "migration"
        fd = fs.open(aside, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
        try:
            fs.pwrite(fd, codec.encode({"from": origin}) + b"\n", 0)
            fs.sync(fd)
        finally:
            fs.close(fd)
        fs.rename(aside, path)
        fs.sync_directory(self._paths.root)

    def remove(self) -> None:
        """Remove the mark, durably."""
        self._fs.unlink(self._paths.migration)
        self._fs.sync_directory(self._paths.root)

    def _check(self, origin: str, sessions: int) -> bool:
        """Refuse another mark, or sessions without one. Return whether there is a mark."""
        known = self._origin() if self._fs.size(self._paths.migration) is not None else None
        check_target(f"The data directory {self._paths.root}", origin, known, sessions)
        return known is not None

    def _origin(self) -> str:
        with suppress(ValueError, TypeError, KeyError):
            return str(codec.decode(self._fs.read(self._paths.migration) or b"")["from"])
        return "an unknown place"
