"""Fixtures of the HTTP tests: one gateway, and a new session for each test."""

import itertools
from collections.abc import Iterator

import httpx
import pytest

from tests.api.serving import Served, serving
from tests.support.blocking import nothing_blocks_the_loop

__all__ = ["nothing_blocks_the_loop"]

_numbers = itertools.count(1)


@pytest.fixture(scope="session")
def served() -> Iterator[Served]:
    with serving() as running:
        yield running


@pytest.fixture
def api(served: Served) -> Iterator[httpx.Client]:
    """A client of `/api/v1` that holds every answer against the OpenAPI document."""
    with served.client() as client:
        yield client


@pytest.fixture
def session_id(api: httpx.Client) -> str:
    """A session that is there, and of this test alone."""
    name = f"test-{next(_numbers)}"
    assert api.post("/sessions", json={"id": name}).status_code == 201
    return name


@pytest.fixture
def free_id() -> str:
    """An id of which there is no session yet."""
    return f"free-{next(_numbers)}"
