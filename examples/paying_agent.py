"""An agent that asks before it pays, and goes on with the answer.

    .venv/bin/bamboo serve --agent default=python:examples.paying_agent:answer

The page "Ask people" in docs/ explains it.
"""

from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta

from bamboo_gateway.agents.base import Turn
from bamboo_gateway.domain.events import (
    AgentEvent,
    InputRequired,
    ToolComplete,
    ToolError,
    ToolResult,
    ToolStart,
)


async def answer(turn: Turn) -> AsyncIterator[AgentEvent | str]:
    if not turn.answers:
        call_id = f"pay-{turn.run_id}"
        yield "I found the invoice. "
        yield ToolStart(call_id, "pay", {"to": "ACME", "eur": 9})
        yield InputRequired(
            "Pay 9 EUR to ACME?",
            kind="approval",
            tool_call_id=call_id,
            expires_at=(datetime.now(UTC) + timedelta(days=1)).isoformat(),
        )
        # Nothing waits here: the run ends, and the answer begins the next one.
        return

    for given in turn.answers.values():
        call_id = given.request.tool_call_id or ""
        if given.approved:
            receipt = await pay("ACME", 9)
            yield ToolComplete(call_id, ToolResult(success=True, content=receipt))
            yield "Paid."
        else:
            why = "nobody answered in time" if given.status == "expired" else "you said no"
            yield ToolError(call_id, f"Not paid: {why}.")
            yield f"I did not pay: {why}."


async def pay(to: str, eur: int) -> dict[str, object]:
    return {"to": to, "eur": eur, "receipt": 4711}
