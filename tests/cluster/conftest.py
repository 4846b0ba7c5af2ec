"""Two stores on one PostgreSQL, and a proxy that cuts connections."""

from collections.abc import AsyncIterator, Iterator

import pytest

from bamboo_gateway.storage.sql.postgresql.store import PostgresStore
from tests.processes import lacking
from tests.storage.postgresql.conftest import open_store
from tests.support.postgres import GivenServer, PostgresServer
from tests.support.postgres_proxy import PostgresProxy


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
    return postgres_server.url(postgres_database, proxy.port)


@pytest.fixture
async def stores(postgres_url: str) -> AsyncIterator[tuple[PostgresStore, PostgresStore]]:
    async with open_store(postgres_url) as one, open_store(postgres_url) as other:
        yield one, other
