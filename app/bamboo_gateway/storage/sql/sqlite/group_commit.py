"""Many commits in one transaction of SQLite.

This is the one place where statements are written by hand: most of the gateway's writes go through
here, each as a tuple for a prepared statement. Commits are first compared with their sessions'
rows and gathered; then the rows of all of them are written, table by table.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

import apsw

from bamboo_gateway.domain.errors import Conflict
from bamboo_gateway.storage.index.metadata_pairs import pairs_of
from bamboo_gateway.storage.index.rows import SLOT_BITS, shares_of
from bamboo_gateway.storage.index.search_code import owner_mark
from bamboo_gateway.storage.index.search_statements import own_statement
from bamboo_gateway.storage.sql.prepared import HeadRow, PreparedCommit
from bamboo_gateway.storage.sql.reads import scope_of
from bamboo_gateway.storage.sql.rows import HEAD_COLUMNS

# What every commit may move. The columns with an index are set only when their value changes:
# SQLite writes an index whenever a statement names its column.
_COUNTED = ("version", "log_bytes", "stored_bytes", "delta_bytes")
_COLUMNS = ("key", "epoch", "is_packed", "change_number", *_COUNTED, *HEAD_COLUMNS)
_FIND = f"SELECT {', '.join(_COLUMNS)} FROM sessions WHERE id = ?"  # noqa: S608 - names of ours
_INSERTED = ("id", "epoch", "is_packed", "change_number", *_COUNTED, *HEAD_COLUMNS, "head")
_INSERT_SESSION = "INSERT INTO sessions ({}) VALUES ({})".format(  # noqa: S608 - names of ours
    ", ".join(_INSERTED), ", ".join("?" * len(_INSERTED))
)
_INSERT_EVENT = "INSERT INTO events (session_key, seq, is_delta, body) VALUES (?, ?, ?, ?)"
_INSERT_MARK = "INSERT INTO marks (session_key, kind, seq, key) VALUES (?, ?, ?, ?)"
_INSERT_NOTE = (
    "INSERT INTO notes (session_key, seq, version, number, key, body) VALUES (?, ?, ?, ?, ?, ?)"
)
_INSERT_UNSEARCHED = "INSERT OR IGNORE INTO unsearched (session_key, seq) VALUES (?, ?)"
_DELETE_SHARES = "DELETE FROM session_shares WHERE key = ?"
_INSERT_SHARE = "INSERT INTO session_shares (user_id, key, expires_at) VALUES (?, ?, ?)"
_DELETE_METADATA = "DELETE FROM session_metadata WHERE key = ?"
_INSERT_METADATA = "INSERT INTO session_metadata (pair, key) VALUES (?, ?)"
_COUNT_USAGE = (
    "INSERT INTO usage (scope, slot, sessions, stored_bytes) VALUES (?, 0, ?, ?) ON CONFLICT DO"
    " UPDATE SET sessions = sessions + excluded.sessions,"
    " stored_bytes = stored_bytes + excluded.stored_bytes"
)
_LAST_CHANGE = "SELECT number FROM meta WHERE name = 'last_change'"
_NOTE_CHANGES = "UPDATE meta SET number = ? WHERE name = 'last_change'"
_RAISE_EPOCH = "UPDATE meta SET number = max(number, ?) WHERE name = 'last_epoch'"
# `UPDATE` statements by the columns that they set: there are few sets that occur.
_UPDATES_MAX = 1024


class Refused(NamedTuple):
    """A commit that was refused, with the seq of its session's head."""

    message: str
    head: int | None

    def error(self) -> Conflict:
        """Return the error."""
        return Conflict(self.message, head=self.head)


class _Row:
    """A session's row, as it was and as the batch changes it."""

    __slots__ = ("before", "head", "key", "values")

    def __init__(self, values: dict[str, Any]) -> None:
        self.before = values
        self.values = dict(values)
        self.key: int = values["key"]
        self.head: HeadRow | None = None


