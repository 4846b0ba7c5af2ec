"""An API key as it is kept: without its secret."""

from dataclasses import dataclass

from bamboo_gateway.domain.callers import Caller, Right


@dataclass(frozen=True, slots=True)
class ApiKey:
    """A key as it is kept: without its secret.

    Attributes:
        id: The public id, `key-…`.
        digest: SHA-256 of the key as it was printed.
        user_id: The user of the key; None for the key of a service, which acts for users it names.
        rights: The rights of the key.
        name: The name that people gave it.
        created_at: In ms since 1970.
        expires_at: When the key expires, in ms since 1970; None if it does not.
        revoked_at: When the key was revoked, if it was.
    """

    id: str
    digest: bytes
    user_id: str | None
    rights: frozenset[Right]
    name: str
    created_at: int
    expires_at: int | None = None
    revoked_at: int | None = None

    def is_live(self, now_ms: int) -> bool:
        """Return whether the key is valid now."""
        return self.revoked_at is None and (self.expires_at is None or now_ms < self.expires_at)

    def caller(self) -> Caller:
        """Return the caller with this key, before a service has named its user."""
        if self.user_id is not None:
            return user_caller(self.user_id, self.rights, self.id, self.expires_at)
        return Caller(self.id, None, self.rights, None, self.id, self.expires_at)


def user_caller(
    user_id: str, rights: frozenset[Right], credential: str, expires_at: int | None
) -> Caller:
    """Return a user as a caller, with the same `id` whatever the credential is."""
    return Caller(f"user:{user_id}", user_id, rights, None, credential, expires_at)
