"""`PostgresStore`: the SQL store over a database that several gateway processes share."""

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, contextmanager, suppress
from typing import Final

import anyio
from typing_extensions import override

from bamboo_gateway.domain.clock import Clock
from bamboo_gateway.domain.errors import BambooError, Unavailable
from bamboo_gateway.storage.keys import ApiKeys
from bamboo_gateway.storage.reports import RecoveryReport
from bamboo_gateway.storage.sql.database import Connection
from bamboo_gateway.storage.sql.postgresql.connection import PostgresConnection
from bamboo_gateway.storage.sql.postgresql.connections import Driver
from bamboo_gateway.storage.sql.postgresql.database import PostgresDatabase
from bamboo_gateway.storage.sql.postgresql.keys import KeysInDatabase
from bamboo_gateway.storage.sql.postgresql.replicas import PostgresReplicas
from bamboo_gateway.storage.sql.store import SqlStore

# The leader looks for work of dead processes every five minutes.
_SWEEP_ROUNDS: Final = 120


class PostgresStore(SqlStore):
    """The store of `postgresql:`."""

    def __init__(
        self, database: PostgresDatabase, clock: Clock, *, checkpoint_interval_seconds: float = 5
    ) -> None:
        super().__init__(database, clock, checkpoint_interval_seconds=checkpoint_interval_seconds)
        self._keeper = database
        self._api_keys = KeysInDatabase(
            database.shown, lambda: _lent(database.reading), lambda: _lent(database.writing)
        )
        # What takes longer than a round is waited for: one thread.
        self._sweeper = ThreadPoolExecutor(1, thread_name_prefix="bamboo-sweep")
        self._rounds = 0
        self._is_closing = False
        self._replicas = PostgresReplicas(database.connections, database.heartbeat, database.locks)

    @property
    def api_keys(self) -> ApiKeys:
        """The API keys, as `SupportsKeys`."""
        return self._api_keys

    @override
    async def change_value(
        self, kind: str, key: str, change: Callable[[bytes | None], bytes | None]
    ) -> bytes | None:
        if not self._is_open:
            raise Unavailable("The store is closed.")
        return await self._value_threads.run(lambda: self._values.change(kind, key, change))

    @property
    @override
    def replicas(self) -> PostgresReplicas:
        return self._replicas

    @override
    async def open(self) -> RecoveryReport:
        report = await super().open()
        self._replicas.open()
        self._replicas.when_renewed(self._on_renewed)
        return report

    @override
    async def aclose(self) -> None:
        await self._replicas.aclose()
        self._is_closing = True
        await anyio.to_thread.run_sync(self._sweeper.shutdown)
        await super().aclose()

    def _on_renewed(self) -> None:
        self._rounds += 1
        if self._rounds % _SWEEP_ROUNDS == 0 and self._replicas.is_leader and not self._is_closing:
            self._sweeper.submit(self._sweep)

    def _sweep(self) -> None:
        """Remove what processes that died have left half done, as an `open` does."""
        with suppress(BambooError):  # the next round comes
            self._changes.remove_leftovers(lambda: self._is_closing)

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


@contextmanager
def _lent(lend: Callable[[], AbstractContextManager[Connection]]) -> Iterator[Driver]:
    with lend() as connection:
        assert isinstance(connection, PostgresConnection)
        yield connection.driver
