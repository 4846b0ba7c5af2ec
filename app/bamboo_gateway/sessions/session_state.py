"""The state of a session as of now.

The log says whether a session is closed or archived. Whether it is active, disconnected, idle or
expired follows from its runs, its open streams and the time.
"""

from typing import Protocol

from bamboo_gateway.domain.clock import Clock
from bamboo_gateway.domain.errors import SessionClosed, SessionExpired
from bamboo_gateway.domain.sessions import SessionHead, SessionState
from bamboo_gateway.sessions.quotas import Quotas
from bamboo_gateway.settings import Settings


class Readers(Protocol):
    """What memory knows about the streams of sessions; `streaming.channels.Channels` is one."""

    def is_watched(self, session_id: str) -> bool:
        """Return whether the session has an open stream."""

    def disconnected_at(self, session_id: str) -> float | None:
        """Return when the session's last stream ended (monotonic), if that is remembered."""

    def noted(self) -> set[str]:
        """Return the ids of all sessions for which the two methods above have an answer."""


class SessionStates:
    """Computes states. A store that lists sessions by state calls it too."""

    def __init__(self, settings: Settings, clock: Clock, quotas: Quotas, readers: Readers) -> None:
        self._settings = settings
        self._clock = clock
        self._quotas = quotas
        self._readers = readers

    def __call__(self, head: SessionHead) -> SessionState:
        """Return the state as of now (`storage.base.SupportsNoted`)."""
        return self.state_of(head)

    def noted(self) -> set[str]:
        """Return the sessions whose state does not follow from their heads and the time alone."""
        return self._readers.noted()

    def is_watched(self, session_id: str) -> bool:
        """Return whether the session has an open stream."""
        return self._readers.is_watched(session_id)

    def state_of(self, head: SessionHead) -> SessionState:
        """Return the state as of now.

        A closed session expires like any other. An archived one does not: it has a retention of its
        own.
        """
        if head.logged_state == "archived":
            return "archived"
        if head.logged_state is None and (head.active or self._readers.is_watched(head.id)):
            return "active"
        expires_at = head.expires_at
        if expires_at is not None and expires_at <= self._clock.now_ms() and not head.queue:
            return "expired"
        if head.logged_state is not None:
            return head.logged_state
        ended = self._readers.disconnected_at(head.id)
        retention = self._settings.disconnect_retention_seconds
        if ended is not None and self._clock.monotonic() - ended < retention:
            return "disconnected"
        return "idle"

    def expires_at(self, head: SessionHead) -> int | None:
        """Return when the session expires if nothing more happens; an open stream is activity."""
        if head.ttl_seconds is None or head.logged_state == "archived":
            return None
        if self.state_of(head) == "active":
            return self._clock.now_ms() + head.ttl_seconds * 1000
        return head.expires_at

    def check_not_expired(self, head: SessionHead) -> None:
        """Refuse a session whose time to live has passed.

        Raises:
            SessionExpired: The session has expired.
        """
        if self.state_of(head) == "expired":
            raise SessionExpired(
                "The session's time to live has passed. Reopen the session, with a new "
                "`ttl_seconds` if you like, or delete it."
            )

    def check_writable(
        self, head: SessionHead, *, closed_too: bool = False, expired_too: bool = False
    ) -> None:
        """Refuse to add to a session that is read-only, or whose user has stored too much.

        Args:
            head: The session's head.
            closed_too: Accept a closed session; then the storage quota does not count either.
            expired_too: Accept an expired session.

        Raises:
            SessionClosed: The session is closed or archived.
            SessionExpired: The session has expired.
            LimitReached: The storage quota is used up.
        """
        if not expired_too:
            self.check_not_expired(head)
        if head.logged_state == "archived":
            raise SessionClosed(
                "The session is archived and read-only; restore it first.", code="session-archived"
            )
        if head.logged_state == "closed" and not closed_too:
            raise SessionClosed("The session is closed and read-only; reopen it first.")
        if not closed_too:
            self._quotas.check_stored(head.user_id)
