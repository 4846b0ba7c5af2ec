"""External runs: a program outside posts their events, in one request or many."""

import json
from collections.abc import AsyncIterator
from typing import Any

import anyio
import pytest

from bamboo_gateway.domain.errors import (
    BambooError,
    InvalidEvent,
    NotFound,
    Refused,
    RunActive,
    RunEnded,
    StorageFailed,
)
from bamboo_gateway.domain.events import TERMINAL_TYPES, Complete
from bamboo_gateway.domain.views import RunView
from bamboo_gateway.sessions.commands import Idempotency, NewMessage, NewSession, Outcome
from tests.domain.histories import accepted_by_upstreams
from tests.support.gateways import DEADLINE_SECONDS, ME, Gateway, crash, eventually, gateway, quiet

STEPS: list[dict[str, Any]] = [
    {"type": "thinking", "content": "hm"},
    {"type": "token", "content": "Let me "},
    {"type": "token", "content": "look. "},
    {"type": "tool_start", "tool_call_id": "a", "tool_name": "look", "arguments": {}},
    {"type": "tool_complete", "tool_call_id": "a", "result": {"success": True, "content": 42}},
    {"type": "token", "content": "It is 42."},
    {"type": "complete", "usage": {"total_tokens": 3}},
]


def of(run_id: str, *events: dict[str, Any]) -> list[dict[str, Any]]:
    return [{"run_id": run_id, **event} for event in events]


async def opened(gate: Gateway, run_id: str = "x") -> None:
    if not await gate.log():
        await gate.manager.create_session(ME, NewSession(id="s"))
    await gate.manager.open_run(ME, "s", run_id)


async def post(gate: Gateway, *events: dict[str, Any], key: str | None = None) -> Outcome:
    idem = Idempotency(key, "POST /events", json.dumps(events)) if key else None
    return await gate.manager.append_events(ME, "s", list(events), idem)


async def stream(
    gate: Gateway, batches: AsyncIterator[list[bytes]], key: str | None = None
) -> Outcome:
    idem = Idempotency(key, "POST /events", "") if key else None
    return await gate.manager.append_event_lines(ME, "s", batches, idem)


async def lines_of(*events: dict[str, Any], at_once: int = 1) -> AsyncIterator[list[bytes]]:
    encoded = [json.dumps(event).encode() for event in events]
    for start in range(0, len(encoded), at_once):
        yield encoded[start : start + at_once]


async def check_whole(gate: Gateway) -> None:
    """The whole of `STEPS` is in the log, once."""
    log = [event for event in await gate.log() if event.get("run_id") == "x"]
    said = [event["message"] for event in log if event["type"] == "message"]
    accepted_by_upstreams(said)
    assert [message["role"] for message in said] == ["assistant", "tool", "assistant"]
    assert [message["content"] for message in said[1:]] == ["42", "It is 42."]
    assert said[0]["content"][1] == {"type": "text", "text": "Let me look. "}
    assert [event["type"] for event in log if event["type"] in TERMINAL_TYPES] == ["complete"]
    run = await gate.manager.run(ME, "s", "x")
    assert run["usage"] is not None
    assert (run["status"], run["usage"]["total_tokens"]) == ("completed", 3)


@pytest.mark.parametrize("at_once", [1, 2, 7])
@pytest.mark.parametrize("way", ["requests", "stream"])
async def test_the_messages_are_the_same_however_the_events_arrive(
    way: str, at_once: int, gate: Gateway
) -> None:
    await opened(gate)
    events = of("x", *STEPS)
    if way == "stream":
        assert (await stream(gate, lines_of(*events, at_once=at_once))).answer["count"] == 7
    else:
        for start in range(0, len(events), at_once):
            await post(gate, *events[start : start + at_once])
    await check_whole(gate)


