"""Archive and restore. An archived session is read-only, compressed, and in no list.

Restoring brings it back with the same id, dates, events and positions. Either decision is one event
of the log (`state_change`), so it is whole or not at all (R9). The store packs the log afterwards;
after a crash in between, the next start does it.
"""

from collections.abc import Awaitable, Callable
from dataclasses import replace

import anyio
import structlog

from bamboo_gateway.domain.callers import GATEWAY, Caller
from bamboo_gateway.domain.clock import format_ms
from bamboo_gateway.domain.codec import decode
from bamboo_gateway.domain.errors import (
    BambooError,
    Conflict,
    NotFound,
    Refused,
    StorageFailed,
    StorageFull,
    Unavailable,
)
from bamboo_gateway.domain.events import SHARE_TYPES, Draft
from bamboo_gateway.domain.ids import check_id
from bamboo_gateway.domain.sessions import SessionHead
from bamboo_gateway.domain.views import SessionView
from bamboo_gateway.sessions.access import unknown_session
from bamboo_gateway.sessions.answers import ArchivedSession, Done, NotDone
from bamboo_gateway.sessions.commands import Idempotency, Outcome
from bamboo_gateway.sessions.context import Context
from bamboo_gateway.sessions.metadata import answer_after, view_of
from bamboo_gateway.sessions.registry import SessionRegistry
from bamboo_gateway.sessions.streaming.session_writer import SessionWriter
from bamboo_gateway.sessions.transaction import Decision, SlotFreed, Transactions
from bamboo_gateway.storage.reports import StoredSize

log = structlog.get_logger(__name__)

_EVENT_BYTES = 1024
"""The event that archives a session is smaller."""


async def archive(
    context: Context,
    transactions: Transactions,
    caller: Caller,
    session_id: str,
    idem: Idempotency | None = None,
) -> Outcome[ArchivedSession]:
    """Archive a session. An archived session stays as it is.

    Raises:
        RunActive: A run is executing or queued.
    """

    def decide(writer: SessionWriter) -> Decision:
        head = writer.head
        if head.logged_state == "archived":
            return Decision([], {})
        writer.check_not_busy("A run is executing or queued; cancel it first.")
        change = {"from": head.logged_state or "idle", "to": "archived"}
        return answer_after(context, writer, [Draft("state_change", change)])

    outcome = await transactions.run(caller, session_id, decide, accepts="any", idem=idem)
    await pack_again(context, transactions.registry, session_id)

    async def view(head: SessionHead) -> ArchivedSession:
        # Without a check that it is archived: it may have been restored since.
        return await _archived_view(context, head)

    answer = await transactions.registry.read(caller, session_id, view)
    return Outcome(answer, outcome.replayed)


async def pack_again(context: Context, registry: SessionRegistry, session_id: str) -> None:
    """Pack an archived session. A failure is logged, and `pack_left_over` tries again."""
    try:
        await pack(context, registry, session_id)
    except NotFound:
        return  # deleted since
    except (StorageFull, StorageFailed, Unavailable) as error:
        log.warning("archive not packed", session_id=session_id, code=error.code)


async def pack(context: Context, registry: SessionRegistry, session_id: str) -> None:
    """Let the store compress the log of an archived session.

    Raises:
        StorageFull, StorageFailed: The session stays archived, and is not compressed yet.
    """

    async def compress(writer: SessionWriter) -> None:
        async with writer.packing:
            await writer.ready()
            if writer.head.logged_state == "archived":
                await writer.settled()
                await context.store.pack(session_id, writer.epoch)

    await registry.within(GATEWAY, session_id, compress)


async def pack_left_over(context: Context, registry: SessionRegistry) -> None:
    """Keep packing archived sessions that a crash or a full disk left uncompressed.

    Of several processes that share a store one does it.
    """
    while True:
        if context.leads:
            await _pack_all(context, registry)
        await anyio.sleep(context.settings.cleanup_interval_seconds)


