"""Finds out what is new in sessions, and writes what webhooks are to be told."""

from collections import OrderedDict, defaultdict
from collections.abc import Callable, Mapping
from contextlib import AsyncExitStack
from dataclasses import replace
from typing import Final

import anyio
import structlog

from bamboo_gateway.domain.clock import Clock
from bamboo_gateway.domain.errors import Conflict, InvalidCursor
from bamboo_gateway.domain.sessions import Presence, SessionHead
from bamboo_gateway.domain.webhooks import Entry, Notice, Webhook, notice_id
from bamboo_gateway.sessions.webhooks.courier import Courier
from bamboo_gateway.sessions.webhooks.kept import CURSOR, CURSOR_KEY, SEEN, Cursor, Seen
from bamboo_gateway.sessions.webhooks.outbox import Addition
from bamboo_gateway.sessions.webhooks.reading import (
    Happened,
    creation_of,
    read_after,
    seq_before,
)
from bamboo_gateway.storage.base import ChangesLost, SessionStore
from bamboo_gateway.storage.reports import Change, SessionQuery, ValueChange

log = structlog.get_logger(__name__)

CHANGES_MAX: Final = 100
"""Changes of a page; what they give is written at once."""

_SCAN_PAGE: Final = 200
"""Sessions that are looked at for each write, when changes were lost."""

_SEEN_IN_MEMORY: Final = 20_000
"""Sessions whose seq is known without asking the store: about 5 MB."""

_OF_RUNS: Final = frozenset({"run.ended", "input.required"})
"""What is told of the ends of runs."""

CLOCK_SLACK_MS: Final = 5000
"""How much the feed may be late to see that the clock was set back."""


class _News:
    """What a page of changes gives."""

    def __init__(self) -> None:
        self.additions: dict[str, list[Addition]] = defaultdict(list)
        self.seen: dict[str, Seen | None] = {}


