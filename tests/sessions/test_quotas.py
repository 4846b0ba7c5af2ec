"""Quotas: what each user and all together may have, and that nothing is miscounted (R11)."""

import random
from collections.abc import AsyncIterator
from contextlib import suppress
from typing import Any

import anyio
import pytest

from bamboo_gateway.api.frames import NATIVE
from bamboo_gateway.domain.callers import ALL_RIGHTS, Caller
from bamboo_gateway.domain.errors import BambooError, LimitReached
from bamboo_gateway.domain.events import Complete, Draft
from bamboo_gateway.sessions.commands import Chat, NewMessage, NewSession, StreamRequest
from bamboo_gateway.sessions.lifecycle.bulk_creation import History
from bamboo_gateway.sessions.lifecycle.fork import Fork
from bamboo_gateway.sessions.runs.factory import created_draft
from tests.support.gateways import ME, Gateway, eventually, gateway, quiet, settings_of

ANN, BOB = Caller("ann", "ann"), Caller("bob", "bob")
TICKET = Caller("ticket", None, ALL_RIGHTS, session_id="s")


async def chat(gate: Gateway, session_id: str, user_id: str | None = None, run_id: str = "") -> str:
    """Send a message to a session, made for a user if it is new; return the run's status."""
    outcome = await gate.manager.chat(
        ME,
        Chat(
            NewSession(id=session_id, user_id=user_id),
            [NewMessage("user", "hi")],
            run_id=run_id or None,
        ),
    )
    status: str = outcome.answer["status"]
    return status


async def refused(code: str, setting: str, call: Any) -> None:
    """Fail unless the call is refused for this limit, whose name and remedy it says."""
    with pytest.raises(LimitReached) as caught:
        await call
    assert caught.value.code == code
    assert f"({setting})" in caught.value.detail
    assert caught.value.retry_after_seconds


def counted(gate: Gateway) -> dict[str, tuple[int, dict[str, int]]]:
    quotas = gate.manager._context.quotas
    tallies = {name: getattr(quotas, name) for name in ("_runs", "_queued", "_places", "_streams")}
    tallies |= {"_unborn": quotas.stored.unborn, "_aside": quotas.stored._aside}
    return {name: (tally.total, dict(tally._by_user)) for name, tally in tallies.items()}


def expected(gate: Gateway) -> dict[str, tuple[int, dict[str, int]]]:
    """Count again, from what there is in memory."""
    found: dict[str, list[str | None]] = {"_runs": [], "_queued": [], "_unborn": [], "_places": []}
    for live in gate.manager._registry.sessions:
        head = live.head
        found["_runs"] += [head.user_id] * bool(head.active or head.queue)
        found["_queued"] += [head.user_id] * len(head.queue)
        found["_unborn"] += [head.user_id] * (live.is_unborn and head.seq > 0)
        found["_places"] += [head.user_id] * bool(head.active or head.queue or live.users)
    return {
        name: (len(users), {user: users.count(user) for user in users if user is not None})
        for name, users in found.items()
    }


async def test_runs_of_a_user_and_in_all_are_bounded_and_a_place_is_free_again() -> None:
    async with gateway(max_active_runs_per_user=2, max_active_runs=3) as gate:
        assert await chat(gate, "a1", "ann", "r1") == "running"
        assert await chat(gate, "a2", "ann", "r2") == "running"
        limited = "max_active_runs_per_user"
        await refused("too-many-runs", limited, chat(gate, "a3", "ann"))
        assert await chat(gate, "b1", "bob", "r3") == "running"
        await refused("too-many-runs", "max_active_runs", chat(gate, "n1"))
        # What waits takes no place of its own, and what was refused left nothing.
        assert await chat(gate, "a1", run_id="r4") == "queued"
        assert await gate.store.inner.load("a3") is None
        gate.agent.do("r2", Complete())
        await gate.ended("r2", "a2")
        await quiet()
        await gate.manager.create_session(ME, NewSession(id="a3", user_id="ann"))
        await gate.manager.open_run(ME, "a3", "ext")
        await refused("too-many-runs", limited, chat(gate, "a2"))
        # The run that waited gets its session's place, full or not.
        gate.agent.do("r1", Complete())
        await eventually(lambda: "r4" in gate.agent.asked)
        await refused("too-many-runs", limited, chat(gate, "a2"))
        assert counted(gate) | expected(gate) == counted(gate)


