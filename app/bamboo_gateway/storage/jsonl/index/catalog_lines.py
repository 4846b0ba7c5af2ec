"""The lines of catalog.jsonl: what a checkpoint writes of an entry, and how lines are read.

`catalog_file` describes the format.
"""

import errno
from dataclasses import dataclass, field
from typing import Any

from bamboo_gateway.domain import codec
from bamboo_gateway.domain.sessions import SessionHead, Share
from bamboo_gateway.storage.jsonl.index.catalog import Entry
from bamboo_gateway.storage.jsonl.index.change_log import Feed, Gone, gone_to_json
from bamboo_gateway.storage.lines import LINE_PREFIX_BYTES, is_intact, to_line
from bamboo_gateway.storage.listing import Relations, ends_with_users, stored_head_state

# The format that this gateway writes; see `catalog_file`.
FORMAT = 2
HEAD = b'"head":'
_GONE = b'"gone":'
_CHECKPOINT = b'"checkpoint":'

# The offset and length of a line.
Place = tuple[int, int]


class ErasedError(OSError):
    """The session was deleted meanwhile, and its line was erased."""


@dataclass(slots=True)
class EntryState:
    """What a checkpoint writes of an entry: the state of one moment, taken on the loop's thread."""

    entry: Entry
    seq: int
    activity: int
    size: int
    snapshot: int
    snapshot_bytes: int
    deltas: int
    bundle: int
    changed: int
    head: SessionHead | None
    raw: bytes | None

    @staticmethod
    def of(entry: Entry) -> "EntryState":
        """Return the present state of an entry."""
        return EntryState(
            entry,
            entry.seq,
            entry.activity,
            entry.size,
            entry.snapshot,
            entry.snapshot_bytes,
            entry.deltas,
            entry.bundle,
            entry.changed,
            entry.head,
            entry.raw,
        )

    def settle(self) -> None:
        """Drop the head from memory if it is still the one in the file (on the loop's thread)."""
        entry = self.entry
        if entry.head is self.head and entry.raw is self.raw:
            entry.head = entry.raw = None


@dataclass(slots=True)
class CatalogContents:
    """The contents of a catalog file; `problem` is why it cannot be used, or None."""

    entries: dict[str, Entry] = field(default_factory=dict)
    unfinished: set[str] = field(default_factory=set)
    lsn: int = 0
    last_epoch: int = 0
    torn_bytes: int = 0
    format: int = FORMAT
    feed: Feed | None = None
    gone: dict[str, Gone] = field(default_factory=dict)
    problem: str | None = None


def entry_of(shape: dict[str, Any]) -> Entry:
    """Return the entry in a decoded line of a session, without its head."""
    session_id = shape["id"]
    entry = Entry(session_id, shape["epoch"], Relations.of_json(session_id, shape["head"]))
    entry.head_state = stored_head_state(shape["head"])
    entry.seq = shape["seq"]
    entry.activity = shape["activity"]
    entry.size = shape["size"]
    entry.marks = shape["marks"]
    entry.snapshot = shape["snapshot"]
    entry.snapshot_bytes = shape.get("snapshot_bytes", 0)
    entry.deltas = shape.get("deltas", 0)
    entry.bundle = shape.get("bundle", 0)
    entry.changed = shape.get("changed", 0)
    head = shape["head"]
    if head.get("logged_state") != "archived":
        entry.ttl = head.get("ttl_seconds")
    if "shares" in head:
        shares = (Share(**share) for share in head["shares"])
        entry.share_ends = tuple(e for e in ends_with_users(shares).values() if e is not None)
    return entry


def make_line(shape: dict[str, Any]) -> bytes:
    """Return a line with these members."""
    return to_line(codec.encode(shape))


def make_checkpoint_line(lsn: int, last_epoch: int, feed: Feed | None) -> bytes:
    """Return the line that ends a checkpoint."""
    shape: dict[str, Any] = {"checkpoint": lsn, "epoch": last_epoch, "format": FORMAT}
    if feed is not None:
        shape |= {"feed": feed.name, "forgotten": feed.forgotten}
    return make_line(shape)


def make_gone_line(session_id: str, gone: Gone) -> bytes:
    """Return the line of a deletion that those are told of who ask what has changed."""
    return make_line({"deleted": session_id, "changed": gone.number, **gone_to_json(gone.session)})


def is_blank(data: bytes, place: Place) -> bool:
    """Return whether the line at a place was erased."""
    return data[place[0] : sum(place)].isspace()


def head_in(line: bytes, epoch: int) -> bytes:
    """Return the head, as JSON, in the line of a session with that epoch.

    Raises:
        ErasedError: The line belongs to another epoch.
        OSError: The line is damaged, or blank.
    """
    if not is_intact(line):
        raise OSError(errno.EIO, "a line of the catalog is damaged")
    start = line.index(HEAD)
    if b'"epoch":%d,' % epoch not in line[:start]:
        raise ErasedError(errno.ENOENT, "the session was deleted, and there is another one")
    return line[start + len(HEAD) : -2]


def end_of_last_checkpoint(data: bytes) -> int:
    """Return the end of the last intact checkpoint line; 0 when there is none."""
    end = len(data)
    while (place := data.rfind(_CHECKPOINT, 0, end)) >= 0:
        start = data.rfind(b"\n", 0, place) + 1
        stop = data.find(b"\n", place) + 1
        if place == start + LINE_PREFIX_BYTES and is_intact(data[start:stop]):
            return stop
        end = place
    return 0


def gone_lines(data: bytes, end: int) -> dict[int, int]:
    """Return the offset and length of each line that an intact `gone` line names."""
    found: dict[int, int] = {}
    place = -1
    while (place := data.find(_GONE, place + 1, end)) >= 0:
        start = data.rfind(b"\n", 0, place) + 1
        line = data[start : data.find(b"\n", place) + 1]
        if place == start + LINE_PREFIX_BYTES and is_intact(line):
            for at in codec.decode(line)["gone"]:
                found[at] = data.index(b"\n", at) + 1 - at
    return found
