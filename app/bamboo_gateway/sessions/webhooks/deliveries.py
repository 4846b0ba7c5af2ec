"""The attempts of one webhook that can be listed: the latest `WEBHOOK_DELIVERIES_KEPT`."""

from typing import Any

from bamboo_gateway.domain.clock import format_ms
from bamboo_gateway.domain.codec import decode
from bamboo_gateway.domain.limits import WEBHOOK_DELIVERIES_KEPT
from bamboo_gateway.domain.webhooks import Notice
from bamboo_gateway.sessions.webhooks.kept import DELIVERY, delivery_change
from bamboo_gateway.sessions.webhooks.views import Delivery
from bamboo_gateway.storage.base import SessionStore
from bamboo_gateway.storage.reports import ValueChange
from bamboo_gateway.webhooks.base import Attempt


class Deliveries:
    """Numbers the attempts of one webhook, and reads them."""

    def __init__(self, store: SessionStore, webhook_id: str) -> None:
        self._store = store
        self._id = webhook_id
        self._next = 0

    async def load(self) -> None:
        """Find the number to go on with."""
        kept = await self._kept()
        self._next = max(self._next, kept[-1][0] + 1 if kept else 0)

    def record(
        self,
        notice: Notice,
        user_id: str | None,
        attempt: Attempt,
        tries: int,
        at_ms: int,
        next_at: int | None,
        *,
        given_up: bool = False,
    ) -> tuple[Delivery, list[ValueChange]]:
        """Return an attempt as clients see it, and the changes that keep it.

        It takes the place of the oldest one.
        """
        number, self._next = self._next, self._next + 1
        shown: Delivery = {
            "message_id": notice.id,
            "type": notice.type,
            "session_id": notice.data.get("session_id"),
            "run_id": notice.data.get("run_id"),
            "attempt": tries,
            "attempted_at": format_ms(at_ms),
            "duration_ms": attempt.duration_ms,
            "status": attempt.status,
            "error": "given-up" if given_up else attempt.error,
            "next_attempt_at": format_ms(next_at) if next_at is not None else None,
        }
        changes = [delivery_change(self._id, number, {**shown, "user_id": user_id})]
        if number >= WEBHOOK_DELIVERIES_KEPT:
            changes.append(delivery_change(self._id, number - WEBHOOK_DELIVERIES_KEPT, None))
        return shown, changes

    async def page(self, before: int | None, limit: int) -> tuple[list[dict[str, Any]], int | None]:
        """Return attempts, the latest first, and where the next page begins."""
        kept = [one for one in await self._kept() if before is None or one[0] < before]
        kept.reverse()
        shown = kept[:limit]
        return [value for _, value in shown], shown[-1][0] if len(kept) > limit else None

    async def of_user(self, user_id: str) -> list[ValueChange]:
        """Return the changes that remove the attempts about a user's sessions."""
        return [
            delivery_change(self._id, number, None)
            for number, value in await self._kept()
            if value["user_id"] == user_id
        ]

    async def _kept(self) -> list[tuple[int, dict[str, Any]]]:
        # A few more than are kept: what a crash left is removed with the webhook.
        found = await self._store.values(
            DELIVERY, prefix=f"{self._id}/", limit=2 * WEBHOOK_DELIVERIES_KEPT
        )
        return [(int(key.rpartition("/")[2]), decode(value)) for key, value in found]
