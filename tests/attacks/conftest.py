"""Fixtures of the attack tests: a gateway, and a check that it still works."""

from collections.abc import Iterator

import httpx
import pytest

from tests.api.serving import Served, serving


@pytest.fixture(scope="module")
def served() -> Iterator[Served]:
    with serving() as running:
        yield running
        # Whatever a module's attacks have sent: the gateway is as it was.
        with running.client() as api:
            assert api.get("/health/ready").status_code == 200


@pytest.fixture
def api(served: Served) -> Iterator[httpx.Client]:
    """A client of `/api/v1` that holds every answer against the OpenAPI document."""
    with served.client() as client:
        yield client
