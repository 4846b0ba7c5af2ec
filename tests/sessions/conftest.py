"""What tests of the application share."""

from collections.abc import AsyncIterator

import pytest

from tests.support.gateways import Gateway, gateway


@pytest.fixture
async def gate() -> AsyncIterator[Gateway]:
    """A gateway on an empty memory store."""
    async with gateway() as running:
        yield running
