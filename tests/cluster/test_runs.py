"""Runs of several processes over one store: one executor each, one end each, executed once."""

import json
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from typing import Any, NamedTuple

import anyio
import anyio.lowlevel
import pytest

from bamboo_gateway.domain.clock import format_ms
from bamboo_gateway.domain.errors import BambooError, MessageExists, Refused, StorageFailed
from bamboo_gateway.domain.events import (
    TERMINAL_TYPES,
    Complete,
    InputRequired,
    Token,
)
from bamboo_gateway.sessions.commands import Chat, Idempotency, NewMessage, NewSession
from bamboo_gateway.sessions.runs.inputs import Inputs
from bamboo_gateway.sessions.streaming.session_writer import Vanished
from tests.sessions.test_titles import Titler
from tests.support.agents import RETURN, ScriptedAgent
from tests.support.clocks import T0_MS, FakeClock
from tests.support.gateways import DEADLINE_SECONDS, ME, Gateway, eventually, gateway, quiet
from tests.support.shared_memory import SharedMemory, SharedStore


class Two(NamedTuple):
    """Two processes over one store.

    Attributes:
        a: One of them, known as `a`.
        b: The other one.
        memory: Their store.
        clock: Their clock.
    """

    a: Gateway
    b: Gateway
    memory: SharedMemory
    clock: FakeClock

    @property
    def asked(self) -> list[str]:
        """The runs for which an agent was asked, in whatever process."""
        return sorted(self.a.agent.asked + self.b.agent.asked)

    async def ends(self, run_id: str | None = None) -> list[tuple[str, str]]:
        """Return the terminal events of the log: type, and code or reason."""
        return [
            (event["type"], event.get("code") or event.get("reason") or "")
            for event in await self.a.log()
            if event["type"] in TERMINAL_TYPES and run_id in (None, event["run_id"])
        ]

    async def said(self) -> list[tuple[str, Any]]:
        """Return the messages of the log."""
        log = [event["message"] for event in await self.a.log() if event["type"] == "message"]
        return [(message["role"], message["content"]) for message in log]

    async def renew(self) -> None:
        """Let a renewal of each process pass, and what it begins."""
        self.memory.renew()
        await quiet()


@asynccontextmanager
async def two(agents_of_b: dict[str, Any] | None = None, **settings: Any) -> AsyncIterator[Two]:
    clock = FakeClock()
    memory = SharedMemory(clock)
    async with (
        gateway(await memory.store("a"), clock=clock, **settings) as a,
        gateway(await memory.store("b"), clock=clock, **{**settings, **(agents_of_b or {})}) as b,
        anyio.create_task_group() as tasks,
    ):
        tasks.start_soon(_follow, a)
        tasks.start_soon(_follow, b)
        yield Two(a, b, memory, clock)
        memory.dead.clear()
        for one in (a, b):
            one.store.heal()
            one.store.release_appends()
        tasks.cancel_scope.cancel()


async def _follow(gate: Gateway) -> None:
    """Look at the sessions in memory again and again, as a process does that polls."""
    while True:
        for writer in gate.manager._registry.sessions:
            if not writer.is_idle and writer.is_ready:
                with suppress(Vanished):
                    await gate.manager._registry.confirm(writer)
        await anyio.lowlevel.checkpoint()


async def begun(both: Two, gate: Gateway, run_id: str = "r", *said: str) -> None:
    """Begin a run, and let it say something."""
    await gate.chat(run_id=run_id)
    await gate.agent.script(run_id).started.wait()
    for text in said:
        gate.agent.do(run_id, Token(text))
    await quiet()
    assert both.memory.head("s").active is not None


async def test_the_stored_head_names_the_process_that_executes_a_run() -> None:
    async with two() as both:
        await begun(both, both.a)
        active = both.memory.head("s").active
        assert active is not None
        assert active.executor == "a"
        both.a.agent.do("r", Complete())
        await both.b.ended("r")
        assert both.asked == ["r"]


