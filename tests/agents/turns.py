"""Turns and messages for tests, and what an agent says to them."""

import asyncio
from collections.abc import AsyncGenerator
from contextlib import aclosing
from typing import Any, cast

import anyio
import pytest

from bamboo_gateway.agents.base import Agent, Turn
from bamboo_gateway.domain.events import AgentEvent
from bamboo_gateway.domain.messages import Message, Role

DEADLINE_SECONDS = 60


def said(role: Role, content: Any, **fields: Any) -> Message:
    return Message("msg_1", role, content, "2026-11-20T17:25:00.123Z", **fields)


def turn_of(*messages: Message, **options: Any) -> Turn:
    given = list(messages) or [said("user", "Hello there")]
    return Turn("run_1", given, {"id": "s-1", "metadata": {"plan": "free"}}, options)


def let_pass(seconds: float, patch: pytest.MonkeyPatch) -> None:
    """Let the running loop's clock, and so every timeout in it, be so much later from now on.

    A timeout of seconds then strikes when the test says so, and never because the machine stood
    still for as long as a short one lasts.
    """
    loop = asyncio.get_running_loop()
    real = loop.time
    patch.setattr(loop, "time", lambda: real() + seconds)


async def events_of(agent: Agent, turn: Turn) -> list[AgentEvent]:
    """Return everything the agent yields for the turn, under a deadline."""
    stream = cast("AsyncGenerator[AgentEvent, None]", agent.run(turn))
    with anyio.fail_after(DEADLINE_SECONDS):
        async with aclosing(stream):
            return [event async for event in stream]
