"""`SqliteStore`: the SQL store over one file, which lies in a directory of this machine."""

from pathlib import Path

from bamboo_gateway.domain.clock import Clock
from bamboo_gateway.storage.sql.sqlite.database import SqliteDatabase
from bamboo_gateway.storage.sql.store import SqlStore


class SqliteStore(SqlStore):
    """The store of `sqlite:`."""

    def __init__(
        self, database: SqliteDatabase, clock: Clock, *, checkpoint_interval_seconds: float = 5
    ) -> None:
        super().__init__(database, clock, checkpoint_interval_seconds=checkpoint_interval_seconds)
        self._directory = database.path.parent

    @property
    def directory(self) -> Path:
        """The directory of the file, as `SupportsDirectory`."""
        return self._directory
