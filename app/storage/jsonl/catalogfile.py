"""catalog.jsonl: the heads of all sessions, so that a start need not look at their files.

Append-only. A checkpoint adds a line for each session that changed, then one that says how far it
has come, and syncs; only then are journal segments dropped. The last line of a session counts:

    {"crc":"…","id":"s-1","epoch":…,"seq":…,"activity":…,"size":…,"marks":…,"snapshot":…,"head":{…}}
    {"crc":"…","deleted":"s-1"}
    {"crc":"…","checkpoint":<lsn>,"epoch":<the last one given>}

What stands behind the last checkpoint line is torn and does not count. Any line damaged before it
makes the whole file untrustworthy, since nobody knows whose line it was: then the catalog is
rebuilt from the logs. A file grown to twice what counts in it is rewritten aside.
"""

import errno
import os
from dataclasses import dataclass, field
from threading import Lock
from typing import Any

from app.domain import codec
from app.domain.sessions import SessionHead
from app.storage.jsonl.catalog import Entry
from app.storage.jsonl.files import FileSystem
from app.storage.jsonl.paths import Paths
from app.storage.listing import Origin

# Below this, rewriting would save nothing anybody notices.
_SMALL_BYTES = 1024 * 1024
_HEAD = b'"head":'
_CHECKPOINT = b'"checkpoint":'


@dataclass(slots=True)
class EntryState:
    """What a checkpoint writes of an entry: taken on the loop's thread, all of one moment."""

    entry: Entry
    seq: int
    activity: int
    size: int
    snapshot: int
    snapshot_bytes: int
    deltas: int
    bundle: int
    head: SessionHead | None
    raw: bytes | None
    place: tuple[int, int] | None
    written_at: tuple[int, int] | None = None

    @staticmethod
    def of(entry: Entry) -> "EntryState":
        """Takes it."""
        return EntryState(
            entry,
            entry.seq,
            entry.activity,
            entry.size,
            entry.snapshot,
            entry.snapshot_bytes,
            entry.deltas,
            entry.bundle,
            entry.head,
            entry.raw,
            entry.place,
        )

    def settle(self) -> None:
        """Lets the head rest in the file, if it is still the one written (loop's thread)."""
        entry = self.entry
        if entry.head is self.head and entry.raw is self.raw:
            entry.place = self.written_at
            entry.head = entry.raw = None


@dataclass(slots=True)
class CatalogContents:
    """A catalog as read: `problem` says why it cannot be used, if so."""

    entries: dict[str, Entry] = field(default_factory=dict)
    unfinished: set[str] = field(default_factory=set)
    lsn: int = 0
    last_epoch: int = 0
    torn_bytes: int = 0
    problem: str | None = None


