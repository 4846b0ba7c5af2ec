"""Sends what one webhook is to be told: each session's notices in order, sessions side by side."""

import random
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, replace
from heapq import heappop, heappush
from itertools import count
from typing import Final

import anyio
import structlog
from anyio.abc import TaskGroup

from bamboo_gateway.domain.clock import Clock, format_ms
from bamboo_gateway.domain.errors import BambooError, Conflict, NotFound
from bamboo_gateway.domain.limits import WEBHOOK_IN_FLIGHT_MAX, WEBHOOK_PAYLOAD_BYTES_MAX
from bamboo_gateway.domain.webhooks import DisabledReason, Entry, Notice, Webhook
from bamboo_gateway.sessions.webhooks.deliveries import Deliveries
from bamboo_gateway.sessions.webhooks.kept import change_webhook, webhook_change
from bamboo_gateway.sessions.webhooks.outbox import Outbox
from bamboo_gateway.sessions.webhooks.reading import read_after
from bamboo_gateway.sessions.webhooks.tally import WebhookTally
from bamboo_gateway.settings import Settings
from bamboo_gateway.storage.base import SessionStore
from bamboo_gateway.webhooks.base import Attempt, Sender
from bamboo_gateway.webhooks.standard import payload, signed_headers

log = structlog.get_logger(__name__)

_JITTER: Final = 0.2
"""The part of a wait that is random, so that what failed together does not return together."""

_RETRY_AFTER_SECONDS_MAX: Final = 24 * 3600
"""The longest wait that a receiver may ask for."""

_DOWN_AFTER: Final = 5
"""Failures in a row after which a receiver counts as down. Its first acknowledgement then brings
all that waits forward."""

_BACK_SECONDS: Final = 60.0
"""Within which time what waited for a receiver that was down is sent."""

_STORE_SECONDS: Final = 1.0
"""How long to wait when the store could not be read or written."""

_DAY_MS: Final = 24 * 3600 * 1000
_GONE: Final = 410
_MAY_ASK_TO_WAIT: Final = (429, 503)


