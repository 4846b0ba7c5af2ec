"""Limits that are not settings, each with its reason."""

KiB = 1024
MiB = 1024 * KiB

EVENT_QUEUE_BYTES_MAX = 1 * MiB
"""The recent events that a session keeps in memory: a few seconds of the fastest agent, so that a
reader that is only a little late does not read the disk."""

SEND_BYTES_MAX = 256 * KiB
"""The most that one send joins, so that the cost of a reader stays bounded (R7)."""

JOINT_SESSIONS_MAX = 32
"""The sessions of one joint stream. Every frame has the positions of all, so more would cost more
than a second stream; a page seldom shows as many."""

RUN_AHEAD_BYTES_MAX = 256 * KiB
"""How much of an agent's deltas may wait for a commit before the agent has to wait."""

COALESCED_BYTES_MAX = 16 * KiB
"""The largest event that deltas are joined into: some seconds of a fast model, and small enough for
a client to show it at once. `max_event_bytes` may be less."""

RUN_AHEAD_EVENTS_YIELD = 64
"""After this many events without waiting, a run yields to the event loop."""

SCAN_BYTES_MAX = 4 * MiB
"""How much of a log a page of filtered events reads before it ends with `has_more`."""

PAGE_BYTES_MAX = 4 * MiB
"""A page of messages or events ends at about this size. A page is in memory several times (read,
cut, joined, sent), and several requests have pages at the same time."""

BULK_PAGE_BYTES_MAX = 1 * MiB
"""Bulk work (exports, forks, merges) reads a session in pages of about this size. A page that is
decoded, changed and encoded again takes about ten times as much memory, and several requests work
at the same time."""

METADATA_BYTES_MAX = 64 * KiB
"""The largest `metadata` of a session, encoded. Every list returns it, so it is small."""

EXTENSION_DATA_BYTES_MAX = 256 * KiB
"""The largest `extension_data` of a session, encoded."""

SHARES_MAX = 100
"""The most valid shares of one session. They are part of its head, which every list returns."""

ENDED_SHARES_MAX = 100
"""The most ended shares whose users a session's head remembers, the latest. The erasure of a user
does not find the logs that have forgotten the user."""

SHARE_SECONDS_MAX = 10 * 365 * 24 * 3600
"""The longest lifetime of a share. For a longer one, create a share without an end."""

ENDED_CONNECTIONS_MAX = 10_000
"""How many ended connections are remembered for `/reconnect`; the latest ones stay."""

RECOVERY_CONCURRENCY = 32
"""How many sessions the start closes interrupted runs of at once: enough to share syncs."""

IDEMPOTENCY_RETENTION_MS = 24 * 3600 * 1000
"""How long the answer of an idempotency key is kept."""

KEYS_IN_MEMORY_MAX = 100_000
"""Idempotency keys that all sessions in memory hold together: about 60 MB. Beyond that, the keys of
unused sessions leave memory, and are read from the log when a request needs them."""

COMPACT_BYTES_MIN = 64 * KiB
"""A log with fewer bytes of deltas is not compacted: that would cost more than it frees."""

CLIENT_TOOLS_MAX = 128
"""The most tools that a client brings with a chat, as of OpenAI's models."""

CLIENT_TOOLS_BYTES_MAX = 64 * KiB
"""The largest list of a client's tools, encoded. It is kept with each run that waits."""

CLIENT_TOOL_NAME_CHARS_MAX = 128
"""The longest name of a client's tool; model servers allow 64 to 128 characters."""

CLIENT_TOOL_LEVELS_MAX = 32
"""How deep the schema of a client's tool nests: as deep as an answer's."""

HIDDEN_RUNS_MAX = 1000
"""The most runs of a session that are hidden; their ids are in its head."""

WEBHOOK_DELIVERIES_KEPT = 200
"""Attempts of one webhook that can be listed: enough to see what is wrong with a receiver."""

WEBHOOK_PAYLOAD_BYTES_MAX = 20 * KiB
"""The largest body of a webhook's request, as Standard Webhooks recommends. Bodies have ids and no
content, so that they have about 500 bytes."""

WEBHOOK_ANSWER_BYTES_MAX = 16 * KiB
"""How much of a receiver's answer is read. Nothing of it is used but its status."""

WEBHOOK_IN_FLIGHT_MAX = 8
"""Requests to one webhook at a time, each of another session: a small receiver can answer them."""

WEBHOOK_IN_FLIGHT_IN_ALL = 64
"""Requests to all webhooks at a time, so that receivers that hang take few connections."""

WEBHOOK_NOTICES_MAX = 50
"""Notices of one session that are kept for a webhook by themselves, so that they outlive the
session. What follows is read from the log when it is its turn."""

WEBHOOK_ENTRIES_IN_MEMORY = 2000
"""Sessions of one webhook with something to tell that are in memory: about 2 MB. More wait in the
store."""

WEBHOOK_OVERLAP_SECONDS_MAX = 7 * 24 * 3600
"""The longest time that a secret signs after it was replaced."""
