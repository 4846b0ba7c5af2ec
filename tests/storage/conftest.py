"""Fixtures of the JSONL engine's tests."""

from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest

from bamboo_gateway.storage.file_system import FileSystem
from bamboo_gateway.storage.jsonl.store import JsonlStore
from tests.storage.faults import abandon
from tests.storage.writing import StepClock

Opener = Callable[..., Awaitable[JsonlStore]]


@pytest.fixture
def clock() -> StepClock:
    return StepClock()


@pytest.fixture
def data_dir(tmp_path: Path) -> Path:
    return tmp_path / "data"


@pytest.fixture
async def opener(data_dir: Path, clock: StepClock) -> AsyncIterator[Opener]:
    """Open stores on the data directory; abandon those still open at the end."""
    stores: list[JsonlStore] = []

    async def open_store(fs: FileSystem | None = None, **options: Any) -> JsonlStore:
        store = JsonlStore(options.pop("root", data_dir), clock, fs=fs, **options)
        store.report = await store.open()  # type: ignore[attr-defined]
        stores.append(store)
        return store

    yield open_store
    for store in stores:
        if store._is_open:
            await abandon(store)
