"""Asking people: answers exactly once, the next run by itself, and every way around an answer."""

from typing import Any

import anyio
import pytest

from bamboo_gateway.domain.clock import format_ms
from bamboo_gateway.domain.errors import (
    BambooError,
    Gone,
    InvalidInput,
    NotFound,
    Refused,
    StorageFailed,
)
from bamboo_gateway.domain.events import (
    Complete,
    InputRequired,
    Token,
    ToolComplete,
    ToolResult,
    ToolStart,
)
from bamboo_gateway.sessions.commands import Idempotency, NewMessage
from bamboo_gateway.sessions.lifecycle.fork import Fork
from bamboo_gateway.sessions.runs.inputs import Inputs
from tests.support.agents import RETURN
from tests.support.clocks import T0_MS, FakeClock
from tests.support.gateways import ME, Gateway, crash, eventually, gateway, quiet

APPROVE = InputRequired("Pay 9 EUR?", "approval", "c1", request_id="q1")
COLOUR = InputRequired("Which colour?", request_id="q2")
YES = {"approved": True}
NO = {"approved": False, "reason": "too dear"}


async def ask(gate: Gateway, *requests: InputRequired, run_id: str = "r1", **chat: Any) -> None:
    """Let a run ask, and end."""
    gate.agent.do(run_id, Token("I pay. "), ToolStart("c1", "pay", {"eur": 9}), *requests, RETURN)
    await gate.chat(run_id=run_id, **chat)
    await gate.ended(run_id)
    await quiet()


async def answer(
    gate: Gateway, answers: dict[str, Any], key: str | None = None, **more: Any
) -> dict[str, Any]:
    idem = Idempotency(key, "POST /inputs", repr(answers)) if key else None
    outcome = await gate.manager.answer_inputs(ME, "s", Inputs(answers, **more), idem)
    return dict(outcome.answer)


async def state(gate: Gateway) -> str:
    return (await gate.manager.get_session(ME, "s")).session["state"]


async def shown(gate: Gateway) -> list[tuple[str, Any]]:
    """What people see of the conversation."""
    return [(one["role"], one["content"]) for one in await gate.messages()]


async def closings(gate: Gateway) -> list[tuple[str, str]]:
    return [
        (event["request_id"], event["reason"])
        for event in await gate.log()
        if event["type"] == "input_closed"
    ]


async def test_the_answer_starts_the_run_that_goes_on_with_the_call(gate: Gateway) -> None:
    await ask(gate, APPROVE)
    view = (await gate.manager.get_session(ME, "s")).session
    assert view["state"] == "needs_input"
    [request] = view["open_requests"]
    assert (request["request_id"], request["prompt"]) == ("q1", "Pay 9 EUR?")
    assert (await gate.manager.open_inputs(ME, "s"))[0]["tool_call_id"] == "c1"
    gate.agent.do("r2", ToolComplete("c1", ToolResult(True, "paid")), Token("Done."), RETURN)
    taken = await answer(gate, {"q1": YES}, run_id="r2")
    assert taken["run_id"] == "r2"
    await gate.ended("r2")
    turn = gate.agent.script("r2").turn
    assert turn is not None
    given = turn.answers["q1"]
    assert given.approved
    assert given.request == APPROVE
    assert turn.messages[-1].role == "assistant"
    assert await shown(gate) == [
        ("user", "hi"),
        ("assistant", "I pay. "),
        ("tool", "paid"),
        ("assistant", "Done."),
    ]
    assert await state(gate) == "idle"
    log = await gate.log()
    [at] = [place for place, event in enumerate(log) if event["type"] == "input_given"]
    assert log[at + 1]["type"] == "run_start"
    assert log[at + 1]["request_ids"] == ["q1"]
    async with await gate.reader(after=taken["position"]) as reader:
        assert (await reader.take_until("run_start"))[1].type == "input_given"


async def test_the_same_answers_again_give_the_same_result_and_others_are_refused(
    gate: Gateway,
) -> None:
    await ask(gate, APPROVE)
    first = await answer(gate, {"q1": YES})
    assert await answer(gate, {"q1": YES}) == first
    with pytest.raises(Refused, match="another answer") as refused:
        await answer(gate, {"q1": NO})
    assert refused.value.code == "already-answered"
    gate.agent.do(first["run_id"], RETURN)
    await gate.ended(first["run_id"])
    assert await answer(gate, {"q1": {**YES}}) == first
    assert (await gate.types()).count("input_given") == 1
    assert (await gate.types()).count("run_start") == 2


