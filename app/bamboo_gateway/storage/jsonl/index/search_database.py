"""index/search.sqlite: the messages of all sessions, so that searches find them.

The database is not the truth. It can be removed at any time: what it lacks is read from the logs
again. `start` compares it with the catalog, so nothing depends on how the last process ended. It
has the tables of `storage.index`, of which a session's row says up to which seq its messages are
here. The lists of this store do not use it, so the rows have only what searches look at.

One thread uses it.
"""

import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import apsw
import structlog

from bamboo_gateway.domain.sessions import SessionHead
from bamboo_gateway.storage.index.rows import HEAD_STATES, group_of, row_of
from bamboo_gateway.storage.index.search import (
    MessageRows,
    search_messages,
    session_keys,
    term_values,
)
from bamboo_gateway.storage.index.sqlite import create_table, open_database, truncate_wal
from bamboo_gateway.storage.index.steps import Request, Rows, run_steps
from bamboo_gateway.storage.reports import SearchQuery
from bamboo_gateway.storage.searching import FoundMessages

# The database is torn, is none, or lacks a table. Other errors may be gone with the next try.
UNUSABLE: Final = (apsw.NotADBError, apsw.CorruptError, apsw.SQLError, apsw.SchemaChangeError)
# Another number makes every gateway throw the database away and make it again.
_FORMAT: Final = 1
logger = structlog.get_logger(__name__)
_SUFFIXES = ("", "-wal", "-shm")

# What the start compares: the id, epoch, seq, owner of a session, and whether it is archived.
Known = tuple[str, int, int, str | None, bool]
# The seq and body of a message.
Message = tuple[int, bytes]


@dataclass(frozen=True, slots=True)
class Job:
    """What is to be written of one session.

    Attributes:
        session_id: The session.
        seq: Its seq when the job was made, which `messages` and `read` go up to.
        head: Returns its head, or a later one; None when it was deleted.
        messages: The messages since its row was written; None when they have to be read.
        is_new: Whether `messages` are all messages of the log.
        read: Reads messages behind a seq, in pages.
    """

    session_id: str
    seq: int
    head: Callable[[], SessionHead] | None
    messages: Sequence[Message] | None
    is_new: bool
    read: Callable[[int], Iterator[Sequence[Message]]]