class Feed:
    """Looks at the store's changes for all webhooks.

    Args:
        store: Where everything is kept.
        clock: The only source of time.
        couriers: Who sends, by webhook.
        check_leads: Raises Unavailable when another process does this.
    """

    def __init__(
        self,
        store: SessionStore,
        clock: Clock,
        couriers: Mapping[str, Courier],
        check_leads: Callable[[], None],
    ) -> None:
        self._check_leads = check_leads
        self._store = store
        self._clock = clock
        self._couriers = couriers
        self._cursor: Cursor | None = None
        self._seen: OrderedDict[str, Seen] = OrderedDict()
        self._lock = anyio.Lock()

    async def begin(self) -> None:
        """Remember that everything so far is known; before the first webhook is created."""
        feed, number = await self._store.last_change()
        cursor = Cursor(feed, number, latest_ms=self._clock.now_ms())
        await self._store.write_values([cursor.change()])
        self._cursor = cursor
        self._seen.clear()

    async def load(self) -> None:
        """Go on where the last process stopped."""
        value = await self._store.value(CURSOR, CURSOR_KEY)
        self._cursor = Cursor.read(value) if value is not None else Cursor("", 0)
        self._seen.clear()

    def clock_set_back(self) -> int:
        """Return by how many ms the clock was set back since the last look; 0: it was not."""
        cursor, now_ms = self._cursor, self._clock.now_ms()
        assert cursor is not None
        self._cursor = replace(cursor, latest_ms=now_ms)
        back = cursor.latest_ms - now_ms
        return back + CLOCK_SLACK_MS if back > 0 else 0

    async def look(self) -> bool:
        """Look at a page of what has changed; return whether there is more already.

        Raises:
            Unavailable: The store cannot be read or written; nothing was passed over.
        """
        async with self._lock:
            return await self._look()

    async def look_at(self, session_id: str) -> None:
        """Look at one session out of turn: it is about to be deleted, with its log.

        Raises:
            Unavailable: The store cannot be read or written.
        """
        async with self._lock:
            head, cursor = await self._store.load(session_id), self._cursor
            assert cursor is not None
            if head is not None:
                news = _News()
                await self._note(news, Change(cursor.number, session_id, head), cursor.feed)
                if news.additions:
                    await self._write(news, cursor)

    async def _look(self) -> bool:
        cursor = self._cursor
        assert cursor is not None
        if cursor.phase is not None:
            await self._scan(cursor)
            return True
        try:
            page = await self._store.changes(cursor.feed, cursor.number, CHANGES_MAX)
        except ChangesLost:
            log.warning("the changes for webhooks are lost: looking at all sessions")
            feed, number = await self._store.last_change()
            await self._write(_News(), Cursor(feed, number, "sessions", None, cursor.latest_ms))
            return True
        if page.last == cursor.number:
            return False
        news = _News()
        for change in page.changes:
            await self._note(news, change, cursor.feed)
        await self._write(news, replace(cursor, number=page.last))
        return page.has_more

    async def _scan(self, cursor: Cursor) -> None:
        """Look at a page of all sessions, then of all that were seen."""
        news = _News()
        if cursor.phase == "sessions":
            query = SessionQuery(
                archived="include",
                sort_by="created_at",
                descending=False,
                cursor=cursor.place,
                limit=_SCAN_PAGE,
                count=False,
            )
            try:
                page = await self._store.query(query, Presence(self._clock.now_ms()))
            except InvalidCursor:
                # Of another store: from the beginning. What was seen is not told again.
                await self._write(news, replace(cursor, place=None))
                return
            since = min((one.webhook.since for one in self._couriers.values()), default=0)
            for head in page.heads:
                # What was never seen and has long been quiet has nothing to tell.
                if head.last_activity_at >= since or await self._seen_of(head.id) is not None:
                    change = Change(cursor.number, head.id, head)
                    await self._note(news, change, cursor.feed)
            place = page.next_cursor if page.has_more else None
            phase = "sessions" if page.has_more else "seen"
            await self._write(news, replace(cursor, phase=phase, place=place))
            return
        values = await self._store.values(SEEN, after=cursor.place or "", limit=_SCAN_PAGE)
        for session_id, value in values:
            if await self._store.load(session_id) is None:
                news.seen[session_id] = None
                self._tell_gone(news, session_id, Seen.read(value).user_id, cursor)
        is_last = len(values) < _SCAN_PAGE
        place = None if is_last else values[-1][0]
        await self._write(news, replace(cursor, phase=None if is_last else "seen", place=place))

    async def _note(self, news: _News, change: Change, feed: str) -> None:
        """Add what a session's change gives."""
        assert self._cursor is not None
        if change.head is None:
            gone = change.gone
            if gone is not None:
                at = replace(self._cursor, feed=feed, number=change.number)
                self._tell_gone(news, change.session_id, gone.user_id, at)
            news.seen[change.session_id] = None
            return
        head = change.head
        webhooks = [
            courier.webhook
            for courier in self._couriers.values()
            if courier.webhook.is_about(head.user_id)
        ]
        if not webhooks:
            return
        try:
            await self._note_present(news, head, [one for one in webhooks if one.enabled])
        except Conflict:
            return  # deleted since: another change says so
        news.seen[head.id] = Seen.of(head)

    async def _note_present(self, news: _News, head: SessionHead, webhooks: list[Webhook]) -> None:
        seen = await self._seen_of(head.id)
        if seen is not None and seen.epoch != head.epoch and seen.created_at != head.created_at:
            # Deleted, and created under the same id.
            assert self._cursor is not None
            number = -seen.epoch  # no change has it
            self._tell_gone(news, head.id, seen.user_id, replace(self._cursor, number=number))
            seen = None
        if not webhooks:
            return
        created: Happened | None = None
        if seen is not None:
            after = min(seen.seq, head.seq)
        else:
            since = min(one.since for one in webhooks)
            created = await creation_of(self._store, head)
            is_new = created is not None and created.at_ms >= since
            after = 0 if is_new else await seq_before(self._store, head, since)
        if after >= head.seq:
            return
        read = await read_after(self._store, head.id, head.epoch, after, head.seq)
        events = [created, *read.events] if created is not None else read.events
        for webhook in webhooks:
            notices = [
                one.notice(webhook, head.id, head.user_id, head.epoch)
                for one in events
                if webhook.wants(one.type, head.user_id, one.at_ms)
            ]
            reads_on = not _OF_RUNS.isdisjoint(webhook.events)
            addition = Addition(
                head.id,
                head.user_id,
                notices,
                (head.epoch, after, head.seq),
                read.upto if reads_on else head.seq,
            )
            if not addition.is_empty:
                news.additions[webhook.id].append(addition)

    def _tell_gone(self, news: _News, session_id: str, user_id: str | None, cursor: Cursor) -> None:
        now_ms = self._clock.now_ms()
        data = {
            "session_id": session_id,
            "position": None,
            "status": "deleted",
            "user_id": user_id,
        }
        for courier in self._couriers.values():
            webhook = courier.webhook
            if not (webhook.enabled and webhook.is_about(user_id)):
                continue
            told: list[Notice] = []
            if "session.deleted" in webhook.events:
                name = notice_id(webhook.id, session_id, cursor.feed, cursor.number, "deleted")
                told = [Notice(name, "session.deleted", now_ms, data)]
            if told or session_id in courier.outbox.entries:
                news.additions[webhook.id].append(Addition(session_id, user_id, told))

    async def _seen_of(self, session_id: str) -> Seen | None:
        seen = self._seen.get(session_id)
        if seen is not None:
            self._seen.move_to_end(session_id)
            return seen
        value = await self._store.value(SEEN, session_id)
        return Seen.read(value) if value is not None else None

    async def _write(self, news: _News, cursor: Cursor) -> None:
        """Write what a page gave and where the next one begins, at once; wake the couriers."""
        changes: list[ValueChange] = [
            seen.change(session_id) if seen is not None else ValueChange(SEEN, session_id, None)
            for session_id, seen in news.seen.items()
        ]
        woken: list[tuple[Courier, list[Entry]]] = []
        # Not earlier than before: a clock that was set back is noticed by `clock_set_back`.
        cursor = replace(cursor, latest_ms=max(cursor.latest_ms, self._clock.now_ms()))
        async with AsyncExitStack() as locks:
            for webhook_id, additions in news.additions.items():
                courier = self._couriers.get(webhook_id)
                if courier is None:
                    continue  # deleted meanwhile
                await locks.enter_async_context(courier.outbox.lock)
                if courier.outbox.removed:
                    continue
                more, entries = await courier.outbox.add(additions)
                changes += more
                woken.append((courier, entries))
            self._check_leads()
            await self._store.write_values([*changes, cursor.change()])
        self._cursor = cursor
        for session_id, seen in news.seen.items():
            self._seen.pop(session_id, None)
            if seen is not None:
                self._seen[session_id] = seen
        while len(self._seen) > _SEEN_IN_MEMORY:
            self._seen.popitem(last=False)
        for courier, entries in woken:
            for entry in entries:
                courier.added_to(entry)
