"""The catalog in memory: what loading, listing and checkpoints need of each session.

The event loop's thread owns it. Only acknowledgements change an entry, so it always has the durable
state; other threads read single attributes of it.
"""

from collections.abc import Iterator
from contextlib import contextmanager

from bamboo_gateway.domain import codec
from bamboo_gateway.domain.events import DELTA_TYPES
from bamboo_gateway.domain.sessions import SessionHead
from bamboo_gateway.storage.commits import Commit
from bamboo_gateway.storage.jsonl.index.change_log import ChangeLog, Gone
from bamboo_gateway.storage.listing import HeadState, Relations, head_state_of, shares_of
from bamboo_gateway.storage.reports import StoreUsage


class Entry:
    """The catalog entry of one session.

    Attributes:
        relations: The session's owner, place in its tree and shares, from its head.
        head_state: The state that its head decides.
        activity: `last_activity_at`, which deltas and open streams move without a new head.
        size: The bytes of the log as of `seq`.
        marks: The number of marks in its mark file; -1 when the file has to be rebuilt.
        changed: The number of its last change (`change_log`); 0 before the feed began.
        ttl: The seconds of its time to live, and None when it is archived.
        share_ends: When what is shared with users ends, in ms.
        snapshot: The size of the log when its snapshot was written; 0 without a snapshot.
        snapshot_bytes: The size of the snapshot file.
        deltas: The bytes of delta lines that no compaction has removed.
        bundle: The size of the bundle that has its files; 0 when they are not packed.
        generation: The number of file swaps under the same epoch (pack, unpack, compact, extend)
            that the loop knows of.
        committer_generation: The number that the committer knows of. A reader opens the files
            again when the two differ.
        head: The head of the last commit as an object, or None.
        raw: The head as JSON, or None. When both are None (`index_enabled = false`), the head is in
            the catalog file.
    """

    __slots__ = (
        "activity",
        "bundle",
        "changed",
        "committer_generation",
        "deltas",
        "epoch",
        "generation",
        "head",
        "head_state",
        "id",
        "marks",
        "raw",
        "relations",
        "seq",
        "share_ends",
        "size",
        "snapshot",
        "snapshot_bytes",
        "ttl",
    )

    def __init__(self, session_id: str, epoch: int, relations: Relations | None = None) -> None:
        self.id = session_id
        self.epoch = epoch
        self.seq = 0
        self.activity = 0
        self.relations = relations or Relations(None, None, session_id, is_archived=False)
        self.head_state: HeadState = "idle"
        self.size = 0
        self.marks = 0
        self.snapshot = self.snapshot_bytes = 0
        self.deltas = 0
        self.changed = 0
        self.ttl: int | None = None
        self.share_ends: tuple[int, ...] = ()
        self.bundle = 0
        self.generation = self.committer_generation = 0
        self.head: SessionHead | None = None
        self.raw: bytes | None = None

    def set_head(self, head: SessionHead) -> None:
        """Set the head, and the attributes that depend on it."""
        self.head = head
        self.raw = None
        self.seq = head.seq
        self.activity = max(self.activity, head.last_activity_at)
        self.relations = Relations.of(head)
        self.head_state = head_state_of(head)
        self.ttl = None if head.logged_state == "archived" else head.ttl_seconds
        if head.shares or self.share_ends:
            self.share_ends = tuple(end for end in shares_of(head).values() if end is not None)

    def own_head(self) -> SessionHead:
        """Return a copy of the durable head; only when `has_head`."""
        if self.head is not None:
            head = self.head.copy()
        else:
            assert self.raw is not None
            head = SessionHead.of(codec.decode(self.raw))
        return self.updated(head)

    def updated(self, head: SessionHead) -> SessionHead:
        """Update a stored head with the changes of later deltas and touches."""
        head.seq = self.seq
        head.last_activity_at = max(head.last_activity_at, self.activity)
        return head

    @property
    def has_head(self) -> bool:
        """Whether the head is in memory."""
        return self.head is not None or self.raw is not None

    def pack_head(self) -> None:
        """Keep the head as bytes, for a session at rest: they take about a tenth of the object."""
        if self.head is not None:
            self.raw = codec.encode(self.head.to_json())
            self.head = None


class DiskUse:
    """The bytes that the sessions' files take, by kind and by user; updated with each change."""

    __slots__ = ("_by_user", "archive", "logs", "snapshots")

    def __init__(self) -> None:
        self.logs = self.archive = self.snapshots = 0
        # The number of sessions and their bytes, by user id. A user without sessions is not in it.
        self._by_user: dict[str, tuple[int, int]] = {}

    def add(self, entry: Entry) -> None:
        """Add the files of an entry."""
        self._count(entry, 1)

    def remove(self, entry: Entry) -> None:
        """Subtract the files of an entry, before they change or disappear."""
        self._count(entry, -1)

    def grow(self, entry: Entry, added_bytes: int) -> None:
        """Add the bytes that an entry's log has gained; the entry is not packed."""
        self.logs += added_bytes
        user_id = entry.relations.user_id
        if user_id is not None:
            sessions, stored = self._by_user[user_id]
            self._by_user[user_id] = sessions, stored + added_bytes

    def of_user(self, user_id: str) -> StoreUsage:
        """Return the sessions of a user and the bytes that they take."""
        return StoreUsage(*self._by_user.get(user_id, (0, 0)))

    def _count(self, entry: Entry, sign: int) -> None:
        if entry.bundle:
            self.archive += sign * entry.bundle
        else:
            self.logs += sign * entry.size
        self.snapshots += sign * entry.snapshot_bytes
        user_id = entry.relations.user_id
        if user_id is None:
            return
        sessions, stored = self._by_user.get(user_id, (0, 0))
        if sessions + sign:
            stored += sign * (entry.bundle or entry.size)
            self._by_user[user_id] = sessions + sign, stored
        else:
            del self._by_user[user_id]