async def test_some_answers_are_kept_and_the_last_one_starts_the_run(gate: Gateway) -> None:
    await ask(gate, APPROVE, COLOUR)
    first = await answer(gate, {"q2": "blue"})
    assert "run_id" not in first
    assert await state(gate) == "needs_input"
    last = await answer(gate, {"q1": YES, "q2": "blue"}, run_id="r2")
    gate.agent.do("r2", RETURN)
    await gate.ended("r2")
    turn = gate.agent.script("r2").turn
    assert turn is not None
    assert {name: one.value for name, one in turn.answers.items()} == {"q1": YES, "q2": "blue"}
    assert await answer(gate, {"q2": "blue"}) == first
    assert await answer(gate, {"q1": YES, "q2": "blue"}) == last


async def test_a_repeat_with_an_idempotency_key_gets_the_first_answer(gate: Gateway) -> None:
    await ask(gate, APPROVE)
    first = await answer(gate, {"q1": YES}, "k")
    assert await answer(gate, {"q1": YES}, "k") == first


@pytest.mark.parametrize(
    ("answers", "kind", "code"),
    [
        ({"zz": 1}, NotFound, "request-not-found"),
        ({"q1": "yes"}, InvalidInput, "invalid-answer"),
        ({"q1": YES, "zz": 1}, NotFound, "request-not-found"),
        ({"q1": YES, "q2": 5}, InvalidInput, "invalid-answer"),
    ],
)
async def test_answers_that_do_not_fit_change_nothing(
    gate: Gateway, answers: dict[str, Any], kind: type[BambooError], code: str
) -> None:
    await ask(gate, APPROVE, COLOUR)
    before = await gate.log()
    with pytest.raises(kind) as refused:
        await answer(gate, answers)
    assert refused.value.code == code
    assert await gate.log() == before


async def test_a_chat_instead_supersedes_the_requests_and_their_calls(gate: Gateway) -> None:
    await ask(gate, APPROVE, COLOUR)
    await answer(gate, {"q2": "blue"})
    gate.agent.do("r2", RETURN)
    await gate.chat(run_id="r2", text="never mind")
    await gate.ended("r2")
    assert await closings(gate) == [("q1", "superseded")]
    said = await shown(gate)
    assert said[2][0] == "tool"
    assert "went on without the answer" in said[2][1]
    assert said[3] == ("user", "never mind")
    turn = gate.agent.script("r2").turn
    assert turn is not None
    assert not turn.answers
    with pytest.raises(Refused) as refused:
        await answer(gate, {"q1": YES})
    assert refused.value.code == "input-closed"


async def test_nothing_else_comes_between_a_request_and_its_answer(gate: Gateway) -> None:
    await ask(gate, APPROVE)
    result = NewMessage("tool", "mine", tool_call_id="c1")
    with pytest.raises(Refused):
        await gate.manager.add_messages(ME, "s", [result])
    with pytest.raises(Refused):
        await gate.manager.open_run(ME, "s")
    assert await state(gate) == "needs_input"


@pytest.mark.parametrize("whole", [True, False])
async def test_a_cancel_closes_the_requests(gate: Gateway, whole: bool) -> None:
    await ask(gate, APPROVE)
    if whole:
        await gate.manager.cancel_session(ME, "s")
    else:
        run = (await gate.manager.cancel_run(ME, "s", "r1")).answer
        assert run["status"] == "completed"
    assert await closings(gate) == [("q1", "cancelled")]
    assert (await shown(gate))[-1][0] == "tool"
    assert await state(gate) == "idle"
    with pytest.raises(Refused):
        await answer(gate, {"q1": YES})


async def test_runs_that_were_queued_wait_until_all_is_answered(gate: Gateway) -> None:
    await gate.chat(run_id="r1")
    await gate.chat(run_id="r2", text="next")
    gate.agent.do("r1", ToolStart("c1", "pay"), APPROVE, RETURN)
    await gate.ended("r1")
    await quiet()
    assert gate.live().head.active is None
    assert [one.run_id for one in gate.live().head.queue] == ["r2"]
    assert await state(gate) == "needs_input"
    await answer(gate, {"q1": YES}, run_id="ra")
    await quiet()
    assert gate.live().active_run_id == "ra"
    gate.agent.do("ra", RETURN)
    gate.agent.do("r2", RETURN)
    await gate.ended("r2")
    starts = [event["run_id"] for event in await gate.log() if event["type"] == "run_start"]
    assert starts == ["r1", "ra", "r2"]


