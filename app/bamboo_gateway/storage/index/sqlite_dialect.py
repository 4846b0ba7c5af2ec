"""SQLAlchemy's dialect for SQLite, with the hints that it leaves out."""

from typing import Any

from sqlalchemy.dialects.sqlite.base import SQLiteCompiler
from sqlalchemy.dialects.sqlite.pysqlite import SQLiteDialect_pysqlite
from typing_extensions import override


class _Compiler(SQLiteCompiler):
    @override
    def get_from_hint_text(self, table: Any, text: str | None) -> str | None:
        """Return what `with_hint` gave a table: `INDEXED BY …`."""
        del table
        return text


def make_dialect() -> SQLiteDialect_pysqlite:
    """Make the dialect; its parameters are `:name`."""
    dialect = SQLiteDialect_pysqlite(paramstyle="named")
    dialect.statement_compiler = _Compiler
    return dialect
