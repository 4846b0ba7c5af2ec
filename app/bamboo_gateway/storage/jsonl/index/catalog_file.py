"""catalog.jsonl: the heads of all sessions, so that a start need not read their files.

The file is append-only. A checkpoint adds a line for each changed session, then a line with its own
position, and syncs; only then does it drop journal segments. The last line of a session counts:

    {"crc":"…","id":"s-1","epoch":…,"seq":…,"activity":…,"size":…,"marks":…,"snapshot":…,"head":{…}}
    {"crc":"…","gone":[<offset of a deleted session's line>,…]}
    {"crc":"…","deleted":"s-1","changed":<lsn>,"type":"user","user_id":…}
    {"crc":"…","checkpoint":<lsn>,"epoch":<the last one>,"format":2,"feed":"…","forgotten":<lsn>}

A session's line also has `changed`, the number of its last change. A `deleted` line tells those who
ask for changes that a session is gone; it counts until the session is created again, or a
checkpoint's `forgotten` reaches its number (see `change_log`).

The format tells which gateway wrote last. Without it (format 1) it was one whose mark files may not
fit their logs, so the next start checks all of them (see `upgrade`).

Bytes behind the last checkpoint line are torn and do not count. A damaged line before it makes the
whole file unusable, since nobody knows which session it belonged to; then recovery rebuilds the
catalog from the logs. When the file is twice as large as the lines that count, it is rewritten.

Heads hold text of users (titles, metadata), so the heads of a deleted session do not wait for a
rewrite. A `gone` line has the offsets of all its lines; once it is synced, they are overwritten
with blanks, in place. This takes time for what is deleted, not for the whole catalog. Lines named
in a `gone` line are not read again. After a crash in between, the blanks still have to be written,
but nothing has to be repaired.
"""

import errno
import os
from collections.abc import Mapping
from contextlib import suppress
from threading import Lock

from bamboo_gateway.domain import codec
from bamboo_gateway.domain.sessions import SessionHead, is_stored_unfinished
from bamboo_gateway.storage.file_system import FileSystem
from bamboo_gateway.storage.jsonl.index.catalog import Entry
from bamboo_gateway.storage.jsonl.index.catalog_lines import (
    HEAD,
    CatalogContents,
    EntryState,
    ErasedError,
    Place,
    end_of_last_checkpoint,
    entry_of,
    gone_lines,
    head_in,
    is_blank,
    make_checkpoint_line,
    make_gone_line,
    make_line,
)
from bamboo_gateway.storage.jsonl.index.change_log import Feed, Gone, gone_of_json
from bamboo_gateway.storage.jsonl.paths import Paths
from bamboo_gateway.storage.lines import is_intact, to_line

# Below this size a rewrite would save too little to notice.
_SMALL_BYTES = 1024 * 1024
# The bytes read at once to find the end of a line: most heads take less.
_LINE_BYTES = 4096


