"""What tests of the HTTP rooms share: one gateway, and a session of each test's own."""

import itertools
import os
from collections.abc import Iterator

import httpx
import pytest
from blockbuster import BlockBusterFunction, blockbuster_ctx

from tests.api.serving import Served, serving

_numbers = itertools.count(1)


@pytest.fixture(scope="module", autouse=True)
def _nothing_blocks_the_loop() -> Iterator[None]:
    """A blocking call in a gateway's event loop fails the request that made it (R12).

    Not for the whole session: tests of other rooms log tracebacks, which reads source files.
    """
    with blockbuster_ctx("bamboo_gateway") as blocking:
        blocking.functions["os.fsync"] = BlockBusterFunction(
            os, "fsync", scanned_modules=["bamboo_gateway"]
        )
        blocking.functions["os.fsync"].activate()
        # Tests print the log, which the program hands to a thread, to whatever stdout was a moment
        # ago: pytest changes it between tests.
        for write in ("io.TextIOWrapper.write", "io.BufferedWriter.write"):
            blocking.functions[write].can_block_in("structlog/_output.py", "msg")
        yield


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
