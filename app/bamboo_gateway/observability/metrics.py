"""Metrics as Prometheus text.

Code counts in plain numbers; only a scrape makes families of them. `FAMILIES` lists all metrics.
Labels have few values, which the gateway chooses: no text of a client becomes a label.
"""

from collections.abc import Mapping
from typing import Any, Final, Literal, NamedTuple

from bamboo_gateway.observability.histogram import Histogram

CONTENT_TYPE: Final = "text/plain; version=0.0.4; charset=utf-8"
PREFIX: Final = "bamboo_"

Labels = tuple[str, ...]
Measure = float | Histogram | Mapping[Any, float] | Mapping[Any, Histogram]
"""The value of a family; with labels, a value for each tuple of label values."""

Measures = Mapping[str, Measure]
"""Values by the names of their families, without the prefix."""


class Family(NamedTuple):
    """The description of a metric."""

    kind: Literal["counter", "gauge", "histogram"]
    help: str
    labels: Labels = ()


FAMILIES: Final[Mapping[str, Family]] = {
    "build_info": Family("gauge", "1; which version runs, on which Python.", ("version", "python")),
    "ready": Family("gauge", "1 while requests are served, 0 while recovering or draining."),
    "requests_total": Family(
        "counter",
        "Requests answered, by route template; a stream counts when it has begun.",
        ("method", "route", "status"),
    ),
    "request_seconds": Family(
        "histogram",
        "From a request's head to its whole answer, or to a stream's beginning.",
        ("method", "route"),
    ),
    "problems_total": Family(
        "counter", "Requests refused or failed, by error code; limits that were hit too.", ("code",)
    ),
    "connections_cut_total": Family(
        "counter",
        "TCP connections the gateway ended: `too_many`, `too_many_of_address`, `unused`, `idle` "
        "(after an answer), `head_late`, `head_too_large`, `body_stalled`, `body_slow`, "
        "`mid_answer` (the client sent something invalid during an answer), "
        "`unread` (the client did not read an answer).",
        ("reason",),
    ),
    "body_bytes_held": Family(
        "gauge", "Bytes of request bodies in memory; bodies up to 64 KiB do not count."
    ),
    "bodies_waiting": Family("gauge", "Request bodies that wait for memory."),
    "streams_open": Family("gauge", "Open event streams."),
    "streams_opened_total": Family("counter", "Event streams opened."),
    "streams_ended_total": Family(
        "counter",
        "Event streams ended: `complete` and `left` (by the client) are usual; the others are the "
        "`goodbye` they ended with.",
        ("reason",),
    ),
    "streams_slow_total": Family("counter", "Streams closed because the client did not read."),
    "change_feed_failures_total": Family(
        "counter", "Faults after which the feed of changes began again."
    ),
    "follower_looks_total": Family(
        "counter", "Looks at watched sessions, for what other replicas have stored in them."
    ),
    "follower_events_total": Family(
        "counter",
        "Events of other replicas that open streams took in: brought by the bus, or read from the "
        "store.",
        ("source",),
    ),
    "stream_lag_events": Family(
        "gauge", "How many events the open streams are behind now, as quantiles.", ("quantile",)
    ),
    "stream_log_reads_total": Family(
        "counter", "Pages read from logs for streams that were behind the event queue."
    ),
    "runs_active": Family("gauge", "Runs that agents of this process are executing."),
    "runs_queued": Family("gauge", "Runs that wait in sessions in memory."),
    "jwks_fetches_total": Family(
        "counter", "Reads of the identity provider's keys, with `jwks_url`.", ("end",)
    ),
    "budget_refusals_total": Family(
        "counter", "Runs that were refused because their user's tokens of the day were spent."
    ),
    "runs_started_total": Family("counter", "Runs started.", ("agent",)),
    "runs_ended_total": Family(
        "counter", "Runs ended; `unstarted` ones never had an agent.", ("agent", "end")
    ),
    "run_seconds": Family("histogram", "From a run's start to its end.", ("agent",)),
    "sessions": Family("gauge", "Sessions in the store."),
    "files": Family("gauge", "Contents of files that are stored; each owner has each once."),
    "sessions_in_memory": Family("gauge", "Sessions held in memory."),
    "sessions_evicted_total": Family("counter", "Sessions that left memory."),
    "session_lookups_total": Family(
        "counter", "Lookups of sessions: in memory (`hit`) or not.", ("result",)
    ),
    "webhooks": Family("gauge", "Webhooks, by whether they are enabled.", ("state",)),
    "webhook_attempts_total": Family(
        "counter", "Requests to webhooks: `acknowledged`, or why they failed.", ("result",)
    ),
    "webhook_backlog": Family(
        "gauge", "Sessions that enabled webhooks have not been told everything of."
    ),
    "webhook_backlog_age_seconds": Family(
        "gauge", "The age of the oldest event that an enabled webhook has not acknowledged."
    ),
    "webhook_given_up_total": Family(
        "counter", "Messages to webhooks that were given up (`webhook_disable_after_days`)."
    ),
    "webhooks_disabled_total": Family(
        "counter", "Webhooks disabled because of their receiver.", ("reason",)
    ),
    "commit_seconds": Family(
        "histogram", "From a decision to the durable acknowledgement of its commit."
    ),
    "compacted_bytes_total": Family("counter", "Bytes of old deltas removed from logs."),
    "store_events_total": Family("counter", "Events stored."),
    "store_commits_total": Family("counter", "Commits stored."),
    "store_batches_total": Family("counter", "Batches of commits written."),
    "store_batch_failures_total": Family("counter", "Batches refused: the journal failed."),
    "store_commit_failures_total": Family(
        "counter", "Databases: commits that could not be stored; conflicts do not count."
    ),
    "store_batch_commits": Family("histogram", "Commits in a batch."),
    "store_sync_seconds": Family(
        "histogram", "Making a batch durable: writing and syncing the journal, or the transaction."
    ),
    "store_journal_bytes_total": Family("counter", "Bytes written to the journal."),
    "store_checkpoints_total": Family(
        "counter", "Checkpoints: logs synced, journal dropped; or a WAL written to its database."
    ),
    "store_checkpoint_failures_total": Family("counter", "Checkpoints that failed."),
    "store_snapshots_total": Family("counter", "Snapshots of sessions written."),
    "store_quarantined": Family("gauge", "Files put into quarantine since the start."),
    "store_log_failures_total": Family(
        "counter", "Logs that could not be written; writes to their sessions are refused."
    ),
    "store_failed_logs": Family("gauge", "Logs that cannot be written now."),
    "store_open_logs": Family("gauge", "Logs held open for writing."),
    "store_search_backlog": Family("gauge", "Sessions that searches do not find yet."),
    "store_disk_bytes": Family(
        "gauge",
        "Bytes of the sessions' files, and of uploaded ones (`files`); in a database those of "
        "their rows (`logs`, `archive`, `values`) and, of SQLite, of its WAL (`journal`).",
        ("kind",),
    ),
    "store_database_bytes": Family("gauge", "SQLite: bytes of the file, free pages included."),
    "store_database_connections": Family("gauge", "PostgreSQL: open connections for calls."),
    "store_database_connections_idle": Family("gauge", "PostgreSQL: those that nothing uses."),
    "store_database_outages_total": Family("counter", "PostgreSQL: how often it did not answer."),
    "store_unknown_outcomes_total": Family(
        "counter",
        "PostgreSQL: commits whose connection broke; the database was asked what happened.",
    ),
    "store_replicas": Family(
        "gauge", "PostgreSQL: gateway processes that share the database, with this one."
    ),
    "store_replicas_dead": Family("gauge", "PostgreSQL: those of them that this one finds dead."),
    "store_replica_deaths_total": Family("counter", "PostgreSQL: how often it found one dead."),
    "store_leader": Family(
        "gauge", "PostgreSQL: whether this process does what one of all has to do (1), or not (0)."
    ),
    "store_heartbeat_age_seconds": Family(
        "gauge", "PostgreSQL: since this process last said that it lives."
    ),
    "store_heartbeat_failures_total": Family(
        "counter", "PostgreSQL: how often it could not say so; it is repeated soon."
    ),
    "store_heartbeat_losses_total": Family(
        "counter", "PostgreSQL: how often others had taken this process for dead."
    ),
    "store_search_working": Family(
        "gauge", "Whether messages get into the search index (1), or its last write failed (0)."
    ),
    "store_search_failures_total": Family(
        "counter", "Writes of the search index that failed; they are tried again."
    ),
    "store_search_skipped_total": Family(
        "counter", "Messages and sessions left out of the search index: they cannot be searched."
    ),
    "bus_up": Family("gauge", "1 while notices of other gateways arrive (`bus_url`), 0 while not."),
    "bus_lag_seconds": Family(
        "histogram", "From publishing to receiving, measured each second by an echo."
    ),
    "bus_outages_total": Family("counter", "How often the bus did not answer."),
    "bus_published_total": Family("counter", "Notices of commits given to the bus."),
    "bus_received_total": Family("counter", "Notices received of other gateways' commits."),
    "bus_dropped_total": Family(
        "counter",
        "Notices not published: the bus was down, or slower than the commits (`full`). Other "
        "gateways find their commits in the database.",
        ("reason",),
    ),
    "rate_checks_total": Family(
        "counter",
        "With a bus: requests counted for their rates by all gateways together (`redis`), or by "
        "this one alone (`process`).",
        ("by",),
    ),
    "disk_free_bytes": Family("gauge", "Free bytes on the disk of the data directory."),
    "loop_lag_seconds": Family("histogram", "How late the event loop was, measured every second."),
    "log_lines_lost_total": Family(
        "counter", "Log lines dropped because stderr was read too slowly."
    ),
    "audit_failures_total": Family("counter", "Audit records that could not be written."),
    "recovery_seconds": Family("gauge", "How long the last start took to recover."),
    "recovery_found": Family("gauge", "What the last start found and repaired.", ("what",)),
}
"""Every metric of the gateway, without the prefix. A scrape adds those of the process."""
