"""Compaction: removes the deltas of runs that ended long enough ago from the log.

The messages that the deltas led to stay, and so do all positions. A log with many finished runs
then takes little more than its messages. This module decides what is due; the store does the work,
beside appends and readers.
"""

from collections import OrderedDict
from math import inf

import anyio
import structlog

from bamboo_gateway.domain.clock import parse_ms
from bamboo_gateway.domain.codec import decode
from bamboo_gateway.domain.errors import BambooError
from bamboo_gateway.domain.events import TERMINAL_TYPES
from bamboo_gateway.domain.limits import COMPACT_BYTES_MIN
from bamboo_gateway.domain.sessions import SessionHead
from bamboo_gateway.sessions.context import Context
from bamboo_gateway.sessions.registry import SessionRegistry
from bamboo_gateway.sessions.streaming.session_writer import SessionWriter

log = structlog.get_logger(__name__)

_LOOK_SECONDS_MAX = 10.0
"""The longest wait between two checks for sessions that have become due."""

_LOOK_AGAIN_SECONDS = 3600.0
"""How often one of several processes looks for what those left that are not there any more."""

_PER_LOOK = 20
"""Logs to rewrite in one round: bulk work comes in portions that leave the disk to others (R7)."""


class Compaction:
    """Finds the logs that are due, and compacts them. `run` is a background task."""

    def __init__(self, context: Context, registry: SessionRegistry) -> None:
        self._context = context
        # When the last run of each session ended, the oldest first.
        self._waiting: OrderedDict[str, int] = OrderedDict()
        self._look_at = -inf
        registry.on_slot_free.append(self._run_ended)

    def _run_ended(self, writer: SessionWriter) -> None:
        self._waiting[writer.id] = self._context.clock.now_ms()
        self._waiting.move_to_end(writer.id)

    async def run(self) -> None:
        """Keep compacting the logs that become due."""
        retention = self._context.settings.delta_retention_seconds
        while True:
            await self._look_for_left_over()
            await anyio.sleep(min(_LOOK_SECONDS_MAX, max(retention / 4, 0.05)))
            for session_id in self._due():
                try:
                    await self.compact(session_id)
                except BambooError as error:
                    log.warning("log not compacted", session_id=session_id, code=error.code)

    async def compact(self, session_id: str) -> int:
        """Compact one session as far as it is due. Return the bytes freed."""
        store = self._context.store
        if await store.delta_bytes(session_id) < COMPACT_BYTES_MIN:
            return 0
        head = await store.load(session_id)
        if head is None or head.logged_state == "archived":
            return 0
        upto = await self._due_seq(head)
        if not upto:
            return 0
        freed = await store.compact(session_id, head.epoch, upto)
        self._context.tally.compacted_bytes += freed
        return freed

    def _due(self) -> list[str]:
        """Take out the sessions whose last run ended before the retention, in order."""
        before = self._context.clock.now_ms() - self._retention_ms
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
        return round(self._context.settings.delta_retention_seconds * 1000)

    async def _due_seq(self, head: SessionHead) -> int:
        """Return the seq up to which all runs ended before the retention, or 0."""
        oldest_kept = self._context.clock.now_ms() - self._retention_ms
        before = head.seq + 1
        while page := await self._context.store.find(
            head.id, head.epoch, "run", before=before, limit=100, reverse=True
        ):
            for record in page:
                event = decode(record.body)
                if event["type"] in TERMINAL_TYPES and parse_ms(event["time"]) <= oldest_kept:
                    return record.seq
            before = page[-1].seq
        return 0

    async def _look_for_left_over(self) -> None:
        """Look once for what earlier processes left; again for what others leave, as the leader."""
        now = self._context.clock.monotonic()
        if now < self._look_at or not self._context.leads:
            return
        is_shared = self._context.store.replicas is not None
        self._look_at = now + _LOOK_AGAIN_SECONDS if is_shared else inf
        try:
            await self._find_left_over()
        except BambooError as error:  # the next look finds them
            log.warning("no look for logs to compact", code=error.code)

    async def _find_left_over(self) -> None:
        """Find what other processes left to compact."""
        found = await self._context.store.holding_deltas(COMPACT_BYTES_MIN)
        for session_id in sorted(found, key=found.__getitem__):
            self._waiting.setdefault(session_id, found[session_id])
