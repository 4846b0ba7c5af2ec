"""The part of `SessionManager` for webhooks."""

from typing import Any

from bamboo_gateway.domain.callers import Caller
from bamboo_gateway.sessions.commands import Idempotency, Outcome
from bamboo_gateway.sessions.manager_parts import ManagerParts
from bamboo_gateway.sessions.webhooks.administration import NewWebhook
from bamboo_gateway.sessions.webhooks.views import (
    Delivery,
    DeliveryPage,
    WebhookMade,
    WebhookView,
)


class WebhookCommands(ManagerParts):
    """Commands about webhooks; each is one of `webhooks.administration.WebhookService`."""

    async def create_webhook(
        self, caller: Caller, new: NewWebhook, idem: Idempotency | None = None
    ) -> Outcome[WebhookMade]:
        """Create a webhook; only the first answer has its secret."""
        return await self._webhook_service.create(caller, new, idem)

    async def list_webhooks(self, caller: Caller) -> list[WebhookView]:
        """Return the caller's webhooks, the oldest first."""
        return await self._webhook_service.all_of(caller)

    async def webhook(self, caller: Caller, webhook_id: str) -> WebhookView:
        """Return a webhook."""
        return await self._webhook_service.get(caller, webhook_id)

    async def change_webhook(
        self, caller: Caller, webhook_id: str, fields: dict[str, Any]
    ) -> WebhookView:
        """Change a webhook."""
        return await self._webhook_service.change(caller, webhook_id, fields)

    async def delete_webhook(self, caller: Caller, webhook_id: str) -> None:
        """Delete a webhook."""
        await self._webhook_service.delete(caller, webhook_id)

    async def rotate_webhook(
        self,
        caller: Caller,
        webhook_id: str,
        overlap_seconds: int,
        idem: Idempotency | None = None,
    ) -> Outcome[WebhookMade]:
        """Give a webhook a new secret."""
        return await self._webhook_service.rotate(caller, webhook_id, overlap_seconds, idem)

    async def test_webhook(self, caller: Caller, webhook_id: str) -> Delivery:
        """Send a message that says nothing, once."""
        return await self._webhook_service.test(caller, webhook_id)

    async def webhook_deliveries(
        self, caller: Caller, webhook_id: str, cursor: str | None, limit: int
    ) -> DeliveryPage:
        """Return a webhook's attempts, the latest first."""
        return await self._webhook_service.deliveries(caller, webhook_id, cursor, limit)
