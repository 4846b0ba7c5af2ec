"""A connection of psycopg as the SQL store uses it."""

from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from typing_extensions import override

from bamboo_gateway.storage.index.statement import Statement, compiled
from bamboo_gateway.storage.sql.database import Connection, Row
from bamboo_gateway.storage.sql.postgresql.connections import Driver

if TYPE_CHECKING:
    from sqlalchemy import ClauseElement

# Rows that are fetched together where they may be large: a page has 100 to 1,000 of them.
_ROWS_AT_A_TIME = 100


# Compiled statements, kept for good: all of them are made once, when a module is imported.
_STATEMENTS: "dict[ClauseElement, Statement]" = {}


class PostgresConnection(Connection):
    """A lent connection; one thread uses it."""

    def __init__(self, driver: Driver, executor: str) -> None:
        self.driver = driver
        self.executor = executor
        self._streams: list[Any] = []

    @override
    def rows(
        self, statement: "ClauseElement", parameters: Mapping[str, Any] | None = None
    ) -> list[Row]:
        made = _compiled(statement)
        return self.execute(made.text, made.with_values(parameters or {}))

    @override
    def each(
        self, statement: "ClauseElement", parameters: Mapping[str, Any] | None = None
    ) -> Iterator[Row]:
        made = _compiled(statement)
        cursor = self.driver.cursor(binary=True)
        stream = cursor.stream(made.text, made.with_values(parameters or {}), size=_ROWS_AT_A_TIME)
        self._streams.append(stream)
        return stream

    @override
    def execute(self, text: str, values: Mapping[str, Any]) -> list[Row]:
        cursor = self.driver.cursor(binary=True)
        cursor.execute(text, values)
        return cursor.fetchall() if cursor.description else []

    @override
    def execute_each(self, statement: Statement, parameters: Sequence[Mapping[str, Any]]) -> None:
        with self.driver.cursor() as cursor:
            cursor.executemany(statement.text, list(map(statement.with_values, parameters)))

    @override
    def run(self, statement: "ClauseElement", parameters: Mapping[str, Any] | None = None) -> int:
        made = _compiled(statement)
        return self.driver.execute(made.text, made.with_values(parameters or {})).rowcount

    @override
    def run_each(self, statement: "ClauseElement", parameters: Sequence[Mapping[str, Any]]) -> None:
        self.execute_each(_compiled(statement), parameters)

    def end_statements(self) -> None:
        """End what was not read to its end: the connection can do nothing else until then."""
        streams, self._streams = self._streams, []
        for stream in streams:
            stream.close()


def _compiled(statement: "ClauseElement") -> Statement:
    made = _STATEMENTS.get(statement)
    if made is None:
        made = _STATEMENTS[statement] = compiled(statement, "postgresql")
    return made
