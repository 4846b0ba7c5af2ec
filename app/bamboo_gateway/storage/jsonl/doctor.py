"""`bamboo doctor`: examines every byte of a data directory that no process owns, and repairs it.

It reads the files with the code of the store. Without `repair` it changes nothing. It repairs as
the store does: a damaged log goes on under a new epoch, with the messages of its snapshot, and
unreadable bytes go into quarantine.
"""

from collections.abc import Callable
from pathlib import Path

from bamboo_gateway.domain.clock import Clock
from bamboo_gateway.domain.errors import InvalidId
from bamboo_gateway.domain.ids import check_id
from bamboo_gateway.storage.base import StoreUnusable
from bamboo_gateway.storage.commits import MarkKind
from bamboo_gateway.storage.file_system import FileSystem
from bamboo_gateway.storage.files.examination import check_contents
from bamboo_gateway.storage.jsonl.bundle_renewal import renew_bundle
from bamboo_gateway.storage.jsonl.index.catalog import Entry
from bamboo_gateway.storage.jsonl.index.catalog_file import CatalogFile
from bamboo_gateway.storage.jsonl.index.catalog_lines import EntryState
from bamboo_gateway.storage.jsonl.journal.reader import read_journal
from bamboo_gateway.storage.jsonl.journal.recovery import Recovery
from bamboo_gateway.storage.jsonl.lock import DirectoryLock, boot_id
from bamboo_gateway.storage.jsonl.log.held import Held, read_held
from bamboo_gateway.storage.jsonl.log.log import LogReplacedError, LogView
from bamboo_gateway.storage.jsonl.log.marks import (
    MarksFile,
    StaleMarksError,
    digests_of,
    marks_of_lines,
)
from bamboo_gateway.storage.jsonl.log.reader import DamagedError
from bamboo_gateway.storage.jsonl.paths import Paths, file_name, root_of
from bamboo_gateway.storage.jsonl.quarantine import set_aside
from bamboo_gateway.storage.jsonl.rebuild import Rebuilder
from bamboo_gateway.storage.jsonl.snapshots import is_whole, read_snapshot_head
from bamboo_gateway.storage.jsonl.values_file import ValuesFile, problem_of
from bamboo_gateway.storage.jsonl.verify import check_lines, names_on_disk, problem_of_bundle
from bamboo_gateway.storage.marks import Mark
from bamboo_gateway.storage.reports import Finding, Severity

Progress = Callable[[int, int], None]


def check(
    data_dir: Path,
    clock: Clock,
    *,
    repair: bool = False,
    new_epochs: bool = False,
    progress: Progress | None = None,
    fs: FileSystem | None = None,
) -> list[Finding]:
    """Check a data directory; this blocks, so it runs in a process of its own.

    Args:
        data_dir: The directory.
        clock: The clock for new epochs.
        repair: Repair what is found.
        new_epochs: Give every session a new epoch. For a restored backup: clients may have seen
            later positions than it has. Includes `repair`.
        progress: Called with the number of sessions examined and their total.
        fs: The file system.

    Raises:
        StoreBusy: A process owns the directory.
        StoreUnusable: There is no such directory, or it cannot be read or written.
    """
    root = root_of(data_dir)
    if not root.is_dir():
        raise StoreUnusable(f"There is no data directory {root}.")
    examination = _Examination(fs or FileSystem(), Paths(root), clock, repairs=repair or new_epochs)
    try:
        return examination.run(progress, new_epochs=new_epochs)
    except OSError as error:
        raise StoreUnusable(f"The data directory {root} cannot be used: {error}.") from error


