"""The contract between the gateway and whatever keeps its sessions.

A store keeps, for each session, an append-only log of events and the head folded from it. In which
form it keeps them (lines, rows) is its own affair; it gives back the bodies that it was given, byte
for byte. Beside the events the log has notes: they are no events, and only `find` shows them.

Marked are `message` events (their key is the message id), `run_queued`, `run_start` and terminal
events (kind `run`, the run id), and notes (their own key): `find` gives them by kind and key. The
store takes an event's key from its body.

It promises:

* **Order and atomicity.** The commits of one session are applied in the order they were given, each
  whole or not at all. A commit is applied only when the session's head is `first_seq - 1` and its
  epoch is the commit's own (R8); a refused commit changes nothing, and every later commit that was
  built on it is refused too.
* **Durability before acknowledgement (R1).** `done(None)` means durable as the configured mode
  promises, and from then on every read sees it. Before that no read sees anything of it.
* **No half answers.** `done(error)` means that nothing of the commit is or will become visible,
  after a restart neither (R3: its seqs may be given to other content).
* **Isolation.** What is wrong with one session's files is that session's trouble alone (R10).

All methods are called on the event loop's thread; none blocks it (R12). Cancelling an `await`
abandons the answer and leaves the store as if the call had either happened or not.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import dataclass, field
from types import TracebackType
from typing import Any, Literal, NamedTuple, Protocol, Self, runtime_checkable

from bamboo_gateway.domain.errors import BambooError, Unavailable
from bamboo_gateway.domain.limits import PAGE_BYTES_MAX
from bamboo_gateway.domain.sessions import SessionHead, SessionState

MarkKind = Literal["message", "run", "note"]


class Event(NamedTuple):
    """An event on its way into the log.

    A tuple, since one is made for every event that is streamed.

    Attributes:
        seq: Its place in the log.
        type: Its type, as in its body.
        body: Its JSON object; `type` is the first member, `seq` the second.
    """

    seq: int
    type: str
    body: bytes


class Note(NamedTuple):
    """A note on its way into the log.

    Attributes:
        seq: That of the event that it follows; 0 before the first.
        key: What it is found by, also as `key` in its body.
        body: Its JSON object; `note` is the first member, `key` the second.
    """

    seq: int
    key: str
    body: bytes


class Record(NamedTuple):
    """What a log has at one place: an event, or a note with the seq of the event before it."""

    seq: int
    body: bytes

    @property
    def type(self) -> str:
        """The event's type, read without decoding the body: it is the first member."""
        return self.body[9 : self.body.index(b'"', 9)].decode()


class Found(list[Record]):
    """What one `SessionStore.find` found.

    Attributes:
        has_more: Whether the search may find more beyond the last of these. False is certain.
            After True, a further search may find nothing; but a search that finds nothing always
            has False.
    """

    __slots__ = ("has_more",)

    def __init__(self, records: Iterable[Record] = (), *, has_more: bool = False) -> None:
        super().__init__(records)
        self.has_more = has_more


class Commit(NamedTuple):
    """Events (and notes) of one session that become durable together.

    A tuple, since one is made, carried and taken apart for every event that is streamed.

    Attributes:
        session_id: Whose log.
        epoch: The life of the log that is meant.
        first_seq: The first event's seq; the head must be `first_seq - 1`. With `create` it is 1.
        events: Its events, with consecutive seqs; none when there are only notes.
        notes: Its notes, in their order.
        head: The session's head after the commit; None when only `seq` and `last_activity_at`
            have moved (commits of nothing but deltas). The store owns it from here.
        time_ms: The time of its events; moves `last_activity_at`.
        create: The session must not exist; its log begins with this commit, with `epoch`.
        reserve: May use the space kept back for endings when the disk is full.
    """

    session_id: str
    epoch: int
    first_seq: int
    events: Sequence[Event]
    notes: Sequence[Note] = ()
    head: SessionHead | None = None
    time_ms: int = 0
    create: bool = False
    reserve: bool = False


