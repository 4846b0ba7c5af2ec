"""Notices as bytes.

byte 0       the format; a process that does not know it looks the session up in the store
bytes 1-8    who published it
then         epoch, version and first_seq (8 bytes each), how many bodies (4 bytes), the length
             of each body (4 bytes), the bodies
"""

from struct import Struct, error, unpack_from
from typing import Final

from bamboo_gateway.bus.base import Notice

SENDER_BYTES: Final = 8
FORMAT: Final = 1

_HEAD: Final = Struct(f">B{SENDER_BYTES}sQQQI")
_NO_BODIES: Final = 2**32 - 1


def pack(sender: bytes, notice: Notice) -> bytes:
    """Return a notice as bytes. The session is not in them: the channel names it."""
    bodies = notice.bodies
    count = _NO_BODIES if bodies is None else len(bodies)
    head = _HEAD.pack(FORMAT, sender, notice.epoch, notice.version, notice.first_seq, count)
    if not bodies:
        return head
    lengths = [len(body).to_bytes(4) for body in bodies]
    return b"".join((head, *lengths, *bodies))


def sender_of(data: bytes) -> bytes:
    """Return who published a notice, in every format."""
    return data[1 : 1 + SENDER_BYTES]


def unpack(session_id: str, data: bytes) -> Notice | None:
    """Return the notice of these bytes; None when they are of another format, or damaged."""
    try:
        kind, _, epoch, version, first_seq, count = _HEAD.unpack_from(data)
        if kind != FORMAT:
            return None
        if count == _NO_BODIES:
            return Notice(session_id, epoch, version, first_seq, None)
        lengths = unpack_from(f">{count}I", data, _HEAD.size)
    except error:
        return None
    at = _HEAD.size + 4 * count
    if at + sum(lengths) != len(data):
        return None
    bodies: list[bytes] = []
    for length in lengths:
        bodies.append(data[at : at + length])
        at += length
    return Notice(session_id, epoch, version, first_seq, tuple(bodies))
