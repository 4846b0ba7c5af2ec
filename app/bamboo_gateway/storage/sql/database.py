"""What differs between SQL databases, for the one `SqlStore`.

All methods block. `SqlStore` calls them on threads of its own, never on the event loop's (R12):
`commit` on the writer's thread alone, the others on any thread and at the same time.

Statements are SQLAlchemy Core, made once: an implementation compiles a statement when it meets the
object for the first time, and keeps the text. Parameters are named by `bindparam`.

A driver's errors are translated here and nowhere else: what a method or a `with` block raises is
a `BambooError`.

* `Unavailable`: the database does not answer at present; nothing has changed. `StorageFull`, when
  it has no space, `StorageFailed`, when it failed to write.
* `StoreBusy`, `StoreUnusable`: from `open` alone.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from bamboo_gateway.domain.errors import BambooError, Unavailable
from bamboo_gateway.storage.files.base import ContentStore
from bamboo_gateway.storage.index.statement import DialectName, Statement
from bamboo_gateway.storage.reports import Erased, StoreCheck
from bamboo_gateway.storage.sql.prepared import HeadRow, PreparedCommit

if TYPE_CHECKING:
    from sqlalchemy import ClauseElement

Row = tuple[Any, ...]


class Connection(ABC):
    """A connection within one `reading` or `writing`.

    Attributes:
        executor: The id of this process, where several share the database; else None.
    """

    executor: str | None = None

    @abstractmethod
    def rows(
        self, statement: "ClauseElement", parameters: Mapping[str, Any] | None = None
    ) -> list[Row]:
        """Execute a statement, and return all its rows: for those that have few and small ones."""

    @abstractmethod
    def each(
        self, statement: "ClauseElement", parameters: Mapping[str, Any] | None = None
    ) -> Iterator[Row]:
        """Execute a statement, and return its rows as they are taken.

        For rows that may be large: what is not taken is not held in memory. Take them within the
        `with` block; closing the iterator ends the statement.
        """

    @abstractmethod
    def execute(self, text: str, values: Mapping[str, Any]) -> list[Row]:
        """Execute a statement that `storage.index` has compiled for this dialect."""

    @abstractmethod
    def execute_each(self, statement: Statement, parameters: Sequence[Mapping[str, Any]]) -> None:
        """Execute such a statement once for each set of parameters."""

    @abstractmethod
    def run(self, statement: "ClauseElement", parameters: Mapping[str, Any] | None = None) -> int:
        """Execute a statement that changes rows, and return how many it changed."""

    @abstractmethod
    def run_each(self, statement: "ClauseElement", parameters: Sequence[Mapping[str, Any]]) -> None:
        """Execute a statement once for each set of parameters."""


@dataclass(frozen=True, slots=True)
class Opened:
    """What `Database.open` found.

    Attributes:
        sessions: The number of sessions.
        last_epoch: The greatest epoch that a session was ever created with.
        is_clean: Whether the last process that owned the database closed it.
        new_epochs: How many sessions got a new epoch, because their last commits may be lost.
    """

    sessions: int
    last_epoch: int
    is_clean: bool = True
    new_epochs: int = 0


class Database(ABC):
    """One database, from `open` to `close`."""

    name: str
    """What people call it, in messages: `SQLite`, `PostgreSQL`."""
    dialect: DialectName
    """SQLAlchemy's dialect."""
    has_replicas = False
    """Whether several processes may use the database at the same time (`SessionStore.replicas`)."""
    is_filled = False
    """Whether another store is being copied into it: a session may come again under its epoch."""

    @abstractmethod
    def open(self) -> Opened:
        """Create the tables if there are none, check their version, begin to use the database.

        A clean-up of `leftovers` is not part of it: `SqlStore` does that (`dead_leftovers`).

        Raises:
            StoreBusy: Another process uses the database, and this one cannot be beside it.
            StoreUnusable: It cannot be used; `detail` is one line that says what to do.
        """

    @abstractmethod
    def look(self) -> tuple[str | None, int] | None:
        """Look into a database that is not open, without changing it.

        Returns:
            What an unfinished migration into it copies, or None, and the number of sessions. None
            when it has no tables.

        Raises:
            StoreUnusable: It cannot be used.
        """

    @abstractmethod
    def close(self) -> None:
        """Release everything. Idempotent; no other method is called at the same time."""

    @abstractmethod
    def commit(self, batch: Sequence[PreparedCommit]) -> list[BambooError | None]:
        """Make many commits durable at once; return an answer for each, in their order.

        The answers are those of `SessionStore.append`. On return everything answered with None is
        durable and visible, and nothing else will ever be. It never raises.

        * Each commit is compared with its session's row, which is locked: the epoch, `seq ==
          first_seq - 1`, the version if the commit names one, `is_packed` false; with `create`
          there is no session of that id.
        * The commits of one session apply in their order; each meets what the one before left.
        * Every commit moves `version` by one, also one of notes alone. `last_activity_at` becomes
          the greatest of the row's, the commit's time and its head's.
        * `log_bytes`, `stored_bytes`, `delta_bytes` and `usage` are counted in the same
          transaction, `session_shares` and `meta.last_epoch` written.
        * A row that cannot be written fails its own commit alone: the batch is split then. An
          extension may have written invisible rows where the commit's belong: when a commit
          alone meets them, they are removed and it is tried again.
        * When an answer is lost (a connection that broke at COMMIT), the same commits are sent
          again; one that meets a Conflict counts as durable when a row with its `commit_id` is
          there.
        """

    def when_away(self, tell: Callable[[Unavailable], None]) -> None:  # noqa: B027 - as below
        """Register what is called, on any thread, while the database does not answer.

        `commit` may wait then, since the outcome of a batch is not known before the database is
        back. What waits behind that batch is better refused at once.
        """

    def when_renewed(self, tell: Callable[[], object]) -> None:  # noqa: B027 - as below
        """Register what is called, on any thread, when sessions got new epochs while it is open."""

    def take_epoch(self) -> int | None:
        """Return an epoch that no other process gets; None if the process counts them itself."""
        return None

    def stop_waiting(self) -> None:  # noqa: B027 - most databases have nothing to wait for
        """Let no method wait any more for a database that does not answer: the store closes."""

    @abstractmethod
    def reading(self, *, snapshot: bool = False) -> AbstractContextManager[Connection]:
        """Lend a connection for reads.

        Each statement sees everything that was committed before it began. With `snapshot` all
        statements of the block see the same state.
        """

    @abstractmethod
    def writing(self, *, durable: bool = True) -> AbstractContextManager[Connection]:
        """Lend a connection in a transaction, for what is no commit of a session.

        It commits when the block ends, and is rolled back when it raises. Without `durable` it
        becomes durable at the latest with the next transaction that is: enough for rows that are
        invisible. Rows that are
        read to be changed are selected `with_for_update()`. Blocks are short: large work is cut
        into several of them, between which commits go on. A failed COMMIT means that nothing has
        changed, or that `outcome is unknown` is in the detail: only work that may be repeated
        goes through here.
        """

    @abstractmethod
    def make_contents(self) -> ContentStore:
        """Make the store of files' contents that belongs to this database."""

    @abstractmethod
    def count_usage(
        self, connection: Connection, user_id: str | None, sessions: int, stored_bytes: int
    ) -> None:
        """Add to `usage`: to the row of all, and to that of the user if there is one."""

    def note_creation(  # noqa: B027 - for several processes
        self, connection: Connection, session_id: str, epoch: int
    ) -> None:
        """Note that a session is created, in the transaction that does it and before all else.

        Raises:
            Conflict: A session of this id was created with this epoch or a later one.
        """

    def note_run(self, connection: Connection, key: int, row: HeadRow) -> None:  # noqa: B027
        """Write who executes the active run of a head, with the session's row."""

    def keep_tombstone(  # noqa: B027 - for several processes
        self, connection: Connection, session_id: str, epoch: int, key: int, version: int
    ) -> None:
        """Keep what a deletion leaves, in its transaction and before all other rows.

        So that nothing that is sent again, or arrives late, brings the session back or does a
        request twice.

        Args:
            connection: A connection in the transaction.
            session_id: The session.
            epoch: Its epoch.
            key: The key of its row.
            version: Its version.
        """

    def is_spent(self, session_id: str, key: str) -> bool:  # noqa: ARG002
        """Return whether a key was used in a deleted session, as `SessionStore.is_spent`."""
        return False

    @abstractmethod
    def dead_leftovers(self, connection: Connection, now_ms: int) -> list[int]:
        """Return the numbers of `leftovers` that no living process works on."""

    def use_reserve(self) -> None:  # noqa: B027 - a server has none
        """Give up the space that is kept back for what ends runs and frees space."""

    def on_interval(self) -> None:  # noqa: B027 - most databases need none
        """Look after the database; called on the writer's thread every few seconds."""

    def vacuum(self) -> list[Erased]:
        """Remove what is left of deleted rows, and say when it is gone from the files."""
        what = (
            "rows of deleted sessions, removed values, their words in the search index, the "
            "write-ahead log"
        )
        gone = "after the next VACUUM, and when the write-ahead log is used again"
        return [Erased(self.dialect, what, gone)]

    @abstractmethod
    def checks(self) -> list[StoreCheck]:
        """Return what diagnostics say of the database itself; it changes nothing."""

    @abstractmethod
    def stats(self) -> dict[str, Any]:
        """Return what the database adds to `SessionStore.stats`: disk space, levels, counters."""

    @property
    def refusal(self) -> Unavailable | None:
        """The error that every write gets at present, as far as is known, or None."""
        return None