class Catalog:
    """All entries, those changed since the last checkpoint, and those with unfinished runs."""

    def __init__(self) -> None:
        self.entries: dict[str, Entry] = {}
        self.dirty: dict[str, Entry] = {}
        # The sessions deleted since; a new session with the same id may be dirty already.
        self.deleted: set[str] = set()
        # The changes that the list views do not have yet; they take them right before they are
        # used.
        self.changed: set[str] = set()
        # The sessions whose logs changed otherwise than by commits, for the search index.
        self.rewritten: set[str] = set()
        self.unfinished: set[str] = set()
        # The sessions of which something ends by itself.
        self.ending: dict[str, Entry] = {}
        self.changes = ChangeLog()
        self.use = DiskUse()

    def begin(self, entries: dict[str, Entry], unfinished: set[str]) -> None:
        """Take the entries that recovery found."""
        self.entries.update(entries)
        self.unfinished |= unfinished
        for entry in entries.values():
            self.use.add(entry)
            if entry.ttl is not None or entry.share_ends:
                self.ending[entry.id] = entry

    def apply(self, commit: Commit, delta_bytes: int, size: int, lsn: int) -> None:
        """Apply a commit that became durable.

        Args:
            commit: The commit.
            delta_bytes: The bytes of its lines of deltas.
            size: The size of the log after it.
            lsn: The number of its record.
        """
        session_id, epoch, first, events, _, head, time_ms, create, *_ = commit
        if create:
            entry = self.entries[session_id] = Entry(session_id, epoch)
        else:
            entry = self.entries[session_id]
        entry.deltas += delta_bytes
        if head is None:
            self.use.grow(entry, size - entry.size)
            entry.size = size
        else:
            if not create:
                self.use.remove(entry)
            entry.size = size
            entry.set_head(head)
            self.use.add(entry)
            self._note_head(entry, head)
            if any(event.type not in DELTA_TYPES for event in events):
                self.note_change(entry, lsn)
        if time_ms > entry.activity:
            entry.activity = time_ms
        # Last: the committer may evict a log once this seq is equal to its own.
        entry.seq = first + len(events) - 1
        self.dirty[session_id] = entry
        self.changed.add(session_id)

    def adopt(self, entry: Entry, *, dirty: bool = True) -> None:
        """Take the entry of a repaired session, or of one created with a history."""
        former = self.entries.get(entry.id)
        if former is not None:
            self.use.remove(former)
        self.use.add(entry)
        self.entries[entry.id] = entry
        if entry.head is not None:
            self._note_head(entry, entry.head)
        before = former.changed if former is not None else 0
        if entry.changed > before:
            self.changes.moved(entry.id, before, entry.changed)
        else:
            entry.changed = before
        if dirty:
            self.dirty[entry.id] = entry
        self.changed.add(entry.id)
        self.rewritten.add(entry.id)

    def note_change(self, entry: Entry, lsn: int) -> None:
        """Note a change of a session that is no delta."""
        self.changes.moved(entry.id, entry.changed, lsn)
        entry.changed = lsn
        self.changed.add(entry.id)

    def remove(self, session_id: str, gone: Gone) -> None:
        """Apply a deletion that became durable."""
        former = self.entries.pop(session_id, None)
        if former is not None:
            self.use.remove(former)
            self.changes.removed(session_id, former.changed, gone)
        self.ending.pop(session_id, None)
        self.unfinished.discard(session_id)
        self.dirty.pop(session_id, None)
        self.deleted.add(session_id)
        self.changed.add(session_id)
        self.rewritten.add(session_id)

    def touch(self, session_id: str, epoch: int, activity_ms: int) -> None:
        """Set a later last activity."""
        entry = self.entries.get(session_id)
        if entry is not None and entry.epoch == epoch and entry.activity < activity_ms:
            entry.activity = activity_ms
            self.dirty[session_id] = entry
            self.changed.add(session_id)

    @contextmanager
    def changing_files(self, entry: Entry) -> Iterator[None]:
        """Update the disk use while the body changes the files; the entry may be outdated."""
        is_known = self.entries.get(entry.id) is entry
        if is_known:
            self.use.remove(entry)
        yield
        if is_known:
            self.use.add(entry)
            self.dirty[entry.id] = entry

    def _note_head(self, entry: Entry, head: SessionHead) -> None:
        if head.is_unfinished:
            self.unfinished.add(entry.id)
        else:
            self.unfinished.discard(entry.id)
        if entry.ttl is not None or entry.share_ends:
            self.ending[entry.id] = entry
        else:
            self.ending.pop(entry.id, None)