async def test_of_many_chats_at_once_exactly_as_many_run_as_there_are_places() -> None:
    async with gateway(max_active_runs_per_user=5) as gate:
        statuses: list[str] = []

        async def one(number: int) -> None:
            try:
                statuses.append(await chat(gate, f"s-{number}", "ann"))
            except LimitReached as error:
                statuses.append(error.code)

        async with anyio.create_task_group() as tasks:
            for number in range(20):
                tasks.start_soon(one, number)
        assert sorted(statuses) == ["running"] * 5 + ["too-many-runs"] * 15


async def test_waiting_runs_of_a_user_and_in_all_are_bounded() -> None:
    async with gateway(max_queued_runs_per_user=2, max_queued_runs_in_all=3) as gate:
        for session_id, user_id in (("a1", "ann"), ("a2", "ann"), ("b1", "bob")):
            await chat(gate, session_id, user_id)
        assert [await chat(gate, name) for name in ("a1", "a2")] == ["queued"] * 2
        code = "too-many-queued-runs"
        await refused(code, "max_queued_runs_per_user", chat(gate, "a1"))
        assert await chat(gate, "b1") == "queued"
        await refused(code, "max_queued_runs_in_all", chat(gate, "b1"))
        await gate.manager.cancel_session(ME, "a1")
        assert await chat(gate, "b1") == "queued"


async def test_streams_of_a_user_or_a_ticket_are_bounded_and_the_operators_are_not() -> None:
    async with gateway(max_connections_per_user=2) as gate:
        for session_id, user_id in (("s", "ann"), ("b", "bob")):
            await gate.manager.create_session(ME, NewSession(id=session_id, user_id=user_id))

        async def connect(caller: Caller, **request: Any) -> Any:
            session_id = "b" if caller is BOB else "s"
            return await gate.manager.connect(caller, session_id, StreamRequest(**request), NATIVE)

        async def own(caller: Caller, name: str) -> Any:
            return await connect(caller, connection_id=name)

        opened = [await own(who, f"{who.id}-{n}") for who in (ANN, BOB, TICKET) for n in range(2)]
        opened += [await connect(ME) for _ in range(5)]
        limited = "max_connections_per_user"
        for who in (ANN, BOB, TICKET):
            await refused("too-many-streams", limited, connect(who))
            await refused("too-many-streams", limited, own(who, "another"))
        # One that comes back to its own stream, which is half open still, takes its place.
        again = await own(ANN, "ann-0")
        for connection in [*opened, again]:
            connection.aclose()
        assert counted(gate)["_streams"] == (0, {})
        (await connect(ANN)).aclose()


async def test_busy_sessions_of_a_user_are_bounded_and_others_have_their_places() -> None:
    async with gateway(max_active_sessions=4, max_active_sessions_per_user=2) as gate:
        for name in ("a1", "a2", "a3", "b1", "n1"):
            user_id = {"a": "ann", "b": "bob"}.get(name[0])
            await gate.manager.create_session(ME, NewSession(id=name, user_id=user_id))

        async def add(caller: Caller, name: str) -> None:
            await gate.manager.add_messages(caller, name, [NewMessage("user", "x")])

        limited = ("too-many-busy-sessions", "max_active_sessions_per_user")
        gate.store.hold_appends()
        async with anyio.create_task_group() as tasks:
            for caller, name in ((ANN, "a1"), (ANN, "a2"), (ANN, "a2")):
                tasks.start_soon(add, caller, name)
            await eventually(lambda: gate.store.held == 2)
            await refused(*limited, add(ANN, "a3"))
            await refused(*limited, add(ME, "a3"))
            await refused(*limited, gate.manager.create_session(ANN, NewSession(id="a4")))
            # What is busy may get more to do; and what begins nothing needs no place.
            tasks.start_soon(add, ANN, "a1")
            stream = await gate.manager.connect(ANN, "a3", StreamRequest(), NATIVE)
            assert stream is not None
            stream.aclose()
            await gate.manager.delete_session(ANN, "a3")
            for caller, name in ((BOB, "b1"), (ME, "n1")):
                tasks.start_soon(add, caller, name)
            await eventually(lambda: gate.store.held == 4)
            assert counted(gate)["_places"] == (4, {"ann": 2, "bob": 1})
            gate.store.release_appends()
        assert counted(gate)["_places"] == (0, {})
        # A run holds its session's place to its end; whoever creates has one from the beginning.
        assert await chat(gate, "a1", run_id="r1") == "running"
        gate.store.hold("load")
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(gate.manager.create_session, ANN, NewSession(id="a4"))
            await eventually(lambda: gate.store.waiting.get("load"))
            gate.store.hold_appends()
            gate.store.let_go("load")
            await eventually(lambda: gate.store.held)
            await refused(*limited, add(ANN, "a2"))
            gate.store.release_appends()
        gate.agent.do("r1", Complete())
        await gate.ended("r1", "a1")
        await quiet()
        assert counted(gate)["_places"] == (0, {})


