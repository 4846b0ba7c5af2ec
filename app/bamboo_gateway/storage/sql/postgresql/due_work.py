"""What has to be done in the sessions that nobody works at: the scans of one round.

Each list is bounded, and goes on behind the last one's end: a session that stays in a list (nobody
here has its agent) does not keep the others out.
"""

from collections.abc import Sequence
from typing import Any, Final

from bamboo_gateway.domain import codec
from bamboo_gateway.domain.sessions import SessionHead
from bamboo_gateway.storage.index.rows import HEAD_STATES, SLOT_BITS
from bamboo_gateway.storage.replicas import DueWork
from bamboo_gateway.storage.sql.postgresql.connections import Driver

# How many sessions one list has.
_LIST_MAX: Final = 500
# How many heads one round reads to know when their requests for input expire.
_HEADS_MAX: Final = 200
# How many of those are remembered.
_KNOWN_MAX: Final = 20_000

_ASKING: Final = "({asking}, {asking_timed})".format(**HEAD_STATES)


def _list(name: str, condition: str, extra: str = "NULL::bigint, NULL::text") -> str:
    """Return the part of the statement for one list.

    OFFSET 0 keeps the condition apart from the order. By old statistics the planner would walk
    through all sessions in the order of ids until it had found enough.
    """
    rows = f"SELECT id, {extra} FROM sessions s WHERE {condition} OFFSET 0"  # noqa: S608 - texts of ours
    return (
        f"(SELECT '{name}', s.* FROM ({rows}) s (id, version, executor)"  # noqa: S608 - texts of ours
        f" WHERE s.id > %(behind_{name})s ORDER BY s.id LIMIT {_LIST_MAX})"
    )


_SCANS: Final = "\nUNION ALL\n".join(
    (
        _list(
            "abandoned",
            # The living are few, and are looked up once.
            "s.executor IS NOT NULL AND s.executor <> %(executor)s AND s.executor <> ALL(ARRAY("
            "SELECT e.executor FROM executors e WHERE e.executor <> ALL(%(dead)s)))",
            "NULL::bigint, s.executor",
        ),
        _list("mine", "s.executor = %(executor)s"),
        _list("queued", f"s.has_queue AND NOT s.has_active AND s.head_state NOT IN {_ASKING}"),
        _list(
            "silent",
            "s.has_active AND s.executor IS NULL"
            f" AND s.activity_slot <= (%(silent_before)s::bigint >> {SLOT_BITS})"
            " AND s.last_activity_at < %(silent_before)s",
        ),
        _list(
            "asking",
            f"s.has_queue AND NOT s.has_active AND s.head_state IN {_ASKING}",
            "s.version, NULL::text",
        ),
    )
)
_HEADS: Final = "SELECT id, version, head FROM sessions WHERE id = ANY(%s)"
_NAMES: Final = ("abandoned", "mine", "queued", "silent", "asking")


class DueScan:
    """The scans of this process, one at a time."""

    def __init__(self) -> None:
        self._behind = dict.fromkeys(_NAMES, "")
        # When the first request of a session expires, as of a version.
        self._known: dict[str, tuple[int, int | None]] = {}

    def run(
        self,
        connection: Driver,
        executor: str,
        dead: Sequence[str],
        silent_before_ms: int,
        now_ms: int,
    ) -> tuple[DueWork, list[str]]:
        """Look for what is due, as `Replicas.due`.

        Returns:
            It, and the executors of abandoned sessions.
        """
        names: dict[str, Any] = {f"behind_{name}": last for name, last in self._behind.items()}
        names |= {"executor": executor, "dead": list(dead), "silent_before": silent_before_ms}
        found: dict[str, list[tuple[Any, ...]]] = {name: [] for name in _NAMES}
        for name, *row in connection.execute(_SCANS, names).fetchall():
            found[name].append(tuple(row))
        for name, rows in found.items():
            # A full list may have more behind it; the next one begins again otherwise.
            self._behind[name] = rows[-1][0] if len(rows) == _LIST_MAX else ""
        versions = {session_id: version for session_id, version, _ in found["asking"]}
        asking = self._expired(connection, versions, now_ms)
        ids = {name: [row[0] for row in rows] for name, rows in found.items()}
        executors = sorted({row[2] for row in found["abandoned"]})
        return DueWork(**ids | {"asking": asking}), executors

    def _expired(self, connection: Driver, versions: dict[str, int], now_ms: int) -> list[str]:
        """Return the sessions whose first request has expired."""
        known = self._known
        unknown = [one for one, version in versions.items() if known.get(one, (-1,))[0] != version]
        if unknown:
            rows = connection.execute(_HEADS, [unknown[:_HEADS_MAX]]).fetchall()
            for session_id, version, body in rows:
                head = SessionHead.of(codec.decode(bytes(body)))
                known[session_id] = (version, head.request_expires_at)
        while len(known) > _KNOWN_MAX:
            known.pop(next(iter(known)))
        ends = {one: known[one][1] for one in versions if one in known}
        return [one for one, end in ends.items() if end is not None and end <= now_ms]