@pytest.mark.parametrize("before", range(7))
async def test_the_run_goes_on_after_a_crash_between_any_two_events(
    before: int, gate: Gateway
) -> None:
    await opened(gate)
    events = of("x", *STEPS)
    for number, event in enumerate(events[:before]):
        await post(gate, event, key=f"k{number}")
    left = await crash(gate)
    async with gateway(left) as again:
        assert (await again.manager.run(ME, "s", "x"))["status"] == "running"
        # The program cannot know whether its last request arrived, so it repeats it.
        for number, event in enumerate(events[max(0, before - 1) :], max(0, before - 1)):
            outcome = await post(again, event, key=f"k{number}")
            assert outcome.replayed == (number == before - 1)
        await check_whole(again)
    gate.store.release_appends()


@pytest.mark.parametrize("cut", range(8))
async def test_a_stream_that_was_cut_is_sent_again_whole_and_only_the_rest_is_taken(
    cut: int, gate: Gateway
) -> None:
    await opened(gate)
    events = of("x", *STEPS)

    async def torn() -> AsyncIterator[list[bytes]]:
        async for batch in lines_of(*events[:cut]):
            yield batch
        raise ConnectionResetError

    with pytest.raises(ConnectionResetError):
        await stream(gate, torn(), key="k")
    left = await crash(gate)
    async with gateway(left) as again:
        outcome = await stream(again, lines_of(*events, at_once=3), key="k")
        assert outcome.answer["count"] == 7
        await check_whole(again)
    gate.store.release_appends()


async def test_a_second_producer_is_refused_while_one_is_streaming(gate: Gateway) -> None:
    await opened(gate)
    events = of("x", *STEPS)
    more = anyio.Event()

    async def slow() -> AsyncIterator[list[bytes]]:
        yield [json.dumps(events[0]).encode()]
        await more.wait()
        async for batch in lines_of(*events[1:]):
            yield batch

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(stream, gate, slow())
        await eventually(lambda: gate.live().posting == "x")
        for second in (post(gate, events[1]), stream(gate, lines_of(events[1]))):
            with pytest.raises(Refused) as caught:
                await second
            assert caught.value.code == "append-in-progress"
        more.set()
    await check_whole(gate)


async def test_an_external_run_occupies_its_session_and_the_queued_run_starts_after_it(
    gate: Gateway,
) -> None:
    await opened(gate)
    with pytest.raises(RunActive):
        await gate.manager.open_run(ME, "s", "y")
    assert (await gate.chat(run_id="next"))["status"] == "queued"
    with pytest.raises(RunActive):
        await gate.chat(run_id="other", on_busy="reject")
    gate.agent.do("next", Complete())
    await post(gate, *of("x", *STEPS))
    assert (await gate.ended("next"))["status"] == "completed"
    with pytest.raises(RunEnded):
        await post(gate, *of("x", STEPS[0]))
    with pytest.raises(NotFound):
        await post(gate, *of("nobody", STEPS[0]))


async def test_a_run_to_which_nobody_posts_ends_with_timeout(gate: Gateway) -> None:
    await opened(gate)
    await post(gate, *of("x", STEPS[1], STEPS[3]))
    gate.clock.advance(301)
    gate.manager._external.end_silent()
    run = await gate.ended("x")
    assert run["error"]["code"] == "timeout"
    accepted_by_upstreams(await gate.messages())
    assert [message["role"] for message in await gate.messages()] == ["assistant", "tool"]
    await quiet()
    assert gate.leftovers() == []


async def test_looking_at_a_silent_run_gives_it_no_more_time(gate: Gateway) -> None:
    await opened(gate)
    gate.manager._external.end_silent()
    await quiet()
    gate.clock.advance(301)
    assert (await gate.manager.run(ME, "s", "x"))["status"] == "running"
    async with gate.manager._registry.use(ME, "s"):
        gate.manager._external.end_silent()
        assert (await gate.ended("x"))["error"]["code"] == "timeout"


async def test_an_external_run_found_open_at_the_start_gets_its_whole_timeout_again(
    gate: Gateway,
) -> None:
    await opened(gate)
    await post(gate, *of("x", STEPS[1]))
    gate.clock.advance(200)
    left = await crash(gate)
    async with gateway(left, clock=gate.clock) as again:
        gate.clock.advance(200)
        again.manager._external.end_silent()
        await quiet()
        assert (await again.manager.run(ME, "s", "x"))["status"] == "running"
        gate.clock.advance(301)
        again.manager._external.end_silent()
        assert (await again.ended("x"))["error"]["code"] == "timeout"
        assert (await again.messages())[-1]["content"] == "Let me "
    gate.store.release_appends()