@dataclass(frozen=True, slots=True)
class SessionQuery:
    """What a list of sessions shows. Times in ms; `None` does not filter.

    `parent_id` admits the sessions forked from that one; `root_id` the whole tree: those whose
    first ancestor it is, and itself. `shared_with` admits the sessions with a share for that user
    that holds at `shared_at`. `archived` says what becomes of archived sessions; asking for
    `state == "archived"` shows them, whatever it says. A page filtered by one of these or by
    `user_id` costs what they admit, not the number of sessions; one by `state` that, where states
    are `SupportsNoted`, and what has to be asked about. The other filters look at every session;
    `id_prefix` is one of them and admits the sessions whose ids begin with it.

    `cursor` is the `next_cursor` of the page before: it stands for the last entry shown (its sort
    value and id), so pages neither repeat nor skip while other sessions come and go. `offset`
    counts from the start instead.
    """

    user_id: str | None = None
    state: SessionState | None = None
    session_type: str | None = None
    created_after: int | None = None
    created_before: int | None = None
    active_after: int | None = None
    title_contains: str | None = None
    id_prefix: str | None = None
    parent_id: str | None = None
    root_id: str | None = None
    shared_with: str | None = None
    shared_at: int = 0
    archived: Literal["exclude", "only", "include"] = "exclude"
    sort_by: Literal["last_activity_at", "created_at", "updated_at", "message_count", "title"] = (
        "last_activity_at"
    )
    descending: bool = True
    cursor: str | None = None
    offset: int | None = None
    limit: int = 100
    count: bool = True


@dataclass(frozen=True, slots=True)
class SessionPage:
    """A page of heads. `total` counts what the filters admit, or is None when not asked for."""

    heads: list[SessionHead]
    next_cursor: str | None
    has_more: bool
    total: int | None


class StoredSize(NamedTuple):
    """What a session's log takes as it is stored now, and what it takes unpacked; in bytes."""

    stored_bytes: int
    original_bytes: int


class StoreUsage(NamedTuple):
    """What somebody has stored: sessions, archived ones too, and the bytes of their logs.

    Bytes are counted as they are stored now: an archived session's are those of its bundle. What
    is made of the logs (snapshots, indexes) and the journal that all share is not counted.
    """

    sessions: int
    stored_bytes: int


@dataclass(slots=True)
class RecoveryReport:
    """What opening the store found and did; logged in one line."""

    sessions: int = 0
    clean: bool = True
    journal_records: int = 0
    replayed_events: int = 0
    torn_bytes: int = 0
    damaged: list[str] = field(default_factory=list)
    quarantined: list[str] = field(default_factory=list)
    catalog_rebuilt: bool = False
    new_epochs: int = 0
    # Sessions whose index of messages did not fit their log, as earlier gateways could leave it.
    mended_indexes: int = 0
    # Sessions whose logs cannot be written; and whether that, and all else, is for want of space.
    unwritten: list[str] = field(default_factory=list)
    disk_full: bool = False
    seconds: float = 0.0


Done = Callable[[BambooError | None], None]
StateOf = Callable[[SessionHead], SessionState]


@runtime_checkable
class SupportsNoted(Protocol):
    """What a `StateOf` may tell besides, so that it need not be asked about every session.

    It says by this: of a session that is not noted the head alone decides. Its state is then its
    `logged_state`, if that is not `closed` with a time to live; without one, and with neither run
    nor queue nor time to live, it is idle.
    """

    def __call__(self, head: SessionHead, /) -> SessionState:
        """Computes the state."""

    def noted(self) -> Collection[str]:
        """Gives the sessions of which more is known than their heads say."""


class SessionCreation(ABC):
    """A session with its whole history on its way into the store (`SessionStore.creation`).

    Or a long continuation of one that there is (`SessionStore.extension`).
    `async with store.creation(…) as creation:`; leaving without `publish` discards everything.
    """

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        await self.discard()

    @abstractmethod
    async def write(self, events: Sequence[Event], notes: Sequence[Note] = ()) -> None:
        """Add events with rising seqs from 1 (or the head's) on, and notes.

        What is given is written before this returns, so memory holds one call's events at a time.

        Raises:
            StorageFull: No space.
            StorageFailed: It could not be written. The creation can only be left then.
        """

    @abstractmethod
    async def publish(self, head: SessionHead) -> None:
        """Makes what was written durable and visible, as a whole; `head` is folded from all events.

        Cancelling abandons the answer: all of it is then there or nothing, never a part.

        Raises:
            Conflict: The session exists; `head` is its own. Of an extension: its head has moved.
            StorageFull, StorageFailed: Nothing of it is or will become visible.
        """

    @abstractmethod
    async def discard(self) -> None:
        """Forgets what was written, unless it was published. Idempotent."""


