"""Commits as the rows that they become, made before a database's lock is taken."""

from collections.abc import Sequence
from typing import Any, NamedTuple

from bamboo_gateway.domain import codec
from bamboo_gateway.domain.errors import Conflict
from bamboo_gateway.domain.events import DELTA_TYPES
from bamboo_gateway.domain.sessions import SessionHead
from bamboo_gateway.storage.commits import Commit, Event, Note
from bamboo_gateway.storage.index.rows import row_of
from bamboo_gateway.storage.lines import LINE_EXTRA_BYTES
from bamboo_gateway.storage.marks import mark_of
from bamboo_gateway.storage.sql.tables import MARK_KINDS


class EventRow(NamedTuple):
    """A row of `events`, without the key of its session."""

    seq: int
    is_delta: bool
    body: bytes


class MarkRow(NamedTuple):
    """A row of `marks`, without the key of its session."""

    kind: int
    seq: int
    key: bytes


class NoteRow(NamedTuple):
    """A row of `notes`, without the key of its session and the version."""

    seq: int
    number: int
    key: bytes
    body: bytes


class HeadRow(NamedTuple):
    """A session's head as its row has it.

    Attributes:
        columns: The columns that follow from the head (`index.rows.row_of`), by name.
        body: The stored head, as JSON.
        head: The head itself.
    """

    columns: dict[str, Any]
    body: bytes
    head: SessionHead


class PreparedCommit(NamedTuple):
    """A commit as rows.

    Attributes:
        commit: The commit.
        commit_id: A random number of 63 bits, stored with the rows where a database may lose the
            answer to a commit.
        version: The version that the session's row must have; None when the caller does not know
            it. Epoch and seq are compared in any case.
        last_seq: The session's seq after the commit.
        events, marks, notes: Its rows.
        unsearched: The seqs for `unsearched`.
        stored_bytes: What the commit adds to the bytes of the log.
        delta_bytes: Those of its deltas.
        head: The head's row, or None when only seq and last activity move.
        is_change: Whether it has an event that is no delta.
        judged: With `Commit.closes`, the counter by which that executor was taken for dead.
    """

    commit: Commit
    commit_id: int
    version: int | None
    last_seq: int
    events: list[EventRow]
    marks: list[MarkRow]
    notes: list[NoteRow]
    unsearched: list[int]
    stored_bytes: int
    delta_bytes: int
    head: HeadRow | None
    is_change: bool
    judged: int | None = None


def prepare(commit: Commit, commit_id: int) -> PreparedCommit:
    """Make the rows of a commit; its head has the commit's seq and time afterwards."""
    last_seq = commit.first_seq + len(commit.events) - 1
    head = commit.head
    if head is None and commit.create:
        head = SessionHead(commit.session_id, commit.epoch)
    row = None
    if head is not None:
        head.seq = last_seq
        head.last_activity_at = max(head.last_activity_at, commit.time_ms)
        row = head_row(head)
    events, marks, delta_bytes = event_rows(commit.events)
    notes = note_rows(commit.notes)
    return PreparedCommit(
        commit,
        commit_id,
        commit.version,
        last_seq,
        events,
        marks,
        notes,
        unsearched_seqs(marks, commit.events),
        size_of(events) + size_of(notes),
        delta_bytes,
        row,
        row is not None and not all(event.is_delta for event in events),
    )


def built_on_refused(commit: Commit) -> Conflict:
    """Return the answer to a commit whose session's commit before it was refused."""
    return Conflict("The commit before it was refused.", head=commit.first_seq - 1)


def head_row(head: SessionHead) -> HeadRow:
    """Make the row of a head."""
    return HeadRow(row_of(head), codec.encode(head.to_json()), head)


def event_rows(events: Sequence[Event]) -> tuple[list[EventRow], list[MarkRow], int]:
    """Make the rows of events: of the events, of their marks, and the bytes of the deltas."""
    rows = []
    marks = []
    delta_bytes = 0
    for seq, kind, body in events:
        if kind in DELTA_TYPES:
            rows.append(EventRow(seq, True, body))
            delta_bytes += len(body) + LINE_EXTRA_BYTES
            continue
        rows.append(EventRow(seq, False, body))
        mark = mark_of(body, seq)
        if mark is not None:
            marks.append(MarkRow(MARK_KINDS[mark.kind], seq, mark.key.encode()))
    return rows, marks, delta_bytes


def unsearched_seqs(marks: Sequence[MarkRow], events: Sequence[Event]) -> list[int]:
    """Return what `unsearched` needs of a commit: the seqs of messages, and 0 for a merge."""
    seqs = [mark.seq for mark in marks if mark.kind == MARK_KINDS["message"]]
    if any(event.type == "session_merged" for event in events):
        seqs.append(0)
    return seqs


def note_rows(notes: Sequence[Note], first_number: int = 0) -> list[NoteRow]:
    """Make the rows of notes, numbered from `first_number`."""
    return [
        NoteRow(note.seq, number, note.key.encode(), note.body)
        for number, note in enumerate(notes, first_number)
    ]


def size_of(rows: Sequence[EventRow] | Sequence[NoteRow]) -> int:
    """Return the bytes that rows count: those of their lines, so quotas mean the same anywhere."""
    return sum(len(row.body) for row in rows) + LINE_EXTRA_BYTES * len(rows)
