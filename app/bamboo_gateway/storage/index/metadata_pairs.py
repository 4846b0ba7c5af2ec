"""Metadata of sessions as rows, so that lists are filtered by it without reading heads.

Each pair of a key and a value that a filter may name (`listing.metadata_pairs`) is one row, with a
digest of the pair: metadata holds text of users, of any length, and the head has it already.
"""

from collections.abc import Mapping
from hashlib import blake2b
from typing import Any, Final

from bamboo_gateway.storage.listing import metadata_pairs

_DIGEST_BYTES: Final = 16


def pair_of(key: str, value: str) -> bytes:
    """Return the digest of a pair."""
    digest = blake2b(_bytes_of(key), digest_size=_DIGEST_BYTES)
    digest.update(b"\xff" + _bytes_of(value))
    return digest.digest()


def pairs_of(metadata: Mapping[str, Any]) -> list[bytes]:
    """Return the digests of all pairs that a filter may name, ordered."""
    return sorted({pair_of(key, value) for key, value in metadata_pairs(metadata)})


def digest_of(metadata: Mapping[str, Any]) -> bytes:
    """Return a digest of all pairs, by which a change is seen; nothing without a pair."""
    pairs = pairs_of(metadata) if metadata else []
    return blake2b(b"".join(pairs), digest_size=_DIGEST_BYTES).digest() if pairs else b""


def _bytes_of(text: str) -> bytes:
    # No UTF-8 has the byte 0xFF, which stands between key and value.
    return text.encode("utf-8", "surrogatepass")
