"""The cursor of a joint stream: the positions of its sessions, as one short text.

It is `<epochs>.<seq>.<seq>…`, URL-safe, with the seqs in the order of the request. Every frame
carries it, so it is as short as it can be while it says each position exactly. The part in front
seldom changes; from one frame to the next a single seq does. It has a digest of the list of
sessions: with another list the seqs would belong to other sessions.
"""

import re
from base64 import urlsafe_b64decode, urlsafe_b64encode
from collections.abc import Iterator, Sequence
from hashlib import sha256
from typing import Final

from bamboo_gateway.domain.positions import Position

CURSOR_CHARS_MAX: Final = 1024
"""Longer than a cursor of 32 sessions ever is: 32 epochs of up to 8 bytes and seqs of 9 digits."""

_VERSION: Final = b"\x01"
_DIGEST_BYTES: Final = 6
"""A client confuses two of its lists by chance once in 2^48."""

_DIGITS: Final = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_"
_VALUES: Final = {digit: value for value, digit in enumerate(_DIGITS.decode())}
_CURSOR: Final = re.compile(r"([A-Za-z0-9_-]+)((?:\.[A-Za-z0-9_-]{1,11})+)")
_NUMBER_BITS_MAX: Final = 63


class OtherList(ValueError):
    """The cursor belongs to another list of sessions."""


def write_epochs(session_ids: Sequence[str], epochs: Sequence[int]) -> bytes:
    """Return the part of a cursor in front of the seqs."""
    data = bytearray(_VERSION + _digest(session_ids))
    before = 0
    for epoch in epochs:
        # Sessions of one user often began within days of each other: differences are short.
        difference = epoch - before
        data += _varint(difference * 2 if difference >= 0 else -difference * 2 - 1)
        before = epoch
    return urlsafe_b64encode(data).rstrip(b"=")


def write_seq(seq: int) -> bytes:
    """Return a seq as the digits of base 64."""
    if seq < 64:
        return _DIGITS[seq : seq + 1]
    digits = bytearray()
    while seq:
        digits.append(_DIGITS[seq & 63])
        seq >>= 6
    digits.reverse()
    return bytes(digits)


def read_cursor(text: str, session_ids: Sequence[str]) -> list[Position]:
    """Return the positions of the sessions that a cursor has.

    Raises:
        OtherList: It belongs to another list of sessions.
        ValueError: It is no cursor.
    """
    match = _CURSOR.fullmatch(text) if len(text) <= CURSOR_CHARS_MAX else None
    if match is None:
        raise ValueError("not a cursor")
    data = urlsafe_b64decode(match[1] + "=" * (-len(match[1]) % 4))
    begin = len(_VERSION) + _DIGEST_BYTES
    if len(data) <= begin or data[: len(_VERSION)] != _VERSION:
        raise ValueError("not a cursor")
    epochs = list(_epochs_in(data[begin:]))
    seqs = [_read_seq(digits) for digits in match[2][1:].split(".")]
    if len(epochs) != len(seqs):
        raise ValueError("not a cursor")
    if data[len(_VERSION) : begin] != _digest(session_ids) or len(seqs) != len(session_ids):
        raise OtherList("another list of sessions")
    return [Position(epoch, seq) for epoch, seq in zip(epochs, seqs, strict=True)]


def _digest(session_ids: Sequence[str]) -> bytes:
    return sha256("\n".join(session_ids).encode()).digest()[:_DIGEST_BYTES]


def _varint(number: int) -> bytes:
    data = bytearray()
    while number > 0x7F:
        data.append(number & 0x7F | 0x80)
        number >>= 7
    data.append(number)
    return bytes(data)


def _epochs_in(data: bytes) -> Iterator[int]:
    epoch = number = shift = 0
    for byte in data:
        number |= (byte & 0x7F) << shift
        shift += 7
        if shift > _NUMBER_BITS_MAX + 7:
            raise ValueError("not a cursor")
        if byte < 0x80:
            epoch += -(number + 1) // 2 if number & 1 else number // 2
            if epoch < 0 or epoch.bit_length() > _NUMBER_BITS_MAX:
                raise ValueError("not a cursor")
            yield epoch
            number = shift = 0
    if shift:
        raise ValueError("not a cursor")


def _read_seq(digits: str) -> int:
    seq = 0
    for digit in digits:
        seq = seq << 6 | _VALUES[digit]
    if seq.bit_length() > _NUMBER_BITS_MAX:
        raise ValueError("not a cursor")
    return seq
