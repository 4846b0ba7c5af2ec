"""Channels: what the readers of one session share, whether or not its writer is in memory.

A reader waits here for the next event. The writer (`SessionWriter`) publishes here, and may leave
memory while readers wait: the channel stays, with little more than where the log ends and who may
read it. The writer that comes next publishes into the same channel, so no wake-up can be missed in
between and no reader notices.
"""

from collections.abc import Callable

from bamboo_gateway.domain.sessions import SessionHead
from bamboo_gateway.sessions.streaming.event_queue import EventQueue
from bamboo_gateway.sessions.streaming.rendering import GoodbyeReason
from bamboo_gateway.sessions.streaming.subscription import EndedRun, Subscription


class Channel:
    """See the module.

    Args:
        head: The durable head.
        channels: The registry of channels that have readers; this one enters and leaves it itself.
        on_lost: Called when a reader finds that the log is not the one that was opened.

    Attributes:
        head: The writer's head; while no writer is in memory, its owner and shares alone.
        durable_seq: The last event that readers may see.
        queue: The recent durable events, and what renderers made of them.
        connections: The open streams, by connection id.
        last_run: The run that ended last while somebody was reading, or the writer in memory.
        gone: The session is deleted, or never came to be.
    """

    __slots__ = (
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
        self.begin(head)

    # -- readers ----------------------------------------------------------------------------

    def add(self, connection: Subscription) -> None:
        """Registers an open stream, in the place of one of the same id."""
        self.connections[connection.id] = connection
        self._register()

    def remove(self, connection: Subscription) -> bool:
        """Unregisters a stream; tells whether it was registered and not replaced since."""
        if self.connections.get(connection.id) is not connection:
            return False
        del self.connections[connection.id]
        self._unregister_if_unused()
        return True

    def on_change(self, call: Callable[[], None]) -> Callable[[], None]:
        """Calls back once at the next durable event; gives what takes it back."""
        self._change_waiters.append(call)
        self._register()

        def forget() -> None:
            if call in self._change_waiters:
                self._change_waiters.remove(call)
            self._unregister_if_unused()

        return forget

    def lost(self) -> None:
        """Reports that the log is not the one that was opened."""
        self._on_lost(self)

    # -- the writer -------------------------------------------------------------------------

    def begin(self, head: SessionHead) -> None:
        """Starts at the end of the log, with nothing in the event queue."""
        self.head = head
        self.durable_seq = head.seq
        self.queue = EventQueue(head.position)

    def extend(self, bodies: list[bytes]) -> None:
        """Add the bodies of the next durable events. Readers are woken by `wake`."""
        self.durable_seq += len(bodies)
        self.queue.extend(bodies)

    def wake(self) -> None:
        """Wakes the streams, and whoever waits for the next event."""
        for connection in self.connections.values():
            connection.wake()
        if self._change_waiters:
            self.wake_waiters()

    def wake_waiters(self) -> None:
        """Ends the waits of `on_change`, whether or not anything has changed."""
        waiters, self._change_waiters = self._change_waiters, []
        for call in waiters:
            call()
        self._unregister_if_unused()

    def end_all(self, reason: GoodbyeReason) -> None:
        """Ends all streams with `goodbye`, and all waits."""
        for connection in list(self.connections.values()):
            connection.end(reason)
        self.wake_waiters()

    def rest(self) -> None:
        """Drops what readers do not need while no writer is in memory."""
        head = self.head
        self.begin(
            SessionHead(
                self.id, self.epoch, self.durable_seq, user_id=head.user_id, shares=head.shares
            )
        )

    def vanish(self, reason: GoodbyeReason) -> None:
        """Ends everything: the session is deleted, or its log has another life."""
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
