"""What tests of a session's whole life share: a gateway over each store, and a real server."""

from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from bamboo_gateway.storage.factory import make_store
from tests.api.serving import serving
from tests.support.clocks import FakeClock
from tests.support.gateways import Gateway, gateway, settings_of


@pytest.fixture(params=["memory:", "jsonl:"])
async def gate(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Gateway]:
    """A gateway on an empty store, of each kind."""
    changed: dict[str, Any] = {"storage_url": request.param, "data_dir": tmp_path / "data"}
    clock = FakeClock()
    store = make_store(settings_of(**changed), clock)
    await store.open()
    try:
        async with gateway(store, clock=clock, export_dir=tmp_path / "out", **changed) as running:
            yield running
    finally:
        await store.aclose()


@pytest.fixture(scope="module", params=["memory:", "jsonl:"])
def api(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[httpx.Client]:
    """A client of a real gateway over each store; every answer is held against the contract."""
    root = tmp_path_factory.mktemp("life")
    with (
        serving(
            storage_url=request.param, data_dir=root / "data", export_dir=root / "out"
        ) as served,
        served.client() as client,
    ):
        yield client
