"""Stores on PostgreSQL, with a proxy in between that cuts connections."""

from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from typing import Any

import pytest

from bamboo_gateway.storage.sql.postgresql.connections import SILENT_SECONDS
from bamboo_gateway.storage.sql.postgresql.database import PostgresDatabase
from bamboo_gateway.storage.sql.postgresql.heartbeat import Timing
from bamboo_gateway.storage.sql.postgresql.store import PostgresStore
from bamboo_gateway.storage.sql.postgresql.target import Target
from tests.processes import lacking
from tests.storage.writing import StepClock
from tests.support.postgres import GivenServer, PostgresServer
from tests.support.postgres_proxy import PostgresProxy

TIMING = Timing(renew_seconds=0.4, retry_seconds=0.1)
"""A heart that beats faster than usual."""


def make_database(
    url: str, timing: Timing = TIMING, silent_seconds: float = SILENT_SECONDS
) -> PostgresDatabase:
    return PostgresDatabase(
        Target(url), timing=timing, look_seconds=0.2, silent_seconds=silent_seconds
    )


def make_store(
    url: str, timing: Timing = TIMING, silent_seconds: float = SILENT_SECONDS
) -> PostgresStore:
    """Make a store whose process is taken for dead sooner than usual."""
    return PostgresStore(make_database(url, timing, silent_seconds), StepClock())


@asynccontextmanager
async def open_store(url: str, **others: Any) -> AsyncIterator[PostgresStore]:
    store = make_store(url, **others)
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
