"""A chat the hand-written way: FastAPI relays a model server's stream through httpx.

Written well: one client for all requests with a pool without bounds, JSON by orjson, uvloop and
httptools. Nothing is kept: there is no history, no resume, no log, no cancel, and no retry.
"""

from collections.abc import AsyncIterator, Callable
from typing import Any

import httpx
import orjson
from fastapi import FastAPI
from sse_starlette import EventSourceResponse, ServerSentEvent

from benchmarks.peers.handwritten import run_uvicorn

app = FastAPI()
_settings: dict[str, Any] = {}
_client = httpx.AsyncClient(
    timeout=httpx.Timeout(120), limits=httpx.Limits(max_connections=None), trust_env=False
)


@app.post("/api/v1/chat")
async def chat(body: dict[str, Any]) -> EventSourceResponse:
    """Ask the model server, and answer with its words as events."""
    asked = {
        "model": "scripted",
        "messages": [{"role": "user", "content": body["message"]}],
        "stream": True,
        "stream_options": {"include_usage": True},
    }
    return EventSourceResponse(_events(asked))


async def _events(asked: dict[str, Any]) -> AsyncIterator[ServerSentEvent]:
    usage = None
    async with _client.stream("POST", _settings["url"], json=asked) as answer:
        answer.raise_for_status()
        async for line in answer.aiter_lines():
            if not line.startswith("data: ") or line == "data: [DONE]":
                continue
            chunk = orjson.loads(line[6:])
            usage = chunk.get("usage") or usage
            for choice in chunk["choices"]:
                if content := choice["delta"].get("content"):
                    yield as_event({"type": "token", "content": content})
    yield as_event({"type": "complete", "usage": usage})


def as_event(event: dict[str, Any]) -> ServerSentEvent:
    """Write one event."""
    return ServerSentEvent(data=orjson.dumps(event).decode())


def serve(config: dict[str, Any], announce: Callable[[int, int], None]) -> None:
    """Run it until it is killed."""
    _settings["url"] = f"http://127.0.0.1:{config['upstream']}/v1/chat/completions"
    run_uvicorn(app, announce)
