"""Reads whole stores: their sessions, and every entry of a log, with digests to compare them by."""

from collections.abc import AsyncGenerator
from contextlib import aclosing, suppress
from dataclasses import dataclass, replace
from hashlib import sha256
from typing import Final

from bamboo_gateway.domain import codec
from bamboo_gateway.domain.errors import Conflict, StorageFailed
from bamboo_gateway.domain.sessions import Presence, SessionHead
from bamboo_gateway.storage.base import SessionStore
from bamboo_gateway.storage.commits import Event, Note, Record
from bamboo_gateway.storage.lines import in_log_order
from bamboo_gateway.storage.marks import mark_of
from bamboo_gateway.storage.reports import SessionQuery

READ_TRIES: Final = 3
"""How often a session may get another epoch while it is read: a store repairs damage then."""

_PAGE_HEADS: Final = 250
_PAGE_EVENTS: Final = 1000
_PAGE_BYTES: Final = 1024 * 1024
"""Of one log in memory at a time; the kept answer to one key may be larger."""

_UNBOUNDED: Final = 2**31 - 1


@dataclass(frozen=True, slots=True)
class SessionDigest:
    """What a session has: equal in two stores only if all of it is.

    `sha256` covers the head, every event and note with its seq, and whether the log is packed.
    """

    session_id: str
    epoch: int
    seq: int
    events: int
    notes: int
    is_packed: bool
    sha256: str


async def sessions_of(store: SessionStore) -> AsyncGenerator[SessionHead]:
    """Yield the heads of all sessions, the oldest first."""
    query = SessionQuery(
        archived="include", sort_by="created_at", descending=False, limit=_PAGE_HEADS, count=False
    )
    while True:
        page = await store.query(query, Presence(0))
        for head in page.heads:
            yield head
        if not page.has_more:
            return
        query = replace(query, cursor=page.next_cursor)


class LogReader:
    """Reads the logs of a store that nobody changes meanwhile."""

    def __init__(self, store: SessionStore) -> None:
        self.store = store
        self._unpacked: frozenset[str] = frozenset()

    async def refresh(self) -> None:
        """Look which archived sessions are not packed; call it first, and after packing."""
        self._unpacked = frozenset(await self.store.unpacked_archives())

    def is_packed(self, head: SessionHead) -> bool:
        """Return whether a session's log is packed."""
        return head.logged_state == "archived" and head.id not in self._unpacked

    async def note_count(self, head: SessionHead) -> int:
        """Return how many notes a log has."""
        return await self.store.count_marks(head.id, head.epoch, "note", after=-1)

    async def digest(self, session_id: str) -> SessionDigest | None:
        """Read a session completely; return None when there is no such session.

        Raises:
            StorageFailed: The log ends before its head, or cannot be read.
        """
        for _ in range(READ_TRIES):
            head = await self.store.load(session_id)
            if head is None:
                return None
            with suppress(Conflict):
                return await self._digest(head)
        raise StorageFailed(f"Session {session_id} changes while it is read.")

    async def _digest(self, head: SessionHead) -> SessionDigest:
        is_packed = self.is_packed(head)
        digest = sha256(codec.encode([head.to_json(), is_packed]))
        events = entries = 0
        async with aclosing(self.entries(head)) as pages:
            async for page, notes in pages:
                events += len(page)
                for entry in in_log_order(page, notes):
                    kind = b"event" if isinstance(entry, Event) else b"note"
                    digest.update(b"%b %d %d:" % (kind, entry.seq, len(entry.body)))
                    digest.update(entry.body)
                    entries += 1
        return SessionDigest(
            head.id,
            head.epoch,
            head.seq,
            events,
            entries - events,
            is_packed,
            digest.hexdigest(),
        )

    async def entries(self, head: SessionHead) -> AsyncGenerator[tuple[list[Event], list[Note]]]:
        """Yield a log in pages, each with the notes that belong to its events.

        Raises:
            Conflict: The session has another epoch by now.
            StorageFailed: The log ends before its head.
        """
        after, notes_after = 0, -1
        while after < head.seq:
            page = await self.store.read(
                head.id, head.epoch, after, limit=_PAGE_EVENTS, max_bytes=_PAGE_BYTES
            )
            if not page:
                raise StorageFailed(
                    f"Session {head.id} ends at {after}, and not at {head.seq}: stop, then run "
                    "`bamboo doctor`."
                )
            last = page[-1].seq
            notes = await self._notes(head, notes_after, last + 1)
            yield [Event(record.seq, record.type, record.body) for record in page], notes
            after = notes_after = last

    async def _notes(self, head: SessionHead, after: int, before: int) -> list[Note]:
        """Return every note with `after < seq < before`, in log order."""
        find = self.store.find
        notes: list[Note] = []
        while True:
            page = await find(head.id, head.epoch, "note", after=after, before=before)
            if not page.has_more:
                return notes + _as_notes(page)
            # Of the last one's seq there may be more, which a search beyond it would skip.
            after = page[-1].seq
            notes += _as_notes([record for record in page if record.seq < after])
            notes += _as_notes(
                await find(
                    head.id,
                    head.epoch,
                    "note",
                    after=after - 1,
                    before=after + 1,
                    limit=_UNBOUNDED,
                    max_bytes=_UNBOUNDED,
                )
            )


def _as_notes(records: list[Record]) -> list[Note]:
    notes: list[Note] = []
    for seq, body in records:
        mark = mark_of(body, seq)
        assert mark is not None, "every note has a mark"
        notes.append(Note(seq, mark.key, body))
    return notes
