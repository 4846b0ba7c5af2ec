"""Rates that gateways count together in Redis, and each alone while it does not answer."""

from collections.abc import AsyncIterator
from types import SimpleNamespace
from typing import Any

import anyio
import pytest
from starlette.types import Message, Scope

from bamboo_gateway.api.caller import CALLER
from bamboo_gateway.api.security.rate_limits import FailureLimit, RateLimit
from bamboo_gateway.bus.redis.bus import RedisBus
from bamboo_gateway.domain.callers import ALL_RIGHTS, Caller
from bamboo_gateway.domain.clock import SystemClock
from bamboo_gateway.domain.errors import LimitReached
from bamboo_gateway.domain.rates import Counted, Rate, SharedCounts
from bamboo_gateway.settings import Settings
from tests.bus.ends import End, redis_end
from tests.support.redis import RedisServer
from tests.support.tcp_proxy import TcpProxy
from tests.support.waiting import until_true

DAY = 24 * 3600
ANY = Rate("any", 1_000_000, DAY)
CALLER_A = Caller("key:a", None, ALL_RIGHTS)
CALLER_B = Caller("key:b", None, ALL_RIGHTS)


@pytest.fixture
async def ends(redis_server: RedisServer) -> AsyncIterator[tuple[End, End]]:
    """Two gateways with empty counts that answer."""
    redis_server.flush()
    async with redis_end(redis_server.url) as one, redis_end(redis_server.url) as two:
        for end in (one, two):
            await until_true(lambda end=end: answers(end))  # type: ignore[misc]
        yield one, two


def counts(end: End) -> SharedCounts:
    """Return the counts of an end."""
    assert isinstance(end.bus, RedisBus)
    return end.bus.counts


async def answers(end: End) -> bool:
    """Return whether the counts of an end answer."""
    return await counts(end).count([ANY]) is not None


async def count(end: End, *rates: Rate) -> Counted:
    """Count one request."""
    counted = await counts(end).count(rates)
    assert counted is not None
    return counted


async def test_requests_at_two_gateways_count_together(ends: tuple[End, End]) -> None:
    rate = Rate("a", 10, DAY)
    outcomes = [await count(ends[number % 2], rate) for number in range(12)]
    assert [outcome.exceeded for outcome in outcomes] == [*[None] * 10, 0, 0]
    assert [outcome.windows[0].current for outcome in outcomes] == [*range(1, 11), 10, 10]
    assert all(0 < outcome.windows[0].left <= DAY for outcome in outcomes)


async def test_many_at_once_get_exactly_what_there_is(ends: tuple[End, End]) -> None:
    rate, allowed = Rate("b", 100, DAY), 0

    async def ask(end: End) -> None:
        nonlocal allowed
        counted = await count(end, rate)
        allowed += counted.exceeded is None

    async with anyio.create_task_group() as group:
        for number in range(150):
            group.start_soon(ask, ends[number % 2])
    assert allowed == 100


async def test_a_request_counts_against_all_rates_or_none(ends: tuple[End, End]) -> None:
    one, _ = ends
    wide, narrow = Rate("c", 100, DAY), Rate("c", 2, 7 * DAY)._replace(name="c7")
    for _ in range(2):
        assert (await count(one, wide, narrow)).exceeded is None
    refused = await count(one, wide, narrow)
    assert refused.exceeded == 1
    assert [window.current for window in refused.windows] == [2, 2]
    assert (await count(one, wide)).windows[0].current == 3


async def test_the_window_before_counts_for_what_the_sliding_window_covers(
    redis_server: RedisServer, ends: tuple[End, End]
) -> None:
    one, _ = ends
    rate = Rate("d", 1000, DAY)
    await count(one, rate)
    key = "bamboo:one:rate:d"
    assert redis_server.command(f"HINCRBY {key} window -1").startswith(":")
    assert redis_server.command(f"HSET {key} current 500").startswith(":")
    [window] = (await count(one, rate)).windows
    assert (window.previous, window.current) == (500, 1)
    # Two windows later nothing of it is left.
    assert redis_server.command(f"HINCRBY {key} window -2").startswith(":")
    [window] = (await count(one, rate)).windows
    assert (window.previous, window.current) == (0, 1)


async def test_a_used_up_window_before_refuses_until_enough_of_it_has_passed(
    redis_server: RedisServer, ends: tuple[End, End]
) -> None:
    one, _ = ends
    rate = Rate("e", 1, DAY)
    await count(one, rate)
    key = "bamboo:one:rate:e"
    assert redis_server.command(f"HINCRBY {key} window -1").startswith(":")
    assert redis_server.command(f"HSET {key} current 1000000000").startswith(":")
    assert (await count(one, rate)).exceeded == 0


async def test_a_count_expires_by_itself(redis_server: RedisServer, ends: tuple[End, End]) -> None:
    await count(ends[0], Rate("f", 10, 60))
    milliseconds = int(redis_server.command("PTTL bamboo:one:rate:f")[1:])
    assert 0 < milliseconds <= 120_000


async def test_forgotten_counts_begin_anew(ends: tuple[End, End]) -> None:
    one, two = ends
    rate = Rate("g", 1, DAY)
    assert (await count(one, rate)).exceeded is None
    counts(two).forget(["g"])
    await until_true(lambda: is_free(one, rate))


async def is_free(end: End, rate: Rate) -> bool:
    """Return whether one more request is counted."""
    return (await count(end, rate)).exceeded is None


