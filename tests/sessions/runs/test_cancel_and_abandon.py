"""R5 under stress: cancelled anywhere, by anybody, or not to be stopped at all."""

import asyncio
from collections.abc import AsyncIterator, Callable
from typing import Any

import anyio
import pytest
from typing_extensions import override

from bamboo_gateway.agents.base import Agent, Turn
from bamboo_gateway.agents.python import PythonAgent
from bamboo_gateway.domain.errors import LimitReached, StorageFull, Unavailable
from bamboo_gateway.domain.events import (
    TERMINAL_TYPES,
    AgentEvent,
    Complete,
    Thinking,
    Token,
    ToolComplete,
    ToolResult,
    ToolStart,
)
from bamboo_gateway.sessions.commands import Chat, NewMessage, NewSession
from bamboo_gateway.sessions.runs import cancellation
from bamboo_gateway.sessions.streaming.session_writer import SessionWriter
from tests.domain.histories import accepted_by_upstreams
from tests.support.gateways import DEADLINE_SECONDS, ME, Gateway, eventually, gateway, quiet


async def ends(gate: Gateway, session_id: str = "s") -> dict[str, list[str]]:
    """The terminal events of each run."""
    found: dict[str, list[str]] = {}
    for event in await gate.log(session_id):
        if event["type"] in TERMINAL_TYPES:
            found.setdefault(event["run_id"], []).append(event["type"])
    return found


PLACES: dict[str, list[AgentEvent]] = {
    "before its first event": [],
    "thinking": [Thinking("hm")],
    "in mid-sentence": [Token("It "), Token("is")],
    "with a call begun": [Token("Look"), ToolStart("a", "t")],
    "between two results": [
        *[ToolStart("a", "t"), ToolStart("b", "t")],
        ToolComplete("b", ToolResult(True, 1)),
    ],
    "after a result": [ToolStart("a", "t"), ToolComplete("a", ToolResult(True, 1)), Token("So")],
}


@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize("how", ["run", "session", "twice", "interrupt", "delete"])
async def test_a_run_cancelled_anywhere_ends_once(place: str, how: str, gate: Gateway) -> None:
    await gate.chat(run_id="r")
    gate.agent.do("r", *PLACES[place])
    script = gate.agent.script("r")
    await script.started.wait()
    await eventually(lambda: script.taken == len(PLACES[place]))
    await quiet()
    with anyio.fail_after(DEADLINE_SECONDS):
        match how:
            case "run":
                await gate.manager.cancel_run(ME, "s", "r")
            case "session":
                await gate.manager.cancel_session(ME, "s")
            case "twice":
                async with anyio.create_task_group() as tasks:
                    tasks.start_soon(gate.manager.cancel_run, ME, "s", "r")
                    tasks.start_soon(gate.manager.cancel_run, ME, "s", "r")
            case "interrupt":
                await gate.chat(run_id="next", on_busy="interrupt")
                gate.agent.do("next", Complete())
                await gate.ended("next")
            case _:
                await gate.manager.delete_session(ME, "s")
        await script.finished.wait()
    assert script.was_cancelled
    if how != "delete":
        assert (await ends(gate))["r"] == ["cancelled"]
        accepted_by_upstreams(await gate.messages())
    await quiet()
    assert gate.leftovers() == []


async def test_a_run_is_cancelled_by_the_clients_own_name_before_its_chat_was_answered() -> None:
    async with gateway() as gate:
        gate.store.hold_appends()
        answers: list[Any] = []
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(gate.chat, "new", "hi", "mine")
            await eventually(lambda: gate.store.held)

            async def cancel() -> None:
                answers.append((await gate.manager.cancel_run(ME, "new", "mine")).answer)

            tasks.start_soon(cancel)
            await quiet()
            assert not answers, "R1: nothing is durable yet"
            gate.store.release_appends()
        assert answers[0]["status"] == "cancelled"
        assert await ends(gate, "new") == {"mine": ["cancelled"]}


async def test_a_hundred_runs_wait_and_the_next_is_told_when_to_come_back(gate: Gateway) -> None:
    await gate.chat(run_id="r")
    for number in range(100):
        answer = await gate.chat(run_id=f"q{number}")
        assert answer["status"] == "queued"
    for on_busy in ("enqueue", "interrupt"):
        with pytest.raises(LimitReached) as caught:
            await gate.chat(run_id="over", on_busy=on_busy)
        assert (caught.value.code, caught.value.retry_after_seconds) == ("too-many-queued-runs", 5)
    for run_id in ("r", *(f"q{number}" for number in range(100))):
        gate.agent.do(run_id, Complete())
    await gate.ended("q99")
    assert gate.agent.asked == ["r", *(f"q{number}" for number in range(100))]
    assert set(map(tuple, (await ends(gate)).values())) == {("complete",)}


