"""Cleanup: sessions whose time has passed go, with everything of theirs that is on the disk."""

import random
from collections.abc import Awaitable, Callable
from functools import partial
from typing import Any

import anyio
import structlog

from bamboo_gateway.domain.callers import Caller
from bamboo_gateway.domain.errors import BambooError, Conflict, NotFound
from bamboo_gateway.domain.sessions import SessionHead
from bamboo_gateway.observability.audit import AuditLog, AuditRecord
from bamboo_gateway.sessions.pool import SessionPool
from bamboo_gateway.storage.base import SessionQuery

log = structlog.get_logger(__name__)

_DAY_MS = 24 * 3600 * 1000
_PER_TURN = 1000
"""Sessions that one scheduled turn cleans at most; the rest waits for the next."""
_JITTER = 0.1
"""Part of the interval by which scheduled turns differ, so that gateways do not work in step."""


async def clean(
    pool: SessionPool,
    caller: Caller,
    *,
    before_ms: int | None = None,
    dry_run: bool = False,
    sessions_max: int | None = None,
    told: Callable[[str], Awaitable[None]] | None = None,
) -> dict[str, Any]:
    """Deletes what is expired, or with `before_ms` all whose last activity lies before it.

    Of the caller's own, that is. Sessions with a run or a reader are left alone. Each is deleted by
    itself: what fails is logged and stays, whole; what is gone is `told` before the next one goes.

    Returns:
        The contract's CleanupStats.
    """
    cleaned: list[str] = []
    archives = 0
    freed = 0
    for head in await _due(pool, caller, before_ms):
        if sessions_max is not None and len(cleaned) >= sessions_max:
            break
        if dry_run:
            try:
                freed += pool.store.size(head.id).stored_bytes
            except Conflict:
                continue  # deleted since
        else:
            gone = await _delete_if_due(pool, caller, head, before_ms)
            if gone is None:
                continue
            freed += gone
            if told is not None:
                await told(head.id)
        cleaned.append(head.id)
        archives += head.logged_state == "archived"
    return {
        "sessions_cleaned": len(cleaned) - archives,
        "archives_cleaned": archives,
        "bytes_freed": freed,
        "session_ids": cleaned,
        "dry_run": dry_run,
    }


async def schedule(pool: SessionPool, caller: Caller, audit: AuditLog | None) -> None:
    """Cleans every `cleanup_interval_seconds`, for ever, and records each session that goes."""
    told = partial(_record, audit, pool, caller) if audit is not None else None
    while True:
        interval = pool.settings.cleanup_interval_seconds
        jitter = random.uniform(-_JITTER, _JITTER)  # noqa: S311 - not a secret
        await anyio.sleep(interval * (1 + jitter))
        try:
            stats = await clean(pool, caller, sessions_max=_PER_TURN, told=told)
        except BambooError as error:
            log.warning("cleanup failed", code=error.code)
            continue
        if stats["session_ids"]:
            log.info(
                "cleaned expired sessions",
                sessions=stats["sessions_cleaned"],
                archives=stats["archives_cleaned"],
                bytes_freed=stats["bytes_freed"],
            )


async def _record(audit: AuditLog, pool: SessionPool, caller: Caller, session_id: str) -> None:
    with anyio.CancelScope(shield=True):  # it is gone, also when the gateway ends now
        await audit.append(
            AuditRecord(
                at_ms=pool.clock.now_ms(),
                action="cleanup",
                caller=caller.id,
                targets=[session_id],
            )
        )


async def _due(pool: SessionPool, caller: Caller, before_ms: int | None) -> list[SessionHead]:
    """Finds what is due, the longest inactive first."""
    due: list[SessionHead] = []
    query = SessionQuery(sort_by="last_activity_at", descending=False, archived="include")
    async for head in pool.each(caller, query):
        if before_ms is not None and head.last_activity_at >= before_ms:
            break
        if _is_due(pool, head, before_ms):
            due.append(head)
    return due


def _is_due(pool: SessionPool, head: SessionHead, before_ms: int | None) -> bool:
    channel = pool.channel(head.id)
    if head.active or head.queue or (channel is not None and channel.connections):
        return False
    if before_ms is not None:
        return head.last_activity_at < before_ms
    inactive_ms = pool.clock.now_ms() - head.last_activity_at
    if head.logged_state == "archived":
        days = pool.settings.archive_retention_days
        since = pool.clock.now_ms() - (head.archived_at or head.updated_at)
        return days is not None and since > days * _DAY_MS
    if pool.state_of(head) == "expired":
        return True
    days = pool.settings.cleanup_period_days
    return days > 0 and inactive_ms > days * _DAY_MS


async def _delete_if_due(
    pool: SessionPool, caller: Caller, head: SessionHead, before_ms: int | None
) -> int | None:
    """Deletes a session if it is still due when its turn comes; gives the bytes freed."""
    try:
        return await pool.delete(
            caller, head.id, lambda now: _is_due(pool, now, before_ms), spare_used=True
        )
    except NotFound:
        return None
    except BambooError as error:
        log.warning("session not cleaned", session_id=head.id, code=error.code)
        return None
