"""The sweep: removes what no session names, and what failed calls have left behind.

A file that no session names is marked with the time, and removed when it was unnamed for
`file_retention_seconds`. So nothing that is deleted and restored, forked or backed up meanwhile
loses its files. Each step holds the lock of the content and looks again: a message that names the
file in between keeps it.
"""

from collections.abc import AsyncIterator
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import anyio
import structlog
from anyio.lowlevel import checkpoint

from bamboo_gateway.domain.codec import decode
from bamboo_gateway.domain.errors import BambooError
from bamboo_gateway.domain.files import FileRecord
from bamboo_gateway.domain.limits import IDEMPOTENCY_RETENTION_MS
from bamboo_gateway.sessions.context import Context
from bamboo_gateway.sessions.file_shelf.records import KEPT, changed, content_of, referred
from bamboo_gateway.sessions.file_shelf.shelf import REFERENCE_FRESH_MS
from bamboo_gateway.storage.reports import ValueChange

if TYPE_CHECKING:
    from bamboo_gateway.storage.files.base import ContentName

log = structlog.get_logger(__name__)


@dataclass(slots=True)
class Swept:
    """What a sweep removed."""

    files: int = 0
    bytes_freed: int = 0
    references: int = 0
    contents: int = 0


async def schedule(context: Context) -> None:
    """Sweep every `cleanup_interval_seconds`, as long as the gateway runs."""
    while True:
        await anyio.sleep(context.settings.cleanup_interval_seconds)
        try:
            swept = await sweep(context)
        except BambooError as error:
            log.warning("files could not be swept, trying again later", code=error.code)
            continue
        if swept.files or swept.contents:
            log.info("removed files that no session names", files=swept.files)


async def sweep(context: Context) -> Swept:
    """Look at all files once.

    Raises:
        StorageFull, StorageFailed, Unavailable: The rest is left for the next sweep.
    """
    swept = Swept()
    async for record in context.files.records.each():
        await _sweep_file(context, record.id, swept)
        await checkpoint()
    await _sweep_contents(context, swept)
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


async def _sweep_contents(context: Context, swept: Swept) -> None:
    """Delete the contents that no file has: an upload ended between content and record."""
    shelf, contents = context.files, context.store.contents
    after: ContentName | None = None
    while page := await contents.contents(after):
        for one in page:
            if await shelf.records.has_content(one.name):
                continue
            async with shelf.locks.hold([one.name]):
                # An upload holds the lock from before the content to after the record.
                if not await shelf.records.has_content(one.name):
                    freed = await contents.delete(one.name)
                    shelf.usage.add(one.name.owner, -1, -freed)
                    swept.contents += 1
                    swept.bytes_freed += freed
        after = page[-1].name


async def _sweep_keys(context: Context) -> None:
    async for page in _kept_keys(context):
        oldest = context.clock.now_ms() - IDEMPOTENCY_RETENTION_MS
        old = [ValueChange(KEPT, key, None) for key, kept in page if kept["at"] <= oldest]
        await context.files.records.write(old)


async def _kept_keys(context: Context) -> AsyncIterator[list[tuple[str, dict[str, Any]]]]:
    after = ""
    while page := await context.store.values(KEPT, after=after, limit=500):
        yield [(key, decode(value)) for key, value in page]
        after = page[-1][0]
