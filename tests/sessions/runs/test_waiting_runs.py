"""Runs that wait: the log keeps their input, and memory keeps where it stands (R11)."""

import anyio
import pytest

from bamboo_gateway.domain.errors import StorageFailed
from bamboo_gateway.domain.events import Complete
from bamboo_gateway.domain.limits import EVENT_QUEUE_BYTES_MAX
from bamboo_gateway.sessions.runs import scheduler
from tests.support.gateways import DEADLINE_SECONDS, ME, Gateway, crash, eventually, gateway, quiet
from tests.support.held import held_bytes

LARGE = 400_000


def said(number: int) -> str:
    """Return a large message that tells itself from the others."""
    return f"{number} " + "x" * LARGE


async def test_what_waits_takes_no_memory_for_its_input(gate: Gateway):
    await gate.chat(run_id="a")
    for number in range(20):
        await gate.chat(text=said(number), run_id=f"r{number}")
    # The ring of recent frames is bounded by itself.
    assert held_bytes(gate.live()) < EVENT_QUEUE_BYTES_MAX + LARGE
    for number in range(20):
        gate.agent.do(f"r{number}", Complete())
    gate.agent.do("a", Complete())
    await gate.ended("r19")
    assert [m["content"] for m in await gate.messages()] == ["hi", *map(said, range(20))]


async def test_large_input_waits_through_a_restart_and_is_answered_in_order_once(gate: Gateway):
    await gate.chat(run_id="a")
    answers = [await gate.chat(text=said(number), run_id=f"r{number}") for number in range(5)]
    await gate.chat(text="first", run_id="front", on_busy="interrupt")
    await eventually(lambda: "front" in gate.agent.asked)
    async with gateway(await crash(gate)) as again:
        for number in range(5):
            again.agent.do(f"r{number}", Complete())
        await again.ended("r4")
        assert again.agent.asked == [f"r{number}" for number in range(5)]
        messages = await again.messages()
        assert [m["content"] for m in messages] == ["hi", "first", *map(said, range(5))]
        given = [answer["message_ids"][0] for answer in answers]
        assert [m["id"] for m in messages[2:]] == given
    gate.store.release_appends()


async def complete(gate: Gateway, *run_ids: str) -> None:
    """Let runs complete, one after the other; their input is decoded in threads."""
    for run_id in run_ids:
        gate.agent.do(run_id, Complete())
        await gate.ended(run_id)


async def store_what_is_held(gate: Gateway) -> None:
    """Store the commits that are held now, and goes on holding those that follow."""
    held, gate.store._held = gate.store._held or [], []
    for commit, done in held:
        gate.store.inner.append(commit, done)
    await eventually(lambda: gate.live().starting)
    await quiet()


async def test_a_run_that_goes_first_starts_once_its_input_is_stored(gate: Gateway):
    await gate.chat(run_id="a")
    await gate.chat(text=said(2), run_id="c")
    await gate.agent.script("a").started.wait()
    gate.store.hold_appends()
    async with anyio.create_task_group() as tasks:
        gate.agent.do("a", Complete())
        await eventually(lambda: gate.store.held == 1)
        # Decided while the end of `a` is on its way: it is the queue's first, and not stored yet.
        tasks.start_soon(lambda: gate.chat(text=said(1), run_id="b", on_busy="interrupt"))
        await eventually(lambda: gate.live().head.queue[0].run_id == "b")
        await store_what_is_held(gate)
        assert gate.agent.asked == ["a"]
        gate.store.release_appends()
        with anyio.fail_after(DEADLINE_SECONDS):
            await gate.agent.script("b").started.wait()
    turn = gate.agent.script("b").turn
    assert turn is not None
    assert turn.messages[-1].text == said(1)
    await complete(gate, "b", "c")
    assert gate.agent.asked == ["a", "b", "c"]


async def test_a_run_that_goes_first_while_the_next_is_read_starts_with_its_own_input(
    gate: Gateway,
):
    await gate.chat(run_id="a")
    await gate.chat(text=said(2), run_id="c")
    gate.store.hold("read")
    gate.agent.do("a", Complete())
    await eventually(lambda: gate.live().starting and gate.store.waiting.get("read"))
    await gate.chat(text=said(1), run_id="b", on_busy="interrupt")
    gate.store.let_go("read")
    await gate.agent.script("b").started.wait()
    await complete(gate, "b", "c")
    assert gate.agent.asked == ["a", "b", "c"]
    assert [m["content"] for m in await gate.messages()] == ["hi", said(1), said(2)]


async def test_a_run_that_was_undone_while_it_was_to_start_leaves_the_next_its_turn(
    gate: Gateway, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(scheduler, "_START_RETRY_SECONDS", 0)
    await gate.chat(run_id="a")
    await gate.chat(text=said(2), run_id="c")
    await gate.agent.script("a").started.wait()
    gate.store.hold_appends()
    async with anyio.create_task_group() as tasks:
        gate.agent.do("a", Complete())
        await eventually(lambda: gate.store.held == 1)

        async def refused() -> None:
            with pytest.raises(StorageFailed):
                await gate.chat(text=said(1), run_id="b", on_busy="interrupt")

        tasks.start_soon(refused)
        await eventually(lambda: gate.live().head.queue[0].run_id == "b")
        await store_what_is_held(gate)
        gate.store.release_appends(StorageFailed("The disk is broken."))
        with anyio.fail_after(DEADLINE_SECONDS):
            await gate.agent.script("c").started.wait()
    turn = gate.agent.script("c").turn
    assert turn is not None
    assert turn.messages[-1].text == said(2)
    assert gate.agent.asked == ["a", "c"]
    gate.agent.do("c", Complete())
    await gate.ended("c")


async def test_input_that_cannot_be_read_now_is_read_again_and_nothing_is_lost(
    gate: Gateway, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(scheduler, "_START_RETRY_SECONDS", 0)
    await gate.chat(run_id="a")
    await gate.chat(text=said(1), run_id="b")
    gate.store.fail("read", *[StorageFailed("The disk is broken.")] * 3)
    gate.agent.do("a", Complete())
    gate.agent.do("b", Complete())
    assert (await gate.ended("b"))["status"] == "completed"
    assert (await gate.messages())[-1]["content"] == said(1)


async def test_a_run_that_is_cancelled_while_its_input_is_read_does_not_start(gate: Gateway):
    await gate.chat(run_id="a")
    await gate.chat(text=said(1), run_id="b")
    await gate.chat(text=said(2), run_id="c")
    gate.store.hold("read")
    gate.agent.do("a", Complete())
    await eventually(lambda: gate.live().starting and gate.store.waiting.get("read"))
    await gate.manager.cancel_run(ME, "s", "b")
    gate.store.let_go("read")
    gate.agent.do("c", Complete())
    await gate.ended("c")
    assert gate.agent.asked == ["a", "c"]
    assert [m["content"] for m in await gate.messages()] == ["hi", said(2)]
