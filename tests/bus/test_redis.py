"""The bus over a Redis that is ended, emptied, held, cut off, slow, strange or not there."""

import signal
import socket
from collections.abc import Iterator
from contextlib import contextmanager

import anyio
import pytest
import structlog

from bamboo_gateway.bus.redis import outbox
from bamboo_gateway.bus.redis.bus import RedisBus
from bamboo_gateway.domain.rates import Rate
from tests.bus.ends import End, notice, redis_end
from tests.processes import free_port
from tests.support.redis import RedisServer
from tests.support.tcp_proxy import TcpProxy
from tests.support.waiting import until_true


@contextmanager
def logged() -> Iterator[list[str]]:
    """Collect the bus's log lines."""
    lines: list[str] = []
    with structlog.testing.capture_logs() as entries:
        yield lines
    lines += [entry["event"] for entry in entries if entry["event"].startswith("the bus")]


async def is_delivered(sender: End, receiver: End, version: int) -> None:
    """Check that a notice gets through."""
    sent = notice("s", version)
    sender.bus.publish(sent)
    await until_true(lambda: sent in receiver.noticed)


@pytest.mark.parametrize("how", [signal.SIGTERM, signal.SIGKILL])
async def test_a_redis_that_is_restarted_is_used_again(
    redis_server: RedisServer, how: signal.Signals
) -> None:
    with logged() as lines:
        async with redis_end(redis_server.url) as one, redis_end(redis_server.url) as two:
            await one.is_up()
            await two.is_up()
            await two.watches("s")
            await anyio.to_thread.run_sync(redis_server.stop, how)
            await until_true(lambda: not one.bus.is_up and not two.bus.is_up)
            one.bus.publish(notice())  # it is dropped, and nothing is raised
            await anyio.to_thread.run_sync(redis_server.start)
            await one.is_up()
            await two.is_up()
            assert two.missed == ["s", "s"]
            assert two.switched == [True, False, True]
            await is_delivered(one, two, 3)
            assert notice() not in two.noticed
            stats = one.bus.stats()
            assert stats["bus_dropped_total"]["down",] == 1
            assert stats["bus_outages_total"] == 1
    # One line for each bus and outage, however often it was tried.
    assert sorted(lines) == [
        *["the bus answers again"] * 2,
        *["the bus does not answer; what other gateways store is found by polling, later"] * 2,
    ]


async def test_a_redis_that_is_emptied_is_the_same(redis_server: RedisServer) -> None:
    async with redis_end(redis_server.url) as one, redis_end(redis_server.url) as two:
        await one.is_up()
        await two.is_up()
        await two.watches("s")
        await anyio.to_thread.run_sync(redis_server.flush)
        assert redis_server.command("SCRIPT FLUSH") == "+OK"
        await is_delivered(one, two, 2)
        assert two.switched == [True]


async def test_a_redis_that_stands_still_is_down_until_it_goes_on(
    redis_server: RedisServer,
) -> None:
    async with redis_end(redis_server.url) as one, redis_end(redis_server.url) as two:
        await one.is_up()
        await two.is_up()
        await two.watches("s")
        with redis_server.held():
            await until_true(lambda: not one.bus.is_up and not two.bus.is_up)
        await one.is_up()
        await two.is_up()
        assert two.missed == ["s", "s"]
        await is_delivered(one, two, 2)


async def test_a_connection_whose_other_end_is_gone_is_found(redis_server: RedisServer) -> None:
    """Nothing breaks, and nothing comes: as behind a firewall that forgot the connection."""
    with TcpProxy(redis_server.port) as proxy:
        url = f"redis://127.0.0.1:{proxy.port}/0"
        async with redis_end(redis_server.url) as one, redis_end(url) as two:
            await one.is_up()
            await two.is_up()
            await two.watches("s")
            proxy.hold()
            await until_true(lambda: not two.bus.is_up)
            assert one.bus.is_up
            proxy.heal()
            await two.is_up()
            await is_delivered(one, two, 2)


async def test_only_the_subscribed_connection_is_ended_by_redis(redis_server: RedisServer) -> None:
    """As when a reader is too slow for `client-output-buffer-limit`."""
    async with redis_end(redis_server.url) as one, redis_end(redis_server.url) as two:
        await one.is_up()
        await two.is_up()
        await two.watches("s")
        assert redis_server.command("CLIENT KILL TYPE pubsub").startswith(":")
        await until_true(lambda: two.switched == [True, False, True])
        await until_true(lambda: one.switched == [True, False, True])
        assert two.missed == ["s", "s"]
        await is_delivered(one, two, 2)


async def test_a_slow_redis_delivers_late_and_stays_up(redis_server: RedisServer) -> None:
    with TcpProxy(redis_server.port) as proxy:
        proxy.delay(0.3)
        url = f"redis://127.0.0.1:{proxy.port}/0"
        async with redis_end(url) as one, redis_end(url) as two:
            await one.is_up()
            await two.is_up()
            await two.watches("s")
            for version in range(2, 50):
                one.bus.publish(notice("s", version))
            await until_true(lambda: len(two.noticed) == 48)
            assert two.switched == [True]
            lag = one.bus.stats()["bus_lag_seconds"]
            assert lag.sum / lag.count > 0.3


