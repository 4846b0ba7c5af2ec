"""API keys: their form, and what the gateway keeps of them.

A key is `bamboo_<id>_<secret>`. The id is public: lists and logs name it. The secret has 280 random
bits, so that a plain digest is as good as a slow one: it cannot be guessed.
"""

import re
from base64 import b32encode
from collections.abc import Iterable
from hashlib import sha256
from hmac import compare_digest
from secrets import token_bytes
from typing import Final

from bamboo_gateway.credentials.refusals import Refusal
from bamboo_gateway.domain.api_keys import ApiKey
from bamboo_gateway.domain.callers import ALL_RIGHTS, Caller

_ID_BYTES: Final = 10
_SECRET_BYTES: Final = 35
_KEY: Final = re.compile(r"bamboo_([a-z2-7]{16})_[a-z2-7]{56}")
_NO_KEY: Final = bytes(32)


def make_key() -> tuple[str, str, bytes]:
    """Make a key; return its id, the key itself, and the digest that is kept."""
    name, secret = _base32(token_bytes(_ID_BYTES)), _base32(token_bytes(_SECRET_BYTES))
    key = f"bamboo_{name}_{secret}"
    return f"key-{name}", key, _digest(key.encode())


def looks_like_key(sent: bytes) -> bool:
    """Return whether what was sent has the form of a key that `bamboo keys` makes."""
    return _KEY.fullmatch(sent.decode("latin-1")) is not None


class KeyTable:
    """All keys of the keys file, or of the store."""

    def __init__(self, keys: Iterable[ApiKey]) -> None:
        self._keys = {key.id: key for key in keys}

    def find(self, sent: bytes, now_ms: int) -> ApiKey | None:
        """Return the key that was sent, if there is such a key and it has not ended.

        A wrong secret, an unknown id and a text that is no key take the same time: one digest and
        one comparison.
        """
        match = _KEY.fullmatch(sent.decode("latin-1"))
        key = self._keys.get(f"key-{match[1]}") if match else None
        is_same = compare_digest(key.digest if key else _NO_KEY, _digest(sent))
        return key if key is not None and is_same and key.is_live(now_ms) else None

    def why_not(self, sent: bytes) -> Refusal:
        """Return why `find` found nothing, for the log."""
        match = _KEY.fullmatch(sent.decode("latin-1"))
        if match is None:
            return Refusal("key", "unknown_key")
        key_id = f"key-{match[1]}"
        key = self._keys.get(key_id)
        if key is None:
            return Refusal("key", "unknown_key", key_id)
        if not compare_digest(key.digest, _digest(sent)):
            return Refusal("key", "wrong_secret", key_id)
        return Refusal("key", "expired" if key.revoked_at is None else "revoked", key_id)

    def is_live(self, key_id: str, now_ms: int) -> bool:
        """Return whether the key with this id is valid now."""
        key = self._keys.get(key_id)
        return key is not None and key.is_live(now_ms)

    def live_ids(self, now_ms: int) -> frozenset[str]:
        """Return the ids of all keys that are valid now."""
        return frozenset(key.id for key in self._keys.values() if key.is_live(now_ms))


class PlainKeys:
    """The operator's keys from the settings, in any form.

    All digests are compared each time, so that the time tells neither length nor place.
    """

    def __init__(self, keys: Iterable[str]) -> None:
        self._callers = {_digest(key.encode()): _operator(key) for key in keys}
        self._ids = frozenset(caller.id for caller in self._callers.values())

    def __bool__(self) -> bool:
        return bool(self._callers)

    def find(self, sent: bytes) -> Caller | None:
        """Return the operator as a caller, if this is one of the keys."""
        found: Caller | None = None
        digest = _digest(sent)
        for known, caller in self._callers.items():
            if compare_digest(known, digest):
                found = caller
        return found

    def is_live(self, key_id: str) -> bool:
        """Return whether a key with this id is configured."""
        return key_id in self._ids


def _operator(key: str) -> Caller:
    # Idempotency keys are kept under it, so it is the same after a restart. It is a second digest,
    # because what is stored must not help to guess the first.
    name = "key-" + sha256(b"bamboo caller\0" + _digest(key.encode())).hexdigest()[:16]
    return Caller(name, None, ALL_RIGHTS, None, name)


def _digest(key: bytes) -> bytes:
    return sha256(key).digest()


def _base32(data: bytes) -> str:
    return b32encode(data).decode("ascii").lower()