class SessionStore(ABC):
    """See the module. One instance owns its data for as long as it is open."""

    @abstractmethod
    async def open(self) -> RecoveryReport:
        """Takes ownership and recovers.

        Raises:
            StoreBusy: Another process owns the data.
            StoreUnusable: The data can't be used at all (no permission, not a directory).
        """

    @abstractmethod
    async def aclose(self) -> None:
        """Makes everything accepted durable, marks the store clean and gives ownership back.

        Commits given afterwards are answered with `Unavailable`. Idempotent.
        """

    @abstractmethod
    def next_epoch(self) -> int:
        """Gives an epoch greater than every one ever used: max(now in ms, last + 1)."""

    @abstractmethod
    def append(self, commit: Commit, done: Done) -> None:
        """Takes one commit; `done` is called exactly once, on the event loop, never from within.

        `done` gets None, or:
            Conflict: The head or epoch is another (`head` says which), or with `create` the
                session exists; its `head` is None when there is no such session.
            StorageFull: No space. Reads go on.
            StorageFailed: A write or sync failed.
            Unavailable: The store is closed.
        """

    @abstractmethod
    def creation(self, session_id: str, epoch: int) -> SessionCreation:
        """Begins a session that comes into being with a long history: a fork, an import.

        Nothing of it is visible before it is published. Its lines do not pass through what commits
        of others wait for, so its size costs them nothing (R7).
        """

    @abstractmethod
    def extension(self, session_id: str, epoch: int, after: int) -> SessionCreation:
        """Begins many events that a session gets at once, behind the seq `after`: a merge.

        As `creation`: nothing of them is visible before they are published, and however many they
        are, they cost commits of others nothing. What is appended meanwhile, or packing, has the
        publication refused. Without events there may be notes.

        `write` and `publish` raise besides:
            Conflict: No such session of that epoch, or its head is another; `head` says which.
        """

    @abstractmethod
    async def load(self, session_id: str) -> SessionHead | None:
        """Gives an own copy of the durable head, or None when there is no such session."""

    @abstractmethod
    async def delete(self, session_id: str, epoch: int) -> int:
        """Deletes the session: its files are gone on return, nothing brings it back after a crash.

        Returns:
            The bytes its records took.

        Raises:
            Conflict: It is not there, or not of that epoch.
        """

    @abstractmethod
    async def read(
        self, session_id: str, epoch: int, after: int, *, limit: int, max_bytes: int
    ) -> list[Record]:
        """Reads events after the seq `after`, ascending; empty at the end. Notes are left out.

        At most `limit`, and at most about `max_bytes` of bodies, but at least one. Costs the
        size of the answer, not of the log.

        Raises:
            Conflict: No such session of that epoch.
        """

    @abstractmethod
    async def find(
        self,
        session_id: str,
        epoch: int,
        kind: MarkKind,
        *,
        key: str | None = None,
        after: int = 0,
        before: int | None = None,
        limit: int = 1000,
        max_bytes: int = PAGE_BYTES_MAX,
        reverse: bool = False,
    ) -> Found:
        """Finds marked lines with `after < seq < before`, ascending by log order, or descending.

        With `key` only those marked with it. At most `limit`, and at most `max_bytes` of bodies,
        but at least one when there is one. So fewer than `limit` do not mean that these are all:
        `Found.has_more` says that, and a caller who wants everything asks again beyond the last
        seq until nothing is found. (Several notes may have one seq; asking beyond it passes over
        those that the answer left out.)

        Costs the size of the answer (a `key`: also a scan of the marks, not of the log).

        Raises:
            Conflict: No such session of that epoch.
        """

    @abstractmethod
    async def count_marks(
        self,
        session_id: str,
        epoch: int,
        kind: MarkKind,
        *,
        after: int = 0,
        before: int | None = None,
    ) -> int:
        """Counts the marked lines with `after < seq < before`. Costs some bytes a mark, no line.

        Raises:
            Conflict: No such session of that epoch.
        """

    @abstractmethod
    async def keys_in_use(
        self, session_id: str, epoch: int, kind: MarkKind, keys: Collection[str]
    ) -> set[str]:
        """Gives those of the keys that a line of this kind is marked with.

        Costs one scan of the marks, not of the log, however many keys are asked for.

        Raises:
            Conflict: No such session of that epoch.
        """

    @abstractmethod
    async def pack(self, session_id: str, epoch: int) -> None:
        """Compresses the log of a session that has been archived.

        Everything reads as before, by the same positions; appending is refused with `Conflict`
        until it is unpacked. Whole or not at all, also across a crash. Idempotent.

        Raises:
            Conflict: No such session of that epoch, or it was appended to meanwhile.
            StorageFull, StorageFailed: It is as it was.
        """

    @abstractmethod
    async def unpack(self, session_id: str, epoch: int) -> None:
        """Undoes `pack`: exactly the log that there was, same epoch, same positions. Idempotent.

        Raises:
            Conflict: No such session of that epoch.
            StorageFull, StorageFailed: It is as it was.
        """

    @abstractmethod
    async def compact(self, session_id: str, epoch: int, upto: int) -> int:
        """Takes the deltas (`events.DELTA_TYPES`) with `seq <= upto` out of the log.

        Reads and appends go on meanwhile. Every position stays valid and means what it meant; the
        events taken out are simply no longer there. The log's last event stays, whatever it is. A
        note whose event goes has from then on the seq of the event that now precedes it. A packed
        session is left as it is. Whole or not at all, also across a crash. Idempotent.

        Returns:
            The bytes freed.

        Raises:
            Conflict: No such session of that epoch.
            StorageFull, StorageFailed: It is as it was.
        """

    @abstractmethod
    def delta_bytes(self, session_id: str) -> int:
        """Gives about how many bytes of deltas a session's log holds: what compacting may free.

        Survives a restart. After repairs, and when an index was lost, it counts only what has been
        added since; a note committed among deltas may be counted with them. 0 for no such session.
        """

    @abstractmethod
    def holding_deltas(self, bytes_min: int) -> dict[str, int]:
        """Gives the last activity, in ms, of each session with at least so many `delta_bytes`.

        Looks at all sessions in memory: for a start, not for a request.
        """

    @abstractmethod
    def unpacked_archives(self) -> list[str]:
        """Lists the sessions whose head says archived and that are not packed: `pack` is due.

        Looks at all sessions in memory: for a start, not for a request.
        """

    @abstractmethod
    def size(self, session_id: str) -> StoredSize:
        """Gives the size of a session's log as of its last commit.

        Raises:
            Conflict: There is no such session.
        """

    @abstractmethod
    async def query(self, query: SessionQuery, state_of: StateOf) -> SessionPage:
        """Lists sessions; `state_of` computes the state that `query.state` filters by.

        Heads in the page are copies of the durable ones. The order is the pair of sort value and
        id, reversed as a whole when descending; a title of None sorts as "". `…_after` and
        `…_before` leave out the moment itself; `title_contains` ignores case.

        Raises:
            InvalidCursor: The cursor is none of this store's, or of another sort order.
        """

    @abstractmethod
    def count(self) -> int:
        """Gives the number of sessions."""

    @abstractmethod
    def usage(self, user_id: str | None = None) -> StoreUsage:
        """Gives what a user's sessions take, or all sessions together, as of their last commits.

        Counted as it changes: asking costs the same however many sessions there are.
        """

    @abstractmethod
    def touch(self, session_id: str, epoch: int, activity_ms: int) -> None:
        """Moves `last_activity_at` forward without an event (an open stream is activity).

        Durable with the next checkpoint; unknown sessions are ignored.
        """

    @abstractmethod
    def unfinished(self) -> list[str]:
        """Lists the sessions whose head has an active or queued run."""

    @abstractmethod
    async def release(self, session_id: str) -> None:
        """Says that the session leaves memory: its file is closed, its snapshot written if due."""

    @property
    @abstractmethod
    def is_writing(self) -> bool:
        """Whether commits will be answered: the store is open and whatever writes it is alive."""

    @property
    def refusal(self) -> Unavailable | None:
        """What every write is refused with at present, as far as is known, or None.

        `StorageFull`: there is no room; endings of runs and deletions may still be taken.
        """
        return None

    @abstractmethod
    def stats(self) -> dict[str, Any]:
        """Gives what /metrics shows: counters since opening (`…_total`), levels, histograms.

        `disk_bytes_<kind>` (logs, journal, snapshots, archive, quarantine) say what is kept where,
        and `disk_bytes_logs` and `…_archive` what of it are the sessions themselves.
        """


@dataclass(frozen=True, slots=True)
class Examination:
    """What a store at work finds in its own files.

    Attributes:
        missing: Sessions whose files are not there.
        strays: Files that belong to no session, by name.
        looked_at: How many sessions were looked through, each to its last byte.
        damaged: What is wrong with those: `(session, problem)`.
        journal_seconds: How long the oldest record has waited to be brought up.
    """

    missing: list[str]
    strays: list[str]
    looked_at: int
    damaged: list[tuple[str, str]]
    journal_seconds: float


@runtime_checkable
class SupportsExamination(Protocol):
    """A store that can look at its own files while it is at work."""

    async def examine(self, sessions_max: int, bytes_max: int) -> Examination:
        """Looks at what there is, and through so many sessions, chosen by chance.

        Nothing is changed: what is damaged is repaired by whoever reads it, or by `doctor`.
        """

    def unwritable(self) -> dict[str, str]:
        """Gives the sessions whose logs cannot be written at present, and why."""


class StoreBusy(BambooError):
    """Another process owns the data."""

    code = "store-busy"


class StoreUnusable(BambooError):
    """The data cannot be opened; `detail` says why and what to do."""

    code = "store-unusable"