async def test_interrupts_that_race_leave_one_end_each_and_the_last_one_runs(gate: Gateway) -> None:
    await gate.chat(run_id="r")
    gate.agent.do("r", Token("half"))
    await eventually(lambda: gate.agent.script("r").taken == 1)
    names = [f"i{number}" for number in range(10)]
    for name in names:
        gate.agent.do(name, Complete())
    with anyio.fail_after(DEADLINE_SECONDS):
        async with anyio.create_task_group() as tasks:
            for name in names:
                tasks.start_soon(gate.chat, "s", "hi", name, "interrupt")
        for name in names:
            await gate.ended(name)
    found = await ends(gate)
    assert found["r"] == ["cancelled"]
    assert all(len(found[name]) == 1 for name in names)
    assert any(found[name] == ["complete"] for name in names)
    await quiet()
    assert gate.leftovers() == []


@pytest.mark.parametrize("how", ["run", "session"])
async def test_a_cancel_is_refused_soon_while_the_store_takes_no_writes(how: str) -> None:
    away = Unavailable("The database is away.", code="away", retry_after_seconds=2)
    # Longer than the test may take.
    async with gateway(cancel_timeout_seconds=10 * DEADLINE_SECONDS) as gate:
        await gate.chat(run_id="r")
        script = gate.agent.script("r")
        await script.started.wait()
        # The outcome of a commit is unknown, as of one whose answer was lost.
        gate.store.hold_appends()
        gate.agent.do("r", Token("half"))
        await eventually(lambda: gate.store.held)
        gate.store.known_refusal = away
        with anyio.fail_after(DEADLINE_SECONDS), pytest.raises(Unavailable) as error:
            await (
                gate.manager.cancel_run(ME, "s", "r")
                if how == "run"
                else gate.manager.cancel_session(ME, "s")
            )
        assert (error.value.code, error.value.retry_after_seconds) == ("away", 2)
        # The agent has stopped, and the end is stored when that is possible.
        await script.finished.wait()
        gate.store.known_refusal = None
        gate.store.release_appends()
        assert (await gate.ended("r"))["status"] == "cancelled"
        assert await ends(gate) == {"r": ["cancelled"]}


async def test_a_cancel_with_a_full_disk_waits_for_the_end_that_has_a_reserve() -> None:
    async with gateway() as gate:
        await gate.chat(run_id="r")
        await gate.agent.script("r").started.wait()
        gate.store.known_refusal = StorageFull("The disk is full.")
        gate.store.hold_appends()
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(gate.manager.cancel_run, ME, "s", "r")
            await eventually(lambda: gate.store.held)
            # Longer than the call looks for a refusal.
            await anyio.sleep(2 * cancellation._LOOK_SECONDS)
            gate.store.release_appends()
        assert await ends(gate) == {"r": ["cancelled"]}


# -- agents that do not stop ----------------------------------------------------------------------


class Stubborn(Agent):
    """Swallows every cancellation, and goes on talking once it is let."""

    def __init__(self) -> None:
        self.released = asyncio.Event()
        self.ended = asyncio.Event()
        self.cancelled = 0
        self.turns: list[Turn] = []

    @override
    async def run(self, turn: Turn) -> AsyncIterator[AgentEvent]:
        self.turns.append(turn)
        try:
            yield Token("half")
            while not self.released.is_set():
                try:
                    await self.released.wait()
                except asyncio.CancelledError:
                    self.cancelled += 1
            yield Token(" and a late word")
        finally:
            self.ended.set()


async def test_an_agent_that_ignores_its_cancellation_is_left_behind_and_says_nothing_more() -> (
    None
):
    agent = Stubborn()
    async with gateway(agents={"stubborn": agent}, agent_abandon_seconds=0.5) as gate:
        await gate.chat(run_id="r", agent="stubborn")
        await eventually(lambda: agent.turns)
        with anyio.fail_after(DEADLINE_SECONDS):
            run = (await gate.manager.cancel_run(ME, "s", "r")).answer
        assert run["status"] == "cancelled"
        assert agent.turns[0].cancelled.is_set()
        assert agent.cancelled > 1
        # The session goes on while the agent still hangs.
        await gate.chat(run_id="next")
        gate.agent.do("next", Token("fine"), Complete())
        await gate.ended("next")
        before = await gate.log()
        agent.released.set()
        with anyio.fail_after(DEADLINE_SECONDS):
            await agent.ended.wait()
        await quiet()
        assert await gate.log() == before
        assert await ends(gate) == {"r": ["cancelled"], "next": ["complete"]}
        assert gate.leftovers() == []


