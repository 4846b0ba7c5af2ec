"""The one encoder and decoder of JSON, for every byte that the gateway stores or sends."""

from collections.abc import Iterable, Mapping
from typing import Any

import orjson


def encode(value: object) -> bytes:
    """Encodes a JSON value; datetimes are not expected, times are strings already.

    Raises:
        TypeError: For what JSON cannot hold.
    """
    return orjson.dumps(value)


def encode_with(value: Mapping[str, Any], name: str, items: Iterable[object]) -> bytes:
    """Encodes `{…value, "<name>": [items…]}`, an item at a time: other threads get their turn.

    `value` is not empty.
    """
    encoded = b",".join(map(encode, items))
    return b'%b,"%b":[%b]}' % (encode(value)[:-1], name.encode(), encoded)


def encode_pretty(value: object) -> bytes:
    """Encodes for people: two spaces, a newline at the end."""
    return orjson.dumps(value, option=orjson.OPT_INDENT_2 | orjson.OPT_APPEND_NEWLINE)


def canonical(value: object) -> bytes:
    """Encodes with sorted keys, so that equal values have equal bytes (digests, ETags)."""
    return orjson.dumps(value, option=orjson.OPT_SORT_KEYS)


def decode(data: bytes | bytearray | memoryview | str) -> Any:
    """Decodes strict JSON (RFC 8259, UTF-8).

    Raises:
        ValueError: When it is not.
    """
    return orjson.loads(data)


def object_in(text: str) -> dict[str, Any] | None:
    """Gives the object that JSON text holds; None when it is no JSON, or holds something else."""
    try:
        value = decode(text)
    except ValueError:
        return None
    return value if isinstance(value, dict) else None


def nests_deeper(value: Any, levels: int) -> bool:
    """Tells whether a JSON value nests deeper than so many levels; without recursion."""
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
