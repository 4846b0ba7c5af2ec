"""The state of the model: one session in the database, the replicas, the clients' requests.

Everything is an immutable tuple, so that a state is its own key in the search.
"""

from functools import lru_cache
from typing import NamedTuple


class Entry(NamedTuple):
    """One line of the session's log. Each moves the version, so version and length are one here.

    Attributes:
        kind: `said`, `queued`, `start`, `wish`, `token`, `end` or `packed` (archived).
        subject: The run, or the message of a `post`.
        detail: A token's number, how a run ended, or the executor of a start.
        writer: The executor id of the process that committed it.
        request: The request whose effect and key note this is; empty for what a replica decides.
    """

    kind: str
    subject: str
    detail: int | str
    writer: int
    request: str


Log = tuple[Entry, ...]


class Session(NamedTuple):
    """The session's row and its log."""

    epoch: int
    log: Log


class Tombstone(NamedTuple):
    """What a deletion leaves: the epoch, and the keys of the session."""

    epoch: int
    keys: tuple[str, ...]


class Commit(NamedTuple):
    """A statement that is on its way.

    Attributes:
        kind: `append`, `create` or `delete`.
        purpose: What it is for: `request`, `start`, `run` or `close`.
        epoch: The epoch that it names.
        base: The version that it expects.
        entries: What it appends. With its writer they stand for the commit's id.
        dead: The executor that a closing append takes for dead; 0 for none.
        is_fresh: Whether that executor's counter still stands where the judge has seen it.
        is_again: Whether it is sent again, as its first answer was lost.
        is_locked: Whether it is the end of a transaction that has locked the row.
    """

    kind: str
    purpose: str
    epoch: int
    base: int
    entries: Log
    dead: int = 0
    is_fresh: bool = True
    is_again: bool = False
    is_locked: bool = False


class Execution(NamedTuple):
    """A run that a process executes: `said` tokens of it are stored."""

    run: str
    epoch: int
    said: int


class Watch(NamedTuple):
    """What an observer knows of another executor's counter.

    Attributes:
        executor: Whose counter.
        rounds: How many of the observer's renewals in a row have seen it unmoved.
        has_moved: Whether it moved since the observer looked last; what the observer does not know.
    """

    executor: int
    rounds: int
    has_moved: bool


class Process(NamedTuple):
    """A replica's process.

    Attributes:
        name: Its name in traces.
        status: `up`, `stopped`, `hung` or `dead`.
        executor: Its executor id.
        is_sick: It was stopped, and has not renewed its heartbeat since.
        is_due: Its renewal of this round is still to come.
        is_draining: It got SIGTERM.
        request: The number of the request that it serves; -1 for none.
        conflicts: How often in a row that request was refused.
        execution: The run that its agent executes.
        flight: The statement whose answer it waits for.
        watches: What it knows of the others.
    """

    name: str
    status: str
    executor: int
    is_sick: bool = False
    is_due: bool = True
    is_draining: bool = False
    request: int = -1
    conflicts: int = 0
    execution: Execution | None = None
    flight: Commit | None = None
    watches: tuple[Watch, ...] = ()

    @property
    def is_healthy(self) -> bool:
        """Whether nobody may take it for dead."""
        return self.status == "up" and not self.is_sick


class Asked(NamedTuple):
    """How far a request is, as its client sees it.

    Attributes:
        status: `new`, `open`, `done`, `refused` or `unknown`.
        times: How often it was sent.
        epoch: The epoch of the session in which it was done.
    """

    status: str
    times: int = 0
    epoch: int = 0


class Faults(NamedTuple):
    """The faults that may still happen."""

    kills: int
    stops: int
    losses: int
    outages: int
    hangs: int
    terms: int
    spawns: int
    reaps: int


class State(NamedTuple):
    """Everything.

    Attributes:
        session: The session, if there is one.
        last_epoch: The greatest epoch that a creation used.
        tombstone: What the last deletion left.
        past: Sessions that were deleted. Only the invariants read this.
        ghosts: Statements whose senders do not wait any more, and which may still be executed.
        lock: The number of the process that has locked the row; -1 for none.
        is_up: Whether the database answers.
        executors: The rows of executors.
        processes: The replicas.
        asked: The requests, as `Bounds.wanted`.
        starts: The runs whose agents were started, once for each time, counted outside.
        faults: The faults left.
        wrong: What a step has done that no state would show.
    """

    session: Session | None
    last_epoch: int
    tombstone: Tombstone
    past: tuple[Session, ...]
    ghosts: tuple[Commit, ...]
    lock: int
    is_up: bool
    executors: tuple[int, ...]
    processes: tuple[Process, ...]
    asked: tuple[Asked, ...]
    starts: tuple[str, ...]
    faults: Faults
    wrong: str = ""

    def with_process(self, number: int, process: Process) -> "State":
        """Return the state with another state of a process."""
        before, after = self.processes[:number], self.processes[number + 1 :]
        return self._replace(processes=(*before, process, *after))

    def with_asked(self, number: int, asked: Asked) -> "State":
        """Return the state with another state of a request."""
        return self._replace(asked=(*self.asked[:number], asked, *self.asked[number + 1 :]))

    def with_fault(self, name: str) -> "State":
        """Return the state with one fault of a kind fewer."""
        return self._replace(faults=self.faults._replace(**{name: getattr(self.faults, name) - 1}))


class Head(NamedTuple):
    """The fold of a log: what a decision needs."""

    active: str
    executor: int
    queue: tuple[str, ...]
    is_wished: bool
    said: int
    is_packed: bool
    keys: frozenset[str]


@lru_cache(maxsize=100_000)
def fold(log: Log) -> Head:
    """Return the head of a log."""
    active, executor, is_wished, said = "", 0, False, 0
    queue: tuple[str, ...] = ()
    for entry in log:
        if entry.kind == "queued":
            queue += (entry.subject,)
        elif entry.kind == "start":
            queue = tuple(run for run in queue if run != entry.subject)
            active, executor, is_wished, said = entry.subject, int(entry.detail), False, 0
        elif entry.kind == "wish":
            is_wished = True
        elif entry.kind == "token":
            said += 1
        elif entry.kind == "end":
            queue = tuple(run for run in queue if run != entry.subject)
            if active == entry.subject:
                active, executor = "", 0
    is_packed = bool(log) and log[-1].kind == "packed"
    keys = frozenset(entry.request for entry in log if entry.request)
    return Head(active, executor, queue, is_wished, said, is_packed, keys)
