"""The hand-written way: FastAPI and sse-starlette, one asyncio queue per reader, nothing durable.

What most tutorials arrive at, written well: the event's JSON is encoded once with orjson, queues
are unbounded (nothing is dropped or waited for), uvicorn runs with uvloop and httptools and without
access log. There is no history, no resume and no log; posted events are kept in a list in memory,
but for those of streamed NDJSON.
"""

import asyncio
import itertools
import time
from collections import defaultdict
from collections.abc import AsyncIterator, Callable
from typing import Any

import orjson
import uvicorn
from fastapi import FastAPI, Request
from sse_starlette import EventSourceResponse, ServerSentEvent
from typing_extensions import override

from benchmarks import producer

app = FastAPI()
_readers: dict[str, set[asyncio.Queue[tuple[int, str]]]] = defaultdict(set)
_kept: dict[str, list[Any]] = defaultdict(list)
_seq = itertools.count(1)
_tasks: set[asyncio.Task[None]] = set()


def _publish(session_id: str, event: dict[str, Any]) -> int:
    seq = next(_seq)
    data = orjson.dumps({**event, "seq": seq, "time": time.time()}).decode()
    for queue in _readers[session_id]:
        queue.put_nowait((seq, data))
    return seq


@app.post("/api/v1/sessions", status_code=201)
async def create_session(body: dict[str, Any]) -> dict[str, Any]:
    """Creates a session, that is: nothing."""
    return {"id": body["id"]}


@app.get("/api/v1/stream/{session_id}")
async def stream(session_id: str) -> EventSourceResponse:
    """Streams what is published from now on."""
    queue: asyncio.Queue[tuple[int, str]] = asyncio.Queue()
    _readers[session_id].add(queue)

    async def events() -> AsyncIterator[ServerSentEvent]:
        try:
            while True:
                seq, data = await queue.get()
                yield ServerSentEvent(data=data, id=str(seq))
        finally:
            _readers[session_id].discard(queue)

    return EventSourceResponse(events())


@app.post("/api/v1/chat", status_code=202)
async def chat(body: dict[str, Any]) -> dict[str, Any]:
    """Start the producer in a session."""

    async def run() -> None:
        async for word in producer.words(body["options"]):
            _publish(body["session_id"], {"type": "token", "content": word})

    task = asyncio.create_task(run())
    _tasks.add(task)
    task.add_done_callback(_tasks.discard)
    return {"session_id": body["session_id"]}


@app.post("/api/v1/sessions/{session_id}/events", status_code=201)
async def append(session_id: str, request: Request) -> dict[str, Any]:
    """Take one event, an array, or NDJSON, whose lines are published as they come and not kept."""
    if request.headers["content-type"] == "application/x-ndjson":
        return {"count": await _publish_lines(session_id, request)}
    body = orjson.loads(await request.body())
    events = body if isinstance(body, list) else [body]
    kept = _kept[session_id]
    for event in events:
        seq = _publish(session_id, event)
        kept.append((seq, event))
    return {"count": len(events)}


async def _publish_lines(session_id: str, request: Request) -> int:
    count, rest = 0, b""
    async for data in request.stream():
        *lines, rest = (rest + data).split(b"\n")
        for line in lines:
            if line:
                _publish(session_id, orjson.loads(line))
                count += 1
    return count


@app.post("/api/v1/sessions/{session_id}/runs", status_code=201)
async def open_run(session_id: str) -> dict[str, Any]:
    """Open a run, that is: nothing."""
    return {"run_id": "run_1"}


def serve(config: dict[str, Any], announce: Callable[[int, int], None]) -> None:
    """Run it until it is killed."""
    run_uvicorn(app, announce)


def run_uvicorn(application: FastAPI, announce: Callable[[int, int], None]) -> None:
    """Run an app as `uvicorn app:app --log-level warning` would."""

    class Server(uvicorn.Server):
        @override
        async def startup(self, sockets: Any = None) -> None:
            await super().startup(sockets)
            announce(self.servers[0].sockets[0].getsockname()[1], producer.listen())

    config = uvicorn.Config(
        application, port=0, log_level="warning", access_log=False, backlog=4096
    )
    Server(config).run()