async def test_a_session_created_in_pieces_counts_toward_the_limit_all_the_time() -> None:
    async with gateway(max_active_sessions_per_user=1) as gate:
        more = anyio.Event()

        async def pages(_: int) -> AsyncIterator[list[Draft]]:
            await more.wait()
            yield [created_draft(NewSession(user_id="ann"), None)]

        async def make() -> None:
            await gate.create_whole(ANN, "a1", History(pages, lambda _: {}))

        async with anyio.create_task_group() as tasks:
            tasks.start_soon(make)
            await quiet()
            assert counted(gate)["_places"] == (1, {"ann": 1})
            limited = ("too-many-busy-sessions", "max_active_sessions_per_user")
            await refused(*limited, gate.manager.create_session(ANN, NewSession(id="a2")))
            await gate.manager.create_session(BOB, NewSession(id="b1"))
            more.set()
        assert counted(gate)["_places"] == (0, {})
        assert (await gate.store.usage("ann")).sessions == 1


def test_a_user_has_a_quarter_of_the_places_if_nothing_else_is_said() -> None:
    shares = [settings_of(max_active_sessions=most) for most in (1, 4, 10, 1000)]
    assert [each.max_active_sessions_per_user for each in shares] == [1, 1, 3, 250]
    said = settings_of(max_active_sessions=10, max_active_sessions_per_user=10)
    assert said.max_active_sessions_per_user == 10


async def test_sessions_without_a_user_count_only_toward_the_global_limit() -> None:
    async with gateway(max_active_sessions=4) as gate:
        assert [await chat(gate, f"s-{number}") for number in range(4)] == ["running"] * 4


async def test_sessions_of_a_user_are_bounded_however_they_are_made() -> None:
    async with gateway(max_sessions_per_user=3) as gate:
        life, make = gate.manager, gate.manager.create_session
        await make(ME, NewSession(id="a1", user_id="ann"))
        await life.fork(ME, "a1", Fork(new_id="a2"))
        assert await chat(gate, "a3", "ann") == "running"
        limited = ("too-many-sessions", "max_sessions_per_user")
        await refused(*limited, make(ME, NewSession(id="a4", user_id="ann")))
        await refused(*limited, chat(gate, "a4", "ann"))
        await refused(*limited, life.fork(ME, "a1", Fork(new_id="a4")))
        await make(ME, NewSession(id="b1", user_id="bob"))
        await make(ME, NewSession(id="n1"))
        await gate.manager.delete_session(ME, "a2")
        await life.fork(ME, "a1", Fork(new_id="a4"))
        await refused(*limited, make(ME, NewSession(id="a5", user_id="ann")))


async def test_of_many_sessions_made_at_once_exactly_as_many_are_as_there_are_places() -> None:
    async with gateway(max_sessions_per_user=4) as gate:
        await gate.manager.create_session(ME, NewSession(id="first", user_id="ann"))
        made: list[str] = []

        async def one(number: int) -> None:
            try:
                if number % 2:
                    await gate.manager.create_session(ME, NewSession(user_id="ann"))
                else:
                    await gate.manager.fork(ME, "first", Fork())
                made.append("made")
            except LimitReached as error:
                made.append(error.code)

        async with anyio.create_task_group() as tasks:
            for number in range(20):
                tasks.start_soon(one, number)
        assert sorted(made) == ["made"] * 3 + ["too-many-sessions"] * 17
        assert (await gate.store.usage("ann")).sessions == 4
        assert counted(gate)["_unborn"] == (0, {})


