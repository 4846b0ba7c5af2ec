"""The stores that the contract suite runs over, each with its second path."""

from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path

import pytest

from bamboo_gateway.settings import Settings
from bamboo_gateway.storage.base import SessionStore
from bamboo_gateway.storage.factory import make_store
from tests.storage.writing import StepClock
from tests.support.postgres import GivenServer, PostgresServer
from tests.support.settings import given_settings

STORES = (
    "memory",
    "jsonl",
    "jsonl-os",
    "jsonl-noindex",
    "sqlite",
    "sqlite-os",
    "postgresql",
    "postgresql-pgbouncer",
)
Reopen = Callable[[SessionStore], Awaitable[SessionStore]]


@pytest.fixture(params=STORES)
def store_name(request: pytest.FixtureRequest) -> str:
    name: str = request.param
    return name


@pytest.fixture
def settings(request: pytest.FixtureRequest, store_name: str, tmp_path: Path) -> Settings:
    return given_settings(
        data_dir=tmp_path / "data",
        storage_url=storage_url(request, store_name),
        durability="os" if store_name.endswith("-os") else "fsync",
        index_enabled=store_name != "jsonl-noindex",
    )


def storage_url(request: pytest.FixtureRequest, store_name: str) -> str:
    """Return the URL of a store of this kind that has nothing in it."""
    if not store_name.startswith("postgresql"):
        return f"{store_name.split('-')[0]}:"
    # Asked for here, so that tests of other stores start no server.
    server: PostgresServer | GivenServer = request.getfixturevalue("postgres_server")
    is_pooled = store_name == "postgresql-pgbouncer"
    port: int | None = request.getfixturevalue("pgbouncer_port") if is_pooled else None
    return server.url(request.getfixturevalue("postgres_database"), port)


@pytest.fixture
def clock() -> StepClock:
    return StepClock()


@pytest.fixture
async def store(settings: Settings, clock: StepClock) -> AsyncIterator[SessionStore]:
    made = make_store(settings, clock)
    await made.open()
    yield made
    await made.aclose()


@pytest.fixture
async def second_path(
    settings: Settings, clock: StepClock, store_name: str
) -> AsyncIterator[Reopen]:
    """Return what a fresh process sees: for files, another store after the first has closed."""
    opened: list[SessionStore] = []

    async def reopen(store: SessionStore) -> SessionStore:
        if store_name == "memory":
            return store
        await store.aclose()
        fresh = make_store(settings, clock)
        await fresh.open()
        opened.append(fresh)
        return fresh

    yield reopen
    for store in opened:
        await store.aclose()


async def both_paths(store: SessionStore, second_path: Reopen) -> AsyncIterator[SessionStore]:
    """Return the store itself, then what a fresh process sees."""
    yield store
    yield await second_path(store)
