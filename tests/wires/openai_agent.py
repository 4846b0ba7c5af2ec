"""An agent for the clients of OpenAI's protocol: it can all that a response may show."""

from collections.abc import AsyncIterator, Iterator

from bamboo_gateway.agents.base import AgentError, Turn
from bamboo_gateway.domain.events import (
    AgentEvent,
    Complete,
    Custom,
    InputRequired,
    MessageSaid,
    Thinking,
    Token,
    ToolComplete,
    ToolDelta,
    ToolError,
    ToolResult,
    ToolStart,
    Usage,
)

ALLOW = "allow=system,temperature,tool_choice,max_tokens,response_format"
URL = f"python:tests.wires.openai_agent:answer?{ALLOW}"


async def answer(turn: Turn) -> AsyncIterator[AgentEvent]:
    """Do what the user's last words say, or repeat them."""
    last = turn.messages[-1]
    if turn.answers or last.role == "tool" or last.text.startswith("may I"):
        for event in _asking(turn):
            yield event
        return
    match last.text:
        case words if "weather" in words and turn.client_tools:
            yield Token("Let me ask. ")
            for place in ("Rome", "Oslo"):
                name = turn.client_tools[0]["name"]
                yield ToolStart(f"call_{turn.run_id}_{place}", name, {"city": place})
            yield Complete(Usage(7, 3, 10), finish_reason="tool_calls")
        case "tools":
            yield Thinking("First ")
            yield Thinking("this. ")
            yield Token("Two tools: ")
            for name in ("one", "two"):
                yield ToolStart(f"call_{turn.run_id}_{name}", name, {"n": 1})
                yield ToolDelta(f"call_{turn.run_id}_{name}", "working")
            yield Thinking("Both run.")
            yield ToolComplete(f"call_{turn.run_id}_two", ToolResult(True, {"found": [2]}))
            yield ToolError(f"call_{turn.run_id}_one", "it broke")
            yield Custom("progress", 50)
            yield Thinking("So.")
            yield Token("Done \U0001f600 «ß»\n")
            yield Token('"quoted" \\ text')
            yield Complete(Usage(7, 3, 10, 2, 1))
        case "whole":
            parts = [
                {"type": "thinking", "text": "Hm."},
                {"type": "text", "text": "All at once."},
            ]
            yield MessageSaid({"role": "assistant", "content": parts})
        case "fail":
            yield Token("I begin, ")
            raise AgentError("and it broke.", code="model_gone")
        case "long":
            yield Token("As far as")
            yield Complete(finish_reason="length")
        case "system" | "history":
            yield Token(_told(turn))
        case words:
            for word in words.split(" "):
                yield Token(f"{word} ")
            yield Complete(Usage(1, 1, 2))


def _asking(turn: Turn) -> Iterator[AgentEvent]:
    """Ask people, or go on with what they have answered, or with results of the client's tools."""
    words = turn.messages[-1].text
    if words.startswith("may I") and not turn.answers:
        yield ToolStart(f"call_{turn.run_id}", "open_door", {})
        yield InputRequired(words, "approval", f"call_{turn.run_id}")
        yield Complete()
        return
    if turn.answers:
        [answer] = turn.answers.values()
        if answer.request.prompt == "may I twice?":
            yield InputRequired("Really?", "approval", answer.request.tool_call_id)
            yield Complete()
            return
        yield ToolComplete(answer.request.tool_call_id or "", ToolResult(True, "open"))
        yield ToolStart(f"call_{turn.run_id}", turn.client_tools[0]["name"], {"city": "Rome"})
        yield Complete(finish_reason="tool_calls")
        return
    results = [one.text for one in turn.messages if one.role == "tool"]
    yield Token(f"Results: {', '.join(results)}.")
    yield Complete(Usage(4, 2, 6))


def _told(turn: Turn) -> str:
    """Return what the agent was told."""
    if turn.messages[-1].text == "system":
        return f"My instructions: {turn.options.get('system')}"
    return " | ".join(f"{one.role}: {one.text}" for one in turn.messages)
