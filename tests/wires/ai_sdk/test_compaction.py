"""A run whose deltas leave the log: a later reader gets it whole, and so does one amid it (R4)."""

import anyio
import pytest

from bamboo_gateway.domain.positions import Position
from bamboo_gateway.sessions.commands import StreamRequest
from bamboo_gateway.wires.ai_sdk.run_fold import RunFold
from bamboo_gateway.wires.ai_sdk.run_state import Begin, Run, RunState
from bamboo_gateway.wires.ai_sdk.versions import V7
from bamboo_gateway.wires.folded_streams import EVENT_LINES, FoldedStream, FoldMemos
from bamboo_gateway.wires.places import Place
from tests.sessions.lifecycle.test_compaction import by_hand, compacted, talk
from tests.support.gateways import DEADLINE_SECONDS, ME, Gateway, gateway
from tests.wires.ai_sdk.reader import Reader as Client

__all__ = ["by_hand"]


MEMOS: FoldMemos[Place[RunState]] = FoldMemos()


async def opened(gate: Gateway, epoch: int, run_id: str) -> FoldedStream[Place[RunState]]:
    wanted = StreamRequest(after=Position(epoch, 0), until_complete=True, run_id=run_id)
    connection = await gate.manager.connect(ME, "s", wanted, EVENT_LINES)
    assert connection is not None
    memo = MEMOS.of(run_id, lambda: RunFold(Run(run_id, V7, {}, "")))
    return FoldedStream(connection, memo, RunState.of(Begin()))


async def read(stream: FoldedStream[Place[RunState]]) -> Client:
    """Read a stream to its end, as a client does."""
    text = b""
    with anyio.fail_after(DEADLINE_SECONDS):
        while (chunk := await stream.next()) is not None:
            text += chunk
    stream.aclose()
    return Client(7).read(text.decode())


@pytest.mark.usefixtures("by_hand")
async def test_r2_a_submit_that_comes_again_after_compaction_shows_the_same_message():
    async with gateway(delta_retention_seconds=3600) as gate:
        await talk(gate, "a")
        log, epoch = await gate.log(), gate.live().epoch
        run_id = next(event["run_id"] for event in log if event["type"] == "run_start")
        before = await read(await opened(gate, epoch, run_id))
        assert before.ended_with == "finish"
        behind = await opened(gate, epoch, run_id)
        gate.clock.advance(3601)
        gate.manager._registry.evict_idle()
        assert await compacted(gate)
        assert len(await gate.log()) < len(log)
        after = await read(await opened(gate, epoch, run_id))
        assert after.message == before.message
        # One that was open before, and had read nothing.
        assert (await read(behind)).message == before.message
