"""Every error the gateway raises on purpose, grouped by what the caller can do about it.

    BambooError
    ├── InvalidInput          change the request
    │   ├── InvalidId
    │   ├── InvalidEvent
    │   └── IdempotencyKeyReused
    ├── Malformed             the request cannot even be read
    ├── Forbidden             ask as somebody who may
    ├── NotFound              name something that exists
    ├── Refused               wait for, or change, the state of the session or run
    │   ├── SessionExists
    │   ├── MessageExists
    │   ├── SessionClosed
    │   ├── RunActive
    │   └── RunEnded
    ├── Gone                  reload: what was asked for will not come back
    │   ├── PositionGone
    │   └── SessionExpired
    ├── PreconditionFailed    read again, then decide
    ├── TooLarge              send less
    ├── LimitReached          slow down, or raise the named limit
    ├── Unavailable           try again later
    │   ├── Draining
    │   ├── StorageFull
    │   └── StorageFailed
    └── Conflict              another writer moved the head (never leaves `sessions`)

`code` is stable and part of the contract; HTTP status codes live in `api/problems.py` alone.
"""

from collections.abc import Mapping, Sequence
from typing import Any


class BambooError(Exception):
    """Base of the tree.

    Attributes:
        code: Stable, kebab-case, documented name of what happened.
        retryable: Whether the same request may succeed later without being changed.
        detail: One sentence for people: what happened and what to do. Never a path or a secret.
        extra: Further public members of the problem document.
        retry_after_seconds: When to try again, where that is known.
    """

    code: str = "internal"
    retryable: bool = False

    def __init__(
        self,
        detail: str,
        *,
        code: str | None = None,
        retry_after_seconds: int | None = None,
        extra: Mapping[str, Any] | None = None,
    ) -> None:
        super().__init__(detail)
        self.detail = detail
        if code is not None:
            self.code = code
        self.retry_after_seconds = retry_after_seconds
        self.extra = dict(extra or {})


class InvalidInput(BambooError):
    """The request was read and says something that is not allowed.

    `errors` holds `{"loc": [...], "msg": "..."}` entries, the place first.
    """

    code = "invalid"

    def __init__(
        self,
        detail: str,
        *,
        code: str | None = None,
        errors: Sequence[Mapping[str, Any]] = (),
        extra: Mapping[str, Any] | None = None,
    ) -> None:
        super().__init__(detail, code=code, extra=extra)
        self.errors = [dict(error) for error in errors]


class InvalidCursor(InvalidInput):
    """A list's cursor that no earlier page of it, in the same order, gave as `next_cursor`."""

    code = "invalid-cursor"

    def __init__(self) -> None:
        super().__init__(
            "`cursor` is what an earlier page gave as `next_cursor`, with the same sort order.",
            errors=[{"loc": ["query", "cursor"], "msg": "not a cursor of this list"}],
        )


class InvalidId(InvalidInput):
    """A session, run, message or connection id outside its alphabet."""

    code = "invalid-id"


class InvalidEvent(InvalidInput):
    """An event of unknown type, with wrong fields, or out of place."""

    code = "invalid-event"


class IdempotencyKeyReused(InvalidInput):
    """The key was used before, for another body."""

    code = "idempotency-key-reused"


class Malformed(BambooError):
    """Not JSON, not UTF-8, not a header that can be read."""

    code = "malformed"


class Forbidden(BambooError):
    """The caller may know of it, and may not do this."""

    code = "forbidden"


class NotFound(BambooError):
    """No such session, run, message or connection, or none the caller may see."""

    code = "not-found"


class Refused(BambooError):
    """The present state of the session or run does not allow it."""

    code = "conflict"


class SessionExists(Refused):
    """A session of that id is there already."""

    code = "session-exists"


class MessageExists(Refused):
    """The session has a message of that id: in its log, in the making, or waiting in its queue."""

    code = "message-exists"


class SessionClosed(Refused):
    """Closed sessions are read-only until they are reopened."""

    code = "session-closed"


class RunActive(Refused):
    """The session executes one run at a time and is busy."""

    code = "run-active"


class RunEnded(Refused):
    """The run has its terminal event; nothing may follow."""

    code = "run-ended"


class Gone(BambooError):
    """It was there once."""

    code = "gone"


class PositionGone(Gone):
    """A position of another epoch, or beyond the end of the log."""

    code = "position-gone"


class SessionExpired(Gone):
    """The session's time to live has passed."""

    code = "session-expired"


class PreconditionFailed(BambooError):
    """`If-Match` names another version."""

    code = "precondition-failed"


class TooLarge(BambooError):
    """A body, an event or a batch is over its named limit."""

    code = "too-large"


class LimitReached(BambooError):
    """A named limit on how many; waiting or raising the limit helps."""

    code = "limit-reached"
    retryable = True


class Unavailable(BambooError):
    """The gateway cannot do it now."""

    code = "unavailable"
    retryable = True


class Draining(Unavailable):
    """The gateway is shutting down and starts nothing new."""

    code = "draining"


class StorageFull(Unavailable):
    """No space left: writes are refused, reads go on."""

    code = "storage-full"


class StorageFailed(Unavailable):
    """A write or a sync failed. What was asked for is not stored and was shown to nobody."""

    code = "storage-failed"


class Conflict(BambooError):
    """The log's head is not the one the commit expected, or the epoch is another.

    Attributes:
        head: The durable head's seq, or None when the session (of that epoch) is not there.
    """

    code = "head-conflict"
    retryable = True

    def __init__(self, detail: str, *, head: int | None) -> None:
        super().__init__(detail)
        self.head = head
