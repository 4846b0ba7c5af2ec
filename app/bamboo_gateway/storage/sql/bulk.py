"""Many rows of one session at once: a creation or an extension, invisible until it is published.

The rows are written in short transactions, between which commits go on (R7). A creation writes
under a key that no session has yet; an extension writes under the session's own key, behind its
seq. A commit to the session that comes in between needs the place: it removes the rows and the
claim, and the extension is refused, as it would be anyway.
"""

from collections.abc import Awaitable, Callable, Iterator, Sequence
from contextlib import suppress
from typing import Any

import anyio
from typing_extensions import override

from bamboo_gateway.domain.clock import Clock
from bamboo_gateway.domain.errors import Conflict, Unavailable
from bamboo_gateway.domain.sessions import SessionHead
from bamboo_gateway.storage.base import SessionCreation
from bamboo_gateway.storage.commits import Event, Note
from bamboo_gateway.storage.sql import leftovers, rows
from bamboo_gateway.storage.sql.change_feed import take_number
from bamboo_gateway.storage.sql.database import Connection, Database
from bamboo_gateway.storage.sql.prepared import (
    EventRow,
    MarkRow,
    NoteRow,
    event_rows,
    head_row,
    note_rows,
    size_of,
)

Run = Callable[[Callable[[], None]], Awaitable[None]]
"""Run a function on the threads for bulk work; raise `Unavailable` when the store is closed."""


