"""Makes what sends webhooks."""

from bamboo_gateway.settings import Settings
from bamboo_gateway.webhooks.base import Sender


def make_sender(settings: Settings) -> Sender:
    """Return the sender of these settings."""
    from bamboo_gateway.webhooks.http import HttpSender

    return HttpSender(
        timeout_seconds=settings.webhook_timeout_seconds,
        private=settings.webhook_private_addresses,
    )
