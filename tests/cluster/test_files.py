"""Files of several processes that share one store: one of them at a time changes a content."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import anyio
import pytest

from bamboo_gateway.domain.errors import BambooError, LimitReached
from bamboo_gateway.sessions.commands import NewMessage, NewSession
from bamboo_gateway.sessions.file_shelf.locks import NamedLocks
from bamboo_gateway.sessions.files.uploads import NewFile
from tests.support.clocks import FakeClock
from tests.support.gateways import ME, Gateway, eventually, gateway, quiet
from tests.support.shared_memory import SharedMemory

PNG = b"\x89PNG\r\n\x1a\n" + b"pixels" * 100


async def body(data: bytes) -> AsyncIterator[bytes]:
    yield data


async def upload(gate: Gateway, data: bytes = PNG, **new: Any) -> str:
    outcome = await gate.manager.upload_file(ME, NewFile("a.png", "image/png", **new), body(data))
    return str(outcome.answer["file_id"])


@asynccontextmanager
async def two(**settings: Any) -> AsyncIterator[tuple[SharedMemory, Gateway, Gateway]]:
    clock = FakeClock()
    memory = SharedMemory(clock)
    async with (
        gateway(await memory.store("a"), clock=clock, **settings) as a,
        gateway(await memory.store("b"), clock=clock, **settings) as b,
    ):
        yield memory, a, b


async def test_a_lock_keeps_other_processes_out_and_ends_with_its_process() -> None:
    memory = SharedMemory(FakeClock())
    a, b = NamedLocks(await memory.store("a")), NamedLocks(await memory.store("b"))
    entered: list[str] = []
    may_go = anyio.Event()

    async def hold(locks: NamedLocks, who: str) -> None:
        async with locks.hold([("one", "two"), ("other",)]):
            entered.append(who)
            await may_go.wait()

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(hold, a, "a")
        await eventually(lambda: entered == ["a"])
        tasks.start_soon(hold, b, "b")
        await quiet()
        assert entered == ["a"]
        async with b.hold([("third",)]):
            pass
        memory.take_for_dead("a")
        await eventually(lambda: entered == ["a", "b"])
        may_go.set()
    # Nothing is left of either.
    assert not [one for one in memory.presences.values() if one.executor == "b"]
    async with b.hold([("one", "two"), ("other",)]):
        pass


async def test_a_lock_that_is_cancelled_while_it_is_waited_for_is_not_left_behind() -> None:
    memory = SharedMemory(FakeClock())
    a, b = NamedLocks(await memory.store("a")), NamedLocks(await memory.store("b"))
    async with a.hold([("one",)]):
        with anyio.move_on_after(0.05):
            async with b.hold([("one",)]):
                pytest.fail("the lock is held")
    async with b.hold([("one",)]):
        pass
    assert not memory.presences


async def test_one_key_at_two_processes_at_once_stores_one_file() -> None:
    async with two() as (_, a, b):
        made: list[str] = []

        async def send(gate: Gateway) -> None:
            made.append(await upload(gate, key="k"))

        async with anyio.create_task_group() as tasks:
            for gate in (a, b, a, b):
                tasks.start_soon(send, gate)
        assert len(made) == 4
        assert len(set(made)) == 1
        assert len(await a.store.values("file")) == 1


async def test_a_file_that_is_deleted_at_one_process_and_named_at_another_is_one_or_the_other() -> (
    None
):
    async with two() as (_, a, b):
        for number in range(20):
            file_id, session_id = await upload(a, PNG + b"%d" % number), f"s{number}"
            await b.manager.create_session(ME, NewSession(id=session_id))
            outcomes: dict[str, BambooError | None] = {}

            async def delete(
                file_id: str = file_id, outcomes: dict[str, BambooError | None] = outcomes
            ) -> None:
                try:
                    await a.manager.delete_file(ME, file_id)
                except BambooError as error:
                    outcomes["delete"] = error
                else:
                    outcomes["delete"] = None

            async def name(
                file_id: str = file_id,
                session_id: str = session_id,
                outcomes: dict[str, BambooError | None] = outcomes,
            ) -> None:
                part = {"type": "image", "file_id": file_id}
                try:
                    await b.manager.add_messages(ME, session_id, [NewMessage("user", [part])])
                except BambooError as error:
                    outcomes["name"] = error
                else:
                    outcomes["name"] = None

            async with anyio.create_task_group() as tasks:
                for call in (delete, name) if number % 2 else (name, delete):
                    tasks.start_soon(call)
            assert (outcomes["delete"] is None) is (outcomes["name"] is not None), outcomes
            there = await a.store.value("file", file_id) is not None
            assert there is (outcomes["name"] is None)


async def test_the_quota_counts_what_another_process_has_stored() -> None:
    async with two(max_stored_bytes=1000) as (_, a, b):
        # Both have counted, and have it in memory.
        for gate in (a, b):
            assert await gate.manager._context.files.usage.totals() == (0, 0)
        await upload(a, PNG)
        b.clock.advance(1)
        assert await b.manager._context.files.usage.totals() == (1, len(PNG))
        with pytest.raises(LimitReached):
            await upload(b, PNG + b"x")
