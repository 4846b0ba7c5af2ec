"""What has happened in all sessions since the start, as plain numbers for /metrics."""

from collections import Counter, defaultdict
from collections.abc import Callable, Iterable
from itertools import product
from typing import Any, Final

from bamboo_gateway.domain.errors import BambooError
from bamboo_gateway.domain.projections import status_of
from bamboo_gateway.domain.sessions import ActiveRun
from bamboo_gateway.observability.histogram import (
    DISK_SECONDS,
    REQUEST_SECONDS,
    RUN_SECONDS,
    Histogram,
)

UNSTARTED: Final = "unstarted"
"""Stands for the agent of a run that ended while it was queued."""

FORMER: Final = "former"
"""Stands for every agent that a log names and the settings do not any more."""

_ENDS: Final = ("completed", "failed", "cancelled", "interrupted")


class Tally:
    """See the module. Written on the event loop; each line of it costs tens of nanoseconds.

    Args:
        agents: All names that a run's agent may have now.

    Attributes:
        runs_started: By agent.
        runs_ended: By agent, and how.
        run_seconds: By agent.
        streams_ended: By reason.
        log_reads: Pages read for streams that were behind the event queue.
        hits: Calls that found their session in memory.
        misses: Calls that did not.
        commit_seconds: From a commit's being given to the store to its acknowledgement.
        loop_lag_seconds: How late the event loop was.
    """

    __slots__ = (
        "_agents",
        "commit_seconds",
        "hits",
        "log_reads",
        "loop_lag_seconds",
        "misses",
        "run_seconds",
        "runs_ended",
        "runs_started",
        "streams_ended",
    )

    def __init__(self, agents: Iterable[str]) -> None:
        self._agents = frozenset(agents)
        # At 0 from the start: Prometheus does not see the step from no number to 1.
        self.runs_started = Counter[tuple[str, ...]]({(agent,): 0 for agent in self._agents})
        self.runs_ended = Counter[tuple[str, ...]](dict.fromkeys(product(self._agents, _ENDS), 0))
        self.run_seconds = defaultdict[tuple[str, ...], Histogram](lambda: Histogram(RUN_SECONDS))
        self.streams_ended = Counter[tuple[str, ...]]()
        self.log_reads = self.hits = self.misses = 0
        self.commit_seconds = Histogram(DISK_SECONDS)
        self.loop_lag_seconds = Histogram(REQUEST_SECONDS)

    def when_stored(
        self, kind: str, fields: dict[str, Any], active: ActiveRun | None, now_ms: int
    ) -> Callable[[BambooError | None], None]:
        """Gives what counts an event of a run's life, to be told how its commit ended.

        Args:
            kind: `run_queued`, `run_start` or a terminal type.
            fields: The event's.
            active: The run that had the session's slot before it.
            now_ms: Its time.
        """

        def count(error: BambooError | None) -> None:
            if error is not None or kind == "run_queued":
                return
            if kind == "run_start":
                self.runs_started[self._named(fields["agent"]),] += 1
            elif active is None or active.run_id != fields["run_id"]:
                self.runs_ended[UNSTARTED, status_of({"type": kind, **fields})] += 1
            else:
                agent = self._named(active.agent)
                self.runs_ended[agent, status_of({"type": kind, **fields})] += 1
                self.run_seconds[agent,].observe(max(0, now_ms - active.started_at) / 1000)

        return count

    def _named(self, agent: str) -> str:
        return agent if agent in self._agents else FORMER
