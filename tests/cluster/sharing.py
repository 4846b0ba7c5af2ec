"""Two stores on one PostgreSQL, each with connections and a heartbeat of its own.

As far as the database can tell they are two processes.
"""

from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from threading import Event
from typing import Any

import psycopg

from bamboo_gateway.domain.errors import BambooError, Unavailable
from bamboo_gateway.storage.commits import Commit
from bamboo_gateway.storage.sql.postgresql.store import PostgresStore
from tests.storage.writing import (
    DEADLINE_SECONDS,
    T0,
    Writer,
    answer_to,
    append,
    committed,
    message,
    run_start,
)
from tests.support.postgres import execute
from tests.support.postgres_proxy import Cut, PostgresProxy
from tests.support.waiting import until_true

GROUP_COMMIT = b"unit AS MATERIALIZED"
"""Words of the statement of the group commit."""

DEAD = (
    "INSERT INTO executors (executor, counter, slot, name, started_at, touched_at)"
    " VALUES ('x', 5, 99, '{}', 0, 0) ON CONFLICT DO NOTHING"
)
"""Inserts an executor that never moves its counter."""

RUN = "SELECT run_id, executor, version FROM sessions WHERE id = 's'"


async def begun(store: PostgresStore, session_id: str = "s") -> Writer:
    """Create a session; its version is 1."""
    writer = Writer(session_id, T0)
    await committed(store, writer.commit(message("m1"), version=0))
    return writer


async def taken_up(store: PostgresStore, session_id: str = "s") -> tuple[Writer, int]:
    """Return a writer that goes on where the store is, and the version."""
    head = await store.load(session_id)
    assert head is not None
    return Writer.of(head), head.version


async def refusal(store: PostgresStore, commit: Commit) -> BambooError:
    error = await answer_to(append(store, commit))
    assert error is not None, "it is stored"
    return error


@asynccontextmanager
async def held(url: str, session_id: str = "s") -> AsyncIterator[None]:
    """Let somebody else have a session locked."""
    connection = await psycopg.AsyncConnection.connect(url)
    async with connection:
        await connection.execute("SELECT FROM sessions WHERE id = %s FOR UPDATE", [session_id])
        yield


async def waits(url: str) -> None:
    """Return once a statement waits for a lock."""

    def is_there() -> bool:
        found = execute(url, "SELECT count(*) FROM pg_locks WHERE NOT granted")
        return bool(found != [(0,)])

    await until_true(is_there, DEADLINE_SECONDS)


def started(writer: Writer, executor: str | None, **options: Any) -> Commit:
    """Return the commit that begins a run of an executor."""
    commit = writer.commit(run_start("r1"), **options)
    assert writer.head.active is not None
    assert commit.head is not None
    assert commit.head.active is not None
    writer.head.active.executor = commit.head.active.executor = executor
    return commit._replace(executor=executor)


async def abandoned(one: PostgresStore, url: str) -> tuple[Writer, int]:
    """Let a run be executed by a process that everybody takes for dead."""
    start = started(await begun(one), "x", version=1)
    error: BambooError | None = Unavailable("not yet")
    while isinstance(error, Unavailable):
        # It may be taken for dead, and removed, before its run begins.
        execute(url, DEAD)
        error = await answer_to(append(one, start))
    assert error is None
    [(counter,)] = execute(url, "SELECT counter FROM executors WHERE executor = 'x'")
    # As of the start; it may have been taken for dead before, by another counter.
    await until_true(lambda: one._keeper.heartbeat.judged("x") == counter, DEADLINE_SECONDS)
    return await taken_up(one)


@contextmanager
def cut_once(proxy: PostgresProxy, where: Cut) -> Iterator[tuple[Event, Event]]:
    """Cut the first group commit, and hold the next one.

    Yields:
        What is set when the first was cut, and what lets the next one pass.
    """
    was_cut, may_pass = Event(), Event()

    def should_cut(statement: bytes) -> Cut | None:
        if GROUP_COMMIT not in statement:
            return None
        if not was_cut.is_set():
            was_cut.set()
            return where
        may_pass.wait(DEADLINE_SECONDS)
        return None

    proxy.cut_when(should_cut)
    try:
        yield was_cut, may_pass
    finally:
        may_pass.set()
        proxy.heal()
