"""What damage on disk leads to: the rest, under a new epoch (R4, R10).

A log with an unreadable line can no longer promise that a position means what it meant. So what is
intact is written aside as the log of a new epoch, gaps are refilled with the messages that the
snapshot has, what could not be read goes to quarantine, and readers of the old epoch are told to
reload. Holes in the seqs stay: they are legal, and nothing is renumbered.
"""

from dataclasses import dataclass, field

from bamboo_gateway.domain import codec
from bamboo_gateway.domain.clock import format_ms
from bamboo_gateway.domain.projections import fold
from bamboo_gateway.domain.sessions import SessionHead
from bamboo_gateway.storage.jsonl.files import FileSystem
from bamboo_gateway.storage.jsonl.log.log import make_header, read_header
from bamboo_gateway.storage.jsonl.log.reader import is_note, seq_of
from bamboo_gateway.storage.jsonl.paths import Paths
from bamboo_gateway.storage.jsonl.snapshots import read_snapshot_head, read_snapshot_lines
from bamboo_gateway.storage.lines import LINE_PREFIX_BYTES, body_of, is_intact, to_line
from bamboo_gateway.storage.marks import NOTE_BODY


@dataclass(slots=True)
class Salvage:
    """What is left of a log.

    Attributes:
        header: The (session, epoch) its first line names, if that can be read.
        lines: The intact lines: (seq, newline included); a note has the seq of the event before.
        damaged: What is not: (offset, bytes).
    """

    header: tuple[str, int] | None = None
    lines: list[tuple[int, bytes]] = field(default_factory=list)
    damaged: list[tuple[int, bytes]] = field(default_factory=list)


def salvage(data: bytes) -> Salvage:
    """Sort the bytes of a log into what is intact and what is not; seqs must rise."""
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
        The snapshot's head, if there is one.
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
        # Stable: a note keeps its place behind its event.
        found.lines = sorted([*missing, *found.lines], key=lambda pair: pair[0])
    return head


def make_log(
    session_id: str, epoch: int, found: Salvage, known: SessionHead | None
) -> tuple[bytes, SessionHead]:
    """Make the log of the new epoch.

    Args:
        session_id: Whose it is.
        epoch: The new one.
        found: What is left.
        known: The newest head of the old epoch that somebody remembers: it says whose the session
            is and which run is open, even when the lines that said so are gone.

    Returns:
        Its bytes, and its head.
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
    # A merge that replaces leaves what was before in the log; it counts no more.
    head.message_count = sum(seq > head.history_from for seq in messages)
    # Never back: what is lost keeps its seqs, so that a position stays in order with its like.
    head.seq = max(head.seq, folded)
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
    """Fold the stored lines of a commit into a head, notes left out."""
    for line in data.splitlines(keepends=True):
        body = body_of(line)
        if not body.startswith(NOTE_BODY):
            event = codec.decode(body)
            if event["seq"] > head.seq:
                fold(head, event)
