"""The webhooks that run: their tasks, and what is done to all of them."""

from collections.abc import Callable, Sequence
from dataclasses import replace

import anyio
import structlog

from bamboo_gateway.domain.errors import (
    BambooError,
    Unavailable,
)
from bamboo_gateway.domain.limits import WEBHOOK_IN_FLIGHT_IN_ALL
from bamboo_gateway.domain.webhooks import (
    DisabledReason,
    Entry,
    Webhook,
)
from bamboo_gateway.observability.audit import AuditLog, AuditRecord
from bamboo_gateway.sessions.context import Context
from bamboo_gateway.sessions.webhooks.courier import Courier, Post
from bamboo_gateway.sessions.webhooks.feed import Feed
from bamboo_gateway.sessions.webhooks.kept import (
    CURSOR,
    CURSOR_KEY,
    DELIVERY,
    DUE,
    SEEN,
    UNREADABLE,
    WEBHOOK,
    each_value,
    remove_all,
    remove_leftovers,
    webhook_change,
)
from bamboo_gateway.sessions.webhooks.looking import Looker
from bamboo_gateway.sessions.webhooks.tally import WebhookTally
from bamboo_gateway.storage.commits import Event
from bamboo_gateway.storage.reports import ValueChange
from bamboo_gateway.webhooks.base import Sender

log = structlog.get_logger(__name__)


