"""Time, passed in as a `Clock`: tests step it, and machines set it back."""

from datetime import UTC, datetime
from time import monotonic, time_ns
from typing import Protocol


class Clock(Protocol):
    """The source of time for all code that needs it."""

    def now_ms(self) -> int:
        """Return the wall clock in milliseconds since 1970. It may jump forwards and backwards."""
        ...

    def monotonic(self) -> float:
        """Return seconds that never decrease; for timeouts."""
        ...


class SystemClock:
    """The machine's own clocks."""

    def now_ms(self) -> int:
        """Implement `Clock`."""
        return time_ns() // 1_000_000

    def monotonic(self) -> float:
        """Implement `Clock`."""
        return monotonic()


class _Last:
    """The time that was formatted last, and its text up to the second. Many events share either.

    Each is a pair that is replaced at once, because threads format times too.
    """

    whole = (-1, "")
    to_second = (-1, "")


def format_ms(ms: int) -> str:
    """Format as RFC 3339 in UTC with milliseconds: `2026-11-20T17:25:00.123Z`."""
    known, text = _Last.whole
    if ms == known:
        return text
    second, rest = divmod(ms, 1000)
    known, start = _Last.to_second
    if second != known:
        start = datetime.fromtimestamp(second, UTC).strftime("%Y-%m-%dT%H:%M:%S")
        _Last.to_second = (second, start)
    text = f"{start}.{rest:03d}Z"
    _Last.whole = (ms, text)
    return text


def parse_ms(text: str) -> int:
    """Read an RFC 3339 time; without an offset it is UTC.

    Raises:
        ValueError: `text` is no such time.
    """
    moment = datetime.fromisoformat(text)
    if moment.tzinfo is None:
        moment = moment.replace(tzinfo=UTC)
    return round(moment.timestamp() * 1000)
