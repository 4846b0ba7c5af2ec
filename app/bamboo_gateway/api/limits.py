"""The bounds of a request's parts, each with the reason of its number.

`max_body_bytes` bounds the whole body and `max_event_bytes` each event. The constants here bound
what stays in memory with every session, and what Python code iterates over. The bounds of a
session's own fields (`metadata`, `extension_data`) are in `domain.limits`.
"""

from typing import Final

TITLE_CHARS_MAX: Final = 1_000
"""A title is one line in a list; a sentence fits many times."""

USER_ID_CHARS_MAX: Final = 256
"""Longer than any e-mail address (254)."""

PATH_CHARS_MAX: Final = 4_096
"""PATH_MAX of Linux. `working_dir` is a client's path; the gateway never opens it."""

NAME_CHARS_MAX: Final = 256
"""Names of tools, models, agents, tool calls and files: other systems choose them."""

URL_CHARS_MAX: Final = 8_192
"""The longest URL that common servers and proxies accept; signed links have some thousands."""

OPTIONS_BYTES_MAX: Final = 64 * 1024
"""What a chat passes to its agent. The event of a queued run contains it."""

TTL_SECONDS_MAX: Final = 100 * 365 * 24 * 3600
"""A century. A longer one could end after the year 9999, which RFC 3339 cannot write."""

ITEMS_MAX: Final = 1_000
"""Messages or events in one request; they become durable in one commit."""

PARTS_MAX: Final = 1_000
"""Parts of one message, and tool calls in it."""

JSON_DEPTH_MAX: Final = 100
"""Nesting of a body. The encoder refuses 254 levels, and no real body has more than some dozens."""

JSON_NODES_MAX: Final = 200_000
"""Objects, arrays and members of one body: a thousand events of two hundred each. A body made of
nothing else would take a hundred times its size in memory, and many seconds to validate."""

MEMBERS_MAX: Final = 64
"""Members of an object with a schema: several times as many as any schema has. The gateway refuses
an object with more as a whole, instead of once for each unknown name."""

PAGE_DEFAULT: Final = 100
PAGE_MAX: Final = 1_000
"""The contract's bounds of `limit`."""

OFFSET_MAX: Final = 10_000_000
"""More sessions than one gateway holds."""

CURSOR_CHARS_MAX: Final = 4_096
"""A cursor has a sort value, which may be a title with every character escaped, and an id."""

QUERY_TEXT_CHARS_MAX: Final = 1_000
"""The text of `title_contains`: no longer than a title."""

EVENT_WAIT_SECONDS_MAX: Final = 60.0
"""The contract's bound of a long poll: shorter than the idle timeout of common proxies."""

PREFER_WAIT_SECONDS_MAX: Final = 300
"""The contract's bound of `Prefer: wait`."""

IDEMPOTENCY_KEY_CHARS_MAX: Final = 255
"""The contract's bound of `Idempotency-Key`."""

REQUEST_ID_CHARS_MAX: Final = 128
"""The gateway takes over the request id of a proxy in front when it is no longer than its own."""

POSITION_CHARS_MAX: Final = 64
"""Longer than any position; a longer `Last-Event-ID` is malformed."""

ERRORS_MAX: Final = 20
"""Entries of `errors` in one problem: enough to see what is wrong with a long list."""

DETAIL_CHARS_MAX: Final = 500
"""Length of a `detail`. One that quotes a name the client sent is cut here."""

ERROR_TEXT_CHARS_MAX: Final = 200
"""Length of a client's text that an error quotes: an answer never echoes a large input."""

RATE_KEYS_MAX: Final = 50_000
"""Callers or addresses that one counter of rates keeps: 15 MB at most. The counter forgets the one
it saw longest ago, so a client that wants to be forgotten needs as many others within a window."""

KNOWN_CREDENTIALS_MAX: Final = 10_000
"""Digests of credentials that were valid: callers active at one time, whom a stranger's guesses do
not lock out."""

CREDENTIAL_CHECK_SECONDS: Final = 1.0
"""How often a waiting request checks that its caller's credential is still valid; as streams do."""

BODY_BYTES_FREE: Final = 64 * 1024
"""A body up to this size is not counted and never waits for others: the messages people write fit.
The server buffers as much of every connection before it knows the caller."""

BODY_WAIT_SECONDS_MAX: Final = 10.0
"""How long a body may wait for room before it is refused. The largest body needs less over 16
Mbit/s, and few clients have a shorter timeout."""

BODIES_WAITING_MAX: Final = 256
BODIES_WAITING_MAX_PER_CALLER: Final = 64
"""Bodies that may wait for room; more are refused at once. Each takes up to 320 KiB, what the
server reads before it stops: 80 MiB in all, and a quarter of it for one caller."""
