"""An agent that writes down its starts and ends in a file outside of the gateway.

What it says names its run and counts: so a message shows whether a word was lost, doubled or said
by another run. `ADDRESS` is how a gateway is told to use it.
"""

import os
from collections import Counter
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import anyio

from bamboo_gateway.agents.base import Turn
from bamboo_gateway.domain.events import (
    InputRequired,
    ToolComplete,
    ToolError,
    ToolResult,
    ToolStart,
)

ADDRESS = "python:tests.cluster.counting_agent:answer?allow=delay_ms,tokens,ask"
VARIABLE = "COUNTING_AGENT_FILE"


async def answer(turn: Turn) -> AsyncIterator[Any]:
    """Say `tokens` words, `delay_ms` apart, with a tool call in the middle; `ask`: ask first."""
    _write_down("start", turn.run_id)
    if turn.answers:
        for one in turn.answers.values():
            call_id = one.request.tool_call_id
            assert call_id is not None  # it asks about its calls alone
            _write_down("paid" if one.approved else "refused", call_id)
            if one.approved:
                yield ToolComplete(call_id, ToolResult(success=True, content="paid"))
            else:
                yield ToolError(call_id, "not approved")
    elif turn.options.get("ask"):
        call_id = f"pay-{turn.run_id}"
        yield ToolStart(call_id, "pay", {"eur": 9})
        yield InputRequired("Pay 9 EUR?", "approval", call_id)
        return
    count = int(turn.options.get("tokens", 6))
    for number in range(count):
        if number == count // 2:
            call_id = f"look-{turn.run_id}"
            yield ToolStart(call_id, "look", {})
            yield ToolComplete(call_id, ToolResult(success=True, content=turn.run_id))
        yield word(turn.run_id, number)
        await anyio.sleep(int(turn.options.get("delay_ms", 0)) / 1000)
    _write_down("end", turn.run_id)


def word(run_id: str, number: int) -> str:
    """Return one word of an answer."""
    return f"{run_id}:{number} "


def said_by(run_id: str, count: int) -> str:
    """Return all words of an answer."""
    return "".join(word(run_id, number) for number in range(count))


def written_down(file: Path) -> dict[str, Counter[str]]:
    """Return what the agents of all processes wrote down: of each kind, how often for which id."""
    found: dict[str, Counter[str]] = {}
    for line in file.read_text("utf-8").splitlines() if file.exists() else []:
        kind, _, name = line.partition(" ")
        found.setdefault(kind, Counter())[name] += 1
    return found


def _write_down(kind: str, name: str) -> None:
    # One write at the file's end: lines of processes do not mix, and a kill takes none back.
    file = os.open(os.environ[VARIABLE], os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
    try:
        os.write(file, f"{kind} {name}\n".encode())
    finally:
        os.close(file)
