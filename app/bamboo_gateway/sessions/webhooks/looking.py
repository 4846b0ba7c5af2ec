"""When the feed looks for what is new: after commits that webhooks are told of, and each second."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import Final

import anyio
import structlog

from bamboo_gateway.domain.errors import BambooError
from bamboo_gateway.domain.events import TERMINAL_TYPES
from bamboo_gateway.domain.webhooks import Webhook
from bamboo_gateway.sessions.webhooks.courier import Courier
from bamboo_gateway.sessions.webhooks.feed import Feed
from bamboo_gateway.sessions.webhooks.kept import change_webhook
from bamboo_gateway.storage.base import SessionStore
from bamboo_gateway.storage.commits import Event

log = structlog.get_logger(__name__)

LOOK_SECONDS: Final = 0.5
"""The least time between two looks: many runs that end at once are written with one sync."""

TICK_SECONDS: Final = 1.0
"""How often the feed looks without being woken: for sessions that were not in memory when they
changed. Below `feed.CLOCK_SLACK_MS`, for clocks that are set back."""

_STORE_SECONDS_MAX: Final = 10.0
"""The longest wait while the store cannot be written."""

_TOLD_TYPES: Final = TERMINAL_TYPES | {"session_created"}
"""The events that wake the feed. Tokens do not."""


class Looker:
    """Calls the feed after commits and once a second, while there are webhooks.

    Args:
        store: Where everything is kept.
        feed: Looks.
        couriers: Who sends, by webhook.
    """

    def __init__(self, store: SessionStore, feed: Feed, couriers: Mapping[str, Courier]) -> None:
        self._store = store
        self._feed = feed
        self._couriers = couriers
        self._stirred = anyio.Event()

    def changed(self, events: Sequence[Event]) -> None:
        """Report a commit; without events: something that is more than a commit of events."""
        if not self._couriers or self._stirred.is_set():
            return
        if not events or any(event.type in _TOLD_TYPES for event in events):
            self._stirred.set()

    async def run(self) -> None:
        """Look until there is no webhook any more."""
        wait = LOOK_SECONDS
        while self._couriers:
            self._stirred = anyio.Event()
            try:
                await self._heed_clock()
                while await self._feed.look():
                    pass
                wait = LOOK_SECONDS
            except BambooError as error:
                log.warning("webhooks wait for the store", code=error.code)
                wait = min(2 * wait, _STORE_SECONDS_MAX)
            except Exception:  # what one session's log has must not end the gateway
                log.exception("webhooks cannot go on")
                wait = _STORE_SECONDS_MAX
            await anyio.sleep(wait)
            with anyio.move_on_after(TICK_SECONDS - LOOK_SECONDS):
                await self._stirred.wait()

    async def _heed_clock(self) -> None:
        back = self._feed.clock_set_back()
        for courier in list(self._couriers.values()) if back else ():
            async with courier.outbox.lock:
                webhook = await change_webhook(
                    self._store, courier.webhook.id, partial(_told_since, back)
                )
                if webhook is not None:
                    courier.changed(webhook)


def _told_since(back_ms: int, webhook: Webhook) -> Webhook:
    return replace(webhook, since=webhook.since - back_ms)
