"""Compaction: the deltas of runs that ended long enough ago leave the log.

What they led to, the messages, stays; so do all positions. A log with many finished runs then costs
about its messages. The store does the work beside appends and readers; here is decided what is due.
"""

from collections import OrderedDict

import anyio
import structlog

from bamboo_gateway.domain.clock import parse_ms
from bamboo_gateway.domain.codec import decode
from bamboo_gateway.domain.errors import BambooError
from bamboo_gateway.domain.events import TERMINAL_TYPES
from bamboo_gateway.domain.limits import COMPACT_BYTES_MIN
from bamboo_gateway.domain.sessions import SessionHead
from bamboo_gateway.sessions.pool import SessionPool
from bamboo_gateway.sessions.streaming.session_writer import SessionWriter

log = structlog.get_logger(__name__)

_LOOK_SECONDS_MAX = 10.0
"""How often sessions that have become due are looked for."""

_PER_LOOK = 20
"""Logs rewritten in one round: bulk work comes in portions that leave the disk to others (R7)."""


class Compaction:
    """See the module. `run` is one task of the manager's.

    Attributes:
        freed: Bytes that have left logs so far.
    """

    def __init__(self, pool: SessionPool) -> None:
        self.freed = 0
        self._pool = pool
        # By session, when its last run ended: the oldest first.
        self._waiting: OrderedDict[str, int] = OrderedDict()
        pool.on_slot_free.append(self._run_ended)

    def _run_ended(self, live: SessionWriter) -> None:
        self._waiting[live.id] = self._pool.clock.now_ms()
        self._waiting.move_to_end(live.id)

    async def run(self) -> None:
        """Compacts what is due, for ever."""
        self._find_left_over()
        retention = self._pool.settings.delta_retention_seconds
        while True:
            await anyio.sleep(min(_LOOK_SECONDS_MAX, max(retention / 4, 0.05)))
            for session_id in self._due():
                try:
                    await self.compact(session_id)
                except BambooError as error:
                    log.warning("log not compacted", session_id=session_id, code=error.code)

    async def compact(self, session_id: str) -> int:
        """Compacts one session as far as it is due; gives the bytes freed."""
        store = self._pool.store
        if store.delta_bytes(session_id) < COMPACT_BYTES_MIN:
            return 0
        head = await store.load(session_id)
        if head is None or head.logged_state == "archived":
            return 0
        upto = await self._due_seq(head)
        if not upto:
            return 0
        freed = await store.compact(session_id, head.epoch, upto)
        self.freed += freed
        return freed

    def _due(self) -> list[str]:
        """Takes out those whose last run ended before the retention, in order."""
        before = self._pool.clock.now_ms() - self._retention_ms
        due: list[str] = []
        while self._waiting and len(due) < _PER_LOOK:
            session_id, ended_ms = next(iter(self._waiting.items()))
            if ended_ms > before:
                break
            del self._waiting[session_id]
            due.append(session_id)
        return due

    @property
    def _retention_ms(self) -> int:
        return round(self._pool.settings.delta_retention_seconds * 1000)

    async def _due_seq(self, head: SessionHead) -> int:
        """Finds up to where every run ended before the retention; 0 when there is nothing."""
        oldest_kept = self._pool.clock.now_ms() - self._retention_ms
        before = head.seq + 1
        while page := await self._pool.store.find(
            head.id, head.epoch, "run", before=before, limit=100, reverse=True
        ):
            for record in page:
                event = decode(record.body)
                if event["type"] in TERMINAL_TYPES and parse_ms(event["time"]) <= oldest_kept:
                    return record.seq
            before = page[-1].seq
        return 0

    def _find_left_over(self) -> None:
        """Finds what earlier processes have left to compact."""
        found = self._pool.store.holding_deltas(COMPACT_BYTES_MIN)
        for session_id in sorted(found, key=found.__getitem__):
            self._waiting.setdefault(session_id, found[session_id])
