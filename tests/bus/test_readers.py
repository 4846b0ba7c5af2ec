"""A reader misses nothing and sees nothing twice, whatever happens to Redis meanwhile."""

import random
from contextlib import AsyncExitStack

import anyio
import pytest

from bamboo_gateway.bus.redis.bus import RedisBus
from bamboo_gateway.domain.clock import SystemClock
from bamboo_gateway.sessions.commands import NewMessage, NewSession
from tests.support.clocks import FakeClock
from tests.support.gateways import ME, Gateway, Reader, eventually, gateway
from tests.support.redis import RedisServer
from tests.support.shared_memory import SharedMemory
from tests.support.tcp_proxy import TcpProxy
from tests.support.waiting import until_true

EVENTS = 90


def custom(number: int) -> NewMessage:
    """Return a message that names its place."""
    return NewMessage("user", f"{number}")


@pytest.mark.parametrize("seed", range(2))
async def test_a_reader_sees_every_event_once_in_order_through_faults_of_redis(
    redis_server: RedisServer, seed: int
) -> None:
    chance = random.Random(seed)
    clock = FakeClock()
    memory = SharedMemory(clock)
    with TcpProxy(redis_server.port) as proxy:
        url = f"redis://127.0.0.1:{proxy.port}/0"
        async with AsyncExitStack() as stack:
            gates: list[Gateway] = []
            buses: list[RedisBus] = []
            for name in ("a", "b", "c"):
                bus = RedisBus(url, SystemClock(), lambda: f"seed-{seed}")
                buses.append(await stack.enter_async_context(bus))
                gates.append(
                    await stack.enter_async_context(
                        gateway(await memory.store(name), clock=clock, bus=bus)
                    )
                )
            await until_true(lambda: all(bus.is_up for bus in buses))
            await gates[0].manager.create_session(ME, NewSession(id="s"))
            reader = await gates[2].reader(after="0")
            for number in range(EVENTS):
                if number % 15 == 7:
                    await strike(chance, redis_server, proxy)
                await gates[chance.randrange(2)].manager.add_messages(ME, "s", [custom(number)])
                if number % 15 == 11:
                    await caught_up(reader, gates[0])
            proxy.heal()
            await caught_up(reader, gates[1])
            # It is as good as new.
            await until_true(lambda: all(bus.is_up for bus in buses))
            before = buses[2].stats()["bus_received_total"]
            await gates[0].manager.add_messages(ME, "s", [custom(EVENTS)])
            await eventually(lambda: buses[2].stats()["bus_received_total"] > before)


async def caught_up(reader: Reader, gate: Gateway) -> None:
    """Read on until the reader has the whole log."""
    log = await gate.log()
    while len(reader.events) < len(log):
        assert await reader.take() is not None
    assert [frame.data for frame in reader.events] == log


async def strike(chance: random.Random, redis: RedisServer, proxy: TcpProxy) -> None:
    """Do something to Redis, or to the way to it."""
    match chance.randrange(6):
        case 0:
            proxy.cut_all()
        case 1:
            proxy.hold()
        case 2:
            proxy.heal()
        case 3:
            proxy.delay(chance.choice([0.01, 0.2]))
        case 4:
            await anyio.to_thread.run_sync(redis.flush)
        case _:
            await anyio.to_thread.run_sync(redis.restart)
