"""A run is seen again from its begin when its pieces have left the log (R2)."""

import pytest

from bamboo_gateway.wires.ag_ui.threads import Threads
from tests.sessions.lifecycle.test_compaction import by_hand, compacted, talk
from tests.support.gateways import ME, Gateway, gateway
from tests.wires.ag_ui_client import Client, native

__all__ = ["by_hand"]


async def seen(gate: Gateway, run_id: str | None) -> Client:
    """Return a client that has seen a run again, or without one the thread."""
    with gate.manager.reserve_stream(ME) as place:
        threads = Threads(gate.manager, ME, place, None)
        shown = await (threads._replay("s", run_id) if run_id else threads.connect("s", None))
    if shown.stream is None:
        return Client().read(shown.whole.decode())
    pieces: list[bytes] = []
    while (piece := await shown.stream.next()) is not None:
        pieces.append(piece)
    shown.stream.aclose()
    return Client().read(b"".join(pieces).decode())


@pytest.mark.usefixtures("by_hand")
async def test_r2_a_run_is_the_same_before_and_after_its_deltas_have_left():
    async with gateway(delta_retention_seconds=3600) as gate:
        await talk(gate, "a")
        expected = native(await gate.messages())
        before = [await seen(gate, run_id) for run_id in ("a", None)]
        size = len(await gate.log())
        gate.clock.advance(3601)
        gate.manager._registry.evict_idle()
        assert await compacted(gate)
        assert len(await gate.log()) < size
        after = [await seen(gate, run_id) for run_id in ("a", None)]
    assert [client.shown() for client in (*before, *after)] == [expected] * 4
