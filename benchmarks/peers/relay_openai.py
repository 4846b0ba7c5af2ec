"""The relay of `relay_httpx.py`, with OpenAI's own client library for the model server."""

from collections.abc import AsyncIterator, Callable
from typing import Any

import httpx
from fastapi import FastAPI
from openai import AsyncOpenAI, DefaultAsyncHttpxClient
from sse_starlette import EventSourceResponse, ServerSentEvent

from benchmarks.peers.handwritten import run_uvicorn
from benchmarks.peers.relay_httpx import as_event

app = FastAPI()
_clients: list[AsyncOpenAI] = []


@app.post("/api/v1/chat")
async def chat(body: dict[str, Any]) -> EventSourceResponse:
    """Ask the model server, and answer with its words as events."""
    return EventSourceResponse(_events(body["message"]))


async def _events(message: str) -> AsyncIterator[ServerSentEvent]:
    usage = None
    stream = await _clients[0].chat.completions.create(
        model="scripted",
        messages=[{"role": "user", "content": message}],
        stream=True,
        stream_options={"include_usage": True},
    )
    async for chunk in stream:
        usage = chunk.usage or usage
        for choice in chunk.choices:
            if choice.delta.content:
                yield as_event({"type": "token", "content": choice.delta.content})
    yield as_event({"type": "complete", "usage": usage.model_dump() if usage else None})


def serve(config: dict[str, Any], announce: Callable[[int, int], None]) -> None:
    """Run it until it is killed."""
    limits = httpx.Limits(max_connections=None)
    _clients.append(
        AsyncOpenAI(
            api_key="none",
            base_url=f"http://127.0.0.1:{config['upstream']}/v1",
            http_client=DefaultAsyncHttpxClient(limits=limits, trust_env=False),
        )
    )
    run_uvicorn(app, announce)
