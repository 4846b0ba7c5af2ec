"""JSON Web Tokens of an identity provider (RFC 7519), verified with keys that were configured.

The key decides which algorithm a token may have, and never the token (RFC 8725, 3.1): a secret
verifies HS256, an RSA key RS256, a P-256 key ES256. No other algorithm is accepted.
"""

import re
from collections import OrderedDict
from collections.abc import Callable, Mapping
from hashlib import sha256
from typing import Any, Final

import jwt

from bamboo_gateway.credentials.errors import CredentialsUnusable
from bamboo_gateway.credentials.key_sets import KeySet, VerifyingKey, key_set, public_key
from bamboo_gateway.credentials.refusals import Refusal
from bamboo_gateway.credentials.remote_keys import RemoteKeys
from bamboo_gateway.credentials.watched import WatchedFile
from bamboo_gateway.domain.api_keys import user_caller
from bamboo_gateway.domain.callers import Caller, Right
from bamboo_gateway.domain.clock import Clock, SystemClock
from bamboo_gateway.domain.errors import Unavailable
from bamboo_gateway.domain.ids import check_user_id
from bamboo_gateway.settings import Settings

SECRET_BYTES_MIN: Final = 32
"""The shortest secret of HS256: as long as the digest (RFC 7518, 3.2)."""

TOKEN_CHARS_MAX: Final = 8_192
"""The largest token that is read; tokens with many groups have some thousands of bytes."""

TOKENS_KNOWN_MAX: Final = 1_000
"""The most verified tokens that are remembered, the latest ones. Verifying a token costs more than
the rest of a small request, and a page sends the same token with each."""

_DEFAULT_RIGHTS: Final[frozenset[Right]] = frozenset({"read", "write"})
_UNSIGNED: Final = (
    (jwt.InvalidSignatureError, "wrong_signature"),
    (jwt.InvalidAlgorithmError, "wrong_algorithm"),
    (jwt.DecodeError, "malformed"),
)
"""The reason in the log for an error before the signature was verified."""

_CLAIMS: Final = (
    (jwt.ExpiredSignatureError, "expired"),
    (jwt.InvalidAudienceError, "wrong_audience"),
    (jwt.InvalidIssuerError, "wrong_issuer"),
    (jwt.ImmatureSignatureError, "not_valid_yet"),
)
"""The reason in the log for an error in the claims."""

_RIGHTS: Final[tuple[Right, ...]] = ("read", "answer", "write", "admin")


_TOKEN: Final = re.compile(rb"eyJ[\w-]+\.[\w-]+\.[\w-]*")
"""Three parts in base64url; the first is a JSON object, whose `{"` becomes `eyJ`."""


def looks_like_token(sent: bytes) -> bool:
    """Return whether what was sent has the form of a signed token, whoever signed it."""
    return _TOKEN.fullmatch(sent) is not None


def make_verifier(settings: Settings, clock: Clock | None = None) -> "TokenVerifier | None":
    """Return the verifier for the settings; None if they name no key.

    Raises:
        CredentialsUnusable: The settings name more than one key, or one that cannot be used.
    """
    given = [
        name
        for name in ("jwt_secret", "jwt_public_key_file", "jwt_jwks_file", "jwks_url")
        if getattr(settings, name) is not None
    ]
    if not given:
        for name in ("jwt_issuer", "jwt_audience"):
            if getattr(settings, name) is not None:
                raise CredentialsUnusable(
                    f"{name} is set, and no key: set jwt_secret, jwt_public_key_file, "
                    "jwt_jwks_file or jwks_url"
                )
        return None
    if len(given) > 1:
        raise CredentialsUnusable(
            f"{' and '.join(given)} are set; tokens are verified with one of them"
        )
    if settings.jwt_secret is not None:
        keys = _secret_keys(settings.jwt_secret.get_secret_value())
        return TokenVerifier(settings, lambda: keys)
    if settings.jwks_url is not None:
        remote = RemoteKeys(
            settings.jwks_url, settings.jwks_max_stale_seconds, clock or SystemClock()
        )
        return TokenVerifier(settings, lambda: remote.value, remote=remote)
    if settings.jwt_public_key_file is not None:
        file = WatchedFile(settings.jwt_public_key_file.expanduser(), public_key)
    else:
        assert settings.jwt_jwks_file is not None
        file = WatchedFile(settings.jwt_jwks_file.expanduser(), key_set)
    return TokenVerifier(settings, lambda: file.value, file)


