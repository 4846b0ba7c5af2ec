"""The contract between the gateway and the store of its sessions.

For each session a store keeps an append-only log of events, and the head folded from it. The store
chooses the form (lines, rows). It returns the bodies that it was given, byte for byte. Beside the
events a log has notes: they are no events, and only `find` returns them.

Some entries of a log are marked, and `find` finds them by kind and key: `message` events by the
message id; `run_queued`, `run_start` and terminal events (kind `run`) by the run id; requests for
input, their answers and ends (kind `input`) by the request's id; notes by their own key. The store
takes an event's key from its body.

`commits` has the types of events and commits, `reports` those of lists and findings.

A store promises:

* **Order and atomicity.** The store applies the commits of one session in the order they were
  given, each as a whole or not at all. It applies a commit only when the session's head is
  `first_seq - 1` and its epoch is the commit's (R8). A refused commit changes nothing, and the
  store refuses every later commit that was built on it.
* **Durability before acknowledgement (R1).** `done(None)` means durable as the configured mode
  promises; from then on every read sees the commit. Before that no read sees any of it.
* **No half answers.** `done(error)` means that no part of the commit is or will become visible,
  not even after a restart (R3: its seqs may be given to other content).
* **Isolation.** A problem with the files of one session affects that session alone (R10).

All methods are called on the event loop's thread, and none blocks it (R12). A cancelled `await`
abandons the answer: the call then either happened as a whole or not at all.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Collection, Sequence
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Protocol, Self, runtime_checkable

from bamboo_gateway.domain.errors import BambooError, Conflict, Unavailable
from bamboo_gateway.domain.limits import PAGE_BYTES_MAX
from bamboo_gateway.domain.sessions import Presence, SessionHead
from bamboo_gateway.storage.commits import Commit, Event, Found, MarkKind, Note, Record
from bamboo_gateway.storage.files.base import ContentStore
from bamboo_gateway.storage.reports import (
    ChangePage,
    Erased,
    Expiry,
    RecoveryReport,
    SearchPage,
    SearchQuery,
    SessionPage,
    SessionQuery,
    StoreCheck,
    StoredSize,
    StoreUsage,
    ValueChange,
)

if TYPE_CHECKING:
    from bamboo_gateway.storage.replicas import Replicas

Done = Callable[[BambooError | None], None]

GONE_SESSIONS_MAX = 100_000
"""The deletions that a store keeps for those who ask what has changed: about 20 MB."""

VALUE_KEY_CHARS_MAX = 512
"""The characters of the kind and the key of a value. Two ids and a name fit."""


class SessionCreation(ABC):
    """A new session with a whole history (`SessionStore.creation`), not yet visible.

    Or many new events of an existing session (`SessionStore.extension`). Use it as
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
        """Add events with rising seqs, from 1 or behind the head, and notes.

        They are written before this returns, so memory holds the events of one call at a time.

        Raises:
            StorageFull: There is no space.
            StorageFailed: They could not be written. The creation can only be left then.
        """

    @abstractmethod
    async def publish(self, head: SessionHead) -> None:
        """Make everything written durable and visible at once; `head` is folded from all events.

        A cancelled call abandons the answer: all events are then visible or none, never a part.

        Raises:
            Conflict: The session exists, and `head` of the error is its head. For an extension:
                the session's head has moved.
            StorageFull, StorageFailed: No part of it is or will become visible.
        """

    @abstractmethod
    async def discard(self) -> None:
        """Discard what was written, unless it was published. Idempotent."""


