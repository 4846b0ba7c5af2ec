"""Backs a database up beside the gateway that writes it, and restores such a copy.

SQLite's backup API copies the pages of one snapshot: a read transaction stays open meanwhile, so
commits of the gateway go on and change nothing of it. Only the WAL grows until the copy is made.
"""

import errno
import fcntl
import os
import shutil
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any, Final

import apsw

from bamboo_gateway.domain.clock import Clock
from bamboo_gateway.storage.backup import unfinished
from bamboo_gateway.storage.backup.contents import content_of, copy_contents
from bamboo_gateway.storage.backup.manifest import FILES, BackupDamaged
from bamboo_gateway.storage.backup.source import BackupSource
from bamboo_gateway.storage.backup.target import BackupRefused, BackupTarget, sync_tree, write_all
from bamboo_gateway.storage.base import StoreBusy, StoreUnusable
from bamboo_gateway.storage.files.disk import files_beside
from bamboo_gateway.storage.index.sqlite import open_database, truncate_wal
from bamboo_gateway.storage.sql.sqlite import schema
from bamboo_gateway.storage.sql.sqlite.database import give_new_epochs

Progress = Callable[[int, int], None]

NAME: Final = "sessions.db"
"""The name of the database in a backup, whatever its name is outside."""

_PAGES = 1024
"""Pages copied at once (4 MiB), between two steps of the progress bar."""
_SUFFIXES = ("", "-wal", "-shm", "-journal", "-lock", "-reserve")


def copy_database(
    path: Path, target: BackupTarget, progress: Progress | None = None
) -> tuple[int, int]:
    """Copy a database, also while a gateway writes it, and check the copy.

    Returns:
        The number of sessions, and the last epoch.

    Raises:
        StoreUnusable: There is no such database, or it is damaged.
        OSError: The copy cannot be written.
    """
    if not path.is_file():
        raise StoreUnusable(f"There is no database {path}.")
    try:
        with (
            closing(open_database(path, read_only=True)) as source,
            target.adopting(NAME) as copy,
        ):
            schema.check(source, path)
            _copy(source, copy, progress)
            found = _check(copy, path)
        copy_contents(files_beside(path), target)
    except apsw.FullError as error:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(target.path)) from error
    except apsw.Error as error:
        raise StoreUnusable(f"The database {path} cannot be copied: {error}.") from error
    return found


def _copy(source: apsw.Connection, copy: Path, progress: Progress | None) -> None:
    source.execute("BEGIN")
    # The snapshot is taken by the first read.
    source.execute("SELECT count(*) FROM sqlite_schema").fetchall()
    flags = apsw.SQLITE_OPEN_READWRITE | apsw.SQLITE_OPEN_CREATE | apsw.SQLITE_OPEN_NOFOLLOW
    with closing(apsw.Connection(str(copy), flags=flags)) as made:
        with made.backup("main", source, "main") as pages:
            while not pages.done:
                pages.step(_PAGES)
                if progress is not None:
                    progress(pages.page_count - pages.remaining, pages.page_count)
        # One file: nothing of it is in a WAL.
        made.pragma("journal_mode", "delete")


def _check(copy: Path, path: Path) -> tuple[int, int]:
    """Check every page of a copy; return its sessions and its last epoch."""
    with closing(apsw.Connection(str(copy), flags=apsw.SQLITE_OPEN_READONLY)) as made:
        found: Any = made.execute("PRAGMA integrity_check(1)").get
        if found != "ok":
            raise StoreUnusable(
                f"The database {path} is damaged: {found}. Stop the gateway and run "
                "`bamboo doctor --repair`."
            )
        sessions: Any = made.execute("SELECT count(*) FROM sessions").get
        epoch: Any = made.execute("SELECT number FROM meta WHERE name = 'last_epoch'").get
    return sessions, epoch or 0