@pytest.mark.parametrize("how", ["cancel", "interrupt"])
async def test_a_cancelled_run_takes_nothing_more(how: str, gate: Gateway) -> None:
    await opened(gate)
    await post(gate, *of("x", STEPS[1], STEPS[3]))
    with anyio.fail_after(DEADLINE_SECONDS):
        if how == "cancel":
            run: RunView = (await gate.manager.cancel_run(ME, "s", "x")).answer
        else:
            await gate.chat(run_id="next", on_busy="interrupt")
            gate.agent.do("next", Complete())
            await gate.ended("next")
            run = await gate.manager.run(ME, "s", "x")
    assert run["status"] == "cancelled"
    with pytest.raises(RunEnded):
        await post(gate, *of("x", STEPS[2]))
    accepted_by_upstreams(await gate.messages())


@pytest.mark.parametrize("how", ["event", "array", "lines"])
@pytest.mark.parametrize("end", ["cancel", "complete"])
async def test_events_that_come_while_the_end_is_being_stored_come_after_it(
    end: str, how: str, gate: Gateway
) -> None:
    """R1, R5: the run has ended once its end is durable, and until then nobody is told so."""
    await opened(gate)
    await post(gate, *of("x", STEPS[1]))
    gate.store.hold_appends()
    told: list[BambooError] = []

    async def late() -> None:
        events = of("x", *STEPS[1 : 2 if how == "event" else 3])
        try:
            if how == "lines":
                await stream(gate, lines_of(*events))
            else:
                await post(gate, *events)
        except BambooError as error:
            told.append(error)

    with anyio.fail_after(DEADLINE_SECONDS):
        async with anyio.create_task_group() as tasks:
            if end == "cancel":
                tasks.start_soon(gate.manager.cancel_run, ME, "s", "x")
            else:
                tasks.start_soon(post, gate, *of("x", STEPS[6]))
            await eventually(lambda: gate.store.held)
            tasks.start_soon(late)
            await quiet()
            assert not told
            gate.store.release_appends()
    assert [error.code for error in told] == ["run-ended"]
    assert [event["type"] in TERMINAL_TYPES for event in await gate.log()][-1]


async def test_a_cancel_that_comes_while_the_end_is_being_stored_waits_for_it(
    gate: Gateway,
) -> None:
    """R1: that nothing is active any more is not said before it is durable."""
    await opened(gate)
    gate.store.hold_appends()
    told: list[Outcome] = []

    async def cancel() -> None:
        told.append(await gate.manager.cancel_session(ME, "s"))

    with anyio.fail_after(DEADLINE_SECONDS):
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(post, gate, *of("x", STEPS[6]))
            await eventually(lambda: gate.store.held)
            tasks.start_soon(cancel)
            await quiet()
            assert not told
            gate.store.release_appends()
    assert [outcome.answer["runs"] for outcome in told] == [[]]


async def test_events_that_come_while_an_end_fails_to_be_stored_belong_to_the_run(
    gate: Gateway,
) -> None:
    await opened(gate)
    await post(gate, *of("x", STEPS[1]))
    gate.store.hold_appends()

    async def cancel() -> None:
        with pytest.raises(StorageFailed):
            await gate.manager.cancel_run(ME, "s", "x")

    with anyio.fail_after(DEADLINE_SECONDS):
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(cancel)
            await eventually(lambda: gate.store.held)
            tasks.start_soon(post, gate, *of("x", STEPS[2]))
            await quiet()
            gate.store.release_appends(StorageFailed("no"))
    assert [event["content"] for event in await gate.log() if event["type"] == "token"] == [
        "Let me ",
        "look. ",
    ]