class CatalogFile:
    """Reads and writes the file; one thread at a time: recovery's, then the checkpoint's."""

    def __init__(self, fs: FileSystem, paths: Paths, *, keeps_heads: bool) -> None:
        """Create it; with `keeps_heads` entries keep their heads in memory, otherwise only here."""
        self._fs = fs
        self._paths = paths
        self.keeps_heads = keeps_heads
        # Held while lines are moved or erased, and while one is read.
        self._places_lock = Lock()
        self._fd: int | None = None
        self._size = 0
        # The last line of each session, (offset, length), and the offsets of its former lines,
        # which a rewrite leaves out.
        self._last: dict[str, Place] = {}
        self._former: dict[str, list[int]] = {}
        self._live_bytes = 0
        # The numbers and lines of deletions, in the order of the numbers.
        self._deletions: dict[str, tuple[int, Place]] = {}
        self._last_checkpoint = b""
        # Lines named in a `gone` line that are not overwritten with blanks yet.
        self._unerased: list[Place] = []
        self._has_torn_end = False
        # After a failed write or sync the end of the file is unknown: the file is then rewritten.
        self._is_sound = False
        # Somebody waits for former lines to go, however few they are.
        self.is_rewrite_wanted = False

    def load(self) -> CatalogContents:
        """Read the whole file."""
        contents = CatalogContents()
        data = self._fs.read(self._paths.catalog)
        if not data:
            contents.problem = "missing" if data is None else "empty"
            return contents
        end = end_of_last_checkpoint(data)
        if end == 0:
            contents.problem = "torn"
            return contents
        contents.torn_bytes = len(data) - end
        gone = gone_lines(data, end)
        self._read_lines(contents, data, end, gone)
        if contents.problem is None:
            self._size = end
            self._live_bytes = sum(length for _, length in self._last.values())
            self._live_bytes += sum(length for _, (_, length) in self._deletions.values())
            if contents.feed is not None:
                self._forget_deletions(contents.feed.forgotten)
                contents.gone = {name: contents.gone[name] for name in self._deletions}
            self._last_checkpoint = data[data.rfind(b"\n", 0, end - 1) + 1 : end]
            self._unerased = [place for place in gone.items() if not is_blank(data, place)]
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
                entry = entry_of(shape)
                self._note_line(entry.id, (start, len(line)))
                if keeps_heads:
                    entry.raw = line[line.index(HEAD) + len(HEAD) : -2]
                entries[entry.id] = entry
                contents.gone.pop(entry.id, None)
                if is_stored_unfinished(head):
                    unfinished.add(entry.id)
                else:
                    unfinished.discard(entry.id)
            elif "checkpoint" in shape:
                contents.lsn = shape["checkpoint"]
                contents.last_epoch = max(contents.last_epoch, shape["epoch"])
                contents.format = shape.get("format", 1)
                name = shape.get("feed")
                contents.feed = Feed(name, shape["forgotten"]) if name else None
            elif "deleted" in shape:
                deletion = Gone(shape["changed"], gone_of_json(shape))
                self._note_deletion(shape["deleted"], deletion.number, (start, len(line)))
                contents.gone.pop(shape["deleted"], None)
                contents.gone[shape["deleted"]] = deletion

    def append(
        self,
        states: list[EntryState],
        deleted: list[str],
        lsn: int,
        last_epoch: int,
        *,
        feed: Feed | None = None,
        gone: Mapping[str, Gone] | None = None,
    ) -> None:
        """Add the changes of a checkpoint, sync, and erase the lines of deleted sessions.

        Args:
            states: The changed sessions.
            deleted: The deleted sessions; a new session with the same id may be among `states`.
            lsn: The last record that the checkpoint covers.
            last_epoch: The last epoch given out.
            feed: The feed of changes.
            gone: The deletions that those are told of who ask for changes.

        Raises:
            OSError: It failed; the same changes have to be added again.
        """
        if not self._is_sound:
            self._repair_end()
        erased = [place for name in deleted for place in self._places_of(name)]
        lines = [self._line_of(state) for state in states]
        gone_line = [make_line({"gone": [at for at, _ in erased]})] if erased else []
        gone = gone or {}
        deletions = [make_gone_line(name, one) for name, one in gone.items()]
        checkpoint = make_checkpoint_line(lsn, last_epoch, feed)
        data = b"".join([*deletions, *lines, *gone_line, checkpoint])
        self._write_at_end(data)
        for name in deleted:
            self._forget_lines(name)
        offset = self._note_deletions(gone, deletions, self._size)
        self._note_lines(states, lines, offset)
        if feed is not None:
            self._forget_deletions(feed.forgotten)
        self._size += len(data)
        self._last_checkpoint = checkpoint
        self._unerased += erased
        self.erase()

    def _write_at_end(self, data: bytes) -> None:
        fd = self._open()
        self._is_sound = False
        if self._has_torn_end:
            # The torn end may be longer than what overwrites it.
            self._fs.truncate(fd, self._size)
        self._fs.pwrite(fd, data, self._size)
        self._fs.sync(fd)
        self._is_sound, self._has_torn_end = True, False

    def _note_lines(self, states: list[EntryState], lines: list[bytes], offset: int) -> None:
        for state, line in zip(states, lines, strict=True):
            self._note_line(state.entry.id, (offset, len(line)))
            offset += len(line)

    def _note_deletions(self, gone: Mapping[str, Gone], lines: list[bytes], offset: int) -> int:
        for (session_id, one), line in zip(gone.items(), lines, strict=True):
            self._note_deletion(session_id, one.number, (offset, len(line)))
            self._live_bytes += len(line)
            offset += len(line)
        return offset

    def _note_deletion(self, session_id: str, number: int, place: Place) -> None:
        self._deletions.pop(session_id, None)
        self._deletions[session_id] = number, place

    def _forget_deletions(self, upto: int) -> None:
        """Forget the lines of deletions up to a number; a rewrite leaves them out."""
        while self._deletions:
            session_id, (number, place) = next(iter(self._deletions.items()))
            if number > upto:
                return
            del self._deletions[session_id]
            self._live_bytes -= place[1]

    def _note_line(self, session_id: str, place: Place) -> None:
        if self._deletions and (deletion := self._deletions.pop(session_id, None)):
            self._live_bytes -= deletion[1][1]
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

    def _places_of(self, session_id: str) -> list[Place]:
        """Return the places of all lines of a session."""
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
        """Overwrite the lines of deleted sessions with blanks, and sync.

        Raises:
            OSError: It failed; the next call tries again.
        """
        if not self._unerased:
            return
        fd = self._open()
        with self._places_lock:
            for at, length in self._unerased:
                self._fs.pwrite(fd, b" " * (length - 1) + b"\n", at)
        self._fs.sync(fd)
        self._unerased = []

    def _repair_end(self) -> None:
        """Go back to the last content known to be good, after a failure."""
        self.close()
        if self._size == 0:
            self._fs.write_aside(self._paths.aside / "catalog", self._paths.catalog, b"")
            self._is_sound = True
            return
        self._rewrite()

    def rewrite_if_due(self) -> None:
        """Rewrite the file when that is wanted, or former lines take more space than others.

        Raises:
            OSError: The file is unchanged.
        """
        is_large = self._size > 2 * self._live_bytes + _SMALL_BYTES
        if self._is_sound and (is_large or self.is_rewrite_wanted):
            self._rewrite()
            self.is_rewrite_wanted = False

    def _rewrite(self) -> None:
        data = self._fs.read(self._paths.catalog) or b""
        parts: list[bytes] = []
        last: dict[str, Place] = {}
        offset = 0
        for session_id, (start, length) in self._last.items():
            parts.append(data[start : start + length])
            last[session_id] = (offset, length)
            offset += length
        deletions: dict[str, tuple[int, Place]] = {}
        for session_id, (number, (start, length)) in self._deletions.items():
            parts.append(data[start : start + length])
            deletions[session_id] = number, (offset, length)
            offset += length
        with self._places_lock:
            self._replace(b"".join([*parts, self._last_checkpoint]))
            self._last, self._deletions, self._live_bytes = last, deletions, offset
        self._settle_name()

    def _replace(self, data: bytes) -> None:
        """Replace the file; the new one counts when `_settle_name` has returned."""
        self._is_sound = False
        aside = self._paths.aside / "catalog"
        self._fs.write_new(aside, data)
        self._fs.rename(aside, self._paths.catalog)
        self.close()
        self._size = len(data)
        self._last, self._former, self._live_bytes, self._unerased = {}, {}, 0, []
        self._deletions = {}
        self._has_torn_end = False

    def _settle_name(self) -> None:
        self._fs.sync_directory(self._paths.index)
        self._is_sound = True

    def start_anew(
        self, states: list[EntryState], lsn: int, last_epoch: int, feed: Feed | None = None
    ) -> None:
        """Write a whole new file with these entries; without a feed the next start begins one.

        Raises:
            OSError: It failed; the file is rewritten before it is used.
        """
        lines = [self._line_of(state) for state in states]
        checkpoint = make_checkpoint_line(lsn, last_epoch, feed)
        self._replace(b"".join([*lines, checkpoint]))
        # Not before: a rewrite of the former file must not end with the checkpoint line of this
        # one.
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
        if state.changed:
            shape["changed"] = state.changed
        return to_line(b"%b,%b%b}" % (codec.encode(shape)[:-1], HEAD, raw))

    def head_of(self, entry: Entry) -> SessionHead | None:
        """Read a head that is not in memory; return None when it is in memory by now.

        Raises:
            ErasedError: The session was deleted.
            OSError: The head cannot be read, or its line is damaged.
        """
        with self._places_lock:
            if entry.has_head:
                return None
            raw = self._stored_head(entry)
        return SessionHead.of(codec.decode(raw))

    def heads_of(self, entries: list[Entry]) -> list[tuple[Entry, bytes]]:
        """Read all heads that are only in the file, in one pass; skip sessions deleted meanwhile.

        Raises:
            OSError: The file cannot be read.
        """
        with self._places_lock:
            data = self._fs.read(self._paths.catalog) or b""
            places = [(e, self._last.get(e.id)) for e in entries if not e.has_head]
        found: list[tuple[Entry, bytes]] = []
        for entry, place in places:
            if place is not None:
                with suppress(ErasedError):
                    found.append((entry, head_in(data[place[0] : sum(place)], entry.epoch)))
        return found

    def _stored_head(self, entry: Entry) -> bytes:
        place = self._last.get(entry.id)
        if place is None:
            raise ErasedError(errno.ENOENT, "the session was deleted")
        return head_in(self._fs.pread(self._open(), place[1], place[0]), entry.epoch)

    def _open(self) -> int:
        if self._fd is None:
            self._fd = self._fs.open(self._paths.catalog, os.O_RDWR)
        return self._fd

    def close(self) -> None:
        """Close the file; its next use opens it again."""
        fd, self._fd = self._fd, None
        if fd is not None:
            self._fs.close(fd)