class TokenVerifier:
    """Verifies tokens, and names their users.

    Attributes:
        file: The file of the keys, if they come from one.
        remote: The keys of the provider's URL, if they come from one.
    """

    def __init__(
        self,
        settings: Settings,
        keys: Callable[[], KeySet],
        file: WatchedFile[KeySet] | None = None,
        remote: RemoteKeys | None = None,
    ) -> None:
        self.file = file
        self.remote = remote
        self._keys = keys
        self._issuer = settings.jwt_issuer
        self._audience = settings.jwt_audience
        self._leeway = settings.jwt_leeway_seconds
        required = ["exp", "sub"]
        required += ["iss"] * (self._issuer is not None) + ["aud"] * (self._audience is not None)
        self._options: Any = {"require": required}
        self._verified = OrderedDict[str, Caller]()
        self._verified_with: KeySet | None = None

    async def look_for_key_of(self, sent: bytes) -> None:
        """Have the provider's keys read again if a token names one that is not known.

        Raises:
            Unavailable: There are no keys at all: whoever comes has to come again.
        """
        if self.remote is None or len(sent) > TOKEN_CHARS_MAX or not looks_like_token(sent):
            return
        try:
            kid = jwt.get_unverified_header(sent).get("kid")
        except jwt.PyJWTError:
            return
        await self.remote.look_for(kid if isinstance(kid, str) else None)
        if not self.remote.value:
            raise Unavailable(
                "The keys of the identity provider cannot be read; try again in a moment.",
                retry_after_seconds=5,
                extra={"check": "identity provider"},
            )

    def verify(self, sent: bytes) -> Caller | None:
        """Return the user of a valid token; None for any other text.

        A remembered token may have expired since it was verified.
        """
        if len(sent) > TOKEN_CHARS_MAX:
            return None
        keys, digest = self._keys(), sha256(sent).hexdigest()
        if keys is not self._verified_with:
            self._verified.clear()
            self._verified_with = keys
        if (caller := self._verified.get(digest)) is not None:
            self._verified.move_to_end(digest)
            return caller
        try:
            claims = self._claims(keys, sent)
            user_id = check_user_id(claims["sub"])
            expires_at = int((float(claims["exp"]) + self._leeway) * 1000)
            name = f"token-{digest[:16]}"
            caller = user_caller(user_id, _rights(claims), name, expires_at)
        except Exception:  # noqa: BLE001 - the boundary: what a forger makes of it is a refusal
            return None
        self._verified[digest] = caller
        if len(self._verified) > TOKENS_KNOWN_MAX:
            self._verified.popitem(last=False)
        return caller

    def why_not(self, sent: bytes) -> Refusal:
        """Return why `verify` refused a token, or why it is not valid any more, for the log.

        Claims are named only if their signature was valid. A `kid` is unverified text.
        """
        if len(sent) > TOKEN_CHARS_MAX:
            return Refusal("token", "too_long")
        try:
            header = jwt.get_unverified_header(sent)
        except Exception:  # noqa: BLE001 - the boundary: what a forger makes of it is a refusal
            return Refusal("token", "malformed")
        kid = header.get("kid")
        name = kid if isinstance(kid, str) else None
        keys = self._keys()
        known = keys.get(None) or keys.get(name)
        if known is None:
            return Refusal("token", "unknown_key", name)
        try:
            check_user_id(self._claims(keys, sent)["sub"])
            return Refusal("token", "expired", self._issuer_of(known, sent))
        except jwt.MissingRequiredClaimError as error:
            return Refusal("token", f"no_{error.claim}", self._issuer_of(known, sent))
        except (jwt.DecodeError, jwt.InvalidAlgorithmError) as error:
            reason = next(word for kind, word in _UNSIGNED if isinstance(error, kind))
            return Refusal("token", reason, name)
        except jwt.InvalidTokenError as error:
            words = (word for kind, word in _CLAIMS if isinstance(error, kind))
            return Refusal("token", next(words, "wrong_claims"), self._issuer_of(known, sent))
        except Exception:  # noqa: BLE001 - the boundary, as above
            return Refusal("token", "wrong_claims")

    def _issuer_of(self, known: VerifyingKey, sent: bytes) -> str | None:
        """Return the issuer in a token with a valid signature."""
        unchecked = dict.fromkeys(("exp", "nbf", "iat", "aud", "iss", "sub", "jti"), False)
        options: Any = {f"verify_{claim}": checked for claim, checked in unchecked.items()}
        try:
            claims = jwt.decode(sent, known.key, algorithms=[known.algorithm], options=options)
        except jwt.PyJWTError:
            return None
        issuer = claims.get("iss")
        return issuer if isinstance(issuer, str) else None

    def _claims(self, keys: KeySet, sent: bytes) -> dict[str, Any]:
        known = keys.get(None)
        if known is None:
            known = keys[jwt.get_unverified_header(sent)["kid"]]
        return jwt.decode(
            sent,
            known.key,
            algorithms=[known.algorithm],
            issuer=self._issuer,
            audience=self._audience,
            leeway=self._leeway,
            options=self._options,
        )


def _rights(claims: Mapping[str, Any]) -> frozenset[Right]:
    """Read the rights that a token's scopes name; a token that names none may read and write."""
    named: set[str] = set()
    for claim in ("scope", "scp"):
        value = claims.get(claim, ())
        named |= set(value.split() if isinstance(value, str) else value)
    return frozenset(right for right in _RIGHTS if right in named) or _DEFAULT_RIGHTS


def _secret_keys(secret: str) -> KeySet:
    data = secret.encode()
    if len(data) < SECRET_BYTES_MIN:
        raise CredentialsUnusable(f"jwt_secret has {len(data)} bytes; it needs {SECRET_BYTES_MIN}")
    return {None: VerifyingKey("HS256", data)}