async def test_a_cancel_at_another_process_ends_the_run_once() -> None:
    async with two() as both:
        await begun(both, both.a, "r", "Let me ")
        with anyio.fail_after(DEADLINE_SECONDS):
            cancelled = (await both.b.manager.cancel_run(ME, "s", "r")).answer
        assert cancelled["status"] == "cancelled"
        assert "cancel_requested" not in cancelled
        assert both.a.agent.script("r").was_cancelled
        assert await both.ends() == [("cancelled", "cancelled by the client")]
        assert (await both.said())[-1] == ("assistant", "Let me ")
        for gate in (both.a, both.b):
            assert (await gate.manager.run(ME, "s", "r"))["status"] == "cancelled"


async def test_a_run_that_speaks_all_the_time_sees_the_wish_and_loses_nothing_it_said() -> None:
    async with two() as both:
        await begun(both, both.a)
        texts = [f"{number} " for number in range(200)]
        async with anyio.create_task_group() as tasks:

            async def speak() -> None:
                for text in texts:
                    both.a.agent.do("r", Token(text))
                    await anyio.lowlevel.checkpoint()

            tasks.start_soon(speak)
            await quiet()
            await both.b.manager.cancel_run(ME, "s", "r")
        assert await both.ends() == [("cancelled", "cancelled by the client")]
        tokens = [event["content"] for event in await both.a.log() if event["type"] == "token"]
        said = "".join(tokens)
        assert "".join(texts).startswith(said)
        assert (await both.said())[-1] == ("assistant", said)


async def test_cancelling_the_session_elsewhere_ends_queued_runs_and_the_active_one() -> None:
    async with two() as both:
        await begun(both, both.a)
        await both.a.chat(run_id="q1")
        await both.b.chat(run_id="q2")
        with anyio.fail_after(DEADLINE_SECONDS):
            answer = (await both.b.manager.cancel_session(ME, "s")).answer
        assert [(run["run_id"], run["status"]) for run in answer["runs"]] == [
            ("q1", "cancelled"),
            ("q2", "cancelled"),
            ("r", "cancelled"),
        ]
        assert both.asked == ["r"]


async def test_an_interrupt_at_another_process_ends_the_run_and_starts_its_own_once() -> None:
    async with two() as both:
        await begun(both, both.a, "r", "Let me ")
        await both.b.chat(text="no, stop", run_id="i", on_busy="interrupt")
        await eventually(lambda: "i" in both.asked)
        assert await both.ends("r") == [("cancelled", "interrupted by a newer message")]
        for gate in (both.a, both.b):
            gate.agent.do("i", Complete())
        await both.b.ended("i")
        assert both.asked == ["i", "r"]


async def test_messages_stored_at_another_process_beside_a_run_are_kept_and_the_run_goes_on() -> (
    None
):
    async with two() as both:
        await begun(both, both.a, "r", "One ")
        both.a.store.hold_appends()
        both.a.agent.do("r", Token("two "), Token("three"))
        await quiet()
        await both.b.manager.append_events(
            ME, "s", [{"type": "custom", "name": "note", "value": 1}], None
        )
        both.a.store.release_appends()
        both.a.agent.do("r", Complete())
        await both.b.ended("r")
        assert await both.said() == [("user", "hi"), ("assistant", "One two three")]
        assert await both.ends() == [("complete", "")]
        seqs = [event["seq"] for event in await both.a.log()]
        assert seqs == list(range(1, len(seqs) + 1))


async def test_a_run_whose_end_is_refused_with_the_start_behind_it_loses_no_word() -> None:
    async with two() as both:
        await begun(both, both.a, "r", "One ")
        both.a.store.hold_appends()
        both.a.agent.do("r", Token("two "))
        await quiet()
        both.a.agent.do("r", Token("three"), Complete())
        await eventually(lambda: both.a.live().head.active is None)
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(lambda: both.a.chat(text="next", run_id="n"))
            await eventually(lambda: both.a.live().active_run_id == "n")
            event = {"type": "custom", "name": "note", "value": 1}
            await both.b.manager.append_events(ME, "s", [event], None)
            both.a.store.release_appends()
        both.a.agent.do("n", Complete())
        await both.b.ended("n")
        tokens = [event["content"] for event in await both.a.log() if event["type"] == "token"]
        assert "".join(tokens) == "One two three"
        assert (await both.said())[1] == ("assistant", "One two three")
        assert await both.ends() == [("complete", ""), ("complete", "")]
        assert both.asked == ["n", "r"]


