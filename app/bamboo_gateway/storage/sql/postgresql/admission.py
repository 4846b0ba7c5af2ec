"""Whether a process may begin to use the database beside those that do.

Gateways may be many. A command that checks or changes the database as a whole (`bamboo doctor`,
`bamboo migrate`) has to be alone: it begins when all others are dead, and while it lives no gateway
begins.

Who lives is not known at once: a counter that stands still may move in a moment. So it is watched
for as long as a living process takes at most.
"""

import time

import structlog

from bamboo_gateway.storage.base import StoreBusy
from bamboo_gateway.storage.sql.postgresql import processes
from bamboo_gateway.storage.sql.postgresql.registration import Other

log = structlog.get_logger(__name__)

_SHOWN_MAX = 3


class Admission:
    """Decides whether a process may begin; it is asked again as long as that is not known."""

    def __init__(self, dead_seconds: float, *, alone: bool) -> None:
        """Make it.

        Args:
            dead_seconds: How long counters are watched.
            alone: Whether the process has to be alone, and not only beside other gateways.
        """
        self._dead_seconds = dead_seconds
        self._alone = alone
        self._seen: dict[str, int] = {}
        self._until: float | None = None

    def admit(self, others: list[Other], holder: str | None) -> bool:
        """Return whether the process may begin now, as `registration.Admit`.

        Raises:
            StoreBusy: One that is in its way lives.
        """
        in_the_way = [
            one
            for one in others
            if (self._alone or one.executor == holder) and not processes.is_gone(one.name)
        ]
        if not in_the_way:
            return True
        living = [one for one in in_the_way if self._has_moved(one)]
        if living:
            raise _busy([one for one in living if one.executor == holder] or living, holder)
        now = time.monotonic()
        if self._until is None:
            self._until = now + self._dead_seconds
            names = [processes.shown(one.name) for one in in_the_way]
            log.info("waiting for a sign of life of those who use the database", processes=names)
        return now >= self._until

    def _has_moved(self, one: Other) -> bool:
        """Return whether a counter has moved, or its process has begun, while it was watched."""
        if self._until is None:
            self._seen[one.executor] = one.counter
        return self._seen.get(one.executor) != one.counter


def _busy(living: list[Other], holder: str | None) -> StoreBusy:
    names = ", ".join(processes.shown(one.name) for one in living[:_SHOWN_MAX])
    if len(living) > _SHOWN_MAX:
        names += f" and {len(living) - _SHOWN_MAX} more"
    if living[0].executor == holder:
        return StoreBusy(
            f"A command that needs the database for itself is at work: {names}. Wait until it has "
            "ended."
        )
    return StoreBusy(
        "This command needs the database for itself, and gateways use it: "
        f"{names}. Stop them first."
    )
