"""Read the error of an upstream service: its message, its code, and when to retry."""

from collections.abc import Mapping
from email.utils import parsedate_to_datetime
from math import ceil
from typing import Any

from bamboo_gateway.agents.base import AgentError
from bamboo_gateway.domain.clock import SystemClock
from bamboo_gateway.domain.codec import decode

_WORDS_CHARS_MAX = 300
"""The longest error message: one sentence for people, not the page that a proxy may send."""


def error_of_status(what: str, status: int, words: str, wait_seconds: float | None) -> AgentError:
    """Return the error for an answer that is not 2xx.

    Args:
        what: How the message names the service.
        status: The status of the answer.
        words: The message of the service, safe to show; may be empty.
        wait_seconds: After how long the service asked for a retry, if it did.
    """
    said = f": {words}" if words else "."
    match status:
        case 401 | 403:
            code, detail = "upstream_auth", f"The {what} refused the key (HTTP {status})."
        case 429:
            code, detail = "upstream_rate_limited", f"The {what} is over its limit{said}"
        case _ if 400 <= status < 500:
            code, detail = (
                "upstream_rejected",
                f"The {what} rejected the request (HTTP {status}){said}",
            )
        case _:
            code, detail = "upstream_error", f"The {what} failed (HTTP {status}){said}"
    seconds = None if wait_seconds is None else ceil(wait_seconds)
    return AgentError(detail, code=code, retry_after_seconds=seconds)


def words_of_error(body: bytes | Mapping[str, Any], secrets: tuple[str, ...]) -> str:
    """Return the message of an error in one bounded line, without `secrets`; empty if none.

    It reads `{"error": {"message"}}`, `{"error": "…"}`, `{"message"}` and `{"detail"}`.
    """
    value: Any = body
    if isinstance(body, bytes):
        try:
            value = decode(body)
        except ValueError:
            return ""
    for name in ("error", "message", "detail"):
        if isinstance(value, Mapping) and value.get(name):
            value = value[name]
    if not isinstance(value, str):
        return ""
    for secret in secrets:
        value = value.replace(secret, "…")
    return " ".join(value.split())[:_WORDS_CHARS_MAX]


def retry_after_seconds(headers: Mapping[str, str]) -> float | None:
    """Read `Retry-After` (RFC 9110, 10.2.3) or OpenAI's `retry-after-ms`; None if absent."""
    for name, unit in (("retry-after-ms", 0.001), ("retry-after", 1.0)):
        text = headers.get(name, "")
        if text.isascii() and text.replace(".", "", 1).isdigit():
            return float(text) * unit
    try:
        moment = parsedate_to_datetime(headers.get("retry-after", ""))
    except ValueError:
        return None
    return max(0.0, moment.timestamp() - SystemClock().now_ms() / 1000)