@pytest.mark.parametrize("way", ["cancel", "chat", "interrupt"])
async def test_a_queued_run_starts_once_nobody_is_asked_any_more(gate: Gateway, way: str) -> None:
    await gate.chat(run_id="r1")
    await gate.chat(run_id="r2", text="next")
    gate.agent.do("r1", ToolStart("c1", "pay"), APPROVE, RETURN)
    await gate.ended("r1")
    for run_id in ("r2", "r3"):
        gate.agent.do(run_id, RETURN)
    if way == "cancel":
        await gate.manager.cancel_run(ME, "s", "r1")
    else:
        on_busy = "interrupt" if way == "interrupt" else "enqueue"
        await gate.chat(run_id="r3", text="instead", on_busy=on_busy)  # type: ignore[arg-type]
    await gate.ended("r2")
    starts = [event["run_id"] for event in await gate.log() if event["type"] == "run_start"]
    assert (
        starts
        == {
            "cancel": ["r1", "r2"],
            "chat": ["r1", "r2", "r3"][: len(starts)],
            "interrupt": ["r1", "r3", "r2"],
        }[way]
    )
    assert not gate.live().head.open_requests


def expiring(seconds: float, name: str = "q1") -> InputRequired:
    return InputRequired("?", request_id=name, expires_at=format_ms(T0_MS + int(seconds * 1000)))


async def test_a_request_expires_and_a_run_starts_with_that(gate: Gateway) -> None:
    await ask(gate, expiring(10))
    gate.manager._input_expiry.expire_due()
    await quiet()
    assert await state(gate) == "needs_input"
    gate.clock.advance(10)
    with pytest.raises(Gone) as gone:
        await answer(gate, {"q1": "late"})
    assert gone.value.code == "input-expired"
    gate.manager._input_expiry.expire_due()
    await eventually(lambda: gate.live().active_run_id)
    run_id = gate.live().active_run_id
    assert run_id is not None
    await gate.agent.script(run_id).started.wait()
    turn = gate.agent.script(run_id).turn
    assert turn is not None
    assert turn.answers["q1"].status == "expired"
    assert await closings(gate) == [("q1", "expired")]
    with pytest.raises(Gone):
        await answer(gate, {"q1": "late"})
    gate.agent.do(run_id, RETURN)


async def test_an_expired_request_waits_for_the_answers_to_others(gate: Gateway) -> None:
    await ask(gate, expiring(10), COLOUR)
    gate.clock.advance(10)
    gate.manager._input_expiry.expire_due()
    await quiet()
    assert await closings(gate) == [("q1", "expired")]
    assert await state(gate) == "needs_input"
    await answer(gate, {"q2": "blue"}, run_id="r2")
    gate.agent.do("r2", RETURN)
    await gate.ended("r2")
    turn = gate.agent.script("r2").turn
    assert turn is not None
    assert {name: one.status for name, one in turn.answers.items()} == {
        "q1": "expired",
        "q2": "answered",
    }


async def test_the_timer_survives_a_restart(gate: Gateway) -> None:
    await ask(gate, expiring(10))
    left = await crash(gate)
    clock = FakeClock(T0_MS + 10_000)
    async with gateway(left, clock=clock) as again:
        await quiet()
        again.manager._input_expiry.expire_due()
        await eventually(lambda: again.live().active_run_id)
        run_id = again.live().active_run_id
        assert run_id is not None
        again.agent.do(run_id, RETURN)
        await again.ended(run_id)
        assert await closings(again) == [("q1", "expired")]


async def test_a_closed_session_takes_no_answer_and_asks_again_when_it_is_reopened(
    gate: Gateway,
) -> None:
    await ask(gate, expiring(10))
    await gate.manager.close_session(ME, "s")
    with pytest.raises(Refused):
        await answer(gate, {"q1": "x"})
    gate.clock.advance(10)
    gate.manager._input_expiry.expire_due()
    await quiet()
    assert await closings(gate) == []
    await gate.manager.reopen_session(ME, "s")
    gate.manager._input_expiry.expire_due()
    await eventually(lambda: gate.live().active_run_id)
    await quiet()
    assert await closings(gate) == [("q1", "expired")]
    gate.agent.do(gate.live().active_run_id or "", RETURN)


async def test_an_answer_before_the_asking_run_has_ended_waits_for_its_end(gate: Gateway) -> None:
    gate.agent.do("r1", ToolStart("c1", "pay"), APPROVE)
    await gate.chat(run_id="r1")
    await quiet()
    assert await state(gate) == "active"
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(lambda: answer(gate, {"q1": YES}, run_id="r2"))
        await quiet()
        assert "input_given" not in await gate.types()
        gate.agent.do("r1", RETURN)
        gate.agent.do("r2", RETURN)
    await gate.ended("r2")
    assert await state(gate) == "idle"


async def test_of_two_answers_at_once_one_counts(gate: Gateway) -> None:
    await ask(gate, APPROVE)
    outcomes: list[Any] = []

    async def one(value: Any) -> None:
        try:
            outcomes.append(await answer(gate, {"q1": value}))
        except Refused as refused:
            outcomes.append(refused.code)

    async with anyio.create_task_group() as tasks:
        for value in (YES, NO, YES):
            tasks.start_soon(one, value)
    codes = [outcome for outcome in outcomes if isinstance(outcome, str)]
    taken = [outcome for outcome in outcomes if not isinstance(outcome, str)]
    assert set(codes) == {"already-answered"}
    assert all(one == taken[0] for one in taken)
    assert (await gate.types()).count("input_given") == 1
    gate.agent.do(taken[0]["run_id"], RETURN)


