"""Recovery: brings the files that the last owner left to the state that the store promises.

Recovery touches only the sessions that the journal names. A start therefore takes time for reading
the catalog and for what was written in the last seconds before a crash, but not for the number or
size of the logs. When the catalog cannot be trusted, recovery rebuilds it from all logs; this is
slow and is reported. The first start on a directory of an earlier gateway also looks at every
session (see `upgrade`).

A log that cannot be written does not prevent the start: recovery writes its last lines to a held
file beside the journal, and the store keeps them in memory. On a full disk even that cannot be
written. Then the journal stays as it is, all its records are in memory, and the first checkpoint
that finds room writes them out. Recovery insists only on what must be written before anybody reads:
the repair of a damaged log, and new epochs.
"""

import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from typing import Any

from sortedcontainers import SortedDict

from bamboo_gateway.domain.clock import Clock
from bamboo_gateway.domain.sessions import SessionHead
from bamboo_gateway.storage.file_system import FULL_ERRNOS, FileSystem
from bamboo_gateway.storage.jsonl.index.catalog import Entry
from bamboo_gateway.storage.jsonl.index.catalog_file import CatalogFile
from bamboo_gateway.storage.jsonl.index.catalog_lines import FORMAT, CatalogContents, EntryState
from bamboo_gateway.storage.jsonl.index.change_log import Feed, Gone, gone_in_record
from bamboo_gateway.storage.jsonl.journal.reader import (
    JournalContents,
    JournalRecord,
    read_journal,
)
from bamboo_gateway.storage.jsonl.journal.replay import Replayer, Unwritten
from bamboo_gateway.storage.jsonl.lock import boot_id
from bamboo_gateway.storage.jsonl.log.held import Held, read_held, write_held
from bamboo_gateway.storage.jsonl.paths import Paths, file_name
from bamboo_gateway.storage.jsonl.quarantine import set_aside
from bamboo_gateway.storage.jsonl.rebuild import Rebuilder
from bamboo_gateway.storage.jsonl.upgrade import Upgrade
from bamboo_gateway.storage.lines import delta_bytes
from bamboo_gateway.storage.listing import gone_of
from bamboo_gateway.storage.reports import RecoveryReport


@dataclass(slots=True)
class Recovered:
    """The result of a recovery, which the store continues with.

    Attributes:
        report: What recovery found and did.
        entries: All sessions.
        unfinished: The sessions with an open or queued run.
        lsn: The number of the last record.
        covered_lsn: The last record that the catalog file covers.
        last_epoch: The last epoch given out.
        next_segment: The number of the journal's next segment.
        unwritten: The lines missing in logs that could not be written, by session.
        held: The offset at which the held lines of a log end, by file name.
        kept: The journal segments that are still needed, with the bytes of each that count.
        changed: The entries missing in the catalog file because segments were kept.
        deleted: The sessions that the catalog file still has because segments were kept.
        full: Why the segments were kept.
        feed: The feed of changes.
        gone: The deletions that those are told of who ask for changes.
        changed_ids: The sessions by the numbers of their last changes.
    """

    report: RecoveryReport
    entries: dict[str, Entry] = field(default_factory=dict)
    unfinished: set[str] = field(default_factory=set)
    lsn: int = 0
    covered_lsn: int = 0
    last_epoch: int = 0
    next_segment: int = 1
    unwritten: dict[str, Unwritten] = field(default_factory=dict)
    held: dict[str, int] = field(default_factory=dict)
    kept: dict[int, int] = field(default_factory=dict)
    changed: dict[str, Entry] = field(default_factory=dict)
    deleted: set[str] = field(default_factory=set)
    full: OSError | None = None
    feed: Feed = field(default_factory=lambda: Feed("", 0))
    gone: dict[str, Gone] = field(default_factory=dict)
    changed_ids: "SortedDict[int, str]" = field(default_factory=SortedDict)


