"""The answers about webhooks, in the shapes of the API."""

from typing import TypedDict

from bamboo_gateway.domain.clock import format_ms
from bamboo_gateway.domain.webhooks import Webhook


class WebhookView(TypedDict):
    """A webhook, without its secrets."""

    id: str
    url: str
    events: list[str]
    user_id: str | None
    enabled: bool
    disabled_reason: str | None
    failing_since: str | None
    secrets: int
    created_at: str
    updated_at: str


class WebhookSecret(TypedDict, total=False):
    """The secret, which only the first answer has."""

    secret: str


class WebhookMade(WebhookView, WebhookSecret):
    """A webhook that was created, or has a new secret."""


class Delivery(TypedDict):
    """One attempt to tell something."""

    message_id: str
    type: str
    session_id: str | None
    run_id: str | None
    attempt: int
    attempted_at: str
    duration_ms: int
    status: int | None
    error: str | None
    next_attempt_at: str | None


class DeliveryPage(TypedDict):
    """A page of attempts, the latest first."""

    deliveries: list[Delivery]
    next_cursor: str | None
    has_more: bool


def webhook_view(webhook: Webhook, now_ms: int) -> WebhookView:
    """Return a webhook as clients see it."""
    failing = webhook.failing_since
    return {
        "id": webhook.id,
        "url": webhook.url,
        "events": list(webhook.events),
        "user_id": webhook.user_id,
        "enabled": webhook.enabled,
        "disabled_reason": webhook.disabled_reason,
        "failing_since": format_ms(failing) if failing is not None else None,
        "secrets": len(webhook.signing(now_ms)),
        "created_at": format_ms(webhook.created_at),
        "updated_at": format_ms(webhook.updated_at),
    }
