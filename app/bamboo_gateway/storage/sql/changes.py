"""Deletion, packing and compaction: one transaction decides, short ones do the work (R7, R9).

A crash in between leaves a row in `leftovers`, and opening the store ends the work.
"""

from collections.abc import Callable, Collection
from typing import Any

from sqlalchemy import and_, bindparam, case, delete, func, insert, select, update

from bamboo_gateway.domain.clock import Clock
from bamboo_gateway.domain.errors import BambooError, Conflict, StorageFailed, StorageFull
from bamboo_gateway.storage.index.tables import sessions
from bamboo_gateway.storage.lines import LINE_EXTRA_BYTES
from bamboo_gateway.storage.sql import leftovers, rows
from bamboo_gateway.storage.sql.change_feed import ChangeFeed, note_gone, take_number
from bamboo_gateway.storage.sql.database import Database
from bamboo_gateway.storage.sql.packing import PIECE_BYTES, pack_piece, unpack_piece
from bamboo_gateway.storage.sql.prepared import EventRow
from bamboo_gateway.storage.sql.tables import archives, events, marks, notes

_DELETE_SESSION = delete(sessions).where(sessions.c.key == bindparam("session_key"))
_SET_PACKED = (
    update(sessions)
    .where(sessions.c.key == bindparam("session_key"))
    .values(
        is_packed=bindparam("is_packed"),
        stored_bytes=bindparam("stored_bytes"),
        version=sessions.c.version + 1,
    )
)
_EVENTS_AFTER = (
    select(events.c.seq, events.c.is_delta, events.c.body)
    .where(
        events.c.session_key == bindparam("session_key"),
        events.c.seq > bindparam("after"),
        events.c.seq <= bindparam("upto"),
    )
    .order_by(events.c.seq)
)
_PIECES_AFTER = (
    select(archives.c.last_seq, archives.c.body)
    .where(
        archives.c.session_key == bindparam("session_key"), archives.c.last_seq > bindparam("after")
    )
    .order_by(archives.c.last_seq)
    .limit(4)
)
_INSERT_PIECE = insert(archives).values(
    session_key=bindparam("session_key"),
    first_seq=bindparam("first_seq"),
    last_seq=bindparam("last_seq"),
    body=bindparam("body"),
)
_NOTE_BYTES = select(func.count(), func.sum(func.length(notes.c.body))).where(
    notes.c.session_key == bindparam("session_key"), notes.c.version <= bindparam("version")
)
_DELTAS = and_(
    events.c.session_key == bindparam("session_key"),
    events.c.seq <= bindparam("upto"),
    events.c.is_delta.is_(True),
)
_DELTA_BYTES = select(func.count(), func.sum(func.length(events.c.body))).where(_DELTAS)
_COMPACT = (
    update(sessions)
    .where(sessions.c.key == bindparam("session_key"))
    .values(
        log_bytes=sessions.c.log_bytes - bindparam("freed"),
        stored_bytes=sessions.c.stored_bytes - bindparam("freed"),
        # A repair may have counted fewer than there were.
        delta_bytes=case(
            (
                sessions.c.delta_bytes > bindparam("freed"),
                sessions.c.delta_bytes - bindparam("freed"),
            ),
            else_=0,
        ),
    )
)
_EVENT_BYTES = select(func.length(events.c.body)).where(
    events.c.session_key == bindparam("session_key"), events.c.seq == bindparam("at")
)
_REMOVE_EVENT = delete(events).where(
    events.c.session_key == bindparam("session_key"), events.c.seq == bindparam("at")
)
_REMOVE_MARKS = delete(marks).where(
    marks.c.session_key == bindparam("session_key"), marks.c.seq == bindparam("at")
)
_MOVE_NOTES_OF = (
    update(notes)
    .where(notes.c.session_key == bindparam("session_key"), notes.c.seq == bindparam("at"))
    .values(
        seq=func.coalesce(
            select(func.max(events.c.seq))
            .where(events.c.session_key == notes.c.session_key, events.c.seq < notes.c.seq)
            .scalar_subquery(),
            0,
        )
    )
)
_SHRINK = (
    update(sessions)
    .where(sessions.c.key == bindparam("session_key"))
    .values(
        log_bytes=sessions.c.log_bytes - bindparam("freed"),
        stored_bytes=sessions.c.stored_bytes - bindparam("freed"),
        version=sessions.c.version + 1,
    )
)
_before = events.alias("before")
_MOVE_NOTES = (
    update(notes)
    .where(
        notes.c.session_key == bindparam("session_key"),
        notes.c.seq <= bindparam("upto"),
        select(events.c.seq)
        .where(
            events.c.session_key == notes.c.session_key,
            events.c.seq == notes.c.seq,
            events.c.is_delta.is_(True),
        )
        .exists(),
    )
    .values(
        seq=func.coalesce(
            select(func.max(_before.c.seq))
            .where(
                _before.c.session_key == notes.c.session_key,
                _before.c.seq <= notes.c.seq,
                _before.c.is_delta.is_(False),
            )
            .scalar_subquery(),
            0,
        )
    )
)