class Recovery:
    """One recovery, in a thread of its own, by the owner of the LOCK."""

    def __init__(
        self,
        fs: FileSystem,
        paths: Paths,
        catalog_file: CatalogFile,
        clock: Clock,
        *,
        previous: dict[str, Any],
    ) -> None:
        """Create a recovery; `run` does the work.

        Args:
            fs: The file system.
            paths: The layout of the data directory.
            catalog_file: The catalog, not yet loaded.
            clock: The clock for new epochs.
            previous: The content of LOCK that the last owner wrote.
        """
        self._fs = fs
        self._paths = paths
        self._catalog_file = catalog_file
        self._clock = clock
        self._last_epoch = int(previous.get("epoch", 0))
        self._least_lsn = int(previous.get("lsn", 0))
        self._was_clean = bool(previous.get("clean", False))
        # The machine has rebooted since the last owner started.
        self._has_rebooted = not boot_id() or previous.get("boot") != boot_id()
        self._previous_durability = previous.get("durability")
        self._lost_power = False
        self._rebuilder = Rebuilder(fs, paths)
        self._replayer = Replayer(fs, paths, self._rebuilder, self._next_epoch)
        self._changed: dict[str, Entry] = {}
        self._deleted: set[str] = set()
        self._gone: dict[str, Gone] = {}
        self._has_new_feed = False
        self._held: dict[str, Held | None] = {}
        self._result = Recovered(RecoveryReport())

    def run(self) -> Recovered:
        """Recover the data directory.

        Raises:
            OSError: Something that must be written before anybody reads cannot be written.
        """
        result, report = self._result, self._result.report
        self._clear_away("spare-", "gone-", "past-", "snapshot-")
        contents = self._catalog_file.load()
        journal = read_journal(self._fs, self._paths)
        self._held = read_held(self._fs, self._paths)
        # Commits that were acknowledged without a sync may be lost. A clean mark beside segments is
        # outdated: a full disk kept the last owner from removing it.
        self._lost_power = (
            self._previous_durability == "os"
            and self._has_rebooted
            and not (self._was_clean and not journal.numbers)
        )
        if contents.problem is None and contents.lsn < max(self._least_lsn, journal.first_lsn - 1):
            # Somebody restored an older catalog, or its end was torn off: the logs have what is
            # newer.
            contents = CatalogContents(lsn=self._least_lsn, problem="stale")
        result.entries, result.unfinished = contents.entries, contents.unfinished
        result.lsn = max(contents.lsn, journal.last_lsn)
        self._last_epoch = max(self._last_epoch, contents.last_epoch, journal.last_epoch)
        by_session: dict[str, list[JournalRecord]] = {}
        for record in journal.records:
            if record.is_lost and record.kind not in ("create", "append"):
                # Its data are lost, so it cannot be repeated; the files are as they were before it.
                continue
            if record.lsn > contents.lsn or contents.problem is not None:
                by_session.setdefault(record.session, []).append(record)
        is_rebuilt = contents.problem is not None
        is_former = contents.format < FORMAT
        self._begin_feed(contents)
        if is_rebuilt:
            self._rebuild(by_session, contents.problem or "")
        elif is_former:
            self._upgrade()
        self._quarantine_journal(journal)
        self._quarantine_held()
        for held in self._held.values():
            if held is not None:
                by_session.setdefault(held.session, [])
        for session_id, records in by_session.items():
            self._replay(session_id, records)
        self._sync_directories()
        self._write_held()
        is_anew = is_rebuilt or is_former
        if result.full is None:
            self._write_catalog(contents.lsn, is_anew=is_anew)
        if result.full is None:
            result.covered_lsn = result.lsn
            self._drop_journal(journal)
        else:
            result.covered_lsn = contents.lsn
            self._keep_journal(journal, is_anew=is_anew)
        report.clean = not journal.records and not contents.torn_bytes
        report.sessions = len(result.entries)
        report.journal_records = sum(map(len, by_session.values()))
        report.replayed_events = self._replayer.events
        result.unwritten = self._replayer.unwritten
        report.unwritten = sorted(result.unwritten)
        report.disk_full = result.full is not None
        report.torn_bytes = journal.torn_bytes + contents.torn_bytes
        report.damaged += self._rebuilder.damaged
        report.quarantined += self._rebuilder.quarantined
        result.last_epoch = self._last_epoch
        return result

    def _begin_feed(self, contents: CatalogContents) -> None:
        """Go on with the feed of changes, or begin a new one when numbers may be given again."""
        result = self._result
        is_known = contents.feed is not None and contents.problem is None and not self._lost_power
        if contents.feed is not None and is_known:
            result.feed, result.gone = contents.feed, contents.gone
        else:
            result.feed, self._has_new_feed = Feed.begin(result.lsn), True

    def _next_epoch(self) -> int:
        self._last_epoch = max(self._clock.now_ms(), self._last_epoch + 1)
        self._result.report.new_epochs += 1
        return self._last_epoch

    def _rebuild(self, by_session: dict[str, list[JournalRecord]], problem: str) -> None:
        """Make the entries of all sessions from their files."""
        for name, held in self._held.items():
            if held is not None and self._is_end_of(name, held):
                error = self._replayer.write_to_log(name, held)
                if error is not None:
                    raise error
        names = [
            name.removesuffix(suffix)
            for directory, suffix in ((self._paths.events, ".jsonl"), (self._paths.archive, ".zst"))
            for name in self._fs.names(directory)
            if name.endswith(suffix)
        ]
        # A log beside its bundle is newer: packing removes the log last, unpacking makes it.
        names = list(dict.fromkeys(names))
        if names or problem != "missing":
            self._result.report.catalog_rebuilt = True
        in_journal = {file_name(session_id) for session_id in by_session}
        for name in names:
            entry = self._rebuilder.entry_of(name, may_be_torn=name in in_journal)
            if entry is None and name in in_journal:
                # Its header may be torn: then the journal has the record of its creation.
                continue
            if entry is None:
                why = "a line of the log is damaged"
                entry = self._rebuilder.repair(name, self._next_epoch(), known=None, why=why)
            if entry is not None:
                self._last_epoch = max(self._last_epoch, entry.epoch)
                self._adopt(entry)

    def _upgrade(self) -> None:
        """Check the marks that an earlier gateway left, for all sessions."""
        upgrade = Upgrade(self._fs, self._paths)
        for entry in self._result.entries.values():
            if not upgrade.check(entry, self._head_of(entry)):
                self._result.report.mended_indexes += 1

    def _head_of(self, entry: Entry) -> SessionHead | None:
        return entry.own_head() if entry.has_head else self._catalog_file.head_of(entry)

    def _is_end_of(self, name: str, held: Held) -> bool:
        """Return whether the held lines belong to the log that is on disk."""
        named = self._rebuilder.header_of(name)
        size = self._fs.size(self._paths.log_of(name)) or 0
        if named is None:
            return held.at == 0 and self._fs.size(self._paths.archive_of(name)) is None
        return named == (held.session, held.epoch) and held.at <= size <= held.end

    def _adopt(self, entry: Entry) -> None:
        self._result.entries[entry.id] = entry
        self._changed[entry.id] = entry
        unfinished = self._result.unfinished
        head = self._head_of(entry)
        if head is not None and head.is_unfinished:
            unfinished.add(entry.id)
        else:
            unfinished.discard(entry.id)

    def _replay(self, session_id: str, records: list[JournalRecord]) -> None:
        result = self._result
        former = entry = result.entries.get(session_id)
        name = file_name(session_id)
        try:
            entry = self._current_entry(entry, name)
            entry = self._replayer.replay(session_id, records, entry, self._held.get(name))
            if entry is not None and self._lost_power:
                self._renew(entry)
        except OSError:
            # The records are intact, so they are not quarantined: the files stay as they are until
            # the next start.
            raise
        except Exception as error:  # noqa: BLE001 - see below
            # A problem of one session affects that session alone (R10). Its records go into
            # quarantine, for a person to look at.
            why = f"its journal records could not be replayed: {type(error).__name__}: {error}"
            result.report.damaged.append(f"{session_id}: {why}")
            data = b"".join(record.data for record in records)
            self._set_aside(f"records-{name}", data, {"session": session_id, "why": why})
            return
        if any(record.kind == "delete" for record in records):
            self._deleted.add(session_id)
        self._note_change(session_id, records, former, entry)
        if entry is not None:
            self._adopt(entry)
        elif session_id in result.entries:
            del result.entries[session_id]
            result.unfinished.discard(session_id)
            self._deleted.add(session_id)

    def _note_change(
        self,
        session_id: str,
        records: list[JournalRecord],
        former: Entry | None,
        entry: Entry | None,
    ) -> None:
        """Give a replayed session the number of its last change, or note its deletion."""
        if entry is not None:
            before = former.changed if former is not None else 0
            entry.changed = max([before, *(one.lsn for one in records if _is_change(one))])
            self._result.gone.pop(session_id, None)
            self._gone.pop(session_id, None)
            return
        for record in reversed(records):
            if record.kind == "delete" and not self._has_new_feed:
                rest = gone_in_record(record.data)
                if rest is None and former is not None and former.has_head:
                    rest = gone_of(former.own_head())
                if rest is not None:
                    gone = Gone(record.lsn, rest)
                    self._result.gone[session_id] = self._gone[session_id] = gone
                return

    def _renew(self, entry: Entry) -> None:
        unwritten = self._replayer.unwritten.get(entry.id)
        if unwritten is not None:
            # The first line of its file has the old epoch, which must not be served.
            raise unwritten.error
        self._rebuilder.renew(entry, self._next_epoch())

    def _current_entry(self, entry: Entry | None, name: str) -> Entry | None:
        """Return the entry in agreement with the session's files, with its head in memory."""
        if entry is None:
            return None
        try:
            named = self._rebuilder.header_of(name)
        except OSError:
            named = None  # The next reader of the log gets the error.
        is_ahead = named is not None and named[0] == entry.id and named[1] > entry.epoch
        if is_ahead or self._lost_power:
            # The catalog did not have a repair yet; or only the log has kept the last lines.
            entry = self._rebuilder.entry_of(name, may_be_torn=True) or entry
        if not entry.has_head:
            head = self._catalog_file.head_of(entry)
            if head is not None:
                entry.set_head(entry.updated(head))
        return entry

    def _quarantine_journal(self, journal: JournalContents) -> None:
        for number, offset, data in journal.damaged:
            why = f"acknowledged records in journal segment {number} could not be read"
            self._result.report.damaged.append(f"journal: {why} (byte {offset})")
            note = {"segment": number, "offset": offset, "why": why}
            self._set_aside(f"journal-{number}", data, note)

    def _quarantine_held(self) -> None:
        for name, held in self._held.items():
            if held is None:
                why = "the held lines of a log that could not be written are damaged"
                self._result.report.damaged.append(f"{name}: {why}")
                data = self._fs.read(self._paths.held_of(name)) or b""
                self._set_aside(f"records-{name}", data, {"from": f"held-{name}", "why": why})

    def _write_held(self) -> None:
        """Write what logs lack to held files, so that the journal need not wait for these logs."""
        result = self._result
        for session_id, unwritten in self._replayer.unwritten.items():
            name, known = file_name(session_id), self._held.get(file_name(session_id))
            if known is None or (known.epoch, known.end) != (
                unwritten.lines.epoch,
                unwritten.lines.end,
            ):
                with self._noting_full():
                    write_held(self._fs, self._paths, name, unwritten.lines)
                    self._held[name] = unwritten.lines
                if result.full is not None:
                    return
            result.held[name] = unwritten.lines.end

    @contextmanager
    def _noting_full(self) -> Iterator[None]:
        """Run the body; on a full disk note the error, so that the journal is kept."""
        try:
            yield
        except OSError as error:
            if error.errno not in FULL_ERRNOS:
                raise
            self._result.full = error

    def _set_aside(self, stem: str, data: bytes, note: dict[str, object]) -> None:
        name = set_aside(self._fs, self._paths, stem, data, note)
        self._result.report.quarantined.append(name)

    def _sync_directories(self) -> None:
        if self._changed or self._deleted:
            with self._noting_full():
                for path in self._paths.of_sessions():
                    self._fs.sync_directory(path)

    def _write_catalog(self, covered_lsn: int, *, is_anew: bool) -> None:
        with self._noting_full():
            self._write_states(covered_lsn, is_anew=is_anew)

    def _write_states(self, covered_lsn: int, *, is_anew: bool) -> None:
        result = self._result
        if is_anew:
            states = [EntryState.of(entry) for entry in result.entries.values()]
            self._catalog_file.start_anew(states, result.lsn, self._last_epoch, result.feed)
        elif self._changed or self._deleted or result.lsn != covered_lsn or self._has_new_feed:
            states = [EntryState.of(entry) for entry in self._changed.values()]
            self._catalog_file.append(
                states,
                sorted(self._deleted),
                result.lsn,
                self._last_epoch,
                feed=result.feed,
                gone=dict(sorted(self._gone.items(), key=lambda one: one[1].number)),
            )
        else:
            # Finish the erasing that a crash interrupted in the last checkpoint.
            self._catalog_file.erase()
            return
        if not self._catalog_file.keeps_heads:
            for state in states:
                state.settle()

    def _drop_journal(self, journal: JournalContents) -> None:
        for number in journal.numbers:
            self._fs.unlink(self._paths.segment(number))
        self._remove_held(self._held.keys() - self._result.held.keys())
        self._clear_away("")
        if journal.numbers:
            # If a power loss brings names back, the catalog covers their records.
            with self._noting_full():
                self._fs.sync_directory(self._paths.index)
        self._result.next_segment = max(journal.numbers, default=0) + 1

    def _keep_journal(self, journal: JournalContents, *, is_anew: bool) -> None:
        """Keep the journal for the first checkpoint that finds room, and free unused space."""
        result = self._result
        result.kept = {number: journal.ends[number] for number in journal.numbers}
        for number, end in result.kept.items():
            # The bytes behind do not count; they were only preallocated.
            with suppress(OSError):
                fd = self._fs.open(self._paths.segment(number), os.O_RDWR)
                try:
                    self._fs.truncate(fd, end)
                finally:
                    self._fs.close(fd)
        names = {file_name(session_id) for session_id in self._replayer.unwritten}
        self._remove_held(self._held.keys() - names)
        result.held = {name: held.end for name in names if (held := self._held.get(name))}
        result.changed = dict(result.entries) if is_anew else self._changed
        result.deleted = self._deleted
        self._clear_away("")
        result.next_segment = max(journal.numbers, default=0) + 1

    def _remove_held(self, names: Iterable[str]) -> None:
        """Remove the held files of logs that have these lines by now, or that are gone."""
        for name in names:
            self._fs.unlink(self._paths.held_of(name))

    def _clear_away(self, *prefixes: str) -> None:
        """Remove the files with these prefixes in the directory for files in progress."""
        for name in self._fs.names(self._paths.aside):
            if name.startswith(prefixes):
                self._fs.unlink(self._paths.aside / name)


def _is_change(record: JournalRecord) -> bool:
    """Return whether a record has more than deltas; one whose data are lost may have had more."""
    match record.kind:
        case "create" | "append":
            return record.is_lost or delta_bytes(record.data) < len(record.data)
        case kind:
            return kind in ("publish", "extend", "replace")
