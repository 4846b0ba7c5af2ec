"""`memory:` keeps sessions while the process lives: for tests, demos and trying things out.

It is a verified fake: it passes the same contract suite as the durable stores, with the same timing
(it never answers from within the call). So tests use it instead of mocks.
"""

import asyncio
import secrets
from bisect import bisect_right
from collections import deque
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import anyio.lowlevel
from typing_extensions import override

from bamboo_gateway.domain.clock import Clock
from bamboo_gateway.domain.errors import BambooError, Conflict, Unavailable
from bamboo_gateway.domain.events import DELTA_TYPES
from bamboo_gateway.domain.limits import PAGE_BYTES_MAX
from bamboo_gateway.domain.sessions import Presence, SessionHead
from bamboo_gateway.storage.base import (
    GONE_SESSIONS_MAX,
    ChangesLost,
    Done,
    SessionCreation,
    SessionStore,
)
from bamboo_gateway.storage.commits import Commit, Event, Found, MarkKind, Note, Record
from bamboo_gateway.storage.files.base import ContentStore
from bamboo_gateway.storage.files.memory import MemoryContents
from bamboo_gateway.storage.lines import LINE_EXTRA_BYTES, in_log_order
from bamboo_gateway.storage.listing import ends_of, gone_of, list_page
from bamboo_gateway.storage.marks import Mark, mark_of
from bamboo_gateway.storage.migration.unfinished import check_target, unfinished
from bamboo_gateway.storage.reports import (
    Change,
    ChangePage,
    Erased,
    Expiry,
    GoneSession,
    RecoveryReport,
    SearchHit,
    SearchPage,
    SearchQuery,
    SessionPage,
    SessionQuery,
    StoredSize,
    StoreUsage,
    ValueChange,
)
from bamboo_gateway.storage.searching import (
    SearchKey,
    UnsearchableError,
    admits_message,
    admits_session,
    search_page,
    searched_message,
)
from bamboo_gateway.storage.values import check_keys


@dataclass(slots=True)
class _Session:
    head: SessionHead
    # In log order; seqs rise, and a note has the seq of the event before it.
    entries: list[Event | Note] = field(default_factory=list)
    marks: list[tuple[Mark, int]] = field(default_factory=list)
    bytes: int = 0
    packed: bool = False
    # For an extension: the seq behind which it begins.
    after: int = 0

    @property
    def events(self) -> int:
        """The number of events, without notes."""
        return sum(isinstance(entry, Event) for entry in self.entries)