async def test_the_run_of_a_dead_process_is_closed_once_and_the_queue_goes_on() -> None:
    async with two() as both:
        await begun(both, both.a, "r", "Let me ")
        await both.b.chat(run_id="q")
        both.memory.kill("a")
        await both.renew()
        assert await both.ends("r") == [("error", "interrupted")]
        [_, incomplete, *_] = await both.said()
        assert incomplete == ("assistant", "Let me ")
        await eventually(lambda: both.b.agent.asked == ["q"])
        both.b.agent.do("q", Complete())
        await both.b.ended("q")
        await both.renew()
        assert await both.ends("r") == [("error", "interrupted")]
        assert both.asked == ["q", "r"]


async def test_a_cancel_of_a_dead_processs_run_closes_it_at_once() -> None:
    async with two() as both:
        await begun(both, both.a)
        both.memory.kill("a")
        with anyio.fail_after(DEADLINE_SECONDS):
            cancelled = (await both.b.manager.cancel_run(ME, "s", "r")).answer
        assert cancelled["status"] == "interrupted"
        assert await both.ends() == [("error", "interrupted")]


async def test_a_process_that_was_taken_for_dead_says_nothing_more_of_the_closed_run() -> None:
    async with two() as both:
        await begun(both, both.a, "r", "Let me ")
        both.memory.take_for_dead("a")
        await both.renew()
        log = await both.a.log()
        both.a.agent.do("r", Token("look"), Complete())
        await eventually(lambda: both.a.agent.script("r").finished.is_set())
        await quiet()
        assert await both.a.log() == log
        assert await both.ends() == [("error", "interrupted")]
        assert both.a.live().run is None


async def test_a_run_is_not_closed_when_its_process_turns_out_to_live() -> None:
    async with two() as both:
        await begun(both, both.a, "r", "Let me ")
        both.b.store.hold_appends()
        both.memory.take_for_dead("a")
        await both.renew()
        await eventually(lambda: both.b.store.held == 1)
        both.memory.dead.clear()
        both.b.store.release_appends()
        await quiet()
        assert await both.ends() == []
        both.a.agent.do("r", Token("look"), Complete())
        await both.b.ended("r")
        assert (await both.said())[-1] == ("assistant", "Let me look")
        assert await both.ends() == [("complete", "")]


async def test_a_process_that_lost_its_name_ends_its_runs_and_begins_new_ones() -> None:
    async with two() as both:
        await begun(both, both.a, "r", "Let me ")
        assert isinstance(both.a.store, SharedStore)
        both.a.store.shared.lose("a2")
        await eventually(lambda: both.a.agent.script("r").finished.is_set())
        await quiet()
        await both.renew()
        assert await both.ends() == [("error", "interrupted")]
        await both.a.chat(run_id="r2")
        active = both.memory.head("s").active
        assert active is not None
        assert active.executor == "a2"
        both.a.agent.do("r2", Complete())
        await both.b.ended("r2")


async def test_a_start_whose_answer_was_lost_is_closed_and_never_executed() -> None:
    async with two() as both:
        await both.a.manager.create_session(ME, NewSession(id="s"))
        both.a.store.lie_about_append()
        with pytest.raises(StorageFailed):
            await both.a.chat(run_id="r")
        await quiet()
        await both.renew()
        assert await both.ends() == [("error", "interrupted")]
        assert both.asked == []


async def test_a_creation_whose_answer_was_lost_is_closed_as_well() -> None:
    async with two() as both:
        both.a.store.lie_about_append()
        with pytest.raises(BambooError):
            await both.a.chat(run_id="r")
        await quiet()
        await both.renew()
        assert await both.ends() == [("error", "interrupted")]
        assert both.asked == []


async def test_a_run_whose_start_is_on_its_way_is_not_tidied() -> None:
    async with two() as both:
        both.a.store.hold_acks()
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(lambda: both.a.chat(run_id="r"))
            await eventually(lambda: both.a.store.held == 1)
            await both.renew()
            both.a.store.release_acks()
            await both.a.agent.script("r").started.wait()
        await both.renew()
        assert await both.ends() == []
        both.a.agent.do("r", Complete())
        await both.b.ended("r")


