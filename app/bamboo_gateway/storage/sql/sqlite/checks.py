"""What diagnostics say of a SQLite database: its version, what it promises, WAL and free pages."""

from typing import Final

import apsw

from bamboo_gateway.domain.limits import MiB
from bamboo_gateway.storage.reports import StoreCheck

_WAL_BYTES_WARN: Final = 256 * MiB
"""A checkpoint begins at 16 MiB: a larger WAL means that they fail, or that a reader stays."""


def file_checks(
    connection: apsw.Connection, *, durability: str, wal_bytes: int, checkpoint_failures: int
) -> list[StoreCheck]:
    """Ask the database what it is.

    Args:
        connection: A connection for reads.
        durability: The setting.
        wal_bytes: The size of the WAL.
        checkpoint_failures: How many checkpoints failed since the start.
    """
    pages, free = (int(connection.pragma(name)) for name in ("page_count", "freelist_count"))
    mib = pages * int(connection.pragma("page_size")) // MiB
    return [
        StoreCheck("database", "ok", f"SQLite {apsw.sqlite_lib_version()} answers"),
        StoreCheck("durability", "ok", _promise(durability)),
        StoreCheck("database size", "ok", f"{mib} MiB in {pages} pages, {free} of them free"),
        _wal(wal_bytes, checkpoint_failures),
    ]


def _promise(durability: str) -> str:
    if durability == "fsync":
        return "durability = fsync: commits are synced (synchronous = FULL)"
    return "durability = os: a power loss may take the last commits (synchronous = NORMAL)"


def _wal(size: int, failures: int) -> StoreCheck:
    seen = f"{size} bytes of write-ahead log, {failures} failed checkpoints"
    if failures or size > _WAL_BYTES_WARN:
        action = "look in the log why checkpoints fail, and whether another program reads the file"
        return StoreCheck("write-ahead log", "warn", seen, action)
    return StoreCheck("write-ahead log", "ok", seen)
