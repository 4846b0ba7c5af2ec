"""Public keys that verify tokens: a key in PEM, or a JSON Web Key Set (RFC 7517).

A key has one algorithm: RSA is RS256, P-256 is ES256. Nothing else is accepted, and no secret.
"""

from collections.abc import Mapping
from typing import Any, Final, NamedTuple

import jwt
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric.ec import SECP256R1, EllipticCurvePublicKey
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPublicKey
from cryptography.hazmat.primitives.serialization import load_pem_public_key

from bamboo_gateway.domain.codec import decode

RSA_BITS_MIN: Final = 2048
"""The smallest RSA key (RFC 7518, 3.3)."""


class VerifyingKey(NamedTuple):
    """A key and its one algorithm."""

    algorithm: str
    key: Any


KeySet = Mapping[str | None, VerifyingKey]
"""Keys by the `kid` of their tokens. A single key, for any `kid`, is stored under None."""


def public_key(data: bytes) -> KeySet:
    """Read a public key in PEM.

    Raises:
        ValueError: The text is no public key, or one of a kind or size that is not accepted.
    """
    if b"PRIVATE KEY" in data:
        raise ValueError("it holds a private key; the gateway needs the public one alone")
    try:
        return {None: _verifying(load_pem_public_key(data))}
    except (ValueError, UnsupportedAlgorithm) as error:
        if isinstance(error, _UnusableKey):
            raise
        raise ValueError("it holds no public key in PEM (-----BEGIN PUBLIC KEY-----)") from error


def key_set(data: bytes) -> KeySet:
    """Read a JSON Web Key Set (RFC 7517). Keys that are not for RS256 or ES256 are left out.

    Raises:
        ValueError: The text is no key set, holds a secret, or has no key that can be used.
    """
    document = decode(data)
    entries = document.get("keys") if isinstance(document, dict) else None
    if not isinstance(entries, list) or not all(isinstance(entry, dict) for entry in entries):
        raise ValueError("it is no JSON Web Key Set: an object with a list `keys`")
    keys: dict[str | None, VerifyingKey] = {}
    for entry in entries:
        if entry.get("kty") == "oct" or "d" in entry:
            raise ValueError("it holds a secret or private key; the gateway needs public ones")
        known = _key_of(entry)
        if known is None:
            continue
        kid = entry.get("kid")
        if not isinstance(kid, str) or not kid or kid in keys:
            raise ValueError("each of its keys needs a `kid` of its own")
        keys[kid] = known
    if not keys:
        raise ValueError("it holds no key for RS256 or ES256")
    return keys


def _key_of(entry: dict[str, Any]) -> VerifyingKey | None:
    algorithm = {"RSA": "RS256", "EC": "ES256"}.get(str(entry.get("kty")))
    is_other = entry.get("use", "sig") != "sig" or entry.get("alg", algorithm) != algorithm
    if algorithm is None or is_other or entry.get("crv", "P-256") != "P-256":
        return None
    try:
        return _verifying(jwt.PyJWK.from_dict(entry, algorithm=algorithm).key)
    except jwt.PyJWTError as error:
        raise ValueError(f"its key {entry.get('kid')!r} is broken") from error


def _verifying(key: object) -> VerifyingKey:
    match key:
        case RSAPublicKey():
            if key.key_size < RSA_BITS_MIN:
                raise _UnusableKey(f"an RSA key needs {RSA_BITS_MIN} bits, not {key.key_size}")
            return VerifyingKey("RS256", key)
        case EllipticCurvePublicKey() if isinstance(key.curve, SECP256R1):
            return VerifyingKey("ES256", key)
        case _:
            raise _UnusableKey("only RSA and P-256 keys are taken (RS256, ES256)")


class _UnusableKey(ValueError):
    """The key is of a kind or size that is not accepted."""
