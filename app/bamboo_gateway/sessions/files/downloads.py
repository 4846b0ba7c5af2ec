"""Reading and deleting files, and lists of them."""

from collections.abc import AsyncGenerator, Callable
from contextlib import aclosing, suppress
from dataclasses import dataclass
from functools import partial
from typing import Any

from bamboo_gateway.agents.turn_files import FileRefused, TurnFile, no_files
from bamboo_gateway.domain.callers import Caller
from bamboo_gateway.domain.errors import BambooError, Forbidden, Gone, NotFound, Refused
from bamboo_gateway.domain.files import FileRecord
from bamboo_gateway.domain.sessions import SessionHead
from bamboo_gateway.sessions.access import may_read
from bamboo_gateway.sessions.context import Context
from bamboo_gateway.sessions.file_shelf.records import content_of
from bamboo_gateway.sessions.registry import SessionRegistry
from bamboo_gateway.sessions.streaming.session_writer import SessionWriter
from bamboo_gateway.storage.files.base import ContentLost

_SHOWN_MAX = 20
"""The sessions that a refused deletion names."""


@dataclass(frozen=True, slots=True)
class OpenFile:
    """A file that a caller may read.

    Attributes:
        record: What it is.
        read: Returns its bytes from a start up to an end, in pieces.
    """

    record: FileRecord
    read: Callable[[int, int], AsyncGenerator[bytes]]


async def open_file(
    context: Context, registry: SessionRegistry, caller: Caller, file_id: str
) -> OpenFile:
    """Return a file for its owner, and for whoever may read a session that names it.

    Raises:
        NotFound: There is no such file for this caller.
        Gone: Its content is damaged or lost.
    """
    record = await context.files.records.find(file_id)
    if record is None or not await _may_read(context, registry, caller, record):
        raise unknown(file_id)
    if await context.store.contents.size(content_of(record)) != record.size:
        raise damaged(file_id)
    return OpenFile(record, partial(read_content, context, record))


async def open_for_agent(context: Context, writer: SessionWriter, file_id: str) -> TurnFile:
    """Return a file for the agent of a run: one that its session names.

    Raises:
        FileRefused: The session names no such file, or it is gone or damaged.
    """
    record = await context.files.records.find(file_id) if file_id in writer.head.files else None
    if record is None:
        return await no_files(file_id)
    if await context.store.contents.size(content_of(record)) != record.size:
        raise FileRefused(damaged(file_id).detail, code="file_damaged")
    pieces = partial(read_content, context, record, 0, record.size)
    return TurnFile(record.id, record.name, record.media_type, record.size, pieces)


async def read_content(
    context: Context, record: FileRecord, start: int, end: int
) -> AsyncGenerator[bytes]:
    """Yield the bytes of a file from `start` up to `end`, in pieces.

    Raises:
        Gone: They are not all there.
    """
    async with aclosing(context.store.contents.read(content_of(record), start, end)) as pieces:
        try:
            async for piece in pieces:
                yield piece
        except ContentLost:
            raise damaged(record.id) from None


async def _may_read(
    context: Context, registry: SessionRegistry, caller: Caller, record: FileRecord
) -> bool:
    if caller.is_owner(record.user_id):
        return True
    if caller.session_id is not None:
        # A ticket or share link shows the files of its session, and no other.
        with suppress(NotFound, Forbidden, Gone):
            head = await registry.head(caller, caller.session_id, "read")
            return record.id in head.files
        return False
    async for head in context.files.naming(record.id):
        if _is_readable(context, caller, head):
            return True
    return False


def _is_readable(context: Context, caller: Caller, head: SessionHead) -> bool:
    try:
        context.states.check_not_expired(head)
    except Gone:
        return False
    return may_read(caller, head, context.clock.now_ms())


async def list_files(
    context: Context, caller: Caller, after: str, limit: int
) -> tuple[list[dict[str, Any]], bool]:
    """Return the caller's files behind the file `after`, the oldest first, and whether more follow.

    Raises:
        Forbidden: The caller's credential is for one session.
    """
    if caller.session_id is not None:
        raise Forbidden("Your credential is for one session; it cannot list files.")
    found = await context.files.records.page(
        caller.user_id, after, limit + 1, all_users=caller.user_id is None
    )
    return [record.view() for record in found[:limit]], len(found) > limit


async def delete_file(context: Context, caller: Caller, file_id: str) -> None:
    """Delete a file that no session names.

    Raises:
        NotFound: There is no such file, or it belongs to another user.
        Refused: A session names it, or a message that names it may be on its way.
    """
    shelf = context.files
    record = await shelf.records.find(file_id)
    if record is None or not caller.is_owner(record.user_id):
        raise unknown(file_id)
    async with shelf.locks.hold([content_of(record)]):
        present = await shelf.records.find(file_id)
        if present is None:
            raise unknown(file_id)
        if await shelf.is_named(file_id):
            raise await _in_use(context, caller, file_id)
        await shelf.remove(present)


async def _in_use(context: Context, caller: Caller, file_id: str) -> BambooError:
    sessions: list[str] = []
    async for head in context.files.naming(file_id):
        if may_read(caller, head, context.clock.now_ms()):
            sessions.append(head.id)
            if len(sessions) >= _SHOWN_MAX:
                break
    where = f" ({', '.join(sessions[:3])} …)" if sessions else ""
    return Refused(
        f"A message names this file{where}. It goes with the last session that names it; a file "
        "that no session names can be deleted some minutes after it was named last.",
        code="file-in-use",
        extra={"session_ids": sessions},
    )


def unknown(file_id: str) -> NotFound:
    """Return the one error for an unknown file and for one that the caller may not see."""
    return NotFound(f"No file {file_id!r}.", code="file-not-found")


def damaged(file_id: str) -> Gone:
    """Return the error for a file whose bytes are not all there."""
    return Gone(
        f"The content of the file {file_id!r} is damaged. Upload the same content again: that "
        "repairs it. Or restore it from a backup.",
        code="file-damaged",
    )
