"""Databases with the tables of searches, filled with messages."""

from collections.abc import Generator, Iterable, Sequence
from typing import Any, NamedTuple, TypeVar

from bamboo_gateway.domain import codec
from bamboo_gateway.domain.clock import format_ms
from bamboo_gateway.domain.sessions import SessionHead
from bamboo_gateway.storage.index.listing import list_sessions
from bamboo_gateway.storage.index.search import (
    message_row,
    search_messages,
    session_keys,
)
from bamboo_gateway.storage.index.search_statements import add_statement
from bamboo_gateway.storage.index.search_tables import (
    POSTGRESQL_DDL,
    SQLITE_DDL,
)
from bamboo_gateway.storage.index.search_tables import (
    search_messages as table,
)
from bamboo_gateway.storage.index.sqlite import create_table
from bamboo_gateway.storage.index.statement import DialectName, sql_dialect
from bamboo_gateway.storage.index.steps import Request, Rows, run_steps
from bamboo_gateway.storage.reports import SearchQuery, SessionPage, SessionQuery
from bamboo_gateway.storage.searching import FoundMessages
from tests.storage.index.databases import PostgresDatabase, SqliteDatabase
from tests.storage.writing import NOBODY

T = TypeVar("T")


class Said(NamedTuple):
    """A message of a session, which is named by its place in the list of heads."""

    session: int
    seq: int
    role: str
    created_at: int
    text: str

    @property
    def body(self) -> bytes:
        """The `message` event."""
        time = format_ms(self.created_at)
        message: dict[str, Any] = {"id": f"m{self.seq}", "role": self.role, "content": self.text}
        message |= {"created_at": time, "metadata": {}}
        names = {"type": "message", "seq": self.seq, "time": time, "message_id": message["id"]}
        return codec.encode({**names, "message": message})


def rows_of(heads: Sequence[SessionHead], said: Iterable[Said]) -> list[dict[str, Any]]:
    """Return the rows of messages; the key of a session is its place, from 1."""
    found = []
    for one in said:
        head = heads[one.session]
        row = message_row(one.session + 1, head.id, head.user_id, one.seq, one.body)
        if row is not None:
            found.append(row)
    return found


class Searched:
    """The messages of a database, which has those sessions already."""

    def __init__(self, database: SqliteDatabase | PostgresDatabase) -> None:
        self.database = database
        is_sqlite = isinstance(database, SqliteDatabase)
        self.dialect: DialectName = "sqlite" if is_sqlite else "postgresql"
        from sqlalchemy.schema import CreateIndex, CreateTable

        if isinstance(database, SqliteDatabase):
            create_table(database.connection, table)
            ddl = list(SQLITE_DDL)
        else:
            dialect = sql_dialect("postgresql")
            ddl = [str(CreateTable(table).compile(dialect=dialect))]
            ddl += [str(CreateIndex(index).compile(dialect=dialect)) for index in table.indexes]
            ddl += POSTGRESQL_DDL
        for statement in ddl:
            database.connection.execute(statement)
        self.insert = add_statement(self.dialect).text

    def fill(self, rows: Sequence[dict[str, Any]]) -> None:
        """Replace all messages."""
        self.execute("DELETE FROM search_messages")
        self.add(rows)

    def add(self, rows: Sequence[dict[str, Any]]) -> None:
        """Add messages."""
        if isinstance(self.database, SqliteDatabase):
            with self.database.connection as sqlite:
                sqlite.executemany(self.insert, rows)
        else:
            postgres = self.database.connection
            with postgres.transaction(), postgres.cursor() as cursor:
                cursor.executemany(self.insert, rows)

    def search(self, query: SearchQuery) -> FoundMessages:
        """Search as a store does."""
        return self._run(search_messages(query, self.dialect))

    def session_keys(self, terms: Sequence[str], user_id: str | None = None) -> list[int] | None:
        """Look for sessions as a list does."""
        return self._run(session_keys(terms, user_id, self.dialect))

    def list(self, query: SessionQuery) -> SessionPage:
        """List sessions as a store does."""
        return self._run(list_sessions(query, NOBODY, self.dialect))

    def execute(self, text: str, values: Any = None) -> Rows:
        """Execute a statement; return its rows, if it has any."""
        cursor = self.database.connection.execute(text, values or {})
        return cursor.fetchall() if text.startswith("SELECT") else []

    def _run(self, steps: Generator[Request, Rows, T]) -> T:
        if isinstance(self.database, SqliteDatabase):
            return run_steps(steps, self.database.execute)
        with self.database.connection.transaction():
            return run_steps(steps, self.database.execute)
