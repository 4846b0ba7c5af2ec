"""Copies the values into a backup while a gateway writes them."""

import errno
import os
from contextlib import closing
from pathlib import Path
from typing import Any

import apsw

from bamboo_gateway.storage.backup.target import BackupTarget
from bamboo_gateway.storage.base import StoreUnusable
from bamboo_gateway.storage.index.sqlite import open_database


def copy_values(path: Path, target: BackupTarget) -> None:
    """Copy one snapshot of the values, if there are any, and check the copy.

    Raises:
        StoreUnusable: The file is damaged.
        OSError: The copy cannot be written.
    """
    if not path.exists():
        return
    try:
        with (
            closing(open_database(path, read_only=True)) as source,
            target.adopting(path.name) as copy,
        ):
            _copy(source, copy)
    except apsw.FullError as error:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(target.path)) from error
    except apsw.Error as error:
        raise _unusable(path, str(error)) from error


def _copy(source: apsw.Connection, copy: Path) -> None:
    flags = apsw.SQLITE_OPEN_READWRITE | apsw.SQLITE_OPEN_CREATE | apsw.SQLITE_OPEN_NOFOLLOW
    with closing(apsw.Connection(str(copy), flags=flags)) as made:
        with made.backup("main", source, "main") as pages:
            pages.step(-1)
        # One file: nothing of it is in a WAL.
        made.pragma("journal_mode", "delete")
        found: Any = made.execute("PRAGMA integrity_check(1)").get
    if found != "ok":
        raise _unusable(copy, " ".join(str(found).split()))


def _unusable(path: Path, why: str) -> StoreUnusable:
    return StoreUnusable(
        f"{path.name} cannot be copied: {why}. Stop the gateway and run `bamboo doctor --repair`."
    )
