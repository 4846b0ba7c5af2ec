"""catalog.jsonl: the heads of all sessions, so that a start need not look at their files.

Append-only. A checkpoint adds a line for each session that changed, then one that says how far it
has come, and syncs; only then are journal segments dropped. The last line of a session counts:

    {"crc":"…","id":"s-1","epoch":…,"seq":…,"activity":…,"size":…,"marks":…,"snapshot":…,"head":{…}}
    {"crc":"…","gone":[<where a line of a deleted session begins>,…]}
    {"crc":"…","checkpoint":<lsn>,"epoch":<the last one given>,"format":2}

The format says who has written last: without it (1) it was a gateway whose sidecars may not fit
their logs, so the next start looks through all of them (`upgrading`).

What stands behind the last checkpoint line is torn and does not count. Any line damaged before it
makes the whole file untrustworthy, since nobody knows whose line it was: then the catalog is
rebuilt from the logs. A file grown to twice what counts in it is rewritten aside.

Heads hold what people wrote (titles, metadata), so those of a deleted session do not wait for that:
a `gone` line says where all its lines are, and once it is synced they are overwritten with blanks,
in place. It costs what is deleted, not what there is. Lines that are said to be gone are not looked
at again, so a crash in between leaves nothing to repair but blanks to write.
"""

import errno
import os
from contextlib import suppress
from dataclasses import dataclass, field
from threading import Lock
from typing import Any

from bamboo_gateway.domain import codec
from bamboo_gateway.domain.sessions import SessionHead
from bamboo_gateway.storage.jsonl.files import FileSystem
from bamboo_gateway.storage.jsonl.index.catalog import Entry
from bamboo_gateway.storage.jsonl.paths import Paths
from bamboo_gateway.storage.lines import LINE_PREFIX_BYTES, is_intact, to_line
from bamboo_gateway.storage.listing import Origin, stored_head_state

# Below this, rewriting would save nothing anybody notices.
_SMALL_BYTES = 1024 * 1024
# What this gateway writes; see the module.
FORMAT = 2
_HEAD = b'"head":'
_GONE = b'"gone":'
_CHECKPOINT = b'"checkpoint":'
# What a line is looked for in at once: most heads take less.
_LINE_BYTES = 4096

_Place = tuple[int, int]


class ErasedError(OSError):
    """The life of a session that was looked up has ended since: its line is not here any more."""


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

    @staticmethod
    def of(entry: Entry) -> "EntryState":
        """Take it."""
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
        )

    def settle(self) -> None:
        """Let the head rest in the file, if it is still the one written (loop's thread)."""
        entry = self.entry
        if entry.head is self.head and entry.raw is self.raw:
            entry.head = entry.raw = None


@dataclass(slots=True)
class CatalogContents:
    """A catalog as read: `problem` says why it cannot be used, if so."""

    entries: dict[str, Entry] = field(default_factory=dict)
    unfinished: set[str] = field(default_factory=set)
    lsn: int = 0
    last_epoch: int = 0
    torn_bytes: int = 0
    format: int = FORMAT
    problem: str | None = None


