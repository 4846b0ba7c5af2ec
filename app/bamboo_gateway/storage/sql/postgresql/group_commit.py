"""Making commits durable, whatever happens to the statement, the connection or the server.

The outcome of a statement whose connection breaks is not known: it may have been committed before
the answer was lost. Nobody gets an answer then until the database has said what happened: the same
commits are sent again, each with its expectation, and one that is refused is looked for by its id.
What is found says one of three things:

* its rows are there: it is stored;
* something else is in its place: it is not stored, and never will be;
* neither, since the session was deleted, packed or given another epoch meanwhile: nobody can know.
  That is answered with `StorageFailed`, and nobody decides such a commit again: it might be done
  twice.
"""

from collections.abc import Callable, Sequence
from typing import Final, Protocol

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
from bamboo_gateway.storage.sql.postgresql.history import History
from bamboo_gateway.storage.sql.postgresql.statements import (
    REASON,
    Parts,
    Reason,
    group_commit,
    parameters,
    reason_parameters,
)
from bamboo_gateway.storage.sql.prepared import PreparedCommit, built_on_refused

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


class ExecutorView(Protocol):
    """What commits have to know of this process and of others; used on any thread."""

    @property
    def executor(self) -> str:
        """The id of this process."""

    @property
    def slot(self) -> int:
        """The slot of this process (`executors.slot`)."""

    def judged(self, executor: str) -> int | None:
        """Return the counter by which an executor was taken for dead.

        `JUDGED_ROWLESS`: it has no row. None: it is not dead.
        """

    def renew_now(self) -> None:
        """Look at once whether this process still has its row: a commit has found none."""


class GroupCommit:
    """Commits batches, on any thread; the commits of one session in their order."""

    def __init__(self, connections: Connections, executors: ExecutorView, history: History) -> None:
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
        refused: set[str] = set()
        for places in _rounds(batch):
            units: list[PreparedCommit] = []
            sent: list[int] = []
            for place in places:
                unit = self._with_judgement(batch[place])
                if unit is None:
                    answers[place] = _alive(batch[place].commit.first_seq - 1)
                elif unit.version is not None and unit.commit.session_id in refused:
                    answers[place] = built_on_refused(unit.commit)
                else:
                    units.append(unit)
                    sent.append(place)
            found = self._commit(units, make_room) if units else []
            for place, answer in zip(sent, found, strict=True):
                answers[place] = answer
            refused |= {batch[place].commit.session_id for place in places if answers[place]}
        return answers

    def append_locked(self, connection: Driver, unit: PreparedCommit) -> Answer:
        """Commit to a session that the connection's transaction has locked, and end it.

        Args:
            connection: A connection of `Connections.lend`, in a transaction.
            unit: The commit.

        Raises:
            Lost: Give the commit to `find_out`, without the connection.
            psycopg.Error: It is not stored. The caller rolls back.
        """
        judged = self._with_judgement(unit)
        if judged is None:
            return _alive(unit.commit.first_seq - 1)
        try:
            if self._execute(connection, [judged], waits=False):
                connection.execute("COMMIT")
                return None
            [reason] = _reasons(connection, [judged])
        except psycopg.Error as error:
            if is_lost(error):
                self._connections.suspect()
                raise Lost from error
            raise
        return self._answer(judged, reason, is_again=False)

    def find_out(self, unit: PreparedCommit) -> Answer:
        """Return the answer to a commit of `append_locked` that was lost."""
        self.unknown_outcomes += 1
        try:
            return self._settle([unit], is_sent=True)[0]
        except psycopg.Error as error:
            return translated(error)
        except BambooError as error:
            return error

    def _with_judgement(self, unit: PreparedCommit) -> PreparedCommit | None:
        """Add the counter by which the executor was taken for dead; None if it is not dead."""
        if unit.commit.closes is None:
            return unit
        counter = self._executors.judged(unit.commit.closes)
        return None if counter is None else unit._replace(judged=counter)

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

    def _settle(self, units: Sequence[PreparedCommit], *, is_sent: bool = False) -> list[Answer]:
        """Send units until their outcome is known.

        Args:
            units: The commits.
            is_sent: Whether they were sent before, and the answer is lost.

        Raises:
            psycopg.Error: The server refused the statement, and nothing of it is stored.
            BambooError: Nothing of it was sent.
        """
        repeats = 0
        while True:
            if is_sent and not self._connections.until_answers():
                raise StorageFailed(
                    "The database went away while it stored this: whether it is stored is unknown."
                )
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
                        answer = self._answer(unit, row, is_again=is_again)
                        # What ends the run of a dead executor is tried again later anyway.
                        if answer is LOCKED and (is_again or unit.commit.closes is None):
                            answer = self._send_alone(connection, unit, is_again=is_again)
                        answers[place] = answer
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
            waits = unit.commit.closes is None
            if not waits:
                # The statement must not wait itself (`statements`).
                connection.execute(_LOCK, [unit.commit.session_id])
            applied = self._execute(connection, [unit], waits=waits)
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
        answer = self._answer(unit, row, is_again=is_again)
        if answer is LOCKED and not self._history.is_followed(connection):
            # The watcher gives every session a new epoch before anything is committed.
            self._connections.suspect()
            return _REPLACED
        return answer

    def _answer(self, unit: PreparedCommit, reason: Reason, *, is_again: bool) -> Answer:
        answer = _answer_again(unit, reason) if is_again else _answer(unit, reason)
        if answer is _ROWLESS:
            self._executors.renew_now()
        return answer

    def _execute(
        self, connection: Driver, units: Sequence[PreparedCommit], *, waits: bool
    ) -> set[int]:
        parts = Parts.of(units)
        cursor = connection.cursor(binary=True)
        found = parameters(units, parts, self._executors.slot, self._history.timeline)
        cursor.execute(group_commit(parts, waits=waits), found)
        return {row[0] for row in cursor}