async def test_a_process_that_shuts_down_leaves_its_queue_to_the_others() -> None:
    async with two() as both:
        await begun(both, both.a)
        await both.b.chat(run_id="q")
        both.a.manager.begin_drain()
        both.a.agent.do("r", Complete())
        await both.b.ended("r")
        await both.renew()
        assert both.asked == ["r"]
        await both.renew()
        await eventually(lambda: both.b.agent.asked == ["q"])
        both.b.agent.do("q", Complete())
        await both.a.ended("q")
        assert both.asked == ["q", "r"]


async def test_two_processes_that_see_a_queue_start_its_run_once() -> None:
    async with two() as both:
        async with gateway(await both.memory.store("c"), clock=both.clock) as third:
            await begun(both, third)
            await both.a.chat(run_id="q")
            third.manager.begin_drain()
            third.agent.do("r", Complete())
            await both.a.ended("r")
        await both.renew()
        await both.renew()
        await eventually(lambda: both.asked == ["q"])
        await both.renew()
        assert both.asked == ["q"]


async def test_a_queued_run_waits_for_a_process_that_has_its_agent() -> None:
    other = ScriptedAgent()
    async with two(agents_of_b={"agents": {"other": other}}) as both:
        await begun(both, both.a)
        await both.b.chat(run_id="q", agent="other")
        both.a.agent.do("r", Complete())
        await both.b.ended("r")
        await quiet()
        assert await both.ends("q") == []
        await both.renew()
        await both.renew()
        await eventually(lambda: other.asked == ["q"])
        other.do("q", Complete())
        await both.a.ended("q")
        assert await both.ends("q") == [("complete", "")]


async def test_waiting_for_a_run_of_another_process_returns_its_answer() -> None:
    async with two() as both:
        await begun(both, both.a)
        async with anyio.create_task_group() as tasks:

            async def finish() -> None:
                await quiet()
                both.a.agent.do("r", Token("Done."), Complete())

            tasks.start_soon(finish)
            with anyio.fail_after(DEADLINE_SECONDS):
                waited = await both.b.manager.wait_run(ME, "s", "r", 2 * DEADLINE_SECONDS)
        assert waited.ended
        assert waited.message is not None
        assert waited.message["content"] == "Done."


async def test_answers_at_another_process_start_the_next_run_there_once() -> None:
    async with two() as both:
        both.a.agent.do("r", InputRequired("Pay?", request_id="q1"), RETURN)
        await both.a.chat(run_id="r")
        await both.b.ended("r")
        both.b.agent.do("r2", Token("Thanks."), RETURN)
        await both.b.manager.answer_inputs(ME, "s", Inputs({"q1": "yes"}, run_id="r2"), None)
        await both.a.ended("r2")
        turn = both.b.agent.script("r2").turn
        assert turn is not None
        assert turn.answers["q1"].value == "yes"
        again = Inputs({"q1": "yes"}, run_id="r3")
        taken = (await both.a.manager.answer_inputs(ME, "s", again, None)).answer
        assert taken["run_id"] == "r2"
        assert both.asked == ["r", "r2"]


async def test_a_request_expires_once_also_when_the_process_that_asked_is_dead() -> None:
    async with two() as both:
        asked = InputRequired("Pay?", request_id="q1", expires_at=format_ms(T0_MS + 60_000))
        both.a.agent.do("r", asked, RETURN)
        await both.a.chat(run_id="r")
        await both.b.ended("r")
        both.memory.kill("a")
        both.clock.advance(61)
        await both.renew()
        await eventually(lambda: len(both.b.agent.asked) == 1)
        closed = [event for event in await both.a.log() if event["type"] == "input_closed"]
        assert [(event["request_id"], event["reason"]) for event in closed] == [("q1", "expired")]


async def test_an_external_run_is_fed_at_any_process_and_its_messages_are_whole() -> None:
    async with two() as both:
        await both.a.manager.create_session(ME, NewSession(id="s"))
        await both.b.manager.open_run(ME, "s", "x")
        for number in range(6):
            gate = (both.a, both.b)[number % 2]
            event = {"type": "token", "run_id": "x", "content": f"{number} "}
            await gate.manager.append_events(ME, "s", [event], None)
        await both.a.manager.append_events(ME, "s", [{"type": "complete", "run_id": "x"}], None)
        assert await both.said() == [("assistant", "0 1 2 3 4 5 ")]
        assert await both.ends() == [("complete", "")]


