"""Repair of a damaged log: its intact lines go on under a new epoch (R4, R10).

A log with an unreadable line can no longer promise that a position means what it meant. So the
repair writes the intact lines aside as the log of a new epoch, fills gaps with messages from the
snapshot, and puts the unreadable bytes into quarantine. Readers of the old epoch get a reset. Gaps
in the seqs stay: they are legal, and nothing is renumbered.
"""

from dataclasses import dataclass, field

from bamboo_gateway.domain import codec
from bamboo_gateway.domain.branch_folds import recount
from bamboo_gateway.domain.clock import format_ms
from bamboo_gateway.domain.projections import fold
from bamboo_gateway.domain.sessions import SessionHead
from bamboo_gateway.storage.file_system import FileSystem
from bamboo_gateway.storage.jsonl.log.log import make_header, read_header
from bamboo_gateway.storage.jsonl.log.reader import is_note, seq_of
from bamboo_gateway.storage.jsonl.paths import Paths
from bamboo_gateway.storage.jsonl.snapshots import read_snapshot_head, read_snapshot_lines
from bamboo_gateway.storage.lines import LINE_PREFIX_BYTES, body_of, is_intact, to_line
from bamboo_gateway.storage.marks import NOTE_BODY


@dataclass(slots=True)
class Salvage:
    """The lines left of a damaged log.

    Attributes:
        header: The (session, epoch) in its first line; None when that cannot be read.
        lines: The intact lines as (seq, line with newline); a note has the seq of the event before
            it.
        damaged: The damaged parts as (offset, bytes).
    """

    header: tuple[str, int] | None = None
    lines: list[tuple[int, bytes]] = field(default_factory=list)
    damaged: list[tuple[int, bytes]] = field(default_factory=list)


def salvage(data: bytes) -> Salvage:
    """Separate the intact lines of a log from the damaged ones; the seqs must rise."""
    found = Salvage()
    newline = data.find(b"\n") + 1
    found.header = read_header(data[:newline])
    offset = newline if found.header is not None else 0
    seq = 0
    for line in data[offset:].splitlines(keepends=True):
        number = seq_of(line)
        if is_intact(line) and (is_note(line) or (number is not None and number > seq)):
            seq = number or seq
            found.lines.append((seq, line))
        elif found.damaged and _ends_at(found.damaged[-1], offset):
            begin, before = found.damaged.pop()
            found.damaged.append((begin, before + line))
        else:
            found.damaged.append((offset, line))
        offset += len(line)
    return found


def _ends_at(damaged: tuple[int, bytes], offset: int) -> bool:
    return damaged[0] + len(damaged[1]) == offset


def refill(fs: FileSystem, paths: Paths, name: str, found: Salvage) -> SessionHead | None:
    """Add the messages of the snapshot that the log no longer has.

    Returns:
        The head in the snapshot, if there is one.
    """
    remembered = read_snapshot_head(fs, paths, name)
    if remembered is None:
        return None
    head, _ = remembered
    if found.header is not None and head.epoch != found.header[1]:
        return None
    known = {seq for seq, _ in found.lines}
    missing = [pair for pair in read_snapshot_lines(fs, paths, name) if pair[0] not in known]
    if missing:
        # The sort is stable, so a note keeps its place behind its event.
        found.lines = sorted([*missing, *found.lines], key=lambda pair: pair[0])
    return head


def make_log(
    session_id: str, epoch: int, found: Salvage, known: SessionHead | None
) -> tuple[bytes, SessionHead]:
    """Return the content of a log under a new epoch, and its head.

    Args:
        session_id: The session.
        epoch: The new epoch.
        found: The lines left of the old log.
        known: The newest known head of the old epoch. It has the session's owner and open run even
            when the lines with these facts are lost.
    """
    lines = found.lines
    if known is not None and (not lines or lines[0][0] > 1):
        lines = [(1, _created_again(known)), *lines]
    head = known.copy() if known else SessionHead(session_id, epoch)
    head.epoch = epoch
    folded = head.seq
    messages: list[int] = []
    for seq, line in lines:
        if line.startswith(b'"type":"message"', LINE_PREFIX_BYTES):
            messages.append(seq)
        if seq > folded and not is_note(line):
            fold(head, codec.decode(line))
    # Messages of other branches, and those that a merge of an earlier version has replaced, stay in
    # the log and do not count.
    # Lost events keep their seqs: the head never goes back, so that positions stay in order.
    head.seq = max(head.seq, folded)
    recount(head, messages)
    data = b"".join([make_header(session_id, epoch, head.created_at), *(line for _, line in lines)])
    return data, head


def _created_again(head: SessionHead) -> bytes:
    event = {
        "type": "session_created",
        "seq": 1,
        "time": format_ms(head.created_at),
        "user_id": head.user_id,
        "title": head.title,
        "session_type": head.session_type,
        "working_dir": head.working_dir,
        "metadata": head.metadata,
        "extension_data": head.extension_data,
        "ttl_seconds": head.ttl_seconds,
        "parent": head.parent,
        "ancestors": head.ancestors,
    }
    return to_line(codec.encode(event))


def fold_data(head: SessionHead, data: bytes) -> None:
    """Fold the stored lines of a commit into a head; skip notes."""
    for line in data.splitlines(keepends=True):
        body = body_of(line)
        if not body.startswith(NOTE_BODY):
            event = codec.decode(body)
            if event["seq"] > head.seq:
                fold(head, event)
