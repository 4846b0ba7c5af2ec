"""Convert values of foreign documents to those of the API: times, ids, usage, parts."""

from typing import Any

from bamboo_gateway.domain.clock import parse_ms
from bamboo_gateway.domain.codec import encode, object_in
from bamboo_gateway.domain.errors import InvalidId
from bamboo_gateway.domain.events import COUNT_MAX
from bamboo_gateway.domain.ids import check_id
from bamboo_gateway.exporters.imported import is_deep

PATH_CHARS_MAX = 4_096
"""PATH_MAX of Linux."""

NAME_CHARS_MAX = 256
"""The longest name of a model, tool or call, as for those that clients send."""

SECONDS_MAX = 100_000_000_000
"""Greater numbers are milliseconds: as seconds they would be after the year 5000."""

_LAST_MS = 253_402_300_799_999
"""The end of the year 9999, the last that RFC 3339 can write."""

Part = dict[str, Any]
"""A part of the content of a Message."""

Call = dict[str, Any]
"""A tool call of a Message; `arguments` may still have the form of the document."""


def text_part(text: Any, kind: str = "text") -> Part:
    """Return a text part; empty ones are left out later."""
    return {"type": kind, "text": text if isinstance(text, str) else ""}


def arguments_of(value: Any) -> dict[str, Any] | str:
    """Return the arguments of a call as an object, or as text if they are no JSON object."""
    if isinstance(value, str):
        read = object_in(value or "{}")
        return value if read is None else read
    if value is None:
        return {}
    if isinstance(value, dict) or is_deep(value):
        return value if isinstance(value, dict) else {}
    return encode(value).decode()


def usage_of(prompt: Any, completion: Any) -> dict[str, int] | None:
    """Return the Usage of a message; None if nothing was counted."""
    counts = [
        value if type(value) is int and 0 < value <= COUNT_MAX else 0
        for value in (prompt, completion)
    ]
    if not any(counts):
        return None
    return {
        "prompt_tokens": counts[0],
        "completion_tokens": counts[1],
        "total_tokens": min(sum(counts), COUNT_MAX),
    }


def time_of(value: Any) -> int | None:
    """Return a time in milliseconds, from RFC 3339 or a number; None if it is no time."""
    try:
        if isinstance(value, str):
            ms = parse_ms(value)
        elif isinstance(value, int | float) and not isinstance(value, bool):
            ms = round(value if value > SECONDS_MAX else value * 1000)
        else:
            return None
    except (ValueError, OverflowError):
        return None
    return ms if 0 <= ms <= _LAST_MS else None


def is_id(value: Any) -> bool:
    """Return whether the value is a valid id of the gateway."""
    try:
        return isinstance(value, str) and bool(check_id(value))
    except InvalidId:
        return False


def is_name(value: Any) -> bool:
    """Return whether the value can be the name of a model, a tool or a call."""
    return isinstance(value, str) and 0 < len(value) <= NAME_CHARS_MAX


def is_path(value: Any) -> bool:
    """Return whether the value can be a working directory."""
    return isinstance(value, str) and 0 < len(value) <= PATH_CHARS_MAX
