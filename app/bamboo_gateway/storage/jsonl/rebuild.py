"""Makes a session's entry from its own files, when the catalog is lost or the log is damaged."""

from contextlib import suppress
from dataclasses import dataclass, field
from urllib.parse import unquote

from bamboo_gateway.domain.sessions import SessionHead
from bamboo_gateway.storage.file_system import FileSystem
from bamboo_gateway.storage.jsonl.bundle import about_bundle, salvage_bundle
from bamboo_gateway.storage.jsonl.index.catalog import Entry
from bamboo_gateway.storage.jsonl.log.log import HEADER_BYTES_MAX, LogView, read_header
from bamboo_gateway.storage.jsonl.log.reader import DamagedError, find_after, is_note, lines_from
from bamboo_gateway.storage.jsonl.paths import Paths, file_name
from bamboo_gateway.storage.jsonl.quarantine import set_aside
from bamboo_gateway.storage.jsonl.repair import Salvage, fold_data, make_log, refill, salvage
from bamboo_gateway.storage.jsonl.snapshots import read_snapshot_head
from bamboo_gateway.storage.lines import is_delta


@dataclass(slots=True)
class Rebuilder:
    """Works on files of sessions that nobody else uses: in recovery, and in `doctor`.

    Attributes:
        fs: The file system.
        paths: The layout of the data directory.
        damaged: The damage found, a sentence each.
        quarantined: The names of the quarantined files.
    """

    fs: FileSystem
    paths: Paths
    damaged: list[str] = field(default_factory=list)
    quarantined: list[str] = field(default_factory=list)

    def header_of(self, name: str) -> tuple[str, int] | None:
        """Return the (session, epoch) in the first line of a log; None when it cannot be read."""
        data = self._first_bytes(name)
        return read_header(data[: data.find(b"\n") + 1])

    def _first_bytes(self, name: str) -> bytes:
        path = self.paths.log_of(name)
        try:
            fd = self.fs.open(path, 0)
        except FileNotFoundError:
            return b""
        try:
            return self.fs.pread(fd, HEADER_BYTES_MAX, 0)
        finally:
            self.fs.close(fd)

    def entry_of(self, name: str, *, may_be_torn: bool) -> Entry | None:
        """Read an entry from a log, beginning with the state in its snapshot.

        Args:
            name: The session's file name.
            may_be_torn: The journal has the lines that the end of the log lacks.

        Returns:
            The entry, or None when the log is damaged.
        """
        named = self.header_of(name)
        size = self.fs.size(self.paths.log_of(name))
        if size is None:
            return self._entry_of_bundle(name)
        if named is None or file_name(named[0]) != name:
            return None
        session_id, epoch = named
        view = LogView(self.fs, self.paths.log_of(name), epoch, size, b"", size)
        try:
            return self._folded(view, name, session_id, epoch, may_be_torn=may_be_torn)
        finally:
            view.close()

    def _entry_of_bundle(self, name: str) -> Entry | None:
        path = self.paths.archive_of(name)
        try:
            about = about_bundle(self.fs, path)
        except (FileNotFoundError, DamagedError):
            return None
        if file_name(about["session"]) != name:
            return None
        entry = Entry(about["session"], about["epoch"])
        entry.set_head(SessionHead.of(about["head"]))
        entry.size, entry.marks, entry.deltas = about["bytes"], about["marks"], about["deltas"]
        entry.bundle = self.fs.size(path) or 0
        return entry

    def _folded(
        self, view: LogView, name: str, session_id: str, epoch: int, *, may_be_torn: bool
    ) -> Entry | None:
        head, offset, snapshot_bytes = SessionHead(session_id, epoch), view.begin, 0
        remembered = read_snapshot_head(self.fs, self.paths, name)
        if remembered is not None and remembered[0].epoch == epoch and remembered[1] <= view.end:
            head, snapshot_bytes = remembered
        end = offset
        deltas = 0
        try:
            # Found by seq, not by offset: a compaction may have moved the lines since the snapshot
            # was written.
            end = offset = find_after(view, head.seq)
            for start, line in lines_from(view, offset):
                # Deltas before the snapshot are not counted, so this is an approximation.
                deltas += is_delta(line) and len(line) + 1
                fold_data(head, line)
                end = start + len(line) + 1
        except DamagedError:
            if not may_be_torn:
                return None
        entry = Entry(session_id, epoch)
        entry.set_head(head)
        entry.size, entry.marks, entry.snapshot = end, -1, snapshot_bytes
        entry.deltas = deltas
        return entry

    def repair(
        self,
        name: str,
        epoch: int,
        *,
        known: SessionHead | None,
        more: bytes = b"",
        why: str,
    ) -> Entry | None:
        """Replace a damaged log by its intact lines, under a new epoch.

        Args:
            name: The session's file name.
            epoch: The new epoch.
            known: The newest head that the catalog has.
            more: Stored lines that the log should have: those of the journal.
            why: What is wrong, for the note in quarantine.

        Returns:
            The new entry; None when the log's session is unknown: then the whole log goes to
            quarantine.

        Raises:
            OSError: The new log could not be written; nothing has changed.
        """
        path = self.paths.log_of(name)
        is_packed = self.fs.size(path) is None
        data = self.fs.read(path) or b""
        bundle = self.paths.archive_of(name)
        found = salvage_bundle(self.fs, bundle) if is_packed else salvage(data)
        add_lines(found, more)
        remembered = refill(self.fs, self.paths, name, found)
        known = _newest(known, remembered)
        session_id = _id_of(name, known, found)
        self.damaged.append(f"{session_id or name}: {why}")
        for offset, lost in found.damaged:
            self._set_aside(name, offset, lost, why)
        if session_id is None or (known is None and not found.lines):
            data = (self.fs.read(bundle) or b"") if is_packed else data
            self._set_aside(name, 0, data, "the session of this log is unknown")
            self.fs.unlink(bundle if is_packed else path)
            return None
        content, head = make_log(session_id, epoch, found, known)
        self.fs.write_aside(self.paths.aside / "repaired", path, content)
        if is_packed:
            self.fs.unlink(bundle)
        self._forget_copies(name)
        entry = Entry(session_id, epoch)
        entry.set_head(head)
        entry.size, entry.marks = len(content), -1
        return entry

    def _set_aside(self, name: str, offset: int, lost: bytes, why: str) -> None:
        note = {"from": f"events/{name}.jsonl", "offset": offset, "why": why}
        self.quarantined.append(set_aside(self.fs, self.paths, f"log-{name}", lost, note))

    def _forget_copies(self, name: str) -> None:
        """Remove the mark file and snapshot of the former log; the new log has all content."""
        with suppress(OSError):
            self.fs.unlink(self.paths.marks_of(name))
            self.fs.unlink(self.paths.snapshot_of(name))

    def renew(self, entry: Entry, epoch: int) -> None:
        """Give an intact log a new epoch: only its first line changes.

        Raises:
            OSError: The log could not be written; nothing has changed.
        """
        if entry.bundle:
            # A bundle was synced before anybody learned of it, so nothing of it can be missing.
            return
        name = file_name(entry.id)
        path = self.paths.log_of(name)
        found = salvage((self.fs.read(path) or b"")[: entry.size])
        content, head = make_log(entry.id, epoch, found, entry.own_head())
        self.fs.write_aside(self.paths.aside / "renewed", path, content)
        self._forget_copies(name)
        entry.epoch = epoch
        entry.set_head(head)
        entry.size, entry.marks, entry.snapshot = len(content), -1, 0


def add_lines(found: Salvage, more: bytes) -> None:
    """Add stored lines to the salvaged ones, except those whose seqs are there already."""
    if not more:
        return
    known = {seq for seq, _ in found.lines}
    lines = {line for _, line in found.lines}
    extra = [
        (seq, line)
        for seq, line in salvage(more).lines
        if line not in lines and (seq not in known or is_note(line))
    ]
    found.lines = sorted([*found.lines, *extra], key=lambda pair: pair[0])


def _newest(*heads: SessionHead | None) -> SessionHead | None:
    known = [head for head in heads if head is not None]
    return max(known, key=lambda head: (head.epoch, head.seq), default=None)


def _id_of(name: str, known: SessionHead | None, found: Salvage) -> str | None:
    if known is not None:
        return known.id
    if found.header is not None:
        return found.header[0]
    return unquote(name) if "~" not in name else None
