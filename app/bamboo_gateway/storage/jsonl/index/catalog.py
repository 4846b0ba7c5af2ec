"""The sessions there are, in memory: what loading, listing and checkpoints need of each.

Owned by the event loop's thread. An entry is changed only by acknowledgements, so it is always the
durable state; other threads read single attributes of it.
"""

from collections.abc import Iterator
from contextlib import contextmanager

from bamboo_gateway.domain import codec
from bamboo_gateway.domain.sessions import SessionHead
from bamboo_gateway.storage.base import StoreUsage
from bamboo_gateway.storage.jsonl.line_commit import LineCommit
from bamboo_gateway.storage.listing import HeadState, Origin, head_state_of


class Entry:
    """One session.

    Attributes:
        origin: Whose it is and where it belongs, and
        standing: what state it is in, as of its head.
        activity: `last_activity_at`, which deltas and open streams move without a new head.
        size: The log's bytes as of `seq`.
        marks: How many marks its sidecar has; -1 when it has to be built again.
        snapshot: The log's size when its snapshot was written; 0 without one.
        snapshot_bytes: What that file takes.
        deltas: The bytes of its delta lines that no compaction has removed.
        bundle: The bytes of the bundle that its files were packed into; 0: they are not.
        generation: How often its files were exchanged under the same epoch (packed, unpacked,
            compacted) as far as the loop knows, and
        exchanged: as far as the committer knows. A reader whose two differ takes them anew.
        head: The head that came with the last commit, as an object, or
        raw: as JSON; with neither (`index_enabled = false`) it rests in the catalog file.
    """

    __slots__ = (
        "activity",
        "bundle",
        "deltas",
        "epoch",
        "exchanged",
        "generation",
        "head",
        "head_state",
        "id",
        "marks",
        "origin",
        "raw",
        "seq",
        "size",
        "snapshot",
        "snapshot_bytes",
    )

    def __init__(self, session_id: str, epoch: int, origin: Origin | None = None) -> None:
        self.id = session_id
        self.epoch = epoch
        self.seq = 0
        self.activity = 0
        self.origin = origin or Origin(None, None, session_id, is_archived=False)
        self.head_state: HeadState = "idle"
        self.size = 0
        self.marks = 0
        self.snapshot = self.snapshot_bytes = 0
        self.deltas = 0
        self.bundle = 0
        self.generation = self.exchanged = 0
        self.head: SessionHead | None = None
        self.raw: bytes | None = None

    def set_head(self, head: SessionHead) -> None:
        """Take over a head."""
        self.head = head
        self.raw = None
        self.seq = head.seq
        self.activity = max(self.activity, head.last_activity_at)
        self.origin = Origin.of(head)
        self.head_state = head_state_of(head)

    def own_head(self) -> SessionHead:
        """Return an own copy of the durable head; only where `is_at_hand`."""
        if self.head is not None:
            head = self.head.copy()
        else:
            assert self.raw is not None
            head = SessionHead.of(codec.decode(self.raw))
        return self.brought_up(head)

    def brought_up(self, head: SessionHead) -> SessionHead:
        """Move a stored head to what deltas and touches have changed since."""
        head.seq = self.seq
        head.last_activity_at = max(head.last_activity_at, self.activity)
        return head

    @property
    def is_at_hand(self) -> bool:
        """Whether the head can be had without reading a file."""
        return self.head is not None or self.raw is not None

    def pack_head(self) -> None:
        """Keep the head as bytes: about a tenth of the object, for sessions at rest."""
        if self.head is not None:
            self.raw = codec.encode(self.head.to_json())
            self.head = None


