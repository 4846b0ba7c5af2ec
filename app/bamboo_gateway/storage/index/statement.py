"""A statement as a driver takes it: text and named parameters, compiled from SQLAlchemy's Core.

Only this package compiles. SQLAlchemy is imported with the first statement: it takes 0.15 s or
more of CPU, and no gateway needs it to start.
"""

from collections.abc import Mapping
from functools import lru_cache
from typing import TYPE_CHECKING, Any, Literal

if TYPE_CHECKING:
    from sqlalchemy import ClauseElement
    from sqlalchemy.engine import Dialect
    from sqlalchemy.sql.compiler import SQLCompiler

DialectName = Literal["sqlite", "postgresql"]


class Statement:
    """The text of a statement, the names of its parameters, and the values that it has itself."""

    __slots__ = ("defaults", "names", "text")

    def __init__(self, text: str, defaults: Mapping[str, Any]) -> None:
        self.text = text
        self.names = tuple(defaults)
        self.defaults = {name: value for name, value in defaults.items() if value is not None}

    def with_values(self, values: Mapping[str, Any]) -> dict[str, Any]:
        """Return all parameters; a name without a value is NULL."""
        return {name: values.get(name, self.defaults.get(name)) for name in self.names}


def compiled(statement: "ClauseElement", dialect: DialectName) -> Statement:
    """Compile a statement; whoever executes it often keeps the result.

    Its parameters are `:name` for SQLite, `%(name)s` for PostgreSQL. A list of values has to be one
    parameter (`json_each`, an array): one that expands is no fixed text.
    """
    compiler: SQLCompiler = statement.compile(dialect=sql_dialect(dialect))  # type: ignore[assignment]
    return Statement(str(compiler), compiler.params)


@lru_cache
def sql_dialect(name: DialectName) -> "Dialect":
    """Return SQLAlchemy's dialect; nothing is executed through it."""
    match name:
        case "sqlite":
            from bamboo_gateway.storage.index.sqlite_dialect import make_dialect  # noqa: PLC0415

            return make_dialect()
        case "postgresql":
            from sqlalchemy.dialects.postgresql import psycopg  # noqa: PLC0415

            return psycopg.dialect()  # type: ignore[no-untyped-call]
