"""The feed of changes: one reader of the store for everybody who waits.

After a commit it reads what has changed since it last looked, once for all, and hands each change
to the followers whom it may concern, found by their users. So a follower with few sessions costs
nothing while others' sessions are busy, and a commit costs nothing while nobody follows.

A follower first reads from the store, from its own cursor up to where the feed was when it joined;
from there on the feed hands it what is new. It keeps a bounded number of entries, each session's
last one. With more, it drops them and reads from the store again.
"""

import asyncio
from collections import OrderedDict
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import anyio
import structlog

from bamboo_gateway.domain.callers import Caller
from bamboo_gateway.domain.errors import BambooError
from bamboo_gateway.domain.events import DELTA_TYPES
from bamboo_gateway.sessions.changes.page import (
    SCAN_CHANGES,
    ChangeCursor,
    ChangeEntry,
    ChangeFilter,
    ChangesPage,
    ChangeView,
    cursor_now,
    read_changes,
    readers_of,
    view_of_change,
    view_of_end,
)
from bamboo_gateway.sessions.context import Context
from bamboo_gateway.storage.base import ChangesLost
from bamboo_gateway.storage.commits import Event
from bamboo_gateway.storage.reports import Change, Expiry

log = structlog.get_logger(__name__)

_LOOK_SECONDS = 0.05
"""The least time between two looks, and so how late a change may be told: people do not see it, and
ten thousand commits a second are read twenty times."""

_TICK_SECONDS = 1.0
"""How often the feed looks without a commit: for what ends by itself, and for other processes."""

_POLL_SECONDS = 0.25
"""How often it asks a store that several processes share, while no bus tells of their commits,
whether there is anything new: one number."""

_FAILED_SECONDS = 1.0
"""How long the feed waits after a fault of its own before it looks again."""

_PENDING_MAX = 250
"""The changed sessions that wait for a follower: some 100 KB. With more it reads the store."""

_TOLD_GONE_MAX = 1000
"""The sessions outside of its filter that a follower was told are gone, and is not told again."""


