"""An agent of pydantic-ai, served over AG-UI by its own adapter: `python ag_ui_server.py PORT`.

Its model is scripted: it calls the tool whose name the user's text has, quotes results, and says
the text again otherwise. It runs in the environment of the wires' clients.
"""

import sys
from collections.abc import AsyncIterator
from typing import Any

import uvicorn
from pydantic_ai import Agent, DeferredToolRequests
from pydantic_ai.messages import ModelMessage, ToolReturnPart
from pydantic_ai.models.function import AgentInfo, DeltaThinkingPart, DeltaToolCall, FunctionModel
from pydantic_ai.ui.ag_ui import AGUIAdapter
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route


async def answer(messages: list[ModelMessage], info: AgentInfo) -> AsyncIterator[Any]:
    """Play the model."""
    part = messages[-1].parts[-1]
    said = str(part.content) if hasattr(part, "content") else ""
    if isinstance(part, ToolReturnPart):
        for piece in ("The tool", " says ", said):
            yield piece
        return
    for tool in info.function_tools:
        if tool.name in said:
            call_id = f"call-{len(messages)}"
            yield {0: DeltaToolCall(name=tool.name, json_args='{"what":', tool_call_id=call_id)}
            yield {0: DeltaToolCall(json_args='"sky"}', tool_call_id=call_id)}
            return
    yield {0: DeltaThinkingPart(content="Hm.")}
    for piece in ("You ", "said ", said):
        yield piece


agent = Agent(FunctionModel(stream_function=answer), output_type=[str, DeferredToolRequests])


@agent.tool_plain
def weather(what: str) -> str:
    """Tell the weather."""
    return f"{what} is blue"


@agent.tool_plain(requires_approval=True)
def paint(what: str) -> str:
    """Paint something, after an approval."""
    return f"painted {what}"


async def run(request: Request) -> Response:
    """Answer a run."""
    return await AGUIAdapter.dispatch_request(request, agent=agent)


if __name__ == "__main__":
    app = Starlette(routes=[Route("/", run, methods=["POST"])])
    uvicorn.run(app, port=int(sys.argv[1]), log_level="warning")
