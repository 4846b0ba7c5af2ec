"""Fixtures of the contract suite: one gateway for all conversations, which each may kill."""

from collections.abc import Iterator

import pytest

from tests.wires.contract.gateway import ContractGateway
from tests.wires.contract.processes import close_all


@pytest.fixture(scope="module")
def gateway(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ContractGateway]:
    """Yield the gateway."""
    try:
        with ContractGateway(tmp_path_factory.mktemp("contract")) as running:
            yield running
    finally:
        close_all()
