"""What /metrics shows of the application: the tally, and levels that are computed when asked for.

One pass over what is in memory, which `max_active_sessions` and `max_connections` bound; nothing
on the disk is looked at.
"""

from collections.abc import Iterable
from math import ceil
from typing import Any, Final

from bamboo_gateway.observability.metrics import Measures
from bamboo_gateway.sessions.lifecycle.compaction import Compaction
from bamboo_gateway.sessions.pool import SessionPool
from bamboo_gateway.sessions.streaming.channel import Channel
from bamboo_gateway.sessions.streaming.hub import StreamHub
from bamboo_gateway.storage.base import RecoveryReport

_QUANTILES: Final = (0.5, 0.9, 0.99, 1.0)
_DISK: Final = "disk_bytes_"


def measure(pool: SessionPool, streams: StreamHub, compaction: Compaction) -> dict[str, Any]:
    """Gives the families of `observability.metrics` that sessions and their store have."""
    tally, lives = pool.tally, pool.sessions
    stored = pool.store.stats()
    sessions = stored.pop("sessions")
    disk = {(name[len(_DISK) :],): stored[name] for name in stored if name.startswith(_DISK)}
    return {
        "sessions": sessions,
        "sessions_in_memory": len(lives),
        "sessions_evicted_total": pool.evictions,
        "session_lookups_total": {("hit",): tally.hits, ("miss",): tally.misses},
        "runs_active": sum(live.run is not None for live in lives),
        "runs_queued": sum(len(live.head.queue) for live in lives),
        "runs_started_total": dict(tally.runs_started),
        "runs_ended_total": dict(tally.runs_ended),
        "run_seconds": dict(tally.run_seconds),
        "streams_open": streams.open,
        "streams_opened_total": streams.opened,
        "streams_ended_total": dict(tally.streams_ended),
        "streams_slow_total": streams.slow,
        "stream_lag_events": _quantiles(_lags(pool.channels)),
        "stream_log_reads_total": tally.log_reads,
        "commit_seconds": tally.commit_seconds,
        "loop_lag_seconds": tally.loop_lag_seconds,
        "compacted_bytes_total": compaction.freed,
        "store_disk_bytes": disk,
        **{f"store_{name}": value for name, value in stored.items() if not name.startswith(_DISK)},
    }


def measure_recovery(report: RecoveryReport) -> Measures:
    """Gives what opening the store has found."""
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


def _lags(channels: Iterable[Channel]) -> list[int]:
    """Gives how many events each open stream is behind; below 0 is not at all."""
    lags: list[int] = []
    for channel in channels:
        # Nothing but this for each stream: there may be tens of thousands, and all else waits.
        end = channel.durable_seq
        lags += [end - connection.cursor for connection in channel.connections.values()]
    return lags


def _quantiles(values: list[int]) -> dict[tuple[str, ...], float]:
    values.sort()
    return {
        (f"{quantile:g}",): max(0, values[ceil(quantile * len(values)) - 1]) if values else 0
        for quantile in _QUANTILES
    }
