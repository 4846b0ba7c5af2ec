"""R5: every run ends in exactly one terminal event, whatever happens to it."""

import asyncio

import anyio
import pytest
from anyio.lowlevel import checkpoint

from bamboo_gateway.agents.base import AgentError
from bamboo_gateway.domain.errors import NotFound, StorageFailed, StorageFull
from bamboo_gateway.domain.events import (
    TERMINAL_TYPES,
    Cancelled,
    Complete,
    Custom,
    Failed,
    MessageSaid,
    Thinking,
    Token,
    ToolComplete,
    ToolError,
    ToolResult,
    ToolStart,
    Usage,
)
from bamboo_gateway.domain.message_assembler import MessageAssembler
from bamboo_gateway.sessions.answers import RunCancelled
from bamboo_gateway.sessions.commands import NewMessage, NewSession
from bamboo_gateway.storage.commits import Event
from tests.support.agents import RETURN, Step
from tests.support.gateways import DEADLINE_SECONDS, ME, Gateway, crash, eventually, gateway, quiet
from tests.support.stores import FaultyStore


async def terminals(gate: Gateway, session_id: str = "s") -> list[tuple[str, str]]:
    return [
        (event["run_id"], event["type"])
        for event in await gate.log(session_id)
        if event["type"] in TERMINAL_TYPES
    ]


ENDINGS: dict[str, tuple[list[Step], str, str | None]] = {
    "it returns": ([Token("a"), RETURN], "completed", None),
    "it says complete": ([Token("a"), Complete(Usage(1, 2, 3))], "completed", None),
    "it goes on after complete": ([Complete(), Token("late"), Complete()], "completed", None),
    "it says error": ([Token("a"), Failed("no", "refused")], "failed", "refused"),
    "it says cancelled": ([Token("a"), Cancelled("enough")], "cancelled", None),
    "it raises": ([Token("a"), ValueError("secret")], "failed", "agent_error"),
    "it raises an AgentError": ([AgentError("busy", code="upstream")], "failed", "upstream"),
    "it raises what only the gateway raises": ([NotFound("x")], "failed", None),
    "it gives a result without a call": (
        [Token("a"), ToolError("nowhere", "x")],
        "failed",
        "invalid_event",
    ),
    "it gives two results for a call": (
        [ToolStart("c", "t"), ToolError("c", "x"), ToolError("c", "y")],
        "failed",
        "invalid_event",
    ),
    "it yields what is no event": (["text"], "failed", "agent_error"),
    "it says what JSON cannot hold": ([Token("a"), Custom("x", object())], "failed", None),
    "its text is no Unicode": ([Token("a"), Token("\ud800")], "failed", None),
    "its arguments are no JSON": (
        [Token("a"), ToolStart("c", "t", {"n": 2**80})],
        "failed",
        None,
    ),
    "its result is too large": (
        [Token("a"), ToolStart("c", "t"), ToolComplete("c", ToolResult(True, "x" * 5000))],
        "failed",
        "invalid_event",
    ),
    "its text is too large": ([Token("a"), Token("x" * 5000)], "failed", "invalid_event"),
    "its message has no role": ([Token("a"), MessageSaid({})], "failed", "invalid_event"),
    "its message has bad calls": (
        [Token("a"), MessageSaid({"role": "assistant", "content": "", "tool_calls": [{"x": 1}]})],
        "failed",
        "invalid_event",
    ),
    "its message has bad parts": (
        [Token("a"), MessageSaid({"role": "assistant", "content": ["x"]})],
        "failed",
        "invalid_event",
    ),
    "its tool message comes out of turn": (
        [
            Token("a"),
            ToolStart("c1", "t"),
            ToolStart("c2", "t"),
            ToolError("c1", "x"),
            ToolStart("c3", "t"),
            MessageSaid({"role": "tool", "content": "z", "tool_call_id": "c3"}),
        ],
        "failed",
        "invalid_event",
    ),
    "its error is too long": ([Token("a"), Failed("x" * 9000)], "failed", None),
    "its error is no Unicode": ([Token("a"), Failed("\ud800")], "failed", None),
    "its usage is no JSON": ([Token("a"), Complete(Usage(2**80))], "failed", None),
    "a cancellation of its own escapes": (
        [Token("a"), asyncio.CancelledError()],
        "failed",
        "agent_error",
    ),
}


