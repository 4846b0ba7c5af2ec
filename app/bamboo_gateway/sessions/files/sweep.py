"""The sweep: removes what no session names, and what failed calls have left behind.

A file that no session names is marked with the time, and removed when it was unnamed for
`file_retention_seconds`. So nothing that is deleted and restored, forked or backed up meanwhile
loses its files. Each step holds the lock of the content and looks again: a message that names the
file in between keeps it.
"""

from dataclasses import dataclass, replace
from typing import Final

import anyio
import structlog
from anyio.lowlevel import checkpoint

from bamboo_gateway.domain.errors import BambooError
from bamboo_gateway.domain.files import FileRecord
from bamboo_gateway.domain.limits import IDEMPOTENCY_RETENTION_MS
from bamboo_gateway.sessions.context import Context
from bamboo_gateway.sessions.file_shelf.records import changed, content_of, referred
from bamboo_gateway.sessions.file_shelf.shelf import REFERENCE_FRESH_MS
from bamboo_gateway.settings import Settings

log = structlog.get_logger(__name__)


_LOOKS_IN_RETENTION: Final = 24
_PAUSE_MAX_SECONDS: Final = 3600
"""The longest pause between two sweeps. Each reads what is known of all files, so it does not come
with each cleanup: a file that is kept for a day may go an hour later."""


@dataclass(slots=True)
class Swept:
    """What a sweep removed."""

    files: int = 0
    bytes_freed: int = 0
    references: int = 0
    contents: int = 0


async def schedule(context: Context) -> None:
    """Sweep every hour (`pause_seconds`), as long as the gateway runs.

    Of several processes that share a store one does it.
    """
    while True:
        await anyio.sleep(pause_seconds(context.settings))
        if not context.leads:
            continue
        try:
            swept = await sweep(context)
        except BambooError as error:
            log.warning("files could not be swept, trying again later", code=error.code)
            continue
        if swept.files or swept.contents:
            log.info("removed files that no session names", files=swept.files)


def pause_seconds(settings: Settings) -> float:
    """Return how long to wait before a sweep: never less than `cleanup_interval_seconds`."""
    pause = min(settings.file_retention_seconds / _LOOKS_IN_RETENTION, _PAUSE_MAX_SECONDS)
    return max(pause, settings.cleanup_interval_seconds)


async def sweep(context: Context) -> Swept:
    """Look at all files once.

    Raises:
        StorageFull, StorageFailed, Unavailable: The rest is left for the next sweep.
    """
    swept = Swept()
    async for record in context.files.records.each():
        await _sweep_file(context, record.id, swept)
        await checkpoint()
    freed = await context.files.delete_strays()
    swept.contents += len(freed)
    swept.bytes_freed += sum(freed)
    await _sweep_keys(context)
    return swept


async def _sweep_file(context: Context, file_id: str, swept: Swept) -> None:
    shelf = context.files
    record = await shelf.records.find(file_id)
    if record is None:
        return
    async with shelf.locks.hold([content_of(record)]):
        record = await shelf.records.find(file_id)
        if record is None:
            return
        is_named, stale = await _references(context, record)
        changes = [referred(file_id, session_id, None) for session_id in stale]
        swept.references += len(stale)
        now_ms = context.clock.now_ms()
        if is_named:
            if record.unnamed_since is not None:
                changes.append(changed(replace(record, unnamed_since=None)))
        elif record.unnamed_since is None:
            changes.append(changed(replace(record, unnamed_since=now_ms)))
        elif now_ms - record.unnamed_since >= context.settings.file_retention_seconds * 1000:
            swept.bytes_freed += await shelf.remove(record)
            swept.files += 1
            return
        await shelf.records.write(changes)


async def _references(context: Context, record: FileRecord) -> tuple[bool, list[str]]:
    """Return whether a session names the file, or may be about to, and the stale references."""
    is_named, stale, after = False, [], ""
    oldest = context.clock.now_ms() - REFERENCE_FRESH_MS
    while page := await context.files.records.references(record.id, after):
        for session_id, at in page:
            head = await context.store.load(session_id)
            if (head is not None and record.id in head.files) or at > oldest:
                is_named = True
            else:
                stale.append(session_id)
        after = page[-1][0]
    return is_named, stale


async def _sweep_keys(context: Context) -> None:
    oldest = context.clock.now_ms() - IDEMPOTENCY_RETENTION_MS
    await context.files.records.forget_keys(lambda kept: kept["at"] <= oldest)
