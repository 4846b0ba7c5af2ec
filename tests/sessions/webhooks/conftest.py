"""What tests of webhooks share."""

from collections.abc import AsyncIterator

import pytest

from bamboo_gateway.sessions.webhooks import courier, looking
from tests.sessions.webhooks.hooked import Hooked, hooked


@pytest.fixture(autouse=True)
def looking_often(monkeypatch: pytest.MonkeyPatch) -> None:
    """Only the tests' time depends on it."""
    monkeypatch.setattr(looking, "LOOK_SECONDS", 0.002)
    monkeypatch.setattr(looking, "TICK_SECONDS", 0.004)
    monkeypatch.setattr(courier, "_STORE_SECONDS", 0.002)


@pytest.fixture
async def hooks() -> AsyncIterator[Hooked]:
    """A manager with webhooks on an empty store."""
    async with hooked() as running:
        yield running
