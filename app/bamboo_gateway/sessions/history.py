"""Reads parts of a log: pages of the messages of a path, and the last event of a run."""

import anyio

from bamboo_gateway.domain.errors import Conflict
from bamboo_gateway.domain.limits import BULK_PAGE_BYTES_MAX, PAGE_BYTES_MAX
from bamboo_gateway.domain.paths import Path, Span, path_of
from bamboo_gateway.domain.sessions import SessionHead
from bamboo_gateway.sessions.access import unknown_session
from bamboo_gateway.storage.base import SessionStore
from bamboo_gateway.storage.commits import Found, Record

BULK_WORKERS_MAX = 2
"""Threads that encode and pack for bulk work: they must leave threads to the cold reads (R7)."""

PAGE = 500
"""Messages read and encoded at once, if they are small; see `BULK_PAGE_BYTES_MAX`."""

_READ_TRIES = 10
"""How often a page is read again when a file swap came in between."""

bulk_limiter = anyio.CapacityLimiter(BULK_WORKERS_MAX)


async def find_on_path(
    store: SessionStore,
    head: SessionHead,
    path: Path,
    *,
    after: int = 0,
    before: int,
    limit: int = 1000,
    max_bytes: int = PAGE_BYTES_MAX,
    reverse: bool = False,
) -> Found:
    """Find the messages of a path with `after < seq < before`, as `SessionStore.find` does.

    A path with one span costs one search. One with many short spans is read across the gaps between
    them, as long as that finds more of the path than of other branches. An answer that would take
    more than `_SEARCHES_MAX` searches ends early, and says that there is more.

    Raises:
        Conflict: No such session of that epoch.
    """
    spans = path.between(after, before)
    if reverse:
        spans.reverse()
    found = Found()
    size = searches = 0
    across = _Across()
    while spans and (searches < _SEARCHES_MAX or not found):
        first, last = across.range_of(spans)
        page = await store.find(
            head.id,
            head.epoch,
            "message",
            after=first,
            before=last + 1,
            limit=limit - len(found),
            max_bytes=max(1, max_bytes - size),
            reverse=reverse,
        )
        searches += 1
        for record in page:
            if record.seq not in path:
                continue
            if found and size + len(record.body) > max_bytes:
                found.has_more = True
                return found
            found.append(record)
            size += len(record.body)
        across.saw(len(page), sum(record.seq in path for record in page))
        # Without more in this range, it is done as a whole.
        edge = page[-1].seq if page.has_more else (first + 1 if reverse else last)
        spans = _behind(spans, edge, reverse=reverse)
        # The end of a page of one span is that of the answer: the rest has no room.
        is_full = page.has_more and not across.is_wide
        if is_full or len(found) >= limit or size >= max_bytes:
            break
    found.has_more = bool(found and spans)
    return found


class _Across:
    """Chooses how far the next search goes: one span, or several with the gaps between them."""

    def __init__(self) -> None:
        self._searches = 0
        self.is_wide = False
        self._pays = True

    def range_of(self, spans: list[Span]) -> Span:
        """Return the range of the next search, behind the first seq and up to the second."""
        self.is_wide = self._searches >= _NARROW_SEARCHES and self._pays
        self._searches += 1
        ends = (spans[0], spans[-1]) if self.is_wide else (spans[0], spans[0])
        return min(ends)[0], max(ends)[1]

    def saw(self, count: int, on_path: int) -> None:
        """Take note of how many messages were found, and how many of them are on the path."""
        if self.is_wide:
            self._pays = 2 * on_path >= count


_NARROW_SEARCHES = 2
"""Searches of one span before several are read at once: the end of a path is mostly enough."""

_SEARCHES_MAX = 64
"""The most searches for one page: a path with many distant spans is read in more pages (R11)."""


def _behind(spans: list[Span], edge: int, *, reverse: bool) -> list[Span]:
    """Return what is left of the spans behind a seq; in front of it when reading backwards."""
    if reverse:
        left = ((first, min(last, edge - 1)) for first, last in spans)
    else:
        left = ((max(first, edge), last) for first, last in spans)
    return [(first, last) for first, last in left if first < last]


async def history_page(
    store: SessionStore,
    head: SessionHead,
    *,
    after: int,
    before: int,
    path: Path | None = None,
) -> list[Record]:
    """Return the next message events of a path, which is the current one unless it is named.

    The path is that of one epoch of a log; there is none at its end. A file swap may come in
    between (archive, restore, compaction): then the page is read again.

    Raises:
        NotFound: The session was deleted, or its log has another epoch.
    """
    for _ in range(_READ_TRIES):
        try:
            return await find_on_path(
                store,
                head,
                path or path_of(head),
                after=after,
                before=before,
                limit=PAGE,
                max_bytes=BULK_PAGE_BYTES_MAX,
            )
        except Conflict:
            present = await store.load(head.id)
            if present is None or present.epoch != head.epoch:
                break
    raise unknown_session(head.id)


async def last_on_path(
    store: SessionStore, head: SessionHead, path: Path, before: int
) -> Record | None:
    """Return the last message of a path before a seq."""
    found = await find_on_path(store, head, path, before=before, limit=1, reverse=True)
    return found[0] if found else None


async def count_on_path(
    store: SessionStore, head: SessionHead, path: Path, after: int, before: int
) -> int:
    """Count the messages of a path with `after < seq < before`, without reading them."""
    count = 0
    for first, last in path.between(after, before):
        count += await store.count_marks(
            head.id, head.epoch, "message", after=first, before=last + 1
        )
    return count


async def last_of_run(
    store: SessionStore, session_id: str, epoch: int, run_id: str
) -> Record | None:
    """Return the last of a run's `run_queued`, `run_start` and terminal events."""
    found = await store.find(session_id, epoch, "run", key=run_id, limit=1, reverse=True)
    return found[0] if found else None
