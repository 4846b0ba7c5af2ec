"""Several gateways' ends of one bus, over a Redis of these tests."""

from collections.abc import Iterator

import pytest

from tests.support.redis import RedisServer, own_redis


@pytest.fixture(scope="module")
def redis_server() -> Iterator[RedisServer]:
    """A Redis for one module, whose tests may end it; each leaves it running."""
    with own_redis() as server:
        yield server