async def test_an_answer_that_could_not_be_stored_counts_for_nothing(gate: Gateway) -> None:
    await ask(gate, APPROVE)
    gate.store.fail_append(1, StorageFailed("no"))
    with pytest.raises(StorageFailed):
        await answer(gate, {"q1": YES})
    await quiet()
    assert await state(gate) == "needs_input"
    taken = await answer(gate, {"q1": NO})
    gate.agent.do(taken["run_id"], RETURN)
    await gate.ended(taken["run_id"])


async def test_an_external_run_asks_and_its_program_gets_the_answers(gate: Gateway) -> None:
    await gate.chat(run_id="r0")
    gate.agent.do("r0", RETURN)
    await gate.ended("r0")
    await gate.manager.open_run(ME, "s", "x1")
    posted = [
        {"type": "tool_start", "run_id": "x1", "tool_call_id": "c1", "tool_name": "pay"},
        {"type": "input_required", "run_id": "x1", "prompt": "Pay?", "kind": "approval",
         "tool_call_id": "c1", "request_id": "q1"},
        {"type": "complete", "run_id": "x1"},
    ]  # fmt: skip
    await gate.manager.append_events(ME, "s", posted)
    assert await state(gate) == "needs_input"
    taken = await answer(gate, {"q1": YES})
    run_id = taken["run_id"]
    assert gate.live().active_run_id == run_id
    done = [
        {"type": "tool_complete", "run_id": run_id, "tool_call_id": "c1",
         "result": {"success": True, "content": "paid"}},
        {"type": "complete", "run_id": run_id},
    ]  # fmt: skip
    await gate.manager.append_events(ME, "s", done)
    assert (await shown(gate))[-1] == ("tool", "paid")
    assert await state(gate) == "idle"


async def test_a_run_that_fails_while_it_asks_asks_nobody(gate: Gateway) -> None:
    gate.agent.do("r1", ToolStart("c1", "pay"), APPROVE, RuntimeError("boom"))
    await gate.chat(run_id="r1")
    run = await gate.ended("r1")
    assert run["status"] == "failed"
    assert await closings(gate) == [("q1", "cancelled")]
    assert await state(gate) == "idle"


async def test_a_crash_between_the_question_and_the_end_of_its_run_asks_nobody(
    gate: Gateway,
) -> None:
    gate.agent.do("r1", ToolStart("c1", "pay"), APPROVE)
    await gate.chat(run_id="r1")
    await quiet()
    async with gateway(await crash(gate)) as again:
        assert await closings(again) == [("q1", "cancelled")]
        assert await state(again) == "idle"


async def test_a_crash_in_the_run_with_the_answers_closes_its_calls(gate: Gateway) -> None:
    await ask(gate, APPROVE)
    await answer(gate, {"q1": YES}, run_id="r2")
    await quiet()
    async with gateway(await crash(gate)) as again:
        assert (await again.manager.run(ME, "s", "r2"))["status"] == "interrupted"
        assert (await shown(again))[-1][0] == "tool"
        assert (await answer(again, {"q1": YES}))["run_id"] == "r2"
        assert not again.live().head.open_calls


async def test_the_options_of_the_asking_run_are_those_of_the_next(gate: Gateway) -> None:
    await ask(gate, APPROVE, options={"depth": 3})
    await answer(gate, {"q1": YES}, run_id="r2")
    gate.agent.do("r2", InputRequired("More?", request_id="q3"), RETURN)
    await gate.ended("r2")
    turn = gate.agent.script("r2").turn
    assert turn is not None
    assert turn.options == {"depth": 3}
    await answer(gate, {"q3": "no"}, run_id="r3", options={})
    gate.agent.do("r3", RETURN)
    await gate.ended("r3")
    turn = gate.agent.script("r3").turn
    assert turn is not None
    assert turn.options == {}


async def test_a_copy_of_a_session_that_asks_has_no_half_exchange(gate: Gateway) -> None:
    await ask(gate, APPROVE)
    child = (await gate.manager.fork(ME, "s", Fork(new_id="child"))).answer
    assert child["open_requests"] == []
    assert child["message_count"] == 1
    await gate.manager.archive(ME, "s")
    await gate.manager.restore(ME, "s")
    assert await state(gate) == "needs_input"
    taken = await answer(gate, {"q1": YES})
    gate.agent.do(taken["run_id"], Complete())
    await gate.ended(taken["run_id"])