class CatalogFile:
    """The file. Used by one thread at a time: recovery's, then the checkpoint's."""

    def __init__(self, fs: FileSystem, paths: Paths, *, keeps_heads: bool) -> None:
        """Make it; `keeps_heads`: entries hold their heads in memory, else they rest here."""
        self._fs = fs
        self._paths = paths
        self.keeps_heads = keeps_heads
        # Held while lines move or go, and while somebody reads one.
        self._places_lock = Lock()
        self._fd: int | None = None
        self._size = 0
        # Where the last line of each session lies, (offset, length); and where those before it
        # begin, which a rewrite leaves out.
        self._last: dict[str, _Place] = {}
        self._former: dict[str, list[int]] = {}
        self._live_bytes = 0
        self._last_checkpoint = b""
        # Lines said to be gone that are not blank yet.
        self._owed: list[_Place] = []
        self._has_torn_end = False
        # After a failed write or sync the file's end is unknown: it is then written anew.
        self._is_sound = False

    def load(self) -> CatalogContents:
        """Read the file."""
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
        gone = _gone_lines(data, end)
        self._read_lines(contents, data, end, gone)
        if contents.problem is None:
            self._size = end
            self._live_bytes = sum(length for _, length in self._last.values())
            self._last_checkpoint = data[data.rfind(b"\n", 0, end - 1) + 1 : end]
            self._owed = [place for place in gone.items() if not _is_blank(data, place)]
            self._has_torn_end = contents.torn_bytes > 0
            self._is_sound = True
        return contents

    def _read_lines(
        self, contents: CatalogContents, data: bytes, end: int, gone: dict[int, int]
    ) -> None:
        entries, unfinished = contents.entries, contents.unfinished
        keeps_heads = self.keeps_heads
        offset = 0
        for line in data[:end].splitlines(keepends=True):
            start, offset = offset, offset + len(line)
            if start in gone:
                continue
            if not is_intact(line):
                contents.problem = f"damaged at byte {start}"
                return
            shape = codec.decode(line)
            head = shape.get("head")
            if head is not None:
                entry = _entry_of(shape)
                self._note_line(entry.id, (start, len(line)))
                if keeps_heads:
                    entry.raw = line[line.index(_HEAD) + len(_HEAD) : -2]
                entries[entry.id] = entry
                if "active" in head or "queue" in head:
                    unfinished.add(entry.id)
                else:
                    unfinished.discard(entry.id)
            elif "checkpoint" in shape:
                contents.lsn = shape["checkpoint"]
                contents.last_epoch = max(contents.last_epoch, shape["epoch"])
                contents.format = shape.get("format", 1)

    def append(
        self, states: list[EntryState], deleted: list[str], lsn: int, last_epoch: int
    ) -> None:
        """Add what a checkpoint knows, and sync; what is deleted is not in the file any more.

        Args:
            states: What has changed.
            deleted: The sessions of which a life has ended; a new one may be among `states`.
            lsn: How far the checkpoint has come.
            last_epoch: The last one given.

        Raises:
            OSError: It has to be given again.
        """
        if not self._is_sound:
            self._repair_end()
        gone = [place for name in deleted for place in self._places_of(name)]
        lines = [self._line_of(state) for state in states]
        said = [_line({"gone": [at for at, _ in gone]})] if gone else []
        checkpoint = _checkpoint_line(lsn, last_epoch)
        data = b"".join([*lines, *said, checkpoint])
        self._write_at_end(data)
        for name in deleted:
            self._forget_lines(name)
        self._note_lines(states, lines, self._size)
        self._size += len(data)
        self._last_checkpoint = checkpoint
        self._owed += gone
        self.erase()

    def _write_at_end(self, data: bytes) -> None:
        fd = self._open()
        self._is_sound = False
        if self._has_torn_end:
            # It may be longer than what is written over it.
            self._fs.truncate(fd, self._size)
        self._fs.pwrite(fd, data, self._size)
        self._fs.sync(fd)
        self._is_sound, self._has_torn_end = True, False

    def _note_lines(self, states: list[EntryState], lines: list[bytes], offset: int) -> None:
        for state, line in zip(states, lines, strict=True):
            self._note_line(state.entry.id, (offset, len(line)))
            offset += len(line)

    def _note_line(self, session_id: str, place: _Place) -> None:
        former = self._last.get(session_id)
        if former is not None:
            self._former.setdefault(session_id, []).append(former[0])
            self._live_bytes -= former[1]
        self._last[session_id] = place
        self._live_bytes += place[1]

    def _forget_lines(self, session_id: str) -> None:
        last = self._last.pop(session_id, None)
        if last is not None:
            self._live_bytes -= last[1]
        self._former.pop(session_id, None)

    def _places_of(self, session_id: str) -> list[_Place]:
        """Return where all lines of a session are."""
        last = self._last.get(session_id)
        if last is None:
            return []
        return [*((at, self._length_at(at)) for at in self._former.get(session_id, ())), last]

    def _length_at(self, offset: int) -> int:
        fd, size = self._open(), _LINE_BYTES
        while True:
            newline = self._fs.pread(fd, min(size, self._size - offset), offset).find(b"\n")
            if newline >= 0:
                return newline + 1
            if offset + size >= self._size:
                raise OSError(errno.EIO, "a line of the catalog is not there")
            size *= 4

    def erase(self) -> None:
        """Write the blanks that are still owed, and sync.

        Raises:
            OSError: They are owed on.
        """
        if not self._owed:
            return
        fd = self._open()
        with self._places_lock:
            for at, length in self._owed:
                self._fs.pwrite(fd, b" " * (length - 1) + b"\n", at)
        self._fs.sync(fd)
        self._owed = []

    def _repair_end(self) -> None:
        """Go back to the end of what is known to count, after a failure."""
        self.close()
        if self._size == 0:
            self._fs.write_aside(self._paths.aside / "catalog", self._paths.catalog, b"")
            self._is_sound = True
            return
        self._rewrite()

    def rewrite_if_due(self) -> None:
        """Rewrite the file when what does not count in it has outgrown what does.

        Raises:
            OSError: The file is as it was.
        """
        if self._is_sound and self._size > 2 * self._live_bytes + _SMALL_BYTES:
            self._rewrite()

    def _rewrite(self) -> None:
        data = self._fs.read(self._paths.catalog) or b""
        parts: list[bytes] = []
        last: dict[str, _Place] = {}
        offset = 0
        for session_id, (start, length) in self._last.items():
            parts.append(data[start : start + length])
            last[session_id] = (offset, length)
            offset += length
        with self._places_lock:
            self._replace(b"".join([*parts, self._last_checkpoint]))
            self._last, self._live_bytes = last, offset
        self._settle_name()

    def _replace(self, data: bytes) -> None:
        """Put a file in the place of this one; it counts when `_settle_name` has returned."""
        self._is_sound = False
        aside = self._paths.aside / "catalog"
        self._fs.write_new(aside, data)
        self._fs.rename(aside, self._paths.catalog)
        self.close()
        self._size = len(data)
        self._last, self._former, self._live_bytes, self._owed = {}, {}, 0, []
        self._has_torn_end = False

    def _settle_name(self) -> None:
        self._fs.sync_directory(self._paths.index)
        self._is_sound = True

    def start_anew(self, states: list[EntryState], lsn: int, last_epoch: int) -> None:
        """Write the whole file from what is known, aside.

        Raises:
            OSError: The file is as it was, or all of this; it is written anew before it is used.
        """
        lines = [self._line_of(state) for state in states]
        checkpoint = _checkpoint_line(lsn, last_epoch)
        self._replace(b"".join([*lines, checkpoint]))
        # Not before: a file as it was must not be written again with how far this one goes.
        self._last_checkpoint = checkpoint
        self._note_lines(states, lines, 0)
        self._settle_name()

    def _line_of(self, state: EntryState) -> bytes:
        raw = state.raw
        if state.head is not None:
            raw = codec.encode(state.head.to_json())
        elif raw is None:
            raw = self._stored_head(state.entry)
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
        return to_line(b"%b,%b%b}" % (codec.encode(shape)[:-1], _HEAD, raw))

    def head_of(self, entry: Entry) -> SessionHead | None:
        """Read a head that is not in memory; None when it has come there meanwhile.

        Raises:
            ErasedError: That life of the session has ended.
            OSError: It cannot be read, or its line is damaged.
        """
        with self._places_lock:
            if entry.is_at_hand:
                return None
            raw = self._stored_head(entry)
        return SessionHead.of(codec.decode(raw))

    def heads_of(self, entries: list[Entry]) -> list[tuple[Entry, bytes]]:
        """Read the heads of all entries that lie here, in one go; not those deleted meanwhile.

        Raises:
            OSError: They cannot be read.
        """
        with self._places_lock:
            data = self._fs.read(self._paths.catalog) or b""
            places = [(e, self._last.get(e.id)) for e in entries if not e.is_at_hand]
        found: list[tuple[Entry, bytes]] = []
        for entry, place in places:
            if place is not None:
                with suppress(ErasedError):
                    found.append((entry, _head_in(data[place[0] : sum(place)], entry.epoch)))
        return found

    def _stored_head(self, entry: Entry) -> bytes:
        place = self._last.get(entry.id)
        if place is None:
            raise ErasedError(errno.ENOENT, "the session was deleted")
        return _head_in(self._fs.pread(self._open(), place[1], place[0]), entry.epoch)

    def _open(self) -> int:
        if self._fd is None:
            self._fd = self._fs.open(self._paths.catalog, os.O_RDWR)
        return self._fd

    def close(self) -> None:
        """Close the file; the next use opens it again."""
        fd, self._fd = self._fd, None
        if fd is not None:
            self._fs.close(fd)