async def test_a_full_store_refuses_what_adds_and_lets_what_ends_and_frees() -> None:
    async with gateway(max_stored_bytes_per_user=3000, max_stored_bytes=6000) as gate:
        manager = gate.manager
        await chat(gate, "a1", "ann", "r1")
        event = {"type": "custom", "name": "n", "value": "x" * 1000}
        while (await gate.store.usage("ann")).stored_bytes < 3000:
            await manager.append_events(ME, "a1", [event])
        limited = ("storage-quota-reached", "max_stored_bytes_per_user")

        async def lines() -> Any:
            yield [b'{"type":"custom","name":"n","value":1}']

        message = NewMessage("user", "hi")
        await refused(*limited, manager.append_events(ME, "a1", [event]))
        await refused(*limited, manager.append_event_lines(ME, "a1", lines()))
        await refused(*limited, manager.add_messages(ME, "a1", [message]))
        await refused(*limited, manager.update_session(ME, "a1", {"title": "x"}))
        await refused(*limited, manager.create_session(ME, NewSession(user_id="ann")))
        await refused(*limited, manager.fork(ME, "a1", Fork()))
        await refused(*limited, chat(gate, "a1"))
        await refused(*limited, chat(gate, "a2", "ann"))
        # What was begun ends; reading, closing and deleting are free.
        gate.agent.do("r1", Complete())
        assert (await gate.ended("r1", "a1"))["status"] == "completed"
        assert (await manager.messages(ME, "a1")).messages
        await manager.close_session(ME, "a1")
        await manager.reopen_session(ME, "a1")
        bob = await session_of_bob(gate)
        while (await gate.store.usage()).stored_bytes < 6000:
            await manager.add_messages(ME, bob, [message])
        await refused(
            "storage-quota-reached",
            "max_stored_bytes",
            manager.create_session(ME, NewSession()),
        )
        await manager.delete_session(ME, "a1")
        assert await chat(gate, "a1", "ann") == "running"


async def test_lines_end_where_the_room_does_and_the_answer_says_where() -> None:
    async with gateway(max_stored_bytes=2000) as gate:
        await gate.manager.create_session(ME, NewSession(id="s"))
        line = b'{"type":"custom","name":"n","value":"%s"}' % (b"x" * 300)

        async def lines() -> Any:
            for _ in range(50):
                yield [line]
                # What is on its way does not count yet.
                await eventually(lambda: not gate.live().is_storing)

        with pytest.raises(LimitReached) as caught:
            await gate.manager.append_event_lines(ME, "s", lines())
        stored = [event for event in await gate.log("s") if event["type"] == "custom"]
        assert 1 < len(stored) < 20
        assert caught.value.extra["line"] == len(stored) + 1
        assert caught.value.extra["appended"]["count"] == len(stored)
        assert (await gate.store.usage()).stored_bytes < 2000 + 500


async def session_of_bob(gate: Gateway) -> str:
    made = await gate.manager.create_session(ME, NewSession(user_id=f"b{random.random()}"))
    name: str = made.answer["id"]
    return name


async def act(gate: Gateway, chance: random.Random, name: str, number: int) -> None:
    """Do one of all the things that change what is counted."""
    match chance.randrange(10):
        case 0:
            gate.store.fail_append(chance.randrange(1, 3))
            await chat(gate, name, "ann")
        case 1:
            await gate.manager.cancel_session(ME, name)
        case 2:
            await gate.manager.delete_session(ME, name)
        case 3:
            await gate.manager.create_session(ME, NewSession(id=name, user_id="bob"))
        case 4:
            await gate.finish_runs(name)
        case 5:
            gate.store.heal()
            gate.clock.seconds += gate.settings.idle_timeout_seconds + 1
            gate.manager._registry.evict_idle()
        case 6:
            (await gate.reader(name)).close()
        case 7:
            await gate.manager.open_run(ME, name, f"x{number}")
        case _:
            await chat(gate, name, "ann", f"r{number}")


async def test_nothing_is_miscounted_whatever_fails() -> None:
    chance = random.Random(3)
    async with gateway(max_active_runs_per_user=4, max_queued_runs_per_user=5) as gate:
        for number in range(300):
            with suppress(BambooError):
                await act(gate, chance, f"s-{chance.randrange(8)}", number)
            await quiet()
            assert counted(gate) | expected(gate) == counted(gate), number
        gate.store.heal()
        for number in range(8):
            try:
                await gate.manager.cancel_session(ME, f"s-{number}")
            except BambooError:
                continue
        await eventually(lambda: counted(gate)["_runs"] == (0, {}))
        assert counted(gate)["_queued"] == (0, {})
        assert counted(gate)["_places"] == (0, {})
