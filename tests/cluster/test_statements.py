"""Which conditions PostgreSQL checks again after a wait, and which it does not.

A step of the model is atomic. A statement of PostgreSQL is not: under READ COMMITTED its subqueries
see the database as it was when the statement began. Only the row that it waited for is looked at
again. So what the model calls a condition has to be a condition on a row that the statement locks.

The conditions are those of the gateway's own statement (`statements`), on tables with the columns
that matter. `test_commits` and `test_lost_answers` try the whole statement.
"""

from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import psycopg
import pytest

from bamboo_gateway.storage.sql.postgresql.statements import (
    MAY_CLOSE,
    NEWER_EPOCH,
    Parts,
    group_commit,
)
from tests.support.waiting import until

DEADLINE_SECONDS = 30.0

TABLES = """\
CREATE TABLE sessions (id text PRIMARY KEY, epoch bigint, version bigint, executor text);
CREATE TABLE gone (id text PRIMARY KEY, epoch bigint);
CREATE TABLE epochs (id text PRIMARY KEY, epoch bigint, at bigint);
CREATE TABLE executors (executor text PRIMARY KEY, counter bigint);
INSERT INTO sessions VALUES ('s', 1, 7, 'x');
INSERT INTO epochs VALUES ('s', 1);
INSERT INTO executors VALUES ('x', 5);"""

DELETE = """\
WITH deleted AS (DELETE FROM sessions WHERE id = 's' AND epoch = 1 RETURNING id, epoch)
INSERT INTO gone SELECT id, epoch FROM deleted"""


@dataclass
class Race:
    """Two connections: what one does waits for the transaction of the other."""

    first: psycopg.Connection[Any]
    second: psycopg.Connection[Any]
    observer: psycopg.Connection[Any]
    threads: ThreadPoolExecutor

    def start(self, statement: str) -> "Future[int]":
        """Execute a statement on the second connection, and return once it waits for a lock."""
        pid = self.second.info.backend_pid
        changed = self.threads.submit(lambda: self.second.execute(statement).rowcount)

        def waits() -> bool:
            row = self.observer.execute("SELECT pg_blocking_pids(%s) <> '{}'", [pid]).fetchone()
            return bool(row and row[0])

        until(waits, lambda: "the second statement waits", DEADLINE_SECONDS)
        return changed

    def rows(self, statement: str) -> list[tuple[Any, ...]]:
        return self.observer.execute(statement).fetchall()


@pytest.fixture
def race(postgres_url: str) -> Iterator[Race]:
    with (
        _connected(postgres_url) as first,
        _connected(postgres_url) as second,
        _connected(postgres_url) as observer,
        ThreadPoolExecutor(1) as threads,
    ):
        observer.execute(TABLES)
        yield Race(first, second, observer, threads)


@contextmanager
def _connected(url: str) -> Iterator[psycopg.Connection[Any]]:
    with psycopg.connect(url, autocommit=True) as connection:
        connection.execute(f"SET statement_timeout = '{DEADLINE_SECONDS:.0f}s'")
        yield connection


CREATE_BY_TOMBSTONE = """\
INSERT INTO sessions SELECT 's', 1, 1, 'x'
WHERE NOT EXISTS (SELECT FROM gone WHERE id = 's' AND epoch >= 1)
ON CONFLICT (id) DO NOTHING"""

CREATE_BY_EPOCH = f"""\
WITH newer AS (
  INSERT INTO epochs AS e VALUES ('s', {{epoch}})
  ON CONFLICT (id) {NEWER_EPOCH}
  RETURNING id, epoch
)
INSERT INTO sessions SELECT id, epoch, 1, 'x' FROM newer ON CONFLICT (id) DO NOTHING"""


def test_a_tombstone_does_not_stop_a_creation_that_waits_for_the_deletion(race: Race) -> None:
    """Why the tombstone is no table that the creation's statement asks."""
    with race.first.transaction():
        race.first.execute(DELETE)
        created = race.start(CREATE_BY_TOMBSTONE)
    assert created.result(DEADLINE_SECONDS) == 1
    assert race.rows("SELECT epoch FROM sessions") == [(1,)], "it is back with its old epoch"


