"""Channels: the channels that have readers, and which sessions had readers a moment ago."""

from collections import OrderedDict

from bamboo_gateway.domain.clock import Clock
from bamboo_gateway.sessions.streaming.channel import Channel
from bamboo_gateway.settings import Settings
from bamboo_gateway.storage.base import SessionStore


class Channels:
    """Finds the channel of a session by its id.

    Attributes:
        open: The channels that have readers, by session id. Channels enter and leave it themselves.
        watched_elsewhere: The sessions with an open stream at another process, as of the last look.
        disconnected_elsewhere: The sessions that had one until a moment ago.
    """

    def __init__(self, store: SessionStore, settings: Settings, clock: Clock) -> None:
        self.open: dict[str, Channel] = {}
        self.watched_elsewhere: set[str] = set()
        self.disconnected_elsewhere: set[str] = set()
        self._store = store
        self._settings = settings
        self._clock = clock
        self._disconnected_at: OrderedDict[str, float] = OrderedDict()

    def all(self) -> list[Channel]:
        """Return the channels that have readers. Their writers need not be in memory."""
        return list(self.open.values())

    def get(self, session_id: str) -> Channel | None:
        """Return the session's channel if it has readers."""
        return self.open.get(session_id)

    def is_watched(self, session_id: str) -> bool:
        """Return whether the session has an open stream."""
        channel = self.open.get(session_id)
        if channel is not None and channel.connections:
            return True
        return session_id in self.watched_elsewhere

    def is_disconnected(self, session_id: str) -> bool:
        """Return whether its last stream ended within `disconnect_retention_seconds`."""
        ended = self._disconnected_at.get(session_id)
        if ended is not None and self._is_remembered(ended):
            return True
        return session_id in self.disconnected_elsewhere

    def watched(self) -> set[str]:
        """Return the ids of all sessions with an open stream."""
        own = {channel.id for channel in self.open.values() if channel.connections}
        return own | self.watched_elsewhere

    def disconnected(self) -> set[str]:
        """Return the ids of all sessions for which `is_disconnected` is true."""
        self.forget_old()
        return self._disconnected_at.keys() | self.disconnected_elsewhere

    def note_disconnect(self, channel: Channel) -> None:
        """Remember that the session's last stream has ended."""
        self._disconnected_at[channel.id] = self._clock.monotonic()
        self._disconnected_at.move_to_end(channel.id)
        self.touch(channel)

    def touch(self, channel: Channel) -> None:
        """Move the session's last activity to now, without an event."""
        now_ms = self._clock.now_ms()
        channel.head.last_activity_at = max(channel.head.last_activity_at, now_ms)
        self._store.touch(channel.id, channel.epoch, now_ms)

    def forget(self, session_id: str) -> None:
        """Forget when the streams of a deleted session ended."""
        self._disconnected_at.pop(session_id, None)
        self.disconnected_elsewhere.discard(session_id)

    def forget_old(self) -> None:
        """Forget the disconnects that are older than `disconnect_retention_seconds`."""
        while self._disconnected_at:
            session_id, ended = next(iter(self._disconnected_at.items()))
            if self._is_remembered(ended):
                break
            del self._disconnected_at[session_id]

    def _is_remembered(self, ended: float) -> bool:
        retention = self._settings.disconnect_retention_seconds
        return self._clock.monotonic() - ended < retention
