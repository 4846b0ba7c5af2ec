"""Time, as something that is handed in: tests step it, machines set it back."""

from datetime import UTC, datetime
from time import monotonic, time_ns
from typing import Protocol


class Clock(Protocol):
    """Where everything that needs the time asks for it."""

    def now_ms(self) -> int:
        """Gives the wall clock in milliseconds since 1970. It may step either way."""
        ...

    def monotonic(self) -> float:
        """Gives seconds that only ever grow; for timeouts."""
        ...


class SystemClock:
    """The machine's own clocks."""

    def now_ms(self) -> int:
        """See `Clock`."""
        return time_ns() // 1_000_000

    def monotonic(self) -> float:
        """See `Clock`."""
        return monotonic()


class _Last:
    """What was formatted last, whole and as far as the second: many events share either.

    Each is a pair that is replaced as one, for threads format times too.
    """

    whole = (-1, "")
    to_second = (-1, "")


def format_ms(ms: int) -> str:
    """Formats as RFC 3339 in UTC with milliseconds: `2026-11-20T17:25:00.123Z`."""
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
    """Reads an RFC 3339 time; one without an offset is taken as UTC.

    Raises:
        ValueError: When it is none.
    """
    moment = datetime.fromisoformat(text)
    if moment.tzinfo is None:
        moment = moment.replace(tzinfo=UTC)
    return round(moment.timestamp() * 1000)