class CatalogFile:
    """The file. Used by one thread at a time: recovery's, then the checkpoint's."""

    def __init__(self, fs: FileSystem, paths: Paths, *, keeps_heads: bool) -> None:
        """Makes it; `keeps_heads`: entries hold their heads in memory, not their places here."""
        self._fs = fs
        self._paths = paths
        self.keeps_heads = keeps_heads
        # Held while places move, and while somebody goes to one.
        self._places_lock = Lock()
        self._fd: int | None = None
        self._size = 0
        self._live_bytes = 0
        # After a failed write or sync the file's end is unknown: it is then written anew.
        self._is_sound = False

    def load(self) -> CatalogContents:
        """Reads the file."""
        contents = CatalogContents()
        data = self._fs.read(self._paths.catalog)
        if not data:
            contents.problem = "missing" if data is None else "empty"
            return contents
        end = _end_of_last_checkpoint(data)
        if end == 0:
            contents.problem = "torn"
            return contents
        contents.torn_bytes = len(data) - end
        self._read_lines(contents, data, end)
        if contents.problem is None:
            self._size = end
            self._live_bytes = sum(entry.line_bytes for entry in contents.entries.values())
            self._is_sound = True
        return contents

    def _read_lines(self, contents: CatalogContents, data: bytes, end: int) -> None:
        entries, unfinished = contents.entries, contents.unfinished
        keeps_heads = self.keeps_heads
        offset = 0
        for line in data[:end].splitlines(keepends=True):
            start, offset = offset, offset + len(line)
            if not codec.is_intact(line):
                contents.problem = f"damaged at byte {start}"
                return
            shape = codec.decode(line)
            head = shape.get("head")
            if head is not None:
                entry = _entry_of(shape)
                entry.line_bytes = len(line)
                if keeps_heads:
                    entry.raw = line[line.index(_HEAD) + len(_HEAD) : -2]
                else:
                    entry.place = (start, len(line))
                entries[entry.id] = entry
                if "active" in head or "queue" in head:
                    unfinished.add(entry.id)
                else:
                    unfinished.discard(entry.id)
            elif "deleted" in shape:
                entries.pop(shape["deleted"], None)
                unfinished.discard(shape["deleted"])
            else:
                contents.lsn = shape["checkpoint"]
                contents.last_epoch = max(contents.last_epoch, shape["epoch"])

    def append(
        self, states: list[EntryState], deleted: list[str], lsn: int, last_epoch: int
    ) -> None:
        """Adds what a checkpoint knows, and syncs.

        Raises:
            OSError: Nothing counts that was not there before.
        """
        if not self._is_sound:
            self._repair_end(states)
        parts = [self._line_of(state) for state in states]
        lengths = [len(line) for line in parts]
        parts += [codec.to_line(codec.encode({"deleted": name})) for name in deleted]
        parts.append(codec.to_line(codec.encode({"checkpoint": lsn, "epoch": last_epoch})))
        data = b"".join(parts)
        fd = self._open()
        self._is_sound = False
        self._fs.pwrite(fd, data, self._size)
        self._fs.sync(fd)
        self._is_sound = True
        self._note_lines(states, lengths, self._size)
        self._size += len(data)

    def _note_lines(self, states: list[EntryState], lengths: list[int], offset: int) -> None:
        for state, length in zip(states, lengths, strict=True):
            self._live_bytes += length - state.entry.line_bytes
            state.entry.line_bytes = length
            state.written_at = (offset, length)
            offset += length

    def _repair_end(self, states: list[EntryState]) -> None:
        """Goes back to the end of what is known to count, after a failure."""
        self.close()
        if self._size == 0:
            self._fs.write_aside(self._paths.aside / "catalog", self._paths.catalog, b"")
            self._is_sound = True
            return
        moved = self._rewrite([state.entry for state in states])
        for state in states:
            if state.place is not None:
                state.place = moved[state.place]

    def rewrite_if_due(self, entries: dict[str, Entry]) -> None:
        """Rewrites the file when what does not count in it has outgrown what does.

        Raises:
            OSError: The file is as it was.
        """
        if self._is_sound and self._size > 2 * self._live_bytes + _SMALL_BYTES:
            self._rewrite(list(entries.values()))

    def _rewrite(self, entries: list[Entry]) -> dict[tuple[int, int], tuple[int, int]]:
        data = self._fs.read(self._paths.catalog) or b""
        last, trailer = _last_lines(data[: self._size])
        parts: list[bytes] = []
        moved: dict[tuple[int, int], tuple[int, int]] = {}
        offset = 0
        for start, length in last:
            parts.append(data[start : start + length])
            moved[start, length] = (offset, length)
            offset += length
        with self._places_lock:
            self._replace(b"".join([*parts, trailer]), len(trailer))
            if not self.keeps_heads:
                for entry in entries:
                    if entry.place is not None:
                        entry.place = moved[entry.place]
        return moved

    def _replace(self, data: bytes, trailer_bytes: int) -> None:
        self._is_sound = False
        self._fs.write_aside(self._paths.aside / "catalog", self._paths.catalog, data)
        self.close()
        self._size, self._live_bytes = len(data), len(data) - trailer_bytes
        self._is_sound = True

    def start_anew(self, states: list[EntryState], lsn: int, last_epoch: int) -> None:
        """Writes the whole file from what is known, aside.

        Raises:
            OSError: The file is as it was.
        """
        lines = [self._line_of(state) for state in states]
        trailer = codec.to_line(codec.encode({"checkpoint": lsn, "epoch": last_epoch}))
        self._replace(b"".join([*lines, trailer]), len(trailer))
        for state in states:
            state.entry.line_bytes = 0
        self._live_bytes = 0
        self._note_lines(states, [len(line) for line in lines], 0)

    def _line_of(self, state: EntryState) -> bytes:
        raw = state.raw
        if state.head is not None:
            raw = codec.encode(state.head.to_json())
        elif raw is None and state.place is not None:
            raw = self._head_at(state.place)
        assert raw is not None
        entry = state.entry
        shape = {
            "id": entry.id,
            "epoch": entry.epoch,
            "seq": state.seq,
            "activity": state.activity,
            "size": state.size,
            "marks": entry.marks,
            "snapshot": state.snapshot,
            "snapshot_bytes": state.snapshot_bytes,
            "deltas": state.deltas,
        }
        if state.bundle:
            shape["bundle"] = state.bundle
        return codec.to_line(b"%b,%b%b}" % (codec.encode(shape)[:-1], _HEAD, raw))

    def head_of(self, entry: Entry) -> SessionHead | None:
        """Reads a head that is not in memory; None when it has come there meanwhile.

        Raises:
            OSError: It cannot be read, or its line is damaged.
        """
        with self._places_lock:
            place = entry.place
            if place is None or entry.is_at_hand:
                return None
            raw = self._head_at(place)
        return SessionHead.of(codec.decode(raw))

    def heads_of(self, entries: list[Entry]) -> list[tuple[Entry, bytes]]:
        """Reads the heads of all entries that lie here, in one go.

        Raises:
            OSError: They cannot be read.
        """
        with self._places_lock:
            data = self._fs.read(self._paths.catalog) or b""
            placed = [(entry, place) for entry in entries if (place := entry.place) is not None]
        return [(entry, _head_in(data[at : at + length])) for entry, (at, length) in placed]

    def _head_at(self, place: tuple[int, int]) -> bytes:
        return _head_in(self._fs.pread(self._open(), place[1], place[0]))

    def _open(self) -> int:
        if self._fd is None:
            self._fd = self._fs.open(self._paths.catalog, os.O_RDWR)
        return self._fd

    def close(self) -> None:
        """Closes the file; the next use opens it again."""
        fd, self._fd = self._fd, None
        if fd is not None:
            self._fs.close(fd)


