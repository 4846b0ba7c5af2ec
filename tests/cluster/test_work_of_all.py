"""What one of several processes does for all, and what each counts for itself."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from typing import Any

import anyio
import pytest

from bamboo_gateway.domain.callers import GATEWAY, Caller
from bamboo_gateway.domain.errors import LimitReached
from bamboo_gateway.domain.events import Complete, Token
from bamboo_gateway.sessions.commands import NewSession
from bamboo_gateway.sessions.lifecycle import retention
from bamboo_gateway.sessions.runs import titling
from bamboo_gateway.storage.replicas import Presence
from bamboo_gateway.storage.reports import ValueChange
from tests.support.agents import ScriptedAgent
from tests.support.clocks import FakeClock
from tests.support.gateways import ME, Gateway, eventually, gateway, quiet
from tests.support.shared_memory import SharedMemory

ALICE = Caller("user:alice", "alice")
DAY_SECONDS = 24 * 3600


@asynccontextmanager
async def two(**settings: Any) -> AsyncIterator[tuple[SharedMemory, Gateway, Gateway]]:
    clock = FakeClock()
    memory = SharedMemory(clock)
    async with (
        gateway(await memory.store("a"), clock=clock, **settings) as a,
        gateway(await memory.store("b"), clock=clock, **settings) as b,
    ):
        yield memory, a, b


async def clean(gate: Gateway) -> list[str]:
    manager = gate.manager
    stats = await retention.clean(manager._context, manager._transactions, GATEWAY)
    return stats["session_ids"]


async def test_a_cleanup_spares_what_another_process_streams() -> None:
    async with two(cleanup_period_days=0) as (memory, a, _):
        for name in ("read", "unread"):
            await a.manager.create_session(ME, NewSession(id=name, ttl_seconds=60))
        # The third process has a stream of it.
        memory.counters["c"] = 1
        stream = Presence("read", "stream", "c-1", "c", b"{}")
        memory.presences[stream[:4]] = stream
        a.clock.advance(61)
        assert await clean(a) == ["unread"]
        memory.take_for_dead("c")
        assert await clean(a) == ["read"]


async def test_only_the_leader_cleans_by_itself() -> None:
    settings = {"cleanup_interval_seconds": 1, "cleanup_period_days": 0}
    async with two(**settings) as (memory, a, b):
        await a.manager.create_session(ME, NewSession(id="s", ttl_seconds=60))
        memory.leader = None
        assert not a.manager._context.leads
        assert not b.manager._context.leads
        a.clock.advance(3600)
        memory.leader = "b"

        async def is_gone() -> bool:
            return await a.store.load("s") is None

        await eventually(is_gone)


async def test_sessions_count_wherever_they_were_created() -> None:
    async with two(max_sessions_per_user=4) as (_, a, b):
        for number, gate in enumerate((a, b, a, b)):
            await gate.manager.create_session(ALICE, NewSession(id=f"s{number}"))
        for gate in (a, b):
            with pytest.raises(LimitReached):
                await gate.manager.create_session(ALICE, NewSession(id="more"))
        await a.manager.delete_session(ALICE, "s1")
        await b.manager.create_session(ALICE, NewSession(id="more"))


async def test_creations_at_once_go_over_the_limit_by_those_of_the_others_at_most() -> None:
    limit, tries = 6, 12
    async with two(max_sessions=limit) as (_, a, b):

        async def create(gate: Gateway, name: str) -> None:
            with suppress(LimitReached):
                await gate.manager.create_session(ME, NewSession(id=name))

        async with anyio.create_task_group() as tasks:
            for number in range(tries):
                tasks.start_soon(create, (a, b)[number % 2], f"s{number}")
        there = (await a.store.usage()).sessions
        assert limit <= there <= 2 * limit


async def test_a_run_of_another_process_takes_no_place_of_this_one() -> None:
    async with two(max_active_runs=1) as (_, a, b):
        await a.chat("s1", run_id="r1")
        # The other one has the head in memory, with the run.
        assert (await b.manager.get_session(ME, "s1")).session["state"] == "active"
        await b.chat("s2", run_id="r2")
        with pytest.raises(LimitReached):
            await a.chat("s3", run_id="r3")
        a.agent.do("r1", Token("x"), Complete())
        await a.ended("r1", "s1")
        await a.chat("s3", run_id="r3")


async def test_the_leader_gives_the_titles_that_dead_processes_owe(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(titling, "_TAKE_UP_SECONDS", 0.005)
    clock, titler = FakeClock(), ScriptedAgent()
    memory = SharedMemory(clock)
    async with gateway(await memory.store("a"), clock=clock) as a:
        await a.chat("s", "What is a title?", run_id="r")
        a.agent.do("r", Token("An answer"), Complete())
        await a.ended("r", "s")
        memory.counters["c"] = 1
        await a.store.write_values([ValueChange("untitled", "s", b"c")])
        asks: dict[str, Any] = {"agents": {"titler": titler}, "titles": "agent:titler"}
        async with gateway(await memory.store("b"), clock=clock, **asks) as b:
            memory.leader = "b"
            await quiet()
            assert not titler.asked
            memory.take_for_dead("c")
            await eventually(lambda: titler.asked)
            [run_id] = titler.asked
            titler.do(run_id, Token("A fine title"), Complete())

            async def has_title() -> bool:
                return (await b.manager.get_session(ME, "s")).session["title"] == "A fine title"

            await eventually(has_title)
