"""Quotas of what is stored, over stores that take their time to say how much that is (R11)."""

import random
from collections import Counter, deque
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from typing import Any

import anyio
import pytest
from anyio.abc import TaskGroup
from anyio.lowlevel import checkpoint
from typing_extensions import override

from bamboo_gateway.domain.errors import BambooError, LimitReached, Unavailable
from bamboo_gateway.sessions.commands import Chat, NewMessage, NewSession
from bamboo_gateway.sessions.lifecycle.bulk_creation import History
from bamboo_gateway.sessions.lifecycle.fork import Fork
from bamboo_gateway.sessions.runs.factory import created_draft
from bamboo_gateway.storage.base import Done
from bamboo_gateway.storage.commits import Commit
from bamboo_gateway.storage.memory import MemoryStore
from bamboo_gateway.storage.reports import StoreUsage
from tests.support.clocks import FakeClock
from tests.support.gateways import ME, Gateway, eventually, gateway
from tests.support.stores import FaultyStore


class Database(FaultyStore):
    """Answers late, as a database does: each answer is as of some moment of the call.

    A commit can be in an answer before it is acknowledged.
    """

    tasks: TaskGroup

    def __init__(self, chance: random.Random) -> None:
        self.clock = FakeClock()
        super().__init__(MemoryStore(self.clock))
        self._chance = chance
        self._answers = deque[Callable[[], None]]()
        self.asked = 0
        self.fails_at = 0

    async def _wait(self) -> None:
        for _ in range(self._chance.randrange(8)):
            await checkpoint()

    @override
    async def usage(self, user_id: str | None = None) -> StoreUsage:
        self.asked += 1
        if self.asked == self.fails_at:
            raise Unavailable("The database is gone.")
        await self._wait()
        usage = await super().usage(user_id)
        await self._wait()
        return usage

    @override
    def append(self, commit: Commit, done: Done) -> None:
        async def answer() -> None:
            await self._wait()
            self._answers.popleft()()  # in order

        def stored(error: BambooError | None) -> None:
            self._answers.append(lambda: done(error))
            self.tasks.start_soon(answer)

        super().append(commit, stored)


@asynccontextmanager
async def over_a_database(seed: int, **limits: Any) -> AsyncIterator[tuple[Gateway, Database]]:
    store = Database(random.Random(seed))
    await store.open()
    async with (
        anyio.create_task_group() as store.tasks,
        gateway(store, clock=store.clock, **limits) as gate,
    ):
        yield gate, store


async def make(gate: Gateway, number: int, user_id: str) -> None:
    """Create a session in one of the ways that there are."""
    new = NewSession(id=f"{user_id}-{number}", user_id=user_id)
    match number % 4:
        case 0:
            await gate.manager.create_session(ME, new)
        case 1:
            await gate.manager.get_or_create_session(ME, new)
        case 2:
            await gate.manager.chat(ME, Chat(new, [NewMessage("user", "hi")]))
        case _:
            await gate.manager.fork(ME, f"{user_id}-first", Fork(new_id=new.id))


@pytest.mark.parametrize("seed", range(30))
async def test_of_many_creations_at_once_exactly_as_many_succeed_as_there_is_room_for(
    seed: int,
) -> None:
    chance = random.Random(-seed)
    limits = {"max_sessions_per_user": 6, "max_sessions": 9 if seed % 2 else None}
    made, refused = Counter[str](), Counter[str]()
    async with over_a_database(seed, **limits) as (gate, store):
        for user in ("ann", "bob"):
            await gate.manager.create_session(ME, NewSession(f"{user}-first", user))

        async def one(number: int, user: str) -> None:
            for _ in range(chance.randrange(20)):
                await checkpoint()
            try:
                await make(gate, number, user)
                made[user] += 1
            except LimitReached as error:
                refused[error.code] += 1

        async with anyio.create_task_group() as tasks:
            for number in range(15):
                for user in ("ann", "bob"):
                    tasks.start_soon(one, number, user)
        assert refused == {"too-many-sessions": 30 - made.total()}
        if limits["max_sessions"] is None:
            assert made == {"ann": 5, "bob": 5}
        else:
            assert made.total() == 7
            assert max(made.values()) <= 5
        assert (await store.inner.usage()).sessions == 2 + made.total()
        # A deletion makes room for exactly one more.
        await gate.manager.delete_session(ME, "ann-first")
        for expected in (1, 1):
            with suppress(LimitReached):
                await gate.manager.create_session(ME, NewSession(user_id="ann"))
            assert (await store.inner.usage()).sessions == 1 + made.total() + expected
        check_nothing_is_left(gate)


