"""The stores that the contract suite runs over, each with its second path."""

from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path

import pytest

from bamboo_gateway.settings import Settings
from bamboo_gateway.storage.base import SessionStore
from bamboo_gateway.storage.factory import make_store
from tests.storage.writing import StepClock
from tests.support.settings import given_settings

STORES = ("memory", "jsonl", "jsonl-os", "jsonl-noindex")
Reopen = Callable[[SessionStore], Awaitable[SessionStore]]


@pytest.fixture(params=STORES)
def store_name(request: pytest.FixtureRequest) -> str:
    name: str = request.param
    return name


@pytest.fixture
def settings(store_name: str, tmp_path: Path) -> Settings:
    return given_settings(
        data_dir=tmp_path / "data",
        storage_url=f"{store_name.split('-')[0]}:",
        durability="os" if store_name == "jsonl-os" else "fsync",
        index_enabled=store_name != "jsonl-noindex",
    )


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