def test_a_row_of_epochs_stops_a_creation_that_is_sent_again(race: Race) -> None:
    """R3, R9: whether the deletion comes before, at the same time, or not at all."""
    again = CREATE_BY_EPOCH.format(epoch=1)
    assert race.second.execute(again).rowcount == 0
    with race.first.transaction():
        race.first.execute(DELETE)
        assert race.second.execute(again).rowcount == 0, "it does not even wait"
    assert race.second.execute(again).rowcount == 0
    assert race.second.execute(CREATE_BY_EPOCH.format(epoch=2)).rowcount == 1
    assert race.rows("SELECT epoch FROM sessions") == [(2,)]


def test_of_two_creations_of_one_epoch_that_meet_one_is_made(race: Race) -> None:
    """R8: two replicas have drawn the same epoch."""
    race.observer.execute("DELETE FROM sessions")
    with race.first.transaction():
        assert race.first.execute(CREATE_BY_EPOCH.format(epoch=2)).rowcount == 1
        other = race.start(CREATE_BY_EPOCH.format(epoch=2))
    assert other.result(DEADLINE_SECONDS) == 0


CLOSE = f"""\
WITH unit AS (SELECT 's' AS id, 'x' AS closes, 5 AS judged),
locked AS (
  SELECT s.id FROM unit u JOIN sessions s ON s.id = u.id WHERE s.epoch = 1 AND s.version = 7
{MAY_CLOSE}
  FOR NO KEY UPDATE OF s {{or_skip}}
)
UPDATE sessions s SET version = s.version + 1, executor = NULL FROM locked l WHERE s.id = l.id"""
RENEW = "UPDATE executors SET counter = counter + 1 WHERE executor = 'x'"


def test_a_close_that_waits_does_not_see_that_the_executor_renewed_meanwhile(race: Race) -> None:
    """Why closes leave out sessions that are locked."""
    with race.first.transaction(force_rollback=True):
        race.first.execute("SELECT FROM sessions WHERE id = 's' FOR UPDATE")
        closed = race.start(CLOSE.format(or_skip=""))
        race.observer.execute(RENEW)
    assert closed.result(DEADLINE_SECONDS) == 1, "closed, by a counter that stood no more"


def test_a_close_that_leaves_out_what_is_locked_sees_each_renewal(race: Race) -> None:
    close = CLOSE.format(or_skip="SKIP LOCKED")
    with race.first.transaction(force_rollback=True):
        race.first.execute("SELECT FROM sessions WHERE id = 's' FOR UPDATE")
        assert race.second.execute(close).rowcount == 0
        race.observer.execute(RENEW)
    assert race.second.execute(close).rowcount == 0


@pytest.mark.parametrize("parts", [Parts(closes=True), Parts(heads=True, closes=True)])
def test_the_statement_of_the_gateway_leaves_out_what_is_locked_when_it_closes(parts: Parts):
    assert "FOR NO KEY UPDATE OF s SKIP LOCKED" in group_commit(parts)
    with pytest.raises(AssertionError):
        group_commit(parts, waits=True)


REMOVE_ROW = """\
DELETE FROM executors e WHERE e.executor = 'x' AND e.counter = 5
  AND NOT EXISTS (SELECT FROM sessions s WHERE s.executor = e.executor)"""
START = "UPDATE sessions SET version = version + 1, executor = 'x' WHERE id = 's'"


@pytest.mark.parametrize("moves", [True, False])
def test_a_row_of_an_executor_stays_when_its_start_moves_the_counter(
    race: Race, *, moves: bool
) -> None:
    """With a lock of that row alone, the executor loses it while it has a run."""
    race.observer.execute("UPDATE sessions SET executor = NULL")
    with race.first.transaction():
        has_row = RENEW if moves else "SELECT FROM executors WHERE executor = 'x' FOR KEY SHARE"
        assert race.first.execute(has_row).rowcount == 1
        race.first.execute(START)
        removed = race.start(REMOVE_ROW)
    assert removed.result(DEADLINE_SECONDS) == (0 if moves else 1)
