"""Channels: what all readers of one session share, whether or not its writer is in memory.

A reader waits here for the next event. The session writer publishes here. It may leave memory while
readers wait: the channel stays, and then keeps little more than where the log ends and who may read
it. The next writer publishes into the same channel, so no reader misses a wake-up in between.
"""

from collections.abc import Callable, Sequence
from typing import NamedTuple

from bamboo_gateway.domain.codec import decode
from bamboo_gateway.domain.events import TERMINAL_TYPES
from bamboo_gateway.domain.positions import Position
from bamboo_gateway.domain.sessions import SessionHead
from bamboo_gateway.sessions.streaming.event_queue import EventQueue
from bamboo_gateway.sessions.streaming.rendering import GoodbyeReason
from bamboo_gateway.sessions.streaming.subscription import EndedRun, Subscription
from bamboo_gateway.storage.commits import Record

_TOLD_TYPES = TERMINAL_TYPES | {"run_start", "state_change"}


class _Begun(NamedTuple):
    """A run that another process began, and a seq before its input."""

    run_id: str
    before_seq: int


class Channel:
    """The channel of one session.

    Args:
        head: The durable head.
        channels: The channels that have readers, by session id. The channel adds and removes
            itself.
        on_lost: Called when a reader finds another log than the one that was opened.

    Attributes:
        head: The writer's head. While no writer is in memory, it has only the owner and shares.
        durable_seq: The seq of the last event that readers may see.
        version: The version of the session with that event, as far as the channel alone knows
            it: a writer in memory knows better. Only stores that several processes share have any.
        queue: The recent durable events, and what renderers made of them.
        connections: The open streams, by connection id.
        last_run: The last run that ended while somebody read or the writer was in memory.
        gone: The session was deleted, or its creation failed.
    """

    __slots__ = (
        "_begun",
        "_change_waiters",
        "_channels",
        "_on_lost",
        "connections",
        "durable_seq",
        "epoch",
        "gone",
        "head",
        "id",
        "last_run",
        "queue",
        "version",
    )

    def __init__(
        self,
        head: SessionHead,
        channels: dict[str, "Channel"],
        on_lost: Callable[["Channel"], None],
    ) -> None:
        self.id = head.id
        self.epoch = head.epoch
        self.connections: dict[str, Subscription] = {}
        self.last_run: EndedRun | None = None
        self.gone = False
        self._channels = channels
        self._on_lost = on_lost
        self._change_waiters: list[Callable[[], None]] = []
        self._begun: _Begun | None = None
        self.begin(head)

    # -- readers ----------------------------------------------------------------------------

    def add(self, connection: Subscription) -> None:
        """Register an open stream; it replaces one with the same id."""
        self.connections[connection.id] = connection
        self._register()

    def remove(self, connection: Subscription) -> bool:
        """Unregister a stream; return whether it was registered and not replaced since."""
        if self.connections.get(connection.id) is not connection:
            return False
        del self.connections[connection.id]
        self._unregister_if_unused()
        return True

    def on_change(self, call: Callable[[], None]) -> Callable[[], None]:
        """Register a callback that is called once, at the next durable event.

        Returns:
            A function that removes the callback.
        """
        self._change_waiters.append(call)
        self._register()

        def forget() -> None:
            if call in self._change_waiters:
                self._change_waiters.remove(call)
            self._unregister_if_unused()

        return forget

    def lost(self) -> None:
        """Report that the log is not the one that was opened."""
        self._on_lost(self)

    # -- the writer -------------------------------------------------------------------------

    def begin(self, head: SessionHead) -> None:
        """Start at the end of the log, with an empty event queue."""
        self.head = head
        self.durable_seq = head.seq
        self.version = head.version
        self.queue = EventQueue(head.position)

    def extend(self, bodies: list[bytes]) -> None:
        """Add the bodies of the next durable events. Readers are woken by `wake`."""
        self.durable_seq += len(bodies)
        self.queue.extend(bodies)

    def absorb(self, records: Sequence[Record], version: int, head: SessionHead | None) -> None:
        """Add the next events, which another process has stored, and tell the streams of them.

        Where compaction has removed some, the event queue begins anew behind the last one: readers
        then read the log.

        Args:
            records: The events after `durable_seq`, in order.
            version: The version of the session with the last of them.
            head: A head that has all of them, when the caller has loaded one.
        """
        if records:
            before, end = self.durable_seq, records[-1].seq
            if end - before == len(records):
                self.extend([record.body for record in records])
            else:
                self.durable_seq = end
                self.queue = EventQueue(Position(self.epoch, end))
            for record in records:
                if record.type in _TOLD_TYPES:
                    self._tell(record, before)
        self.version = version
        if head is not None:
            self.head = head
        if records:
            self.wake()

    def _tell(self, record: Record, before: int) -> None:
        """Tell the streams of an event that begins or ends something.

        Args:
            record: The event.
            before: The seq before the events that came with it.
        """
        event = decode(record.body)
        kind, run_id = event["type"], event.get("run_id")
        if kind == "run_start":
            self._begun = _Begun(run_id, before)
            for connection in self.connections.values():
                connection.run_started(run_id)
        elif kind in TERMINAL_TYPES:
            self.last_run = EndedRun(self._before_run(run_id, before), record.seq)
            for connection in self.connections.values():
                connection.run_ended(run_id, record.seq)
        elif event["to"] in {"closed", "archived"}:
            for connection in self.connections.values():
                connection.end("closed", after_rest=True)

    def _before_run(self, run_id: str, before: int) -> int:
        """Return a seq before the input of a run; rather too early than too late."""
        active, begun = self.head.active, self._begun
        if active is not None and active.run_id == run_id:
            return active.before_seq
        if begun is not None and begun.run_id == run_id:
            return begun.before_seq
        return before

    def wake(self) -> None:
        """Wake the streams, and the calls that wait for the next event."""
        for connection in self.connections.values():
            connection.wake()
        if self._change_waiters:
            self.wake_waiters()

    def wake_waiters(self) -> None:
        """Call the callbacks of `on_change`, whether or not anything has changed."""
        waiters, self._change_waiters = self._change_waiters, []
        for call in waiters:
            call()
        self._unregister_if_unused()

    def end_all(self, reason: GoodbyeReason) -> None:
        """End all streams with `goodbye`, and all waits."""
        for connection in list(self.connections.values()):
            connection.end(reason)
        self.wake_waiters()

    def rest(self) -> None:
        """Drop what readers do not need while no writer is in memory."""
        head = self.head
        self.begin(
            SessionHead(
                self.id,
                self.epoch,
                self.durable_seq,
                user_id=head.user_id,
                shares=head.shares,
                version=head.version,
            )
        )

    def vanish(self, reason: GoodbyeReason) -> None:
        """End all streams and waits: the session was deleted, or its log has another epoch."""
        self.gone = True
        self._unregister()
        self.end_all(reason)

    def _register(self) -> None:
        if not self.gone:
            self._channels[self.id] = self

    def _unregister_if_unused(self) -> None:
        if not self.connections and not self._change_waiters:
            self._unregister()

    def _unregister(self) -> None:
        if self._channels.get(self.id) is self:
            del self._channels[self.id]
