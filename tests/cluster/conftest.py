"""Two stores on one PostgreSQL, and a proxy that cuts connections."""

from collections.abc import AsyncIterator

import pytest

from bamboo_gateway.storage.sql.postgresql.store import PostgresStore
from tests.storage.postgresql.conftest import open_store, proxy, through_proxy

__all__ = ["proxy", "stores", "through_proxy"]


@pytest.fixture
async def stores(postgres_url: str) -> AsyncIterator[tuple[PostgresStore, PostgresStore]]:
    async with open_store(postgres_url) as one, open_store(postgres_url) as other:
        yield one, other
