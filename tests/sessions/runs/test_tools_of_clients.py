"""Tools of clients reach the agent, also after a wait, a restart and answers of people."""

from typing import Any

import pytest

from bamboo_gateway.domain.clock import format_ms
from bamboo_gateway.domain.errors import InvalidInput
from bamboo_gateway.domain.events import Complete, InputRequired, ToolStart
from bamboo_gateway.domain.limits import CLIENT_TOOLS_BYTES_MAX, CLIENT_TOOLS_MAX
from bamboo_gateway.sessions.commands import Regenerate
from bamboo_gateway.sessions.runs.inputs import Inputs
from tests.support.agents import RETURN
from tests.support.clocks import T0_MS
from tests.support.gateways import ME, Gateway, crash, eventually, gateway, quiet

LOOK: Any = {
    "name": "look",
    "description": "Looks out of the window.",
    "parameters": {"type": "object", "properties": {"where": {"type": "string"}}},
}
WAIT: Any = {"name": "wait", "parameters": {}}
ASK = InputRequired("May I?", "approval", request_id="q1")
ASK_MORE = InputRequired("Which?", request_id="q2")
ANSWERS = {"q1": {"approved": True}, "q2": "blue"}


def brought_to(gate: Gateway, run_id: str) -> tuple[Any, ...]:
    turn = gate.agent.script(run_id).turn
    assert turn is not None
    return turn.client_tools


async def test_the_agent_of_a_chat_sees_them_and_a_chat_without_them_stores_nothing(
    gate: Gateway,
) -> None:
    gate.agent.do("a", ToolStart("c1", "look"), Complete(finish_reason="tool_calls"))
    await gate.chat(run_id="a", client_tools=(LOOK, WAIT))
    await gate.ended("a")
    assert brought_to(gate, "a") == (LOOK, WAIT)
    assert "client_tools" not in repr(await gate.log())


async def test_a_queued_run_has_them_after_a_restart(gate: Gateway) -> None:
    await gate.chat(run_id="a")
    await gate.chat(run_id="b", client_tools=(LOOK,))
    await gate.chat(run_id="c")
    async with gateway(await crash(gate)) as again:
        for run_id in ("b", "c"):
            again.agent.do(run_id, Complete())
            await again.ended(run_id)
        assert brought_to(again, "b") == (LOOK,)
        assert brought_to(again, "c") == ()


async def test_a_turn_that_is_answered_again_has_its_own(gate: Gateway) -> None:
    gate.agent.do("a", Complete())
    await gate.chat(run_id="a", client_tools=(LOOK,))
    await gate.ended("a")
    await gate.manager.regenerate(ME, "s", Regenerate(run_id="b", client_tools=(WAIT,)), None)
    gate.agent.do("b", Complete())
    await gate.ended("b")
    assert brought_to(gate, "b") == (WAIT,)


@pytest.mark.parametrize("given", [None, (), (WAIT,)])
async def test_the_run_with_the_answers_has_those_of_the_run_that_asked_or_its_own(
    gate: Gateway, given: Any
) -> None:
    gate.agent.do("a", ASK, ASK_MORE, RETURN)
    await gate.chat(run_id="a", client_tools=(LOOK,))
    await gate.ended("a")
    await quiet()
    asked = [event for event in await gate.log() if event["type"] == "input_required"]
    assert [event.get("client_tools") for event in asked] == [[LOOK], None]
    async with gateway(await crash(gate)) as again:
        answers = Inputs(ANSWERS, "b", client_tools=given)
        await again.manager.answer_inputs(ME, "s", answers, None)
        again.agent.do("b", RETURN)
        await again.ended("b")
        assert brought_to(again, "b") == ((LOOK,) if given is None else given)


async def test_a_run_that_begins_because_a_request_expired_has_them(gate: Gateway) -> None:
    soon = InputRequired("May I?", request_id="q1", expires_at=format_ms(T0_MS + 10_000))
    gate.agent.do("a", soon, RETURN)
    await gate.chat(run_id="a", client_tools=(LOOK,))
    await gate.ended("a")
    await quiet()
    gate.clock.advance(11)
    gate.manager._input_expiry.expire_due()
    await eventually(lambda: len(gate.agent.asked) == 2)
    started = gate.agent.asked[1]
    gate.agent.do(started, RETURN)
    await gate.ended(started)
    assert brought_to(gate, started) == (LOOK,)


WRONG: list[tuple[Any, str]] = [
    ("look", "not an object"),
    ({"parameters": {}}, "`name`"),
    ({"name": "", "parameters": {}}, "`name`"),
    ({"name": "x" * 129, "parameters": {}}, "`name`"),
    ({"name": "look"}, "`parameters`"),
    ({"name": "look", "parameters": []}, "`parameters`"),
    ({"name": "look", "parameters": {}, "description": 5}, "`description`"),
    ({"name": "look", "parameters": {}, "strict": True}, "a member"),
]


@pytest.mark.parametrize(("tool", "message"), WRONG)
async def test_what_is_no_tool_is_refused_and_nothing_is_stored(
    gate: Gateway, tool: Any, message: str
) -> None:
    with pytest.raises(InvalidInput, match=message) as refused:
        await gate.chat(client_tools=(tool,))
    assert refused.value.code == "invalid-client-tools"
    assert await gate.log() == []


async def test_they_are_bounded(gate: Gateway) -> None:
    """R11: as many, as large and as deep as the limits say, and no more."""
    deep: Any = {}
    for _ in range(32):
        deep = {"x": deep}
    large = {**WAIT, "description": "x" * CLIENT_TOOLS_BYTES_MAX}
    many = tuple({**WAIT, "name": f"t{number}"} for number in range(CLIENT_TOOLS_MAX + 1))
    for tools in [(LOOK, LOOK), (large,), many, ({**WAIT, "parameters": deep},)]:
        with pytest.raises(InvalidInput):
            await gate.chat(client_tools=tools)
    gate.agent.do("a", Complete())
    await gate.chat(run_id="a", client_tools=many[:-1])
    await gate.ended("a")
    assert len(brought_to(gate, "a")) == CLIENT_TOOLS_MAX
