"""Webhooks: who is told what, and what became of it."""

from typing import Annotated, Any

from pydantic import AfterValidator, Field

from bamboo_gateway.api.schemas.fields import Answer, Described, Input, UserId, no_default
from bamboo_gateway.domain.limits import WEBHOOK_OVERLAP_SECONDS_MAX
from bamboo_gateway.domain.webhook_urls import URL_CHARS_MAX
from bamboo_gateway.domain.webhooks import WEBHOOK_EVENTS, WebhookEvent
from bamboo_gateway.sessions.webhooks.administration import NewWebhook


def _once(events: list[WebhookEvent]) -> list[WebhookEvent]:
    return list(dict.fromkeys(events))


Url = Annotated[str, Field(min_length=1, max_length=URL_CHARS_MAX)]
Events = Annotated[
    list[WebhookEvent],
    Field(min_length=1, max_length=2 * len(WEBHOOK_EVENTS)),
    AfterValidator(_once),
]


class WebhookInput(Input):
    """A webhook to create."""

    url: Url = Field(description="Where requests are sent: `https`, and a server of the internet.")
    events: Events = Field(description="What the receiver is told of.")
    user_id: UserId | None = Field(
        None, description="Of whose sessions; absent: of all that the caller owns."
    )

    def to_new(self) -> NewWebhook:
        """Return the webhook as the command takes it."""
        return NewWebhook(self.url, tuple(self.events), self.user_id)


class WebhookPatch(Input):
    """What changes; what is absent stays."""

    url: Url = Field("", json_schema_extra=no_default)
    events: Events = Field(default_factory=list, json_schema_extra=no_default)
    user_id: UserId | None = None
    enabled: bool = Field(
        True,
        description="`false`: nothing new is recorded, and what waits is kept; `true`: what waits "
        "is sent, and what happens from now on.",
        json_schema_extra=no_default,
    )

    def changes(self) -> dict[str, Any]:
        """Return the members that were sent."""
        sent = {name: getattr(self, name) for name in self.model_fields_set}
        if "events" in sent:
            sent["events"] = tuple(sent["events"])
        return sent


class RotateInput(Input):
    """How the secret is replaced."""

    overlap_seconds: Annotated[int, Field(ge=0, le=WEBHOOK_OVERLAP_SECONDS_MAX)] = Field(
        24 * 3600, description="How long the present secret signs as well."
    )


class Webhook(Described):
    """A webhook."""

    id: str
    url: str
    events: list[WebhookEvent]
    user_id: str | None
    enabled: bool
    disabled_reason: str | None = Field(
        description="`request`, `gone` (the receiver answered 410) or `failing` (it failed for "
        "`webhook_disable_after_days`)."
    )
    failing_since: str | None = Field(
        description="The first failure since the last success; null: the last attempt succeeded."
    )
    secrets: int = Field(description="How many secrets sign now.")
    created_at: str
    updated_at: str


class NewWebhookAnswer(Webhook):
    """The webhook with its new secret."""

    secret: str = Field("", description="Verifies requests: `whsec_…`. Only this answer has it.")


class WebhookPage(Described):
    """The caller's webhooks, the oldest first."""

    webhooks: list[Webhook]
    next_cursor: str | None
    has_more: bool


class Delivery(Answer):
    """One attempt to tell a receiver something."""

    message_id: str
    type: str
    session_id: str | None
    run_id: str | None
    attempt: int
    attempted_at: str
    duration_ms: int
    status: int | None = Field(description="The status of the answer; null without one.")
    error: str | None = Field(
        description="null: acknowledged. `status`, `timeout`, `unreachable`, `tls-failed`, "
        "`address-refused`, `broken`; `given-up`: there is no further attempt."
    )
    next_attempt_at: str | None


class DeliveryPage(Described):
    """A page of attempts, the latest first."""

    deliveries: list[Delivery]
    next_cursor: str | None
    has_more: bool
