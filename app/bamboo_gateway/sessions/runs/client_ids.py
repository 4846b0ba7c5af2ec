"""Ids that clients choose: of a run, and of the messages that they send.

A session has each id once. `prepare` looks an id up before the decision that uses it, since the
look-up waits for the store. It also notices what the session writer decides meanwhile, so that of
two simultaneous requests with the same id one is refused.
"""

from collections.abc import Awaitable, Callable, Sequence
from typing import NamedTuple

import anyio
from anyio import to_thread

from bamboo_gateway.domain.codec import decode, encode
from bamboo_gateway.domain.errors import InvalidInput, MessageExists, Refused, RunEnded
from bamboo_gateway.domain.limits import PAGE_BYTES_MAX
from bamboo_gateway.domain.sessions import ActiveRun, QueuedRun
from bamboo_gateway.sessions.history import bulk_limiter
from bamboo_gateway.sessions.runs.factory import EXTERNAL
from bamboo_gateway.sessions.streaming.session_writer import SessionWriter
from bamboo_gateway.storage.base import SessionStore

_EVENTS_AT_ONCE = 5000
"""How many events of a run are searched at once, in a thread."""

HoldRuns = Callable[[SessionWriter, set[str]], Awaitable[None]]


class KnownIds(NamedTuple):
    """What a session has of the ids in a request, for a client that sends its messages again.

    Attributes:
        message_ids: Those of the messages that the log, the queue or the active run has.
        has_run: Whether a run has, or had, the request's run id.
        under_way: The runs that execute or wait, in order.
        tip_id: The last message of the current path, if it is known.
        open_requests: The ids of the requests for input that wait for an answer.
    """

    message_ids: frozenset[str] = frozenset()
    has_run: bool = False
    under_way: tuple[str, ...] = ()
    tip_id: str | None = None
    open_requests: tuple[str, ...] = ()


