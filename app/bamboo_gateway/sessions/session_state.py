"""The state of a session as of now.

The log says whether a session is closed or archived. Whether it is active, disconnected, idle or
expired follows from its runs, its open streams and the time.
"""

from typing import Protocol

from bamboo_gateway.domain.clock import Clock
from bamboo_gateway.domain.errors import SessionClosed, SessionExpired
from bamboo_gateway.domain.sessions import Presence, SessionHead, SessionState, state_of


class Readers(Protocol):
    """What memory knows about the streams of sessions; `streaming.channels.Channels` is one."""

    def is_watched(self, session_id: str) -> bool:
        """Return whether the session has an open stream."""

    def is_disconnected(self, session_id: str) -> bool:
        """Return whether the session's last stream ended a moment ago."""

    def watched(self) -> set[str]:
        """Return the ids of all sessions with an open stream."""

    def disconnected(self) -> set[str]:
        """Return the ids of all sessions whose last stream ended a moment ago."""


class SessionStates:
    """Computes states as of now."""

    def __init__(self, clock: Clock, readers: Readers) -> None:
        self._clock = clock
        self._readers = readers

    def presence(self) -> Presence:
        """Return what states depend on besides the heads, for a store that lists by state."""
        readers = self._readers
        return Presence(self._clock.now_ms(), readers.watched(), readers.disconnected())

    def is_watched(self, session_id: str) -> bool:
        """Return whether the session has an open stream."""
        return self._readers.is_watched(session_id)

    def state_of(self, head: SessionHead) -> SessionState:
        """Return the state as of now."""
        own = (head.id,)
        watched = own if self._readers.is_watched(head.id) else ()
        disconnected = own if self._readers.is_disconnected(head.id) else ()
        return state_of(head, Presence(self._clock.now_ms(), watched, disconnected))

    def expires_at(self, head: SessionHead) -> int | None:
        """Return when the session expires if nothing more happens; an open stream is activity."""
        if head.ttl_seconds is None or head.logged_state == "archived":
            return None
        if head.active or self.is_watched(head.id):
            return self._clock.now_ms() + head.ttl_seconds * 1000
        return head.expires_at

    def check_not_expired(self, head: SessionHead) -> None:
        """Refuse a session whose time to live has passed.

        Raises:
            SessionExpired: The session has expired.
        """
        # Most sessions have no time to live, and each call checks this.
        if head.ttl_seconds is not None and self.state_of(head) == "expired":
            raise SessionExpired(
                "The session's time to live has passed. Reopen the session, with a new "
                "`ttl_seconds` if you like, or delete it."
            )

    def check_writable(
        self, head: SessionHead, *, closed_too: bool = False, expired_too: bool = False
    ) -> None:
        """Refuse to add to a session that is read-only.

        Args:
            head: The session's head.
            closed_too: Accept a closed session.
            expired_too: Accept an expired session.

        Raises:
            SessionClosed: The session is closed or archived.
            SessionExpired: The session has expired.
        """
        if not expired_too:
            self.check_not_expired(head)
        if head.logged_state == "archived":
            raise SessionClosed(
                "The session is archived and read-only; restore it first.", code="session-archived"
            )
        if head.logged_state == "closed" and not closed_too:
            raise SessionClosed("The session is closed and read-only; reopen it first.")
