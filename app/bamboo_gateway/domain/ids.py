"""Ids: which texts are allowed as one, and how the gateway makes its own.

An id is data (R13). It is checked here once, over the whole string, and is never used as a path, a
query or a log line by itself.
"""

import re
from hashlib import sha256
from os import urandom

from bamboo_gateway.domain.errors import InvalidId

_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,127}")
_USER_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9._@|:+-]{0,127}")
_CONNECTION_ID = re.compile(r"[A-Za-z0-9._-]{1,128}")
_SEQ_DIGITS_MAX = 15  # as in stored lines: no log is longer
_CROCKFORD = "0123456789abcdefghjkmnpqrstvwxyz"
_RANDOM_BITS = 80
_RANDOM_POOL_BYTES = 640
"""Random bytes of 64 ids, read at once: each read releases the GIL, and then waits for it."""


def is_id(text: str) -> bool:
    """Return whether `text` is a valid id."""
    # fullmatch: `$` would let a trailing newline through.
    return _ID.fullmatch(text) is not None


def check_id(text: str, what: str = "session id") -> str:
    """Return `text` if it is a valid id.

    Raises:
        InvalidId: It is not.
    """
    if not is_id(text):
        raise InvalidId(
            f"A {what} has 1 to 128 characters of [A-Za-z0-9._-] and begins with a letter or digit."
        )
    return text


def check_user_id(text: str) -> str:
    """Return `text` if it can be a user id: an id, an email address, `auth0|…`.

    Raises:
        InvalidId: It cannot.
    """
    if _USER_ID.fullmatch(text) is None:
        raise InvalidId(
            "A user id has 1 to 128 characters of [A-Za-z0-9._@|:+-] and begins with a letter or "
            "digit."
        )
    return text


def check_connection_id(text: str) -> str:
    """Return `text` if it is a valid connection id.

    Raises:
        InvalidId: It is not.
    """
    if _CONNECTION_ID.fullmatch(text) is None:
        raise InvalidId("A connection id has 1 to 128 characters of [A-Za-z0-9._-].")
    return text


def message_cursor(text: str) -> tuple[str, int | None]:
    """Read a place in the history: a message id, or a page's `next_cursor`, `<id>@<seq>`.

    Raises:
        InvalidId: It is neither.
    """
    message_id, at, seq = text.partition("@")
    if at and not (seq.isascii() and seq.isdigit() and len(seq) <= _SEQ_DIGITS_MAX):
        raise InvalidId("A cursor of messages is a message id, or the `next_cursor` of a page.")
    return check_id(message_id, "message id"), int(seq) if at else None


class IdMaker:
    """Makes ids that sort by time: 48 bits of milliseconds, then 80 random bits, in base 32.

    Within one process each id is greater than the one before, even when the clock steps back.
    """

    def __init__(self) -> None:
        self._last = 0
        self._random = b""

    def make(self, prefix: str, now_ms: int) -> str:
        """Return a new id: `<prefix><26 characters>`."""
        number = (now_ms << _RANDOM_BITS) | self._randbits(_RANDOM_BITS)
        if number <= self._last:
            number = self._last + 1 + self._randbits(_RANDOM_BITS // 2)
        self._last = number
        return prefix + _base32(number)

    def _randbits(self, bits: int) -> int:
        size = bits // 8
        if len(self._random) < size:
            self._random = urandom(_RANDOM_POOL_BYTES)
        taken, self._random = self._random[:size], self._random[size:]
        return int.from_bytes(taken)


def derived_session_id(*parts: str) -> str:
    """Return the session id derived from an idempotency key: always the same for the same parts."""
    return digest_id("s-k", *parts)


def digest_id(prefix: str, *parts: str) -> str:
    """Return an id made of parts: always the same for the same parts."""
    digest = sha256("\0".join(parts).encode()).digest()
    return prefix + _base32(int.from_bytes(digest[:16], "big"))


_PAIRS = [one + other for one in _CROCKFORD for other in _CROCKFORD]


def _base32(number: int) -> str:
    """Write a number of at most 130 bits in 26 characters."""
    # In two halves: shifts of small integers take a quarter of the time.
    high, low = number >> 60, number & ((1 << 60) - 1)
    pairs = [_PAIRS[(high >> shift) & 1023] for shift in (60, 50, 40, 30, 20, 10, 0)]
    pairs += [_PAIRS[(low >> shift) & 1023] for shift in (50, 40, 30, 20, 10, 0)]
    return "".join(pairs)