@pytest.mark.parametrize("ending", ENDINGS)
async def test_a_run_ends_once_however_its_agent_behaves(ending: str):
    """R5."""
    steps, status, code = ENDINGS[ending]
    async with gateway(max_event_bytes=4096) as gate:
        await gate.chat(run_id="r")
        gate.agent.do("r", *steps)
        run = await gate.ended("r")
        assert run["status"] == status
        if code is not None:
            assert run["error"]["code"] == code
        assert len(await terminals(gate)) == 1
        if steps[0] == Token("a"):
            assert any(said["content"] == "a" for said in await gate.messages()), "it was said"
        # The session and the gateway go on.
        await gate.chat(run_id="next")
        gate.agent.do("next", Complete())
        assert (await gate.ended("next"))["status"] == "completed"
        await quiet()
        assert gate.leftovers() == []


async def test_a_run_ends_even_when_its_message_cannot_be_assembled(
    gate: Gateway, monkeypatch: pytest.MonkeyPatch
):
    """R5, R10: a fault in between costs the words, not the end and not the gateway."""
    await gate.chat(run_id="r")
    monkeypatch.setattr(MessageAssembler, "end", lambda self, event: 1 / 0)
    gate.agent.do("r", Token("a"), Complete())
    assert (await gate.ended("r"))["status"] == "failed"
    monkeypatch.undo()
    await gate.chat(run_id="next")
    gate.agent.do("next", Complete())
    assert (await gate.ended("next"))["status"] == "completed"


async def test_what_an_agent_raises_is_not_shown(gate: Gateway):
    await gate.chat(run_id="r")
    gate.agent.do("r", ValueError("secret /etc/path"))
    run = await gate.ended("r")
    assert "secret" not in run["error"]["message"]


async def test_the_call_is_kept_when_its_result_is_too_large():
    """R5: what was said is kept, also what the refused event would have closed."""
    async with gateway(max_event_bytes=4096) as gate:
        await gate.chat(run_id="r")
        gate.agent.do(
            "r",
            Token("I look."),
            ToolStart("c", "look"),
            ToolComplete("c", ToolResult(True, "x" * 9000)),
        )
        await gate.ended("r")
        said = next(said for said in await gate.messages() if said["role"] == "assistant")
        assert said["content"] == "I look."
        assert [call["id"] for call in said["tool_calls"]] == ["c"]


# -- cancel -------------------------------------------------------------------------------------


async def test_a_streaming_run_is_cancelled_and_what_was_said_is_kept(gate: Gateway):
    await gate.chat(run_id="r")
    gate.agent.do("r", Thinking("hm"), Token("half"))
    await eventually(lambda: gate.agent.script("r").taken == 2)
    run = (await gate.manager.cancel_run(ME, "s", "r")).answer
    assert run["status"] == "cancelled"
    assert (await gate.types())[-2:] == ["message", "cancelled"]
    said = (await gate.messages())[-1]
    assert said["status"] == "incomplete"
    assert said["content"] == [
        {"type": "thinking", "text": "hm"},
        {"type": "text", "text": "half"},
    ]
    assert gate.agent.script("r").was_cancelled


async def test_cancel_is_idempotent_and_answers_how_the_run_ended(gate: Gateway):
    await gate.chat(run_id="r")
    gate.agent.do("r", Complete())
    ended = await gate.ended("r")
    for _ in range(2):
        assert (await gate.manager.cancel_run(ME, "s", "r")).answer == ended
    assert await terminals(gate) == [("r", "complete")]


async def test_a_queued_run_is_cancelled_without_starting(gate: Gateway):
    await gate.chat(run_id="r")
    await gate.chat(run_id="q")
    run = (await gate.manager.cancel_run(ME, "s", "q")).answer
    assert run["status"] == "cancelled"
    assert run["started_at"] is None
    gate.agent.do("r", Complete())
    await gate.ended("r")
    await quiet()
    assert gate.agent.asked == ["r"]
    assert await terminals(gate) == [("q", "cancelled"), ("r", "complete")]


