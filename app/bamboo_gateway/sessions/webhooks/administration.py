"""What callers do with webhooks.

Who may: the operator (a caller without a user, with the right `admin`) has webhooks about all
sessions. A user has webhooks about the user's own sessions alone. A webhook of another one is
answered as one that does not exist.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Final, cast

from bamboo_gateway.domain.callers import Caller
from bamboo_gateway.domain.errors import (
    Forbidden,
    IdempotencyKeyReused,
    InvalidCursor,
    InvalidInput,
    LimitReached,
)
from bamboo_gateway.domain.ids import digest_id
from bamboo_gateway.domain.webhook_urls import UrlRefusedError
from bamboo_gateway.domain.webhooks import TEST_EVENT, Notice, Secret, Webhook, new_secret
from bamboo_gateway.sessions.commands import Idempotency, Outcome
from bamboo_gateway.sessions.context import Context
from bamboo_gateway.sessions.webhooks.courier import unknown_webhook
from bamboo_gateway.sessions.webhooks.deliveries import Deliveries
from bamboo_gateway.sessions.webhooks.leading import tell_tested
from bamboo_gateway.sessions.webhooks.service import Webhooks
from bamboo_gateway.sessions.webhooks.views import (
    Delivery,
    DeliveryPage,
    WebhookMade,
    WebhookSecret,
    WebhookView,
    webhook_view,
)
from bamboo_gateway.webhooks.base import Attempt

_CREATING: Final = ("webhooks", "creating")
"""The lock of creations, in all processes: of two only one may take the last place."""


@dataclass(frozen=True, slots=True)
class NewWebhook:
    """The webhook to create."""

    url: str
    events: Sequence[str]
    user_id: str | None = None


class WebhookService:
    """The commands about webhooks.

    Args:
        context: Has the store, the settings and the clock.
        webhooks: The webhooks that run.
    """

    def __init__(self, context: Context, webhooks: Webhooks) -> None:
        self._context = context
        self._store = context.store
        self._clock = context.clock
        self._settings = context.settings
        self._webhooks = webhooks
        self._locks = context.files.locks

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
        self._webhooks.available()
        self._check_url(new.url)
        async with self._locks.hold([_CREATING]):
            webhook_id = self._new_id(caller, idem)
            present = await self._webhooks.find(webhook_id)
            if present is not None and idem is not None:
                _check_repeat(present.made_with, idem)
                return Outcome(self._made(present), replayed=True)
            others = await self._webhooks.all()
            self._check_limits(others, owner)
            if not others:
                await self._webhooks.begin()
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
            await self._webhooks.create(webhook)
        return Outcome(self._made(webhook, secret))

    async def all_of(self, caller: Caller) -> list[WebhookView]:
        """Return the caller's webhooks, the oldest first."""
        owner, now_ms = _owner(caller), self._clock.now_ms()
        mine = [one for one in await self._webhooks.all() if owner is None or one.owner == owner]
        mine.sort(key=lambda one: (one.created_at, one.id))
        return [webhook_view(one, now_ms) for one in mine]

    async def get(self, caller: Caller, webhook_id: str) -> WebhookView:
        """Return a webhook.

        Raises:
            NotFound: The caller has no such webhook.
        """
        return webhook_view(await self._webhook(caller, webhook_id), self._clock.now_ms())

    async def change(self, caller: Caller, webhook_id: str, fields: dict[str, Any]) -> WebhookView:
        """Change a webhook's `url`, `events`, `user_id` or `enabled`.

        What it newly asks for is told from now on.

        Raises:
            NotFound, Forbidden, InvalidInput: As for `get` and `create`.
        """
        owner = (await self._webhook(caller, webhook_id)).owner
        if owner is not None and fields.get("user_id", owner) != owner:
            raise Forbidden("A webhook of a user is about that user's sessions.")
        if "url" in fields:
            self._check_url(fields["url"])
        now_ms = self._clock.now_ms()

        def change(before: Webhook) -> Webhook:
            changed = replace(before, **fields, updated_at=now_ms)
            if "events" in fields or "user_id" in fields or (changed.enabled > before.enabled):
                changed = replace(changed, since=now_ms)
            if changed.enabled > before.enabled:
                changed = replace(changed, disabled_reason=None, failing_since=None)
            elif changed.enabled < before.enabled:
                changed = replace(changed, disabled_reason="request")
            return changed

        return webhook_view(await self._webhooks.change(webhook_id, change), now_ms)

    async def delete(self, caller: Caller, webhook_id: str) -> None:
        """Delete a webhook with everything that it was to be told.

        Raises:
            NotFound: The caller has no such webhook.
        """
        await self._webhook(caller, webhook_id)
        await self._webhooks.remove(webhook_id)

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
        await self._webhook(caller, webhook_id)
        secret, is_repeat = new_secret(), False
        now_ms = self._clock.now_ms()

        def rotate(before: Webhook) -> Webhook:
            nonlocal is_repeat
            if idem is not None and (before.rotated_with or ("", ""))[0] == idem.key:
                _check_repeat(before.rotated_with, idem)
                is_repeat = True
                return before
            changed = before.rotated(secret, now_ms, overlap_seconds * 1000)
            if idem is not None:
                changed = replace(changed, rotated_with=(idem.key, idem.body_digest))
            return changed

        changed = await self._webhooks.change(webhook_id, rotate)
        if is_repeat:
            return Outcome(self._made(changed), replayed=True)
        return Outcome(self._made(changed, secret))

    async def test(self, caller: Caller, webhook_id: str) -> Delivery:
        """Send a message that says nothing, once, and return what became of it.

        Raises:
            NotFound: The caller has no such webhook.
        """
        webhook, post = await self._webhook(caller, webhook_id), self._webhooks.available()
        self._context.drain.check()
        now_ms = self._clock.now_ms()
        data = {"webhook_id": webhook_id, "status": "test"}
        notice = Notice(self._context.ids.make("msg_", now_ms), TEST_EVENT, now_ms, data)
        attempt = await post.send(webhook, notice)
        courier = self._webhooks.couriers.get(webhook_id)
        if courier is None:
            return await self._record_beside(webhook_id, notice, attempt, now_ms)
        async with courier.outbox.lock:
            shown, changes = courier.deliveries.record(notice, None, attempt, 1, now_ms, None)
            if not courier.outbox.removed:
                await self._store.write_values(changes)
        return shown

    async def _record_beside(
        self, webhook_id: str, notice: Notice, attempt: Attempt, now_ms: int
    ) -> Delivery:
        """Write an attempt while another process sends. Of two in one second one may be lost."""
        deliveries = Deliveries(self._store, webhook_id)
        await deliveries.load()
        shown, changes = deliveries.record(notice, None, attempt, 1, now_ms, None)
        if await self._webhooks.find(webhook_id) is not None:
            await self._store.write_values(changes)
            await tell_tested(self._store, webhook_id)
        return shown

    async def deliveries(
        self, caller: Caller, webhook_id: str, cursor: str | None, limit: int
    ) -> DeliveryPage:
        """Return attempts, the latest first.

        Raises:
            NotFound: The caller has no such webhook.
            InvalidCursor: The cursor is of no page of this list.
        """
        await self._webhook(caller, webhook_id)
        if cursor is not None and not (cursor.isascii() and cursor.isdigit()):
            raise InvalidCursor
        before = int(cursor) if cursor is not None else None
        shown, following = await Deliveries(self._store, webhook_id).page(before, limit)
        for one in shown:
            del one["user_id"]
        return {
            "deliveries": cast("list[Delivery]", shown),
            "next_cursor": str(following) if following is not None else None,
            "has_more": following is not None,
        }

    # -- what they are made of --------------------------------------------------------------

    async def _webhook(self, caller: Caller, webhook_id: str) -> Webhook:
        owner, webhook = _owner(caller), await self._webhooks.find(webhook_id)
        if webhook is None or (owner is not None and webhook.owner != owner):
            raise unknown_webhook(webhook_id)
        return webhook

    def _check_url(self, url: str) -> None:
        try:
            self._webhooks.check_url(url)
        except UrlRefusedError as error:
            raise InvalidInput(
                str(error),
                code="webhook-url-refused",
                errors=[{"loc": ["body", "url"], "msg": str(error)}],
            ) from error

    def _check_limits(self, others: Sequence[Webhook], owner: str | None) -> None:
        everything = [one.owner for one in others]
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


def _check_repeat(used: tuple[str, str] | None, idem: Idempotency) -> None:
    if used is None or used[1] != idem.body_digest:
        raise IdempotencyKeyReused(
            "This Idempotency-Key was used before with another body. Use a new key."
        )
