"""`PostgresStore`: the SQL store over a database that several gateway processes share."""

from typing_extensions import override

from bamboo_gateway.domain.clock import Clock
from bamboo_gateway.storage.reports import RecoveryReport
from bamboo_gateway.storage.sql.postgresql.database import PostgresDatabase
from bamboo_gateway.storage.sql.postgresql.replicas import PostgresReplicas
from bamboo_gateway.storage.sql.store import SqlStore


class PostgresStore(SqlStore):
    """The store of `postgresql:`."""

    def __init__(
        self, database: PostgresDatabase, clock: Clock, *, checkpoint_interval_seconds: float = 5
    ) -> None:
        super().__init__(database, clock, checkpoint_interval_seconds=checkpoint_interval_seconds)
        self._keeper = database
        self._replicas = PostgresReplicas(database.connections, database.heartbeat, database.locks)

    @property
    @override
    def replicas(self) -> PostgresReplicas:
        return self._replicas

    @override
    async def open(self) -> RecoveryReport:
        report = await super().open()
        self._replicas.open()
        return report

    @override
    async def aclose(self) -> None:
        await self._replicas.aclose()
        await super().aclose()

    @override
    async def begin_migration(self, origin: str) -> RecoveryReport:
        self.be_alone()
        return await super().begin_migration(origin)

    def be_alone(self) -> None:
        """Let no gateway process be beside this one, as `SupportsAlone`; before `open`."""
        self._keeper.be_alone()

    @override
    async def unfinished(self) -> list[str]:
        return await self._read_threads.run(self._keeper.unfinished)

    async def keep_secret(self, proposed: bytes) -> bytes:
        """Keep a secret, as `SupportsSecret`."""
        return await self._bulk_threads.run(lambda: self._keeper.keep_secret(proposed))

    @property
    def deployment(self) -> str:
        """The id of the gateways that share the database, as `SupportsDeployment`."""
        return self._keeper.deployment
