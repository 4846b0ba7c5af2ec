"""Puts the sessions of a backup into an empty data directory, each log under a new epoch.

After the backup was made, clients may have seen events that are not in it, and new events would get
the positions of those. So every log goes on under a new epoch (R3): a client with an older position
gets a reset. Bundles get one too, since an archived session may have been restored and continued.

The index is not in a backup. The first start makes it from the logs.
"""

import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

from bamboo_gateway.domain.clock import Clock
from bamboo_gateway.storage.backup import unfinished
from bamboo_gateway.storage.backup.contents import content_of
from bamboo_gateway.storage.backup.manifest import FILES, BackupDamaged, BackupFile
from bamboo_gateway.storage.backup.source import BackupSource
from bamboo_gateway.storage.backup.target import BackupRefused, sync_tree
from bamboo_gateway.storage.file_system import FileSystem
from bamboo_gateway.storage.jsonl.bundle_renewal import header_of_epoch, renew_bundle
from bamboo_gateway.storage.jsonl.lock import DirectoryLock, boot_id
from bamboo_gateway.storage.jsonl.log.log import (
    HEADER_BYTES_MAX,
    LogReplacedError,
    read_header,
)
from bamboo_gateway.storage.jsonl.log.reader import DamagedError
from bamboo_gateway.storage.jsonl.paths import Paths, file_name, root_of

# What a new file system has in its root directory.
_HARMLESS = {"lost+found"}


def restore_sessions(
    source: BackupSource,
    data_dir: Path,
    clock: Clock,
    progress: Callable[[int, int], None] | None = None,
) -> None:
    """Restore a backup into a data directory, which must be empty or not exist.

    When it fails, nothing of it stays. When it is killed, no gateway opens the directory, and the
    next restore begins anew.

    Raises:
        BackupRefused: The directory is not empty.
        StoreBusy: Another process uses the directory.
        BackupDamaged: The backup is not what was written.
        OSError: A file cannot be read or written.
    """
    restore = _Restore(FileSystem(), Paths(root_of(data_dir)), source, clock)
    restore.run(progress)


class _Restore:
    def __init__(self, fs: FileSystem, paths: Paths, source: BackupSource, clock: Clock) -> None:
        self._fs = fs
        self._paths = paths
        self._source = source
        self._epoch = max(clock.now_ms(), source.manifest.last_epoch + 1)
        self._done = 0

    def run(self, progress: Callable[[int, int], None] | None) -> None:
        paths, lock = self._paths, DirectoryLock(self._fs, self._paths)
        had_root = paths.root.exists()
        self._fs.make_directory(paths.root)
        self._check_empty()
        mark = unfinished.mark(paths.root)
        self._fs.make_directory(paths.index)
        lock.take()
        try:
            is_done = bool(lock.previous.get("clean"))
            if not is_done:
                self._fill(lock, progress)
            mark.unlink()
            self._fs.sync_directory(paths.root)
        except BaseException:
            self._remove(had_root=had_root)
            raise
        finally:
            lock.release()
        if is_done:
            # Another process has finished its restore since.
            raise BackupRefused(f"{paths.root} is not empty: it was restored already.")

    def _fill(self, lock: DirectoryLock, progress: Callable[[int, int], None] | None) -> None:
        self._clear()
        for file in self._source.manifest.files:
            self._restore(file)
            self._done += file.bytes
            if progress is not None:
                progress(self._done, self._source.manifest.total_bytes)
        sync_tree(self._paths.root)
        lock.write({**lock.owner(), "boot": boot_id(), "epoch": self._epoch, "clean": True})

    def _check_empty(self) -> None:
        root = self._paths.root
        if unfinished.is_marked(root):
            return  # everything in it is of a restore that was killed
        found = [name for name in self._fs.names(root) if name not in _HARMLESS]
        if found:
            raise BackupRefused(
                f"{root} is not empty: it has {found[0]}. Move it away, or name another data_dir."
            )

    def _clear(self) -> None:
        """Remove what a killed restore left, but for the lock and the mark."""
        paths = self._paths
        kept = {*_HARMLESS, unfinished.NAME, paths.lock.name, paths.index.name}
        for name in self._fs.names(paths.root):
            if name not in kept:
                _remove(paths.root / name)
        for name in self._fs.names(paths.index):
            _remove(paths.index / name)
        for directory in paths.directories():
            self._fs.make_directory(directory)

    def _remove(self, *, had_root: bool) -> None:
        """Remove what was restored; the mark goes last."""
        root = self._paths.root
        for name in self._fs.names(root):
            if name not in {*_HARMLESS, unfinished.NAME}:
                _remove(root / name)
        (root / unfinished.NAME).unlink(missing_ok=True)
        if not had_root:
            root.rmdir()

    def _restore(self, file: BackupFile) -> None:
        target = self._paths.root / file.path
        directory = file.path.partition("/")[0]
        if directory == "events":
            self._fs.write_pieces(target, self._renewed(file))
        elif directory == "archive":
            self._restore_bundle(file, target)
        elif (content := content_of(file)) is not None:
            target = self._paths.files / content.owner / content.digest
            self._fs.make_directory(target.parent)
            self._fs.write_pieces(target, self._source.pieces(file))
        elif directory == "quarantine" or file.path in (*FILES, self._paths.values.name):
            self._fs.write_pieces(target, self._source.pieces(file))
        else:
            raise BackupDamaged(f"The manifest names a file that no backup has: {file.path!r}.")

    def _next_epoch(self) -> int:
        self._epoch += 1
        return self._epoch

    def _renewed(self, file: BackupFile) -> Iterator[bytes]:
        """Yield the content of a log, with a new epoch in its first line."""
        pieces = self._source.pieces(file)
        first = next(pieces, b"")
        end = first.find(b"\n") + 1
        yield self._new_header(file, first[:end], self._next_epoch())
        yield first[end:]
        yield from pieces

    def _new_header(self, file: BackupFile, line: bytes, epoch: int) -> bytes:
        named = read_header(line)
        name = Path(file.path).name.partition(".jsonl")[0].removesuffix(".zst")
        if named is None or len(line) > HEADER_BYTES_MAX or file_name(named[0]) != name:
            raise BackupDamaged(f"{file.path} is no log of a session.")
        return header_of_epoch(line, epoch)

    def _restore_bundle(self, file: BackupFile, target: Path) -> None:
        """Write a bundle with the same log under a new epoch."""
        paths, fs = self._paths, self._fs
        packed, unpacked = paths.aside / "packed", paths.aside / "unpacked"
        fs.write_pieces(packed, self._source.pieces(file))
        try:
            renew_bundle(
                fs,
                packed,
                target,
                unpacked,
                self._next_epoch(),
                new_header=lambda line, epoch: self._new_header(file, line, epoch),
            )
        except (DamagedError, LogReplacedError) as error:
            raise BackupDamaged(f"{file.path} is no bundle of a session.") from error
        finally:
            fs.unlink(packed)


def _remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)
