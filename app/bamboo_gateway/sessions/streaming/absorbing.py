"""Absorbing: reads what other processes have stored in a session into its channel.

Only a store that several processes share has such events (`storage.replicas`).
"""

from bamboo_gateway.domain.events import DELTA_TYPES
from bamboo_gateway.domain.limits import SEND_BYTES_MAX
from bamboo_gateway.domain.sessions import SessionHead
from bamboo_gateway.sessions.streaming.channel import Channel
from bamboo_gateway.storage.base import SessionStore
from bamboo_gateway.storage.commits import Record

_PAGE_EVENTS = 2000
"""Events of one read: with `SEND_BYTES_MAX` it bounds the read."""


async def missing_records(store: SessionStore, channel: Channel, upto: int) -> list[Record]:
    """Read the next events that a channel does not have, up to the seq `upto`: one page.

    Raises:
        Conflict: No such session of the channel's epoch.
        Unavailable: The store does not answer now.
    """
    page = await store.read(
        channel.id,
        channel.epoch,
        channel.durable_seq,
        limit=_PAGE_EVENTS,
        max_bytes=SEND_BYTES_MAX,
    )
    while page and page[-1].seq > upto:
        page.pop()
    return page


async def absorb_missing(store: SessionStore, channel: Channel, head: SessionHead) -> bool:
    """Absorb all events up to a head that was loaded, page by page.

    Returns:
        False when the channel moved in another way meanwhile, or has no reader any more.

    Raises:
        Conflict: No such session of the channel's epoch.
        Unavailable: The store does not answer now.
    """
    while channel.durable_seq < head.seq:
        begin = channel.durable_seq
        page = await missing_records(store, channel, head.seq)
        if channel.gone or channel.durable_seq != begin:
            return False
        if not page:
            # Compaction removed the rest; the last event of a log always stays.
            channel.begin(head)
            channel.wake()
            return True
        is_last = page[-1].seq == head.seq
        channel.absorb(
            page, head.version if is_last else channel.version, head if is_last else None
        )
    channel.version = head.version
    return True


def changes_head(records: list[Record]) -> bool:
    """Return whether some event is more than a delta, so that the head has to be loaded."""
    return any(record.type not in DELTA_TYPES for record in records)