async def test_a_repeat_that_races_its_first_try_at_another_process_gets_the_same_answer(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async with two() as both:
        await both.a.manager.create_session(ME, NewSession(id="s"))
        await both.a.manager.open_run(ME, "s", "x")
        events = [{"type": "complete", "run_id": "x"}]
        idem = Idempotency("k", "POST /events", "body")
        firsts: list[Any] = []
        assert isinstance(both.b.store, SharedStore)
        present = both.b.store.shared.present

        async def answered_meanwhile(kind: str, session_ids: Any) -> Any:
            monkeypatch.undo()
            firsts.append(await both.a.manager.append_events(ME, "s", events, idem))
            await both.b.manager._registry.confirm(both.b.live())
            return await present(kind, session_ids)

        # Behind the look for an answer, and before the look at the run.
        monkeypatch.setattr(both.b.store.shared, "present", answered_meanwhile)
        again = await both.b.manager.append_events(ME, "s", events, idem)
        assert again.replayed
        assert [again.answer] == [first.answer for first in firsts]


async def test_a_repeated_chat_that_races_its_first_try_gets_the_same_run(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async with two() as both:
        await both.a.manager.create_session(ME, NewSession(id="s"))
        find = both.b.store.find
        firsts: list[Any] = []

        async def answered_meanwhile(*args: Any, **named: Any) -> Any:
            if args[2] == "run":
                monkeypatch.undo()
                firsts.append(await both.a.chat(run_id="r", key="k"))
            return await find(*args, **named)

        monkeypatch.setattr(both.b.store, "find", answered_meanwhile)
        assert [await both.b.chat(run_id="r", key="k")] == firsts
        assert both.asked == ["r"]


def _read_late(
    both: Two, monkeypatch: pytest.MonkeyPatch, meanwhile: Callable[[], Awaitable[None]]
) -> None:
    """Let something happen behind the last read of a run's events, before its result is seen."""
    read = both.b.store.read

    async def late(*args: Any, **named: Any) -> Any:
        records = await read(*args, **named)
        if not records and both.b.store.read == late:
            monkeypatch.undo()
            await meanwhile()
            await both.b.manager._registry.confirm(both.b.live())
        return records

    monkeypatch.setattr(both.b.store, "read", late)


async def test_what_is_posted_elsewhere_while_the_messages_are_read_is_not_missing_in_them(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async with two() as both:
        await both.a.manager.create_session(ME, NewSession(id="s"))
        await both.a.manager.open_run(ME, "s", "x")

        async def post(gate: Gateway, text: str) -> None:
            event = {"type": "token", "run_id": "x", "content": text}
            await gate.manager.append_events(ME, "s", [event], None)

        await post(both.a, "one ")
        await both.b.manager.get_session(ME, "s")
        _read_late(both, monkeypatch, lambda: post(both.a, "two "))
        await post(both.b, "three")
        await both.b.manager.append_events(ME, "s", [{"type": "complete", "run_id": "x"}], None)
        assert await both.said() == [("assistant", "one two three")]


async def test_what_a_dying_process_says_while_its_run_is_closed_is_in_the_last_message(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async with two() as both:
        await begun(both, both.a, "r", "one ")

        async def speak() -> None:
            both.a.agent.do("r", Token("two"))
            await quiet()

        both.memory.take_for_dead("a")
        _read_late(both, monkeypatch, speak)
        await both.renew()
        await eventually(both.ends)
        assert await both.ends() == [("error", "interrupted")]
        assert (await both.said())[-1] == ("assistant", "one two")


async def test_an_external_run_is_cancelled_at_any_process() -> None:
    async with two() as both:
        await both.a.manager.create_session(ME, NewSession(id="s"))
        await both.a.manager.open_run(ME, "s", "x")
        event = {"type": "token", "run_id": "x", "content": "half"}
        await both.a.manager.append_events(ME, "s", [event], None)
        with anyio.fail_after(DEADLINE_SECONDS):
            cancelled = (await both.b.manager.cancel_run(ME, "s", "x")).answer
        assert cancelled["status"] == "cancelled"
        assert await both.said() == [("assistant", "half")]


async def test_a_silent_external_run_is_ended_once_and_posts_elsewhere_keep_it_open() -> None:
    async with two(external_run_timeout_seconds=100) as both:
        await both.a.manager.create_session(ME, NewSession(id="s"))
        await both.a.manager.open_run(ME, "s", "x")
        both.clock.advance(90)
        event = {"type": "token", "run_id": "x", "content": "half"}
        await both.b.manager.append_events(ME, "s", [event], None)
        both.clock.advance(90)
        both.a.manager._external.end_silent()
        await both.renew()
        assert await both.ends() == []
        both.clock.advance(20)
        await both.renew()
        await both.renew()
        assert await both.ends() == [("error", "timeout")]


async def _lines(*events: dict[str, Any], then: anyio.Event) -> AsyncIterator[list[bytes]]:
    for event in events:
        yield [json.dumps(event).encode()]
    await then.wait()
    yield [json.dumps({"type": "complete", "run_id": "x"}).encode()]


async def test_a_run_has_one_streamed_producer_among_all_processes() -> None:
    async with two() as both:
        await both.a.manager.create_session(ME, NewSession(id="s"))
        await both.a.manager.open_run(ME, "s", "x")
        may_end = anyio.Event()
        event = {"type": "token", "run_id": "x", "content": "one "}
        async with anyio.create_task_group() as tasks:
            lines = _lines(event, then=may_end)
            tasks.start_soon(both.a.manager.append_event_lines, ME, "s", lines, None)
            await eventually(lambda: both.memory.presences)
            with pytest.raises(Refused) as refused:
                await both.b.manager.append_events(ME, "s", [event], None)
            assert refused.value.code == "append-in-progress"
            ended = anyio.Event()
            ended.set()
            with pytest.raises(Refused) as refused:
                await both.b.manager.append_event_lines(ME, "s", _lines(event, then=ended), None)
            assert refused.value.code == "append-in-progress"
            may_end.set()
        assert await both.said() == [("assistant", "one ")]
        assert not both.memory.presences


async def test_the_producer_of_a_dead_process_gives_way() -> None:
    async with two() as both:
        await both.a.manager.create_session(ME, NewSession(id="s"))
        await both.a.manager.open_run(ME, "s", "x")
        may_end = anyio.Event()
        event = {"type": "token", "run_id": "x", "content": "one "}
        async with anyio.create_task_group() as tasks:
            lines = _lines(event, then=may_end)
            tasks.start_soon(both.a.manager.append_event_lines, ME, "s", lines, None)
            await eventually(lambda: both.memory.presences)
            both.memory.kill("a")
            both.b.clock.advance(1)
            end = {"type": "complete", "run_id": "x"}
            await both.b.manager.append_events(ME, "s", [end], None)
            tasks.cancel_scope.cancel()
        assert await both.said() == [("assistant", "one ")]


async def test_a_title_is_asked_for_once() -> None:
    titlers = (Titler(), Titler())
    clock = FakeClock()
    memory = SharedMemory(clock)
    titles: dict[str, Any] = {"titles": "agent:titler", "clock": clock}
    async with (
        gateway(await memory.store("a"), agents={"titler": titlers[0]}, **titles) as a,
        gateway(await memory.store("b"), agents={"titler": titlers[1]}, **titles) as b,
    ):
        titlers[0].may_answer = anyio.Event()
        a.agent.do("r", Token("With flour."), Complete())
        await a.chat(run_id="r", text="How do I bake bread?")
        await eventually(lambda: titlers[0].turns)
        b.manager._titles._ask_later("s")
        await quiet()
        assert titlers[1].turns == []
        titlers[0].may_answer.set()
        await eventually(lambda: memory.head("s").title == "A fine title")
        await quiet()
        assert await a.store.inner.values("untitled") == []
        assert not memory.presences


async def test_an_id_of_a_message_that_another_process_is_making_is_taken() -> None:
    async with two() as both:
        await begun(both, both.a, "r", "Let me ")
        [making] = {event["message_id"] for event in await both.a.log() if event["type"] == "token"}
        chat = Chat(NewSession(id="s"), [NewMessage("user", "again", id=making)])
        with pytest.raises(MessageExists):
            await both.b.manager.chat(ME, chat, None)
        fresh = Chat(NewSession(id="s"), [NewMessage("user", "again", id="m-fresh")])
        assert (await both.b.manager.chat(ME, fresh, None)).answer["status"] == "queued"
