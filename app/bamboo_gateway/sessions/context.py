"""Context: the objects that every part of the application shares, made once at the start.

It is frozen and small. It has the store, the clock and the limits, and no session: sessions come
from the registry, which asks `access` first.
"""

from collections.abc import Callable, Coroutine
from dataclasses import dataclass
from typing import Any

from anyio.abc import TaskGroup

from bamboo_gateway.bus.base import Bus
from bamboo_gateway.domain.clock import Clock
from bamboo_gateway.domain.errors import Draining
from bamboo_gateway.domain.ids import IdMaker
from bamboo_gateway.sessions.file_shelf.shelf import FileShelf
from bamboo_gateway.sessions.metrics import Tally
from bamboo_gateway.sessions.quotas import Quotas
from bamboo_gateway.sessions.session_state import SessionStates
from bamboo_gateway.sessions.token_budget import TokenBudget
from bamboo_gateway.settings import Settings
from bamboo_gateway.storage.base import SessionStore


class BackgroundTasks:
    """Starts tasks that belong to the gateway and to no request."""

    def __init__(self, group: TaskGroup) -> None:
        self._group = group
        self._closed = False

    def spawn(self, call: Callable[..., Coroutine[Any, Any, None]], *args: Any, name: str) -> None:
        """Start a task; do nothing after `close`, since a late commit may still ask for one."""
        if not self._closed:
            self._group.start_soon(call, *args, name=name)

    def close(self) -> None:
        """Start no task from now on."""
        self._closed = True


class Drain:
    """Whether the gateway is shutting down: it then starts no runs and refuses new chats."""

    def __init__(self) -> None:
        self.has_begun = False

    def begin(self) -> bool:
        """Begin to drain. Return whether this call began it."""
        began, self.has_begun = not self.has_begun, True
        return began

    def check(self) -> None:
        """Refuse work that would start a run.

        Raises:
            Draining: The gateway is shutting down.
        """
        if self.has_begun:
            raise Draining("The gateway is shutting down; try again in a moment.")


@dataclass(frozen=True, slots=True)
class Context:
    """The objects that every part of the application shares.

    Attributes:
        store: Where the logs are.
        settings: Limits and times.
        clock: The only source of time.
        ids: Makes new ids.
        quotas: Count what each user has in use, and refuse what goes over a limit.
        files: The files that messages name.
        budget: Counts the tokens that each user's runs use in a day.
        states: Computes the state of a session as of now.
        tally: Counts what happens, for /metrics.
        tasks: Starts background tasks.
        drain: Whether the gateway is shutting down.
        bus: Where other gateways are told of commits; None: nowhere.
    """

    store: SessionStore
    settings: Settings
    clock: Clock
    ids: IdMaker
    quotas: Quotas
    files: FileShelf
    budget: TokenBudget
    states: SessionStates
    tally: Tally
    tasks: BackgroundTasks
    drain: Drain
    bus: Bus | None = None

    @property
    def leads(self) -> bool:
        """Whether this process does what one of all that share the store has to do."""
        replicas = self.store.replicas
        return replicas is None or replicas.is_leader
