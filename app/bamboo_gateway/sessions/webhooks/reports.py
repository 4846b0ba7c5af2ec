"""What /metrics and /diagnostics say of webhooks."""

from bamboo_gateway.observability.metrics import Measures
from bamboo_gateway.sessions.answers import CheckStatus
from bamboo_gateway.sessions.webhooks.service import Webhooks

_LATE_SECONDS = 3600
"""A receiver that is behind for longer is worth a look."""


def measure_webhooks(webhooks: Webhooks) -> Measures:
    """Return the families of `observability.metrics` about webhooks."""
    enabled = sum(one.enabled for one in webhooks.webhooks)
    waiting, age = webhooks.backlog()
    tally = webhooks.tally
    return {
        "webhooks": {("enabled",): enabled, ("disabled",): len(webhooks.webhooks) - enabled},
        "webhook_attempts_total": dict(tally.attempts),
        "webhook_backlog": waiting,
        "webhook_backlog_age_seconds": age,
        "webhook_given_up_total": tally.given_up,
        "webhooks_disabled_total": dict(tally.disabled),
    }


def check_webhooks(webhooks: Webhooks) -> tuple[CheckStatus, str, str]:
    """Return how webhooks fare: a status, what was seen, and what to do."""
    if not webhooks.is_sending:
        return "ok", "another process sends them", ""
    present = webhooks.webhooks
    if not present:
        return "ok", "there are none", ""
    out = [one.id for one in present if not one.enabled and one.disabled_reason != "request"]
    failing = [one.id for one in present if one.enabled and one.failing_since is not None]
    waiting, age = webhooks.backlog()
    seen = f"{len(present)} webhooks; {waiting} sessions wait, the oldest for {age:.0f} s"
    if out:
        seen = f"{seen}; disabled because of their receivers: {', '.join(sorted(out)[:3])}"
        return "warn", seen, "mend the receivers, then enable the webhooks"
    if failing and age > _LATE_SECONDS:
        seen = f"{seen}; failing: {', '.join(sorted(failing)[:3])}"
        return "warn", seen, "look at the deliveries of these webhooks, and at their receivers"
    return "ok", seen, ""