def check_nothing_is_left(gate: Gateway) -> None:
    quotas = gate.manager._context.quotas.stored
    assert (quotas.unborn.total, quotas._aside.total) == (0, 0)
    assert not quotas._lookups


async def test_a_creation_that_fails_takes_no_place_from_others() -> None:
    async with gateway(max_sessions_per_user=2) as gate:
        gate.store.hold_appends()
        outcomes: dict[str, str] = {}

        async def create(name: str) -> None:
            try:
                await gate.manager.create_session(ME, NewSession(id=name, user_id="ann"))
                outcomes[name] = "made"
            except BambooError as error:
                outcomes[name] = error.code

        async with anyio.create_task_group() as tasks:
            for name in ("a", "b", "c"):
                tasks.start_soon(create, name)
            # Whether the third has a place is not known before the others are stored.
            await eventually(lambda: gate.store.held == 2)
            assert not outcomes
            gate.store.release_appends(Unavailable("The database is gone."))
        assert sorted(outcomes.values()) == ["made", "unavailable", "unavailable"]
        assert (await gate.store.usage("ann")).sessions == 1


async def test_a_session_being_written_aside_has_its_place_and_nobody_waits_for_it() -> None:
    async with gateway(max_sessions_per_user=1) as gate:
        more, begun = anyio.Event(), anyio.Event()

        async def pages(_: int) -> Any:
            yield [created_draft(NewSession(user_id="ann"), None)]
            begun.set()
            await more.wait()

        async with anyio.create_task_group() as tasks:
            history: History[Any] = History(pages, lambda _: {})
            tasks.start_soon(gate.create_whole, ME, "whole", history)
            await begun.wait()
            with pytest.raises(LimitReached):
                await gate.manager.create_session(ME, NewSession(user_id="ann"))
            more.set()
        assert (await gate.store.usage("ann")).sessions == 1
        with pytest.raises(LimitReached):
            await gate.manager.create_session(ME, NewSession(user_id="ann"))


async def test_a_store_that_cannot_say_how_much_there_is_refuses_and_nothing_is_miscounted() -> (
    None
):
    limits = {"max_sessions": 3, "max_sessions_per_user": 2, "max_stored_bytes": 1_000_000}
    async with over_a_database(1, **limits) as (gate, store):
        await gate.manager.create_session(ME, NewSession(id="first", user_id="ann"))
        event = {"type": "custom", "name": "n", "value": 1}

        async def lines() -> Any:
            yield [b'{"type":"custom","name":"n","value":1}']

        manager = gate.manager
        # Bytes are looked up first, then the user's sessions if there is a user, then all.
        calls: dict[int, list[Callable[[], Awaitable[Any]]]] = {
            1: [
                lambda: manager.append_events(ME, "first", [event]),
                lambda: manager.append_event_lines(ME, "first", lines()),
            ],
            2: [
                lambda: manager.get_or_create_session(ME, NewSession("b")),
                lambda: gate.chat("c"),
            ],
            3: [
                lambda: manager.create_session(ME, NewSession("a", "ann")),
                lambda: manager.fork(ME, "first", Fork(new_id="d")),
            ],
        }
        before = await gate.log("first")
        for lookups, all_calls in calls.items():
            for nth in range(1, lookups + 1):
                for call in all_calls:
                    store.fails_at = store.asked + nth
                    with pytest.raises(Unavailable):
                        await call()
                    assert store.asked == store.fails_at
        assert await gate.log("first") == before
        assert (await store.inner.usage()).sessions == 1
        check_nothing_is_left(gate)
        await manager.create_session(ME, NewSession("a", "ann"))
        await limited("max_sessions_per_user", manager.create_session(ME, NewSession("b", "ann")))
        await gate.chat("c")
        await limited("max_sessions", gate.chat("d"))


async def limited(setting: str, call: Awaitable[Any]) -> None:
    with pytest.raises(LimitReached) as caught:
        await call
    assert f"({setting})" in caught.value.detail


async def test_without_limits_nothing_is_looked_up() -> None:
    async with over_a_database(0) as (gate, store):
        await gate.manager.create_session(ME, NewSession("ann-first", "ann"))
        for number in range(4):
            await make(gate, number, "ann")
        await gate.manager.add_messages(ME, "ann-0", [NewMessage("user", "hi")])
        assert not store.asked
