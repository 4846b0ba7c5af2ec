"""A VFS of SQLite whose calls fail on purpose, and images of a database as a crash leaves it."""

import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import apsw
from typing_extensions import override

OPERATIONS = ("write", "sync", "truncate")
_NAME = "bamboo-faults"
_BASE = "unix"


class Faults(apsw.VFS):
    """Count writes, syncs and truncations; fail those that `should_fail` selects.

    `should_fail(number, operation, file)` returns an exception to raise, or None.
    """

    def __init__(self) -> None:
        self.should_fail: Callable[[int, str, str], apsw.Error | None] = lambda *_: None
        self.calls = 0
        super().__init__(_NAME, _BASE, makedefault=True)

    def count(self, operation: str, file: str) -> None:
        self.calls += 1
        error = self.should_fail(self.calls, operation, file)
        if error is not None:
            raise error

    @override
    def xOpen(self, name: Any, flags: list[int]) -> "_File":
        return _File(self, name, flags)


class _File(apsw.VFSFile):
    def __init__(self, vfs: Faults, name: Any, flags: list[int]) -> None:
        self._vfs = vfs
        path = name.filename() if isinstance(name, apsw.URIFilename) else name
        self._file = Path(path).name if path else "temporary"
        super().__init__(_BASE, name, flags)

    @override
    def xWrite(self, data: bytes, offset: int) -> None:
        try:
            self._vfs.count("write", self._file)
        except apsw.Error:
            # Half of it arrives, as half-done writes do.
            super().xWrite(data[: len(data) // 2], offset)
            raise
        super().xWrite(data, offset)

    @override
    def xSync(self, flags: int) -> None:
        self._vfs.count("sync", self._file)
        super().xSync(flags)

    @override
    def xTruncate(self, size: int) -> None:
        self._vfs.count("truncate", self._file)
        super().xTruncate(size)


@contextmanager
def faults() -> Iterator[Faults]:
    """Make the VFS the one that databases are opened with."""
    vfs = Faults()
    try:
        yield vfs
    finally:
        vfs.should_fail = lambda *_: None
        vfs.unregister()
        apsw.set_default_vfs(_BASE)


def image_of(database: Path, target: Path) -> Path:
    """Copy a database that is open, as `kill -9` would leave it; return the copy's path."""
    target.mkdir()
    for suffix in ("", "-wal", "-lock"):
        source = database.with_name(database.name + suffix)
        if source.exists():
            shutil.copyfile(source, target / source.name)
    return target / database.name
