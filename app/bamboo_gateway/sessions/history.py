"""Reads parts of a log: pages of its messages, and the last event of a run."""

import anyio

from bamboo_gateway.domain.errors import Conflict
from bamboo_gateway.domain.limits import BULK_PAGE_BYTES_MAX
from bamboo_gateway.domain.sessions import SessionHead
from bamboo_gateway.sessions.access import unknown_session
from bamboo_gateway.storage.base import SessionStore
from bamboo_gateway.storage.commits import Record

BULK_WORKERS_MAX = 2
"""Threads that encode and pack for bulk work: they must leave threads to the cold reads (R7)."""

PAGE = 500
"""Messages read and encoded at once, if they are small; see `BULK_PAGE_BYTES_MAX`."""

_READ_TRIES = 10
"""How often a page is read again when a file swap came in between."""

bulk_limiter = anyio.CapacityLimiter(BULK_WORKERS_MAX)


async def history_page(
    store: SessionStore, head: SessionHead, *, after: int, before: int
) -> list[Record]:
    """Return the next message events of one epoch of a log; none at the end.

    A file swap may come in between (archive, restore, compaction): then the page is read again.

    Raises:
        NotFound: The session was deleted, or its log has another epoch.
    """
    for _ in range(_READ_TRIES):
        try:
            return await store.find(
                head.id,
                head.epoch,
                "message",
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


async def last_of_run(
    store: SessionStore, session_id: str, epoch: int, run_id: str
) -> Record | None:
    """Return the last of a run's `run_queued`, `run_start` and terminal events."""
    found = await store.find(session_id, epoch, "run", key=run_id, limit=1, reverse=True)
    return found[0] if found else None
