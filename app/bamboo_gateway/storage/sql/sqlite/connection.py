"""A connection of apsw as the SQL store uses it."""

from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import apsw
from sqlalchemy import Delete
from typing_extensions import override

from bamboo_gateway.storage.index.statement import Statement, compiled
from bamboo_gateway.storage.sql.database import Connection, Row

if TYPE_CHECKING:
    from sqlalchemy import ClauseElement


# Compiled statements, kept for good: all of them are made once, when a module is imported.
_STATEMENTS: "dict[ClauseElement, Statement]" = {}


class SqliteConnection(Connection):
    """A connection; one thread uses it at a time."""

    def __init__(self, connection: apsw.Connection) -> None:
        self.driver = connection
        self._cursors: list[apsw.Cursor] = []
        # Whether a statement deleted rows.
        self.has_deleted = False

    @override
    def rows(
        self, statement: "ClauseElement", parameters: Mapping[str, Any] | None = None
    ) -> list[Row]:
        made = _compiled(statement)
        found: list[Row] = self.driver.execute(
            made.text, made.with_values(parameters or {})
        ).fetchall()
        return found

    @override
    def each(
        self, statement: "ClauseElement", parameters: Mapping[str, Any] | None = None
    ) -> Iterator[Row]:
        made = _compiled(statement)
        cursor = self.driver.cursor()
        self._cursors.append(cursor)
        return iter(cursor.execute(made.text, made.with_values(parameters or {})))

    @override
    def execute(self, text: str, values: Mapping[str, Any]) -> list[Row]:
        found: list[Row] = self.driver.execute(text, values).fetchall()
        return found

    @override
    def execute_each(self, statement: Statement, parameters: Sequence[Mapping[str, Any]]) -> None:
        self.driver.executemany(statement.text, map(statement.with_values, parameters))

    @override
    def run(self, statement: "ClauseElement", parameters: Mapping[str, Any] | None = None) -> int:
        self.rows(statement, parameters)
        self.has_deleted = self.has_deleted or isinstance(statement, Delete)
        return self.driver.changes()

    @override
    def run_each(self, statement: "ClauseElement", parameters: Sequence[Mapping[str, Any]]) -> None:
        self.execute_each(_compiled(statement), parameters)
        self.has_deleted = self.has_deleted or isinstance(statement, Delete)

    def end_statements(self) -> None:
        """End what was not read to its end: it would keep its snapshot."""
        cursors, self._cursors = self._cursors, []
        for cursor in cursors:
            cursor.close(True)


def _compiled(statement: "ClauseElement") -> Statement:
    made = _STATEMENTS.get(statement)
    if made is None:
        made = _STATEMENTS[statement] = compiled(statement, "sqlite")
    return made
