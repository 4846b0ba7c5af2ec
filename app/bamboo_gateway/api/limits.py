"""How much a request may hold, with the reason of each number.

The whole body is bounded by `max_body_bytes` and each event by `max_event_bytes`; these bound what
stays in memory with every session, and what is walked in Python. What the session itself bounds
(`metadata`, `extension_data`) is in `domain.limits`.
"""

from typing import Final

TITLE_CHARS_MAX: Final = 1_000
"""A title is one line in a list; a sentence fits many times."""

USER_ID_CHARS_MAX: Final = 256
"""Longer than any e-mail address (254)."""

PATH_CHARS_MAX: Final = 4_096
"""PATH_MAX of Linux: `working_dir` is somebody's path; the gateway never opens it."""

NAME_CHARS_MAX: Final = 256
"""Names of tools, models, agents, tool calls, files: identifiers of other systems."""

URL_CHARS_MAX: Final = 8_192
"""What common servers and proxies take as a URL; signed links have some thousands."""

OPTIONS_BYTES_MAX: Final = 64 * 1024
"""What a chat passes to its agent; it is part of the event of a run that waits."""

TTL_SECONDS_MAX: Final = 100 * 365 * 24 * 3600
"""A century: beyond it a moment leaves the years that RFC 3339 can write."""

ITEMS_MAX: Final = 1_000
"""Messages or events in one request; they become durable in one commit."""

PARTS_MAX: Final = 1_000
"""Parts of one message, and tool calls in it."""

JSON_DEPTH_MAX: Final = 100
"""Nesting of a body: the encoder refuses 254, and nobody means more than some dozens."""

JSON_NODES_MAX: Final = 200_000
"""Objects, arrays and members of one body: a thousand events of two hundred each. A body made of
nothing else would take a hundred times its size in memory, and many seconds to be judged."""

MEMBERS_MAX: Final = 64
"""Members of an object with a schema: several times those that any schema has. One that has more is
refused as a whole, instead of once for each name that is not known."""

PAGE_DEFAULT: Final = 100
PAGE_MAX: Final = 1_000
"""The contract's bounds of `limit`."""

OFFSET_MAX: Final = 10_000_000
"""Beyond any number of sessions one gateway holds."""

CURSOR_CHARS_MAX: Final = 4_096
"""A cursor holds a sort value, which may be a title with every character escaped, and an id."""

QUERY_TEXT_CHARS_MAX: Final = 1_000
"""What `title_contains` looks for: no longer than a title."""

EVENT_WAIT_SECONDS_MAX: Final = 60.0
"""The contract's bound of a long poll: below what proxies in between cut."""

PREFER_WAIT_SECONDS_MAX: Final = 300
"""The contract's bound of `Prefer: wait`."""

IDEMPOTENCY_KEY_CHARS_MAX: Final = 255
"""The contract's bound of `Idempotency-Key`."""

REQUEST_ID_CHARS_MAX: Final = 128
"""A request id of a proxy in front is taken over when it is no longer than ours could be."""

POSITION_CHARS_MAX: Final = 64
"""Longer than any position; a longer `Last-Event-ID` is malformed whatever it says."""

ERRORS_MAX: Final = 20
"""Entries of `errors` in one problem: enough to see what is wrong with a list of a thousand."""

DETAIL_CHARS_MAX: Final = 500
"""A `detail` is one sentence; one that quotes a name of the client's ends here."""

ERROR_TEXT_CHARS_MAX: Final = 200
"""A name of the client's in an error is quoted so far: an answer never echoes a large input."""

RATE_KEYS_MAX: Final = 50_000
"""Callers or addresses whose rates are counted, the latest first: 15 MB at the most. Whoever wants
to be forgotten by then has to come from as many others within a window."""

KNOWN_CREDENTIALS_MAX: Final = 10_000
"""Digests of credentials that were right: callers at work at one time, whom no stranger's guesses
lock out."""

RIGHT_LOOK_SECONDS: Final = 1.0
"""How often a request that waits is asked whether its caller's right lasts; as streams are."""

BODY_BYTES_FREE: Final = 64 * 1024
"""A body up to this size is not counted, and never waits for others: what people say fits. The
server holds as much of every connection before it knows whose it is."""

BODY_WAIT_SECONDS_MAX: Final = 10.0
"""How long a body may wait for room before it is refused: in less the largest comes over 16 Mbit/s,
and few clients have less patience."""

BODIES_WAITING_MAX: Final = 256
BODIES_WAITING_MAX_PER_CALLER: Final = 64
"""Bodies that may wait for room; more are refused at once. Each holds up to 320 KiB, what the
server reads before it stops: 80 MiB in all, and of one caller a quarter."""