async def test_a_redis_that_was_emptied_counts_anew(
    redis_server: RedisServer, ends: tuple[End, End]
) -> None:
    rate = Rate("h", 1, DAY)
    assert (await count(ends[0], rate)).exceeded is None
    assert (await count(ends[1], rate)).exceeded == 0
    redis_server.flush()
    assert (await count(ends[1], rate)).exceeded is None


async def test_a_redis_that_is_gone_answers_none_until_it_is_back(
    redis_server: RedisServer, ends: tuple[End, End]
) -> None:
    one, _ = ends
    await anyio.to_thread.run_sync(redis_server.stop)
    await until_true(lambda: is_alone(one))
    assert await counts(one).count([ANY]) is None
    await anyio.to_thread.run_sync(redis_server.start)
    await until_true(lambda: answers(one))


async def test_a_redis_that_stands_still_holds_a_request_up_for_a_moment_only(
    redis_server: RedisServer, ends: tuple[End, End]
) -> None:
    one, _ = ends
    with redis_server.held():
        with anyio.fail_after(60):
            assert await counts(one).count([ANY]) is None
            # From now on nobody waits for it at all.
            for _ in range(1000):
                assert await counts(one).count([ANY]) is None
        stats = one.bus.stats()["rate_checks_total"]
        assert stats["process",] >= 1001
    await until_true(lambda: answers(one))


async def test_a_redis_that_is_too_slow_is_not_waited_for(redis_server: RedisServer) -> None:
    with TcpProxy(redis_server.port) as proxy:
        proxy.delay(0.5)
        async with redis_end(f"redis://127.0.0.1:{proxy.port}/0") as one:
            await one.is_up()
            await until_true(lambda: is_alone(one))
            proxy.heal()
            await until_true(lambda: answers(one))


async def test_a_redis_without_memory_answers_none(
    redis_server: RedisServer, ends: tuple[End, End]
) -> None:
    one, _ = ends
    assert redis_server.command("CONFIG SET maxmemory 1") == "+OK"
    try:
        assert await counts(one).count([Rate("new", 10, DAY)]) is None
    finally:
        assert redis_server.command("CONFIG SET maxmemory 0") == "+OK"
    await until_true(lambda: answers(one))


async def is_alone(end: End) -> bool:
    """Return whether the counts of an end do not answer."""
    return not await answers(end)


# -- the limits of requests -----------------------------------------------------------------


async def test_a_caller_has_one_rate_at_all_gateways(ends: tuple[End, End]) -> None:
    settings = Settings(rate_limit_per_caller="5/day")
    one, two = [RateLimit(settings, SystemClock(), counts(end)) for end in ends]
    refusals = []
    for number in range(7):
        fields, refusal = await (one, two)[number % 2].count(CALLER_A)
        refusals.append(refusal is not None)
        assert dict(fields)[b"ratelimit"].startswith(b'"caller-86400s";r=%d;' % max(0, 4 - number))
    assert refusals == [*[False] * 5, True, True]
    assert (await two.count(CALLER_B))[1] is None
    one.forget(CALLER_A)
    await until_true(lambda: is_served(two, CALLER_A))


async def is_served(limit: RateLimit, caller: Caller) -> bool:
    """Return whether a request of a caller is not refused."""
    return (await limit.count(caller))[1] is None


async def test_a_gateway_knows_its_own_part_when_redis_is_gone(
    redis_server: RedisServer, ends: tuple[End, End]
) -> None:
    settings = Settings(rate_limit_per_caller="5/day")
    one, two = [RateLimit(settings, SystemClock(), counts(end)) for end in ends]
    for _ in range(4):
        assert await is_served(one, CALLER_A)
    await anyio.to_thread.run_sync(redis_server.stop)
    try:
        assert await is_served(one, CALLER_A)
        assert not await is_served(one, CALLER_A)
        assert await is_served(two, CALLER_A)
    finally:
        await anyio.to_thread.run_sync(redis_server.start)


async def test_an_address_that_failed_elsewhere_is_refused_after_its_next_failure(
    ends: tuple[End, End],
) -> None:
    settings = Settings(auth_failures_per_address="3/day")
    one, two = [FailureLimit(settings, SystemClock(), counts(end)) for end in ends]
    for _ in range(2):
        one.check(request())
        await answered(one, 401)
    two.check(request())
    await answered(two, 401)
    with pytest.raises(LimitReached) as refused:
        two.check(request())
    assert refused.value.code == "rate-limited"
    assert refused.value.retry_after_seconds is not None
    one.check(request())  # it has seen two
    await answered(one, 401)
    with pytest.raises(LimitReached):
        one.check(request())
    one.check(request("9.9.9.9"))


async def test_a_valid_credential_is_not_refused_for_its_address(ends: tuple[End, End]) -> None:
    settings = Settings(auth_failures_per_address="1/day")
    limit = FailureLimit(settings, SystemClock(), counts(ends[0]))
    await answered(limit, 200, key="right")
    await answered(limit, 401, key="wrong")
    limit.check(request(key="right"))
    with pytest.raises(LimitReached):
        limit.check(request(key="other"))


def request(host: str = "1.2.3.4", key: str = "wrong") -> Scope:
    """Return the scope of a request."""
    state = SimpleNamespace(state=SimpleNamespace())
    return {"client": (host, 1), "headers": [(b"authorization", key.encode())], "app": state}


async def answered(limit: FailureLimit, status: int, **sent: Any) -> None:
    """Let a request be answered with a status."""

    async def send(_: Message) -> None:
        pass

    scope = request(**sent)
    if status == 200:
        scope[CALLER] = CALLER_A
    await limit.counting(scope, send)({"type": "http.response.start", "status": status})