async def test_a_run_whose_start_is_not_durable_yet_is_cancelled(gate: Gateway):
    """An early stop is not lost."""
    await gate.manager.create_session(ME, NewSession(id="s"))
    gate.store.hold_appends()
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(gate.chat, "s", "hi", "r")
        await eventually(lambda: gate.store.held)
        answers: list[RunCancelled] = []

        async def cancel() -> None:
            answers.append((await gate.manager.cancel_run(ME, "s", "r")).answer)

        tasks.start_soon(cancel)
        await quiet()
        assert not answers
        gate.store.release_appends()
        with anyio.fail_after(DEADLINE_SECONDS):
            await eventually(lambda: answers)
    assert answers[0]["status"] == "cancelled"
    assert len(await terminals(gate)) == 1


async def test_ten_cancels_at_once_write_one_terminal_event(gate: Gateway):
    await gate.chat(run_id="r")
    gate.agent.do("r", Token("a"))
    await gate.agent.script("r").started.wait()
    answers: list[RunCancelled] = []

    async def cancel() -> None:
        answers.append((await gate.manager.cancel_run(ME, "s", "r")).answer)

    with anyio.fail_after(DEADLINE_SECONDS):
        async with anyio.create_task_group() as tasks:
            for _ in range(10):
                tasks.start_soon(cancel)
    assert {answer["status"] for answer in answers} == {"cancelled"}
    assert len(await terminals(gate)) == 1


@pytest.mark.parametrize("race", ["cancel first", "end first"])
async def test_a_cancel_that_races_with_the_end_writes_one_terminal_event(race: str, gate: Gateway):
    await gate.chat(run_id="r")
    gate.agent.do("r", Token("a"))
    await eventually(lambda: gate.agent.script("r").taken == 1)
    with anyio.fail_after(DEADLINE_SECONDS):
        async with anyio.create_task_group() as tasks:
            if race == "cancel first":
                tasks.start_soon(gate.manager.cancel_run, ME, "s", "r")
                gate.agent.do("r", Complete())
            else:
                gate.agent.do("r", Complete())
                tasks.start_soon(gate.manager.cancel_run, ME, "s", "r")
    assert len(await terminals(gate)) == 1


async def test_cancel_while_the_end_waits_for_the_disk_answers_how_it_ended(gate: Gateway):
    await gate.chat(run_id="r")
    await gate.agent.script("r").started.wait()
    gate.store.hold_appends()
    gate.agent.do("r", Complete())
    await eventually(lambda: gate.store.held)
    answers: list[RunCancelled] = []

    async def cancel() -> None:
        answers.append((await gate.manager.cancel_run(ME, "s", "r")).answer)

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(cancel)
        await quiet()
        assert not answers, "R1: its end is not durable"
        gate.store.release_appends()
    assert answers[0]["status"] == "completed"


async def test_an_agent_that_swallows_its_cancellation_is_cancelled_all_the_same(gate: Gateway):
    await gate.chat(run_id="r")
    gate.agent.script("r").swallow = True
    gate.agent.do("r", Token("half"))
    await eventually(lambda: gate.agent.script("r").taken == 1)
    run = (await gate.manager.cancel_run(ME, "s", "r")).answer
    assert run["status"] == "cancelled"
    assert (await gate.messages())[-1]["status"] == "incomplete"


async def test_cancel_answers_in_time_when_the_agent_does_not_let_go():
    async with gateway(cancel_timeout_seconds=0.05) as gate:
        await gate.chat(run_id="r")
        await gate.agent.script("r").started.wait()
        gate.store.hold_appends()
        with anyio.fail_after(DEADLINE_SECONDS):
            run_of = gate.manager.cancel_run
            async with anyio.create_task_group() as tasks:
                answers: list[RunCancelled] = []

                async def cancel() -> None:
                    answers.append((await run_of(ME, "s", "r")).answer)

                tasks.start_soon(cancel)
                await anyio.sleep(0.1)
                gate.store.release_appends()
        assert answers