def _entry_of(shape: dict[str, Any]) -> Entry:
    entry = Entry(shape["id"], shape["epoch"])
    entry.seq = shape["seq"]
    entry.activity = shape["activity"]
    entry.size = shape["size"]
    entry.marks = shape["marks"]
    entry.snapshot = shape["snapshot"]
    entry.snapshot_bytes = shape.get("snapshot_bytes", 0)
    entry.deltas = shape.get("deltas", 0)
    entry.bundle = shape.get("bundle", 0)
    entry.origin = Origin.of_json(entry.id, shape["head"])
    return entry


def _head_in(line: bytes) -> bytes:
    if not codec.is_intact(line):
        raise OSError(errno.EIO, "a line of the catalog is damaged")
    return line[line.index(_HEAD) + len(_HEAD) : -2]


def _end_of_last_checkpoint(data: bytes) -> int:
    """Gives where the last intact checkpoint line ends; 0 when there is none."""
    end = len(data)
    while (place := data.rfind(_CHECKPOINT, 0, end)) >= 0:
        start = data.rfind(b"\n", 0, place) + 1
        stop = data.find(b"\n", place) + 1
        if place == start + codec.LINE_PREFIX_BYTES and codec.is_intact(data[start:stop]):
            return stop
        end = place
    return 0


def _last_lines(data: bytes) -> tuple[list[tuple[int, int]], bytes]:
    """Gives (offset, length) of each session's last line, and the last checkpoint line."""
    last: dict[str, tuple[int, int]] = {}
    trailer = b""
    offset = 0
    for line in data.splitlines(keepends=True):
        if line.startswith(_CHECKPOINT, codec.LINE_PREFIX_BYTES):
            trailer = line
        else:
            shape = codec.decode(line)
            if "deleted" in shape:
                last.pop(shape["deleted"], None)
            else:
                last[shape["id"]] = (offset, len(line))
        offset += len(line)
    return list(last.values()), trailer
