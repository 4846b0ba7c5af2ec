"""Pages of a session's messages, for whatever goes through a whole history."""

import anyio

from bamboo_gateway.domain.errors import Conflict
from bamboo_gateway.domain.limits import BULK_PAGE_BYTES_MAX
from bamboo_gateway.domain.sessions import SessionHead
from bamboo_gateway.sessions.access import unknown_session
from bamboo_gateway.storage.base import Record, SessionStore

BULK_WORKERS_MAX = 2
"""Threads that encode and pack for bulk work: they must not starve the cold reads (R7)."""

PAGE = 500
"""Messages read and encoded at once, if they are small; see `BULK_PAGE_BYTES_MAX`."""

_READ_TRIES = 10
"""How often a page is read again when files were exchanged under it."""

bulk_limiter = anyio.CapacityLimiter(BULK_WORKERS_MAX)


async def history_page(
    store: SessionStore, head: SessionHead, *, after: int, before: int
) -> list[Record]:
    """Reads the next message events of one life of a log; none at the end.

    Its files may be exchanged meanwhile (archived, restored, compacted): then it is read again.

    Raises:
        NotFound: That life has ended.
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
