"""A commit as the JSONL store writes it: with its stored lines and their marks."""

from collections.abc import Sequence
from typing import NamedTuple

from bamboo_gateway.domain.events import DELTA_TYPES
from bamboo_gateway.storage.base import Done
from bamboo_gateway.storage.commits import Commit, Note
from bamboo_gateway.storage.lines import in_log_order, to_line
from bamboo_gateway.storage.marks import MARKED_TYPES, Mark, mark_of


class LineCommit(NamedTuple):
    """A commit with its lines; a tuple, since one is made for every event that is streamed.

    Attributes:
        commit: The commit.
        done: Its callback.
        data: Its stored lines, joined.
        marks: The mark of each marked line, and where the line begins in `data`.
        delta_bytes: How many bytes of `data` are lines of deltas.
    """

    commit: Commit
    done: Done
    data: bytes
    marks: Sequence[tuple[Mark, int]]
    delta_bytes: int


def line_commit(commit: Commit, done: Done) -> LineCommit:
    """Make the lines of a commit."""
    _, _, _, events, notes, *_ = commit
    if len(events) == 1 and not notes:
        # Most commits: a delta of a running agent, or one posted event.
        [(seq, kind, body)] = events
        data = to_line(body)
        if kind in DELTA_TYPES:
            return LineCommit(commit, done, data, (), len(data))
        mark = mark_of(body, seq) if kind in MARKED_TYPES else None
        return LineCommit(commit, done, data, ((mark, 0),) if mark else (), 0)
    marks: list[tuple[Mark, int]] = []
    lines: list[bytes] = []
    offset = delta_bytes = 0
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
    return LineCommit(commit, done, b"".join(lines), marks, delta_bytes)
