"""The caller of a command, passed from the edge to the one place that checks owners."""

from dataclasses import dataclass
from typing import Final, Literal

Right = Literal["read", "answer", "write", "admin"]
"""What a caller may do: look at sessions, answer requests for input, change sessions, or run the
gateway. Who may write may answer too."""

ALL_RIGHTS: Final[frozenset[Right]] = frozenset({"read", "write", "admin"})


@dataclass(frozen=True, slots=True)
class Caller:
    """An authenticated caller. A caller without a user is the operator, who sees all sessions.

    Attributes:
        id: The scope of idempotency keys, limits and log lines. It is never a secret, and the same
            for all credentials of one user.
        user_id: The user whose sessions the caller may see; None for all sessions.
        rights: The rights of its credential.
        session_id: The only session it may see, if its credential is a ticket or a share link.
        credential: The name of its key, token or ticket; None while authentication is off.
        expires_at: When its credential expires, in ms since 1970; None if it does not.
        share_id: The share of its link, if its credential is a share link.
    """

    id: str
    user_id: str | None = None
    rights: frozenset[Right] = ALL_RIGHTS
    session_id: str | None = None
    credential: str | None = None
    expires_at: int | None = None
    share_id: str | None = None

    def is_owner(self, user_id: str | None) -> bool:
        """Return whether the caller owns the sessions of this user."""
        return self.session_id is None and self.user_id in {None, user_id}


GATEWAY = Caller("gateway")
"""The gateway itself, for scheduled work."""

LOCAL_CALLER = Caller("local")
"""Every caller on this machine, while authentication is off."""
