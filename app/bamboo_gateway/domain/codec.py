r"""The one encoder for every byte the gateway stores or sends.

A stored line is the event's JSON with its checksum as first member:

    {"crc":"9ae0daaf","type":"token","seq":8,"time":"…",…}\n

so that a log reads with grep and jq, and the event's own bytes (`body`: the same object without
`crc`) are found by slicing, never by parsing. `crc` is the CRC-32 of the body.
"""

from collections.abc import Iterable, Mapping
from typing import Any
from zlib import crc32

import orjson

LINE_PREFIX_BYTES = len(b'{"crc":"00000000",')
LINE_EXTRA_BYTES = LINE_PREFIX_BYTES - len(b"{") + len(b"\n")
"""A line is so much longer than its body."""
# Where the checksum of a body goes on from: all of it but this brace lies in its line as it is.
_BRACE_CHECKSUM = crc32(b"{")


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


def to_line(body: bytes) -> bytes:
    """Turns an event's JSON object into its stored line."""
    return b'{"crc":"%08x",%b\n' % (crc32(body), body[1:])


def body_of(line: bytes) -> bytes:
    """Gives the body of a stored line (with or without its newline), unchecked."""
    end = -1 if line.endswith(b"\n") else None
    return b"".join((b"{", memoryview(line)[LINE_PREFIX_BYTES:end]))


def is_intact(line: bytes) -> bool:
    """Tells whether a stored line is whole and its checksum holds."""
    if not (line.startswith(b'{"crc":"') and line.endswith(b"}\n")):
        return False
    # Compared as text: `int` would also take signs, spaces and capitals for digits.
    # Lines may have many MB: a view, so that nothing of them is copied.
    checksum = crc32(memoryview(line)[LINE_PREFIX_BYTES:-1], _BRACE_CHECKSUM)
    return line[16:18] == b'",' and line[8:16] == b"%08x" % checksum
