"""An agent that asks before it pays, and counts its payments in a file outside of the gateway."""

import os
from collections.abc import AsyncIterator
from typing import Any

from bamboo_gateway.agents.base import Turn
from bamboo_gateway.domain.events import (
    InputRequired,
    ToolComplete,
    ToolError,
    ToolResult,
    ToolStart,
)


async def pay(turn: Turn) -> AsyncIterator[Any]:
    """Ask for an approval and a colour; pay when both are there."""
    if not turn.answers:
        call = f"pay-{turn.run_id}"
        yield "I would pay. "
        yield ToolStart(call, "pay", {"eur": 9})
        yield InputRequired("Pay 9 EUR?", "approval", call)
        yield InputRequired("Which colour?", request_id=f"colour-{turn.run_id}")
        return
    for answer in turn.answers.values():
        call_id = answer.request.tool_call_id
        if call_id is None:
            yield f"In {answer.value}. "
        elif answer.approved:
            _count(call_id)
            yield ToolComplete(call_id, ToolResult(success=True, content="paid"))
        else:
            yield ToolError(call_id, "not approved")
    yield "Done."


def _count(call_id: str) -> None:
    with open(os.environ["PAYMENTS_FILE"], "ab") as file:  # noqa: PTH123
        file.write(call_id.encode() + b"\n")
        file.flush()
        os.fsync(file.fileno())
