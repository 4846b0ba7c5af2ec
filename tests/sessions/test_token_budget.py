"""Each user's tokens of a day are counted durably, and spent ones stop new runs."""

from typing import Any

import pytest

from bamboo_gateway.domain.callers import Caller
from bamboo_gateway.domain.errors import BambooError, LimitReached
from bamboo_gateway.domain.events import Complete, Token, Usage
from bamboo_gateway.sessions.commands import NewSession, Regenerate
from tests.support.clocks import FakeClock
from tests.support.gateways import ME, Gateway, crash, eventually, gateway, quiet

LIMIT = 100


def budget(**more: Any) -> Any:
    return gateway(max_tokens_per_user_day=LIMIT, **more)


async def used(gate: Gateway, run_id: str, tokens: int, session_id: str = "s") -> None:
    await gate.chat(session_id, run_id=run_id)
    gate.agent.do(run_id, Token("x"), Complete(Usage(tokens - 1, 1, tokens)))
    await gate.ended(run_id, session_id)


async def test_runs_are_refused_until_the_day_ends() -> None:
    clock = FakeClock()
    async with budget(clock=clock) as gate:
        await used(gate, "r1", LIMIT - 1)
        await used(gate, "r2", 1)
        with pytest.raises(LimitReached) as refused:
            await gate.chat(run_id="r3")
        assert refused.value.code == "budget-reached"
        seconds = refused.value.retry_after_seconds
        assert seconds is not None
        assert (clock.now_ms() / 1000 + seconds) % 86400 < 1
        with pytest.raises(LimitReached):
            await gate.chat("other", run_id="r3")
        assert await gate.log("other") == []
        clock.advance(seconds)
        await used(gate, "r3", 1)


async def test_a_run_that_executes_is_not_stopped_and_queued_ones_end_with_an_error() -> None:
    async with budget() as gate:
        await gate.chat(run_id="r1")
        await gate.chat(run_id="r2")
        gate.agent.do("r1", Token("x"), Complete(Usage(0, 0, 10 * LIMIT)))
        ended = await gate.ended("r1")
        assert ended["status"] == "completed"
        ended = await gate.ended("r2")
        assert ended["status"] == "failed"
        assert ended["error"]["code"] == "budget_reached"
        assert "r2" not in gate.agent.asked


async def test_a_queued_run_is_refused_at_once_when_the_tokens_are_spent() -> None:
    async with budget() as gate:
        await gate.chat(run_id="r0")
        await used(gate, "r1", LIMIT, "other")
        with pytest.raises(LimitReached):
            await gate.chat(run_id="r2")
        await gate.manager.cancel_session(ME, "s")


async def test_users_have_tokens_of_their_own() -> None:
    async with budget() as gate:
        for user_id in ("alice", "bob"):
            await gate.manager.create_session(ME, NewSession(id=user_id, user_id=user_id))
        await used(gate, "r1", LIMIT, "alice")
        with pytest.raises(LimitReached):
            await gate.chat("alice", run_id="r2")
        await used(gate, "r3", 1, "bob")
        await used(gate, "r4", 1, "nobody")
        assert isinstance(ME, Caller)


async def test_a_crash_forgets_nothing() -> None:
    """The count is durable before the end of its run is."""
    async with budget() as gate:
        await used(gate, "r1", LIMIT)
        store = await crash(gate)
        async with budget(store=store, clock=gate.clock) as after:
            with pytest.raises(LimitReached):
                await after.chat("new", run_id="r2")


async def test_one_value_is_written_for_each_ended_run_and_none_for_its_tokens() -> None:
    async with budget() as gate:
        writes = []
        inner = gate.store.inner.write_values

        async def watched(changes: Any) -> None:
            writes.append(changes)
            await inner(changes)

        gate.store.inner.write_values = watched
        await gate.chat(run_id="r1")
        gate.agent.do("r1", *[Token("x")] * 50, Complete(Usage(1, 1, 2)))
        await gate.ended("r1")
        assert len(writes) == 1
        await gate.chat(run_id="r2")
        gate.agent.do("r2", Complete())
        await gate.ended("r2")
        assert len(writes) == 1


