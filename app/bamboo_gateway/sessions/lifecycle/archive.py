"""Archive and restore: out of the lists, read-only, compressed; and back, the same in everything.

The decision is one event of the log (`state_change`), so it is whole or not at all (R9). Packing
the log is the store's own work after it: done again at the next start if a crash came in between.
"""

from collections.abc import Awaitable, Callable
from typing import Any

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
    RunActive,
    StorageFailed,
    StorageFull,
    Unavailable,
)
from bamboo_gateway.domain.events import SHARE_TYPES, Draft
from bamboo_gateway.domain.ids import check_id
from bamboo_gateway.domain.sessions import SessionHead
from bamboo_gateway.sessions.access import unknown_session
from bamboo_gateway.sessions.commands import Idempotency, Outcome
from bamboo_gateway.sessions.metadata import answer_after, view_of
from bamboo_gateway.sessions.pool import Decision, SessionPool
from bamboo_gateway.sessions.streaming.session_writer import SessionWriter, Vanished

log = structlog.get_logger(__name__)

_EVENT_BYTES = 1024
"""More than the event that archives a session takes."""


async def archive(
    pool: SessionPool, caller: Caller, session_id: str, idem: Idempotency | None = None
) -> Outcome:
    """Archives a session; one that is archived stays as it is.

    Raises:
        RunActive: A run is executing or queued.
    """

    def decide(live: SessionWriter) -> Decision:
        head = live.head
        if head.logged_state == "archived":
            return Decision([], {})
        if head.active or head.queue or live.starting:
            raise RunActive(
                "A run is executing or queued; cancel it first.",
                extra={"active_run_id": head.active.run_id if head.active else None},
            )
        change = {"from": head.logged_state or "idle", "to": "archived"}
        return answer_after(pool, live, [Draft("state_change", change)])

    outcome = await pool.change(caller, session_id, decide, idem=idem, read_only_too=True)
    await pack_again(pool, session_id)
    # Not `archived`: it may have been restored since.
    view = await pool.read(caller, session_id, lambda head: _view(pool, head))
    return Outcome(view, outcome.replayed)


async def pack_again(pool: SessionPool, session_id: str) -> None:
    """Packs what is archived; what fails there is tried again later, and is nobody's trouble."""
    try:
        await pack(pool, session_id)
    except NotFound:
        return  # deleted since
    except (StorageFull, StorageFailed, Unavailable) as error:
        log.warning("archive not packed", session_id=session_id, code=error.code)


async def pack(pool: SessionPool, session_id: str) -> None:
    """Has the store compress an archived session's log, once it has left memory.

    Raises:
        StorageFull, StorageFailed: It stays as it was: archived, and not compressed yet.
    """
    while True:
        try:
            async with pool.use(GATEWAY, session_id) as live, live.packing:
                await live.ready()
                if live.head.logged_state == "archived":
                    await live.settled()
                    await pool.store.pack(session_id, live.epoch)
                return
        except Vanished:
            continue


async def pack_left_over(pool: SessionPool) -> None:
    """Packs what a crash or a full disk left archived and not compressed; for ever."""
    while True:
        for session_id in pool.store.unpacked_archives():
            try:
                await pack(pool, session_id)
            except NotFound:
                continue
            except BambooError as error:
                log.warning("archive not packed", session_id=session_id, code=error.code)
        await anyio.sleep(pool.settings.cleanup_interval_seconds)


async def restore(
    pool: SessionPool, caller: Caller, session_id: str, idem: Idempotency | None = None
) -> Outcome:
    """Brings an archived session back: the same id, dates, links, events and positions.

    Raises:
        Refused: It is not archived.
    """
    back_to = "idle"

    async def prepare(live: SessionWriter) -> None:
        nonlocal back_to
        if live.head.logged_state == "archived":
            await live.settled()
            back_to = await _state_before(pool, live.head)
            await pool.store.unpack(session_id, live.epoch)
            await live.ready()

    def decide(live: SessionWriter) -> Decision:
        if live.head.logged_state != "archived":
            raise Refused("The session is not archived.", code="not-archived")
        change = {"from": "archived", "to": back_to}
        return answer_after(pool, live, [Draft("state_change", change)])

    while True:
        try:
            # Not while the log is being packed, nor the other way round: nothing could ever be
            # appended to a log that is packed right after it was brought back.
            async with pool.use(caller, session_id) as live, live.packing:
                return await pool.change(
                    caller, session_id, decide, idem=idem, prepare=prepare, read_only_too=True
                )
        except Vanished:
            continue


async def archived(pool: SessionPool, caller: Caller, session_id: str) -> dict[str, Any]:
    """Gives one ArchivedSession.

    Raises:
        NotFound: There is no archived session of that id.
    """

    async def look(head: SessionHead) -> dict[str, Any]:
        check_archived(head)
        return archived_view(pool, head)

    return await pool.read(caller, session_id, look)


async def _view(pool: SessionPool, head: SessionHead) -> dict[str, Any]:
    return archived_view(pool, head)


async def _state_before(pool: SessionPool, head: SessionHead) -> str:
    """Gives the state to go back to: a closed session is closed again."""
    # Nothing was said since: only its shares can have changed.
    for seq in range(head.seq, 0, -1):
        records = await pool.store.read(
            head.id, head.epoch, seq - 1, limit=1, max_bytes=_EVENT_BYTES
        )
        event = decode(records[0].body) if records else {}
        if event.get("type") not in SHARE_TYPES:
            return "closed" if event.get("from") == "closed" else "idle"
    return "idle"


def check_archived(head: SessionHead) -> None:
    """Refuses a session that is not archived, as if it were not there.

    Raises:
        NotFound: It is not archived.
    """
    if head.logged_state != "archived":
        raise NotFound(f"No archived session {head.id!r}.", code="archive-not-found")


def archived_view(pool: SessionPool, head: SessionHead) -> dict[str, Any]:
    """Gives the contract's ArchivedSession.

    Raises:
        Conflict: It was deleted since the head was given.
    """
    size = pool.store.size(head.id)
    return {
        "session": view_of(pool, head),
        "archived_at": format_ms(head.archived_at or head.updated_at),
        "bytes": size.stored_bytes,
        "original_bytes": size.original_bytes,
    }


async def each(
    session_ids: list[str], verb: Callable[[str], Awaitable[dict[str, Any]]]
) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """Applies a verb to each session by itself; gives what was done and what failed."""
    done: list[dict[str, Any]] = []
    failed: list[dict[str, Any]] = []
    for session_id in session_ids:
        try:
            done.append(await verb(check_id(session_id)))
        except Conflict:
            gone = unknown_session(session_id)
            failed.append({"session_id": session_id, "code": gone.code, "detail": gone.detail})
        except BambooError as error:
            failed.append({"session_id": session_id, "code": error.code, "detail": error.detail})
    return done, failed
