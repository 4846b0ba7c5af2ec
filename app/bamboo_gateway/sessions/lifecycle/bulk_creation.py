"""Creating a session with a whole history at once: forks and imports.

The log is written aside in pages, and published by one record of the store (R9); it never passes
through the journal, and never stands in memory whole.
"""

from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any

from anyio import to_thread

from bamboo_gateway.domain.callers import Caller
from bamboo_gateway.domain.clock import format_ms
from bamboo_gateway.domain.codec import encode
from bamboo_gateway.domain.errors import SessionExists, TooLarge
from bamboo_gateway.domain.events import Draft
from bamboo_gateway.domain.projections import fold
from bamboo_gateway.domain.sessions import SessionHead
from bamboo_gateway.sessions.access import check_made, id_taken
from bamboo_gateway.sessions.commands import Idempotency, Outcome
from bamboo_gateway.sessions.history import bulk_limiter
from bamboo_gateway.sessions.idempotency import KeptAnswer, key_digest
from bamboo_gateway.sessions.pool import SessionPool
from bamboo_gateway.sessions.streaming.session_writer import SessionWriter, Vanished
from bamboo_gateway.storage.base import Event, Note


class HistoryWriter:
    """Turns drafts into a session's next events, folding its head as it goes.

    Args:
        head: The session's head before them; it is the writer's from here.
        now_ms: The time its events carry; messages keep their own `created_at`.
        max_event_bytes: The bound of one event.
    """

    def __init__(self, head: SessionHead, now_ms: int, max_event_bytes: int) -> None:
        self.head = head
        self._now_ms = now_ms
        self._time = format_ms(now_ms)
        self._max = max_event_bytes

    def events(self, drafts: Sequence[Draft]) -> list[Event]:
        """Return the next events.

        Raises:
            TooLarge: One is over the bound.
        """
        events: list[Event] = []
        for kind, fields in drafts:
            event: dict[str, Any] = {"type": kind, "seq": self.head.seq + 1, "time": self._time}
            event |= fields
            body = encode(event)
            if len(body) > self._max:
                raise TooLarge(
                    f"A message has {len(body)} bytes as an event; max_event_bytes is {self._max}.",
                    code="event-too-large",
                )
            fold(self.head, event, self._now_ms)
            events.append(Event(self.head.seq, kind, body))
        return events

    def note(self, caller: Caller, idem: Idempotency, answer: dict[str, Any]) -> Note:
        """Return the note that keeps an answer for an idempotency key."""
        kept = KeptAnswer(idem.body_digest, answer, self._now_ms)
        return Note(self.head.seq, *kept.note(key_digest(caller, idem)))


@dataclass(frozen=True, slots=True)
class History:
    """What a new session is made of, and what is answered once it is there.

    `pages` gives its events, in pages of a bounded size, for a log of the epoch it is given.
    """

    pages: Callable[[int], AsyncIterator[list[Draft]]]
    answer: Callable[[SessionHead], dict[str, Any]]


async def create_whole(
    pool: SessionPool,
    caller: Caller,
    session_id: str,
    history: History,
    idem: Idempotency | None,
) -> Outcome:
    """Publishes a session with all its history or not at all, once for each idempotency key.

    Raises:
        SessionExists: There is a session of that id.
        LimitReached, StorageFull, StorageFailed, TooLarge: Nothing of it is stored.
    """
    if kept := await pool.kept(caller, session_id, idem, "make"):
        return kept
    while True:
        try:
            async with pool.use(caller, session_id, "make") as live:
                head = await _publish(pool, caller, live, history, idem)
                return Outcome(history.answer(head))
        except Vanished:
            continue
        except SessionExists:
            # It may have been the same request, which was faster.
            if kept := await pool.kept(caller, session_id, idem, "make"):
                return kept
            raise


async def _publish(
    pool: SessionPool,
    caller: Caller,
    live: SessionWriter,
    history: History,
    idem: Idempotency | None,
) -> SessionHead:
    await live.ready()
    if live.head.seq or not live.is_unborn:
        await live.settled()
        raise id_taken(live.id)
    live.hold()
    place = ExitStack()
    try:
        settings = pool.settings
        unborn = SessionHead(live.id, live.epoch)
        writer = HistoryWriter(unborn, pool.clock.now_ms(), settings.max_event_bytes)
        async with pool.store.creation(live.id, live.epoch) as creation:
            async for drafts in history.pages(live.epoch):
                if writer.head.seq == 0:
                    place.enter_context(pool.quotas.creating(drafts[0].fields["user_id"]))
                await creation.write(
                    await to_thread.run_sync(writer.events, drafts, limiter=bulk_limiter)
                )
            check_made(caller, writer.head.user_id)
            if idem is not None:
                answer = history.answer(writer.head)
                await creation.write((), [writer.note(caller, idem, answer)])
            await creation.publish(writer.head.copy())
    except BaseException:
        live.vanish("deleted")
        live.resume()
        raise
    finally:
        place.close()
    live.born(writer.head)
    live.resume()
    return writer.head.copy()
