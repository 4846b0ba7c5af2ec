"""Webhooks: the commands about them, and the tasks that look and send.

Who may: the operator (a caller without a user, with the right `admin`) has webhooks about all
sessions. A user has webhooks about the user's own sessions alone. A webhook of another one is
answered as one that does not exist.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, Final, cast

import anyio
import structlog

from bamboo_gateway.domain.callers import Caller
from bamboo_gateway.domain.errors import (
    BambooError,
    Forbidden,
    IdempotencyKeyReused,
    InvalidCursor,
    InvalidInput,
    LimitReached,
    NotFound,
    Unavailable,
)
from bamboo_gateway.domain.ids import digest_id
from bamboo_gateway.domain.limits import WEBHOOK_IN_FLIGHT_IN_ALL
from bamboo_gateway.domain.webhook_urls import UrlRefusedError
from bamboo_gateway.domain.webhooks import (
    TEST_EVENT,
    DisabledReason,
    Entry,
    Notice,
    Secret,
    Webhook,
    new_secret,
)
from bamboo_gateway.observability.audit import AuditLog, AuditRecord
from bamboo_gateway.sessions.commands import Idempotency, Outcome
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
)
from bamboo_gateway.sessions.webhooks.tally import WebhookTally
from bamboo_gateway.sessions.webhooks.views import (
    Delivery,
    DeliveryPage,
    WebhookMade,
    WebhookSecret,
    WebhookView,
    webhook_view,
)
from bamboo_gateway.storage.reports import ValueChange
from bamboo_gateway.webhooks.base import Sender

log = structlog.get_logger(__name__)

LOOK_SECONDS: Final = 0.5
"""How often the feed asks the store for changes, while there are webhooks. People do not notice it,
and a receiver is told within a second."""

_STORE_SECONDS_MAX: Final = 10.0
"""The longest wait while the store cannot be written."""


@dataclass(frozen=True, slots=True)
class NewWebhook:
    """The webhook to create."""

    url: str
    events: Sequence[str]
    user_id: str | None = None


class Webhooks:
    """All webhooks of the gateway.

    Args:
        context: Has the store, the settings and the clock.
        sender: Posts requests; None: this gateway has no webhooks.
        link: Returns the URL of a session for a receiver.
        audit: Where webhooks that the gateway disables are recorded.
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
        self._couriers: dict[str, Courier] = {}
        self._feed = Feed(context.store, context.clock, self._couriers)
        self._creating = anyio.Lock()
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
            self._add(webhook)
        self._start_looking()

    def begin_drain(self) -> None:
        """Begin no request any more."""
        for courier in self._couriers.values():
            courier.end()

    async def finish(self, seconds: float) -> None:
        """Wait for the requests that are on their way, at most so long."""
        self.begin_drain()
        with anyio.move_on_after(seconds):
            for courier in list(self._couriers.values()):
                await courier.ended.wait()
        for courier in self._couriers.values():
            courier.abandon()

    def _add(self, webhook: Webhook) -> None:
        assert self._post is not None
        courier = self._couriers[webhook.id] = Courier(self._post, webhook)
        self._context.tasks.spawn(courier.run, name=f"webhook {webhook.id}")

    def _start_looking(self) -> None:
        if not self._is_looking:
            self._is_looking = True
            self._context.tasks.spawn(self._look, name="webhook feed")

    async def _look(self) -> None:
        wait = LOOK_SECONDS
        while self._couriers:
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
        self._is_looking = False

    async def _heed_clock(self) -> None:
        back = self._feed.clock_set_back()
        for courier in list(self._couriers.values()) if back else ():
            async with courier.outbox.lock:
                webhook = replace(courier.webhook, since=courier.webhook.since - back)
                courier.changed(webhook)
                await self._store.write_values([_kept(webhook)])

    # -- commands ---------------------------------------------------------------------------

    async def create(
        self, caller: Caller, new: NewWebhook, idem: Idempotency | None
    ) -> Outcome[WebhookMade]:
        """Create a webhook. Only the first answer has the secret.

        Raises:
            Forbidden: The webhook would be about others' sessions.
            InvalidInput: No request is sent to this URL.
            LimitReached: There are `max_webhooks`, or `max_webhooks_per_user`.
        """
        owner = _owner(caller)
        if owner is not None and new.user_id not in {None, owner}:
            raise Forbidden("A webhook of yours is about your sessions: leave out `user_id`.")
        post = self._available()
        self._check_url(new.url)
        async with self._creating:
            webhook_id = self._new_id(caller, idem)
            present = self._couriers.get(webhook_id)
            if present is not None and idem is not None:
                _check_repeat(present.webhook.made_with, idem)
                return Outcome(self._made(present.webhook), replayed=True)
            self._check_limits(owner)
            if not self._couriers:
                await self._forget_all()
                await self._feed.begin()
            now_ms, secret = self._clock.now_ms(), new_secret()
            webhook = Webhook(
                webhook_id,
                new.url,
                tuple(new.events),
                owner,
                new.user_id if owner is None else owner,
                now_ms,
                now_ms,
                now_ms,
                (Secret(secret),),
                made_with=(idem.key, idem.body_digest) if idem is not None else None,
            )
            await post.store.write_values([_kept(webhook)])
            self._add(webhook)
            self._start_looking()
        return Outcome(self._made(webhook, secret))

    def all_of(self, caller: Caller) -> list[WebhookView]:
        """Return the caller's webhooks, the oldest first."""
        owner, now_ms = _owner(caller), self._clock.now_ms()
        mine = [
            courier.webhook
            for courier in self._couriers.values()
            if owner is None or courier.webhook.owner == owner
        ]
        mine.sort(key=lambda one: (one.created_at, one.id))
        return [webhook_view(one, now_ms) for one in mine]

    def get(self, caller: Caller, webhook_id: str) -> WebhookView:
        """Return a webhook.

        Raises:
            NotFound: The caller has no such webhook.
        """
        return webhook_view(self._courier(caller, webhook_id).webhook, self._clock.now_ms())

    async def change(self, caller: Caller, webhook_id: str, fields: dict[str, Any]) -> WebhookView:
        """Change a webhook's `url`, `events`, `user_id` or `enabled`.

        What it newly asks for is told from now on.

        Raises:
            NotFound, Forbidden, InvalidInput: As for `get` and `create`.
        """
        courier = self._courier(caller, webhook_id)
        owner = courier.webhook.owner
        if owner is not None and fields.get("user_id", owner) != owner:
            raise Forbidden("A webhook of a user is about that user's sessions.")
        if "url" in fields:
            self._check_url(fields["url"])
        async with courier.outbox.lock:
            _check_there(courier)
            now_ms, before = self._clock.now_ms(), courier.webhook
            changed = replace(before, **fields, updated_at=now_ms)
            if "events" in fields or "user_id" in fields or (changed.enabled > before.enabled):
                changed = replace(changed, since=now_ms)
            if changed.enabled > before.enabled:
                changed = replace(changed, disabled_reason=None, failing_since=None)
            elif changed.enabled < before.enabled:
                changed = replace(changed, disabled_reason="request")
            await self._store.write_values([_kept(changed)])
            courier.changed(changed)
        return webhook_view(changed, now_ms)

    async def delete(self, caller: Caller, webhook_id: str) -> None:
        """Delete a webhook with everything that it was to be told.

        Raises:
            NotFound: The caller has no such webhook.
        """
        await self._remove(self._courier(caller, webhook_id))

    async def rotate(
        self,
        caller: Caller,
        webhook_id: str,
        overlap_seconds: int,
        idem: Idempotency | None,
    ) -> Outcome[WebhookMade]:
        """Give a webhook a new secret; the present one signs as well for a while.

        Raises:
            NotFound: The caller has no such webhook.
        """
        courier = self._courier(caller, webhook_id)
        async with courier.outbox.lock:
            _check_there(courier)
            before = courier.webhook
            if idem is not None and (before.rotated_with or ("", ""))[0] == idem.key:
                _check_repeat(before.rotated_with, idem)
                return Outcome(self._made(before), replayed=True)
            secret = new_secret()
            changed = before.rotated(secret, self._clock.now_ms(), overlap_seconds * 1000)
            if idem is not None:
                changed = replace(changed, rotated_with=(idem.key, idem.body_digest))
            await self._store.write_values([_kept(changed)])
            courier.changed(changed)
        return Outcome(self._made(changed, secret))

    async def test(self, caller: Caller, webhook_id: str) -> Delivery:
        """Send a message that says nothing, once, and return what became of it.

        Raises:
            NotFound: The caller has no such webhook.
        """
        courier, post = self._courier(caller, webhook_id), self._available()
        self._context.drain.check()
        now_ms = self._clock.now_ms()
        data = {"webhook_id": webhook_id, "status": "test"}
        notice = Notice(self._context.ids.make("msg_", now_ms), TEST_EVENT, now_ms, data)
        attempt = await post.send(courier.webhook, notice)
        async with courier.outbox.lock:
            shown, changes = courier.deliveries.record(notice, None, attempt, 1, now_ms, None)
            if not courier.outbox.removed:
                await self._store.write_values(changes)
        return shown

    async def deliveries(
        self, caller: Caller, webhook_id: str, cursor: str | None, limit: int
    ) -> DeliveryPage:
        """Return attempts, the latest first.

        Raises:
            NotFound: The caller has no such webhook.
            InvalidCursor: The cursor is of no page of this list.
        """
        courier = self._courier(caller, webhook_id)
        if cursor is not None and not (cursor.isascii() and cursor.isdigit()):
            raise InvalidCursor
        before = int(cursor) if cursor is not None else None
        shown, following = await courier.deliveries.page(before, limit)
        for one in shown:
            del one["user_id"]
        return {
            "deliveries": cast("list[Delivery]", shown),
            "next_cursor": str(following) if following is not None else None,
            "has_more": following is not None,
        }

    async def before_deletion(self, session_id: str) -> None:
        """Write down what a session has still to tell, before its log is deleted.

        A store that cannot be written keeps nobody from deleting.
        """
        if not self._couriers:
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
        theirs = [one for one in self._couriers.values() if one.webhook.owner == user_id]
        if dry_run:
            return len(theirs)
        for courier in theirs:
            await self._remove(courier)
        await self._catch_up()
        for courier in list(self._couriers.values()):
            if courier.webhook.is_about(user_id):
                await self._forget_user_in(courier, user_id)
        return len(theirs)

    async def _catch_up(self) -> None:
        """Look at all changes now: the store is about to forget deletions, which name the user."""
        try:
            while self._couriers and await self._feed.look():
                pass
        except BambooError as error:
            log.warning("webhooks wait for the store", code=error.code)

    # -- for reports ------------------------------------------------------------------------

    @property
    def webhooks(self) -> list[Webhook]:
        """All webhooks as they are now."""
        return [courier.webhook for courier in self._couriers.values()]

    def backlog(self) -> tuple[int, float]:
        """Return how many sessions have something to tell, and the age of the oldest in seconds.

        Both are about what is in memory, and about webhooks that are enabled.
        """
        entries = [
            entry
            for courier in self._couriers.values()
            if courier.webhook.enabled
            for entry in courier.outbox.entries.values()
        ]
        oldest = min((entry.notices[0].at_ms for entry in entries if entry.notices), default=None)
        if oldest is None:
            return len(entries), 0.0
        return len(entries), max(0, self._clock.now_ms() - oldest) / 1000

    # -- what they are made of --------------------------------------------------------------

    def _available(self) -> Post:
        if self._post is None:
            raise Unavailable("This gateway sends no webhooks.")
        return self._post

    def _courier(self, caller: Caller, webhook_id: str) -> Courier:
        owner, courier = _owner(caller), self._couriers.get(webhook_id)
        if courier is None or (owner is not None and courier.webhook.owner != owner):
            raise _unknown(webhook_id)
        return courier

    def _check_url(self, url: str) -> None:
        assert self._sender is not None
        try:
            self._sender.check_url(url)
        except UrlRefusedError as error:
            raise InvalidInput(
                str(error),
                code="webhook-url-refused",
                errors=[{"loc": ["body", "url"], "msg": str(error)}],
            ) from error

    def _check_limits(self, owner: str | None) -> None:
        everything = [courier.webhook.owner for courier in self._couriers.values()]
        uses = [("max_webhooks", len(everything), self._settings.max_webhooks)]
        if owner is not None:
            most = self._settings.max_webhooks_per_user
            uses.append(("max_webhooks_per_user", everything.count(owner), most))
        for name, used, most in uses:
            if used >= most:
                raise LimitReached(
                    f"Limit reached: {most} webhooks ({name}). Delete a webhook and retry.",
                    code="too-many-webhooks",
                )

    def _new_id(self, caller: Caller, idem: Idempotency | None) -> str:
        if idem is None:
            return self._context.ids.make("wh_", self._clock.now_ms())
        return digest_id("wh_k", caller.id, idem.key)

    def _made(self, webhook: Webhook, secret: str | None = None) -> WebhookMade:
        told: WebhookSecret = {"secret": secret} if secret is not None else {}
        return {**webhook_view(webhook, self._clock.now_ms()), **told}

    async def _remove(self, courier: Courier) -> None:
        webhook_id = courier.webhook.id
        async with courier.outbox.lock:
            _check_there(courier)
            await self._store.write_values([ValueChange(WEBHOOK, webhook_id, None)])
            courier.outbox.removed = True
        self._couriers.pop(webhook_id, None)
        courier.abandon()
        for kind in (DUE, DELIVERY):
            await remove_all(self._store, kind, f"{webhook_id}/")

    async def _forget_all(self) -> None:
        """Remove what the feed knew for webhooks that are all deleted."""
        await self._store.write_values([ValueChange(CURSOR, CURSOR_KEY, None)])
        for kind in (SEEN, DUE, DELIVERY):
            await remove_all(self._store, kind)

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
        courier = self._couriers.get(webhook_id)
        if courier is None:
            return
        async with courier.outbox.lock:
            if courier.outbox.removed or not courier.webhook.enabled:
                return
            now_ms = self._clock.now_ms()
            changed = replace(
                courier.webhook, enabled=False, disabled_reason=reason, updated_at=now_ms
            )
            await self._store.write_values([_kept(changed)])
            courier.changed(changed)
        self.tally.disabled[reason,] += 1
        log.warning("a webhook was disabled", webhook_id=webhook_id, reason=reason)
        if self._audit is not None:
            await self._audit.append(
                AuditRecord(
                    at_ms=now_ms, action="disable-webhook", caller="gateway", targets=[webhook_id]
                )
            )


def _owner(caller: Caller) -> str | None:
    """Return the user whose webhooks a caller has; None: the operator's.

    Raises:
        Forbidden: The caller acts for no user, and is not the operator.
    """
    if caller.user_id is None and "admin" not in caller.rights:
        raise Forbidden(
            "Webhooks about all sessions need the right `admin`. Name a user with X-User-Id."
        )
    return caller.user_id


def _unknown(webhook_id: str) -> NotFound:
    return NotFound(f"No webhook {webhook_id!r}.", code="webhook-not-found")


def _check_there(courier: Courier) -> None:
    """Refuse a webhook that was deleted while somebody waited for it."""
    if courier.outbox.removed:
        raise _unknown(courier.webhook.id)


def _check_repeat(used: tuple[str, str] | None, idem: Idempotency) -> None:
    if used is None or used[1] != idem.body_digest:
        raise IdempotencyKeyReused(
            "This Idempotency-Key was used before with another body. Use a new key."
        )


def _kept(webhook: Webhook) -> ValueChange:
    return ValueChange(WEBHOOK, webhook.id, webhook.stored())