async def test_cancelling_a_session_ends_the_active_run_and_all_that_waits(gate: Gateway):
    for run_id in ("a", "b", "c"):
        await gate.chat(run_id=run_id)
    answer = (await gate.manager.cancel_session(ME, "s")).answer
    assert {run["run_id"]: run["status"] for run in answer["runs"]} == {
        "a": "cancelled",
        "b": "cancelled",
        "c": "cancelled",
    }
    await quiet()
    assert gate.agent.asked in ([], ["a"])
    assert len(await terminals(gate)) == 3
    assert gate.leftovers() == []


async def test_cancelling_an_unknown_run_is_refused(gate: Gateway):
    await gate.chat(run_id="r")
    with pytest.raises(NotFound):
        await gate.manager.cancel_run(ME, "s", "other")
    assert await terminals(gate) == []


# -- storage that fails -------------------------------------------------------------------------

SCRIPT: list[Step] = [
    Thinking("hm"),
    Token("Let me look. "),
    ToolStart("c1", "look"),
    ToolComplete("c1", ToolResult(True, "42")),
    Token("It is 42."),
    Complete(Usage(1, 2, 3)),
]


@pytest.mark.parametrize("nth", range(1, 9))
async def test_a_run_ends_once_when_the_nth_commit_fails(nth: int, gate: Gateway):
    """R5, R1: whichever commit fails, the run has one end and loses nothing silently."""
    await gate.chat(run_id="r")
    await gate.agent.script("r").started.wait()
    gate.store.fail_append(nth)
    for step in SCRIPT:
        gate.agent.do("r", step)
        await quiet()
    run = await gate.ended("r")
    ends = await terminals(gate)
    assert len(ends) == 1
    said = await gate.messages()
    if run["status"] == "completed":
        assert [message["role"] for message in said] == ["user", "assistant", "tool", "assistant"]
        assert said[-1]["content"] == "It is 42."
    else:
        assert run["error"]["code"] == "storage_failed"
    await check_log(gate)
    gate.store.heal()
    await gate.chat(run_id="next")
    gate.agent.do("next", Complete())
    await gate.ended("next")
    await quiet()
    assert gate.leftovers() == []


@pytest.mark.parametrize("nth", range(1, 4))
async def test_a_run_that_never_waits_ends_once_when_the_nth_commit_fails(nth: int, gate: Gateway):
    """R5: everything is pipelined behind the commit that fails, the end too."""
    await gate.chat(run_id="r")
    await gate.agent.script("r").started.wait()
    gate.store.fail_append(nth)
    gate.agent.do("r", *SCRIPT)
    run = await gate.ended("r")
    assert len(await terminals(gate)) == 1
    if run["status"] == "completed":
        assert len(await gate.messages()) == 4, "nothing that was undone is passed over in silence"
    await check_log(gate)


async def test_a_full_disk_ends_the_run_as_storage_full(gate: Gateway):
    await gate.chat(run_id="r")
    gate.agent.do("r", Token("a"))
    await eventually(lambda: gate.agent.script("r").taken == 1)
    await quiet()
    gate.store.fail_append(1, StorageFull("full"))
    gate.agent.do("r", Token("b"))
    run = await gate.ended("r")
    assert run["error"]["code"] == "storage_full"
    assert (await gate.messages())[-1]["status"] == "incomplete"


async def test_the_end_is_tried_again_until_the_disk_takes_it(gate: Gateway):
    await gate.chat(run_id="r")
    await gate.agent.script("r").started.wait()
    gate.store.fail_appends()
    gate.agent.do("r", Complete())
    before = len(gate.store.commits)
    await eventually(lambda: len(gate.store.commits) > before + 1)
    gate.store.heal()
    assert (await gate.ended("r"))["status"] == "completed"
    assert len(await terminals(gate)) == 1


async def test_the_gateway_stops_though_the_disk_never_takes_the_end():
    """R11: a shutdown has an end; the next start closes the run."""
    clock_of_left = None
    with anyio.fail_after(DEADLINE_SECONDS):
        async with gateway(cancel_timeout_seconds=0.05) as gate:
            await gate.chat(run_id="r")
            await gate.agent.script("r").started.wait()
            gate.store.fail_appends()
            clock_of_left = gate.clock
    gate.store.heal()
    async with gateway(gate.store, clock=clock_of_left) as again:
        assert await terminals(again) == [("r", "error")]
        assert (await again.manager.run(ME, "s", "r"))["status"] == "interrupted"