@dataclass(frozen=True, slots=True)
class Post:
    """What all couriers share.

    Attributes:
        store: Where everything is kept.
        settings: Waits and times.
        clock: The only source of time.
        sender: Posts requests.
        link: Returns the URL of a session for a receiver.
        slots: Bounds the requests to all webhooks.
        tally: Counts what happens.
        disable: Disables a webhook because of its receiver.
        check_leads: Raises Unavailable when another process sends.
    """

    store: SessionStore
    settings: Settings
    clock: Clock
    sender: Sender
    link: Callable[[str], str]
    slots: anyio.CapacityLimiter
    tally: WebhookTally
    disable: Callable[[str, DisabledReason], Awaitable[None]]
    check_leads: Callable[[], None]

    async def send(self, webhook: Webhook, notice: Notice) -> Attempt:
        """Send a notice once."""
        data, session_id = notice.data, notice.data.get("session_id")
        if session_id is not None:
            is_there = notice.type != "session.deleted"
            data = data | {"url": self.link(session_id) if is_there else None}
        body = payload(notice.type, format_ms(notice.at_ms), data)
        assert len(body) <= WEBHOOK_PAYLOAD_BYTES_MAX  # ids and words of the gateway
        now_ms = self.clock.now_ms()
        headers = signed_headers(notice.id, now_ms // 1000, body, webhook.signing(now_ms))
        async with self.slots:
            attempt = await self.sender.post(webhook.url, headers, body)
        self.tally.attempts[attempt.error or "acknowledged",] += 1
        return attempt


class Courier:
    """Sends the notices of one webhook."""

    def __init__(self, post: Post, webhook: Webhook) -> None:
        self._post = post
        self.webhook = webhook
        self.outbox = Outbox(post.store, webhook.id)
        self.deliveries = Deliveries(post.store, webhook.id)
        self._waiting: list[tuple[float, int, str]] = []
        self._due: dict[str, float] = {}
        self._order = count()
        self._in_flight: set[str] = set()
        self._failures = 0
        self._poke = anyio.Event()
        self._is_ending = False
        self._scope = anyio.CancelScope()
        self.ended = anyio.Event()

    # -- for the one who owns it ------------------------------------------------------------

    async def run(self) -> None:
        """Send until it is ended."""
        try:
            with self._scope:
                await self._persist(self.deliveries.load)
                async with anyio.create_task_group() as group:
                    while not self._is_ending:
                        await self._persist(self._load)
                        wait = self._start_due(group)
                        with anyio.move_on_after(wait):
                            await self._poke.wait()
                        self._poke = anyio.Event()
        finally:
            self.ended.set()

    def end(self) -> None:
        """Begin no request any more; those that are on their way go on."""
        self._is_ending = True
        self._poke.set()

    def abandon(self) -> None:
        """End at once; what is on its way may arrive."""
        self.end()
        self._scope.cancel()

    def changed(self, webhook: Webhook) -> None:
        """Take over the webhook as it is in the store now."""
        # Most successes are known in memory alone.
        successes = (webhook.last_success_at or 0, self.webhook.last_success_at or 0)
        webhook = replace(webhook, last_success_at=max(successes) or None)
        if webhook.enabled and not self.webhook.enabled:
            self._failures = 0
            for entry in self.outbox.entries.values():
                entry.next_at = 0
                self.schedule(entry)
        self.webhook = webhook
        self._poke.set()

    def added_to(self, entry: Entry) -> None:
        """Send what an entry has, unless it waits for its time already."""
        if entry.session_id not in self._due:
            self.schedule(entry)

    def schedule(self, entry: Entry) -> None:
        """Send what an entry has next when it is due."""
        wait_ms = entry.next_at - self._post.clock.now_ms() if entry.next_at else 0
        # The clock may have been set back since the wait began.
        longest = max(*self._post.settings.webhook_retry_seconds, _RETRY_AFTER_SECONDS_MAX)
        wait = min(max(0, wait_ms) / 1000, longest * (1 + _JITTER))
        self._schedule_at(entry.session_id, self._post.clock.monotonic() + wait)

    def check_there(self) -> None:
        """Refuse a webhook that was deleted while somebody waited for it.

        Raises:
            NotFound: It was deleted.
        """
        if self.outbox.removed:
            raise unknown_webhook(self.webhook.id)

    # -- its task ---------------------------------------------------------------------------

    def _schedule_at(self, session_id: str, due: float) -> None:
        self._due[session_id] = due
        heappush(self._waiting, (due, next(self._order), session_id))
        self._poke.set()

    async def _load(self) -> None:
        if self.outbox.wants_more:
            for entry in await self.outbox.load():
                self.schedule(entry)

    async def _persist(self, call: Callable[[], Awaitable[None]]) -> None:
        while True:
            try:
                return await call()
            except BambooError as error:
                log.warning("webhooks wait for the store", code=error.code)
                await anyio.sleep(_STORE_SECONDS)

    def _start_due(self, group: TaskGroup) -> float | None:
        """Start what is due; return after how many seconds to look again, None: when poked."""
        if not self.webhook.enabled:
            return None
        now = self._post.clock.monotonic()
        while self._waiting and len(self._in_flight) < WEBHOOK_IN_FLIGHT_MAX:
            due, _, session_id = self._waiting[0]
            is_current = self._due.get(session_id) == due
            if is_current and due > now:
                return due - now
            heappop(self._waiting)
            entry = self.outbox.entries.get(session_id)
            if not is_current or session_id in self._in_flight:
                continue
            del self._due[session_id]
            if entry is not None:
                self._in_flight.add(session_id)
                group.start_soon(self._deliver, entry, name="webhook delivery")
        return None

    async def _deliver(self, entry: Entry) -> None:
        wait = 0.0
        try:
            if not entry.notices:
                await self._fill(entry)
            if entry.notices:
                self._post.check_leads()
                notice, webhook = entry.notices[0], self.webhook
                attempt = await self._post.send(webhook, notice)
                await self._note(entry, notice, attempt)
        except BambooError as error:
            log.warning(
                "a webhook's delivery was not kept", webhook_id=self.webhook.id, code=error.code
            )
            wait = _STORE_SECONDS
        except Exception:  # one message must not end the gateway
            log.exception("a webhook's delivery failed", webhook_id=self.webhook.id)
            wait = _BACK_SECONDS
        finally:
            self._in_flight.discard(entry.session_id)
        # Another entry may have taken its place meanwhile.
        present = self.outbox.entries.get(entry.session_id)
        if present is not None:
            if wait:
                self._schedule_at(entry.session_id, self._post.clock.monotonic() + wait)
            else:
                self.schedule(present)
        self._poke.set()

    async def _fill(self, entry: Entry) -> None:
        """Read from the log what follows the notices of an entry."""
        store, webhook = self._post.store, self.webhook
        async with self.outbox.lock:
            while entry.more is not None and not entry.notices:
                epoch, after, upto = entry.more
                try:
                    read = await read_after(store, entry.session_id, epoch, after, upto)
                except Conflict:
                    head = await store.load(entry.session_id)
                    if head is None:
                        log.warning(
                            "events of a deleted session are not told", session_id=entry.session_id
                        )
                        entry.more = None
                    else:
                        end = min(upto, head.seq)
                        entry.more = (head.epoch, after, end) if head.epoch != epoch else None
                    continue
                entry.notices = [
                    one.notice(webhook, entry.session_id, entry.user_id, epoch)
                    for one in read.events
                    if webhook.wants(one.type, entry.user_id, one.at_ms)
                ]
                entry.more = (epoch, read.upto, upto) if read.upto < upto else None
            if not self.outbox.removed:
                await store.write_values([self.outbox.change_of(entry)])

    async def _note(self, entry: Entry, notice: Notice, attempt: Attempt) -> None:
        """Keep what became of an attempt, and decide what follows."""
        now_ms = self._post.clock.now_ms()
        async with self.outbox.lock:
            if self.outbox.removed or not entry.notices or entry.notices[0] is not notice:
                return  # the webhook was deleted, or the user erased
            self._post.check_leads()
            entry.tries += 1
            tries, user_id = entry.tries, entry.user_id
            if entry.first_try_at is None:
                entry.first_try_at = now_ms
            next_at, given_up = None, False
            if attempt.error is None:
                entry.next_notice()
            elif self._is_hopeless(entry, now_ms):
                given_up = True
                entry.next_notice()
            else:
                next_at = entry.next_at = now_ms + self._wait_ms(tries, attempt)
            _, recorded = self.deliveries.record(
                notice, user_id, attempt, tries, now_ms, next_at, given_up=given_up
            )
            changes = [self.outbox.change_of(entry), *recorded]
            if self._note_health(attempt, now_ms):
                if self._post.store.replicas is None:
                    changes.append(webhook_change(self.webhook))
                else:
                    await self._keep_health()
            await self._post.store.write_values(changes)
        await self._judge(notice, attempt, now_ms, given_up=given_up)

    def _wait_ms(self, tries: int, attempt: Attempt) -> int:
        waits = self._post.settings.webhook_retry_seconds
        wait = waits[min(tries, len(waits)) - 1]
        wait *= 1 + random.uniform(0, _JITTER)  # noqa: S311 - not a secret
        if attempt.status in _MAY_ASK_TO_WAIT and attempt.retry_after_seconds is not None:
            wait = max(wait, min(attempt.retry_after_seconds, _RETRY_AFTER_SECONDS_MAX))
        return round(wait * 1000)

    def _is_hopeless(self, entry: Entry, now_ms: int) -> bool:
        """Return whether the notice has failed for long, while others were acknowledged."""
        first, last = entry.first_try_at, self.webhook.last_success_at
        if first is None or last is None or last < first:
            return False
        return now_ms - first > self._post.settings.webhook_disable_after_days * _DAY_MS

    def _note_health(self, attempt: Attempt, now_ms: int) -> bool:
        """Note on the webhook how its receiver fares; return whether the store has to know."""
        webhook = self.webhook
        if attempt.error is None:
            self._failures, was = 0, self._failures
            self.webhook = replace(webhook, failing_since=None, last_success_at=now_ms)
            if was >= _DOWN_AFTER:
                self._bring_forward()
            return webhook.failing_since is not None  # else known in memory is enough
        self._failures += 1
        if webhook.failing_since is not None:
            return False
        self.webhook = replace(webhook, failing_since=now_ms)
        return True

    async def _keep_health(self) -> None:
        """Write how the receiver fares; another process may have changed the webhook meanwhile."""
        now = self.webhook

        def noted(stored: Webhook) -> Webhook:
            return replace(
                stored, failing_since=now.failing_since, last_success_at=now.last_success_at
            )

        await change_webhook(self._post.store, now.id, noted)

    def _bring_forward(self) -> None:
        """Send soon what waits for a receiver that is back."""
        latest = self._post.clock.monotonic() + _BACK_SECONDS
        for session_id, due in list(self._due.items()):
            if due > latest:
                share = random.random()  # noqa: S311 - not a secret
                self._schedule_at(session_id, latest - share * _BACK_SECONDS)

    async def _judge(
        self, notice: Notice, attempt: Attempt, now_ms: int, *, given_up: bool
    ) -> None:
        webhook = self.webhook
        if given_up:
            self._post.tally.given_up += 1
            log.warning(
                "a webhook's message was given up",
                webhook_id=webhook.id,
                message_id=notice.id,
                session_id=notice.data.get("session_id"),
            )
        if attempt.status == _GONE:
            await self._post.disable(webhook.id, "gone")
        elif webhook.failing_since is not None and attempt.error is not None:
            days = self._post.settings.webhook_disable_after_days
            if now_ms - webhook.failing_since > days * _DAY_MS:
                await self._post.disable(webhook.id, "failing")


def unknown_webhook(webhook_id: str) -> NotFound:
    """Return the refusal of a webhook that the caller does not have."""
    return NotFound(f"No webhook {webhook_id!r}.", code="webhook-not-found")
