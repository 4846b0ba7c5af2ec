"""Bounds that are not settings: each with its name and its reason."""

KiB = 1024
MiB = 1024 * KiB

EVENT_QUEUE_BYTES_MAX = 1 * MiB
"""Recent frames a session keeps in memory: a few seconds of the fastest agent, so that a reader
that is merely late does not go to the disk."""

SEND_BYTES_MAX = 256 * KiB
"""One send joins at most this much: a reader's cost stays bounded (R7)."""

RUN_AHEAD_BYTES_MAX = 256 * KiB
"""How far an agent's deltas may be ahead of their commit before it is held back."""

RUN_AHEAD_EVENTS_YIELD = 64
"""After so many events without waiting a run lets the loop serve others."""

SCAN_BYTES_MAX = 4 * MiB
"""How much of a log one page of filtered events may look at before it says `has_more`."""

PAGE_BYTES_MAX = 4 * MiB
"""A page of messages or events ends early at about this size. A page is in memory a few times over
(read, cut, joined, sent), and pages of several requests are at once."""

BULK_PAGE_BYTES_MAX = 1 * MiB
"""Bulk work (exports, forks, merges) goes through a session in pages of about this size. Decoded,
written and encoded again a page takes some ten times as much, and several requests are at it."""

METADATA_BYTES_MAX = 64 * KiB
"""`metadata` is returned in every list, so it is kept small."""

EXTENSION_DATA_BYTES_MAX = 256 * KiB
"""`extension_data` of one session, encoded."""

SHARES_MAX = 100
"""Shares of one session that hold: they are part of its head, which every list carries."""

SHARE_SECONDS_MAX = 10 * 365 * 24 * 3600
"""A share that is meant to end ends within this; a longer one is one without an end."""

ENDED_CONNECTIONS_MAX = 10_000
"""How many ended connections are remembered for `/reconnect`, the latest first."""

RECOVERY_CONCURRENCY = 32
"""Sessions whose runs are closed at once at the start: enough to share syncs."""

IDEMPOTENCY_RETENTION_MS = 24 * 3600 * 1000
"""How long an answer is kept for its key."""

KEYS_IN_MEMORY_MAX = 100_000
"""Idempotency keys that the sessions in memory know together: some 60 MB. Those of a session that
nobody is using are dropped beyond it, and read from its log again when they are asked for."""

COMPACT_BYTES_MIN = 64 * KiB
"""A log with fewer bytes of deltas is not rewritten: it would cost more than it frees."""