class SessionStore(ABC):
    """A store of sessions.

    One instance owns its data for as long as it is open, unless the store has `replicas`.
    """

    @abstractmethod
    async def open(self) -> RecoveryReport:
        """Take ownership of the data, or a part in it, and recover it.

        Raises:
            StoreBusy: Another process owns the data.
            StoreUnusable: The data cannot be used at all (no permission, not a directory).
        """

    @abstractmethod
    async def aclose(self) -> None:
        """Make everything accepted durable, mark the store clean and release ownership.

        Later commits are answered with `Unavailable`. Idempotent.
        """

    @abstractmethod
    def next_epoch(self) -> int:
        """Return an epoch greater than every one ever used: max(now in ms, last + 1)."""

    async def take_epoch(self) -> int:
        """Return an epoch as `next_epoch`, one that no other process on the same store gets.

        Raises:
            Unavailable, StorageFailed: The store does not give one now.
        """
        return self.next_epoch()

    def when_renewed(self, call: Callable[[], None]) -> None:  # noqa: B027 - few stores call it
        """Register what is called, on the event loop, when sessions got new epochs.

        That is when the store may have lost commits while it was open. What is in memory is wrong
        then.
        """

    @abstractmethod
    def append(self, commit: Commit, done: Done) -> None:
        """Take one commit; call `done` exactly once, on the event loop, never from within.

        `done` gets None, or:
            Conflict: The session has another head (`head` of the error) or epoch, or with
                `create` it exists. `head` is None when there is no such session.
            StorageFull: There is no space. Reads go on.
            StorageFailed: A write or sync failed.
            Unavailable: The store is closed.
        """

    @abstractmethod
    def creation(self, session_id: str, epoch: int) -> SessionCreation:
        """Begin a session that is created with a long history: a fork, an import.

        No part of it is visible before it is published. Its events do not pass through what other
        sessions' commits wait for, so its size does not delay them (R7).
        """

    @abstractmethod
    def extension(self, session_id: str, epoch: int, after: int) -> SessionCreation:
        """Begin many events that a session gets at once, behind the seq `after`: a merge.

        As with `creation`, none of them is visible before they are published, and their number
        does not delay other sessions' commits. `publish` is refused when the session was appended
        to or packed meanwhile. An extension may have notes alone.

        `write` and `publish` also raise:
            Conflict: There is no session of this epoch, or it has another head (`head` of the
                error).
        """

    @abstractmethod
    async def load(self, session_id: str) -> SessionHead | None:
        """Return a copy of the durable head, or None when there is no such session."""

    @abstractmethod
    async def delete(self, session_id: str, epoch: int, version: int | None = None) -> int:
        """Delete the session: its data is gone on return, and no crash brings it back.

        Args:
            session_id: The session.
            epoch: Its epoch.
            version: The version that it must have, where several processes share the store; None
                when any will do. Other stores do not look at it.

        Returns:
            The bytes that its records took.

        Raises:
            Conflict: There is no such session of this epoch, or of this version.
        """

    @abstractmethod
    async def read(
        self, session_id: str, epoch: int, after: int, *, limit: int, max_bytes: int
    ) -> list[Record]:
        """Read events after the seq `after`, ascending and without notes; none at the end.

        Returns at most `limit` events, and at most about `max_bytes` of bodies, but at least one.
        The cost is that of the answer, not of the log.

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
        """Find marked entries with `after < seq < before`, in log order, or with `reverse` back.

        With `key` only entries marked with it. Returns at most `limit` entries, and at most
        `max_bytes` of bodies, but at least one when there is one. So fewer than `limit` entries
        need not be all: `Found.has_more` says whether they are, and a caller who wants all of them
        asks again beyond the last seq until nothing is found. (Several notes may have one seq;
        asking beyond it skips those that the answer left out.)

        The cost is that of the answer (with `key` also a scan of the marks, not of the log).

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
        """Count the marked entries with `after < seq < before`, without reading any of them.

        Raises:
            Conflict: No such session of that epoch.
        """

    @abstractmethod
    async def keys_in_use(
        self, session_id: str, epoch: int, kind: MarkKind, keys: Collection[str]
    ) -> set[str]:
        """Return those of the keys that an entry of this kind is marked with.

        The cost is one scan of the marks, not of the log, for any number of keys.

        Raises:
            Conflict: No such session of that epoch.
        """

    @abstractmethod
    async def pack(self, session_id: str, epoch: int) -> None:
        """Compress the log of an archived session.

        Reads return the same as before, by the same positions; commits are refused with
        `Conflict` until the log is unpacked. All or nothing, also across a crash. Idempotent.

        Raises:
            Conflict: There is no session of this epoch, or it was appended to meanwhile.
            StorageFull, StorageFailed: The log is unchanged.
        """

    @abstractmethod
    async def unpack(self, session_id: str, epoch: int) -> None:
        """Undo `pack`: restore exactly the same log, epoch and positions. Idempotent.

        Raises:
            Conflict: There is no session of this epoch.
            StorageFull, StorageFailed: The log is unchanged.
        """

    @abstractmethod
    async def compact(self, session_id: str, epoch: int, upto: int) -> int:
        """Remove the deltas (`events.DELTA_TYPES`) with `seq <= upto` from the log.

        Reads and commits go on meanwhile. Every position stays valid and keeps its meaning; the
        removed events are no longer read. The last event of the log stays, whatever its type. A
        note whose event is removed gets the seq of the event that then precedes it. A packed
        session is left unchanged. All or nothing, also across a crash. Idempotent.

        Returns:
            The bytes freed.

        Raises:
            Conflict: There is no session of this epoch.
            StorageFull, StorageFailed: The log is unchanged.
        """

    @abstractmethod
    async def delta_bytes(self, session_id: str) -> int:
        """Return about how many bytes of deltas a session's log has: what `compact` may free.

        The count survives a restart. After a repair, and when an index was lost, it has only the
        deltas committed since. It is 0 when there is no such session.
        """

    @abstractmethod
    async def holding_deltas(self, bytes_min: int) -> dict[str, int]:
        """Return the last activity, in ms, of each session with at least this many `delta_bytes`.

        It may look at all sessions: call it at a start, not in a request.
        """

    @abstractmethod
    async def unpacked_archives(self) -> list[str]:
        """List the sessions that are archived and not packed yet.

        It may look at all sessions: call it at a start, not in a request.
        """

    @abstractmethod
    async def size(self, session_id: str) -> StoredSize:
        """Return the size of a session's log as of its last commit.

        Raises:
            Conflict: There is no such session.
        """

    async def sizes(self, session_ids: Collection[str]) -> dict[str, StoredSize]:
        """Return the sizes of some sessions' logs, for a page of a list.

        Sessions that do not exist are left out.
        """
        found: dict[str, StoredSize] = {}
        for session_id in session_ids:
            with suppress(Conflict):
                found[session_id] = await self.size(session_id)
        return found

    @abstractmethod
    async def query(self, query: SessionQuery, presence: Presence) -> SessionPage:
        """List sessions; `domain.sessions.state_of` defines the state that `query.state` is.

        `query.terms` selects sessions with a message that `search` finds. The heads in the page are
        copies of the durable ones. They are ordered by sort value and id, both reversed when
        descending; a title of None sorts as "". `…_after` and `…_before` exclude the moment itself;
        `title_contains` ignores case.

        Raises:
            InvalidCursor: The cursor was not made by this store, or for another order.
        """

    @abstractmethod
    async def search(self, query: SearchQuery) -> SearchPage:
        """Find messages by their text, the newest first.

        A message matches when its folded text (`domain.search.searched_text`) has every term of
        the query as a substring. It is found at the latest `checkpoint_interval_seconds` after its
        commit; the messages of a deleted session are not found from the deletion on. The messages
        are ordered by time, then session id and seq, all descending. The cost is that of the
        matches on the page and of candidates that are looked at for them, not of all messages. So a
        page may have fewer matches than `limit`, or none, although `has_more` says that a search
        from its cursor may find more. It also ends at about `PAGE_BYTES_MAX` of bodies.

        Raises:
            InvalidCursor: The cursor was not made by this store.
        """

    @abstractmethod
    async def changes(self, feed: str, after: int, limit: int) -> ChangePage:
        """Return the sessions that have changed after a change number, each with its last change.

        A change is a commit with an event that is no delta, a published creation or extension, or
        a deletion. It has its number when `done` is called, and every lower number is visible to
        this call by then. So whoever asks again from the `last` of a page misses nothing. Numbers
        survive restarts. The cost is that of the answer, not of the number of sessions.

        The last `GONE_SESSIONS_MAX` deletions are kept, each with what decides who is told of it
        (`listing.gone_of`); `SupportsErasure.vacuum` forgets all of them.

        Args:
            feed: The `change_feed` that the number is from.
            after: The number.
            limit: The most changes of a page.

        Raises:
            ChangesLost: The number is from another feed, is not reached yet, or so old that a
                deletion since then may be forgotten.
        """

    @abstractmethod
    async def last_change(self) -> tuple[str, int]:
        """Return the store's `change_feed`, and the number of the last change.

        The feed has a random name. It gets another one whenever numbers may be given again: the
        data was restored, copied, or their count was lost.
        """

    @abstractmethod
    async def expiries(self, after: tuple[int, str], until: int, limit: int) -> list[Expiry]:
        """Return the sessions of which something ends by itself in a span of time.

        What ends is the session's time to live, or a share with a user (`listing.ends_of`). The
        durable heads decide; runs and open streams do not count here. A time to live that ends has
        no commit, so `changes` does not have it. The cost is that of the answer; a store of files
        looks at all sessions that have such an end, in memory.

        Args:
            after: The moment in ms that the span begins behind, and a session's id: of that very
                moment the sessions with a greater id are returned.
            until: The last moment of the span.
            limit: The most entries of a page. Another one begins after its last entry.

        Returns:
            The entries, ordered by moment and session id. A session has one for each moment.
        """

    @abstractmethod
    async def write_values(self, changes: Sequence[ValueChange]) -> None:
        """Write and remove small values that the gateway keeps beside the sessions.

        All or nothing, and durable on return. Values of one key are written in the order of the
        calls. `kind` says what a value is (`webhook`, `file` …) and is part of its key; both are
        printable ASCII, at most `VALUE_KEY_CHARS_MAX` characters together.

        Raises:
            StorageFull, StorageFailed, Unavailable: Nothing was changed.
            ValueError: A key has other characters, or too many.
        """

    @abstractmethod
    async def value(self, kind: str, key: str) -> bytes | None:
        """Return a value, or None."""

    @abstractmethod
    async def values(
        self, kind: str, *, prefix: str = "", after: str = "", limit: int = 1000
    ) -> list[tuple[str, bytes]]:
        """Return the values whose keys begin with `prefix` and follow `after`, ordered by key.

        Keys are ordered by code point. The cost is that of the answer.
        """

    async def change_value(
        self, kind: str, key: str, change: Callable[[bytes | None], bytes | None]
    ) -> bytes | None:
        """Replace a value by what `change` makes of it, durably; None is no value.

        Where several processes share the store, no other change of this value comes in between.
        Elsewhere the caller sees to that: this is a read and a write.

        Args:
            kind: As for `write_values`.
            key: As for `write_values`.
            change: Returns the new value. It does not wait for anything, may be called on another
                thread, and what it raises changes nothing.

        Returns:
            The new value.

        Raises:
            StorageFull, StorageFailed, Unavailable: Nothing is changed.
        """
        before = await self.value(kind, key)
        after = change(before)
        if after != before:
            await self.write_values([ValueChange(kind, key, after)])
        return after

    @abstractmethod
    async def value_kinds(self) -> list[str]:
        """Return the kinds that there are values of, ordered. It may look at all values."""

    @property
    @abstractmethod
    def contents(self) -> ContentStore:
        """The contents of files, which are there while the store is open."""

    @abstractmethod
    async def usage(self, user_id: str | None = None) -> StoreUsage:
        """Return what a user's sessions take, or all sessions, as of their last commits.

        The store counts with each change, so the call costs the same for any number of sessions.
        The answer has every session whose commit was acknowledged before the call.
        """

    @abstractmethod
    def touch(self, session_id: str, epoch: int, activity_ms: int) -> None:
        """Move `last_activity_at` forward without an event (an open stream is activity).

        It is durable with the next checkpoint. Unknown sessions are ignored.
        """

    @abstractmethod
    async def unfinished(self) -> list[str]:
        """List the sessions whose head is unfinished (`SessionHead.is_unfinished`)."""

    @abstractmethod
    async def release(self, session_id: str) -> None:
        """Note that the session leaves memory: close its file, write its snapshot if it is due."""

    @property
    @abstractmethod
    def is_writing(self) -> bool:
        """Whether commits will be answered: the store is open and its writer is alive."""

    @property
    def replicas(self) -> "Replicas | None":
        """The other processes that use this store; None: there are none, by the store's kind.

        With replicas every read is of the store: what memory has may be old.
        """
        return None

    async def is_spent(self, session_id: str, key: str) -> bool:  # noqa: ARG002 - few stores keep any
        """Return whether an idempotency key was used in a session of this id that was deleted.

        Stores that one process uses keep no such keys, and return False.
        """
        return False

    @property
    def refusal(self) -> Unavailable | None:
        """The error that every write gets at present, as far as is known, or None.

        With `StorageFull`, endings of runs and deletions may still be accepted.
        """
        return None

    @abstractmethod
    async def stats(self) -> dict[str, Any]:
        """Return the values for /metrics: counters since opening (`…_total`), levels, histograms.

        `disk_bytes_<kind>` (logs, journal, snapshots, archive, quarantine) is the disk space by
        kind; `disk_bytes_logs` and `…_archive` are the sessions themselves. A level that cannot be
        read at present is missing; nothing is raised.
        """


