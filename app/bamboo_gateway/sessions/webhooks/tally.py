"""What webhooks count, for /metrics."""

from collections import Counter
from dataclasses import dataclass, field


@dataclass(slots=True)
class WebhookTally:
    """The counters.

    Attributes:
        attempts: Requests sent, by result: `acknowledged`, or why they failed.
        given_up: Notices that were given up.
        disabled: Webhooks that were disabled because of their receiver, by reason.
    """

    attempts: Counter[tuple[str, ...]] = field(
        default_factory=lambda: Counter(
            {
                (result,): 0
                for result in (
                    "acknowledged",
                    "address-refused",
                    "broken",
                    "status",
                    "timeout",
                    "tls-failed",
                    "unreachable",
                )
            }
        )
    )
    given_up: int = 0
    disabled: Counter[tuple[str, ...]] = field(
        default_factory=lambda: Counter({("gone",): 0, ("failing",): 0})
    )