class DiskUse:
    """What the sessions' files take, added up as it changes: bytes by kind, and by user."""

    __slots__ = ("_by_user", "archive", "logs", "snapshots")

    def __init__(self) -> None:
        self.logs = self.archive = self.snapshots = 0
        # User id to sessions and bytes; a user who has no session has no entry.
        self._by_user: dict[str, tuple[int, int]] = {}

    def add(self, entry: Entry) -> None:
        """Count an entry's files."""
        self._count(entry, 1)

    def remove(self, entry: Entry) -> None:
        """Take an entry's files out, before they change or go."""
        self._count(entry, -1)

    def grow(self, entry: Entry, added_bytes: int) -> None:
        """Count what an entry's log has grown by; it is not packed."""
        self.logs += added_bytes
        user_id = entry.origin.user_id
        if user_id is not None:
            sessions, stored = self._by_user[user_id]
            self._by_user[user_id] = sessions, stored + added_bytes

    def of_user(self, user_id: str) -> StoreUsage:
        """Return what a user's sessions take."""
        return StoreUsage(*self._by_user.get(user_id, (0, 0)))

    def _count(self, entry: Entry, sign: int) -> None:
        if entry.bundle:
            self.archive += sign * entry.bundle
        else:
            self.logs += sign * entry.size
        self.snapshots += sign * entry.snapshot_bytes
        user_id = entry.origin.user_id
        if user_id is None:
            return
        sessions, stored = self._by_user.get(user_id, (0, 0))
        if sessions + sign:
            stored += sign * (entry.bundle or entry.size)
            self._by_user[user_id] = sessions + sign, stored
        else:
            del self._by_user[user_id]


class Catalog:
    """All entries, which of them changed since the last checkpoint, and what is unfinished."""

    def __init__(self) -> None:
        self.entries: dict[str, Entry] = {}
        self.dirty: dict[str, Entry] = {}
        # Those that were deleted since; a new life of the same id may be dirty already.
        self.deleted: set[str] = set()
        # What list views have not yet seen; they take it right before they are used.
        self.changed: set[str] = set()
        self.unfinished: set[str] = set()
        self.use = DiskUse()

    def begin(self, entries: dict[str, Entry], unfinished: set[str]) -> None:
        """Take what opening has found."""
        self.entries.update(entries)
        self.unfinished |= unfinished
        for entry in entries.values():
            self.use.add(entry)

    def apply(self, commit: LineCommit, size: int) -> None:
        """Take a commit that has become durable; `size` is the log's then."""
        session_id, epoch, first, count, _, _, deltas, head, time_ms, create, _ = commit
        if create:
            entry = self.entries[session_id] = Entry(session_id, epoch)
        else:
            entry = self.entries[session_id]
        entry.deltas += deltas
        if head is None:
            self.use.grow(entry, size - entry.size)
            entry.size = size
        else:
            if not create:
                self.use.remove(entry)
            entry.size = size
            entry.set_head(head)
            self.use.add(entry)
            self._note_runs(session_id, head)
        if time_ms > entry.activity:
            entry.activity = time_ms
        # Last: the committer evicts a log when this seq is its own.
        entry.seq = first + count - 1
        self.dirty[session_id] = entry
        self.changed.add(session_id)

    def adopt(self, entry: Entry, *, dirty: bool = True) -> None:
        """Take an entry that repair, or a creation with a history, has made."""
        former = self.entries.get(entry.id)
        if former is not None:
            self.use.remove(former)
        self.use.add(entry)
        self.entries[entry.id] = entry
        if entry.head is not None:
            self._note_runs(entry.id, entry.head)
        if dirty:
            self.dirty[entry.id] = entry
        self.changed.add(entry.id)

    def remove(self, session_id: str) -> None:
        """Take a deletion that has become durable."""
        former = self.entries.pop(session_id, None)
        if former is not None:
            self.use.remove(former)
        self.unfinished.discard(session_id)
        self.dirty.pop(session_id, None)
        self.deleted.add(session_id)
        self.changed.add(session_id)

    def touch(self, session_id: str, epoch: int, activity_ms: int) -> None:
        """Move the last activity forward."""
        entry = self.entries.get(session_id)
        if entry is not None and entry.epoch == epoch and entry.activity < activity_ms:
            entry.activity = activity_ms
            self.dirty[session_id] = entry
            self.changed.add(session_id)

    @contextmanager
    def changing_files(self, entry: Entry) -> Iterator[None]:
        """Keep count while the entry's files become other ones; it need not be known any more."""
        is_known = self.entries.get(entry.id) is entry
        if is_known:
            self.use.remove(entry)
        yield
        if is_known:
            self.use.add(entry)
            self.dirty[entry.id] = entry

    def _note_runs(self, session_id: str, head: SessionHead) -> None:
        if head.active or head.queue:
            self.unfinished.add(session_id)
        else:
            self.unfinished.discard(session_id)
