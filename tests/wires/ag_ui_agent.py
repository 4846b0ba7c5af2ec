"""Agents of the tests of AG-UI: they show options, write state and steps, and ask."""

from collections.abc import AsyncIterator
from typing import Any

from bamboo_gateway.agents.base import Turn
from bamboo_gateway.domain.codec import encode
from bamboo_gateway.domain.events import AgentEvent, Custom, InputRequired, Token


async def echo(turn: Turn) -> AsyncIterator[AgentEvent]:
    """Say the options of the turn."""
    yield Token(encode(dict(turn.options)).decode())


async def state(turn: Turn) -> AsyncIterator[AgentEvent]:
    """Write a state and a step, as the protocol has them."""
    del turn
    for event in (
        {"type": "STATE_SNAPSHOT", "snapshot": {"steps": 1}},
        {"type": "STEP_STARTED", "stepName": "think"},
        {"type": "STATE_SNAPSHOT", "snapshot": {"steps": 2}},
    ):
        shown: dict[str, Any] = event
        yield Custom("ag_ui", shown)
    yield Custom("progress", 0.5)
    yield Token("Done.")


async def question(turn: Turn) -> AsyncIterator[AgentEvent]:
    """Ask a question, and say the answer."""
    if not turn.answers:
        yield InputRequired("Which colour?")
        return
    yield Token(", ".join(str(answer.value) for answer in turn.answers.values()))


async def questions(turn: Turn) -> AsyncIterator[AgentEvent]:
    """Ask two questions at once, and say the answers."""
    if not turn.answers:
        yield InputRequired("Which colour?")
        yield InputRequired("Which size?")
        return
    yield Token(", ".join(sorted(str(answer.value) for answer in turn.answers.values())))