async def test_a_run_that_ends_while_another_is_looked_up_has_ended(gate: Gateway) -> None:
    await opened(gate)
    await post(gate, *of("x", STEPS[1]))
    gate.store.hold("find")
    told: list[BambooError] = []

    async def late() -> None:
        try:
            await post(gate, *of("x", STEPS[1]), *of("never", STEPS[1]))
        except BambooError as error:
            told.append(error)

    with anyio.fail_after(DEADLINE_SECONDS):
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(late)
            await quiet()
            tasks.start_soon(post, gate, *of("x", STEPS[6]))
            await quiet()
            gate.store.let_go("find")
    assert [error.code for error in told] == ["run-ended"]


async def test_a_cancel_that_cannot_be_stored_is_told_at_once_and_may_be_repeated(
    gate: Gateway,
) -> None:
    """R5: nobody would take it up again, so nobody waits for it."""
    await opened(gate)
    await post(gate, *of("x", STEPS[1], STEPS[3]))
    for cancel in (gate.manager.cancel_session(ME, "s"), gate.manager.cancel_run(ME, "s", "x")):
        gate.store.fail_append(1)
        with pytest.raises(StorageFailed):
            await cancel
    assert (await gate.manager.run(ME, "s", "x"))["status"] == "running"
    assert (await gate.manager.cancel_run(ME, "s", "x")).answer["status"] == "cancelled"
    accepted_by_upstreams(await gate.messages())
    assert [event["type"] for event in await gate.log()].count("cancelled") == 1


@pytest.mark.parametrize(
    "bad",
    [
        {"type": "tool_complete", "tool_call_id": "z", "result": {"success": True, "content": 1}},
        {"type": "message", "message": {"role": "tool", "content": "x", "tool_call_id": "z"}},
        {"type": "message", "message": {"role": "user", "content": "while the call is open"}},
        {"type": "nonsense"},
        {"type": "token", "content": 1},
    ],
)
async def test_a_bad_event_is_refused_with_its_place_and_the_run_stays_open(
    bad: dict[str, Any], gate: Gateway
) -> None:
    await opened(gate)
    call = {"role": "assistant", "content": "", "tool_calls": [{"id": "a", "name": "look"}]}
    await post(gate, *of("x", {"type": "message", "message": call}))
    before = await gate.log()
    with pytest.raises(InvalidEvent) as caught:
        await post(gate, *of("x", STEPS[1], bad))
    assert caught.value.extra["index"] == 1
    assert await gate.log() == before
    with pytest.raises(Refused):
        await gate.manager.add_messages(ME, "s", [NewMessage("user", "x")])
    await post(gate, *of("x", STEPS[4], {"type": "complete"}))
    accepted_by_upstreams(await gate.messages())


@pytest.mark.parametrize("at_once", [1, 3])
async def test_a_line_after_the_terminal_one_is_refused_however_the_lines_arrive(
    at_once: int, gate: Gateway
) -> None:
    await opened(gate)
    lines = lines_of(*of("x", STEPS[1], STEPS[6], STEPS[2]), at_once=at_once)
    with pytest.raises(RunEnded) as refusal:
        await stream(gate, lines)
    assert (refusal.value.extra["line"], refusal.value.extra["appended"]["count"]) == (3, 2)
    [message] = await gate.messages()
    assert message["content"] == "Let me "


@pytest.mark.parametrize("how", ["refused", "not stored"])
async def test_a_post_that_leaves_nothing_in_the_log_leaves_nothing_in_the_message(
    how: str, gate: Gateway
) -> None:
    """The unfinished message has seen the events: it is dropped, and made again from the log."""
    await opened(gate)
    await post(gate, *of("x", STEPS[1]))
    assert gate.live().external is not None
    if how == "refused":
        with pytest.raises(InvalidEvent):
            await post(gate, *of("x", {"type": "token", "content": "lost "}, STEPS[4]))
    else:
        gate.store.fail_append()
        with pytest.raises(StorageFailed):
            await post(gate, *of("x", {"type": "token", "content": "lost "}))
    assert gate.live().external is None
    await post(gate, *of("x", STEPS[2]))
    assert gate.live().external is not None
    await post(gate, *of("x", STEPS[6]))
    [message] = await gate.messages()
    assert message["content"] == "Let me look. "