@runtime_checkable
class SupportsChecks(Protocol):
    """A store that can check its own parts while it runs."""

    async def check(self, sessions_max: int, bytes_max: int) -> list[StoreCheck]:
        """Check what this kind of store depends on, and read some sessions, chosen at random.

        It changes nothing: a damaged log is repaired when it is next read, or by `doctor`.

        Args:
            sessions_max: The most sessions that are read completely.
            bytes_max: The most bytes read; the first session is read in any case.
        """

    def unwritable(self) -> dict[str, str]:
        """Return the sessions whose logs cannot be written at present, with the reasons."""


@runtime_checkable
class SupportsDirectory(Protocol):
    """A store that keeps its sessions in a directory of this machine."""

    @property
    def directory(self) -> Path:
        """The directory."""


@runtime_checkable
class SupportsSecret(Protocol):
    """A store that keeps the secret of tickets and cookies for all gateways that use it."""

    async def keep_secret(self, proposed: bytes) -> bytes:
        """Return the secret that is kept, durably; without one it is `proposed` from now on.

        Raises:
            Unavailable, StorageFailed: The store does not tell it now.
        """


@runtime_checkable
class SupportsDeployment(Protocol):
    """A store that several gateways may use: together they are a deployment."""

    @property
    def deployment(self) -> str:
        """The deployment's id, which no other one has; empty before the store is open.

        With new epochs it is a new one.
        """


