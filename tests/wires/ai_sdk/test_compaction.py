"""A run whose deltas leave the log: a later reader gets it whole, one amid it is told (R4)."""

import pytest

from bamboo_gateway.domain.positions import Position
from bamboo_gateway.sessions.commands import StreamRequest
from bamboo_gateway.sessions.streaming.subscription import Subscription
from bamboo_gateway.wires.ai_sdk.frames import RunReader, frames_of_run
from bamboo_gateway.wires.ai_sdk.run_frames import Begin, RunFrames
from bamboo_gateway.wires.ai_sdk.versions import V7
from tests.sessions.lifecycle.test_compaction import by_hand, compacted, talk
from tests.support.gateways import ME, Gateway, Reader, gateway
from tests.wires.ai_sdk.reader import Reader as Client

__all__ = ["by_hand"]


async def opened(gate: Gateway, epoch: int, run_id: str, *, is_active: bool) -> Subscription:
    frames = RunFrames(run_id, V7, Begin(), "")
    run = frames_of_run((id(gate), run_id), frames, is_active=is_active)
    wanted = StreamRequest(after=Position(epoch, 0), until_complete=True, run_id=run_id)
    connection = await gate.manager.connect(ME, "s", wanted, RunReader(run, b""))
    assert connection is not None
    return connection


@pytest.mark.usefixtures("by_hand")
async def test_r2_a_submit_that_comes_again_after_compaction_shows_the_same_message():
    async with gateway(delta_retention_seconds=3600) as gate:
        await talk(gate, "a")
        log, epoch = await gate.log(), gate.live().epoch
        run_id = next(event["run_id"] for event in log if event["type"] == "run_start")
        async with Reader(await opened(gate, epoch, run_id, is_active=False)) as reader:
            while await reader.take() is not None:
                pass
            before = Client(7).read(reader.bytes.decode())
        assert before.ended_with == "finish"
        behind = await opened(gate, epoch, run_id, is_active=True)
        gate.clock.advance(3601)
        gate.manager._registry.evict_idle()
        assert await compacted(gate)
        assert len(await gate.log()) < len(log)
        async with Reader(await opened(gate, epoch, run_id, is_active=False)) as reader:
            while await reader.take() is not None:
                pass
            after = Client(7).read(reader.bytes.decode())
        assert after.message == before.message
        # One that shares its frames with others, and that was too slow.
        async with Reader(behind) as reader:
            while await reader.take() is not None:
                pass
        assert "The stream was cut" in reader.bytes.decode()
