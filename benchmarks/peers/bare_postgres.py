"""The bare limit of a PostgreSQL store: the same lines, inserted in batches through psycopg.

One thread inserts all lines that wait, by one `executemany` in one transaction. There are no heads,
no comparison, no marks and no index but the table's own.
"""

import asyncio
from queue import Empty, SimpleQueue
from threading import Thread
from time import perf_counter
from typing import Any

import psycopg

from benchmarks.peers.bare_sqlite import Done, _answer

_INSERT = "INSERT INTO bare_lines (session, seq, body) VALUES (%s, %s, %s)"


class BarePostgres:
    """A table to which one thread appends. Call `append` on the loop; `close` waits for it."""

    def __init__(self, url: str, loop: asyncio.AbstractEventLoop) -> None:
        self._queue: SimpleQueue[tuple[list[tuple[int, int, bytes]], Done] | None] = SimpleQueue()
        self._loop = loop
        self._connection = opened(url)
        self._thread = Thread(target=self._run)
        self._thread.start()

    def append(self, rows: list[tuple[int, int, bytes]], done: Done) -> None:
        """Take rows; `done(None)` is called on the loop once they are committed."""
        self._queue.put((rows, done))

    def close(self) -> None:
        """End the thread."""
        self._queue.put(None)
        self._thread.join()
        self._connection.execute("DROP TABLE bare_lines")
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
            with connection.transaction(), connection.cursor() as cursor:
                cursor.executemany(_INSERT, [row for rows, _ in batch for row in rows])
            self._loop.call_soon_threadsafe(_answer, [done for _, done in batch])
            if more is None:
                return


def opened(url: str) -> psycopg.Connection[Any]:
    """Connect as the store does, and make a table of lines."""
    connection = psycopg.connect(url, autocommit=True, prepare_threshold=None)
    connection.execute("DROP TABLE IF EXISTS bare_lines")
    connection.execute(
        "CREATE TABLE bare_lines (session BIGINT, seq BIGINT, body BYTEA, "
        "PRIMARY KEY (session, seq))"
    )
    return connection


def commit_seconds(
    connection: psycopg.Connection[Any], session: int, rows: list[bytes]
) -> list[float]:
    """Insert rows one by one, each in a transaction; return how long each took."""
    found = []
    for seq, body in enumerate(rows, 1):
        started = perf_counter()
        connection.execute(_INSERT, (session, seq, body))
        found.append(perf_counter() - started)
    return found
