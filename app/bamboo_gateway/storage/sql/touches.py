"""Activity without an event, kept in memory until it is written (`SessionStore.touch`)."""

from threading import Lock

from sqlalchemy import Integer, bindparam, literal, update

from bamboo_gateway.domain.sessions import SessionHead
from bamboo_gateway.storage.index.rows import SLOT_BITS
from bamboo_gateway.storage.index.tables import sessions
from bamboo_gateway.storage.sql.database import Database

# What one transaction writes: commits wait that long.
_ROWS = 500

_moved = sessions.c.expires_at + (bindparam("activity_ms") - sessions.c.last_activity_at)
TOUCH = (
    update(sessions)
    .where(
        sessions.c.id == bindparam("session_id"),
        sessions.c.epoch == bindparam("session_epoch"),
        sessions.c.last_activity_at < bindparam("activity_ms"),
    )
    .values(
        last_activity_at=bindparam("activity_ms"),
        activity_slot=bindparam("activity_slot_now"),
        expires_at=_moved,
        expires_slot=_moved.bitwise_rshift(literal(SLOT_BITS, Integer)),
    )
)


class Touches:
    """The activity that is not written yet, by session id and epoch."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._lock = Lock()
        self._moved: dict[tuple[str, int], int] = {}

    def add(self, session_id: str, epoch: int, activity_ms: int) -> None:
        """Keep the activity of a session, if it is later than what is kept."""
        with self._lock:
            known = self._moved.get((session_id, epoch), 0)
            self._moved[session_id, epoch] = max(known, activity_ms)

    def apply(self, head: SessionHead) -> SessionHead:
        """Move a head's last activity to what is kept."""
        activity_ms = self._moved.get((head.id, head.epoch))
        if activity_ms is not None:
            head.last_activity_at = max(head.last_activity_at, activity_ms)
        return head

    def write(self) -> None:
        """Write what is kept, in short transactions; what fails is kept."""
        with self._lock:
            taken, self._moved = self._moved, {}
        moved = list(taken.items())
        while moved:
            some = moved[:_ROWS]
            try:
                with self._database.writing(durable=False) as connection:
                    connection.run_each(TOUCH, [_values(*touch) for touch in some])
            except BaseException:
                for (session_id, epoch), activity_ms in moved:
                    self.add(session_id, epoch, activity_ms)
                raise
            del moved[:_ROWS]


def _values(of: tuple[str, int], activity_ms: int) -> dict[str, object]:
    session_id, epoch = of
    return {
        "session_id": session_id,
        "session_epoch": epoch,
        "activity_ms": activity_ms,
        "activity_slot_now": activity_ms >> SLOT_BITS,
    }
