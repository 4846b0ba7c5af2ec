"""An agent built with pydantic-ai, with its test model, so that it needs no key and no network.

    .venv/bin/python -m pip install --require-hashes -r examples/requirements.txt
    .venv/bin/bamboo serve --agent default=python:examples.pydantic_ai_agent:answer

Then `.venv/bin/bamboo chat "How many words are these?"` in another terminal. For a real model
write `Agent("openai:gpt-4o-mini", …)` below.
"""

from collections.abc import AsyncIterator

from pydantic_ai import Agent
from pydantic_ai.messages import (
    FunctionToolCallEvent,
    FunctionToolResultEvent,
    ModelMessage,
    ModelRequest,
    ModelResponse,
    PartDeltaEvent,
    PartStartEvent,
    TextPart,
    TextPartDelta,
    ThinkingPart,
    ThinkingPartDelta,
    UserPromptPart,
)
from pydantic_ai.models.test import TestModel
from pydantic_ai.run import AgentRunResultEvent

from bamboo_gateway.agents.base import Turn
from bamboo_gateway.domain.events import (
    AgentEvent,
    Thinking,
    Token,
    ToolComplete,
    ToolResult,
    ToolStart,
    Usage,
)

agent = Agent(TestModel(), instructions="Answer in one sentence.")


@agent.tool_plain
def count_words(text: str) -> int:
    """Counts the words of a text."""
    return len(text.split())


async def answer(turn: Turn) -> AsyncIterator[AgentEvent | Usage]:
    """Answers one turn; everything between is an event in the session's log."""
    *earlier, question = turn.messages
    async with agent.run_stream_events(
        question.text, message_history=history_of(earlier)
    ) as events:
        async for event in events:
            match event:
                case PartStartEvent(part=TextPart(content=text)) if text:
                    yield Token(text)
                case PartDeltaEvent(delta=TextPartDelta(content_delta=text)) if text:
                    yield Token(text)
                case PartStartEvent(part=ThinkingPart(content=text)) if text:
                    yield Thinking(text)
                case PartDeltaEvent(delta=ThinkingPartDelta(content_delta=text)) if text:
                    yield Thinking(text)
                case FunctionToolCallEvent(part=call):
                    yield ToolStart(call.tool_call_id, call.tool_name, call.args_as_dict())
                case FunctionToolResultEvent(part=result):
                    yield ToolComplete(result.tool_call_id, ToolResult(True, result.content))
                case AgentRunResultEvent(result=run):
                    used = run.usage
                    yield Usage(used.input_tokens, used.output_tokens, used.total_tokens)


def history_of(messages: list) -> list[ModelMessage]:
    """Return the conversation so far as pydantic-ai's messages."""
    history: list[ModelMessage] = []
    for message in messages:
        if message.role == "user":
            history.append(ModelRequest(parts=[UserPromptPart(message.text)]))
        elif message.role == "assistant" and message.text:
            history.append(ModelResponse(parts=[TextPart(message.text)]))
    return history