class Webhooks:
    """All webhooks of the gateway.

    Args:
        context: Has the store, the settings and the clock.
        sender: Posts requests; None: this gateway has no webhooks.
        link: Returns the URL of a session for a receiver.
        audit: Where webhooks that the gateway disables are recorded.

    Attributes:
        couriers: Who sends, by webhook.
        tally: Counts what happens.
    """

    def __init__(
        self,
        context: Context,
        sender: Sender | None,
        link: Callable[[str], str],
        audit: AuditLog | None,
    ) -> None:
        self._context = context
        self._store = context.store
        self._clock = context.clock
        self._settings = context.settings
        self._sender = sender
        self._audit = audit
        self._link = link
        self.couriers: dict[str, Courier] = {}
        self._feed = Feed(context.store, context.clock, self.couriers)
        self._looker = Looker(context.store, self._feed, self.couriers)
        self._is_looking = False
        self.tally = WebhookTally()
        self._post: Post | None = None

    # -- the process ------------------------------------------------------------------------

    async def start(self) -> None:
        """Load the webhooks, and go on with what they have not been told yet."""
        if self._sender is None:
            return
        self._post = Post(
            self._store,
            self._settings,
            self._clock,
            self._sender,
            self._link,
            anyio.CapacityLimiter(WEBHOOK_IN_FLIGHT_IN_ALL),
            self.tally,
            self._disable,
        )
        webhooks: list[Webhook] = []
        kept: set[str] = set()
        async for webhook_id, value in each_value(self._store, WEBHOOK):
            kept.add(webhook_id)
            try:
                webhooks.append(Webhook.read(value))
            except UNREADABLE:
                # It stays as it is, for a version that can read it; the others go on (R10).
                log.exception("a webhook cannot be read", webhook_id=webhook_id)
        if not webhooks:
            return
        await remove_leftovers(self._store, kept)
        await self._feed.load()
        for webhook in webhooks:
            self.add(webhook)

    def begin_drain(self) -> None:
        """Begin no request any more."""
        for courier in self.couriers.values():
            courier.end()

    async def finish(self, seconds: float) -> None:
        """Wait for the requests that are on their way, at most so long."""
        self.begin_drain()
        with anyio.move_on_after(seconds):
            for courier in list(self.couriers.values()):
                await courier.ended.wait()
        for courier in self.couriers.values():
            courier.abandon()

    def _start_looking(self) -> None:
        if not self._is_looking:
            self._is_looking = True
            self._context.tasks.spawn(self._look, name="webhook feed")

    async def _look(self) -> None:
        await self._looker.run()
        self._is_looking = False

    def changed(self, events: Sequence[Event]) -> None:
        """Report a commit; without events: something that is more than a commit of events."""
        self._looker.changed(events)

    # -- for commands -----------------------------------------------------------------------

    def available(self) -> Post:
        """Return what sends.

        Raises:
            Unavailable: This gateway has no webhooks.
        """
        if self._post is None:
            raise Unavailable("This gateway sends no webhooks.")
        return self._post

    def check_url(self, url: str) -> None:
        """Refuse a URL that no request is sent to.

        Raises:
            UrlRefusedError: With the reason.
        """
        if self._sender is not None:
            self._sender.check_url(url)

    async def begin(self) -> None:
        """Forget what was known for webhooks that are all deleted; before the next is created."""
        await self._store.write_values([ValueChange(CURSOR, CURSOR_KEY, None)])
        for kind in (SEEN, DUE, DELIVERY):
            await remove_all(self._store, kind)
        await self._feed.begin()

    def add(self, webhook: Webhook) -> None:
        """Send to a webhook that is in the store."""
        courier = self.couriers[webhook.id] = Courier(self.available(), webhook)
        self._context.tasks.spawn(courier.run, name=f"webhook {webhook.id}")
        self._start_looking()

    async def remove(self, courier: Courier) -> None:
        """Delete a webhook with everything that it was to be told.

        Raises:
            NotFound: It was deleted meanwhile.
        """
        webhook_id = courier.webhook.id
        async with courier.outbox.lock:
            courier.check_there()
            await self._store.write_values([ValueChange(WEBHOOK, webhook_id, None)])
            courier.outbox.removed = True
        self.couriers.pop(webhook_id, None)
        courier.abandon()
        for kind in (DUE, DELIVERY):
            await remove_all(self._store, kind, f"{webhook_id}/")

    # -- deletions --------------------------------------------------------------------------

    async def before_deletion(self, session_id: str) -> None:
        """Write down what a session has still to tell, before its log is deleted.

        A store that cannot be written keeps nobody from deleting.
        """
        if not self.couriers:
            return
        try:
            await self._feed.look_at(session_id)
        except BambooError as error:
            log.warning(
                "events of a deleted session may not be told",
                session_id=session_id,
                code=error.code,
            )

    async def forget_user(self, user_id: str, *, dry_run: bool = False) -> int:
        """Delete a user's webhooks, and what others were to be told or were told of the user.

        What is told of the deletion itself is still told.

        Returns:
            How many webhooks the user has, or had.
        """
        theirs = [one for one in self.couriers.values() if one.webhook.owner == user_id]
        if dry_run:
            return len(theirs)
        for courier in theirs:
            await self.remove(courier)
        await self._catch_up()
        for courier in list(self.couriers.values()):
            if courier.webhook.is_about(user_id):
                await self._forget_user_in(courier, user_id)
        return len(theirs)

    async def _catch_up(self) -> None:
        """Look at all changes now: the store is about to forget deletions, which name the user."""
        try:
            while self.couriers and await self._feed.look():
                pass
        except BambooError as error:
            log.warning("webhooks wait for the store", code=error.code)

    # -- for reports ------------------------------------------------------------------------

    @property
    def webhooks(self) -> list[Webhook]:
        """All webhooks as they are now."""
        return [courier.webhook for courier in self.couriers.values()]

    def backlog(self) -> tuple[int, float]:
        """Return how many sessions have something to tell, and the age of the oldest in seconds.

        Both are about what is in memory, and about webhooks that are enabled.
        """
        entries = [
            entry
            for courier in self.couriers.values()
            if courier.webhook.enabled
            for entry in courier.outbox.entries.values()
        ]
        oldest = min((entry.notices[0].at_ms for entry in entries if entry.notices), default=None)
        if oldest is None:
            return len(entries), 0.0
        return len(entries), max(0, self._clock.now_ms() - oldest) / 1000

    # -- what they are made of --------------------------------------------------------------

    async def _forget_user_in(self, courier: Courier, user_id: str) -> None:
        webhook_id, outbox = courier.webhook.id, courier.outbox
        prefix = f"{webhook_id}/"
        changes: list[ValueChange] = []
        async with outbox.lock:
            if outbox.removed:
                return
            async for key, value in each_value(self._store, DUE, prefix):
                session_id = key[len(prefix) :]
                entry = outbox.entries.get(session_id) or Entry.read(value)
                if entry.user_id == user_id:
                    entry.forget_all_but("session.deleted")
                    changes.append(outbox.change_of(entry))
            changes += await courier.deliveries.of_user(user_id)
            await self._store.write_values(changes)

    async def _disable(self, webhook_id: str, reason: DisabledReason) -> None:
        """Disable a webhook because of its receiver."""
        courier = self.couriers.get(webhook_id)
        if courier is None:
            return
        async with courier.outbox.lock:
            if courier.outbox.removed or not courier.webhook.enabled:
                return
            now_ms = self._clock.now_ms()
            changed = replace(
                courier.webhook, enabled=False, disabled_reason=reason, updated_at=now_ms
            )
            await self._store.write_values([webhook_change(changed)])
            courier.changed(changed)
        self.tally.disabled[reason,] += 1
        log.warning("a webhook was disabled", webhook_id=webhook_id, reason=reason)
        if self._audit is not None:
            await self._audit.append(
                AuditRecord(
                    at_ms=now_ms, action="disable-webhook", caller="gateway", targets=[webhook_id]
                )
            )
