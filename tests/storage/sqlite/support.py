"""Stores over one SQLite file, for tests that break it."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import apsw

from bamboo_gateway.storage.reports import Finding
from bamboo_gateway.storage.sql.sqlite.database import SqliteDatabase
from bamboo_gateway.storage.sql.sqlite.doctor import check
from bamboo_gateway.storage.sql.store import SqlStore
from tests.storage.writing import StepClock, everything


def make(path: Path, *, durability: str = "fsync", interval: float = 3600) -> SqlStore:
    clock = StepClock()
    database = SqliteDatabase(path, clock, durability=durability)
    return SqlStore(database, clock, checkpoint_interval_seconds=interval)


@asynccontextmanager
async def opened(path: Path, *, durability: str = "fsync") -> AsyncIterator[SqlStore]:
    store = make(path, durability=durability)
    await store.open()
    try:
        yield store
    finally:
        await store.aclose()


async def bodies(store: SqlStore, session_id: str) -> list[bytes]:
    """All events of a session; none when there is no such session."""
    if await store.load(session_id) is None:
        return []
    return [record.body for record in await everything(store, session_id)]


def doctor(path: Path, *, repair: bool = False, new_epochs: bool = False) -> list[Finding]:
    return check(path, StepClock(), repair=repair, new_epochs=new_epochs)


def page_of(path: Path, table: str, number: int = 0) -> int:
    """Return a page (from 1) that has rows of a table, and nothing else."""
    connection = apsw.Connection(str(path), flags=apsw.SQLITE_OPEN_READONLY)
    try:
        pages = connection.execute(
            "SELECT pageno FROM dbstat WHERE name = ? AND pagetype = 'leaf' ORDER BY pageno",
            (table,),
        ).fetchall()
    finally:
        connection.close()
    page = pages[number][0]
    assert isinstance(page, int)
    return page


def overwrite_page(path: Path, page: int, content: bytes = bytes(4096)) -> None:
    with path.open("r+b") as file:
        file.seek((page - 1) * 4096)
        file.write(content)