async def test_a_chat_that_interrupts_a_stubborn_agent_gets_its_turn() -> None:
    agent = Stubborn()
    async with gateway(agents={"stubborn": agent}, agent_abandon_seconds=0.05) as gate:
        await gate.chat(run_id="r", agent="stubborn")
        await eventually(lambda: agent.turns)
        await gate.chat(run_id="next", on_busy="interrupt")
        gate.agent.do("next", Complete())
        await gate.ended("next")
        assert await ends(gate) == {"r": ["cancelled"], "next": ["complete"]}
        agent.released.set()
        await agent.ended.wait()


async def test_the_gateway_stops_though_an_agent_does_not() -> None:
    """R11: its run is closed all the same, and the loop does not wait for it."""
    agent = Stubborn()
    with anyio.fail_after(DEADLINE_SECONDS):
        # The half of it is what the run has for its end once the agent was left behind.
        async with gateway(agents={"stubborn": agent}, cancel_timeout_seconds=1) as gate:
            await gate.chat(run_id="r", agent="stubborn")
            await eventually(lambda: agent.turns)
    assert [event["type"] for event in await gate.log()][-1] == "error"
    assert await ends(gate) == {"r": ["error"]}
    assert not any("agent r" in task.get_name() for task in asyncio.all_tasks())
    agent.released.set()
    await agent.ended.wait()


async def test_the_gateway_stops_though_the_agent_of_a_deleted_session_does_not() -> None:
    agent = Stubborn()
    with anyio.fail_after(DEADLINE_SECONDS):
        async with gateway(agents={"stubborn": agent}, cancel_timeout_seconds=0.1) as gate:
            await gate.chat(run_id="r", agent="stubborn")
            await eventually(lambda: agent.turns)
            await gate.manager.delete_session(ME, "s")
    agent.released.set()
    await agent.ended.wait()


async def test_deleting_the_session_leaves_a_stubborn_agent_too() -> None:
    agent = Stubborn()
    async with gateway(agents={"stubborn": agent}, agent_abandon_seconds=0.05) as gate:
        await gate.chat(run_id="r", agent="stubborn")
        await eventually(lambda: agent.turns)
        await gate.manager.delete_session(ME, "s")
        await gate.chat(run_id="r")
        gate.agent.do("r", Complete())
        await gate.ended("r")
        agent.released.set()
        await agent.ended.wait()
        await quiet()
        assert await ends(gate) == {"r": ["complete"]}
        assert "late" not in str(await gate.log())


# -- what agents raise ----------------------------------------------------------------------------


class Raising(Agent):
    """Says a word and raises."""

    def __init__(self, make: Callable[[], BaseException]) -> None:
        self._make = make

    @override
    async def run(self, turn: Turn) -> AsyncIterator[AgentEvent]:
        yield Token("a")
        raise self._make()


@pytest.mark.parametrize(
    "make",
    [
        asyncio.CancelledError,
        SystemExit,
        KeyboardInterrupt,
        lambda: GeneratorExit("out"),
        lambda: ExceptionGroup("both", [ValueError("x"), KeyError("y")]),
        lambda: BaseExceptionGroup("both", [SystemExit(1), asyncio.CancelledError()]),
        StopAsyncIteration,
        lambda: StopIteration(1),
        MemoryError,
        RecursionError,
    ],
)
async def test_whatever_an_agent_raises_only_its_run_ends(
    make: Callable[[], BaseException],
) -> None:
    async with gateway(agents={"raising": Raising(make)}) as gate:
        await gate.chat(run_id="r", agent="raising")
        run = await gate.ended("r")
        assert (run["status"], run["error"]["code"]) == ("failed", "agent_error")
        assert (await gate.messages())[-1]["content"] == "a"
        await gate.chat(run_id="next")
        gate.agent.do("next", Complete())
        assert (await gate.ended("next"))["status"] == "completed"
        assert await ends(gate) == {"r": ["error"], "next": ["complete"]}


# -- agents that talk too much --------------------------------------------------------------------


class Flood(Agent):
    """Yields the same event again and again, as fast as it is let, and counts."""

    def __init__(self, event: AgentEvent, count: int) -> None:
        self.event = event
        self.count = count
        self.given = 0

    @override
    async def run(self, turn: Turn) -> AsyncIterator[AgentEvent]:
        while self.given < self.count:
            self.given += 1
            yield self.event