async def test_a_gateway_begins_without_a_redis_and_finds_it_later() -> None:
    url = f"redis://127.0.0.1:{free_port()}/0"
    with logged() as lines:
        async with redis_end(url) as one:
            one.bus.watch("s")
            one.bus.publish(notice())
            await until_true(lambda: one.bus.stats()["bus_outages_total"] == 1)
            assert not one.bus.is_up
    assert len(lines) == 1


async def test_something_that_is_no_redis_is_said_once_and_tried_again() -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        async with redis_end(f"redis://127.0.0.1:{silent.getsockname()[1]}/0") as one:
            await until_true(lambda: one.bus.stats()["bus_outages_total"] == 1)
            assert not one.bus.is_up


async def test_a_user_who_may_not_publish_is_told_so(redis_server: RedisServer) -> None:
    rights = "on nopass allchannels +@connection +subscribe +unsubscribe"
    assert redis_server.command(f"ACL SETUSER reader {rights}") == "+OK"
    url = redis_server.url.replace("//", "//reader:any@")
    with structlog.testing.capture_logs() as entries:
        async with redis_end(url) as one:
            await until_true(lambda: one.bus.stats()["bus_outages_total"] == 1)
    assert "permission" in entries[0]["error"].lower()
    assert "any" not in entries[0]["bus"]


async def test_the_rights_that_the_documentation_names_are_enough(
    redis_server: RedisServer,
) -> None:
    rights = (
        "on >secret resetchannels &bamboo:* ~bamboo:* -@all +@connection +publish +subscribe "
        "+unsubscribe +eval +time +hmget +hset +pexpire +del"
    )
    assert redis_server.command(f"ACL SETUSER bamboo {rights}") == "+OK"
    url = redis_server.url.replace("//", "//bamboo:secret@")
    async with redis_end(url) as one, redis_end(url) as two:
        await one.is_up()
        await two.is_up()
        await two.watches("s")
        await is_delivered(one, two, 2)
        await until_true(lambda: is_counted(one))


async def is_counted(end: End) -> bool:
    """Return whether a request is counted in Redis."""
    assert isinstance(end.bus, RedisBus)
    counts = end.bus.counts
    is_there = await counts.count([Rate("rights", 1000, 60)]) is not None
    counts.forget(["rights"])
    return is_there


async def test_two_deployments_in_one_redis_do_not_hear_each_other(
    redis_server: RedisServer,
) -> None:
    ours = redis_end(redis_server.url)
    theirs = redis_end(redis_server.url, lambda: "two")
    too = redis_end(redis_server.url, lambda: "two")
    async with ours, theirs, too:
        for end in (ours, theirs, too):
            await end.is_up()
            await end.watches("s")
        theirs.bus.publish(notice())
        await until_true(lambda: too.noticed == [notice()])
        assert not ours.noticed
        assert ours.changes == 0


async def test_a_deployment_with_a_new_id_uses_it_at_once(redis_server: RedisServer) -> None:
    name = ["one"]
    one = redis_end(redis_server.url, lambda: name[0])
    two = redis_end(redis_server.url, lambda: "other")
    async with one, two:
        await one.is_up()
        await two.is_up()
        await one.watches("s")
        name[0] = "other"
        await until_true(lambda: one.switched == [True, False, True])
        await is_delivered(two, one, 2)
        assert one.bus.stats()["bus_outages_total"] == 0


async def test_what_is_published_last_is_sent_before_the_end(redis_server: RedisServer) -> None:
    async with redis_end(redis_server.url) as two:
        await two.is_up()
        await two.watches("s")
        async with redis_end(redis_server.url) as one:
            await one.is_up()
            for version in range(2, 500):
                one.bus.publish(notice("s", version))
        await until_true(lambda: len(two.noticed) == 498)


async def test_a_queue_that_is_full_drops_notices(
    redis_server: RedisServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(outbox, "QUEUE_BYTES_MAX", 10_000)
    async with redis_end(redis_server.url) as one, redis_end(redis_server.url) as two:
        await one.is_up()
        await two.is_up()
        await two.watches("s")
        for version in range(2, 102):
            one.bus.publish(notice("s", version))
        dropped = one.bus.stats()["bus_dropped_total"]["full",]
        assert 0 < dropped < 100
        await until_true(lambda: len(two.noticed) == 100 - dropped)
        await is_delivered(one, two, 200)


async def test_a_notice_of_another_format_has_the_session_looked_up(
    redis_server: RedisServer,
) -> None:
    async with redis_end(redis_server.url) as one:
        await one.is_up()
        await one.watches("s")
        assert redis_server.command("PUBLISH bamboo:one:session:s 99-of-the-future") == ":1"
        await until_true(lambda: one.missed == ["s", "s"])
        assert one.bus.is_up