async def _pack_all(context: Context, registry: SessionRegistry) -> None:
    try:
        left_over = await context.store.unpacked_archives()
    except BambooError as error:
        log.warning("no look for archives to pack", code=error.code)
        return
    for session_id in left_over:
        try:
            await pack(context, registry, session_id)
        except NotFound:
            continue
        except BambooError as error:
            log.warning("archive not packed", session_id=session_id, code=error.code)


async def restore(
    context: Context,
    transactions: Transactions,
    caller: Caller,
    session_id: str,
    idem: Idempotency | None = None,
) -> Outcome[SessionView]:
    """Bring an archived session back, with the same id, dates, links, events and positions.

    Raises:
        Refused: The session is not archived.
    """
    back_to = "idle"

    async def prepare(writer: SessionWriter) -> None:
        nonlocal back_to
        if writer.head.logged_state == "archived":
            await writer.settled()
            back_to = await _state_before(context, writer.head)
            await context.store.unpack(session_id, writer.epoch)
            await writer.ready()

    def decide(writer: SessionWriter) -> Decision[SessionView]:
        if writer.head.logged_state != "archived":
            raise Refused("The session is not archived.", code="not-archived")
        change = {"from": "archived", "to": back_to}
        decision = answer_after(context, writer, [Draft("state_change", change)])
        # What has expired meanwhile is closed now.
        return replace(decision, effects=(SlotFreed(transactions.registry, writer),))

    async def unpack(writer: SessionWriter) -> Outcome[SessionView]:
        # Packing and restoring exclude each other: nothing could ever be appended to a log that
        # is packed right after it was restored.
        async with writer.packing:
            return await transactions.run(
                caller, session_id, decide, accepts="any", prepare=prepare, idem=idem
            )

    return await transactions.registry.within(caller, session_id, unpack)


async def archived(
    context: Context, registry: SessionRegistry, caller: Caller, session_id: str
) -> ArchivedSession:
    """Return one ArchivedSession.

    Raises:
        NotFound: There is no archived session of that id.
    """

    async def look(head: SessionHead) -> ArchivedSession:
        check_archived(head)
        return await _archived_view(context, head)

    return await registry.read(caller, session_id, look)


async def _state_before(context: Context, head: SessionHead) -> str:
    """Return the state to go back to: a closed session is closed again."""
    # Since it was archived, only its shares can have changed.
    for seq in range(head.seq, 0, -1):
        records = await context.store.read(
            head.id, head.epoch, seq - 1, limit=1, max_bytes=_EVENT_BYTES
        )
        event = decode(records[0].body) if records else {}
        if event.get("type") not in SHARE_TYPES:
            return "closed" if event.get("from") == "closed" else "idle"
    return "idle"


def check_archived(head: SessionHead) -> None:
    """Refuse a session that is not archived, as if it did not exist.

    Raises:
        NotFound: The session is not archived.
    """
    if head.logged_state != "archived":
        raise NotFound(f"No archived session {head.id!r}.", code="archive-not-found")


async def _archived_view(context: Context, head: SessionHead) -> ArchivedSession:
    """Return an ArchivedSession.

    Raises:
        Conflict: The session was deleted since the head was read.
    """
    return archived_view(context, head, await context.store.size(head.id))


def archived_view(context: Context, head: SessionHead, size: StoredSize) -> ArchivedSession:
    """Return the contract's ArchivedSession."""
    return {
        "session": view_of(context, head),
        "archived_at": format_ms(head.archived_at or head.updated_at),
        "bytes": size.stored_bytes,
        "original_bytes": size.original_bytes,
    }


async def each(
    session_ids: list[str], command: Callable[[str], Awaitable[Done]]
) -> tuple[list[Done], list[NotDone]]:
    """Apply a command to each session by itself. Return what was done and what failed."""
    done: list[Done] = []
    failed: list[NotDone] = []
    for session_id in session_ids:
        try:
            done.append(await command(check_id(session_id)))
        except Conflict:
            gone = unknown_session(session_id)
            failed.append({"session_id": session_id, "code": gone.code, "detail": gone.detail})
        except BambooError as error:
            failed.append({"session_id": session_id, "code": error.code, "detail": error.detail})
    return done, failed
