"""Who is asking. Explicit from the edge to the decision, so that ownership has one place."""

from dataclasses import dataclass
from typing import Final, Literal

Right = Literal["read", "write", "admin"]
"""What a caller may do: look at sessions, change them, or run the gateway."""

ALL_RIGHTS: Final[frozenset[Right]] = frozenset({"read", "write", "admin"})


@dataclass(frozen=True, slots=True)
class Caller:
    """An authenticated caller; who is not restricted to a user is the operator and sees all.

    Attributes:
        id: Scopes idempotency keys, limits and log lines; never a secret, and the same for all
            credentials of one user.
        user_id: Whose sessions these are; None: everybody's.
        rights: What its credential allows.
        session_id: The only session it may see, if it came with a ticket or a link.
        credential: Names the key, token or ticket it came with; None where none is asked for.
        expires_at: When its credential ends, in ms since 1970; None: not by itself.
        share_id: The share it came by, if it came with the link of one.
    """

    id: str
    user_id: str | None = None
    rights: frozenset[Right] = ALL_RIGHTS
    session_id: str | None = None
    credential: str | None = None
    expires_at: int | None = None
    share_id: str | None = None

    def is_owner(self, user_id: str | None) -> bool:
        """Tells whether a session of this user is this caller's own."""
        return self.session_id is None and self.user_id in {None, user_id}


GATEWAY = Caller("gateway")
"""The gateway itself: scheduled work."""

LOCAL_CALLER = Caller("local")
"""Whoever is on this machine, when no credentials are asked for."""