_LOCK: Final = "SELECT FROM sessions WHERE id = %s FOR NO KEY UPDATE"
LOCKED: Final = Unavailable(
    "The session is being changed by somebody else. Retry in a moment.",
    retry_after_seconds=RETRY_SECONDS,
)
"""The answer to a commit whose session somebody else has locked for too long."""
_ROWLESS: Final = Unavailable(
    "The other gateway processes have taken this one for dead, so it begins anew. Retry in a "
    "moment.",
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


def _reasons(connection: Driver, units: Sequence[PreparedCommit]) -> list[Reason]:
    cursor = connection.cursor(binary=True)
    found = cursor.execute(REASON, reason_parameters(units)).fetchall()
    return [Reason(*row) for row in found]


def _answer(unit: PreparedCommit, found: Reason) -> Answer:
    """Return the answer to a commit that did not apply; `LOCKED` if it should have applied."""
    commit = unit.commit
    if commit.create:
        if found.epoch is not None:
            return Conflict("The session exists.", head=found.seq)
        if found.used_epoch is not None and found.used_epoch >= commit.epoch:
            return Conflict("The session was created and deleted meanwhile.", head=None)
    elif found.epoch != commit.epoch:
        return Conflict("There is no such session of that epoch.", head=None)
    elif found.is_packed:
        return Conflict("The session is packed, so nothing is appended.", head=found.seq)
    elif found.seq != commit.first_seq - 1:
        return Conflict("The head has moved.", head=found.seq)
    elif unit.version is not None and found.version != unit.version:
        return Conflict("The session has changed.", head=found.seq)
    if not found.may_start:
        return _ROWLESS
    if not found.may_close:
        return _alive(commit.first_seq - 1)
    return LOCKED


def _answer_again(unit: PreparedCommit, found: Reason) -> Answer:
    """Return the answer to a commit that was sent before, when it does not apply now."""
    if found.is_stored:
        return None
    answer = _answer(unit, found)
    if isinstance(answer, Conflict) and not _is_never_stored(unit, found):
        return _unknown()
    return answer


def _is_never_stored(unit: PreparedCommit, found: Reason) -> bool:
    """Return whether a commit that is refused now, and has no rows, was never stored either."""
    commit = unit.commit
    if found.epoch is None:
        # Who creates a session leaves the epoch, also when it is deleted.
        return commit.create and (found.used_epoch is None or found.used_epoch < commit.epoch)
    if found.epoch != commit.epoch:
        # A creation of a later epoch than this one's would have been refused.
        return commit.create and found.epoch < commit.epoch
    if unit.notes:
        # Notes are never removed.
        return True
    if commit.create or found.is_replaced:
        return found.is_replaced
    # Events may be removed, and a packed log does not have their commits. But seq never goes back.
    assert found.seq is not None
    return found.seq < unit.last_seq


def _unknown() -> StorageFailed:
    return StorageFailed(
        "The database went away while it stored this, and the session has changed since: whether "
        "it is stored is unknown."
    )


def _alive(head: int) -> Conflict:
    return Conflict("The process that executes the run is alive.", head=head)