async def test_the_tokens_of_external_runs_count_too() -> None:
    async with budget() as gate:
        await gate.manager.create_session(ME, NewSession(id="s"))
        await gate.manager.open_run(ME, "s", "x")
        usage = {"prompt_tokens": 1, "completion_tokens": 1, "total_tokens": LIMIT}
        event = {"type": "complete", "run_id": "x", "usage": usage}
        await gate.manager.append_events(ME, "s", [event])

        async def is_refused() -> bool:
            try:
                await gate.manager.open_run(ME, "s", "y")
            except LimitReached:
                return True
            await gate.manager.cancel_run(ME, "s", "y")
            return False

        await eventually(is_refused)


async def test_a_store_that_takes_no_value_costs_no_run() -> None:
    async with budget() as gate:

        async def fail(_: object) -> None:
            raise BambooError("no")

        gate.store.inner.write_values = fail
        await used(gate, "r1", LIMIT)
        with pytest.raises(LimitReached):
            await gate.chat(run_id="r2")
        await quiet()


async def test_without_a_limit_nothing_is_counted() -> None:
    async with gateway() as gate:
        await used(gate, "r1", LIMIT)
        assert await gate.store.values("tokens") == []


async def test_other_answers_and_edited_messages_count_and_are_refused_like_new_ones() -> None:
    async with budget() as gate:
        await used(gate, "r1", LIMIT // 2)
        first = next(e["message_id"] for e in await gate.log() if e["type"] == "message")
        await gate.manager.regenerate(ME, "s", Regenerate(run_id="r2"))
        gate.agent.do("r2", Complete(Usage(0, 0, LIMIT // 2)))
        await gate.ended("r2")
        log = await gate.log()
        with pytest.raises(LimitReached):
            await gate.manager.regenerate(ME, "s", Regenerate(run_id="r3"))
        with pytest.raises(LimitReached):
            await gate.chat(text="else", run_id="r3", edit_message_id=first)
        assert await gate.log() == log, "no branch begins without its run"


async def test_runs_that_end_side_by_side_all_count() -> None:
    """A store that answers late mixes up nothing: each write has the whole count."""
    async with budget() as gate:
        sessions = [f"s{number}" for number in range(10)]
        for number, session_id in enumerate(sessions):
            await gate.chat(session_id, run_id=f"r{number}")
        gate.store.hold("write_values")
        for number in range(10):
            gate.agent.do(f"r{number}", Complete(Usage(0, 0, LIMIT // 10)))
        await quiet()
        gate.store.let_go("write_values")
        for number, session_id in enumerate(sessions):
            await gate.ended(f"r{number}", session_id)
        with pytest.raises(LimitReached):
            await gate.chat("more", run_id="m")
        store = await crash(gate)
    async with budget(store=store) as again:
        with pytest.raises(LimitReached):
            await again.chat("more", run_id="m")


async def test_a_run_over_midnight_counts_for_the_day_on_which_it_ends() -> None:
    clock = FakeClock()
    async with budget(clock=clock) as gate:
        await used(gate, "r1", LIMIT - 1)
        await gate.chat(run_id="r2")
        clock.advance(86400 - clock.now_ms() / 1000 % 86400)
        gate.agent.do("r2", Complete(Usage(0, 0, LIMIT - 1)))
        await gate.ended("r2")
        await used(gate, "r3", 1)
        with pytest.raises(LimitReached):
            await gate.chat(run_id="r4")


async def test_a_clock_that_is_set_back_over_midnight_gives_no_second_budget() -> None:
    clock = FakeClock()
    async with budget(clock=clock) as gate:
        clock.advance(86400 - clock.now_ms() / 1000 % 86400 + 1)
        await used(gate, "r1", LIMIT)
        clock.step_back(10)
        with pytest.raises(LimitReached):
            await gate.chat(run_id="r2")
