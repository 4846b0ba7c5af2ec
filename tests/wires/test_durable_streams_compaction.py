"""Offsets stay valid when the deltas of a run leave the log (R2)."""

import pytest

from bamboo_gateway.domain.positions import Position
from bamboo_gateway.sessions.commands import StreamRequest
from bamboo_gateway.wires.durable_streams.frames import FRAMES
from tests.sessions.lifecycle.test_compaction import by_hand, compacted, talk
from tests.support.gateways import ME, Reader, gateway
from tests.wires.streams import messages, parsed

__all__ = ["by_hand"]


@pytest.mark.usefixtures("by_hand")
async def test_r2_every_offset_before_compaction_resumes_after_it():
    async with gateway(delta_retention_seconds=3600) as gate:
        await talk(gate, "a")
        before, epoch = await gate.log(), gate.live().epoch
        gate.clock.advance(3601)
        gate.manager._registry.evict_idle()
        assert await compacted(gate)
        kept = await gate.log()
        assert len(kept) < len(before)
        for seq in range(len(before)):
            wanted = StreamRequest(after=Position(epoch, seq))
            connection = await gate.manager.connect(ME, "s", wanted, FRAMES)
            assert connection is not None
            async with Reader(connection) as reader:
                while b"upToDate" not in reader.bytes:
                    assert await reader.take() is not None
            text = reader.bytes.decode()
            assert messages(text) == [event for event in kept if event["seq"] > seq]
            assert parsed(text)[-1][1]["streamNextOffset"].endswith(f"{before[-1]['seq']:016}")
