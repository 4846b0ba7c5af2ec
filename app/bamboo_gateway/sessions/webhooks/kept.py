"""The values that webhooks are kept in: their kinds, keys, and what the feed remembers."""

from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from typing import Any, Final

from bamboo_gateway.domain.codec import decode, encode
from bamboo_gateway.domain.sessions import SessionHead
from bamboo_gateway.domain.webhooks import Webhook
from bamboo_gateway.storage.base import SessionStore
from bamboo_gateway.storage.reports import ValueChange

WEBHOOK: Final = "webhook"
CURSOR: Final = "webhook-cursor"
SEEN: Final = "webhook-seen"
DUE: Final = "webhook-due"
DELIVERY: Final = "webhook-delivery"
ASK: Final = "webhook-ask"
"""What other processes ask of the one that sends (`leading`)."""

CURSOR_KEY: Final = "feed"
PAGE: Final = 500
UNREADABLE: Final = (ValueError, TypeError, KeyError)
"""What reading a value raises that is not one of this version."""

_AFTER_SLASH: Final = "0"
"""The character after `/`: what follows all keys of a webhook."""


@dataclass(frozen=True, slots=True)
class Seen:
    """How far the feed has looked at a session.

    Attributes:
        epoch, seq: The last event that it has looked at.
        created_at: When the session was created: an id may be given to another one.
        user_id: The session's user.
    """

    epoch: int
    seq: int
    created_at: int
    user_id: str | None

    @staticmethod
    def of(head: SessionHead) -> "Seen":
        """Return what has been seen of a session when all of its log has."""
        return Seen(head.epoch, head.seq, head.created_at, head.user_id)

    @staticmethod
    def read(data: bytes) -> "Seen":
        """Read the stored form."""
        return Seen(*decode(data))

    def change(self, session_id: str) -> ValueChange:
        """Return the change that keeps it."""
        value = [self.epoch, self.seq, self.created_at, self.user_id]
        return ValueChange(SEEN, session_id, encode(value))


@dataclass(frozen=True, slots=True)
class Cursor:
    """Up to which change the feed has looked.

    Attributes:
        feed: The store's feed.
        number: The number of the last change.
        phase: What is gone through because changes were lost: all sessions, or all that were seen.
        place: Where it goes on there.
        latest_ms: The latest time that the feed has seen.
    """

    feed: str
    number: int
    phase: str | None = None
    place: str | None = None
    latest_ms: int = 0

    @staticmethod
    def read(data: bytes) -> "Cursor":
        """Read the stored form."""
        return Cursor(**decode(data))

    def change(self) -> ValueChange:
        """Return the change that keeps it."""
        return ValueChange(CURSOR, CURSOR_KEY, encode(self))


def webhook_change(webhook: Webhook) -> ValueChange:
    """Return the change that keeps a webhook as it is now."""
    return ValueChange(WEBHOOK, webhook.id, webhook.stored())


async def change_webhook(
    store: SessionStore, webhook_id: str, change: Callable[[Webhook], Webhook]
) -> Webhook | None:
    """Change a webhook as the store has it, and return it; None: there is none.

    Raises:
        StorageFull, StorageFailed, Unavailable: It was not changed.
    """

    def changed(stored: bytes | None) -> bytes | None:
        return None if stored is None else change(Webhook.read(stored)).stored()

    after = await store.change_value(WEBHOOK, webhook_id, changed)
    return None if after is None else Webhook.read(after)


async def read_webhooks(store: SessionStore) -> tuple[list[Webhook], set[str]]:
    """Return the webhooks, and the ids of those that cannot be read too.

    They stay as they are, for a version that can read them; the others go on (R10).
    """
    webhooks: list[Webhook] = []
    unreadable: set[str] = set()
    async for webhook_id, value in each_value(store, WEBHOOK):
        try:
            webhooks.append(Webhook.read(value))
        except UNREADABLE:
            unreadable.add(webhook_id)
    return webhooks, unreadable


def due_change(webhook_id: str, session_id: str, value: bytes | None) -> ValueChange:
    """Return the change of what a webhook has to be told of a session."""
    return ValueChange(DUE, f"{webhook_id}/{session_id}", value)


def delivery_change(webhook_id: str, number: int, value: dict[str, Any] | None) -> ValueChange:
    """Return the change of an attempt."""
    key = f"{webhook_id}/{number:012d}"
    return ValueChange(DELIVERY, key, None if value is None else encode(value))


async def each_value(
    store: SessionStore, kind: str, prefix: str = ""
) -> AsyncIterator[tuple[str, bytes]]:
    """Iterate over the values of a kind, in pages; others may change meanwhile."""
    after = ""
    while page := await store.values(kind, prefix=prefix, after=after, limit=PAGE):
        for key, value in page:
            yield key, value
        if len(page) < PAGE:
            return
        after = page[-1][0]


async def remove_all(store: SessionStore, kind: str, prefix: str = "") -> None:
    """Remove the values of a kind, page by page."""
    while page := await store.values(kind, prefix=prefix, limit=PAGE):
        await store.write_values([ValueChange(kind, key, None) for key, _ in page])


async def remove_leftovers(store: SessionStore, known: set[str]) -> None:
    """Remove what is left of webhooks that were deleted when the gateway ended."""
    for kind in (DUE, DELIVERY):
        after = ""
        while page := await store.values(kind, after=after, limit=1):
            webhook_id = page[0][0].partition("/")[0]
            if webhook_id not in known:
                await remove_all(store, kind, f"{webhook_id}/")
            after = webhook_id + _AFTER_SLASH