class BulkWrite(SessionCreation):
    """A creation, or an extension behind the seq `after`."""

    def __init__(
        self,
        database: Database,
        clock: Clock,
        run: Run,
        drained: Callable[[], Awaitable[None]],
        session_id: str,
        epoch: int,
        after: int | None = None,
    ) -> None:
        """Make one; nothing is written yet.

        Args:
            database: The database.
            clock: The clock that the claim's times are of.
            run: See `Run`.
            drained: Returns when all commits given before have their answers.
            session_id: The session.
            epoch: Its epoch.
            after: The seq of the session that is extended; None for a creation.
        """
        self._database = database
        self._clock = clock
        self._run = run
        self._drained = drained
        self._id = session_id
        self._epoch = epoch
        self._after = after
        self._claim: int | None = None
        self._key = 0
        self._version = 1
        self._notes = 0
        self._bytes = self._delta_bytes = 0
        self._is_over = False

    @override
    async def write(self, events: Sequence[Event], notes: Sequence[Note] = ()) -> None:
        assert not self._is_over, "it has been published or discarded"
        await self._run(lambda: self._write(events, notes))

    def _write(self, events: Sequence[Event], notes: Sequence[Note]) -> None:
        made, marks, delta_bytes = event_rows(events)
        noted = note_rows(notes, self._notes)
        self._notes += len(noted)
        self._bytes += size_of(made) + size_of(noted)
        self._delta_bytes += delta_bytes
        self._begin()
        for some in _portions(made, marks, noted):
            with self._database.writing(durable=False) as connection:
                self._check(connection)
                rows.insert_rows(connection, self._key, self._version, *some)

    def _begin(self) -> None:
        """Claim the work, before its first row."""
        if self._claim is not None:
            return
        now_ms = self._clock.now_ms()
        if self._after is None:
            with self._database.writing(durable=False) as connection:
                self._claim = leftovers.begin(connection, "creation", now_ms)
            self._key = -self._claim
            return
        # One that was begun before and not published gives way: its rows have the same places.
        with self._database.writing(durable=False) as connection:
            session = self._lock(connection)
            rivals = leftovers.rivals(connection, "extension", session.key)
        for rival in rivals:
            leftovers.evict(self._database, rival)
        with self._database.writing(durable=False) as connection:
            session = self._lock(connection)
            self._key, self._version = session.key, session.version + 1
            if leftovers.rivals(connection, "extension", session.key):
                raise Conflict("The session is being extended.", head=session.seq)
            self._claim = leftovers.begin(connection, "extension", now_ms, session.key)

    def _lock(self, connection: Connection) -> rows.LockedSession:
        session = rows.lock_session(connection, self._id, self._epoch)
        if session.is_packed or session.seq != self._after:
            raise Conflict("The session has been appended to.", head=session.seq)
        return session

    def _check(self, connection: Connection) -> rows.LockedSession | None:
        """Check that the rows may still be written, and lock what is extended."""
        session = None if self._after is None else self._lock(connection)
        assert self._claim is not None
        is_claimed = leftovers.still_claimed(connection, self._claim, self._clock.now_ms())
        if not is_claimed or (session is not None and session.version != self._version - 1):
            head = None if session is None else session.seq
            raise Conflict("Another write to the session came in between.", head=head)
        return session

    @override
    async def publish(self, head: SessionHead) -> None:
        assert not self._is_over, "it has been published or discarded"
        # After the commits that were given before.
        await self._drained()
        await self._run(lambda: self._publish(head.copy()))

    def _publish(self, head: SessionHead) -> None:
        self._begin()
        assert self._claim is not None
        with self._database.writing() as connection:
            if self._after is None:
                self._create(connection, head)
            else:
                self._extend(connection, head)
            leftovers.end(connection, self._claim)
        self._is_over = True

    def _create(self, connection: Connection, head: SessionHead) -> None:
        existing = rows.find_session(connection, self._id)
        if existing is not None:
            raise Conflict("The session exists.", head=existing.seq)
        self._database.note_creation(connection, self._id, self._epoch)
        change_number = take_number(connection)
        self._check(connection)
        row = head_row(head)
        values: dict[str, Any] = {"key": self._key, "epoch": self._epoch, "version": self._version}
        values |= {"log_bytes": self._bytes, "stored_bytes": self._bytes}
        values |= {"delta_bytes": self._delta_bytes, "is_packed": False, "head": row.body}
        values["change_number"] = change_number
        connection.run(rows.INSERT_SESSION, row.columns | values)
        self._database.note_run(connection, self._key, row)
        rows.write_shares(connection, self._key, row, is_new=True)
        rows.write_metadata(connection, self._key, row, is_new=True)
        rows.raise_epoch(connection, self._epoch)
        self._database.count_usage(connection, head.user_id, 1, self._bytes)

    def _extend(self, connection: Connection, head: SessionHead) -> None:
        session = self._check(connection)
        assert session is not None
        change_number = take_number(connection)
        head.last_activity_at = max(head.last_activity_at, session.activity_ms)
        row = head_row(head)
        values: dict[str, Any] = {"session_key": self._key, "version": self._version}
        values |= {"head": row.body, "added_bytes": self._bytes}
        values |= {"added_delta_bytes": self._delta_bytes, "change_number": change_number}
        columns = {name: row.columns[name] for name in rows.HEAD_COLUMNS}
        connection.run(rows.EXTEND_SESSION, columns | values)
        self._database.note_run(connection, self._key, row)
        rows.write_shares(connection, self._key, row, is_new=False)
        rows.write_metadata(connection, self._key, row, is_new=False)
        if head.history_from:
            rows.note_merge(connection, self._key)
        if head.user_id == session.user_id:
            self._database.count_usage(connection, head.user_id, 0, self._bytes)
        else:
            before = session.stored_bytes
            self._database.count_usage(connection, session.user_id, -1, -before)
            self._database.count_usage(connection, head.user_id, 1, before + self._bytes)

    @override
    async def discard(self) -> None:
        if self._is_over:
            return
        self._is_over = True
        if self._claim is not None:
            claim = self._claim
            # Nobody sees the rows. What cannot be removed now is removed when the store is opened.
            with anyio.CancelScope(shield=True), suppress(Unavailable):
                await self._run(lambda: leftovers.remove(self._database, claim))


def _portions(
    events: list[EventRow], marks: list[MarkRow], notes: list[NoteRow]
) -> Iterator[tuple[list[EventRow], list[MarkRow], list[NoteRow]]]:
    """Cut rows into short transactions; each event goes with its mark."""
    marks_by_seq = {mark.seq: mark for mark in marks}
    some: list[EventRow] = []
    size = 0
    for event in events:
        some.append(event)
        size += len(event.body)
        if len(some) >= leftovers.PORTION_ROWS or size >= leftovers.PORTION_BYTES:
            yield some, [marks_by_seq[e.seq] for e in some if e.seq in marks_by_seq], []
            some, size = [], 0
    if some or notes:
        yield some, [marks_by_seq[e.seq] for e in some if e.seq in marks_by_seq], notes