async def test_another_calls_failure_does_not_end_a_run_that_lost_nothing(gate: Gateway):
    await gate.chat(run_id="r")
    gate.agent.do("r", Token("a"))
    await eventually(lambda: gate.agent.script("r").taken == 1)
    await quiet()
    gate.store.fail_append(1)
    with pytest.raises(StorageFailed):
        await gate.manager.add_messages(ME, "s", [NewMessage("user", "x")])
    gate.agent.do("r", Token("b"), Complete())
    assert (await gate.ended("r"))["status"] == "completed"
    assert (await gate.messages())[-1]["content"] == "ab"


async def test_a_failed_start_of_a_chat_leaves_no_run(gate: Gateway):
    await gate.chat(run_id="a")
    gate.agent.do("a", Complete())
    await gate.ended("a")
    gate.store.fail_append(1)
    with pytest.raises(StorageFailed):
        await gate.chat(run_id="b")
    await quiet()
    assert gate.leftovers() == []
    with pytest.raises(NotFound):
        await gate.manager.run(ME, "s", "b")
    await gate.chat(run_id="b")
    gate.agent.do("b", Complete())
    assert (await gate.ended("b"))["status"] == "completed"


async def test_a_new_chat_that_meets_a_failing_end_does_not_disturb_it(gate: Gateway):
    """R5: the slot is free once the end is decided; both commits fail together."""
    await gate.chat(run_id="a")
    gate.agent.do("a", Token("hello"))
    await gate.agent.script("a").started.wait()
    await quiet()
    gate.store.hold_appends()
    gate.agent.do("a", Token(" you"))
    await eventually(lambda: gate.store.held)
    gate.agent.do("a", Complete())
    await quiet()
    failures: list[Exception] = []

    async def chat() -> None:
        try:
            await gate.chat(run_id="b")
        except StorageFailed as error:
            failures.append(error)

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(chat)
        await quiet()
        gate.store.release_appends(StorageFailed("gone"))
    assert failures
    run = await gate.ended("a")
    assert len(await terminals(gate)) == 1
    said = (await gate.messages())[-1]["content"]
    assert run["status"] == "failed" or said == "hello you"
    await quiet()
    assert gate.leftovers() == []


async def test_an_end_that_was_stored_though_reported_as_failed_is_not_doubled(gate: Gateway):
    """A known failure elsewhere: an append answers an error after storing, so the retry doubles."""
    await gate.chat(run_id="a")
    await gate.agent.script("a").started.wait()
    await quiet()
    gate.store.lie_about_append(1)
    gate.agent.do("a", Token("x"), Complete())
    await gate.ended("a")
    await quiet()
    assert len(await terminals(gate)) == 1
    await gate.chat(run_id="b")
    gate.agent.do("b", Complete())
    await gate.ended("b")
    await check_log(gate)
    reader = await gate.reader(from_start=True)
    shown = [frame.seq for frame in (await reader.take_what_is_there()) if "seq" in frame.data]
    assert shown == [event["seq"] for event in await gate.log()]
    reader.close()


# -- crashes ------------------------------------------------------------------------------------


async def test_a_run_that_a_crash_cuts_is_closed_as_interrupted_with_what_was_said(gate: Gateway):
    """R5. A known failure elsewhere: after a crash while active, "not found"."""
    await gate.chat(run_id="r")
    gate.agent.do("r", Token("half "), Token("an answer"))
    await eventually(lambda: gate.agent.script("r").taken == 2)
    await quiet()
    shown = next(event["message_id"] for event in await gate.log() if event["type"] == "token")
    left = await crash(gate)
    async with gateway(left) as again:
        run = await again.manager.run(ME, "s", "r")
        assert run["status"] == "interrupted"
        assert run["error"] is not None
        assert run["error"]["code"] == "interrupted"
        said = (await again.messages())[-1]
        assert (said["id"], said["content"], said["status"]) == (
            shown,
            "half an answer",
            "incomplete",
        )
        assert len(await terminals(again)) == 1
    gate.store.release_appends()


