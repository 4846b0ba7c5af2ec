"""Every error that the gateway raises on purpose, grouped by what the caller can do about it.

    BambooError
    ├── InvalidInput          change the request
    │   ├── InvalidCursor
    │   ├── InvalidId
    │   ├── InvalidEvent
    │   └── IdempotencyKeyReused
    ├── Malformed             the request cannot even be read
    ├── Forbidden             use a credential that may do this
    ├── NotFound              name something that exists
    ├── Refused               wait for, or change, the state of the session or run
    │   ├── SessionExists
    │   ├── MessageExists
    │   ├── SessionClosed
    │   ├── RunActive
    │   └── RunEnded
    ├── Gone                  reload: this existed once and will not come back
    │   ├── PositionGone
    │   └── SessionExpired
    ├── PreconditionFailed    read again, then decide
    ├── TooLarge              send less
    ├── LimitReached          slow down, or end what counts toward the named limit
    ├── Unavailable           try again later
    │   ├── Draining
    │   ├── StorageFull
    │   └── StorageFailed
    └── Conflict              another writer moved the head (never leaves `sessions`)

`code` is stable and part of the contract. Only `api/problems.py` knows HTTP status codes.
"""

from collections.abc import Mapping, Sequence
from typing import Any


class BambooError(Exception):
    """Base of the tree.

    Attributes:
        code: The stable name of the error in kebab-case, which the documentation lists.
        retryable: Whether the same request may succeed later without being changed.
        detail: One sentence for people: what happened and what to do. It never holds a path or a
            secret.
        extra: Further public members of the problem document.
        retry_after_seconds: How long to wait before a retry, where that is known.
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
    """The request can be read, but a value in it is not allowed.

    `errors` holds entries `{"loc": [...], "msg": "..."}`: the place of a value and what is wrong.
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
    """The cursor is not the `next_cursor` of a page of this list in this order."""

    code = "invalid-cursor"

    def __init__(self) -> None:
        super().__init__(
            "`cursor` must be the `next_cursor` of an earlier page of this list and sort order.",
            errors=[{"loc": ["query", "cursor"], "msg": "not a cursor of this list"}],
        )


class InvalidId(InvalidInput):
    """A session, run, message or connection id is too long or has a character that no id has."""

    code = "invalid-id"


class InvalidEvent(InvalidInput):
    """The event has an unknown type or wrong fields, or is not allowed at this point."""

    code = "invalid-event"


class IdempotencyKeyReused(InvalidInput):
    """The idempotency key was used before with another body."""

    code = "idempotency-key-reused"


class Malformed(BambooError):
    """The body is not JSON or not UTF-8, or a header cannot be read."""

    code = "malformed"


class Forbidden(BambooError):
    """The caller may see the resource but not do this to it."""

    code = "forbidden"


class NotFound(BambooError):
    """There is no such session, run, message or connection, or the caller may not see it."""

    code = "not-found"


class Refused(BambooError):
    """The state of the session or run does not allow the request."""

    code = "conflict"


class SessionExists(Refused):
    """A session with this id exists already."""

    code = "session-exists"


class MessageExists(Refused):
    """The session has a message with this id: in its log, being assembled, or in its run queue."""

    code = "message-exists"


class SessionClosed(Refused):
    """The session is closed: read-only until it is reopened."""

    code = "session-closed"


class RunActive(Refused):
    """The session has an active run, and executes one at a time."""

    code = "run-active"


class RunEnded(Refused):
    """The run has its terminal event; no event may follow."""

    code = "run-ended"


class Gone(BambooError):
    """The requested object existed once, and will not come back."""

    code = "gone"


class PositionGone(Gone):
    """The position has another epoch or lies beyond the end of the log."""

    code = "position-gone"


class SessionExpired(Gone):
    """The session's time to live has passed."""

    code = "session-expired"


class PreconditionFailed(BambooError):
    """`If-Match` names another version of the session."""

    code = "precondition-failed"


class TooLarge(BambooError):
    """A body, an event or a batch is larger than its named limit."""

    code = "too-large"


class LimitReached(BambooError):
    """A named limit on a number is reached. Waiting helps; so does ending what counts toward it."""

    code = "limit-reached"
    retryable = True


class Unavailable(BambooError):
    """The gateway cannot do this now."""

    code = "unavailable"
    retryable = True


class Draining(Unavailable):
    """The gateway is shutting down and accepts no new work."""

    code = "draining"


class StorageFull(Unavailable):
    """The disk is full: the gateway refuses writes and serves reads."""

    code = "storage-full"


class StorageFailed(Unavailable):
    """A write or a sync failed. The events were neither stored nor shown to any reader."""

    code = "storage-failed"


class Conflict(BambooError):
    """The head or the epoch of the log is not the one that the commit expected.

    Attributes:
        head: The seq of the durable head, or None when the session (of that epoch) does not exist.
    """

    code = "head-conflict"
    retryable = True

    def __init__(self, detail: str, *, head: int | None) -> None:
        super().__init__(detail)
        self.head = head
