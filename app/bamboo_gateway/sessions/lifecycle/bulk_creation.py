"""Creating a session with a whole history at once: forks and imports.

The store writes the new log aside, in pages, and publishes it with one record (R9). So the history
never passes through the journal, and is never in memory as a whole.
"""

from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Generic

from anyio import to_thread

from bamboo_gateway.domain.branch_folds import linked
from bamboo_gateway.domain.callers import Caller
from bamboo_gateway.domain.clock import format_ms
from bamboo_gateway.domain.codec import encode
from bamboo_gateway.domain.errors import SessionExists, TooLarge
from bamboo_gateway.domain.events import Draft
from bamboo_gateway.domain.projections import fold
from bamboo_gateway.domain.sessions import SessionHead
from bamboo_gateway.sessions.access import check_made, id_taken
from bamboo_gateway.sessions.commands import AnswerT, Idempotency, Outcome
from bamboo_gateway.sessions.context import Context
from bamboo_gateway.sessions.history import bulk_limiter
from bamboo_gateway.sessions.idempotency import RequestKey
from bamboo_gateway.sessions.streaming.session_writer import SessionWriter
from bamboo_gateway.sessions.transaction import Transactions
from bamboo_gateway.storage.commits import Event, Note

if TYPE_CHECKING:
    from bamboo_gateway.sessions.stored_quotas import Aside


class HistoryWriter:
    """Turns drafts into a session's next events, and folds them into its head.

    Args:
        head: The session's head before the drafts. From here on it belongs to this object.
        now_ms: The time of the events; messages keep their own `created_at`.
        max_event_bytes: The largest size of an event.
    """

    def __init__(self, head: SessionHead, now_ms: int, max_event_bytes: int) -> None:
        self.head = head
        self._now_ms = now_ms
        self._time = format_ms(now_ms)
        self._max = max_event_bytes

    def events(self, drafts: Sequence[Draft]) -> list[Event]:
        """Return the next events.

        Raises:
            TooLarge: An event is over `max_event_bytes`.
        """
        events: list[Event] = []
        for draft in drafts:
            [(kind, fields)] = linked(self.head, [draft])
            event: dict[str, Any] = {"type": kind, "seq": self.head.seq + 1, "time": self._time}
            event |= fields
            body = encode(event)
            if len(body) > self._max:
                raise TooLarge(
                    f"A message is larger than {self._max} bytes as an event (max_event_bytes).",
                    code="event-too-large",
                )
            fold(self.head, event, self._now_ms)
            events.append(Event(self.head.seq, kind, body))
        return events

    def note(self, key: RequestKey, answer: Mapping[str, Any]) -> Note:
        """Return the note that keeps an answer for an idempotency key."""
        return Note(self.head.seq, *key.note(answer, self._now_ms))


@dataclass(frozen=True, slots=True)
class History(Generic[AnswerT]):
    """The history of a new session.

    Attributes:
        pages: Yields its events in pages of a bounded size, for a log of the given epoch.
        answer: Returns the answer to the caller, from the new session's head.
    """

    pages: Callable[[int], AsyncIterator[list[Draft]]]
    answer: Callable[[SessionHead], AnswerT]


async def create_whole(
    context: Context,
    transactions: Transactions,
    caller: Caller,
    session_id: str,
    prepare: Callable[[], Awaitable[History[AnswerT]]],
    idem: Idempotency | None,
) -> Outcome[AnswerT]:
    """Publish a session with all its history or not at all, once for each idempotency key.

    Args:
        context: Has the store, the clock and the limits.
        transactions: Know the first answers to keys.
        caller: Who creates the session.
        session_id: Its id.
        prepare: Returns the session's history. It is called only when this is no repeat.
        idem: The request's idempotency key.

    Raises:
        SessionExists: There is a session of that id.
        LimitReached, StorageFull, StorageFailed, TooLarge: Nothing of it is stored.
    """

    async def write(writer: SessionWriter, key: RequestKey | None) -> Outcome[AnswerT]:
        history = await prepare()
        head = await _publish(context, caller, writer, history, key)
        return Outcome(history.answer(head))

    try:
        return await transactions.unless_answered(caller, session_id, idem, write, "make")
    except SessionExists:
        # The same request may have created it meanwhile.
        if kept_since := await transactions.replay(caller, session_id, idem, "make"):
            return kept_since
        raise


async def _publish(
    context: Context,
    caller: Caller,
    writer: SessionWriter,
    history: History,
    key: RequestKey | None,
) -> SessionHead:
    await writer.ready()
    if writer.head.seq or not writer.is_unborn:
        await writer.settled()
        raise id_taken(writer.id)
    writer.hold()
    place = ExitStack()
    quotas = context.quotas.stored
    counted: Aside | None = None
    try:
        unborn = SessionHead(writer.id, writer.epoch)
        now_ms, size_max = context.clock.now_ms(), context.settings.max_event_bytes
        history_writer = HistoryWriter(unborn, now_ms, size_max)
        async with context.store.creation(writer.id, writer.epoch) as creation:
            async for drafts in history.pages(writer.epoch):
                if history_writer.head.seq == 0:
                    user_id = drafts[0].fields["user_id"]
                    await quotas.look_up(user_id)
                    counted = place.enter_context(quotas.aside(user_id))
                await creation.write(
                    await to_thread.run_sync(history_writer.events, drafts, limiter=bulk_limiter)
                )
            check_made(caller, history_writer.head.user_id)
            if key is not None:
                answer = history.answer(history_writer.head)
                await creation.write((), [history_writer.note(key, answer)])
            await context.files.keep(history_writer.head)
            if counted is not None:
                counted.publishing()
            await creation.publish(history_writer.head.copy())
    except BaseException:
        writer.vanish("deleted")
        writer.resume()
        raise
    finally:
        place.close()
    writer.born(history_writer.head)
    writer.resume()
    return history_writer.head.copy()