class GroupCommit:
    """Writes batches through one connection, whose transactions the caller begins and ends."""

    def __init__(self, connection: apsw.Connection) -> None:
        self._connection = connection
        self._updates: dict[tuple[str, ...], str] = {}

    def write(self, batch: Sequence[PreparedCommit]) -> list[Refused | None]:
        """Write what matches, and return for each commit whether it was refused.

        Raises:
            apsw.Error: Nothing may be kept of this transaction.
        """
        rows: dict[str, _Row | None] = {}
        events: list[tuple[Any, ...]] = []
        marks: list[tuple[Any, ...]] = []
        notes: list[tuple[Any, ...]] = []
        unsearched: list[tuple[Any, ...]] = []
        usage: dict[bytes, list[int]] = {}
        answers: list[Refused | None] = []
        last_epoch = 0
        # A batch of deltas alone reads and writes nothing for it.
        has_changes = any(prepared.is_change for prepared in batch)
        change = self._connection.execute(_LAST_CHANGE).get if has_changes else 0
        for prepared in batch:
            commit = prepared.commit
            session_id = commit.session_id
            row = rows[session_id] if session_id in rows else self._find(session_id)
            refused = _refusal(prepared, row)
            answers.append(refused)
            if refused is not None:
                rows[session_id] = row
                continue
            change += prepared.is_change
            if row is None:
                row = self._insert(prepared, change if prepared.is_change else 0)
                last_epoch = max(last_epoch, commit.epoch)
                _count(usage, row.values["user_id"], 1, prepared.stored_bytes)
            else:
                owner = row.values["user_id"]
                stored_before = row.values["stored_bytes"]
                _apply(row, prepared)
                if prepared.is_change:
                    row.values["change_number"] = change
                if row.values["user_id"] == owner:
                    _count(usage, owner, 0, prepared.stored_bytes)
                else:
                    self._change_owner(row)
                    _count(usage, owner, -1, -stored_before)
                    _count(usage, row.values["user_id"], 1, row.values["stored_bytes"])
            rows[session_id] = row
            key, version = row.key, row.values["version"]
            for seq, is_delta, body in prepared.events:
                events.append((key, seq, is_delta, body))
            for kind, seq, name in prepared.marks:
                marks.append((key, kind, seq, name))
            unsearched.extend((key, seq) for seq in prepared.unsearched)
            for seq, number, name, body in prepared.notes:
                notes.append((key, seq, version, number, name, body))
        if unsearched:
            self._connection.executemany(_INSERT_UNSEARCHED, unsearched)
        self._write(rows, events, marks, notes, usage, last_epoch)
        if has_changes:
            self._connection.execute(_NOTE_CHANGES, (change,))
        return answers

    def _write(
        self,
        rows: dict[str, _Row | None],
        events: list[tuple[Any, ...]],
        marks: list[tuple[Any, ...]],
        notes: list[tuple[Any, ...]],
        usage: dict[bytes, list[int]],
        last_epoch: int,
    ) -> None:
        connection = self._connection
        if events:
            connection.executemany(_INSERT_EVENT, events)
        if marks:
            connection.executemany(_INSERT_MARK, marks)
        if notes:
            connection.executemany(_INSERT_NOTE, notes)
        for row in rows.values():
            if row is not None:
                self._update(row)
        if usage:
            counted = [(scope, *counts) for scope, counts in usage.items()]
            connection.executemany(_COUNT_USAGE, counted)
        if last_epoch:
            connection.execute(_RAISE_EPOCH, (last_epoch,))

    def _find(self, session_id: str) -> _Row | None:
        for values in self._connection.execute(_FIND, (session_id,)):
            return _Row(dict(zip(_COLUMNS, values, strict=True)))
        return None

    def _insert(self, prepared: PreparedCommit, change: int) -> _Row:
        head = prepared.head
        assert head is not None, "a commit that creates has a head"
        values = {
            **head.columns,
            "epoch": prepared.commit.epoch,
            "is_packed": False,
            "change_number": change,
            "version": 1,
            "log_bytes": prepared.stored_bytes,
            "stored_bytes": prepared.stored_bytes,
            "delta_bytes": prepared.delta_bytes,
            "head": head.body,
        }
        connection = self._connection
        connection.execute(_INSERT_SESSION, tuple(values[name] for name in _INSERTED))
        values["key"] = key = connection.last_insert_rowid()
        del values["head"], values["id"]
        if head.head.shares:
            self._write_shares(key, head)
        self._write_metadata(key, head)
        return _Row(values)

    def _update(self, row: _Row) -> None:
        before, values = row.before, row.values
        changed = tuple([name for name, value in values.items() if before[name] != value])
        if not changed and row.head is None:
            return
        parameters = [values[name] for name in changed]
        names = changed
        if row.head is not None:
            names = (*changed, "head")
            parameters.append(row.head.body)
            self._connection.execute(_DELETE_SHARES, (row.key,))
            self._write_shares(row.key, row.head)
            if "metadata_digest" in changed:
                self._connection.execute(_DELETE_METADATA, (row.key,))
                self._write_metadata(row.key, row.head)
        parameters.append(row.key)
        text = self._updates.get(names)
        if text is None:
            if len(self._updates) >= _UPDATES_MAX:
                self._updates.clear()
            sets = ", ".join(f"{name} = ?" for name in names)
            text = self._updates[names] = f"UPDATE sessions SET {sets} WHERE key = ?"  # noqa: S608
        self._connection.execute(text, parameters)

    def _change_owner(self, row: _Row) -> None:
        """Let nobody find the messages who does not own them any more."""
        user_id = row.values["user_id"]
        names = {"session_key": row.key, "user_id": user_id, "mark": owner_mark(user_id)}
        statement = own_statement("sqlite")
        self._connection.execute(statement.text, statement.with_values(names))

    def _write_shares(self, key: int, row: HeadRow) -> None:
        for user_id, end in shares_of(row.head).items():
            self._connection.execute(_INSERT_SHARE, (user_id, key, end))

    def _write_metadata(self, key: int, row: HeadRow) -> None:
        for pair in pairs_of(row.head.metadata):
            self._connection.execute(_INSERT_METADATA, (pair, key))


