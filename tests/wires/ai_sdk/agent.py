"""An agent that does what the user's text names: the conversations of the tests of this wire."""

from collections.abc import AsyncIterator, Callable
from typing import Any

import anyio

from bamboo_gateway.agents.base import Turn
from bamboo_gateway.domain.events import (
    AgentEvent,
    Complete,
    Custom,
    Failed,
    InputRequired,
    MessageSaid,
    Thinking,
    Token,
    ToolComplete,
    ToolDelta,
    ToolError,
    ToolResult,
    ToolStart,
)

PAUSE_SECONDS = 0.002
"""Between two events, so that clients come back while the run goes on. Nothing depends on it."""

UNICODE = ["Ünïcödé ", "👩‍👩‍👧 ", "\u2028\u2029 ", '\\ " \n\r\n data: x\n\n', "京都 \x7f", "\u0000"]


def _done(call_id: str, content: Any, *, success: bool = True) -> ToolComplete:
    return ToolComplete(call_id, ToolResult(success, content))


def _steps(call: str) -> list[AgentEvent]:
    found: list[AgentEvent] = []
    for number in range(3):
        found += [
            Thinking(f"step {number}"),
            Token(f"Now {number}."),
            ToolStart(f"{call}-{number}", "step", {"n": number}),
            _done(f"{call}-{number}", [number, None, True]),
        ]
    return [*found, Token("Done.")]


def _tools(call: str) -> list[AgentEvent]:
    return [
        Token("I look."),
        ToolStart(f"{call}-a", "weather", {"city": "Rome"}),
        ToolStart(f"{call}-b", "weather", {"city": "京都"}),
        ToolDelta(f"{call}-a", "part of the output"),
        _done(f"{call}-b", {"temp": 3}),
        _done(f"{call}-a", "warm"),
        Token("Both "),
        Token("known."),
    ]


def _tool_errors(call: str) -> list[AgentEvent]:
    return [
        ToolStart(f"{call}-a", "weather", {}),
        ToolError(f"{call}-a", "no such city"),
        ToolStart(f"{call}-b", "weather", {}),
        _done(f"{call}-b", "bad", success=False),
        Token("Sorry."),
    ]


def _picture(_: str) -> list[AgentEvent]:
    part = {"type": "image", "url": "https://e.test/a.png", "media_type": "image/png"}
    text = {"type": "text", "text": "See:"}
    return [MessageSaid({"role": "assistant", "content": [text, part]})]


_CONVERSATIONS: dict[str, Callable[[str], list[AgentEvent]]] = {
    "text": lambda _: [Token("Hel"), Token("lo "), Token("world")],
    "thinking": lambda _: [
        Thinking("Let "),
        Thinking("me"),
        Token("So: "),
        Thinking("hm"),
        Token("yes"),
    ],
    "tools": _tools,
    "tool errors": _tool_errors,
    "steps": _steps,
    "whole": lambda _: [
        MessageSaid({"role": "assistant", "content": "Said at once."}),
        Token("Hel"),
        MessageSaid({"role": "assistant", "content": "Hello again."}),
    ],
    "unicode": lambda _: [*map(Token, UNICODE)],
    "data": lambda _: [
        Custom("progress", {"id": "p", "percent": 1}),
        Token("One "),
        Custom("progress", {"id": "p", "percent": 50}),
        Custom("note", ["any", {"json": None}]),
        Token("two."),
    ],
    "nothing": lambda _: [],
    "only data": lambda _: [Custom("note", 1)],
    "failed": lambda _: [Token("It "), Token("breaks"), Failed("The model broke.", "model_error")],
    "failed at once": lambda _: [Failed("The model is not there.", "model_error")],
    "picture": _picture,
    "client tool": lambda call: [
        Token("I ask the page."),
        ToolStart(call, "ask_page", {"q": [1]}),
        Complete(finish_reason="tool_calls"),
    ],
    "approval": lambda call: [
        Token("May I?"),
        ToolStart(call, "remove", {"path": "a"}),
        InputRequired("Remove a?", "approval", call),
    ],
    "approved page": lambda call: [
        ToolStart(call, "ask_page", {"q": 2}),
        InputRequired("Ask the page?", "approval", call),
    ],
    "question": lambda _: [Token("Tell me."), InputRequired("Which colour?", "question")],
}


def _continued(turn: Turn) -> list[AgentEvent] | None:
    """What follows answers of people, or results of the client's tools."""
    if turn.answers:
        events: list[AgentEvent] = []
        for answer in turn.answers.values():
            call_id = answer.request.tool_call_id
            if call_id is None:
                events.append(Token(f"Answered: {answer.value}"))
            elif answer.approved and answer.request.prompt == "Ask the page?":
                events.append(Complete(finish_reason="tool_calls"))
            elif answer.approved:
                events += [_done(call_id, {"removed": True}), Token("Removed.")]
            else:
                events += [ToolError(call_id, "denied"), Token("Left alone.")]
        return events
    last = turn.messages[-1]
    if last.role == "tool":
        return [Token("The page says "), Token(last.text)]
    return None


async def run(turn: Turn) -> AsyncIterator[AgentEvent]:
    """Do what the last message names."""
    events = _continued(turn)
    if events is None:
        name = turn.messages[-1].text
        script = _CONVERSATIONS.get(name)
        said: list[AgentEvent] = [Token("You said: "), Token(name)]
        events = said if script is None else script(f"call-{turn.run_id}")
    for event in events:
        await anyio.sleep(PAUSE_SECONDS)
        yield event
