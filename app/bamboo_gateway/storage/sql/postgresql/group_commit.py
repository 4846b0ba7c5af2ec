"""Making commits durable, whatever happens to the statement, the connection or the server.

The outcome of a statement whose connection breaks is not known: it may have been committed before
the answer was lost. Nobody gets an answer then until the database has said what happened: the same
commits are sent again, each with its expectation, and one that is refused is looked for by its id.
"""

from collections.abc import Callable, Sequence
from typing import Any, Final

import psycopg

from bamboo_gateway.domain.errors import BambooError, Conflict, StorageFailed, Unavailable
from bamboo_gateway.storage.sql.postgresql.connections import Connections, Driver
from bamboo_gateway.storage.sql.postgresql.errors import (
    RETRY_SECONDS,
    is_about_rows,
    is_duplicate,
    is_lost,
    is_repeatable,
    translated,
)
from bamboo_gateway.storage.sql.postgresql.heartbeat import Heartbeat
from bamboo_gateway.storage.sql.postgresql.history import History
from bamboo_gateway.storage.sql.postgresql.statements import (
    REASON,
    Parts,
    group_commit,
    parameters,
    reason_parameters,
)
from bamboo_gateway.storage.sql.prepared import PreparedCommit

Answer = BambooError | None
MakeRoom = Callable[[PreparedCommit], bool]
"""Removes rows in a commit's place that an extension has not published; returns whether it did."""

# A commit whose session is locked waits for it alone. What holds the lock are short transactions.
LOCKED_WAIT_MS: Final = 5000
# How often a statement is sent again that met another transaction (a deadlock).
_REPEATS_MAX: Final = 5
_BEGIN_WAITING: Final = (
    f"BEGIN; SET LOCAL lock_timeout = {LOCKED_WAIT_MS};"
    f" SET LOCAL idle_in_transaction_session_timeout = {3 * LOCKED_WAIT_MS}"
)


class Lost(Exception):
    """The connection broke; what was sent may have been committed, or may be so later."""


