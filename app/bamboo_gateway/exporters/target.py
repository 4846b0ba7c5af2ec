"""The directory that exports are written to; each file appears whole or not at all."""

import errno
import os
import re
import secrets
import shutil
from collections.abc import AsyncIterator, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Final

from anyio import to_thread

from bamboo_gateway.domain.errors import InvalidInput, StorageFailed, StorageFull

_PART: Final = re.compile(r"[A-Za-z0-9_][A-Za-z0-9 ._-]{0,127}")
_PARTS_MAX: Final = 8
"""The most folders of a name: clients choose names, and each folder makes a directory."""
_FULL: Final = (errno.ENOSPC, errno.EDQUOT)
_NO_PATH: Final = (errno.ELOOP, errno.ENOTDIR, errno.EISDIR, errno.ENAMETOOLONG)
"""Errors of names that cannot be used: a link or a file on the path, a folder at its end."""


class ExportDirectory:
    """Writes files below `root` and nowhere else; it follows no links.

    Args:
        root: The directory.
        within: Plain names of folders below it; names of files are relative to these.
    """

    def __init__(self, root: Path, within: Sequence[str] = ()) -> None:
        self._root = root
        self._within = within

    async def write(self, name: str, chunks: AsyncIterator[bytes]) -> int:
        """Write a file; it replaces a file of the same name when it is complete.

        Args:
            name: The path below the root: `reports/a.md`.
            chunks: The content.

        Returns:
            The size in bytes.

        Raises:
            InvalidInput: The name is no plain relative path.
            StorageFull, StorageFailed: The file could not be written; an older one is unchanged.
        """
        parts = self._parts(name)
        try:
            return await self._write(parts, chunks)
        except OSError as error:
            if error.errno in _NO_PATH:
                raise _invalid_path() from error
            if error.errno in _FULL:
                raise StorageFull("There is no space in export_dir.") from error
            raise StorageFailed("The file could not be written to export_dir.") from error

    async def remove(self, *, dry_run: bool = False) -> int:
        """Remove the folder of `within` with all files; return how many files it has.

        Raises:
            StorageFailed: Some files could not be removed.
        """
        try:
            return await to_thread.run_sync(lambda: self._remove(dry_run=dry_run))
        except (FileNotFoundError, NotADirectoryError):
            return 0
        except OSError as error:
            raise StorageFailed("Files in export_dir could not be removed.") from error

    def _remove(self, *, dry_run: bool) -> int:
        *above, name = self._within
        folder = self._open_folder(list(above), is_new=False)
        try:
            files = sum(len(names) for _, _, names, _ in os.fwalk(name, dir_fd=folder))
            if not dry_run:
                shutil.rmtree(name, dir_fd=folder)
                os.fsync(folder)
        finally:
            os.close(folder)
        return files

    async def _write(self, parts: list[str], chunks: AsyncIterator[bytes]) -> int:
        folder = await to_thread.run_sync(self._open_folder, [*self._within, *parts[:-1]])
        # Each writer has its own, since two may write the same file.
        aside = f".{secrets.token_hex(8)}.part"
        size = 0
        try:
            flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW
            file = await to_thread.run_sync(lambda: os.open(aside, flags, 0o600, dir_fd=folder))
            try:
                async for chunk in chunks:
                    await to_thread.run_sync(_write_all, file, chunk)
                    size += len(chunk)
                await to_thread.run_sync(os.fsync, file)
            finally:
                os.close(file)
            await to_thread.run_sync(
                lambda: os.rename(aside, parts[-1], src_dir_fd=folder, dst_dir_fd=folder)
            )
            await to_thread.run_sync(os.fsync, folder)
        except BaseException:
            with suppress(OSError):
                os.unlink(aside, dir_fd=folder)
            raise
        finally:
            os.close(folder)
        return size

    def _open_folder(self, parts: list[str], *, is_new: bool = True) -> int:
        if is_new:
            self._root.mkdir(mode=0o700, parents=True, exist_ok=True)
        folder = os.open(self._root, os.O_RDONLY | os.O_DIRECTORY)
        for part in parts:
            try:
                if is_new:
                    with suppress(FileExistsError):
                        os.mkdir(part, 0o700, dir_fd=folder)
                # A link that somebody planted here would lead out of the directory.
                flags = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW
                inner = os.open(part, flags, dir_fd=folder)
            finally:
                os.close(folder)
            folder = inner
        return folder

    def _parts(self, name: str) -> list[str]:
        parts = name.split("/")
        if len(parts) > _PARTS_MAX or not all(_PART.fullmatch(part) for part in parts):
            raise _invalid_path()
        return parts


def _invalid_path() -> InvalidInput:
    return InvalidInput(
        "`path` must be a relative path below export_dir, like reports/a.md.",
        code="invalid-path",
        errors=[{"loc": ["body", "path"], "msg": "not a plain relative path"}],
    )


def _write_all(file: int, data: bytes) -> None:
    view = memoryview(data)
    while view:
        view = view[os.write(file, view) :]