def deployment_of(store: SessionStore) -> str:
    """Return the id of the gateways that share a store; empty where they share none."""
    return store.deployment if isinstance(store, SupportsDeployment) else ""


@runtime_checkable
class SupportsMigration(Protocol):
    """A store that the sessions of another one can be copied into (`storage.migration`).

    From `begin_migration` to `end_migration` the store is unfinished. That survives every crash:
    `open` refuses the store with `StoreUnusable` until the same migration has gone on to its end.
    """

    async def check_vacant(self, origin: str) -> None:
        """Refuse what `begin_migration` would, as far as it can be seen without changing anything.

        Raises:
            StoreUnusable: The store has sessions, or cannot be used.
        """

    async def begin_migration(self, origin: str) -> RecoveryReport:
        """Open the store as `open` does, to be filled.

        Args:
            origin: What the sessions come from, without a password.

        Raises:
            StoreBusy: Another process owns the data.
            StoreUnusable: It has sessions and is not unfinished, or from another origin; nothing
                has changed. Or it cannot be used.
        """

    async def end_migration(self, last_epoch: int) -> None:
        """Make the store one like others, durably; call it once everything is durable.

        From then on `next_epoch` returns epochs above `last_epoch`: one that the other store has
        used is not given again.
        """


@runtime_checkable
class SupportsAlone(Protocol):
    """A store that several processes may use, and one of them alone when it has to."""

    def be_alone(self) -> None:
        """Let `open` refuse data that another process uses (`StoreBusy`), and keep others out.

        Call it before `open`; it holds until `aclose`.
        """


@runtime_checkable
class SupportsErasure(Protocol):
    """A store that can remove what it keeps longer than it needs, when a user is erased."""

    async def remove_events(self, session_id: str, epoch: int, seqs: Collection[int]) -> None:
        """Remove these events from a log; its last event stays.

        They are no longer read, and no copy of them stays beside the log. Every other position
        keeps its meaning, as after `compact`; so does the head, which the caller has changed
        before by other events. All or nothing. Idempotent.

        Raises:
            Conflict: There is no session of this epoch, or it is packed.
            StorageFull, StorageFailed: The log is unchanged.
        """

    async def vacuum(self) -> list[Erased]:
        """Overwrite or remove what is left of deleted sessions and removed events.

        Returns:
            Each part of the store, and when nothing of them is in it any more.
        """


class ChangesLost(BambooError):
    """The changes after this number are not known any more: look at all sessions again."""

    code = "changes-lost"


class StoreBusy(BambooError):
    """Another process owns the data."""

    code = "store-busy"


class StoreUnusable(BambooError):
    """The data cannot be opened; `detail` says why and what to do."""

    code = "store-unusable"
