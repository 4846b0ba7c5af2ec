"""Databases with the tables of lists, filled with heads, for tests of their statements."""

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, Protocol

import psycopg

from bamboo_gateway.domain import codec
from bamboo_gateway.domain.sessions import Presence, SessionHead
from bamboo_gateway.storage.index.listing import list_sessions
from bamboo_gateway.storage.index.rows import row_of, shares_of
from bamboo_gateway.storage.index.sqlite import create_table, open_database
from bamboo_gateway.storage.index.steps import Request, run_steps
from bamboo_gateway.storage.index.tables import session_shares, sessions
from bamboo_gateway.storage.reports import SessionPage, SessionQuery

TABLES = (sessions, session_shares)


class Database(Protocol):
    """A database with the tables of lists."""

    def fill(self, heads: Iterable[SessionHead]) -> None:
        """Replace what it has by these sessions."""

    def query(self, query: SessionQuery, presence: Presence) -> SessionPage:
        """List its sessions."""

    def close(self) -> None:
        """Close it."""


def rows_of(heads: Iterable[SessionHead]) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """Return the rows of sessions and of their shares."""
    rows, shares = [], []
    for key, head in enumerate(heads, start=1):
        stored = codec.encode(head.to_json())
        rows.append({"key": key, "epoch": head.epoch, "head": stored, **row_of(head)})
        for user_id, expires_at in shares_of(head).items():
            shares.append({"user_id": user_id, "key": key, "expires_at": expires_at})
    return rows, shares


class SqliteDatabase:
    """SQLite, in a file."""

    def __init__(self, path: Path) -> None:
        self.connection = open_database(path, synchronous="OFF")
        with self.connection:
            for table in TABLES:
                create_table(self.connection, table)
        self.requests: list[Request] = []

    def fill(self, heads: Iterable[SessionHead]) -> None:
        with self.connection:
            for table, rows in zip(TABLES, rows_of(heads), strict=True):
                self.connection.execute(f"DELETE FROM {table.name}")
                for row in rows:
                    names = ", ".join(row)
                    values = ", ".join(f":{name}" for name in row)
                    insert = f"INSERT INTO {table.name} ({names}) VALUES ({values})"
                    self.connection.execute(insert, row)

    def execute(self, request: Request) -> Sequence[Sequence[Any]]:
        self.requests.append(request)
        return self.connection.execute(request.text, request.values).fetchall()

    def query(self, query: SessionQuery, presence: Presence) -> SessionPage:
        return run_steps(list_sessions(query, presence, "sqlite"), self.execute)

    def close(self) -> None:
        self.connection.close()


class PostgresDatabase:
    """PostgreSQL, without prepared statements, as behind PgBouncer."""

    def __init__(self, url: str) -> None:
        from sqlalchemy.schema import CreateIndex, CreateTable

        from bamboo_gateway.storage.index.statement import sql_dialect

        self.connection = psycopg.connect(url, autocommit=True, prepare_threshold=None)
        self.requests: list[Request] = []
        dialect = sql_dialect("postgresql")
        for table in TABLES:
            self.connection.execute(str(CreateTable(table).compile(dialect=dialect)))
            for index in table.indexes:
                self.connection.execute(str(CreateIndex(index).compile(dialect=dialect)))

    def fill(self, heads: Iterable[SessionHead]) -> None:
        with self.connection.transaction(), self.connection.cursor() as cursor:
            for table, rows in zip(TABLES, rows_of(heads), strict=True):
                cursor.execute(f"DELETE FROM {table.name}")
                if not rows:
                    continue
                names = ", ".join(rows[0])
                with cursor.copy(f"COPY {table.name} ({names}) FROM STDIN") as copy:
                    for row in rows:
                        copy.write_row(list(row.values()))

    def execute(self, request: Request) -> Sequence[Sequence[Any]]:
        self.requests.append(request)
        return self.connection.execute(request.text, request.values).fetchall()

    def query(self, query: SessionQuery, presence: Presence) -> SessionPage:
        return run_steps(list_sessions(query, presence, "postgresql"), self.execute)

    def close(self) -> None:
        self.connection.close()
