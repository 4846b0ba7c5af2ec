"""One gateway for all tests of commands that leave it as it was."""

from collections.abc import Iterator

import pytest

from tests.processes import Gateway


@pytest.fixture(scope="module")
def gateway(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Gateway]:
    with Gateway(tmp_path_factory.mktemp("gateway")) as running:
        yield running


@pytest.fixture
def url(gateway: Gateway) -> str:
    return gateway.url