class _Examination:
    def __init__(self, fs: FileSystem, paths: Paths, clock: Clock, *, repairs: bool) -> None:
        self._fs = fs
        self._paths = paths
        self._clock = clock
        self._repairs = repairs
        self._lock = DirectoryLock(fs, paths)
        self._rebuilder = Rebuilder(fs, paths)
        self._catalog_file = CatalogFile(fs, paths, keeps_heads=True)
        self._entries: dict[str, Entry] = {}
        self._last_epoch = self._lsn = 0
        self._in_journal: set[str] = set()
        self._findings: list[Finding] = []

    def run(self, progress: Progress | None, *, new_epochs: bool) -> list[Finding]:
        self._lock.take()
        try:
            if self._repairs:
                self._recover()
            else:
                self._check_index()
            self._check_sessions(progress)
            self._check_strays()
            self._check_values()
            self._findings += check_contents(
                self._paths.files, self._paths.quarantine, repair=self._repairs
            )
            self._list_quarantine()
            if new_epochs:
                self._renew()
            if self._repairs:
                self._write_catalog()
            else:
                self._lock.write(self._lock.previous)
        finally:
            self._catalog_file.close()
            self._lock.release()
        return self._findings

    def _find(
        self,
        severity: Severity,
        subject: str,
        problem: str,
        action: str,
        *,
        repaired: bool | None = None,
    ) -> None:
        done = self._repairs if repaired is None else repaired
        self._findings.append(Finding(severity, subject, problem, action, done))

    def _recover(self) -> None:
        for directory in self._paths.directories():
            self._fs.make_directory(directory)
        recovered = Recovery(
            self._fs, self._paths, self._catalog_file, self._clock, previous=self._lock.previous
        ).run()
        if recovered.full is not None:
            raise recovered.full
        for session_id, unwritten in recovered.unwritten.items():
            # Its file does not have all lines of the session.
            self._in_journal.add(file_name(session_id))
            self._find_held(unwritten.lines, str(unwritten.error.strerror), repaired=False)
        self._entries, self._lsn = recovered.entries, recovered.lsn
        self._last_epoch = recovered.last_epoch
        report = recovered.report
        if report.catalog_rebuilt:
            self._find(
                "warn", "index/catalog.jsonl", "it could not be used", "rebuilt from the logs"
            )
        if report.journal_records:
            count = report.journal_records
            self._find("note", "index", f"{count} records were not yet in the logs", "replayed")
        if report.mended_indexes:
            problem = f"the marks of {report.mended_indexes} sessions did not fit their logs"
            self._find("warn", "index/marks", problem, "rebuilt at their first use")
        for text in report.damaged:
            self._find("fail", text.partition(":")[0], text, "repaired under a new epoch")

    def _check_index(self) -> None:
        contents = self._catalog_file.load()
        self._entries = contents.entries
        if contents.problem is not None:
            problem = f"the catalog is {contents.problem}"
            self._find("warn", "index/catalog.jsonl", problem, "rebuild it from the logs")
        elif contents.torn_bytes:
            problem = f"{contents.torn_bytes} bytes behind the last checkpoint"
            self._find("warn", "index/catalog.jsonl", problem, "cut them off")
        journal = read_journal(self._fs, self._paths)
        held = read_held(self._fs, self._paths)
        self._in_journal = {file_name(record.session) for record in journal.records}
        if journal.records:
            # Nothing is wrong: a gateway that was killed leaves its directory like this.
            problem = f"{len(journal.records)} records are not yet in the logs"
            self._find("note", "index", problem, "replay them, as the next start does")
        self._in_journal |= held.keys()
        for name, lines in held.items():
            if lines is not None:
                self._find_held(lines, "its log could not be written")
            else:
                problem = "the held lines of a log that could not be written are damaged"
                action = "quarantine them; keep the intact lines, under a new epoch"
                self._find("fail", f"index/{self._paths.held_of(name).name}", problem, action)
        for number, offset, _ in journal.damaged:
            problem = f"acknowledged records cannot be read at byte {offset}"
            subject = f"index/{self._paths.segment(number).name}"
            self._find("fail", subject, problem, "quarantine them; give their sessions new epochs")

    def _find_held(self, held: Held, why: str, *, repaired: bool | None = None) -> None:
        name = self._paths.log_of(file_name(held.session)).name
        problem = f"{len(held.data)} acknowledged bytes are not in its log: {why}"
        action = f"make events/{name} writable; the next start writes them"
        self._find("warn", held.session, problem, action, repaired=repaired)

    def _check_sessions(self, progress: Progress | None) -> None:
        found = names_on_disk(self._fs, self._paths)
        names = dict.fromkeys(sorted(found))
        by_name = {file_name(session_id): entry for session_id, entry in self._entries.items()}
        names.update(dict.fromkeys(by_name))
        for number, name in enumerate(names, 1):
            self._check_session(name, by_name.get(name))
            if progress is not None:
                progress(number, len(names))

    def _check_session(self, name: str, entry: Entry | None) -> None:
        # The journal may have a record that ended this epoch, or swapped the session's files.
        may_be_torn = name in self._in_journal
        if entry is not None and entry.bundle:
            if not may_be_torn:
                self._check_bundle(name, entry)
            return
        subject = entry.id if entry else f"events/{name}.jsonl"
        problem = self._problem_of_log(name, entry, may_be_torn=may_be_torn)
        if problem is not None:
            action = "keep the intact lines, under a new epoch"
            self._find("fail", subject, problem, action)
            if self._repairs:
                known = entry.own_head() if entry else None
                why = problem
                epoch = self._next_epoch()
                fresh = self._rebuilder.repair(name, epoch, known=known, why=why)
                self._adopt(entry, fresh)
            return
        if entry is None and not may_be_torn:
            self._find("warn", subject, "it is missing in the catalog", "add it")
            if self._repairs:
                self._adopt(None, self._rebuilder.entry_of(name, may_be_torn=False))
        if entry is not None and not may_be_torn:
            self._check_marks(name, entry)
        self._check_snapshot(name, None if may_be_torn else entry)

    def _check_bundle(self, name: str, entry: Entry) -> None:
        problem = problem_of_bundle(self._fs, self._paths.archive_of(name), entry.epoch)
        if problem is None:
            return
        self._find("fail", entry.id, problem, "keep the intact lines, under a new epoch")
        if self._repairs:
            fresh = self._rebuilder.repair(
                name, self._next_epoch(), known=entry.own_head(), why=problem
            )
            self._adopt(entry, fresh)

    def _adopt(self, former: Entry | None, fresh: Entry | None) -> None:
        if former is not None:
            self._entries.pop(former.id, None)
        if fresh is not None:
            self._entries[fresh.id] = fresh
            self._last_epoch = max(self._last_epoch, fresh.epoch)

    def _problem_of_log(self, name: str, entry: Entry | None, *, may_be_torn: bool) -> str | None:
        named = self._rebuilder.header_of(name)
        size = self._fs.size(self._paths.log_of(name))
        if size is None:
            return None if may_be_torn else "the log is missing"
        if named is None or file_name(named[0]) != name:
            return None if may_be_torn else "the log's first line cannot be read"
        if entry is not None and not may_be_torn:
            if named[1] != entry.epoch:
                return f"the log's epoch is {named[1]}, the catalog's {entry.epoch}"
            if size != entry.size:
                return f"the log has {size} bytes, the catalog says {entry.size}"
        return self._problem_of_lines(name, entry, named, size, may_be_torn=may_be_torn)

    def _problem_of_lines(
        self,
        name: str,
        entry: Entry | None,
        named: tuple[str, int],
        size: int,
        *,
        may_be_torn: bool,
    ) -> str | None:
        try:
            check_id(named[0])
            view = LogView(self._fs, self._paths.log_of(name), named[1], size, b"", size)
        except (InvalidId, LogReplacedError, FileNotFoundError):
            return "the log's first line has no valid session id"
        try:
            problem, seq = check_lines(view)
        except DamagedError as damage:
            return None if may_be_torn else f"an unreadable line at byte {damage.offset}"
        finally:
            view.close()
        if problem is None and entry is not None and not may_be_torn and seq > entry.seq:
            return f"the log goes to seq {seq}, the catalog to {entry.seq}"
        return problem

    def _check_marks(self, name: str, entry: Entry) -> None:
        if entry.marks < 0:
            return  # The store rebuilds them at their first use.
        path = self._paths.log_of(name)
        view = LogView(self._fs, path, entry.epoch, entry.size, b"", entry.size)
        try:
            expected = list(marks_of_lines(view, view.begin))
        finally:
            view.close()
        try:
            marks = MarksFile(self._fs, self._paths.marks_of(name), entry.epoch, entry.marks)
            try:
                found = marks.entries(0, entry.marks)
            finally:
                marks.close()
        except StaleMarksError:
            found = []
        if not _are_all_marks(found, expected):
            self._find("warn", entry.id, "its marks do not fit its log", "rebuild them")
            if self._repairs:
                entry.marks = -1

    def _check_snapshot(self, name: str, entry: Entry | None) -> None:
        path = self._paths.snapshot_of(name)
        if self._fs.size(path) is None:
            return
        head = read_snapshot_head(self._fs, self._paths, name)
        if is_whole(self._fs, self._paths, name) and head is not None:
            if entry is None or head[0].epoch == entry.epoch:
                return
            problem = "the snapshot is of another epoch"
        else:
            problem = "the snapshot cannot be read"
        subject = entry.id if entry else f"sessions/{name}.json"
        self._find("warn", subject, problem, "quarantine it; the store writes the next one")
        if self._repairs:
            self._set_aside(path, f"snapshot-{name}", problem)
            if entry is not None:
                entry.snapshot = 0

    def _set_aside(self, path: Path, stem: str, why: str) -> None:
        data = self._fs.read(path) or b""
        where = str(path.relative_to(self._paths.root))
        set_aside(self._fs, self._paths, stem, data, {"from": where, "why": why})
        self._fs.unlink(path)

    def _check_strays(self) -> None:
        known = {file_name(session_id) for session_id in self._entries} | self._in_journal
        for directory, suffix in ((self._paths.snapshots, ".json"), (self._paths.marks, ".idx")):
            for file in self._fs.names(directory):
                name = file.removesuffix(suffix)
                if name in known or self._fs.size(self._paths.log_of(name)) is not None:
                    continue
                subject = str((directory / file).relative_to(self._paths.root))
                self._find("warn", subject, "it belongs to no session", "quarantine it")
                if self._repairs:
                    self._set_aside(directory / file, f"stray-{name}", "it belongs to no session")

    def _check_values(self) -> None:
        if self._fs.size(self._paths.values) is None:
            return
        problem = problem_of(self._paths.values, is_thorough=True)
        if problem is None:
            return
        action = "quarantine it; keep what can be read in a new file"
        self._find("fail", self._paths.values.name, problem, action)
        if self._repairs:
            ValuesFile(self._fs, self._paths, self._clock, self._lock.check).mend(problem)

    def _list_quarantine(self) -> None:
        for name in self._fs.names(self._paths.quarantine):
            if name.endswith(".note.json"):
                subject = f"quarantine/{name.removesuffix('.note.json')}"
                action = "read it and its note; delete both when you no longer need them"
                self._find("note", subject, "bytes were quarantined", action, repaired=False)

    def _renew(self) -> None:
        entries = list(self._entries.values())
        for entry in entries:
            if file_name(entry.id) in self._in_journal:
                raise StoreUnusable(
                    f"The log of session {entry.id} cannot be written, so the session cannot get "
                    "a new epoch. Make the file writable, then repeat."
                )
        for entry in entries:
            if entry.bundle:
                self._renew_bundle(entry)
            else:
                self._rebuilder.renew(entry, self._next_epoch())
        count = len(entries)
        self._find("warn", "sessions", f"{count} sessions had old epochs", "gave them new epochs")

    def _renew_bundle(self, entry: Entry) -> None:
        # An archived session may have been restored and continued where the directory comes from.
        fs, paths, epoch = self._fs, self._paths, self._next_epoch()
        path, written = paths.archive_of(file_name(entry.id)), paths.aside / "renewed"
        unpacked = paths.aside / "unpacked"
        try:
            head, size, done = renew_bundle(fs, path, written, unpacked, epoch, entry.own_head())
        except BaseException:
            fs.unlink(written)
            raise
        fs.rename(written, path)
        entry.epoch = epoch
        entry.set_head(head)
        entry.size, entry.bundle = size, done.size
        entry.marks, entry.deltas = done.marks, done.deltas

    def _next_epoch(self) -> int:
        self._last_epoch = max(self._clock.now_ms(), self._last_epoch + 1)
        return self._last_epoch

    def _write_catalog(self) -> None:
        paths = self._paths
        for directory in (paths.events, paths.archive, paths.snapshots, paths.marks):
            self._fs.sync_directory(directory)
        states = [EntryState.of(entry) for entry in self._entries.values()]
        self._catalog_file.start_anew(states, self._lsn, self._last_epoch)
        now = {"epoch": self._last_epoch, "lsn": self._lsn, "boot": boot_id(), "clean": True}
        self._lock.write({**self._lock.previous, **now})


def _are_all_marks(
    found: list[tuple[int, int, bytes, MarkKind]], expected: list[tuple[Mark, int]]
) -> bool:
    """Return whether a mark file's entries are the marks of its log, each once and in order."""
    return len(found) == len(expected) and all(
        (seq, at, kind) == (mark.seq, offset, mark.kind) and digest in digests_of(kind, mark.key)
        for (seq, at, digest, kind), (mark, offset) in zip(found, expected, strict=True)
    )
