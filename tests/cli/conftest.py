"""One gateway for all tests of commands that leave it as it was."""

from collections.abc import Iterator

import pytest

from tests.processes import Gateway

PREFIX = "/a/b"
"""The commands call the gateway as they do behind a proxy."""


@pytest.fixture(scope="module")
def gateway(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Gateway]:
    with Gateway(tmp_path_factory.mktemp("gateway"), {"BAMBOO_ROOT_PATH": PREFIX}) as running:
        yield running


@pytest.fixture
def url(gateway: Gateway) -> str:
    return f"{gateway.url}{PREFIX}"
