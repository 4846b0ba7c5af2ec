"""Webhooks: what is asked for, what is told of a session, and the forms in which both are kept.

A `Webhook` is who is told what. A `Notice` is one thing to tell. An `Entry` has the notices of one
session that one webhook has not acknowledged yet, in order.
"""

from base64 import b64encode
from dataclasses import dataclass, field, replace
from secrets import token_bytes
from typing import Any, Final, Literal, get_args

from bamboo_gateway.domain.codec import decode, encode
from bamboo_gateway.domain.ids import digest_id

WebhookEvent = Literal["run.ended", "input.required", "session.created", "session.deleted"]
WEBHOOK_EVENTS: Final[tuple[WebhookEvent, ...]] = get_args(WebhookEvent)
TEST_EVENT: Final = "webhook.test"

DisabledReason = Literal["request", "gone", "failing"]
"""Why a webhook is disabled: somebody asked for it, the receiver answered 410, or it has failed for
too long."""

SECRET_PREFIX: Final = "whsec_"  # noqa: S105 - the beginning of every secret
_SECRET_BYTES: Final = 32
"""Standard Webhooks wants 24 to 64."""

SECRETS_MAX: Final = 3
"""The secrets that sign at the same time: the newest, and those before it whose overlap has not
ended. Each adds a signature to every request."""


@dataclass(frozen=True, slots=True)
class Secret:
    """A secret that signs until it expires, in ms since 1970; None: it does not."""

    value: str
    expires_at: int | None = None


@dataclass(frozen=True, slots=True)
class Webhook:
    """Who is told what. Times are in ms since 1970.

    Attributes:
        id: Its id, `wh_…`.
        url: Where it is told.
        events: What it is told of.
        owner: The user it belongs to; None: the operator.
        user_id: The user of whose sessions it is told; None: of all sessions.
        created_at, updated_at: When it was created and changed.
        since: Events before this time are not told.
        secrets: What signs, the newest first.
        enabled: Whether it is told anything.
        disabled_reason: Why not.
        failing_since: When the first attempt failed since the last success; None: the last one
            succeeded.
        last_success_at: When an attempt succeeded last.
        made_with: The idempotency key that it was created with, and the digest of the body.
        rotated_with: The same of the last rotation.
    """

    id: str
    url: str
    events: tuple[str, ...]
    owner: str | None
    user_id: str | None
    created_at: int
    updated_at: int
    since: int
    secrets: tuple[Secret, ...]
    enabled: bool = True
    disabled_reason: DisabledReason | None = None
    failing_since: int | None = None
    last_success_at: int | None = None
    made_with: tuple[str, str] | None = None
    rotated_with: tuple[str, str] | None = None

    def wants(self, event: str, user_id: str | None, at_ms: int) -> bool:
        """Return whether it is told of an event of a user's session."""
        return event in self.events and self.is_about(user_id) and at_ms >= self.since

    def is_about(self, user_id: str | None) -> bool:
        """Return whether it is told of the sessions of a user."""
        return self.user_id in {None, user_id}

    def signing(self, now_ms: int) -> list[str]:
        """Return the secrets that sign now, the newest first."""
        return [
            one.value for one in self.secrets if one.expires_at is None or now_ms < one.expires_at
        ]

    def rotated(self, secret: str, now_ms: int, overlap_ms: int) -> "Webhook":
        """Return it with a new secret; the ones before sign for `overlap_ms` more at most."""
        ends = now_ms + overlap_ms
        before = [
            replace(one, expires_at=min(ends, one.expires_at or ends))
            for one in self.secrets
            if one.value in self.signing(now_ms)
        ]
        kept = before[: SECRETS_MAX - 1] if overlap_ms else []
        return replace(self, secrets=(Secret(secret), *kept), updated_at=now_ms)

    def stored(self) -> bytes:
        """Return the form in which it is kept."""
        return encode(self)

    @staticmethod
    def read(data: bytes) -> "Webhook":
        """Read the stored form."""
        shape = decode(data)
        shape["events"] = tuple(shape["events"])
        shape["secrets"] = tuple(Secret(**one) for one in shape["secrets"])
        for name in ("made_with", "rotated_with"):
            if shape.get(name):
                shape[name] = tuple(shape[name])
        return Webhook(**shape)


def new_secret() -> str:
    """Make a secret in the form of Standard Webhooks."""
    return SECRET_PREFIX + b64encode(token_bytes(_SECRET_BYTES)).decode()


@dataclass(frozen=True, slots=True)
class Notice:
    """One thing to tell.

    Attributes:
        id: Always the same for the same event and webhook, so that a receiver knows repeats.
        type: What happened.
        at_ms: When it happened.
        data: What is told: ids, status, position, and never what somebody wrote.
    """

    id: str
    type: str
    at_ms: int
    data: dict[str, Any]


@dataclass(slots=True)
class Entry:
    """The notices of one session that one webhook has not acknowledged yet, in order.

    Attributes:
        session_id: The session.
        user_id: Its user.
        notices: What is told next; the first one is being sent.
        more: What follows them in the log: its epoch, after which seq, and up to which one. None:
            nothing does.
        tries: How often the first notice was sent without success.
        first_try_at: When it was sent first.
        next_at: When it is sent next; 0: at once.
    """

    session_id: str
    user_id: str | None
    notices: list[Notice] = field(default_factory=list)
    more: tuple[int, int, int] | None = None
    tries: int = 0
    first_try_at: int | None = None
    next_at: int = 0

    @property
    def is_empty(self) -> bool:
        """Whether there is nothing left to tell."""
        return not self.notices and self.more is None

    def next_notice(self) -> None:
        """Take the first notice off; the next one has not been tried yet."""
        del self.notices[:1]
        self.tries, self.first_try_at, self.next_at = 0, None, 0

    def forget_all_but(self, kind: WebhookEvent) -> None:
        """Leave out what is to be told, but of this type."""
        first = self.notices[0] if self.notices else None
        self.notices = [one for one in self.notices if one.type == kind]
        self.more = None
        if not self.notices or self.notices[0] is not first:
            self.tries, self.first_try_at, self.next_at = 0, None, 0

    def stored(self) -> bytes:
        """Return the form in which it is kept."""
        return encode(self)

    @staticmethod
    def read(data: bytes) -> "Entry":
        """Read the stored form."""
        shape = decode(data)
        shape["notices"] = [Notice(**one) for one in shape["notices"]]
        if shape["more"] is not None:
            shape["more"] = tuple(shape["more"])
        return Entry(**shape)


def notice_id(*parts: str | int) -> str:
    """Return the id of a notice: the same for the same parts."""
    return digest_id("msg_", *map(str, parts))
