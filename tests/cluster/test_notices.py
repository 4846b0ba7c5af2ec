"""What a process tells the others of its commits: all of them, as they are in the log."""

from collections.abc import AsyncIterator

import pytest

from bamboo_gateway.bus.base import Notice
from bamboo_gateway.bus.memory import Exchange, MemoryBus
from bamboo_gateway.domain.errors import StorageFailed
from bamboo_gateway.domain.events import Complete, Token
from bamboo_gateway.domain.sessions import SessionHead
from bamboo_gateway.sessions.commands import NewSession
from bamboo_gateway.sessions.lifecycle.fork import Fork
from bamboo_gateway.sessions.lifecycle.merge_plan import Merge
from bamboo_gateway.sessions.streaming.session_writer import Wish
from bamboo_gateway.storage.base import SessionStore
from tests.bus.ends import End
from tests.support.clocks import FakeClock
from tests.support.gateways import ME, Gateway, eventually, gateway, quiet
from tests.support.shared_memory import SharedMemory


class Heard:
    """A gateway, and the end of another one that watches its sessions."""

    def __init__(self, gate: Gateway, other: End) -> None:
        self.gate = gate
        self.other = other

    def notices(self, session_id: str = "s") -> list[Notice]:
        """Return the notices of a session."""
        return [each for each in self.other.noticed if each.session_id == session_id]


@pytest.fixture
async def heard() -> AsyncIterator[Heard]:
    """A gateway over a shared store with a bus, and another end of that bus."""
    clock, exchange = FakeClock(), Exchange()
    store = await SharedMemory(clock).store("a")
    async with (
        MemoryBus(exchange) as bus,
        End(MemoryBus(exchange)) as other,
        gateway(store, clock=clock, bus=bus) as gate,
    ):
        for session_id in ("s", "t"):
            await other.watches(session_id)
        yield Heard(gate, other)


async def bodies(store: SessionStore, head: SessionHead) -> list[bytes]:
    """Return the whole log of a session."""
    records = await store.read(head.id, head.epoch, 0, limit=1000, max_bytes=10**6)
    return [record.body for record in records]


async def test_the_notices_are_the_log_in_order_with_a_version_for_each_commit(
    heard: Heard,
) -> None:
    gate = heard.gate
    await gate.chat(run_id="r1")
    gate.agent.do("r1", Token("a"), Token("b"), Token("c"), Complete())
    await gate.ended("r1")
    await gate.chat(text="more", key="k", run_id="r2")
    gate.agent.do("r2", Complete())
    await gate.ended("r2")
    head = await gate.store.load("s")
    assert head is not None
    await eventually(lambda: heard.notices()[-1].version == head.version)
    notices = heard.notices()
    assert [notice.version for notice in notices] == list(range(1, head.version + 1))
    assert {notice.epoch for notice in notices} == {head.epoch}
    seq = 0
    told: list[bytes] = []
    for notice in notices:
        assert notice.first_seq == seq + 1
        assert notice.bodies is not None
        seq += len(notice.bodies)
        told += notice.bodies
    assert told == await bodies(gate.store, head)


async def test_a_commit_of_a_note_alone_is_told(heard: Heard) -> None:
    gate = heard.gate
    await gate.manager.create_session(ME, NewSession(id="s"))
    await eventually(lambda: len(heard.notices()) == 1)
    writer = gate.live()
    await writer.commit([], wish=Wish("r", {"type": "cancelled", "run_id": "r"}))
    await eventually(lambda: len(heard.notices()) == 2)
    assert heard.notices()[1] == Notice("s", writer.epoch, 2, writer.durable_seq + 1, ())


async def test_a_deletion_is_told(heard: Heard) -> None:
    gate = heard.gate
    await gate.manager.create_session(ME, NewSession(id="s"))
    await gate.manager.delete_session(ME, "s")
    await eventually(lambda: heard.notices()[-1:] == [Notice("s", 0, 0, 0, None)])


async def test_what_was_written_as_a_whole_is_to_be_looked_up(heard: Heard) -> None:
    gate = heard.gate
    await gate.chat(run_id="r")
    gate.agent.do("r", Complete())
    await gate.ended("r")
    await gate.manager.fork(ME, "s", Fork(new_id="t"))
    head = await gate.store.load("t")
    assert head is not None
    look = Notice("t", head.epoch, 0, 0, None)
    await eventually(lambda: look in heard.notices("t"))
    before = len(heard.notices("t"))
    await gate.manager.merge(ME, "t", Merge("s", "append", "target"))
    await eventually(lambda: len(heard.notices("t")) > before)
    assert heard.notices("t")[-1] == look


async def test_nothing_is_told_of_a_commit_that_the_store_refused(heard: Heard) -> None:
    gate = heard.gate
    await gate.manager.create_session(ME, NewSession(id="s"))
    await eventually(lambda: len(heard.notices()) == 1)
    gate.store.fail_append()
    with pytest.raises(StorageFailed):
        await gate.chat(run_id="r")
    await quiet()
    assert len(heard.notices()) == 1
