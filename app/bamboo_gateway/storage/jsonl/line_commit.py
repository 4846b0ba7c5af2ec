"""A commit as the JSONL store writes it: its stored lines and their marks."""

from collections.abc import Sequence
from typing import NamedTuple

from bamboo_gateway.domain.events import DELTA_TYPES
from bamboo_gateway.domain.sessions import SessionHead
from bamboo_gateway.storage.base import Commit, Note
from bamboo_gateway.storage.lines import in_log_order, to_line
from bamboo_gateway.storage.marks import MARKED_TYPES, Mark, mark_of


class LineCommit(NamedTuple):
    """A commit as the committer takes it.

    It is a tuple, since one is made for every event that is streamed. `session_id`, `epoch`,
    `first_seq`, `head`, `time_ms`, `create` and `reserve` come from the `Commit`.

    Attributes:
        count: The number of its events, without notes.
        data: Its stored lines, joined.
        marks: The mark of each marked line, and where the line begins in `data`.
        delta_bytes: How many bytes of `data` are lines of deltas.
    """

    session_id: str
    epoch: int
    first_seq: int
    count: int  # type: ignore[assignment]  # hides tuple.count, which is not needed here
    data: bytes
    marks: Sequence[tuple[Mark, int]]
    delta_bytes: int
    head: SessionHead | None
    time_ms: int
    create: bool
    reserve: bool


def line_commit(commit: Commit) -> LineCommit:
    """Return the form of a commit that the committer takes."""
    session_id, epoch, first, events, notes, head, time_ms, create, reserve = commit
    count = len(events)
    marks: list[tuple[Mark, int]] = []
    offset = delta_bytes = 0
    if count == 1 and not notes:
        # Most commits: a delta of a running agent, or one posted event.
        [(seq, kind, body)] = events
        data = to_line(body)
        if kind in DELTA_TYPES:
            delta_bytes = len(data)
        elif kind in MARKED_TYPES and (mark := mark_of(body, seq)):
            marks.append((mark, 0))
        return LineCommit(
            session_id, epoch, first, 1, data, marks, delta_bytes, head, time_ms, create, reserve
        )
    lines: list[bytes] = []
    for entry in in_log_order(events, notes):
        line = to_line(entry.body)
        if isinstance(entry, Note):
            marks.append((Mark("note", entry.key, entry.seq), offset))
        elif entry.type in DELTA_TYPES:
            delta_bytes += len(line)
        elif entry.type in MARKED_TYPES and (mark := mark_of(entry.body, entry.seq)):
            marks.append((mark, offset))
        lines.append(line)
        offset += len(line)
    return LineCommit(
        session_id,
        epoch,
        first,
        count,
        b"".join(lines),
        marks,
        delta_bytes,
        head,
        time_ms,
        create,
        reserve,
    )