class Follower:
    """Somebody who waits for changes; `ChangeFeed.following` makes it.

    Attributes:
        caller: Who waits.
        wanted: What for.
        cursor: Up to where it knows everything.
    """

    def __init__(
        self, context: Context, caller: Caller, wanted: ChangeFilter, cursor: ChangeCursor
    ) -> None:
        self.caller = caller
        self.wanted = wanted
        self.cursor = cursor
        self._context = context
        self._must_read = True
        self._changes: dict[str, tuple[int, ChangeView]] = {}
        self._ends: dict[str, tuple[int, ChangeView]] = {}
        self._told_gone: OrderedDict[str, None] = OrderedDict()
        self._tip = cursor
        self._woken: asyncio.Future[None] | None = None

    async def take(self, limit: int) -> ChangesPage | None:
        """Return what has changed after the cursor, and move the cursor; None: nothing.

        Raises:
            StorageFailed: The store cannot be read.
        """
        while self._must_read:
            # What is handed over meanwhile is newer than what is read.
            self._must_read = False
            try:
                page = await read_changes(
                    self._context, self.caller, self.wanted, self.cursor, limit
                )
            except BaseException:
                self._must_read = True
                raise
            self._must_read |= page.has_more
            self.cursor = page.next
            if page.entries or page.is_reset:
                return page
        entries = self._handed_over(limit)
        if not self._changes and not self._ends:
            self.cursor = _later(self.cursor, self._tip)
        has_more = bool(self._changes or self._ends)
        return ChangesPage(entries, self.cursor, has_more) if entries else None

    async def wait(self) -> None:
        """Wait until there may be something to take, or until `wake`."""
        if self._must_read or self._changes or self._ends:
            return
        self._woken = asyncio.get_running_loop().create_future()
        try:
            await self._woken
        finally:
            self._woken = None

    def wake(self) -> None:
        """End the wait."""
        if self._woken is not None and not self._woken.done():
            self._woken.set_result(None)

    def _handed_over(self, limit: int) -> list[ChangeEntry]:
        entries: list[ChangeEntry] = []
        cursor = self.cursor
        for session_id, (number, view) in sorted(self._changes.items(), key=_by_place):
            if len(entries) >= limit:
                break
            del self._changes[session_id]
            if number > cursor.number:
                cursor = cursor._replace(number=number)
                entries.append(ChangeEntry(view, cursor))
        for session_id, (moment, view) in sorted(self._ends.items(), key=_by_place):
            if len(entries) >= limit:
                break
            del self._ends[session_id]
            if (moment, session_id) > (cursor.moment, cursor.session_id):
                cursor = cursor._replace(moment=moment, session_id=session_id)
                entries.append(ChangeEntry(view, cursor))
        self.cursor = cursor
        return entries

    # -- the feed ---------------------------------------------------------------------------

    def hand_over(self, change: Change | Expiry) -> None:
        """Take a change that may concern it."""
        since_ms = self.cursor.moment
        if isinstance(change, Change):
            view = view_of_change(self._context, self.caller, self.wanted, change, since_ms)
            place, waiting = change.number, self._changes
        else:
            view = view_of_end(self._context, self.caller, self.wanted, change, since_ms)
            place, waiting = change.at, self._ends
        if view is None or self._knows_gone(view, has_ended=change.head is None):
            return
        waiting[change.session_id] = (place, view)
        if len(self._changes) + len(self._ends) > _PENDING_MAX:
            self.read_again()
        self.wake()

    def come_to(self, tip: ChangeCursor) -> None:
        """Note how far the feed has handed everything over."""
        self._tip = tip

    def read_again(self) -> None:
        """Drop what waits, and read it from the store."""
        self._changes.clear()
        self._ends.clear()
        self._must_read = True
        self.wake()

    def _knows_gone(self, view: ChangeView, *, has_ended: bool) -> bool:
        """Return whether it was told already that a session of another type is gone for it."""
        session_id = view["session_id"]
        if view["type"] != "session_gone" or has_ended or self.wanted.session_type is None:
            self._told_gone.pop(session_id, None)
            return False
        knows = session_id in self._told_gone
        self._told_gone[session_id] = None
        while len(self._told_gone) > _TOLD_GONE_MAX:
            self._told_gone.popitem(last=False)
        return knows