@pytest.mark.parametrize("coalesce", [False, True])
async def test_a_flood_is_held_back_by_the_store_and_arrives_whole(coalesce: bool) -> None:
    flood = Flood(Token("word "), 90_000)
    flood.coalesce = coalesce
    async with gateway(agents={"flood": flood}) as gate:
        gate.store.hold_appends()

        async def chat() -> None:
            await gate.chat(run_id="r", agent="flood")

        async with anyio.create_task_group() as tasks:
            tasks.start_soon(chat)
            await eventually(lambda: gate.store.held)
            live: SessionWriter = gate.live()
            gate.store.release_appends()
            await eventually(lambda: flood.given > 100)
            gate.store.hold_appends()
            given = -1
            with anyio.fail_after(DEADLINE_SECONDS):
                while given != flood.given:
                    given = flood.given
                    await quiet()
            assert flood.given < 20_000, "it ran ahead of the disk without a bound"
            assert live.is_ahead
            gate.store.release_appends()
        await gate.ended("r")
        log = await gate.log()
        tokens = [event["content"] for event in log if event["type"] == "token"]
        assert "".join(tokens) == "word " * 90_000
        assert (len(tokens) == 90_000) is not coalesce
        said = [m["content"] for m in await gate.messages() if m["role"] == "assistant"]
        assert "".join(said) == "word " * 90_000
        assert await ends(gate) == {"r": ["complete"]}


async def test_others_are_served_while_an_agent_floods() -> None:
    flood = Flood(Token("word "), 1_000_000)
    async with gateway(agents={"flood": flood}) as gate:
        await gate.chat("loud", run_id="r", agent="flood")
        await eventually(lambda: flood.given > 100)
        await gate.chat("quiet", run_id="r")
        gate.agent.do("r", Complete())
        await gate.ended("r", "quiet")
        assert flood.given < flood.count
        assert (await gate.manager.cancel_run(ME, "loud", "r")).answer["status"] == "cancelled"


@pytest.mark.parametrize(
    "event",
    [
        Token("x" * 10_000_000),
        ToolStart("a", "t", {"x": "y" * 10_000_000}),
        Token("\x00" * 900_000),
    ],
)
async def test_an_event_over_the_bound_ends_the_run_and_not_the_session(event: AgentEvent) -> None:
    async with gateway(agents={"flood": Flood(event, 1)}) as gate:
        await gate.chat(run_id="r", agent="flood")
        run = await gate.ended("r")
        assert run["error"]["code"] == "invalid_event"
        assert "max_event_bytes" in run["error"]["message"]
        assert sum(len(str(line)) for line in await gate.log()) < 10_000
        await gate.chat(run_id="next")
        gate.agent.do("next", Complete())
        assert (await gate.ended("next"))["status"] == "completed"


async def test_ten_megabytes_of_sound_events_are_kept() -> None:
    async with gateway(agents={"flood": Flood(Token("x" * 500_000), 20)}) as gate:
        await gate.chat(run_id="r", agent="flood")
        assert (await gate.ended("r"))["status"] == "completed"
        said = [event["message"] for event in await gate.log() if event["type"] == "message"]
        assert sum(len(message["content"]) for message in said[1:]) == 10_000_000


async def test_a_thousand_runs_at_once_each_end_once() -> None:
    async with gateway(max_active_sessions=1000) as gate:
        async with anyio.create_task_group() as tasks:
            for number in range(1000):
                tasks.start_soon(gate.chat, f"s{number}", "hi", f"r{number}")
        assert (await gate.manager.stats())["runs_active"] == 1000
        for number in range(1000):
            gate.agent.do(f"r{number}", Token("Hel"), Token("lo"), Complete())
        for number in range(1000):
            assert (await gate.ended(f"r{number}", f"s{number}"))["status"] == "completed"
        for number in range(1000):
            assert await ends(gate, f"s{number}") == {f"r{number}": ["complete"]}
        await quiet()
        assert gate.leftovers() == []


async def test_code_that_swallows_its_cancellation_and_returns_is_cancelled_all_the_same() -> None:
    begun = anyio.Event()

    async def answer(turn: Turn) -> AsyncIterator[str]:
        yield "half"
        begun.set()
        try:
            await anyio.sleep_forever()
        except asyncio.CancelledError:
            return

    async with gateway(agents={"default": PythonAgent(answer)}) as gate:
        await gate.manager.chat(ME, Chat(NewSession(id="s"), [NewMessage("user", "x")], run_id="r"))
        with anyio.fail_after(DEADLINE_SECONDS):
            await begun.wait()
            run = (await gate.manager.cancel_run(ME, "s", "r")).answer
        assert run["status"] == "cancelled"
        assert (await gate.messages())[-1]["status"] == "incomplete"
