"""What gateway processes that share a store know of one another.

A store that only one process may use has no `Replicas` (`SessionStore.replicas` is None). All
methods are called on the event loop's thread and none blocks it, except those that are named
otherwise.

*Executor*: one process, by an id that no other process ever has. Every process renews a counter in
the store. One whose counter stands still while another process's own renewals succeed is *dead*:
the others close the runs that it executed.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Collection
from contextlib import AbstractAsyncContextManager
from typing import NamedTuple, Protocol

from bamboo_gateway.domain.sessions import SessionHead
from bamboo_gateway.storage.commits import Commit


class Look(NamedTuple):
    """What tells whether a session in memory is the one that the store has.

    The last activity, in ms, also moves without the version: an open stream is activity. It is 0
    where it is not known.
    """

    epoch: int
    version: int
    seq: int
    activity_ms: int = 0


class DueWork(NamedTuple):
    """The sessions that somebody has to do something for, each list bounded.

    Attributes:
        abandoned: Sessions with a run of a dead executor, or of one that is not there any more.
        mine: Sessions whose active run is this process's, as the store has it.
        queued: Sessions with a queue and without an active run.
        silent: Sessions with an external run to which nothing was posted for too long.
        asking: Sessions with a request for input that has expired.
    """

    abandoned: list[str]
    mine: list[str]
    queued: list[str]
    silent: list[str]
    asking: list[str]


class Presence(NamedTuple):
    """A claim that lives no longer than the process that made it: an open stream, a producer.

    Attributes:
        session_id: The session it belongs to.
        kind: `stream`, `posting` (a request streams the events of an external run) or `titling` (a
            process asks an agent for the session's title).
        name: Its name in the session: the connection's id, the run's id, `title`.
        executor: The process that has it.
        body: What others are shown of it, as JSON.
        wish: What another process asks of it (`superseded`, `disconnect`); None: nothing.
    """

    session_id: str
    kind: str
    name: str
    executor: str
    body: bytes
    wish: str | None = None


class LockedSession(Protocol):
    """A session whose row is locked for at most `LOCK_MS`, so that one commit gets through."""

    head: SessionHead | None
    """The head as of now; None when there is no such session."""

    async def append(self, commit: Commit) -> None:
        """Make a commit durable, and end the lock.

        Raises:
            BambooError: As the `done` of `SessionStore.append`.
        """


class Replicas(ABC):
    """This process among those that share a store, from the store's `open` to its `aclose`."""

    @property
    @abstractmethod
    def executor(self) -> str:
        """The id of this process. It is another one after `when_lost`."""

    @property
    @abstractmethod
    def is_leader(self) -> bool:
        """Whether this process does the work that one of all does.

        For a moment two may believe it. So that work has to bear being done twice.
        """

    @abstractmethod
    def is_dead(self, executor: str) -> bool:
        """Return whether another process is dead, or not there any more, as of the last look."""

    @abstractmethod
    async def look(self, session_ids: Collection[str]) -> dict[str, Look]:
        """Look at sessions in one statement; those that do not exist are left out.

        Raises:
            Unavailable: The store does not answer now.
        """

    @abstractmethod
    async def due(self, silent_before_ms: int, now_ms: int) -> DueWork:
        """Look for what is to be done.

        Raises:
            Unavailable: The store does not answer now.
        """

    @abstractmethod
    def when_renewed(self, call: Callable[[], None]) -> None:
        """Register what is called on the event loop after each renewal of this process's counter.

        It is the time to ask for `due`.
        """

    @abstractmethod
    def when_lost(self, call: Callable[[], None]) -> None:
        """Register what is called on the event loop when the others have taken this one for dead.

        `executor` is a new one then. The runs of the old one have to stop; they may not say more.
        """

    @abstractmethod
    def locked(self, session_id: str) -> AbstractAsyncContextManager[LockedSession]:
        """Lock a session's row for a commit that met a conflict again and again.

        Leaving the block without `append` ends the lock.

        Raises:
            Unavailable: Somebody else has it locked, or the store does not answer now.
        """

    @abstractmethod
    async def claim(self, one: Presence) -> bool:
        """Write a presence of this process; False when a living process has that name already.

        For `stream` it is always written, and those of other processes get the wish `superseded`.

        Raises:
            Unavailable: The store does not answer now.
        """

    @abstractmethod
    async def unclaim(self, session_id: str, kind: str, name: str) -> None:
        """Remove a presence of this process. It raises nothing: what is left dies with it."""

    @abstractmethod
    async def present(self, kind: str, session_ids: Collection[str] | None) -> list[Presence]:
        """Return the presences of living processes, of some sessions or (None) of all.

        Raises:
            Unavailable: The store does not answer now.
        """

    @abstractmethod
    async def wish(self, session_id: str, kind: str, name: str, wish: str) -> bool:
        """Ask something of a presence of another process; False when there is none.

        Raises:
            Unavailable: The store does not answer now.
        """

    @abstractmethod
    async def wishes(self) -> list[Presence]:
        """Return this process's presences that something is asked of, and take the wishes back.

        Raises:
            Unavailable: The store does not answer now.
        """
