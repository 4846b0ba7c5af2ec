"""Compaction through the application: what leaves the log, and what clients see of it (R2, R4)."""

import anyio
import pytest

from bamboo_gateway.domain.events import Complete, Token
from bamboo_gateway.domain.limits import COMPACT_BYTES_MIN
from tests.support.gateways import (
    DEADLINE_SECONDS,
    Gateway,
    crash,
    eventually,
    gateway,
    quiet,
)

WORD = "word " * 200
WORDS = COMPACT_BYTES_MIN // len(WORD) + 10


@pytest.fixture
def by_hand(monkeypatch: pytest.MonkeyPatch) -> None:
    """The scheduled round does not come in between, however long a test may take."""
    monkeypatch.setattr("bamboo_gateway.sessions.lifecycle.compaction._LOOK_SECONDS_MAX", 3600)


async def talk(gate: Gateway, run_id: str, session_id: str = "s") -> None:
    await gate.chat(session_id, run_id=run_id)
    gate.agent.do(run_id, *[Token(WORD) for _ in range(WORDS)], Complete())
    await gate.ended(run_id, session_id)
    await quiet()


async def compacted(gate: Gateway) -> int:
    """Do what the scheduled round does, now; for tests that do it `by_hand`."""
    compaction = gate.manager._compaction
    with anyio.fail_after(DEADLINE_SECONDS):
        return sum([await compaction.compact(session_id) for session_id in compaction._due()])


@pytest.mark.usefixtures("by_hand")
async def test_the_deltas_of_a_run_leave_the_log_after_the_retention_and_nothing_else_does():
    async with gateway(delta_retention_seconds=3600) as gate:
        await talk(gate, "a")
        before = await gate.log()
        gate.clock.advance(3599)
        assert await compacted(gate) == 0, "it is too early"
        gate.clock.advance(2)
        freed = await compacted(gate)
        after = await gate.log()
        assert freed > COMPACT_BYTES_MIN
        assert after == [event for event in before if event["type"] != "token"]
        assert (await gate.messages())[-1]["content"] == WORD * WORDS


@pytest.mark.usefixtures("by_hand")
async def test_r2_a_client_amid_the_deltas_gets_the_message_that_replaces_them():
    async with gateway(delta_retention_seconds=3600) as gate:
        await talk(gate, "a")
        before = await gate.log()
        live = gate.live()
        gate.clock.advance(3601)
        gate.manager._registry.evict_idle()
        assert gate.manager._registry.get("s") is None, "no frame of it is in memory any more"
        assert await compacted(gate)
        kept = [event["seq"] for event in await gate.log()]
        for after in range(len(before)):
            async with await gate.reader(
                after=f"{live.epoch}-{after}", until_complete=True, run_id="a"
            ) as reader:
                shown = await reader.take_all()
            assert [frame.seq for frame in reader.events] == [seq for seq in kept if seq > after]
            assert all(frame.type != "reset" for frame in shown), "R4: no loss is said: none is"
            assert "message" in reader.types or after >= kept[-2]


@pytest.mark.usefixtures("by_hand")
async def test_a_run_that_is_executing_keeps_its_deltas():
    async with gateway(delta_retention_seconds=3600) as gate:
        await talk(gate, "a")
        await gate.chat(run_id="b")
        gate.agent.do("b", *[Token(WORD) for _ in range(WORDS)])
        await eventually(lambda: gate.agent.script("b").taken == WORDS)
        await gate.live().settled()
        gate.clock.advance(3601)
        assert await compacted(gate)
        tokens = {event["run_id"] for event in await gate.log() if event["type"] == "token"}
        assert tokens == {"b"}
        gate.agent.do("b", Complete())
        await gate.ended("b")


@pytest.mark.usefixtures("by_hand")
async def test_what_a_process_before_has_left_to_compact_is_found():
    async with gateway(delta_retention_seconds=3600) as gate:
        await talk(gate, "a")
        left = await crash(gate)
        gate.clock.advance(4000)
        async with gateway(left, clock=gate.clock, delta_retention_seconds=3600) as again:
            await quiet()
            assert await compacted(again)
            assert "token" not in await again.types()


@pytest.mark.usefixtures("by_hand")
async def test_little_is_left_alone():
    async with gateway(delta_retention_seconds=3600) as gate:
        await gate.chat(run_id="a")
        gate.agent.do("a", Token("few"), Complete())
        await gate.ended("a")
        await quiet()
        gate.clock.advance(3601)
        assert await compacted(gate) == 0
        assert "token" in await gate.types()


@pytest.mark.parametrize("retention", [0.2])
async def test_the_scheduled_round_does_it_by_itself(retention: float):
    async with gateway(delta_retention_seconds=retention) as gate:
        await talk(gate, "a")
        gate.clock.advance(1)
        with anyio.fail_after(DEADLINE_SECONDS):
            while "token" in await gate.types():  # noqa: ASYNC110 - only the clock ends it
                await anyio.sleep(0.02)