def restore_database(
    source: BackupSource, path: Path, clock: Clock, progress: Progress | None = None
) -> None:
    """Restore a backup as a new database, in which every session has a new epoch.

    The database gets its name when it is whole. Until then, the directory has the mark of a
    restore: a gateway that made an empty database there would hide that it failed.

    Raises:
        BackupRefused: There is something already.
        StoreBusy: Another process restores there.
        BackupDamaged: The backup is not what was written; nothing of it is left.
        OSError: A file cannot be read or written.
    """
    directory = path.parent
    had_directory = directory.exists()
    directory.mkdir(mode=0o700, parents=True, exist_ok=True)
    fd, is_begun = _take_mark(directory)
    mark = directory / unfinished.NAME
    try:
        if is_begun:
            _remove(path)  # of a restore that was killed
        elif there := _what_is_there(source, path):
            mark.unlink()
            raise BackupRefused(f"{there} exists already; name another data_dir.")
        try:
            _fill(source, path, clock, progress)
        except BaseException:
            _remove(path)
            mark.unlink()
            if not had_directory:
                directory.rmdir()
            raise
        mark.unlink()
        sync_tree(directory, ())
    finally:
        os.close(fd)


def _take_mark(directory: Path) -> tuple[int, bool]:
    """Mark the directory, or take over the mark of a restore that was killed.

    Returns:
        The locked mark, and whether a restore had begun before.

    Raises:
        StoreBusy: Another process restores there.
    """
    is_begun = unfinished.is_marked(directory)
    mark = directory / unfinished.NAME if is_begun else unfinished.mark(directory)
    fd = -1
    try:
        fd = os.open(mark, os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW)
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except (FileNotFoundError, BlockingIOError) as error:
        if fd >= 0:
            os.close(fd)
        raise StoreBusy(f"Another process restores into {directory}.") from error
    if not os.fstat(fd).st_nlink:
        os.close(fd)
        raise StoreBusy(f"Another process has just restored into {directory}.")
    return fd, is_begun


def _what_is_there(source: BackupSource, path: Path) -> Path | None:
    files = [path.with_name(path.name + suffix) for suffix in _SUFFIXES]
    files.append(files_beside(path))
    files += [path.with_name(one.path) for one in source.manifest.files if one.path in FILES]
    return next((file for file in files if os.path.lexists(file)), None)


def _aside(path: Path) -> Path:
    return path.with_name(f".{path.name}.restored")


def _fill(source: BackupSource, path: Path, clock: Clock, progress: Progress | None) -> None:
    aside, done = _aside(path), 0
    for file in source.manifest.files:
        if file.path == NAME:
            target = aside
        elif file.path in FILES:
            target = path.with_name(file.path)
        elif (content := content_of(file)) is not None:
            target = files_beside(path) / content.owner / content.digest
            target.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        else:
            raise BackupDamaged(f"The manifest names a file that no backup has: {file.path!r}.")
        fd = os.open(target, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        try:
            for piece in source.pieces(file):
                write_all(fd, piece)
                done += len(piece)
                if progress is not None:
                    progress(done, source.manifest.total_bytes)
            os.fsync(fd)
        finally:
            os.close(fd)
    _renew(aside, source, clock)
    if files_beside(path).is_dir():
        sync_tree(files_beside(path))
    aside.rename(path)
    sync_tree(path.parent, ())


def _renew(aside: Path, source: BackupSource, clock: Clock) -> None:
    if not aside.is_file():
        raise BackupDamaged(f"The backup has no {NAME}.")
    try:
        with closing(open_database(aside)) as connection:
            give_new_epochs(connection, max(clock.now_ms(), source.manifest.last_epoch + 1))
            truncate_wal(connection)
    except apsw.Error as error:
        raise BackupDamaged(f"{NAME} is no database of sessions: {error}.") from error


def _remove(path: Path) -> None:
    """Remove what a restore has made; there was nothing before."""
    for file in (path, _aside(path)):
        for suffix in _SUFFIXES:
            file.with_name(file.name + suffix).unlink(missing_ok=True)
    for name in FILES:
        path.with_name(name).unlink(missing_ok=True)
    shutil.rmtree(files_beside(path), ignore_errors=True)