class MemoryStore(SessionStore):
    """A store in memory."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._sessions: dict[str, _Session] = {}
        self._waiting: deque[tuple[Commit, Done]] = deque()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._last_epoch = 0
        self._commits = 0
        self._events = 0
        self._feed = secrets.token_hex(8)
        # The last change of each session in the order of the numbers; a deleted one has its rest.
        self._changes: dict[str, tuple[int, GoneSession | None]] = {}
        self._last_change = 0
        self._forgotten = 0
        self._values: dict[tuple[str, str], bytes] = {}
        self._contents = MemoryContents()
        # What is being copied into this store, if anything is.
        self._origin: str | None = None

    @override
    async def open(self) -> RecoveryReport:
        if self._origin is not None:
            raise unfinished("The store in memory", self._origin)
        self._loop = asyncio.get_running_loop()
        return RecoveryReport(sessions=len(self._sessions))

    async def check_vacant(self, origin: str) -> None:
        """Refuse a store with sessions, as `SupportsMigration` describes."""
        check_target("The store in memory", origin, self._origin, len(self._sessions))

    async def begin_migration(self, origin: str) -> RecoveryReport:
        """Open the store to be filled, as `SupportsMigration` describes."""
        await self.check_vacant(origin)
        self._origin = None
        report = await self.open()
        self._origin = origin
        return report

    async def end_migration(self, last_epoch: int) -> None:
        """Make the store one like others, as `SupportsMigration` describes."""
        self._last_epoch = max(self._last_epoch, last_epoch)
        self._origin = None

    @override
    async def aclose(self) -> None:
        self._apply_waiting()
        self._loop = None

    @override
    def next_epoch(self) -> int:
        self._last_epoch = max(self._clock.now_ms(), self._last_epoch + 1)
        return self._last_epoch

    @override
    def append(self, commit: Commit, done: Done) -> None:
        if self._loop is None:
            closed = Unavailable("The store is closed.")
            asyncio.get_running_loop().call_soon(done, closed)
            return
        if not self._waiting:
            self._loop.call_soon(self._apply_waiting)
        self._waiting.append((commit, done))

    def _apply_waiting(self) -> None:
        waiting, self._waiting = self._waiting, deque()
        answers: list[tuple[Done, BambooError | None]] = []
        for commit, done in waiting:
            answers.append((done, self._apply(commit)))
        for done, answer in answers:
            done(answer)

    def _apply(self, commit: Commit) -> BambooError | None:
        session = self._sessions.get(commit.session_id)
        if commit.create:
            if session is not None:
                return Conflict("The session exists.", head=session.head.seq)
            head = commit.head or SessionHead(commit.session_id, commit.epoch)
            session = self._sessions[commit.session_id] = _Session(head)
        elif session is None or session.head.epoch != commit.epoch:
            return Conflict("There is no such session of that epoch.", head=None)
        elif session.packed:
            return Conflict("The session is packed, so nothing is appended.", head=session.head.seq)
        elif session.head.seq != commit.first_seq - 1:
            return Conflict("The head has moved.", head=session.head.seq)
        _extend(session, commit)
        if any(event.type not in DELTA_TYPES for event in commit.events):
            self._changed(commit.session_id)
        self._commits += 1
        self._events += len(commit.events)
        return None

    @override
    def creation(self, session_id: str, epoch: int) -> SessionCreation:
        return _Creation(self._publish, session_id, epoch)

    def _publish(self, session: _Session) -> None:
        if self._loop is None:
            raise Unavailable("The store is closed.")
        # After the commits that were given before.
        self._apply_waiting()
        existing = self._sessions.get(session.head.id)
        if existing is not None:
            raise Conflict("The session exists.", head=existing.head.seq)
        self._sessions[session.head.id] = session
        self._changed(session.head.id)
        self._events += session.events

    @override
    def extension(self, session_id: str, epoch: int, after: int) -> SessionCreation:
        return _Creation(self._extend, session_id, epoch, after)

    def _extend(self, added: _Session) -> None:
        if self._loop is None:
            raise Unavailable("The store is closed.")
        self._apply_waiting()
        session = self._session(added.head.id, added.head.epoch)
        if session.packed or session.head.seq != added.after:
            raise Conflict("The session has been appended to.", head=session.head.seq)
        entries = len(session.entries)
        session.marks += [(mark, entries + index) for mark, index in added.marks]
        session.entries += added.entries
        session.bytes += added.bytes
        activity = max(session.head.last_activity_at, added.head.last_activity_at)
        session.head = added.head
        session.head.last_activity_at = activity
        self._changed(session.head.id)
        self._events += added.events

    def _session(self, session_id: str, epoch: int) -> _Session:
        session = self._sessions.get(session_id)
        if session is None or session.head.epoch != epoch:
            raise Conflict("There is no such session of that epoch.", head=None)
        return session

    @override
    async def load(self, session_id: str) -> SessionHead | None:
        session = self._sessions.get(session_id)
        return session.head.copy() if session else None

    @override
    async def delete(self, session_id: str, epoch: int, version: int | None = None) -> int:
        self._apply_waiting()
        session = self._session(session_id, epoch)
        del self._sessions[session_id]
        self._changed(session_id, gone_of(session.head))
        return session.bytes

    def _changed(self, session_id: str, gone: GoneSession | None = None) -> None:
        self._changes.pop(session_id, None)
        self._last_change += 1
        self._changes[session_id] = (self._last_change, gone)
        if gone is not None:
            deleted = [name for name, (_, rest) in self._changes.items() if rest is not None]
            for name in deleted[:-GONE_SESSIONS_MAX]:
                self._forgotten, _ = self._changes.pop(name)

    @override
    async def changes(self, feed: str, after: int, limit: int) -> ChangePage:
        if feed != self._feed or not self._forgotten <= after <= self._last_change:
            raise ChangesLost("These changes are not known any more.")
        changes = [
            Change(number, name, self._sessions[name].head.copy() if gone is None else None, gone)
            for name, (number, gone) in self._changes.items()
        ]
        begin = bisect_right(changes, after, key=lambda change: change.number)
        shown = changes[begin : begin + limit]
        has_more = len(changes) > begin + limit
        return ChangePage(shown, shown[-1].number if has_more else self._last_change, has_more)

    @override
    async def last_change(self) -> tuple[str, int]:
        return self._feed, self._last_change

    @override
    async def expiries(self, after: tuple[int, str], until: int, limit: int) -> list[Expiry]:
        found = [
            Expiry(end, head.id, head.copy())
            for head in self._heads()
            for end in ends_of(head)
            if after < (end, head.id) and end <= until
        ]
        return sorted(found, key=lambda one: one[:2])[:limit]

    @override
    async def write_values(self, changes: Sequence[ValueChange]) -> None:
        if self._loop is None:
            raise Unavailable("The store is closed.")
        check_keys(changes)
        for change in changes:
            if change.value is None:
                self._values.pop((change.kind, change.key), None)
            else:
                self._values[change.kind, change.key] = change.value

    @override
    async def value(self, kind: str, key: str) -> bytes | None:
        return self._values.get((kind, key))

    @override
    async def values(
        self, kind: str, *, prefix: str = "", after: str = "", limit: int = 1000
    ) -> list[tuple[str, bytes]]:
        found = sorted(
            (key, value)
            for (of, key), value in self._values.items()
            if of == kind and key.startswith(prefix) and key > after
        )
        return found[:limit]

    @property
    @override
    def contents(self) -> ContentStore:
        return self._contents

    @override
    async def value_kinds(self) -> list[str]:
        return sorted({kind for kind, _ in self._values})

    @override
    async def read(
        self, session_id: str, epoch: int, after: int, *, limit: int, max_bytes: int
    ) -> list[Record]:
        session = self._session(session_id, epoch)
        found: list[Record] = []
        size = 0
        for entry in session.entries:
            if isinstance(entry, Note) or entry.seq <= after:
                continue
            size += len(entry.body)
            if found and (len(found) >= limit or size > max_bytes):
                break
            found.append(Record(entry.seq, entry.body))
        return found[:limit]

    @override
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
        session = self._session(session_id, epoch)
        found = Found()
        size = 0
        for mark, index in reversed(session.marks) if reverse else session.marks:
            if (
                mark.kind != kind
                or key not in (None, mark.key)
                or not after < mark.seq
                or not (before is None or mark.seq < before)
            ):
                continue
            body = session.entries[index].body
            size += len(body)
            if len(found) >= limit or (found and size > max_bytes):
                found.has_more = bool(found)
                break
            found.append(Record(mark.seq, body))
        return found

    @override
    async def count_marks(
        self,
        session_id: str,
        epoch: int,
        kind: MarkKind,
        *,
        after: int = 0,
        before: int | None = None,
    ) -> int:
        return sum(
            mark.kind == kind and after < mark.seq and (before is None or mark.seq < before)
            for mark, _ in self._session(session_id, epoch).marks
        )

    @override
    async def keys_in_use(
        self, session_id: str, epoch: int, kind: MarkKind, keys: Collection[str]
    ) -> set[str]:
        session = self._session(session_id, epoch)
        return {mark.key for mark, _ in session.marks if mark.kind == kind and mark.key in keys}

    @override
    async def pack(self, session_id: str, epoch: int) -> None:
        self._apply_waiting()
        self._session(session_id, epoch).packed = True

    @override
    async def unpack(self, session_id: str, epoch: int) -> None:
        self._session(session_id, epoch).packed = False

    @override
    async def compact(self, session_id: str, epoch: int, upto: int) -> int:
        self._apply_waiting()
        session = self._session(session_id, epoch)
        return 0 if session.packed else _compact(session, min(upto, session.head.seq - 1))

    async def remove_events(self, session_id: str, epoch: int, seqs: Collection[int]) -> None:
        """Remove events as `SupportsErasure` describes."""
        self._apply_waiting()
        session = self._session(session_id, epoch)
        if session.packed:
            raise Conflict("The session is packed.", head=session.head.seq)
        _compact(session, 0, frozenset(seqs) - {session.head.seq})

    async def vacuum(self) -> list[Erased]:
        """Forget deletions, which name users: nobody keeps anything else that was removed."""
        self._last_change += 1
        gone = [
            (name, number) for name, (number, rest) in self._changes.items() if rest is not None
        ]
        for name, number in gone:
            self._forgotten = number
            del self._changes[name]
        return [Erased("memory", "sessions", "now")]

    @override
    async def delta_bytes(self, session_id: str) -> int:
        session = self._sessions.get(session_id)
        return _delta_bytes(session) if session is not None else 0

    @override
    async def holding_deltas(self, bytes_min: int) -> dict[str, int]:
        return {
            session.head.id: session.head.last_activity_at
            for session in self._sessions.values()
            if _delta_bytes(session) >= bytes_min
        }

    @override
    async def unpacked_archives(self) -> list[str]:
        sessions = sorted(self._sessions.items())
        return [name for name, s in sessions if s.head.logged_state == "archived" and not s.packed]

    @override
    async def size(self, session_id: str) -> StoredSize:
        session = self._sessions.get(session_id)
        if session is None:
            raise Conflict("There is no such session.", head=None)
        # Logs in memory are never compressed.
        return StoredSize(session.bytes, session.bytes)

    @override
    async def query(self, query: SessionQuery, presence: Presence) -> SessionPage:
        heads = self._heads()
        if query.terms:
            found = SearchQuery(query.terms, archived="include")
            heads = [head for head in heads if any(self._messages(found, head.id))]
        return list_page(heads, query, presence)

    @override
    async def search(self, query: SearchQuery) -> SearchPage:
        return search_page(
            (pair for session_id in self._sessions for pair in self._messages(query, session_id)),
            query,
        )

    def _messages(
        self, query: SearchQuery, session_id: str
    ) -> Iterator[tuple[SearchKey, SearchHit]]:
        """Look at all messages of a session, one after the other: it says what a search finds."""
        session = self._sessions[session_id]
        head = session.head
        if not admits_session(query, head):
            return
        for mark, index in session.marks:
            if mark.kind != "message" or mark.seq <= head.history_from:
                continue
            body = session.entries[index].body
            try:
                message = searched_message(body)
            except UnsearchableError:
                continue
            if message is not None and admits_message(query, message):
                key = SearchKey(message.created_at, head.id, mark.seq)
                yield key, SearchHit(head.id, head.epoch, head.title, mark.seq, body)

    @override
    async def usage(self, user_id: str | None = None) -> StoreUsage:
        # Added up at each call: a store in memory is small.
        sessions = self._sessions.values()
        own = [s.bytes for s in sessions if user_id is None or s.head.user_id == user_id]
        return StoreUsage(len(own), sum(own))

    @override
    def touch(self, session_id: str, epoch: int, activity_ms: int) -> None:
        session = self._sessions.get(session_id)
        if session is not None and session.head.epoch == epoch:
            head = session.head
            head.last_activity_at = max(head.last_activity_at, activity_ms)

    @override
    async def unfinished(self) -> list[str]:
        return [head.id for head in self._heads() if head.is_unfinished]

    @override
    async def release(self, session_id: str) -> None:
        return None

    @property
    @override
    def is_writing(self) -> bool:
        return True

    @override
    async def stats(self) -> dict[str, Any]:
        return {
            "sessions": len(self._sessions),
            "commits_total": self._commits,
            "events_total": self._events,
            "disk_bytes_logs": 0,
            "disk_bytes_archive": 0,
            "disk_bytes_snapshots": 0,
            "disk_bytes_journal": 0,
            "disk_bytes_quarantine": 0,
        }

    def _heads(self) -> list[SessionHead]:
        return [session.head for session in self._sessions.values()]


class _Creation(SessionCreation):
    """A new session, or new events of one, that is not visible yet."""

    def __init__(
        self, publish: Callable[[_Session], None], session_id: str, epoch: int, after: int = 0
    ) -> None:
        self._publish = publish
        self._session: _Session | None = _Session(SessionHead(session_id, epoch), after=after)

    @override
    async def write(self, events: Sequence[Event], notes: Sequence[Note] = ()) -> None:
        session = self._session
        assert session is not None, "it has been published or discarded"
        _add(session, events, notes)
        await anyio.lowlevel.checkpoint()

    @override
    async def publish(self, head: SessionHead) -> None:
        await anyio.lowlevel.checkpoint()
        session, self._session = self._session, None
        assert session is not None, "it has been published or discarded"
        assert head.seq == (session.entries[-1].seq if session.entries else session.after)
        session.head = head.copy()
        self._publish(session)

    @override
    async def discard(self) -> None:
        self._session = None


def _compact(session: _Session, upto: int, without: frozenset[int] = frozenset()) -> int:
    freed = 0
    seq = 0
    kept: list[Event | Note] = []
    places: dict[int, int] = {}
    for index, entry in enumerate(session.entries):
        is_removed = isinstance(entry, Event) and entry.seq in without
        if is_removed or (_is_delta(entry) and entry.seq <= upto):
            freed += _size_of(entry)
            continue
        # A note has the seq of the event before it.
        seq = seq if isinstance(entry, Note) else entry.seq
        places[index] = len(kept)
        kept.append(entry._replace(seq=seq))
    session.marks = [
        (mark._replace(seq=kept[places[index]].seq), places[index])
        for mark, index in session.marks
        if index in places
    ]
    session.entries = kept
    session.bytes -= freed
    return freed


def _extend(session: _Session, commit: Commit) -> None:
    _add(session, commit.events, commit.notes)
    if commit.head is not None:
        activity = max(session.head.last_activity_at, commit.head.last_activity_at)
        session.head = commit.head
        session.head.last_activity_at = activity
    head = session.head
    head.seq = commit.first_seq + len(commit.events) - 1
    head.last_activity_at = max(head.last_activity_at, commit.time_ms)


def _add(session: _Session, events: Sequence[Event], notes: Sequence[Note]) -> None:
    for entry in in_log_order(events, notes):
        mark = mark_of(entry.body, entry.seq)
        if mark is not None:
            session.marks.append((mark, len(session.entries)))
        session.entries.append(entry)
        session.bytes += _size_of(entry)


def _is_delta(entry: Event | Note) -> bool:
    return isinstance(entry, Event) and entry.type in DELTA_TYPES


def _delta_bytes(session: _Session) -> int:
    return sum(_size_of(entry) for entry in session.entries if _is_delta(entry))


def _size_of(entry: Event | Note) -> int:
    # The same as the JSONL store counts, so that quotas of bytes mean the same in both.
    return len(entry.body) + LINE_EXTRA_BYTES