class Changes:
    """What changes a whole session. All of it blocks."""

    def __init__(self, database: Database, clock: Clock, feed: ChangeFeed) -> None:
        self._database = database
        self._clock = clock
        self._feed = feed

    def remove_leftovers(self, is_over: Callable[[], bool] = lambda: False) -> None:
        """End what processes that died had begun; `is_over` says when to leave the rest."""
        with self._database.writing(durable=False) as connection:
            numbers = self._database.dead_leftovers(connection, self._clock.now_ms())
        for number in numbers:
            if is_over():
                return
            leftovers.evict(self._database, number)

    def delete(self, session_id: str, epoch: int, version: int | None = None) -> int:
        """Delete a session, as `SessionStore.delete`."""
        if not self._database.has_replicas:
            version = None
        try:
            stored, number = self._delete_row(session_id, epoch, version)
        except StorageFull:
            # A deletion frees space, so it may use what is kept back.
            self._database.use_reserve()
            stored, number = self._delete_row(session_id, epoch, version)
        leftovers.remove(self._database, number)
        return stored

    def _delete_row(self, session_id: str, epoch: int, version: int | None) -> tuple[int, int]:
        """Make a session invisible; return its bytes, and the number of the work that is left."""
        with self._database.writing() as connection:
            session = rows.lock_session(connection, session_id, epoch)
            if version is not None and session.version != version:
                raise Conflict("The session has changed.", head=session.seq)
            key, stored = session.key, int(session.stored_bytes)
            self._database.keep_tombstone(connection, session_id, epoch, key, session.version)
            note_gone(connection, key, session_id, take_number(connection))
            self._feed.forget_some(connection)
            connection.run(_DELETE_SESSION, {"session_key": key})
            rows.delete_filters(connection, key)
            self._database.count_usage(connection, session.user_id, -1, -stored)
            number = leftovers.begin(connection, "deletion", self._clock.now_ms(), key)
        return stored, number

    def pack(self, session_id: str, epoch: int) -> None:
        """Compress a log, as `SessionStore.pack`."""
        begun = self._begin_packing(session_id, epoch, is_packed=True)
        if begun is None:
            return
        session, number = begun
        try:
            stored = self._write_pieces(session, number)
            self._publish(session, session_id, number, is_packed=True, pieces_bytes=stored)
        finally:
            self._end(number)

    def unpack(self, session_id: str, epoch: int) -> None:
        """Decompress a log, as `SessionStore.unpack`."""
        begun = self._begin_packing(session_id, epoch, is_packed=False)
        if begun is None:
            return
        session, number = begun
        try:
            self._write_events(session, number)
            self._publish(session, session_id, number, is_packed=False)
        finally:
            self._end(number)

    def _begin_packing(
        self, session_id: str, epoch: int, *, is_packed: bool
    ) -> tuple[rows.LockedSession, int] | None:
        """Claim the work; None when the session has the wanted form."""
        with self._database.writing(durable=False) as connection:
            session = rows.lock_session(connection, session_id, epoch)
            if session.is_packed == is_packed:
                return None
            before = leftovers.rivals(connection, "packing", session.key)
            # A log that is being compacted has events that do not count any more.
            before += leftovers.rivals(connection, "compaction", session.key)
        for rival in before:
            leftovers.evict(self._database, rival)
        with self._database.writing(durable=False) as connection:
            session = rows.lock_session(connection, session_id, epoch)
            if session.is_packed == is_packed:
                return None
            if leftovers.rivals(connection, "packing", session.key):
                raise Conflict("The session is being packed.", head=session.seq)
            now_ms = self._clock.now_ms()
            return session, leftovers.begin(connection, "packing", now_ms, session.key)

    def _write_pieces(self, session: rows.LockedSession, number: int) -> int:
        after = 0
        stored = 0
        while True:
            some: list[EventRow] = []
            size = 0
            with self._database.reading() as connection:
                names = {"session_key": session.key, "after": after, "upto": session.seq}
                for seq, is_delta, body in connection.each(_EVENTS_AFTER, names):
                    some.append(EventRow(seq, bool(is_delta), body))
                    size += len(body)
                    if size >= PIECE_BYTES:
                        break
            if not some:
                return stored
            piece = pack_piece(some)
            after = piece.last_seq
            stored += len(piece.body)
            with self._database.writing(durable=False) as connection:
                self._check(connection, session, number)
                connection.run(_INSERT_PIECE, piece._asdict() | {"session_key": session.key})

    def _write_events(self, session: rows.LockedSession, number: int) -> None:
        after = 0
        while True:
            with self._database.reading() as connection:
                names = {"session_key": session.key, "after": after}
                pieces = connection.rows(_PIECES_AFTER, names)
            if not pieces:
                return
            for last_seq, body in pieces:
                try:
                    made = list(unpack_piece(body))
                except ValueError as error:
                    raise StorageFailed(f"The packed log cannot be read: {error}.") from error
                with self._database.writing(durable=False) as connection:
                    self._check(connection, session, number)
                    rows.insert_rows(connection, session.key, 0, made, (), ())
                after = last_seq

    def _check(self, connection: Any, session: rows.LockedSession, number: int) -> None:
        if not leftovers.still_claimed(connection, number, self._clock.now_ms()):
            raise Conflict("Another write to the session came in between.", head=session.seq)

    def _publish(
        self,
        begun: rows.LockedSession,
        session_id: str,
        number: int,
        *,
        is_packed: bool,
        pieces_bytes: int = 0,
    ) -> None:
        with self._database.writing() as connection:
            session = rows.lock_session(connection, session_id, begun.epoch)
            self._check(connection, session, number)
            if (session.key, session.version) != (begun.key, begun.version):
                raise Conflict("The session has been appended to.", head=session.seq)
            stored = int(session.log_bytes)
            if is_packed:
                names = {"session_key": session.key, "version": session.version}
                [(count, size)] = connection.rows(_NOTE_BYTES, names)
                stored = pieces_bytes + int(size or 0) + LINE_EXTRA_BYTES * int(count)
            values = {"session_key": session.key, "is_packed": is_packed, "stored_bytes": stored}
            connection.run(_SET_PACKED, values)
            grown = stored - int(session.stored_bytes)
            self._database.count_usage(connection, session.user_id, 0, grown)

    def compact(self, session_id: str, epoch: int, upto: int) -> int:
        """Remove deltas, as `SessionStore.compact`."""
        # Deltas of a compaction that did not end are there, and do not count any more.
        with self._database.writing(durable=False) as connection:
            session = rows.lock_session(connection, session_id, epoch)
            before = leftovers.rivals(connection, "compaction", session.key)
        for rival in before:
            leftovers.evict(self._database, rival)
        with self._database.writing() as connection:
            session = rows.lock_session(connection, session_id, epoch)
            if session.is_packed:
                return 0
            if leftovers.rivals(connection, "compaction", session.key):
                raise Conflict("The session is being compacted.", head=session.seq)
            names = {"session_key": session.key, "upto": min(upto, session.seq - 1)}
            [(count, size)] = connection.rows(_DELTA_BYTES, names)
            if not count:
                return 0
            freed = int(size) + LINE_EXTRA_BYTES * int(count)
            connection.run(_MOVE_NOTES, names)
            connection.run(_COMPACT, {"session_key": session.key, "freed": freed})
            self._database.count_usage(connection, session.user_id, 0, -freed)
            number = leftovers.begin(
                connection, "compaction", self._clock.now_ms(), session.key, names["upto"]
            )
        leftovers.remove(self._database, number)
        return freed

    def remove_events(self, session_id: str, epoch: int, seqs: Collection[int]) -> None:
        """Remove some events, as `SupportsErasure.remove_events`."""
        with self._database.writing() as connection:
            session = rows.lock_session(connection, session_id, epoch)
            if session.is_packed:
                raise Conflict("The session is packed.", head=session.seq)
            freed = 0
            # From the last one, so that a note finds the event that then precedes it.
            for seq in sorted(set(seqs) - {session.seq}, reverse=True):
                names = {"session_key": session.key, "at": seq}
                for (size,) in connection.rows(_EVENT_BYTES, names):
                    freed += int(size) + LINE_EXTRA_BYTES
                connection.run(_MOVE_NOTES_OF, names)
                connection.run(_REMOVE_MARKS, names)
                connection.run(_REMOVE_EVENT, names)
            connection.run(_SHRINK, {"session_key": session.key, "freed": freed})
            self._database.count_usage(connection, session.user_id, 0, -freed)

    def _end(self, number: int) -> None:
        try:
            leftovers.remove(self._database, number)
        except BambooError:
            # Nobody sees these rows: they are removed when the store is opened again.
            return
