"""Stores on PostgreSQL, with a proxy in between that cuts connections."""

from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager

import pytest

from bamboo_gateway.domain.ids import IdMaker
from bamboo_gateway.storage.sql.postgresql.connections import SILENT_SECONDS
from bamboo_gateway.storage.sql.postgresql.database import PostgresDatabase
from bamboo_gateway.storage.sql.postgresql.target import Target
from bamboo_gateway.storage.sql.store import SqlStore
from tests.processes import lacking
from tests.storage.writing import T0, StepClock
from tests.support.postgres import GivenServer, PostgresServer
from tests.support.postgres_proxy import PostgresProxy

RENEW_SECONDS = 0.2
DEAD_SECONDS = 2.0


def make_store(
    url: str, dead_seconds: float = DEAD_SECONDS, silent_seconds: float = SILENT_SECONDS
) -> SqlStore:
    """Make a store whose claim to the database is renewed, and given up, sooner than usual."""
    database = PostgresDatabase(
        Target(url),
        IdMaker().make("claim_", T0),
        renew_seconds=RENEW_SECONDS,
        dead_seconds=dead_seconds,
        silent_seconds=silent_seconds,
    )
    return SqlStore(database, StepClock())


@asynccontextmanager
async def open_store(url: str, **timing: float) -> AsyncIterator[SqlStore]:
    store = make_store(url, **timing)
    await store.open()
    try:
        yield store
    finally:
        await store.aclose()


@pytest.fixture
def proxy(postgres_server: PostgresServer | GivenServer) -> Iterator[PostgresProxy]:
    if not isinstance(postgres_server, PostgresServer):
        lacking("a PostgreSQL server of the tests' own, for a proxy in front of it")
    with PostgresProxy(postgres_server.port) as made:
        yield made


@pytest.fixture
def through_proxy(
    postgres_server: PostgresServer, postgres_database: str, proxy: PostgresProxy
) -> str:
    """The URL of an empty database behind the proxy."""
    return postgres_server.url(postgres_database, proxy.port)


Urls = Callable[[], tuple[str, str]]