def _refusal(prepared: PreparedCommit, row: _Row | None) -> Refused | None:
    commit = prepared.commit
    if row is None:
        if commit.create:
            return None
        return Refused("There is no such session of that epoch.", None)
    values = row.values
    seq = values["seq"]
    if commit.create:
        return Refused("The session exists.", seq)
    if values["epoch"] != commit.epoch:
        return Refused("There is no such session of that epoch.", None)
    if values["is_packed"]:
        return Refused("The session is packed, so nothing is appended.", seq)
    if seq != commit.first_seq - 1:
        return Refused("The head has moved.", seq)
    if prepared.version is not None and prepared.version != values["version"]:
        return Refused("The session has changed.", seq)
    return None


def _apply(row: _Row, prepared: PreparedCommit) -> None:
    """Change a session's row as a commit does."""
    values = row.values
    values["version"] += 1
    values["log_bytes"] += prepared.stored_bytes
    values["stored_bytes"] += prepared.stored_bytes
    values["delta_bytes"] += prepared.delta_bytes
    activity_ms = values["last_activity_at"]
    if prepared.head is not None:
        columns = prepared.head.columns
        for name in HEAD_COLUMNS:
            values[name] = columns[name]
        row.head = prepared.head
        _move(values, activity_ms)
    values["seq"] = prepared.last_seq
    _move(values, prepared.commit.time_ms)


def _move(values: dict[str, Any], activity_ms: int) -> None:
    """Move the last activity forward, and the end of the time to live with it."""
    forward = activity_ms - values["last_activity_at"]
    if forward <= 0:
        return
    values["last_activity_at"] = activity_ms
    values["activity_slot"] = activity_ms >> SLOT_BITS
    if values["expires_at"] is not None:
        values["expires_at"] += forward
        values["expires_slot"] = values["expires_at"] >> SLOT_BITS


def _count(usage: dict[bytes, list[int]], user_id: str | None, sessions: int, size: int) -> None:
    for scope in (scope_of(None), *([] if user_id is None else [scope_of(user_id)])):
        counts = usage.setdefault(scope, [0, 0])
        counts[0] += sessions
        counts[1] += size
