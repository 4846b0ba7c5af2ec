"""A check that nothing blocks the event loop of a gateway (R12)."""

import os
from collections.abc import Iterator

import pytest
from blockbuster import BlockBusterFunction, blockbuster_ctx


@pytest.fixture(scope="module", autouse=True)
def nothing_blocks_the_loop() -> Iterator[None]:
    """Fail every request in which the gateway makes a blocking call in its event loop.

    A room's `conftest` imports this fixture. It is not on for the whole suite: tests of other rooms
    log tracebacks, which reads source files.
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