async def test_a_second_restart_changes_nothing_more(gate: Gateway):
    await gate.chat(run_id="r")
    gate.agent.do("r", Token("half"))
    await eventually(lambda: gate.agent.script("r").taken == 1)
    await quiet()
    left = await crash(gate)
    async with gateway(left) as second:
        after_one = await second.log()
    async with gateway(left) as third:
        assert await third.log() == after_one
    gate.store.release_appends()


async def test_queued_runs_start_after_a_restart_in_their_order(gate: Gateway):
    await gate.chat(run_id="a")
    await gate.chat(text="second", run_id="b", options={"depth": 2})
    await gate.chat(text="third", run_id="c")
    left = await crash(gate)
    async with gateway(left) as again:
        await eventually(lambda: again.agent.asked == ["b"])
        turn = again.agent.script("b").turn
        assert turn is not None
        assert turn.messages[-1].text == "second"
        assert turn.options == {"depth": 2}
        again.agent.do("b", Complete())
        again.agent.do("c", Complete())
        await again.ended("c")
        assert await terminals(again) == [("a", "error"), ("b", "complete"), ("c", "complete")]
    gate.store.release_appends()


async def test_more_unfinished_sessions_than_places_are_all_closed_at_the_start(gate: Gateway):
    """R5: max_active_sessions does not keep a run from being closed."""
    for number in range(6):
        await gate.chat(f"s{number}", run_id="a")
        await gate.chat(f"s{number}", run_id="b")
    left = await crash(gate)
    async with gateway(left, max_active_sessions=2) as again:
        for number in range(6):
            assert ("a", "error") in await terminals(again, f"s{number}")
        again.agent.do("b", *[Complete()] * 6)
        await eventually(lambda: len(again.agent.asked) >= 2)
    gate.store.release_appends()


async def test_a_close_that_cannot_be_stored_at_the_start_is_tried_again(gate: Gateway):
    """R5: a full disk at the start does not leave the session busy for ever."""
    await gate.chat(run_id="r")
    left = await crash(gate)
    store = FaultyStore(left)
    store.fail_append(1)
    async with gateway(store) as again:
        with anyio.fail_after(DEADLINE_SECONDS):
            while await terminals(again) != [("r", "error")]:
                await checkpoint()
    gate.store.release_appends()


async def test_a_session_that_cannot_be_read_does_not_stop_the_start(gate: Gateway):
    """R10. A known failure elsewhere: one bad session stops the start."""
    await gate.chat("good", run_id="r")
    await gate.chat("bad", run_id="r")
    left = await crash(gate)
    sessions = left.__dict__["_sessions"]
    bad = sessions["bad"]
    bad.entries.append(Event(bad.head.seq + 1, "message", b'{"type":"message","seq":99}'))
    bad.head.seq += 1
    async with gateway(left) as again:
        assert await terminals(again, "good") == [("r", "error")]
    gate.store.release_appends()


@pytest.mark.parametrize("nth", range(1, 7))
async def test_a_crash_at_every_commit_leaves_one_terminal_event(nth: int):
    """R5, R2: what a client has seen is still there, and the run ends once."""
    async with gateway() as gate:
        await gate.chat(run_id="r")
        await gate.agent.script("r").started.wait()
        for step in SCRIPT[:nth]:
            gate.agent.do("r", step)
            await quiet()
        before = await gate.log()
        left = await crash(gate)
        async with gateway(left) as again:
            after = await again.log()
            assert after[: len(before)] == before
            assert len(await terminals(again)) == 1
            await check_log(again)
        gate.store.release_appends()


async def check_log(gate: Gateway, session_id: str = "s") -> None:
    """Seqs are dense; no tool result stands before the message with its call."""
    log = await gate.log(session_id)
    assert [event["seq"] for event in log] == list(range(1, len(log) + 1))
    called: set[str] = set()
    for event in log:
        if event["type"] != "message":
            continue
        message = event["message"]
        if message["role"] == "tool":
            assert message["tool_call_id"] in called
        called |= {call["id"] for call in message.get("tool_calls") or ()}
