"""What several processes count and change together, each by a statement that sees the others'."""

from concurrent.futures import ThreadPoolExecutor

import anyio
import pytest

from bamboo_gateway.domain.errors import LimitReached
from bamboo_gateway.domain.events import Complete, Token, Usage
from bamboo_gateway.storage.reports import ValueChange
from bamboo_gateway.storage.sql.postgresql.database import make_database
from bamboo_gateway.storage.sql.values import Values
from tests.support.clocks import FakeClock
from tests.support.gateways import Gateway, gateway
from tests.support.shared_memory import SharedMemory

LIMIT = 100


def _one_more(before: bytes | None) -> bytes:
    return b"%d" % (int(before or 0) + 1)


async def test_changes_of_one_value_by_several_processes_all_count(postgres_url: str) -> None:
    """Also of a value that is not there yet: there is no row that could be locked."""
    databases = [make_database(postgres_url, None) for _ in range(3)]
    first, *others = databases
    first.open()
    try:
        # Connections are all that the others need here.
        for other in others:
            other._connections.open()
        with ThreadPoolExecutor(6) as threads:
            for one in [Values(database) for database in databases] * 20:
                threads.submit(one.change, "count", "a", _one_more)
        assert Values(first).value("count", "a") == b"60"
        assert Values(first).change("count", "a", lambda _: None) is None
        assert Values(first).value("count", "a") is None
    finally:
        for other in others:
            other._connections.close()
        first.close()


async def used(gate: Gateway, run_id: str, tokens: int, session_id: str) -> None:
    await gate.chat(session_id, run_id=run_id)
    gate.agent.do(run_id, Token("x"), Complete(Usage(tokens - 1, 1, tokens)))
    await gate.ended(run_id, session_id)


async def test_tokens_count_wherever_they_were_used() -> None:
    clock = FakeClock()
    memory = SharedMemory(clock)
    async with (
        gateway(await memory.store("a"), clock=clock, max_tokens_per_user_day=LIMIT) as a,
        gateway(await memory.store("b"), clock=clock, max_tokens_per_user_day=LIMIT) as b,
    ):
        # Both have looked the count up, and have it in memory.
        await used(a, "r1", 10, "s1")
        await used(b, "r2", 10, "s2")
        await used(a, "r3", LIMIT - 20, "s1")
        with pytest.raises(LimitReached):
            await b.chat("s3", run_id="r4")
        with pytest.raises(LimitReached):
            await a.chat("s3", run_id="r4")


async def test_tokens_of_runs_that_end_at_once_at_two_processes_are_both_kept() -> None:
    clock = FakeClock()
    memory = SharedMemory(clock)
    async with (
        gateway(await memory.store("a"), clock=clock, max_tokens_per_user_day=LIMIT) as a,
        gateway(await memory.store("b"), clock=clock, max_tokens_per_user_day=LIMIT) as b,
    ):
        async with anyio.create_task_group() as tasks:
            for number in range(3):
                tasks.start_soon(used, a, f"a{number}", 17, f"a{number}")
                tasks.start_soon(used, b, f"b{number}", 17, f"b{number}")
        [(_, value)] = await a.store.values("tokens")
        assert b'"tokens":102' in value
        with pytest.raises(LimitReached):
            await a.chat("s", run_id="r")


async def test_a_count_that_is_erased_is_forgotten_by_every_process() -> None:
    clock = FakeClock()
    memory = SharedMemory(clock)
    async with (
        gateway(await memory.store("a"), clock=clock, max_tokens_per_user_day=LIMIT) as a,
        gateway(await memory.store("b"), clock=clock, max_tokens_per_user_day=LIMIT) as b,
    ):
        await used(a, "r1", LIMIT, "s1")
        [(key, _)] = await b.store.values("tokens")
        await b.store.write_values([ValueChange("tokens", key, None)])
        await used(a, "r2", 1, "s1")
