"""The bare limit of a SQLite store: the same lines, inserted in batches through the same driver.

One thread inserts all lines that wait, by one `executemany` in one synced transaction. There are no
heads, no comparison, no marks and no index but the table's own.
"""

import asyncio
from collections.abc import Callable
from pathlib import Path
from queue import Empty, SimpleQueue
from threading import Thread
from time import perf_counter

import apsw

from bamboo_gateway.storage.index.sqlite import open_database

Done = Callable[[None], None]
_INSERT = "INSERT INTO lines (session, seq, body) VALUES (?, ?, ?)"


class BareSqlite:
    """A table to which one thread appends. Call `append` on the loop; `close` waits for it."""

    def __init__(self, path: Path, loop: asyncio.AbstractEventLoop) -> None:
        self._queue: SimpleQueue[tuple[list[tuple[int, int, bytes]], Done] | None] = SimpleQueue()
        self._loop = loop
        self._connection = opened(path)
        self._thread = Thread(target=self._run)
        self._thread.start()

    def append(self, rows: list[tuple[int, int, bytes]], done: Done) -> None:
        """Take rows; `done(None)` is called on the loop once they are on the disk."""
        self._queue.put((rows, done))

    def close(self) -> None:
        """End the thread."""
        self._queue.put(None)
        self._thread.join()
        self._connection.close()

    def _run(self) -> None:
        queue, connection = self._queue, self._connection
        while (item := queue.get()) is not None:
            batch = [item]
            try:
                while (more := queue.get_nowait()) is not None:
                    batch.append(more)
            except Empty:
                more = item
            connection.execute("BEGIN IMMEDIATE")
            connection.executemany(_INSERT, [row for rows, _ in batch for row in rows])
            connection.execute("COMMIT")
            self._loop.call_soon_threadsafe(_answer, [done for _, done in batch])
            if more is None:
                return


def opened(path: Path) -> apsw.Connection:
    """Open a database as the store does, with one table of lines."""
    connection = open_database(path)
    connection.execute(
        "CREATE TABLE lines (session INTEGER, seq INTEGER, body BLOB, "
        "PRIMARY KEY (session, seq)) WITHOUT ROWID"
    )
    return connection


def commit_seconds(connection: apsw.Connection, session: int, rows: list[bytes]) -> list[float]:
    """Insert rows one by one, each in a transaction; return how long each took."""
    found = []
    for seq, body in enumerate(rows, 1):
        started = perf_counter()
        connection.execute("BEGIN IMMEDIATE")
        connection.execute(_INSERT, (session, seq, body))
        connection.execute("COMMIT")
        found.append(perf_counter() - started)
    return found


def _answer(dones: list[Done]) -> None:
    for done in dones:
        done(None)