class SearchDatabase:
    """The database; it is opened by `start`.

    `check_place` raises OSError when the path leads to another directory than the store's, which
    files are never written to.
    """

    def __init__(self, path: Path, check_place: Callable[[], None]) -> None:
        self._path = path
        self._check_place = check_place
        self._connection: apsw.Connection | None = None
        self._rows = MessageRows()
        self._skipped_sessions = 0
        # Whether this write deletes something, which has to leave the files too.
        self._has_deleted = False

    def start(self, sessions: Iterable[Known]) -> list[str]:
        """Open the database, and make it again when it cannot be used.

        Returns:
            The sessions whose rows are missing or old, or that are gone.
        """
        self.close()
        try:
            connection = self._open()
        except UNUSABLE:
            self.remove()
            connection = self._open()
        # A process that was killed may have left what it deleted.
        truncate_wal(connection)
        rows = connection.execute("SELECT id, epoch, seq, user_id, head_state = 6 FROM sessions")
        stored = {row[0]: row for row in rows}
        stale = [known[0] for known in sessions if stored.pop(known[0], None) != known]
        return [*stale, *stored]

    def _open(self) -> apsw.Connection:
        self._check_place()
        # SQLite would make the file with the modes of the umask.
        os.close(os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o600))
        connection = open_database(self._path, synchronous="NORMAL")
        try:
            _prepare(connection)
        except BaseException:
            connection.close()
            raise
        self._connection = connection
        return connection

    def remove(self) -> None:
        """Close the database and remove its files; `start` makes it again.

        Raises:
            OSError: The directory is not the store's any more.
        """
        self.close()
        self._check_place()
        for suffix in _SUFFIXES:
            with suppress(FileNotFoundError):
                Path(f"{self._path}{suffix}").unlink()

    def close(self) -> None:
        """Close the database. Idempotent."""
        connection, self._connection = self._connection, None
        if connection is not None:
            connection.close()

    @property
    def disk_bytes(self) -> int:
        """The bytes that the files of the database take."""
        total = 0
        for suffix in _SUFFIXES:
            with suppress(FileNotFoundError):
                total += Path(f"{self._path}{suffix}").stat().st_size
        return total

    @property
    def skipped(self) -> int:
        """The number of messages and sessions left out, since they cannot be searched."""
        return self._rows.skipped + self._skipped_sessions

    @property
    def _db(self) -> apsw.Connection:
        assert self._connection is not None, "start opens it"
        return self._connection

    def write(
        self,
        jobs: Iterable[Job],
        bytes_max: int,
        again: tuple[type[Exception], ...],
        unreadable: tuple[type[Exception], ...],
    ) -> list[str]:
        """Write some sessions, in one transaction.

        Args:
            jobs: What to write.
            bytes_max: After so many bytes of messages the other sessions are left.
            again: The errors of a job that is to be made again.
            unreadable: The errors of a session that cannot be read; its row stays as it is.

        Returns:
            The sessions that are not, or not completely, written.
        """
        left: list[str] = []
        self._has_deleted = False
        self._check_place()
        with self._db:
            for job in jobs:
                if bytes_max <= 0:
                    left.append(job.session_id)
                    continue
                if job.head is None:
                    self._delete(job.session_id)
                    continue
                try:
                    with self._db:
                        written, is_done = self._write(job, job.head(), bytes_max)
                except again:
                    left.append(job.session_id)
                except unreadable:
                    continue
                except apsw.Error:
                    raise
                except Exception as error:  # noqa: BLE001 - the others do not depend on it (R10)
                    self._skipped_sessions += 1
                    logger.warning(
                        "session_not_searchable",
                        session_id=job.session_id,
                        reason=type(error).__name__,
                    )
                else:
                    bytes_max -= written
                    if not is_done:
                        left.append(job.session_id)
        if self._has_deleted:
            truncate_wal(self._db)
        return left

    def _write(self, job: Job, head: SessionHead, bytes_max: int) -> tuple[int, bool]:
        row = self._db.execute(
            "SELECT key, epoch, seq, user_id FROM sessions WHERE id = ?", (job.session_id,)
        ).get
        if row is not None and (row[1], row[3]) != (head.epoch, head.user_id):
            self._delete(job.session_id)
            row = None
        key, after = (row[0], row[2]) if row is not None else (self._insert(head), 0)
        written, is_done = 0, True
        if job.messages is not None and (row is not None or job.is_new):
            pages: Iterable[Sequence[Message]] = [job.messages]
        else:
            pages = job.read(max(after, head.history_from))
        seq = after
        for page in pages:
            for seq, body in page:
                if seq > after and seq > head.history_from:
                    written += len(body)
                    self._insert_message(key, head, seq, body)
            if written >= bytes_max:
                is_done = False
                break
        if head.history_from:
            self._db.execute(
                "DELETE FROM search_messages WHERE session_key = ? AND seq <= ?",
                (key, head.history_from),
            )
        self._db.execute(
            "UPDATE sessions SET seq = ?, head_state = ? WHERE key = ?",
            (job.seq if is_done else seq, HEAD_STATES[group_of(head)], key),
        )
        return written, is_done

    def _insert(self, head: SessionHead) -> int:
        row = {"epoch": head.epoch, "head": b"", **row_of(head)}
        # Databases of earlier gateways have no such column, and searches do not look at it.
        del row["metadata_digest"]
        names, values = ", ".join(row), ", ".join(f":{name}" for name in row)
        self._db.execute(f"INSERT INTO sessions ({names}) VALUES ({values})", row)  # noqa: S608 - names of columns
        return self._db.last_insert_rowid()

    def _insert_message(self, key: int, head: SessionHead, seq: int, body: bytes) -> None:
        row = self._rows.row(key, head.id, head.user_id, seq, body)
        if row is not None:
            self._db.execute(
                "INSERT INTO search_messages"
                " (session_key, session_id, seq, user_id, role, created_at, code) VALUES"
                " (:session_key, :session_id, :seq, :user_id, :role, :created_at, :code)"
                " ON CONFLICT DO NOTHING",
                row,
            )

    def _delete(self, session_id: str) -> None:
        row = self._db.execute("SELECT key FROM sessions WHERE id = ?", (session_id,)).get
        if row is None:
            return
        self._has_deleted = True
        self._db.execute("DELETE FROM search_messages WHERE session_key = ?", (row,))
        self._db.execute("DELETE FROM sessions WHERE key = ?", (row,))

    def erase(self) -> bool:
        """Remove what deleted messages left in the trigram index and the WAL.

        It rewrites the whole trigram index: seconds of CPU for some 100,000 messages.

        Returns:
            Whether nothing was in the way of emptying the WAL.
        """
        from bamboo_gateway.storage.index.search_tables import SQLITE_ERASE  # noqa: PLC0415

        self._db.execute(SQLITE_ERASE)
        return truncate_wal(self._db)

    def search(self, query: SearchQuery) -> FoundMessages:
        """Find messages."""
        return run_steps(search_messages(query, "sqlite"), self._execute)

    def sessions_with(self, terms: tuple[str, ...], user_id: str | None) -> set[str]:
        """Find the sessions with a message that has the terms; each of them may be another's."""
        from sqlalchemy import select  # noqa: PLC0415

        from bamboo_gateway.storage.index.search_statements import has_message  # noqa: PLC0415
        from bamboo_gateway.storage.index.statement import compiled  # noqa: PLC0415
        from bamboo_gateway.storage.index.tables import sessions  # noqa: PLC0415

        keys = run_steps(session_keys(terms, user_id, "sqlite"), self._execute)
        if keys is not None:
            by_key = "SELECT id FROM sessions WHERE key IN (SELECT value FROM json_each(?))"
            return {row[0] for row in self._db.execute(by_key, (str(keys),))}
        query = select(sessions.c.id).where(has_message(len(terms), "sqlite"))
        statement = compiled(query, "sqlite")
        values = statement.with_values(term_values(terms))
        return {row[0] for row in self._db.execute(statement.text, values)}

    def _execute(self, request: Request) -> Rows:
        return self._db.execute(request.text, request.values).fetchall()


def _prepare(connection: apsw.Connection) -> None:
    """Create the tables in a new database.

    Raises:
        apsw.NotADBError: Another version made it.
    """
    if connection.pragma("user_version") == _FORMAT:
        return
    if connection.execute("SELECT count(*) FROM sqlite_schema").get:
        raise apsw.NotADBError("a database of another version")
    from bamboo_gateway.storage.index import search_tables, tables  # noqa: PLC0415

    with connection:
        create_table(connection, search_tables.search_messages)
        create_table(connection, tables.sessions, is_listed=False)
        for statement in search_tables.SQLITE_DDL:
            connection.execute(statement)
        connection.pragma("user_version", _FORMAT)
