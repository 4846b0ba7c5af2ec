"""The one encoder and decoder of JSON, for every byte that the gateway stores or sends."""

from collections.abc import Iterable, Mapping
from typing import Any

import orjson

_COPIED_BYTES_MAX = 16 * 1024
"""What orjson 3.13 returns keeps some 4 KiB beyond its size: an event of 172 bytes held 4,125, and
took a page fault of 3 us. A copy holds its own size. Of longer results it would save too little."""


def encode(value: object) -> bytes:
    """Encode a JSON value. Times are strings already; datetimes are not expected.

    Raises:
        TypeError: The value has something that JSON cannot hold.
    """
    data = orjson.dumps(value)
    return data if len(data) > _COPIED_BYTES_MAX else b"".join((data, b""))


def encode_with(value: Mapping[str, Any], name: str, items: Iterable[object]) -> bytes:
    """Encode `{…value, "<name>": [items…]}`, item by item, so that other threads get their turn.

    `value` must not be empty.
    """
    encoded = b",".join(map(encode, items))
    return b'%b,"%b":[%b]}' % (encode(value)[:-1], name.encode(), encoded)


def encode_pretty(value: object) -> bytes:
    """Encode for people: indented by two spaces, with a newline at the end."""
    return orjson.dumps(value, option=orjson.OPT_INDENT_2 | orjson.OPT_APPEND_NEWLINE)


def canonical(value: object) -> bytes:
    """Encode with sorted keys, so that equal values have equal bytes (digests, ETags)."""
    return orjson.dumps(value, option=orjson.OPT_SORT_KEYS)


def decode(data: bytes | bytearray | memoryview | str) -> Any:
    """Decode strict JSON (RFC 8259, UTF-8).

    Raises:
        ValueError: The data is not strict JSON.
    """
    return orjson.loads(data)


def object_in(text: str) -> dict[str, Any] | None:
    """Return the object in JSON text; None when it is no JSON, or not an object."""
    try:
        value = decode(text)
    except ValueError:
        return None
    return value if isinstance(value, dict) else None


def nests_deeper(value: Any, levels: int) -> bool:
    """Return whether a JSON value nests deeper than this many levels; without recursion."""
    level = [value] if isinstance(value, dict | list) else []
    for _ in range(levels):
        level = [
            member
            for outer in level
            for member in (outer.values() if isinstance(outer, dict) else outer)
            if isinstance(member, dict | list)
        ]
        if not level:
            return False
    return True


def size_left(size: int, value: Any) -> int:
    """Return `size` less about the size of a JSON value; look at no more than makes it negative.

    A value's size is the characters of its texts and names, and 64 more for each value in it: many
    small ones cost time as well.
    """
    waiting = [value]
    while waiting and size >= 0:
        value = waiting.pop()
        size -= 64
        if isinstance(value, str | dict | list):
            size -= len(value)
        if isinstance(value, dict | list) and size >= 0:
            waiting.extend(value)
            if isinstance(value, dict):
                waiting.extend(value.values())
    return size
