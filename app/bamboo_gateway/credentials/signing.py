"""Credentials that the gateway makes itself: tickets for streams, cookies for browsers.

Both are signed and stored nowhere. Both name the key or token they were made with, and end with it.
Each kind has its own signing key, so that one is never accepted as the other, nor as a token of
somebody who shares the secret.
"""

import hmac
import os
from hashlib import sha256
from pathlib import Path
from secrets import token_bytes, token_hex
from tempfile import mkstemp
from typing import Any, Final, Literal, NamedTuple

import jwt

from bamboo_gateway.credentials.errors import CredentialsUnusable
from bamboo_gateway.credentials.refusals import Refusal
from bamboo_gateway.credentials.tokens import SECRET_BYTES_MIN, TOKEN_CHARS_MAX
from bamboo_gateway.domain.callers import Caller
from bamboo_gateway.domain.clock import Clock

Kind = Literal["ticket", "cookie"]

WITHOUT_CREDENTIAL: Final = "local"
"""Placeholder credential while authentication is off; valid as long as it is off."""

_ALGORITHM: Final = "HS256"
_OTHERS_MAY_READ: Final = 0o077


class Signed(NamedTuple):
    """A ticket or cookie, and when it expires, in ms since 1970."""

    text: str
    expires_at: int


class Signer:
    """Makes tickets and cookies, and reads them."""

    def __init__(self, secret: bytes, clock: Clock) -> None:
        self._clock = clock
        self._keys: dict[Kind, bytes] = {
            "ticket": hmac.digest(secret, b"bamboo ticket", sha256),
            "cookie": hmac.digest(secret, b"bamboo cookie", sha256),
        }

    def ticket(self, caller: Caller, session_id: str, seconds: int) -> Signed:
        """Make a ticket for one session.

        It opens streams for `seconds`. They stay open as long as the caller's credential is valid.
        """
        return self._sign("ticket", caller, seconds, sid=session_id, end=caller.expires_at)

    def cookie(self, caller: Caller, seconds: int) -> Signed:
        """Make a cookie with the caller's rights; it ends after `seconds`."""
        return self._sign("cookie", caller, seconds, rts=sorted(caller.rights))

    def read_ticket(self, text: str) -> Caller | None:
        """Return the caller with a ticket, or None. The caller's own credential may have ended."""
        claims = self._read("ticket", text)
        if claims is None:
            return None
        rights = frozenset({"read"})
        return self._caller("ticket", claims, rights, claims["sid"], claims["end"])

    def read_cookie(self, text: str) -> Caller | None:
        """Return the caller with a cookie, or None. The caller's own credential may have ended."""
        claims = self._read("cookie", text)
        if claims is None:
            return None
        return self._caller("cookie", claims, frozenset(claims["rts"]), None, claims["exp"] * 1000)

    def why_not(self, kind: Kind, text: str) -> Refusal:
        """Return why a ticket or cookie is invalid, for the log."""
        claims = self._verified(kind, text)
        if claims is None:
            return Refusal(kind, "wrong_signature")
        root = root_of(str(claims.get("crd")))
        if self._clock.now_ms() >= claims["exp"] * 1000:
            return Refusal(kind, "expired", root)
        return Refusal(kind, "its_credential_ended", root)

    def _sign(self, kind: Kind, caller: Caller, seconds: int, **more: Any) -> Signed:
        # Whole seconds, as in the format, so that the reported end is the real one.
        expires = self._clock.now_ms() // 1000 + seconds
        if caller.expires_at is not None:
            expires = min(expires, caller.expires_at // 1000)
        claims = {
            "exp": expires,
            "jti": token_hex(8),
            "cid": caller.id,
            "uid": caller.user_id,
            "crd": caller.credential or WITHOUT_CREDENTIAL,
            **more,
        }
        return Signed(jwt.encode(claims, self._keys[kind], _ALGORITHM), expires * 1000)

    def _read(self, kind: Kind, text: str) -> dict[str, Any] | None:
        claims = self._verified(kind, text)
        if claims is None or self._clock.now_ms() >= claims["exp"] * 1000:
            return None
        return claims

    def _verified(self, kind: Kind, text: str) -> dict[str, Any] | None:
        """Return the claims signed with this kind's key, even if they have expired."""
        if len(text) > TOKEN_CHARS_MAX:
            return None
        try:
            claims: dict[str, Any] = jwt.decode(
                text,
                self._keys[kind],
                algorithms=[_ALGORITHM],
                # By the gateway's clock, which tests set.
                options={"require": ["exp"], "verify_exp": False},
            )
        except Exception:  # noqa: BLE001 - the boundary: what a forger makes of it is a refusal
            return None
        return claims

    @staticmethod
    def _caller(
        kind: Kind,
        claims: dict[str, Any],
        rights: frozenset[Any],
        session_id: str | None,
        expires_at: int | None,
    ) -> Caller:
        credential = f"{claims['crd']}/{kind}-{claims['jti']}"
        return Caller(claims["cid"], claims["uid"], rights, session_id, credential, expires_at)


def root_of(credential: str) -> str:
    """Return the key or token that a credential was made with, or the credential itself."""
    return credential.partition("/")[0]


def is_made(caller: Caller) -> bool:
    """Return whether a caller came with a ticket or cookie that the gateway made."""
    return "/" in (caller.credential or "")


def chance() -> bytes:
    """Return a random secret for the life of this process."""
    return token_bytes(SECRET_BYTES_MIN)


def checked_secret(text: str) -> bytes:
    """Return the secret of the settings.

    Raises:
        CredentialsUnusable: The secret is too short.
    """
    data = text.encode()
    if len(data) < SECRET_BYTES_MIN:
        raise CredentialsUnusable(
            f"ticket_secret has {len(data)} bytes; it needs {SECRET_BYTES_MIN}"
        )
    return data


def kept_secret(path: Path) -> bytes:
    """Return the secret in a file; make the file if it is missing. Blocks.

    Raises:
        CredentialsUnusable: The file cannot be read or made, or other users can read it.
    """
    try:
        try:
            data = path.read_bytes().strip()
        except FileNotFoundError:
            data = _make_secret(path)
        mode = path.stat().st_mode
    except OSError as error:
        raise CredentialsUnusable(f"{path} cannot be used: {error.strerror}") from error
    if mode & _OTHERS_MAY_READ:
        raise CredentialsUnusable(f"{path} can be read by others; delete it, or `chmod 600` it")
    if len(data) < SECRET_BYTES_MIN:
        raise CredentialsUnusable(f"{path} holds no secret; delete it, and a new one is made")
    return data


def proposed_secret(path: Path) -> bytes:
    """Return a secret for a store that may have one: that of the file, else a new one. Blocks.

    So logins stay valid when the store begins to keep it.

    Raises:
        CredentialsUnusable: The file cannot be read, or other users can read it.
    """
    return kept_secret(path) if path.exists() else chance()


def _make_secret(path: Path) -> bytes:
    data = token_hex(SECRET_BYTES_MIN).encode()
    # With the sessions in a database, this may be the first file of `data_dir`.
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    fd, name = mkstemp(prefix=f".{path.name}.", dir=path.parent)  # mode 0600
    with os.fdopen(fd, "wb") as file:
        file.write(data + b"\n")
        file.flush()
        os.fsync(file.fileno())
    Path(name).replace(path)
    return data
