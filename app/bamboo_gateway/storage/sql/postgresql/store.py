"""`PostgresStore`: the SQL store over a database that may outlive each machine of a gateway."""

from bamboo_gateway.domain.clock import Clock
from bamboo_gateway.storage.sql.postgresql.database import PostgresDatabase
from bamboo_gateway.storage.sql.store import SqlStore


class PostgresStore(SqlStore):
    """The store of `postgresql:`."""

    def __init__(
        self, database: PostgresDatabase, clock: Clock, *, checkpoint_interval_seconds: float = 5
    ) -> None:
        super().__init__(database, clock, checkpoint_interval_seconds=checkpoint_interval_seconds)
        self._keeper = database

    async def keep_secret(self, proposed: bytes) -> bytes:
        """Keep a secret, as `SupportsSecret`."""
        return await self._bulk_threads.run(lambda: self._keeper.keep_secret(proposed))

    @property
    def deployment(self) -> str:
        """The id of the gateways that share the database, as `SupportsDeployment`."""
        return self._keeper.deployment
