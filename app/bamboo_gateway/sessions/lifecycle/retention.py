"""Retention: which sessions the gateway deletes by itself, and when.

A session without a time to live stays until somebody deletes it. One that expired is kept for
`cleanup_period_days`, so that `reopen` can bring it back. An archived one is kept for
`archive_retention_days`, without end unless that is set. A cleanup deletes the others, with all
their files. `before` forces it: then the last activity alone counts.
"""

import random
from collections.abc import Awaitable, Callable
from dataclasses import replace
from functools import partial

import anyio
import structlog

from bamboo_gateway.domain.callers import Caller
from bamboo_gateway.domain.errors import BambooError, Conflict, NotFound
from bamboo_gateway.domain.sessions import SessionHead
from bamboo_gateway.observability.audit import AuditLog, AuditRecord
from bamboo_gateway.sessions.answers import CleanupStats
from bamboo_gateway.sessions.context import Context
from bamboo_gateway.sessions.registry import SessionRegistry
from bamboo_gateway.sessions.transaction import Transactions
from bamboo_gateway.storage.reports import SessionQuery

log = structlog.get_logger(__name__)

_DAY_MS = 24 * 3600 * 1000
_PER_CLEANUP = 1000
"""Most sessions that one scheduled cleanup deletes; the rest waits for the next."""
_JITTER = 0.1
"""Part of the interval by which scheduled cleanups differ, so that gateways do not work in step."""


async def clean(
    context: Context,
    transactions: Transactions,
    caller: Caller,
    *,
    before_ms: int | None = None,
    dry_run: bool = False,
    sessions_max: int | None = None,
    on_deleted: Callable[[str], Awaitable[None]] | None = None,
) -> CleanupStats:
    """Delete the caller's sessions that are due.

    Sessions with a run or an open stream stay. Each session is deleted by itself: a failure is
    logged, and that session stays whole.

    Args:
        context: Has the store, the clock and the limits.
        transactions: Delete the sessions.
        caller: Whose sessions are looked at.
        before_ms: The sessions whose last activity was before this time are due, and no others.
            None: the sessions whose retention has passed are due.
        dry_run: Delete nothing; answer what would be deleted.
        sessions_max: Delete at most this many.
        on_deleted: Awaited with each id right after its deletion, before the next one.

    Returns:
        The contract's CleanupStats.
    """
    cleaned: list[str] = []
    archives = 0
    freed = 0
    for head in await _due(context, transactions.registry, caller, before_ms):
        if sessions_max is not None and len(cleaned) >= sessions_max:
            break
        if dry_run:
            try:
                freed += (await context.store.size(head.id)).stored_bytes
            except Conflict:
                continue  # somebody deleted it since
        else:
            gone = await _delete_if_due(context, transactions, caller, head, before_ms)
            if gone is None:
                continue
            freed += gone
            if on_deleted is not None:
                await on_deleted(head.id)
        cleaned.append(head.id)
        archives += head.logged_state == "archived"
    return {
        "sessions_cleaned": len(cleaned) - archives,
        "archives_cleaned": archives,
        "bytes_freed": freed,
        "session_ids": cleaned,
        "dry_run": dry_run,
    }


async def schedule(
    context: Context, transactions: Transactions, caller: Caller, audit: AuditLog | None
) -> None:
    """Clean every `cleanup_interval_seconds`, and audit each deletion.

    Of several processes that share a store one does it.
    """
    record = partial(_record, audit, context, caller) if audit is not None else None
    while True:
        interval = context.settings.cleanup_interval_seconds
        jitter = random.uniform(-_JITTER, _JITTER)  # noqa: S311 - not a secret
        await anyio.sleep(interval * (1 + jitter))
        if not context.leads:
            continue
        try:
            stats = await clean(
                context, transactions, caller, sessions_max=_PER_CLEANUP, on_deleted=record
            )
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


async def _record(audit: AuditLog, context: Context, caller: Caller, session_id: str) -> None:
    with anyio.CancelScope(shield=True):  # the session is gone, also when the gateway ends now
        await audit.append(
            AuditRecord(
                at_ms=context.clock.now_ms(),
                action="cleanup",
                caller=caller.id,
                targets=[session_id],
            )
        )


async def _due(
    context: Context, registry: SessionRegistry, caller: Caller, before_ms: int | None
) -> list[SessionHead]:
    """Find what is due, in each list the longest inactive first."""
    oldest_first = SessionQuery(sort_by="last_activity_at", descending=False, archived="include")
    if before_ms is not None:
        lists = [oldest_first]
    else:
        # Both lists hold little beside what is due: most sessions have no time to live.
        lists = [replace(oldest_first, state="expired")]
        if context.settings.archive_retention_days is not None:
            lists.append(replace(oldest_first, archived="only"))
    due: list[SessionHead] = []
    for query in lists:
        async for head in registry.each(caller, query):
            if before_ms is not None and head.last_activity_at >= before_ms:
                break
            if _is_due(context, head, before_ms):
                due.append(head)
    return due


def _is_due(context: Context, head: SessionHead, before_ms: int | None) -> bool:
    if head.active or head.queue or context.states.is_watched(head.id):
        return False
    if before_ms is not None:
        return head.last_activity_at < before_ms
    now_ms = context.clock.now_ms()
    if head.logged_state == "archived":
        days = context.settings.archive_retention_days
        return days is not None and now_ms - (head.archived_at or head.updated_at) > days * _DAY_MS
    expired_at = head.expires_at
    return (
        expired_at is not None
        and now_ms - expired_at >= context.settings.cleanup_period_days * _DAY_MS
    )


async def _is_watched_elsewhere(context: Context, session_id: str) -> bool:
    """Return whether another process that shares the store has a stream of the session."""
    replicas = context.store.replicas
    return replicas is not None and bool(await replicas.present("stream", [session_id]))


async def _delete_if_due(
    context: Context,
    transactions: Transactions,
    caller: Caller,
    head: SessionHead,
    before_ms: int | None,
) -> int | None:
    """Delete a session if it is still due now.

    Returns:
        The bytes that its records took, or None when it stays.
    """
    try:
        if await _is_watched_elsewhere(context, head.id):
            return None
        return await transactions.delete(
            caller, head.id, lambda now: _is_due(context, now, before_ms), spare_used=True
        )
    except NotFound:
        return None
    except BambooError as error:
        log.warning("session not cleaned", session_id=head.id, code=error.code)
        return None
