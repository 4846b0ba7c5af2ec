"""What a bus promises, and what it does not.

A process publishes a notice after each commit, and the other processes that watch the session
receive it. Notices may be lost, come late, twice, or in another order than the commits of several
processes: who receives one compares its epoch, version and seq with what it has, and reads from the
store what is missing. While `is_up` is false nothing is received, and nothing can be relied upon.

All methods are called on the event loop's thread. None blocks it, and none raises because the bus
is away.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Collection, Mapping
from types import TracebackType
from typing import Any, NamedTuple, Self

from bamboo_gateway.domain.rates import SharedCounts

NOTICE_BYTES_MAX = 256 * 1024
"""Bytes of events in one notice. A larger commit is published without its events: it is rare, and
its readers load it from the store in one page."""


class Notice(NamedTuple):
    """What one durable commit did to a session.

    Attributes:
        session_id: The session.
        epoch: Its epoch; 0 when the session was deleted.
        version: Its version after the commit; 0 when that is not known, so it has to be looked up.
        first_seq: The seq of the first event. A commit of notes alone has none: then it is the seq
            of the event that comes next.
        bodies: The bodies of the events, in order; None when they have to be read from the store.
    """

    session_id: str
    epoch: int
    version: int
    first_seq: int
    bodies: tuple[bytes, ...] | None


OnNotice = Callable[[Notice], None]
"""Called with each notice that another process published for a watched session."""

OnMissed = Callable[[Collection[str]], None]
"""Called with watched sessions whose notices may have been missed until now."""

OnSwitch = Callable[[bool], None]
"""Called when the bus came up (True), or went down (False)."""


class Bus(ABC):
    """The bus as one process uses it, while the context manager is entered.

    Entering waits for nothing: the bus comes up when it can. Leaving publishes what is queued, for
    a moment at most.
    """

    @property
    @abstractmethod
    def is_up(self) -> bool:
        """Whether notices arrive, as far as is known."""

    @abstractmethod
    def publish(self, notice: Notice) -> None:
        """Publish a notice, soon; drop it when too much is queued or the bus is down.

        The publisher itself does not receive it. Notices of one process keep their order.
        """

    @abstractmethod
    def watch(self, session_id: str) -> None:
        """Receive the notices of a session from now on; repeats do nothing.

        `when_missed` is called with its id once the notices do arrive: what was committed before
        has to be looked up then.
        """

    @abstractmethod
    def unwatch(self, session_id: str) -> None:
        """Receive no more notices of a session; repeats do nothing."""

    @abstractmethod
    def when_noticed(self, call: OnNotice) -> None:
        """Register the one receiver of notices, before the first `watch`."""

    @abstractmethod
    def when_missed(self, call: OnMissed) -> None:
        """Register who looks at the store again, when notices may have been missed.

        It is called for a session that has just become watched, and after every gap (a connection
        that broke, a bus that started anew) for all that are watched.
        """

    @abstractmethod
    def when_switched(self, call: OnSwitch) -> None:
        """Register who polls the store more often while the bus is down."""

    @abstractmethod
    def when_changed(self, call: Callable[[], None]) -> None:
        """Register what is called when any session was committed to by another process.

        Many commits make few calls. This is for what waits for changes of all sessions.
        """

    @property
    def counts(self) -> SharedCounts | None:
        """Counts that the gateways share; None when this bus has none."""
        return None

    @abstractmethod
    def stats(self) -> Mapping[str, Any]:
        """Return the families of `observability.metrics` that the bus has."""

    @abstractmethod
    async def __aenter__(self) -> Self:
        """Connect, in the background."""

    @abstractmethod
    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """Publish what is queued, and disconnect."""
