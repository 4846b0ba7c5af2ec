"""The check of one session: its events against its head, marks, counts and shares."""

from collections.abc import Callable, Iterator
from typing import Any

from sqlalchemy import bindparam, delete, func, insert, select, update

from bamboo_gateway.domain import codec
from bamboo_gateway.domain.clock import Clock
from bamboo_gateway.domain.events import DELTA_TYPES
from bamboo_gateway.domain.sessions import SessionHead
from bamboo_gateway.storage.index.metadata_pairs import pairs_of
from bamboo_gateway.storage.index.rows import row_of, shares_of
from bamboo_gateway.storage.index.tables import session_metadata, session_shares, sessions
from bamboo_gateway.storage.lines import LINE_EXTRA_BYTES
from bamboo_gateway.storage.marks import mark_of
from bamboo_gateway.storage.reports import Finding, Severity
from bamboo_gateway.storage.sql.database import Connection
from bamboo_gateway.storage.sql.epochs import next_epoch
from bamboo_gateway.storage.sql.packing import unpack_piece
from bamboo_gateway.storage.sql.prepared import EventRow, head_row
from bamboo_gateway.storage.sql.rows import (
    DELETE_METADATA,
    HEAD_COLUMNS,
    INSERT_MARK,
    INSERT_METADATA,
)
from bamboo_gateway.storage.sql.tables import MARK_KINDS, archives, events, marks, notes

SetAside = Callable[[int, bytes], None]
"""Keeps lines of JSON with what is damaged of a session, by its key, for people to look at."""

_FIRST = ("id", "seq", "version", "is_packed", "log_bytes", "stored_bytes", "delta_bytes", "head")
# They move without a head, so the stored head may have older ones.
_MOVING = ("seq", "last_activity_at", "activity_slot", "expires_at", "expires_slot")
_FOLLOWING = [name for name in HEAD_COLUMNS if name not in _MOVING]

_is_session = sessions.c.key == bindparam("session_key")
_SESSION = select(*(sessions.c[name] for name in (*_FIRST, *HEAD_COLUMNS))).where(_is_session)
_EVENTS = (
    select(events.c.seq, events.c.is_delta, events.c.body)
    .where(events.c.session_key == bindparam("session_key"), events.c.seq <= bindparam("upto"))
    .order_by(events.c.seq)
)
_PIECES = (
    select(archives.c.last_seq, archives.c.body)
    .where(archives.c.session_key == bindparam("session_key"))
    .order_by(archives.c.last_seq)
)
_NOTES = select(func.length(notes.c.body)).where(
    notes.c.session_key == bindparam("session_key"), notes.c.version <= bindparam("upto")
)
_MARKS = select(marks.c.kind, marks.c.seq, marks.c.key).where(
    marks.c.session_key == bindparam("session_key"), marks.c.seq <= bindparam("upto")
)
_SHARES = select(session_shares.c.user_id, session_shares.c.expires_at).where(
    session_shares.c.key == bindparam("session_key")
)
_PAIRS = select(session_metadata.c.pair).where(session_metadata.c.key == bindparam("session_key"))
_DELETE_MARKS = delete(marks).where(
    marks.c.session_key == bindparam("session_key"), marks.c.seq <= bindparam("upto")
)
_DELETE_EVENT = delete(events).where(
    events.c.session_key == bindparam("session_key"), events.c.seq == bindparam("damaged_seq")
)
_DELETE_SHARES = delete(session_shares).where(session_shares.c.key == bindparam("session_key"))
_INSERT_SHARE = insert(session_shares).values(
    user_id=bindparam("share_user"),
    key=bindparam("session_key"),
    expires_at=bindparam("share_end"),
)
_COUNT_BYTES = (
    update(sessions)
    .where(_is_session)
    .values({name: bindparam(name) for name in ("log_bytes", "stored_bytes", "delta_bytes")})
)
_FOLLOW_HEAD = (
    update(sessions).where(_is_session).values({name: bindparam(name) for name in _FOLLOWING})
)
_END_AT = (
    update(sessions)
    .where(_is_session)
    .values(
        {name: bindparam(name) for name in ("seq", "epoch", "head")}
        | {"version": sessions.c.version + 1}
    )
)


