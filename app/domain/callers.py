"""Who is asking. Explicit from the edge to the decision, so that ownership has one place."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Caller:
    """An authenticated caller. `id` scopes idempotency keys; it is never a secret."""

    id: str


GATEWAY = Caller("gateway")
"""The gateway itself: scheduled work."""

LOCAL_CALLER = Caller("local")
