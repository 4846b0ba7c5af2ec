"""What tests of the operator's side share."""

import pytest


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"