def _entry_of(shape: dict[str, Any]) -> Entry:
    session_id = shape["id"]
    entry = Entry(session_id, shape["epoch"], Origin.of_json(session_id, shape["head"]))
    entry.head_state = stored_head_state(shape["head"])
    entry.seq = shape["seq"]
    entry.activity = shape["activity"]
    entry.size = shape["size"]
    entry.marks = shape["marks"]
    entry.snapshot = shape["snapshot"]
    entry.snapshot_bytes = shape.get("snapshot_bytes", 0)
    entry.deltas = shape.get("deltas", 0)
    entry.bundle = shape.get("bundle", 0)
    return entry


def _line(shape: dict[str, Any]) -> bytes:
    return to_line(codec.encode(shape))


def _checkpoint_line(lsn: int, last_epoch: int) -> bytes:
    return _line({"checkpoint": lsn, "epoch": last_epoch, "format": FORMAT})


def _is_blank(data: bytes, place: _Place) -> bool:
    return data[place[0] : sum(place)].isspace()


def _head_in(line: bytes, epoch: int) -> bytes:
    if not is_intact(line):
        raise OSError(errno.EIO, "a line of the catalog is damaged")
    start = line.index(_HEAD)
    if b'"epoch":%d,' % epoch not in line[:start]:
        raise ErasedError(errno.ENOENT, "the session was deleted, and there is another one")
    return line[start + len(_HEAD) : -2]


def _end_of_last_checkpoint(data: bytes) -> int:
    """Return where the last intact checkpoint line ends; 0 when there is none."""
    end = len(data)
    while (place := data.rfind(_CHECKPOINT, 0, end)) >= 0:
        start = data.rfind(b"\n", 0, place) + 1
        stop = data.find(b"\n", place) + 1
        if place == start + LINE_PREFIX_BYTES and is_intact(data[start:stop]):
            return stop
        end = place
    return 0


def _gone_lines(data: bytes, end: int) -> dict[int, int]:
    """Return the offset and length of each line that an intact line says is gone."""
    found: dict[int, int] = {}
    place = -1
    while (place := data.find(_GONE, place + 1, end)) >= 0:
        start = data.rfind(b"\n", 0, place) + 1
        line = data[start : data.find(b"\n", place) + 1]
        if place == start + LINE_PREFIX_BYTES and is_intact(line):
            for at in codec.decode(line)["gone"]:
                found[at] = data.index(b"\n", at) + 1 - at
    return found
