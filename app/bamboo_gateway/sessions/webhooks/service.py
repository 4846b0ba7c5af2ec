"""The webhooks that run: their tasks, and what is done to all of them.

Where several processes share the store, one of them sends (`leading`), and has the couriers. The
others know webhooks from the store alone: they create, change and delete them there.
"""

from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import replace

import anyio
import structlog

from bamboo_gateway.domain.errors import (
    BambooError,
    NotFound,
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
from bamboo_gateway.sessions.webhooks.courier import Courier, Post, unknown_webhook
from bamboo_gateway.sessions.webhooks.feed import Feed
from bamboo_gateway.sessions.webhooks.kept import (
    CURSOR,
    CURSOR_KEY,
    DELIVERY,
    DUE,
    SEEN,
    UNREADABLE,
    WEBHOOK,
    change_webhook,
    each_value,
    read_webhooks,
    remove_all,
    remove_leftovers,
    webhook_change,
)
from bamboo_gateway.sessions.webhooks.leading import Leading, ask_to_forget, until_seen
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
        couriers: Who sends, by webhook; empty while another process sends.
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
        self._feed = Feed(context.store, context.clock, self.couriers, self._check_leads)
        self._looker = Looker(context.store, self._feed, self.couriers)
        self._is_looking = False
        # Of the calls that read which webhooks there are and begin or end to send to them.
        self._taking_over = anyio.Lock()
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
            self._check_leads,
        )
        if self.is_shared:
            self._context.tasks.spawn(Leading(self._context, self).run, name="webhook leader")
        else:
            await self.begin_sending()

    async def begin_sending(self) -> None:
        """Load the webhooks and send to them, from now on."""
        async with self._taking_over:
            await self._begin_sending()

    async def _begin_sending(self) -> None:
        webhooks, unreadable = await read_webhooks(self._store)
        for webhook_id in unreadable:
            log.error("a webhook cannot be read", webhook_id=webhook_id)
        if not webhooks:
            return
        await remove_leftovers(self._store, {one.id for one in webhooks} | unreadable)
        await self._feed.load()
        for webhook in webhooks:
            self.add(webhook)

    async def end_sending(self) -> None:
        """Leave it to another process; what is on its way may arrive twice."""
        async with self._taking_over:
            couriers = list(self.couriers.values())
            self.couriers.clear()
            for courier in couriers:
                courier.abandon()
            for courier in couriers:
                await courier.ended.wait()

    async def take_over_changes(self) -> None:
        """Take over what other processes have created, changed and deleted."""
        async with self._taking_over:
            await self._take_over_changes()

    async def _take_over_changes(self) -> None:
        webhooks, _ = await read_webhooks(self._store)
        if webhooks and not self.couriers:
            await self._feed.load()
        for webhook in webhooks:
            courier = self.couriers.get(webhook.id)
            if courier is None:
                self.add(webhook)
            elif _is_changed(courier.webhook, webhook):
                async with courier.outbox.lock:
                    value = await self._store.value(WEBHOOK, webhook.id)
                    if value is not None:
                        courier.changed(Webhook.read(value))
        there = {one.id for one in webhooks}
        for courier in [one for one in self.couriers.values() if one.webhook.id not in there]:
            # As of now: it may have been created since.
            if await self._store.value(WEBHOOK, courier.webhook.id) is None:
                await self._forget(courier)

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

    @property
    def is_shared(self) -> bool:
        """Whether several processes share the store."""
        return self._store.replicas is not None

    @property
    def is_sending(self) -> bool:
        """Whether this process sends, and not another one."""
        return self._context.leads

    def _check_leads(self) -> None:
        if not self._context.leads:
            raise Unavailable("Another process sends the webhooks now.")

    # -- for commands -----------------------------------------------------------------------

    async def all(self) -> list[Webhook]:
        """Return all webhooks as they are now.

        Raises:
            StorageFailed, Unavailable: The store does not tell them now.
        """
        if not self.is_shared:
            return self.webhooks
        webhooks, _ = await read_webhooks(self._store)
        return webhooks

    async def find(self, webhook_id: str) -> Webhook | None:
        """Return a webhook as it is now, or None.

        Raises:
            StorageFailed, Unavailable: As `all`.
        """
        if not self.is_shared:
            courier = self.couriers.get(webhook_id)
            return courier.webhook if courier is not None else None
        if not webhook_id.isascii() or not webhook_id.isprintable():
            return None  # no value has such a key
        value = await self._store.value(WEBHOOK, webhook_id)
        try:
            return None if value is None else Webhook.read(value)
        except UNREADABLE:
            return None

    async def change(self, webhook_id: str, change: Callable[[Webhook], Webhook]) -> Webhook:
        """Change a webhook, and return it.

        Raises:
            NotFound: It was deleted meanwhile.
            StorageFull, StorageFailed, Unavailable: It was not changed.
        """
        courier = self.couriers.get(webhook_id)
        if courier is None:
            changed = await change_webhook(self._store, webhook_id, change)
            if changed is None:
                raise unknown_webhook(webhook_id)
            return changed
        async with courier.outbox.lock:
            courier.check_there()
            changed = await change_webhook(self._store, webhook_id, change)
            if changed is None:
                raise unknown_webhook(webhook_id)
            courier.changed(changed)
        return changed

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

    async def create(self, webhook: Webhook) -> None:
        """Write a new webhook, and send to it from now on.

        Raises:
            StorageFull, StorageFailed, Unavailable: It was not created.
        """
        await self._store.write_values([webhook_change(webhook)])
        if not self.is_shared:
            self.add(webhook)
        elif self.is_sending:
            await self.take_over_changes()

    async def remove(self, webhook_id: str) -> None:
        """Delete a webhook with everything that it was to be told.

        Raises:
            NotFound: It was deleted meanwhile.
        """
        courier = self.couriers.get(webhook_id)
        if courier is None:
            await self._store.write_values([ValueChange(WEBHOOK, webhook_id, None)])
            # Who sends may write more of it until it has noticed; and removes that.
            await self._remove_rest(webhook_id)
            return
        async with courier.outbox.lock:
            courier.check_there()
            await self._store.write_values([ValueChange(WEBHOOK, webhook_id, None)])
            courier.outbox.removed = True
        await self._forget(courier)

    async def _forget(self, courier: Courier) -> None:
        """Send nothing any more to a webhook that is not there any more."""
        webhook_id = courier.webhook.id
        courier.outbox.removed = True
        self.couriers.pop(webhook_id, None)
        courier.abandon()
        await self._remove_rest(webhook_id)

    async def _remove_rest(self, webhook_id: str) -> None:
        for kind in (DUE, DELIVERY):
            await remove_all(self._store, kind, f"{webhook_id}/")

    # -- deletions --------------------------------------------------------------------------

    async def before_deletion(self, session_id: str) -> None:
        """Write down what a session has still to tell, before its log is deleted.

        A store that cannot be written keeps nobody from deleting.
        """
        try:
            if self.couriers:
                await self._feed.look_at(session_id)
            elif self.is_shared and self._sender is not None and not self.is_sending:
                await until_seen(self._store, session_id)
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
        webhooks = await self.all()
        theirs = [one.id for one in webhooks if one.owner == user_id]
        if dry_run:
            return len(theirs)
        for webhook_id in theirs:
            with suppress(NotFound):  # deleted meanwhile
                await self.remove(webhook_id)
        if self.is_sending:
            await self.forget_told(user_id)
        elif len(theirs) < len(webhooks):
            await ask_to_forget(self._store, user_id)
        return len(theirs)

    async def forget_told(self, user_id: str) -> None:
        """Remove what webhooks were to be told or were told of a user, but that sessions are gone.

        Raises:
            StorageFull, StorageFailed, Unavailable: Not all of it was removed.
        """
        await self._catch_up()
        for courier in list(self.couriers.values()):
            if courier.webhook.is_about(user_id):
                await self._forget_user_in(courier, user_id)

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
        courier, now_ms = self.couriers.get(webhook_id), self._clock.now_ms()
        if courier is None or not courier.webhook.enabled:
            return

        def disabled(webhook: Webhook) -> Webhook:
            return replace(webhook, enabled=False, disabled_reason=reason, updated_at=now_ms)

        try:
            await self.change(webhook_id, disabled)
        except NotFound:
            return  # deleted meanwhile
        self.tally.disabled[reason,] += 1
        log.warning("a webhook was disabled", webhook_id=webhook_id, reason=reason)
        if self._audit is not None:
            await self._audit.append(
                AuditRecord(
                    at_ms=now_ms, action="disable-webhook", caller="gateway", targets=[webhook_id]
                )
            )


def _is_changed(here: Webhook, stored: Webhook) -> bool:
    """Return whether a webhook in the store is another one than here; successes do not count."""
    return replace(here, last_success_at=None) != replace(stored, last_success_at=None)
