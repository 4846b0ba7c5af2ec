"""What one webhook has not acknowledged yet: some in memory, and all of it in the store."""

from collections.abc import Iterable
from dataclasses import dataclass, field

import anyio
import structlog

from bamboo_gateway.domain.limits import WEBHOOK_ENTRIES_IN_MEMORY, WEBHOOK_NOTICES_MAX
from bamboo_gateway.domain.webhooks import Entry, Notice
from bamboo_gateway.sessions.webhooks.kept import DUE, PAGE, UNREADABLE, due_change
from bamboo_gateway.storage.base import SessionStore
from bamboo_gateway.storage.reports import ValueChange

log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class Addition:
    """What is new of one session for one webhook.

    Attributes:
        session_id: The session.
        user_id: Its user.
        notices: What is to be told.
        rest: The part of the log that the notices are from: its epoch, after which seq, and up to
            which one. None: the session was deleted.
        read_upto: Up to which seq of it the notices are all; what follows is read later.
    """

    session_id: str
    user_id: str | None
    notices: list[Notice] = field(default_factory=list)
    rest: tuple[int, int, int] | None = None
    read_upto: int = 0

    @property
    def is_empty(self) -> bool:
        """Whether there is nothing to tell, now or later."""
        return not self.notices and (self.rest is None or self.read_upto >= self.rest[2])


class Outbox:
    """The entries of one webhook.

    Who changes an entry holds `lock` until the change is written, so the store has changes in their
    order. An entry that is not in memory is changed by the feed alone.
    """

    def __init__(self, store: SessionStore, webhook_id: str) -> None:
        self._store = store
        self._id = webhook_id
        self._prefix = f"{webhook_id}/"
        self.lock = anyio.Lock()
        self.entries: dict[str, Entry] = {}
        self.is_all_in_memory = False
        self.removed = False

    async def load(self) -> list[Entry]:
        """Load entries until memory has as many as it may; return those that are new there."""
        loaded: list[Entry] = []
        async with self.lock:
            after = ""
            while not self.is_all_in_memory and len(self.entries) < WEBHOOK_ENTRIES_IN_MEMORY:
                page = await self._store.values(DUE, prefix=self._prefix, after=after, limit=PAGE)
                for key, value in page:
                    session_id = key[len(self._prefix) :]
                    if session_id in self.entries:
                        continue
                    if len(self.entries) >= WEBHOOK_ENTRIES_IN_MEMORY:
                        return loaded
                    try:
                        entry = Entry.read(value)
                    except UNREADABLE:
                        log.exception("what waits cannot be read", session_id=session_id)
                        continue
                    self.entries[session_id] = entry
                    loaded.append(entry)
                self.is_all_in_memory = len(page) < PAGE
                after = page[-1][0] if page else after
        return loaded

    @property
    def wants_more(self) -> bool:
        """Whether entries wait in the store that have room in memory by now."""
        return not self.is_all_in_memory and len(self.entries) <= WEBHOOK_ENTRIES_IN_MEMORY // 2

    async def add(self, additions: Iterable[Addition]) -> tuple[list[ValueChange], list[Entry]]:
        """Add what is new; call it with `lock` held, and write the changes before it is released.

        Returns:
            The changes, and the entries in memory that have something to tell.
        """
        changes: list[ValueChange] = []
        woken: list[Entry] = []
        for addition in additions:
            entry = self.entries.get(addition.session_id)
            in_memory = entry is not None
            if entry is None and not self.is_all_in_memory:
                key = self._prefix + addition.session_id
                value = await self._store.value(DUE, key)
                entry = Entry.read(value) if value is not None else None
            if entry is None:
                entry = Entry(addition.session_id, addition.user_id)
                in_memory = len(self.entries) < WEBHOOK_ENTRIES_IN_MEMORY
                if in_memory:
                    self.entries[addition.session_id] = entry
                else:
                    self.is_all_in_memory = False
            _extend(entry, addition)
            changes.append(self.change_of(entry))
            if in_memory:
                woken.append(entry)
        return changes, woken

    def change_of(self, entry: Entry) -> ValueChange:
        """Return the change that keeps an entry as it is now; an empty one leaves memory."""
        if entry.is_empty:
            self.entries.pop(entry.session_id, None)
            return due_change(self._id, entry.session_id, None)
        return due_change(self._id, entry.session_id, entry.stored())


def _extend(entry: Entry, addition: Addition) -> None:
    known = {notice.id for notice in entry.notices}
    notices = [notice for notice in addition.notices if notice.id not in known]
    rest = addition.rest
    if rest is None:
        if entry.more is not None:
            log.warning("events of a deleted session are not told", session_id=entry.session_id)
            entry.more = None
        entry.notices += notices
        return
    epoch, after, upto = rest
    if entry.more is not None:
        after = entry.more[1]
        entry.more = (epoch, min(after, upto), upto)
    elif len(entry.notices) >= WEBHOOK_NOTICES_MAX:
        # The courier reads the ends of runs from the log when it is their turn.
        entry.notices += [one for one in notices if one.type == "session.created"]
        entry.more = rest
    else:
        entry.notices += notices
        if addition.read_upto < upto:
            entry.more = (epoch, addition.read_upto, upto)
