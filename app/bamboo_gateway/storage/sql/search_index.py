"""Messages on their way into what is searched, and searches.

A commit only names its messages in `unsearched`, in its own transaction: folding their texts and
changing the trigram index take longer than all the rest of it. A thread takes them from there, in
short transactions, at the latest `checkpoint_interval_seconds` after the commit. What a crash
interrupts is still named there.

Of several processes that share a database one does it at a time (`may_index`). For a moment two
may; then each indexes what it has taken itself.
"""

import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from threading import Event, Thread
from typing import Any

import structlog
from sqlalchemy import and_, bindparam, delete, func, or_, select

from bamboo_gateway.domain import codec
from bamboo_gateway.domain.errors import Conflict, StorageFailed
from bamboo_gateway.storage.index.listing import Request, Rows, run_steps
from bamboo_gateway.storage.index.search import MessageRows, search_messages
from bamboo_gateway.storage.index.search_statements import add_statement, delete_statement
from bamboo_gateway.storage.index.tables import sessions
from bamboo_gateway.storage.reports import SearchQuery
from bamboo_gateway.storage.searching import FoundMessages
from bamboo_gateway.storage.sql.database import Connection, Database
from bamboo_gateway.storage.sql.reads import Reads, Search
from bamboo_gateway.storage.sql.tables import events, unsearched

# What is read and folded at once.
_ROWS = 400
_CHARS = 256 * 1024
# A transaction ends after this time, since commits wait for it: for the one writer of SQLite, for
# the locked rows of sessions in PostgreSQL. It is looked at after each portion of rows.
_TURN_SECONDS = 0.01
_PORTION = 16

logger = structlog.get_logger(__name__)

_WAITING = (
    select(
        unsearched.c.session_key,
        unsearched.c.seq,
        sessions.c.id,
        sessions.c.epoch,
        sessions.c.user_id,
        sessions.c.head,
        events.c.body,
    )
    .select_from(
        unsearched.join(
            sessions,
            and_(sessions.c.key == unsearched.c.session_key, sessions.c.seq >= unsearched.c.seq),
        ).outerjoin(
            events,
            and_(
                events.c.session_key == unsearched.c.session_key,
                events.c.seq == unsearched.c.seq,
                sessions.c.is_packed.is_(False),
            ),
        )
    )
    .where(
        or_(
            unsearched.c.session_key > bindparam("after_key"),
            and_(
                unsearched.c.session_key == bindparam("after_key"),
                unsearched.c.seq > bindparam("after_seq"),
            ),
        )
    )
    .order_by(unsearched.c.session_key, unsearched.c.seq)
    .limit(_ROWS)
)
_LOCK = (
    select(sessions.c.key, sessions.c.user_id)
    .where(sessions.c.key == bindparam("session_key"))
    .with_for_update()
)
# Behind `_LOCK`, so what is seen then was not taken by another process.
_STILL_NAMED = select(unsearched.c.seq).where(
    unsearched.c.session_key == bindparam("session_key"),
    unsearched.c.seq >= bindparam("first_seq"),
    unsearched.c.seq <= bindparam("last_seq"),
)
_TAKE = delete(unsearched).where(
    unsearched.c.session_key == bindparam("session_key"), unsearched.c.seq == bindparam("taken_seq")
)
# A scrape goes no further than these.
_COUNTED_MAX = 10_000
_some_waiting = select(unsearched.c.session_key).limit(_COUNTED_MAX).subquery()
_BACKLOG = select(func.count(_some_waiting.c.session_key.distinct()))


# The session's key and the seq of what waits, and its row (`SearchIndex._made`).
_Made = tuple[int, int, dict[str, Any] | None]


