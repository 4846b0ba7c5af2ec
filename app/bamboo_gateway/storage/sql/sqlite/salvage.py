"""What can be read of a database with damaged pages, copied row by row into a new one.

A table is read from both ends: each time up to the first page that cannot be read. The old file
stays in `quarantine/`. Sessions that lost rows are found by the check that follows.
"""

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any, cast

import apsw

from bamboo_gateway.domain.clock import Clock
from bamboo_gateway.storage.index.sqlite import open_database
from bamboo_gateway.storage.sql import tables
from bamboo_gateway.storage.sql.sqlite import schema
from bamboo_gateway.storage.sql.sqlite.database import create_file, give_new_epochs

_SUFFIXES = ("-wal", "-shm")


def quarantine_of(path: Path) -> Path:
    """Return the directory for what cannot be read; create it."""
    directory = path.parent / "quarantine"
    directory.mkdir(mode=0o700, exist_ok=True)
    return directory


def salvage(path: Path, clock: Clock) -> str:
    """Replace a damaged database by a copy of what can be read of it; return a summary."""
    made = path.with_name(path.name + "-new")
    _remove(made)
    create_file(made)
    old = open_database(path, read_only=True)
    new = open_database(made)
    try:
        schema.create(new)
        new.execute("BEGIN")
        new.execute("DELETE FROM meta")
        count = 0
        torn: set[int] = set()
        # Those with a session's rows come last: they are copied session by session.
        for table in sorted(
            tables.events.metadata.sorted_tables, key=lambda table: table.name in _PER_SESSION
        ):
            if table.name in _MADE_AGAIN:
                continue
            names = [column.name for column in table.columns]
            order = [column.name for column in table.primary_key.columns]
            if table.name in _PER_SESSION:
                for (key,) in new.execute("SELECT key FROM sessions").fetchall():
                    key = cast(int, key)
                    copied, is_whole = _copy(old, new, table.name, names, order, key)
                    count += copied
                    if not is_whole:
                        torn.add(key)
            else:
                count += _copy(old, new, table.name, names, order)[0]
        new.execute(
            "INSERT OR IGNORE INTO meta (name, number) VALUES ('last_epoch', 0), ('fence', 0)"
        )
        new.execute(_SEARCH_AGAIN)
        # Clients that know the lost events load these sessions again (R4); a new feed begins.
        give_new_epochs(new, clock.now_ms(), torn)
        new.execute("COMMIT")
        new.wal_checkpoint(mode=apsw.SQLITE_CHECKPOINT_TRUNCATE)
    finally:
        old.close()
        new.close()
    kept = quarantine_of(path) / f"{path.name}-{clock.now_ms()}"
    for suffix in ("", *_SUFFIXES):
        source = path.with_name(path.name + suffix)
        if source.exists():
            source.replace(kept.with_name(kept.name + suffix))
    made.replace(path)
    _remove(made)
    _sync(path.parent)
    return (
        f"{count} rows were copied into a new file, the old one is {kept.parent.name}/{kept.name}"
    )


# What is searched is made again from the messages.
_MADE_AGAIN = ("search_messages", "unsearched")
_SEARCH_AGAIN = (
    "INSERT INTO unsearched (session_key, seq) SELECT session_key, seq FROM marks WHERE kind = 1"
)
_PER_SESSION = ("events", "marks", "notes", "archives")


def _copy(
    old: apsw.Connection,
    new: apsw.Connection,
    table: str,
    names: list[str],
    order: list[str],
    session_key: int | None = None,
) -> tuple[int, bool]:
    """Copy the rows that can be read; return how many, and whether these are all."""
    columns = ", ".join(f'"{name}"' for name in names)
    insert = (
        f"INSERT OR IGNORE INTO {table} ({columns}) "  # noqa: S608 - names of ours
        f"VALUES ({', '.join('?' * len(names))})"
    )
    where = "" if session_key is None else "WHERE session_key = ?"
    values = () if session_key is None else (session_key,)
    count = 0
    is_whole = False
    for direction in ("ASC", "DESC"):
        ordered = ", ".join(f'"{name}" {direction}' for name in order)
        text = f"SELECT {columns} FROM {table} {where} ORDER BY {ordered}"  # noqa: S608
        for row in _readable(old, text, values):
            if row is None:
                is_whole = True
                break
            new.execute(insert, row)
            count += new.changes()
        if is_whole:
            break
    return count, is_whole


def _readable(connection: apsw.Connection, text: str, values: tuple[Any, ...]) -> Iterator[Any]:
    """Return the rows up to the first that cannot be read; None at the end of all of them."""
    try:
        yield from connection.execute(text, values)
    except apsw.CorruptError:
        return
    yield None


def _remove(path: Path) -> None:
    for suffix in ("", *_SUFFIXES):
        path.with_name(path.name + suffix).unlink(missing_ok=True)


def _sync(directory: Path) -> None:
    fd = os.open(directory, os.O_RDONLY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)
