"""Metrics of the application: what is counted as it happens, and what /metrics reports of it.

Levels (how many sessions are in memory, how far streams are behind) are computed when /metrics is
read. That takes one pass over what is in memory, which `max_active_sessions` and `max_connections`
bound. What the store says of itself costs it little.
"""

from collections import Counter, defaultdict
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from itertools import product
from math import ceil
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
from bamboo_gateway.observability.metrics import Measures
from bamboo_gateway.storage.base import SessionStore
from bamboo_gateway.storage.reports import RecoveryReport

UNSTARTED: Final = "unstarted"
"""The agent's name for runs that ended while they were queued."""

FORMER: Final = "former"
"""The agent's name for all agents that a log names and the settings no longer have."""

_ENDS: Final = ("completed", "failed", "cancelled", "interrupted")
_QUANTILES: Final = (0.5, 0.9, 0.99, 1.0)
_DISK: Final = "disk_bytes_"


class Tally:
    """The counters. They are updated on the event loop; each update takes tens of nanoseconds.

    Args:
        agents: Every name that the agent of a new run may have.

    Attributes:
        runs_started: Runs that have begun, by agent.
        runs_ended: Runs that have ended, by agent and outcome.
        run_seconds: How long runs took, by agent.
        streams_opened: Streams that were opened.
        streams_slow: Streams that were cut off because their client did not read.
        streams_ended: Streams that have ended, by reason.
        follower_looks: Looks at all watched sessions, or some of them.
        follower_events: Events of other processes that watched sessions took in, by source.
        feed_failures: Faults after which the feed of changes began again.
        log_reads: Pages read for streams that were behind the event queue.
        hits: Calls that found their session in memory.
        misses: Calls that had to load it.
        evictions: Sessions that have left memory.
        compacted_bytes: Bytes that compaction has freed.
        commit_seconds: The time from handing a commit to the store to its acknowledgement.
        loop_lag_seconds: How late the event loop was.
    """

    __slots__ = (
        "_agents",
        "commit_seconds",
        "compacted_bytes",
        "evictions",
        "feed_failures",
        "follower_events",
        "follower_looks",
        "hits",
        "log_reads",
        "loop_lag_seconds",
        "misses",
        "run_seconds",
        "runs_ended",
        "runs_started",
        "streams_ended",
        "streams_opened",
        "streams_slow",
    )

    def __init__(self, agents: Iterable[str]) -> None:
        self._agents = frozenset(agents)
        # At 0 from the start: Prometheus does not see the step from no number to 1.
        self.runs_started = Counter[tuple[str, ...]]({(agent,): 0 for agent in self._agents})
        self.runs_ended = Counter[tuple[str, ...]](dict.fromkeys(product(self._agents, _ENDS), 0))
        self.run_seconds = defaultdict[tuple[str, ...], Histogram](lambda: Histogram(RUN_SECONDS))
        self.streams_ended = Counter[tuple[str, ...]]()
        self.streams_opened = self.streams_slow = self.feed_failures = 0
        self.follower_looks = 0
        self.follower_events = Counter[tuple[str, ...]]({("bus",): 0, ("store",): 0})
        self.log_reads = self.hits = self.misses = self.evictions = self.compacted_bytes = 0
        self.commit_seconds = Histogram(DISK_SECONDS)
        self.loop_lag_seconds = Histogram(REQUEST_SECONDS)

    def when_stored(
        self, kind: str, fields: dict[str, Any], active: ActiveRun | None, now_ms: int
    ) -> Callable[[BambooError | None], None]:
        """Return a callback that counts an event of a run once its commit is durable.

        Args:
            kind: The event's type: `run_queued`, `run_start` or a terminal type.
            fields: The event's fields.
            active: The run that had the session's slot before the event.
            now_ms: The event's time.
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


@dataclass(frozen=True, slots=True)
class Levels:
    """What is measured at the moment when /metrics is read.

    Attributes:
        sessions_in_memory: Sessions that are in memory.
        runs_active: Runs that an agent of this process is executing.
        runs_queued: Runs that wait for their session's slot.
        streams_open: Streams that are open.
        files: How many contents of files are stored, and their bytes; None: not known at present.
        stream_lags: How many events each open stream is behind; below 0 counts as 0.
    """

    sessions_in_memory: int
    runs_active: int
    runs_queued: int
    streams_open: int
    stream_lags: list[int]
    files: tuple[int, int] | None


async def measure(tally: Tally, store: SessionStore, levels: Levels) -> dict[str, Any]:
    """Return the families of `observability.metrics` that sessions and their store have."""
    stored = await store.stats()
    sessions = {"sessions": stored.pop("sessions")} if "sessions" in stored else {}
    files = {}
    if levels.files is not None:
        files, stored["disk_bytes_files"] = {"files": levels.files[0]}, levels.files[1]
    disk = {(name[len(_DISK) :],): stored[name] for name in stored if name.startswith(_DISK)}
    return {
        **sessions,
        **files,
        "sessions_in_memory": levels.sessions_in_memory,
        "sessions_evicted_total": tally.evictions,
        "session_lookups_total": {("hit",): tally.hits, ("miss",): tally.misses},
        "runs_active": levels.runs_active,
        "runs_queued": levels.runs_queued,
        "runs_started_total": dict(tally.runs_started),
        "runs_ended_total": dict(tally.runs_ended),
        "run_seconds": dict(tally.run_seconds),
        "streams_open": levels.streams_open,
        "streams_opened_total": tally.streams_opened,
        "streams_ended_total": dict(tally.streams_ended),
        "streams_slow_total": tally.streams_slow,
        "change_feed_failures_total": tally.feed_failures,
        **_measure_follower(tally, store),
        "stream_lag_events": _quantiles(levels.stream_lags),
        "stream_log_reads_total": tally.log_reads,
        "commit_seconds": tally.commit_seconds,
        "loop_lag_seconds": tally.loop_lag_seconds,
        "compacted_bytes_total": tally.compacted_bytes,
        "store_disk_bytes": disk,
        **{f"store_{name}": value for name, value in stored.items() if not name.startswith(_DISK)},
    }


def _measure_follower(tally: Tally, store: SessionStore) -> Measures:
    if store.replicas is None:
        return {}
    return {
        "follower_looks_total": tally.follower_looks,
        "follower_events_total": dict(tally.follower_events),
    }


def measure_recovery(report: RecoveryReport) -> Measures:
    """Return the metrics of what recovery found when the store was opened."""
    found: dict[str, float] = {
        "unclean_end": not report.clean,
        "catalog_rebuilt": report.catalog_rebuilt,
        "damaged": len(report.damaged),
        "journal_records": report.journal_records,
        "mended_indexes": report.mended_indexes,
        "new_epochs": report.new_epochs,
        "quarantined": len(report.quarantined),
        "replayed_events": report.replayed_events,
        "torn_bytes": report.torn_bytes,
    }
    return {
        "recovery_seconds": report.seconds,
        "recovery_found": {(what,): number for what, number in found.items()},
    }


def _quantiles(values: list[int]) -> dict[tuple[str, ...], float]:
    values.sort()
    return {
        (f"{quantile:g}",): max(0, values[ceil(quantile * len(values)) - 1]) if values else 0
        for quantile in _QUANTILES
    }
