"""What tests that break things on purpose share."""

import pytest


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"