class ClientIds:
    """The ids in one request.

    Call `prepare` first, and `check` in the decision right behind it. Ids that the gateway makes
    itself need no look-up.

    Args:
        store: Where the session is.
        hold: Loads the unfinished messages of an external run (`ExternalRuns.hold`).
        run_id: The run's id, when the client chose it.
        message_ids: The messages' ids; None for each that the gateway makes.

    Raises:
        InvalidInput: Two of the messages have the same id.
    """

    def __init__(
        self,
        store: SessionStore,
        hold: HoldRuns,
        run_id: str | None = None,
        message_ids: Sequence[str | None] = (),
    ) -> None:
        named = [name for name in message_ids if name is not None]
        self._message_ids = frozenset(named)
        if len(self._message_ids) != len(named):
            raise InvalidInput("Two messages of the list have the same id.", code="invalid-id")
        self._store = store
        self._hold = hold
        self._run_id = run_id
        self._run_taken = False
        self._taken: set[str] = set()

    async def prepare(self, writer: SessionWriter) -> None:
        """Look the ids up in what is durable, what is being stored, and what is queued.

        On return the session is ready for the decision, and nothing has changed since the look-up.

        Raises:
            Vanished: The session was deleted.
            BambooError: The store cannot answer.
        """
        if self._run_id is None and not self._message_ids:
            return
        while True:
            await writer.ready()
            head = writer.head
            self._run_taken = False
            self._taken = set()
            # Registered before the look-up, so that no decision in between is missed.
            ended = anyio.Event()
            forget_run = writer.on_run_end(self._run_id, ended.set) if self._run_id else None
            forget_messages = writer.on_message_id(self._note)
            try:
                await self._look(writer)
            finally:
                forget_messages()
                if forget_run is not None:
                    forget_run()
            # A head that was loaded again may differ without any callback.
            if writer.is_ready and writer.head is head and self._knows_unfinished(writer):
                self._run_taken = self._run_taken or ended.is_set()
                return

    def check(self, writer: SessionWriter) -> None:
        """Refuse an id that the session already has.

        Raises:
            MessageExists: A message in the log, an unfinished or a queued one has the id.
            Refused: A run has, or had, the id.
        """
        for message_id in sorted(self._message_ids):
            if message_id in self._taken or writer.is_making(message_id):
                raise MessageExists(
                    f"The session already has a message {message_id!r}.",
                    extra={"message_id": message_id},
                )
        head = writer.head
        present = {head.active.run_id} if head.active else set()
        present |= {queued.run_id for queued in head.queue}
        if self._run_id is not None and (self._run_taken or self._run_id in present):
            raise Refused(f"The session already has a run {self._run_id!r}.", code="run-exists")

    def known(self, writer: SessionWriter) -> KnownIds:
        """Return which of the ids the session has, right behind `prepare`."""
        head = writer.head
        running = [head.active.run_id] if head.active else []
        running += [queued.run_id for queued in head.queue]
        return KnownIds(
            frozenset(
                name for name in self._message_ids if name in self._taken or writer.is_making(name)
            ),
            self._run_id is not None and (self._run_taken or self._run_id in running),
            tuple(running),
            head.tip_id,
            tuple(one.request_id for one in head.open_requests),
        )

    def _note(self, message_id: str) -> None:
        if message_id in self._message_ids:
            self._taken.add(message_id)

    async def _look(self, writer: SessionWriter) -> None:
        # The store has nothing of a session that is being created.
        if self._run_id is not None and not writer.is_unborn:
            found = await self._store.find(
                writer.id, writer.epoch, "run", key=self._run_id, limit=1
            )
            self._run_taken = bool(found)
        if not self._message_ids:
            return
        if not writer.is_unborn:
            self._taken |= await self._store.keys_in_use(
                writer.id, writer.epoch, "message", self._message_ids
            )
        for queued in list(writer.head.queue):
            self._taken |= self._message_ids & await self._queued_ids(writer, queued)
        active = writer.head.active
        if active is not None and active.executor is not None and writer.run is None:
            await self._look_elsewhere(writer, active)
        if active is not None and not self._knows_unfinished(writer):
            try:
                await self._hold(writer, {active.run_id})
            except RunEnded:
                return  # its messages are in the log

    async def _look_elsewhere(self, writer: SessionWriter, active: ActiveRun) -> None:
        """Look for the unfinished messages of a run that another process executes, in the log."""
        cursor = active.start_seq
        while records := await self._store.read(
            writer.id, writer.epoch, cursor, limit=_EVENTS_AT_ONCE, max_bytes=PAGE_BYTES_MAX
        ):
            bodies = [record.body for record in records]
            self._taken |= await to_thread.run_sync(
                _message_ids_in, bodies, self._message_ids, limiter=bulk_limiter
            )
            cursor = records[-1].seq

    def _knows_unfinished(self, writer: SessionWriter) -> bool:
        """Return whether `is_making` can answer: it cannot before `hold` of an external run."""
        active = writer.head.active
        if not self._message_ids or active is None or active.agent != EXTERNAL:
            return True
        return writer.external is not None and writer.external.run_id == active.run_id

    async def _queued_ids(self, writer: SessionWriter, queued: QueuedRun) -> frozenset[str]:
        known = writer.waiting_message_ids.get(queued.run_id)
        if known is not None:
            return known
        found = await self._store.read(
            writer.id, writer.epoch, queued.seq - 1, limit=1, max_bytes=PAGE_BYTES_MAX
        )
        ids: frozenset[str] = frozenset()
        if found and found[0].seq == queued.seq:
            ids = await to_thread.run_sync(_ids_of_input, found[0].body, limiter=bulk_limiter)
        if any(waiting.run_id == queued.run_id for waiting in writer.head.queue):
            writer.note_waiting(queued.run_id, ids)
        return ids


def _message_ids_in(bodies: Sequence[bytes], wanted: frozenset[str]) -> set[str]:
    """Return which of the ids the messages have that these events are part of."""
    needles = [b'"message_id":' + encode(name) for name in wanted]
    events = (decode(body) for body in bodies if any(needle in body for needle in needles))
    return {event["message_id"] for event in events if event.get("message_id") in wanted}


def _ids_of_input(body: bytes) -> frozenset[str]:
    return frozenset(message["id"] for message in decode(body)["messages"])
