"""Two gateways with one PostgreSQL and one Redis, over HTTP; and without the Redis."""

import asyncio
import json
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import httpx
import pytest

from bamboo_gateway.embedded import open_gateway
from tests.api.serving import Served, refused, serving
from tests.observability.test_metrics import OF_A_BUS
from tests.support.redis import RedisServer, own_redis
from tests.support.waiting import until

KEY = {"Authorization": "Bearer right"}


class Two(NamedTuple):
    """The gateways."""

    one: Served
    two: Served


@pytest.fixture(scope="module")
def redis_server() -> Iterator[RedisServer]:
    with own_redis() as server:
        yield server


@contextmanager
def both(postgres_url: str, redis: RedisServer, path: Path, **settings: Any) -> Iterator[Two]:
    """Run two gateways."""
    shared = {"storage_url": postgres_url, "bus_url": redis.url, "data_dir": path, **settings}
    with serving(**shared) as one, serving(**shared) as two:
        for each in (one, two):
            until(lambda each=each: metric(each, "bus_up") == 1, "the bus is up")  # type: ignore[misc]
        yield Two(one, two)


def metric(served: Served, name: str) -> float:
    """Return a metric of one gateway."""
    text = httpx.get(f"{served.url}/metrics", headers=KEY, trust_env=False).text
    found = re.search(rf"^bamboo_{re.escape(name)} (\S+)$", text, re.MULTILINE)
    assert found is not None, text
    return float(found[1])


def events(response: httpx.Response, count: int) -> list[dict[str, Any]]:
    """Return the next events of a stream."""
    taken: list[dict[str, Any]] = []
    for line in response.iter_lines():
        if line.startswith("data:"):
            event = json.loads(line[5:])
            if event.get("type") == "custom":
                taken.append(event)
                if len(taken) == count:
                    break
    return taken


def post(client: httpx.Client, number: int) -> None:
    client.post(
        "/sessions/s/events", json={"type": "custom", "name": "n", "value": number}
    ).raise_for_status()


def test_events_reach_a_stream_at_the_other_gateway_through_redis(
    postgres_url: str, redis_server: RedisServer, tmp_path: Path
) -> None:
    with (
        both(postgres_url, redis_server, tmp_path) as (one, two),
        one.client() as writing,
        two.client() as reading,
    ):
        writing.post("/sessions", json={"id": "s"}).raise_for_status()
        with reading.stream("GET", "/stream/s") as stream:
            until(lambda: has_subscriber(redis_server), "the gateway is subscribed")
            for number in range(20):
                post(writing, number)
            assert [event["value"] for event in events(stream, 20)] == list(range(20))
        assert metric(two, 'follower_events_total{source="bus"}') > 0
        assert metric(one, "bus_published_total") >= 21
        measured = set(asyncio.run(one.app.state.manager.stats()))
        assert {name for name in measured if name in OF_A_BUS} == OF_A_BUS


def has_subscriber(redis: RedisServer) -> bool:
    """Return whether any gateway listens to the session `s`."""
    return redis.command("PUBSUB CHANNELS bamboo:*:session:s") == "*1"


def test_without_redis_events_reach_it_all_the_same(
    postgres_url: str, redis_server: RedisServer, tmp_path: Path
) -> None:
    with (
        both(postgres_url, redis_server, tmp_path) as (one, two),
        one.client() as writing,
        two.client() as reading,
    ):
        writing.post("/sessions", json={"id": "s"}).raise_for_status()
        with reading.stream("GET", "/stream/s") as stream:
            redis_server.stop()
            try:
                for number in range(10):
                    post(writing, number)
                assert [event["value"] for event in events(stream, 10)] == list(range(10))
                assert httpx.get(f"{one.url}/api/v1/health/ready", trust_env=False).is_success
                assert metric(one, "bus_up") == 0
            finally:
                redis_server.start()


def test_a_caller_has_one_rate_at_both_gateways(
    postgres_url: str, redis_server: RedisServer, tmp_path: Path
) -> None:
    settings: dict[str, Any] = {"api_keys": ("right",), "rate_limit_per_caller": "20/day"}
    with (
        both(postgres_url, redis_server, tmp_path, **settings) as (one, two),
        one.client(headers=KEY) as first,
        two.client(headers=KEY) as second,
    ):
        statuses = [(first, second)[number % 2].get("/agents").status_code for number in range(40)]
        assert set(statuses) == {200, 429}
        assert statuses == sorted(statuses)  # once refused, at both
        refused(first.get("/agents"), 429, "rate-limited")
        refused(second.get("/agents"), 429, "rate-limited")


async def test_programs_that_embed_the_gateway_share_a_session(
    postgres_url: str, redis_server: RedisServer, tmp_path: Path
) -> None:
    shared: dict[str, Any] = {"storage_url": postgres_url, "bus_url": redis_server.url}
    async with (
        open_gateway(tmp_path, **shared) as one,
        open_gateway(tmp_path, **shared) as two,
    ):
        await one.create_session("s")
        await one.add_message("s", "Hello!")
        [message] = (await two.get_session("s", include_messages=True))["messages"]
        assert message["content"] == "Hello!"