class ChangeFeed:
    """Reads what has changed, once for all followers; `run` is a background task."""

    def __init__(self, context: Context) -> None:
        self._context = context
        self._tip: ChangeCursor | None = None
        self._stirred = asyncio.Event()
        self._is_followed = asyncio.Event()
        self._by_user: dict[str, set[Follower]] = {}
        self._of_all: set[Follower] = set()
        self._has_failed = False
        if (bus := context.bus) is not None:
            bus.when_changed(lambda: self.changed(()))

    @property
    def followers(self) -> list[Follower]:
        """All who wait."""
        return [*self._of_all, *(one for some in self._by_user.values() for one in some)]

    def changed(self, events: Sequence[Event]) -> None:
        """Report a commit; without events: something that is more than a commit of events."""
        if not self._is_followed.is_set() or self._stirred.is_set():
            return
        if not events or any(event.type not in DELTA_TYPES for event in events):
            self._stirred.set()

    @contextmanager
    def following(
        self, caller: Caller, wanted: ChangeFilter, cursor: ChangeCursor
    ) -> Iterator[Follower]:
        """Follow what changes after a cursor."""
        follower = Follower(self._context, caller, wanted, cursor)
        self.join(follower)
        try:
            yield follower
        finally:
            self.leave(follower)

    def join(self, follower: Follower) -> None:
        """Hand over what changes from now on."""
        user_id = follower.caller.user_id
        if user_id is None:
            self._of_all.add(follower)
        else:
            self._by_user.setdefault(user_id, set()).add(follower)
        self._is_followed.set()
        self._stirred.set()

    def leave(self, follower: Follower) -> None:
        """Hand nothing over any more. Idempotent."""
        user_id = follower.caller.user_id
        self._of_all.discard(follower)
        if user_id is not None and (own := self._by_user.get(user_id)) is not None:
            own.discard(follower)
            if not own:
                del self._by_user[user_id]
        if not self._of_all and not self._by_user:
            self._is_followed.clear()

    def wake_all(self) -> None:
        """End all waits."""
        for follower in self.followers:
            follower.wake()

    async def run(self) -> None:
        """Look after commits, and once a second, while somebody follows."""
        while True:
            if not self._is_followed.is_set():
                self._tip = None
                await self._is_followed.wait()
            await self._wait()
            try:
                await self._look()
            except BambooError as error:
                # The boundary for a store that cannot be read now: followers wait for the next
                # look, and the feed reads on from the same place.
                log.warning("changes cannot be read", error=error.detail)
            except Exception:
                # The boundary for a fault: it must not end the gateway. Followers read from the
                # store what the feed may not have handed over. The log has the first of several.
                if not self._has_failed:
                    log.exception("the feed of changes begins again")
                await self._recover()
                continue
            await anyio.sleep(_LOOK_SECONDS)

    async def _wait(self) -> None:
        """Wait for a commit, and otherwise for the next tick."""
        polls = round(_TICK_SECONDS / _POLL_SECONDS) if self._polls else 1
        for _ in range(polls):
            with anyio.move_on_after(_TICK_SECONDS / polls):
                await self._stirred.wait()
            if self._stirred.is_set() or (polls > 1 and await self._has_more()):
                break
        self._stirred.clear()

    @property
    def _polls(self) -> bool:
        """Whether only the store can tell of the commits of other processes."""
        bus = self._context.bus
        return self._context.store.replicas is not None and (bus is None or not bus.is_up)

    async def _has_more(self) -> bool:
        tip = self._tip
        try:
            return tip is None or await self._context.store.last_change() != (tip.feed, tip.number)
        except BambooError:
            return False  # the look at the next tick says what is wrong

    async def _recover(self) -> None:
        """Begin again after a fault."""
        self._context.tally.feed_failures += 1
        self._has_failed = True
        self._tip = None
        self._read_again()
        await anyio.sleep(_FAILED_SECONDS)

    async def _look(self) -> None:
        store = self._context.store
        tip = self._tip
        if tip is None:
            # Followers read from the store up to here: nothing was handed to them before.
            self._tip = await cursor_now(self._context)
            self._read_again()
            return
        try:
            while True:
                page = await store.changes(tip.feed, tip.number, SCAN_CHANGES)
                for change in page.changes:
                    self._hand_over(change)
                tip = tip._replace(number=page.last)
                self._come_to(tip)
                if not page.has_more:
                    break
        except ChangesLost:
            self._tip = None
            self._stirred.set()
            return
        now_ms = self._context.clock.now_ms()
        while now_ms >= tip.moment:
            ends = await store.expiries((tip.moment, tip.session_id), now_ms, SCAN_CHANGES)
            for end in ends:
                self._hand_over(end)
            if len(ends) < SCAN_CHANGES:
                self._come_to(tip._replace(moment=now_ms + 1, session_id=""))
                break
            tip = tip._replace(moment=ends[-1].at, session_id=ends[-1].session_id)
            self._come_to(tip)
        self._has_failed = False

    def _come_to(self, tip: ChangeCursor) -> None:
        self._tip = tip
        for follower in self.followers:
            follower.come_to(tip)

    def _read_again(self) -> None:
        for follower in self.followers:
            follower.read_again()

    def _hand_over(self, change: Change | Expiry) -> None:
        for follower in self._of_all:
            follower.hand_over(change)
        for user_id in readers_of(change):
            for follower in self._by_user.get(user_id, ()):
                follower.hand_over(change)


def _by_place(item: tuple[str, tuple[int, ChangeView]]) -> tuple[int, str]:
    session_id, (place, _) = item
    return place, session_id


def _later(cursor: ChangeCursor, tip: ChangeCursor) -> ChangeCursor:
    """Return a cursor that is behind both; `tip` is of another feed only after a reset."""
    if cursor.feed != tip.feed:
        return cursor
    moment = max(cursor[2:], tip[2:])
    return ChangeCursor(cursor.feed, max(cursor.number, tip.number), *moment)