class _Log:
    """What the events and notes of a session say."""

    def __init__(self) -> None:
        self.marks: set[tuple[int, int, bytes]] = set()
        self.log_bytes = self.delta_bytes = self.note_bytes = self.piece_bytes = 0
        self.last_seq = 0
        self.damaged: list[tuple[int, bytes, str]] = []


class SessionCheck:
    """Checks sessions through a connection with an open transaction."""

    def __init__(
        self, connection: Connection, clock: Clock, set_aside: SetAside, *, repairs: bool
    ) -> None:
        self._connection = connection
        self._clock = clock
        self._set_aside = set_aside
        self._repairs = repairs

    def run(self, key: int) -> list[Finding]:
        """Check a session, and repair it; return what was found."""
        rows = self._connection.rows(_SESSION, {"session_key": key})
        if not rows:
            return []
        session_id, seq, version, is_packed, *counts, head_body = rows[0][: len(_FIRST)]
        findings: list[Finding] = []

        def found(
            severity: Severity, problem: str, action: str, *, repairable: bool = True
        ) -> None:
            done = self._repairs and repairable
            findings.append(Finding(severity, session_id, problem, action, done))

        try:
            head = SessionHead.of(codec.decode(head_body))
        except (ValueError, TypeError, KeyError):
            return [Finding("fail", session_id, "its head is damaged",
                            "restore it from a backup, or delete it", False)]  # fmt: skip
        log = self._read(key, seq, version, is_packed=bool(is_packed))
        if log.damaged or log.last_seq != seq:
            problem = f"{len(log.damaged)} events are damaged"
            if log.last_seq != seq:
                problem = f"its last event is {log.last_seq} and not {seq}"
            if is_packed:
                action = "restore it from a backup, or delete it"
                found("fail", f"{problem}, in its archive", action, repairable=False)
            else:
                found("fail", problem, "it goes on under a new epoch without them")
                if self._repairs:
                    self._give_up(key, session_id, log, head)
        if self._marks_differ(key, seq, log):
            found("warn", "its marks are wrong", "they are made again from its events")
        log_bytes = log.log_bytes + log.note_bytes
        stored = log.piece_bytes + log.note_bytes if is_packed else log_bytes
        if counts != [log_bytes, stored, log.delta_bytes]:
            found("warn", "its bytes are counted wrong", "they are counted again")
            counted = {
                "log_bytes": log_bytes, "stored_bytes": stored, "delta_bytes": log.delta_bytes
            }  # fmt: skip
            self._do(_COUNT_BYTES, {"session_key": key, **counted})
        columns = dict(zip(HEAD_COLUMNS, rows[0][len(_FIRST) :], strict=True))
        if not self._fits_head(key, head, columns):
            found("warn", "its columns do not fit its head", "they are made again from the head")
            self._follow(key, head)
        return findings

    def _read(self, key: int, seq: int, version: int, *, is_packed: bool) -> _Log:
        log = _Log()
        rows = self._packed(key, log) if is_packed else self._events(key, seq)
        for row in rows:
            size = len(row.body) + LINE_EXTRA_BYTES
            log.log_bytes += size
            log.delta_bytes += size if row.is_delta else 0
            log.last_seq = row.seq
            problem = _problem_of(row)
            if problem is not None:
                log.damaged.append((row.seq, row.body, problem))
                continue
            mark = mark_of(row.body, row.seq)
            if mark is not None:
                log.marks.add((MARK_KINDS[mark.kind], row.seq, mark.key.encode()))
        for (size,) in self._connection.each(_NOTES, {"session_key": key, "upto": version}):
            log.note_bytes += size + LINE_EXTRA_BYTES
        return log

    def _events(self, key: int, seq: int) -> Iterator[EventRow]:
        found = self._connection.each(_EVENTS, {"session_key": key, "upto": seq})
        for at, is_delta, body in found:
            yield EventRow(at, bool(is_delta), body)

    def _packed(self, key: int, log: _Log) -> Iterator[EventRow]:
        for last_seq, body in self._connection.each(_PIECES, {"session_key": key}):
            log.piece_bytes += len(body)
            try:
                yield from unpack_piece(body)
            except ValueError as error:
                log.damaged.append((last_seq, body, str(error)))

    def _marks_differ(self, key: int, seq: int, log: _Log) -> bool:
        names = {"session_key": key, "upto": seq}
        stored = {(kind, at, name) for kind, at, name in self._connection.rows(_MARKS, names)}
        if stored == log.marks:
            return False
        self._do(_DELETE_MARKS, names)
        for kind, at, name in log.marks:
            self._do(INSERT_MARK, {"session_key": key, "kind": kind, "seq": at, "key": name})
        return True

    def _shares_of(self, key: int) -> dict[str, int | None]:
        rows = self._connection.rows(_SHARES, {"session_key": key})
        return {user_id: end for user_id, end in rows}  # noqa: C416 - rows are of any length

    def _fits_head(self, key: int, head: SessionHead, columns: dict[str, Any]) -> bool:
        wanted = row_of(head)
        return (
            all(columns[name] == wanted[name] for name in _FOLLOWING)
            and self._shares_of(key) == shares_of(head)
            and self._pairs_of(key) == pairs_of(head.metadata)
        )

    def _follow(self, key: int, head: SessionHead) -> None:
        """Make the columns again that follow from the head, and the rows beside them."""
        wanted = row_of(head)
        self._do(_FOLLOW_HEAD, {"session_key": key, **{name: wanted[name] for name in _FOLLOWING}})
        self._do(_DELETE_SHARES, {"session_key": key})
        for user_id, end in shares_of(head).items():
            share = {"share_user": user_id, "session_key": key, "share_end": end}
            self._do(_INSERT_SHARE, share)
        self._do(DELETE_METADATA, {"session_key": key})
        for pair in pairs_of(head.metadata):
            self._do(INSERT_METADATA, {"session_key": key, "pair": pair})

    def _pairs_of(self, key: int) -> list[bytes]:
        rows = self._connection.rows(_PAIRS, {"session_key": key})
        return sorted(bytes(pair) for (pair,) in rows)

    def _give_up(self, key: int, session_id: str, log: _Log, head: SessionHead) -> None:
        """Remove damaged events, and give the session a new epoch, at which clients reload."""
        lines = [
            codec.encode(
                {"session": session_id, "seq": seq, "problem": problem, "bytes": body.hex()}
            )
            for seq, body, problem in log.damaged
        ]
        if lines:
            self._set_aside(key, b"\n".join(lines) + b"\n")
        for seq, body, _ in log.damaged:
            log.log_bytes -= len(body) + LINE_EXTRA_BYTES
            self._do(_DELETE_EVENT, {"session_key": key, "damaged_seq": seq})
        head.epoch = next_epoch(self._connection, self._clock.now_ms())
        # Under a new epoch the positions behind the last event are free.
        head.seq = log.last_seq
        ended = {"seq": head.seq, "epoch": head.epoch, "head": head_row(head).body}
        self._do(_END_AT, {"session_key": key, **ended})

    def _do(self, statement: Any, values: dict[str, Any]) -> None:
        if self._repairs:
            self._connection.run(statement, values)


def _problem_of(row: EventRow) -> str | None:
    try:
        event = codec.decode(row.body)
    except ValueError:
        return "it is no JSON"
    if not isinstance(event, dict) or event.get("seq") != row.seq:
        return "it has another seq"
    if (event.get("type") in DELTA_TYPES) != row.is_delta:
        return "it has another type"
    return None
