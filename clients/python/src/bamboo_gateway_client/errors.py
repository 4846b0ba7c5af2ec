"""What the client raises.

GatewayError
├── UnreachableError      no gateway answered, or the connection broke
├── ProtocolError         what answered is no gateway
├── RunFailedError        a run whose text was wanted did not complete
└── ProblemError          the gateway refused: `code` is stable, `detail` is for people
    ├── InvalidRequestError   400, 413, 415, 422
    ├── AuthenticationError   401
    ├── PermissionDeniedError 403
    ├── NotFoundError         404: also what belongs to somebody else
    ├── ConflictError         409, 412
    ├── GoneError             410
    ├── RateLimitedError      429
    └── UnavailableError      500 and above
"""

from __future__ import annotations

import json
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Mapping

    from bamboo_gateway_client.types import RunWaited


class GatewayError(Exception):
    """Anything that went wrong between this program and a gateway."""


class UnreachableError(GatewayError):
    """No gateway answered, or the connection broke before its answer was complete.

    Attributes:
        url: The gateway's address.
        reason: What the network said.
    """

    def __init__(self, url: str, reason: str) -> None:
        super().__init__(f"No gateway answers at {url}: {reason}")
        self.url = url
        self.reason = reason


class ProtocolError(GatewayError):
    """What answered at the address does not answer like a gateway."""


class ProblemError(GatewayError):
    """The gateway answered with a problem document (RFC 9457).

    Attributes:
        status: The HTTP status.
        code: The problem's stable code, as the documentation lists them; empty when something in
            front of the gateway answered.
        detail: What is wrong and what to do, for people.
        problem: The whole document.
        retry_after_seconds: `Retry-After`, None where the answer has none.
    """

    def __init__(
        self, status: int, problem: Mapping[str, Any], retry_after_seconds: float | None = None
    ) -> None:
        self.status = status
        self.problem = dict(problem)
        self.code = str(problem.get("code") or "")
        self.detail = str(problem.get("detail") or problem.get("title") or "")
        self.retry_after_seconds = retry_after_seconds
        super().__init__(f"{self.detail} ({self.code or f'HTTP {status}'})")

    @property
    def is_passing(self) -> bool:
        """Whether waiting helps: the gateway, or a proxy before it, is busy or restarts."""
        return self.status in {429, 502, 503, 504}


class InvalidRequestError(ProblemError):
    """The request is malformed, too large, or a value is not allowed; `problem["errors"]` says."""


class AuthenticationError(ProblemError):
    """No key, or one that the gateway does not know."""


class PermissionDeniedError(ProblemError):
    """The key may not do this."""


class NotFoundError(ProblemError):
    """It does not exist, or it belongs to somebody else."""


class ConflictError(ProblemError):
    """It does not go with the present state: a run is active, the session is closed."""


class GoneError(ProblemError):
    """The session has expired, or the log has no such position any more."""


class RateLimitedError(ProblemError):
    """A limit or a budget is reached."""


class UnavailableError(ProblemError):
    """The gateway, or a proxy before it, cannot answer now."""


class RunFailedError(GatewayError):
    """A run did not complete.

    Attributes:
        run: The run, with its last message.
        status: `failed`, `cancelled` or `interrupted`.
        code: The code of its error; empty when it was cancelled.
    """

    def __init__(self, run: RunWaited) -> None:
        error = run["error"]
        self.run = run
        self.status = run["status"]
        self.code = error["code"] if error else ""
        words = f": {error['message']} ({error['code']})" if error else ""
        super().__init__(f"The run {run['run_id']} is {self.status}{words}")


_BY_STATUS: dict[int, type[ProblemError]] = {
    400: InvalidRequestError,
    401: AuthenticationError,
    403: PermissionDeniedError,
    404: NotFoundError,
    409: ConflictError,
    410: GoneError,
    412: ConflictError,
    413: InvalidRequestError,
    415: InvalidRequestError,
    422: InvalidRequestError,
    429: RateLimitedError,
}


def problem_of(status: int, reason: str, body: bytes, retry_after: str | None) -> ProblemError:
    """Return the error for an answer that is none.

    Args:
        status: The HTTP status.
        reason: Its words, used when the body is no problem document.
        body: The body.
        retry_after: The header, if there is one.
    """
    try:
        problem = json.loads(body)
    except ValueError:
        problem = None
    if not isinstance(problem, dict):
        problem = {"title": reason}
    kind = _BY_STATUS.get(status, UnavailableError if status >= 500 else ProblemError)
    return kind(status, problem, _seconds(retry_after))


def _seconds(text: str | None) -> float | None:
    """Return a `Retry-After` in seconds; proxies also send it as a date."""
    if not text:
        return None
    if text.isascii() and text.isdigit():
        return float(text)
    try:
        until = parsedate_to_datetime(text)
    except ValueError:
        return None
    if until.tzinfo is None:  # `-0000`: UTC, as all dates of HTTP
        until = until.replace(tzinfo=UTC)
    return max(0.0, (until - datetime.now(UTC)).total_seconds())