class GroupCommit:
    """Commits batches; one thread uses it."""

    def __init__(self, connections: Connections, executors: Heartbeat, history: History) -> None:
        """Make it.

        Args:
            connections: The connections.
            executors: The gateway processes.
            history: Has the timeline that the server must be on.
        """
        self._connections = connections
        self._executors = executors
        self._history = history
        self.unknown_outcomes = 0

    def commit(self, batch: Sequence[PreparedCommit], make_room: MakeRoom) -> list[Answer]:
        """Return an answer for each commit, as `Database.commit`.

        Args:
            batch: The commits.
            make_room: See `MakeRoom`.
        """
        answers: list[Answer] = [None] * len(batch)
        for places in _rounds(batch):
            units = [batch[place] for place in places]
            for place, answer in zip(places, self._commit(units, make_room), strict=True):
                answers[place] = answer
        return answers

    def _commit(self, units: Sequence[PreparedCommit], make_room: MakeRoom) -> list[Answer]:
        """Commit units of different sessions."""
        try:
            return self._settle(units)
        except psycopg.Error as error:
            if not is_about_rows(error):
                failed = translated(error)
                return [failed for _ in units]
            if len(units) > 1:
                # One commit may be the reason, and the others do not depend on it (R10).
                half = len(units) // 2
                return self._commit(units[:half], make_room) + self._commit(units[half:], make_room)
            if is_duplicate(error) and make_room(units[0]):
                return self._commit(units, lambda _: False)
            return [translated(error)]
        except BambooError as error:
            return [error for _ in units]

    def _settle(self, units: Sequence[PreparedCommit]) -> list[Answer]:
        """Send units until their outcome is known.

        Raises:
            psycopg.Error: The server refused the statement, and nothing of it is stored.
            BambooError: Nothing of it was sent.
        """
        is_sent = False
        repeats = 0
        while True:
            try:
                return self._send(units, is_again=is_sent)
            except Lost:
                if not is_sent:
                    self.unknown_outcomes += 1
                is_sent = True
            except psycopg.Error as error:
                repeats += 1
                if not is_repeatable(error) or repeats > _REPEATS_MAX:
                    raise
            except BambooError:
                if not is_sent:
                    raise
                self._connections.suspect()
            if is_sent and not self._connections.until_answers():
                raise StorageFailed(
                    "The database went away while it stored this: whether it is stored is unknown."
                )

    def _send(self, units: Sequence[PreparedCommit], *, is_again: bool) -> list[Answer]:
        with self._connections.lend() as connection:
            try:
                applied = self._execute(connection, units, waits=False)
                answers: list[Answer] = [None] * len(units)
                rest = [place for place in range(len(units)) if place not in applied]
                if rest:
                    reasons = _reasons(connection, [units[place] for place in rest])
                    for place, row in zip(rest, reasons, strict=True):
                        unit = units[place]
                        answer = _answer(unit, row, is_again=is_again)
                        answers[place] = (
                            self._send_alone(connection, unit, is_again=is_again)
                            if answer is _LOCKED
                            else answer
                        )
                return answers
            except psycopg.Error as error:
                if is_lost(error):
                    self._connections.suspect()
                    raise Lost from error
                raise

    def _send_alone(self, connection: Driver, unit: PreparedCommit, *, is_again: bool) -> Answer:
        """Send a commit whose session somebody else has locked, and wait for that."""
        try:
            connection.execute(_BEGIN_WAITING)
            applied = self._execute(connection, [unit], waits=True)
            connection.execute("COMMIT")
        except psycopg.Error as error:
            if is_lost(error):
                raise
            connection.rollback()
            if is_again:
                # What holds the lock may be the statement whose answer was lost: the server
                # executes it to its end though nobody is there any more.
                raise Lost from error
            return translated(error)
        if applied:
            return None
        [row] = _reasons(connection, [unit])
        answer = _answer(unit, row, is_again=is_again)
        if answer is not _LOCKED:
            return answer
        if not self._history.is_followed(connection):
            # The watcher gives every session a new epoch before anything is committed.
            self._connections.suspect()
            return _REPLACED
        return _LOCKED

    def _execute(
        self, connection: Driver, units: Sequence[PreparedCommit], *, waits: bool
    ) -> set[int]:
        parts = Parts.of(units)
        cursor = connection.cursor(binary=True)
        found = parameters(units, parts, self._history.timeline)
        cursor.execute(group_commit(parts, waits=waits), found)
        return {row[0] for row in cursor}


_LOCKED: Final = Unavailable(
    "The session is being changed by somebody else. Retry in a moment.",
    retry_after_seconds=RETRY_SECONDS,
)

_REPLACED: Final = Unavailable(
    "The database was replaced by another server, which may lack the last events. Retry in a "
    "moment.",
    retry_after_seconds=RETRY_SECONDS,
)


def _rounds(batch: Sequence[PreparedCommit]) -> list[list[int]]:
    """Return the places of commits, so that no two in a round are of one session."""
    rounds: list[list[int]] = []
    seen: dict[str, int] = {}
    for place, one in enumerate(batch):
        number = seen.get(one.commit.session_id, -1) + 1
        seen[one.commit.session_id] = number
        if number == len(rounds):
            rounds.append([])
        rounds[number].append(place)
    return rounds


def _reasons(connection: Driver, units: Sequence[PreparedCommit]) -> list[tuple[Any, ...]]:
    cursor = connection.cursor(binary=True)
    return cursor.execute(REASON, reason_parameters(units)).fetchall()


def _answer(unit: PreparedCommit, row: Sequence[Any], *, is_again: bool) -> Answer:
    """Return the answer to a commit that did not apply; `_LOCKED` if it should have applied."""
    epoch, seq, version, is_packed, is_stored = row
    commit = unit.commit
    if is_stored and is_again:
        return None
    if epoch is None:
        if commit.create:
            return _LOCKED
        return Conflict("There is no such session of that epoch.", head=None)
    if commit.create:
        return Conflict("The session exists.", head=seq)
    if epoch != commit.epoch:
        return Conflict("There is no such session of that epoch.", head=None)
    if is_packed:
        return Conflict("The session is packed, so nothing is appended.", head=seq)
    if seq != commit.first_seq - 1:
        return Conflict("The head has moved.", head=seq)
    if unit.version is not None and version != unit.version:
        return Conflict("The session has changed.", head=seq)
    return _LOCKED