class SearchIndex:
    """The thread that indexes messages, from `start` to `stop`, and searches."""

    def __init__(
        self,
        database: Database,
        reads: Reads,
        interval_seconds: float,
        may_index: Callable[[], bool] = lambda: True,
    ) -> None:
        """Make it; `start` starts the thread.

        Args:
            database: Has the messages.
            reads: Reads those of archived sessions.
            interval_seconds: How soon a message is indexed.
            may_index: Whether it is this process's turn.
        """
        self._database = database
        self._may_index = may_index
        self._reads = reads
        # Half of it, as the work itself takes some time.
        self._seconds = interval_seconds / 2
        self._rows = MessageRows()
        self._is_over = Event()
        self._is_failing = False
        self.failures = 0
        self._thread = Thread(target=self._run, name="bamboo-sql-search", daemon=True)

    def start(self) -> None:
        """Start the thread."""
        self._thread.start()

    def stop(self) -> None:
        """End the thread; what waits is indexed after the next start."""
        self._is_over.set()
        self._thread.join()

    @property
    def is_working(self) -> bool:
        """Whether the thread is alive, and its last try did not fail."""
        return self._thread.is_alive() and not self._is_failing

    @property
    def skipped(self) -> int:
        """The number of messages left out, since they cannot be searched."""
        return self._rows.skipped

    def _run(self) -> None:
        while not self._is_over.wait(self._seconds):
            if self._may_index():
                self._try()

    def _try(self) -> None:
        """Index what waits. What failed is still named, and tried again after the next wait."""
        try:
            self.index(self._is_over.is_set)
        except Exception as error:  # noqa: BLE001 - nobody would start the thread again
            self.failures += 1
            # An outage of the database is one line, not one for each try.
            if not self._is_failing:
                logger.warning("search_index_failed", error=type(error).__name__, reason=str(error))
            self._is_failing = True
        else:
            if self._is_failing:
                logger.info("search_index_goes_on", failures=self.failures)
            self._is_failing = False

    def index(self, is_over: Callable[[], bool] = lambda: False) -> None:
        """Index everything that waits.

        Raises:
            StorageFailed: Some of it cannot be read, and is still named; the rest was indexed.
        """
        place = (-(1 << 62), 0)
        unread: StorageFailed | None = None
        while not is_over():
            with self._database.reading() as connection:
                names = {"after_key": place[0], "after_seq": place[1]}
                waiting = self._some_of(connection, names)
            if not waiting:
                break
            place = (waiting[-1][0], waiting[-1][1])
            made: list[_Made] = []
            for row in waiting:
                try:
                    made.append((row[0], row[1], self._made(*row)))
                except StorageFailed as error:  # one damaged archive keeps nobody else's out
                    unread = error
            while made and not is_over():
                made = made[self._write(made) :]
        if unread is not None:
            raise unread

    def _write(self, made: Sequence[_Made]) -> int:
        """Write some rows in one transaction, and return how many."""
        written = 0
        with self._database.writing(durable=False) as connection:
            until = time.monotonic() + _TURN_SECONDS
            while written < len(made) and (not written or time.monotonic() < until):
                portion = made[written : written + _PORTION]
                self._take(connection, portion)
                written += len(portion)
        return written

    def _some_of(self, connection: Connection, names: dict[str, Any]) -> list[Any]:
        found: list[Any] = []
        size = 0
        for row in connection.each(_WAITING, names):
            found.append(row)
            size += len(row[-1] or b"")
            if size >= _CHARS:
                break
        return found

    def _made(
        self,
        key: int,
        seq: int,
        session_id: str,
        epoch: int,
        user_id: str | None,
        head: bytes,
        body: bytes | None,
    ) -> dict[str, Any] | None:
        """Return the row of a message; for a merge, up to which seq there is nothing to find."""
        history_from = codec.decode(head).get("history_from", 0)
        if seq == 0:
            return {"upto": history_from}
        if seq <= history_from:
            return None
        if body is None:
            # A packed session: its events are elsewhere.
            with suppress(Conflict):
                search = Search("message", None, seq - 1, seq + 1, 1)
                for record in self._reads.find(session_id, epoch, search):
                    body = record.body
        if body is None:
            return None
        return self._rows.row(key, session_id, user_id, seq, body)

    def _take(self, connection: Connection, made: Sequence[_Made]) -> None:
        # In the order of keys, as `_WAITING` has them.
        keys = dict.fromkeys(key for key, _, _ in made)
        owners = {key: connection.rows(_LOCK, {"session_key": key}) for key in keys}
        if self._database.dialect == "postgresql":
            made = self._still_named(connection, made)
        taken = [{"session_key": key, "taken_seq": seq} for key, seq, _ in made]
        connection.run_each(_TAKE, taken)
        added: list[dict[str, Any]] = []
        for key, seq, row in made:
            owner = owners[key]
            if not owner or row is None:
                continue
            if seq == 0:
                remove = delete_statement(self._database.dialect)
                values = {"session_key": key, "upto": row["upto"], "rows": 1 << 30}
                connection.execute(remove.text, remove.with_values(values))
            elif row["user_id"] != owner[0][1]:
                # The owner has changed since it was read.
                connection.run(_AGAIN, {"session_key": key, "seq": seq})
            else:
                added.append(row)
        if added:
            add = add_statement(self._database.dialect)
            connection.execute_each(add, added)

    def _still_named(self, connection: Connection, made: Sequence[_Made]) -> Sequence[_Made]:
        """Return those that no other process has taken since they were read."""
        seqs: dict[int, list[int]] = {}
        for key, seq, _ in made:
            seqs.setdefault(key, []).append(seq)
        named = {
            (key, row[0])
            for key, some in seqs.items()
            for row in connection.rows(
                _STILL_NAMED,
                {"session_key": key, "first_seq": min(some), "last_seq": max(some)},
            )
        }
        return [one for one in made if one[:2] in named]

    def backlog(self) -> int:
        """Return how many sessions have messages that wait; of very many, a part."""
        with self._database.reading() as connection:
            [(count,)] = connection.rows(_BACKLOG)
        return int(count)

    def search(self, query: SearchQuery) -> FoundMessages:
        """Find messages, without their bodies."""
        with self._database.reading(snapshot=True) as connection:
            return run_steps(search_messages(query, self._database.dialect), _by(connection))


_AGAIN = unsearched.insert().values(session_key=bindparam("session_key"), seq=bindparam("seq"))


def _by(connection: Connection) -> Callable[[Request], Rows]:
    return lambda request: connection.execute(request.text, request.values)
